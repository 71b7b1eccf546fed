// CUTLASS's Hopper GEMMs, instantiated: D = A · Bᵀ, A and B with K innermost, D in BF16.
//
// Compiled twice by nvcc. With -ptx it is the kernel. As a host library it is CUTLASS's own host code, which turns pointers and
// shapes into the kernel's parameters (tensor maps included) and says how to launch it; the launch itself is host.py's, since
// the CUDA runtime that CUTLASS would launch through needs machine code.
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

#ifdef KERNEL
template __global__ void cutlass::device_kernel<Kernel>(__grid_constant__ const typename Kernel::Params);
#else

#include <cstring>

// Bytes of the parameters, which are written to `to`; `shape` is grid, block, cluster, dynamic shared memory.
extern "C" int arguments(void *to, int capacity, int *shape, int m, int n, int k, int sms, Element *a, Element *b, Output *d,
                         float *scales_a, float *scales_b) {
    auto stride_a = cutlass::make_cute_packed_stride(typename Kernel::StrideA{}, make_shape(m, k, 1));
    auto stride_b = cutlass::make_cute_packed_stride(typename Kernel::StrideB{}, make_shape(n, k, 1));
    auto stride_d = cutlass::make_cute_packed_stride(typename Kernel::StrideD{}, make_shape(m, n, 1));
    cutlass::KernelHardwareInfo hardware{0, sms};
    typename Kernel::Arguments given{cutlass::gemm::GemmUniversalMode::kGemm, {m, n, k, 1}, {}, {}, hardware};
#ifdef FP8_BLOCKWISE
    given.mainloop = {a, stride_a, b, stride_b, scales_a, ScaleConfig::tile_atom_to_shape_SFA(make_shape(m, n, k, 1)),
                      scales_b, ScaleConfig::tile_atom_to_shape_SFB(make_shape(m, n, k, 1))};
#else
    given.mainloop = {a, stride_a, b, stride_b};
#endif
    given.epilogue = {{1.0f, 0.0f}, nullptr, {}, d, stride_d};
    if (!Kernel::can_implement(given) || (int)sizeof(typename Kernel::Params) > capacity)
        return -1;
    alignas(128) typename Kernel::Params params = Kernel::to_underlying_arguments(given, nullptr);
    std::memcpy(to, &params, sizeof params);
    dim3 grid = Kernel::get_grid_shape(params), block = Kernel::get_block_shape();
    int all[10] = {(int)grid.x, (int)grid.y, (int)grid.z, (int)block.x, (int)block.y, (int)block.z, CLUSTER_M, 1, 1,
                   (int)Kernel::SharedStorageSize};
    std::memcpy(shape, all, sizeof all);
    return sizeof params;
}
#endif
