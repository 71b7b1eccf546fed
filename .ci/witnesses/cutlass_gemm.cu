// CUTLASS's Hopper GEMMs, instantiated: D = A · Bᵀ, A and B with K innermost, D in BF16.
//
// The host is CUTLASS's own, GemmUniversalAdapter: it turns pointers and shapes into the kernel's parameters (tensor maps
// included), chooses grid and cluster, and launches through the CUDA runtime.
//
// FP8_BLOCKWISE: E4M3 with F32 scales for 1×128 of A and 128×128 of B (collective sm90_mma_tma_gmma_ss_warpspecialized_fp8_
// blockwise_scaling). Without: plain BF16. CLUSTER_M and COOPERATIVE choose the rest.
#include "cutlass/cutlass.h"
#include "cutlass/detail/blockwise_scale_layout.hpp"
#include "cutlass/epilogue/collective/collective_builder.hpp"
#include "cutlass/gemm/collective/collective_builder.hpp"
#include "cutlass/gemm/device/gemm_universal_adapter.h"
#include "cutlass/gemm/kernel/gemm_universal.hpp"
#include "cutlass/util/packed_stride.hpp"

using namespace cute;

#ifdef FP8_BLOCKWISE
using Element = cutlass::float_e4m3_t;
using TileShape = Shape<_128, _128, _128>;
using ScaleConfig = cutlass::detail::Sm90BlockwiseScaleConfig<1, 128, 128>;
using LayoutSFA = decltype(ScaleConfig::deduce_layoutSFA());
using LayoutSFB = decltype(ScaleConfig::deduce_layoutSFB());
using LayoutA = cute::tuple<cutlass::layout::RowMajor, LayoutSFA>;
using LayoutB = cute::tuple<cutlass::layout::ColumnMajor, LayoutSFB>;
using Schedule = cutlass::gemm::KernelTmaWarpSpecializedCooperativeFP8Blockwise;
using EpilogueSchedule = cutlass::epilogue::TmaWarpSpecializedCooperative;
#else
using Element = cutlass::bfloat16_t;
using TileShape = Shape<_128, _128, _64>;
using LayoutA = cutlass::layout::RowMajor;
using LayoutB = cutlass::layout::ColumnMajor;
#ifdef COOPERATIVE
using Schedule = cutlass::gemm::KernelTmaWarpSpecializedCooperative;
using EpilogueSchedule = cutlass::epilogue::TmaWarpSpecializedCooperative;
#else
using Schedule = cutlass::gemm::KernelTmaWarpSpecializedPingpong;
using EpilogueSchedule = cutlass::epilogue::TmaWarpSpecialized;
#endif
#endif

using Output = cutlass::bfloat16_t;
using ClusterShape = Shape<Int<CLUSTER_M>, _1, _1>;
constexpr int ALIGN = 16 / sizeof(Element);

using CollectiveEpilogue = typename cutlass::epilogue::collective::CollectiveBuilder<
    cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, TileShape, ClusterShape, cutlass::epilogue::collective::EpilogueTileAuto,
    float, float, void, cutlass::layout::RowMajor, 8, Output, cutlass::layout::RowMajor, 8, EpilogueSchedule>::CollectiveOp;

using CollectiveMainloop = typename cutlass::gemm::collective::CollectiveBuilder<
    cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, Element, LayoutA, ALIGN, Element, LayoutB, ALIGN, float, TileShape, ClusterShape,
    cutlass::gemm::collective::StageCountAutoCarveout<static_cast<int>(sizeof(typename CollectiveEpilogue::SharedStorage))>,
    Schedule>::CollectiveOp;

using Kernel = cutlass::gemm::kernel::GemmUniversal<Shape<int, int, int, int>, CollectiveMainloop, CollectiveEpilogue>;

using Gemm = cutlass::gemm::device::GemmUniversalAdapter<Kernel>;

#include <cstdio>

static int failed(const char *what, cutlass::Status status) {
    if (status != cutlass::Status::kSuccess)
        std::fprintf(stderr, "%s: %s\n", what, cutlass::cutlassGetStatusString(status));
    return status != cutlass::Status::kSuccess;
}

// Pointers are the device's; `sms` are as many as the persistent kernel may have.
extern "C" int gemm(int m, int n, int k, int sms, Element *a, Element *b, Output *d, float *scales_a, float *scales_b) {
    auto stride_a = cutlass::make_cute_packed_stride(typename Kernel::StrideA{}, make_shape(m, k, 1));
    auto stride_b = cutlass::make_cute_packed_stride(typename Kernel::StrideB{}, make_shape(n, k, 1));
    auto stride_d = cutlass::make_cute_packed_stride(typename Kernel::StrideD{}, make_shape(m, n, 1));
    typename Gemm::Arguments given{cutlass::gemm::GemmUniversalMode::kGemm, {m, n, k, 1}, {}, {}, {0, sms}};
#ifdef FP8_BLOCKWISE
    given.mainloop = {a, stride_a, b, stride_b, scales_a, ScaleConfig::tile_atom_to_shape_SFA(make_shape(m, n, k, 1)),
                      scales_b, ScaleConfig::tile_atom_to_shape_SFB(make_shape(m, n, k, 1))};
#else
    given.mainloop = {a, stride_a, b, stride_b};
#endif
    given.epilogue = {{1.0f, 0.0f}, nullptr, {}, d, stride_d};
    void *workspace = nullptr;
    cudaMalloc(&workspace, Gemm::get_workspace_size(given));
    Gemm gemm;
    bool wrong = failed("can_implement", Gemm::can_implement(given)) || failed("initialize", gemm.initialize(given, workspace)) ||
                 failed("run", gemm.run());
    cudaError_t ran = cudaDeviceSynchronize();
    if (ran != cudaSuccess)
        std::fprintf(stderr, "kernel: %s\n", cudaGetErrorString(ran));
    cudaFree(workspace);
    return wrong || ran != cudaSuccess;
}
