// FlashInfer's Hopper MLA decode over a paged cache, as its own host runs it: MLAPlan makes the schedule, and
// BatchMLAPageAttentionHopper launches the kernel cooperatively. Queries and output in BF16, the cache in BF16 or E4M3.
//
// As shipped it is against the manual in two places, which MENDED mends, changing nothing else:
// - Operands come into shared memory by cp.async and stmatrix, through the generic proxy, and no fence.proxy.async comes before
//   wgmma reads them through the other one. PTX ISA, wgmma.fence: "An async proxy fence must be used to establish an ordering
//   between prior writes to shared memory matrices and subsequent reads of the same matrices in a wgmma.mma_async instruction."
// - The output goes by stmatrix into shared memory, from where other lanes of the warp load it with nothing between.
#ifdef MENDED
#include <flashinfer/attention/hopper.cuh>
#include <flashinfer/permuted_smem.cuh>
namespace flashinfer {
__device__ __forceinline__ void fenced_arrive() {
    cutlass::arch::fence_view_async_shared();
    warpgroup_arrive();
}
}  // namespace flashinfer
#define warpgroup_arrive fenced_arrive
#define stmatrix_m8n8x4(...) stmatrix_m8n8x4(__VA_ARGS__); __syncwarp()
#endif
#include <flashinfer/attention/mla_hopper.cuh>
#include <flashinfer/attention/scheduler.cuh>

#include <cstdio>

namespace fi = flashinfer;

// What a caller of FlashInfer has in tensors. Lengths and page tables' starts are the host's, all else the device's.
struct Problem {
    int batch, heads, page_size;
    float sm_scale, ckv_scale, kpe_scale;
    int32_t *qo_indptr, *kv_indptr, *kv_len;
    void *q_nope, *q_pe, *ckv, *kpe, *kv_indices, *out, *lse;
};

static int said(const char *what, cudaError_t error) {
    if (error != cudaSuccess)
        std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(error));
    return error;
}

template <typename Cache> int decode(const Problem &problem, int *blocks) {
    using bf16 = __nv_bfloat16;
    constexpr int CKV = 512, KPE = 64;
    constexpr size_t FLOATS = 64 << 20, INTS = 8 << 20;
    void *floats, *ints, *staging;
    if (said("cudaMalloc", cudaMalloc(&floats, FLOATS)) || said("cudaMalloc", cudaMalloc(&ints, INTS)) ||
        said("cudaMallocHost", cudaMallocHost(&staging, INTS)))
        return 1;

    fi::MLAPlanInfo plan;
    size_t staged = 0;
    if (said("MLAPlan", fi::MLAPlan<int32_t>(floats, FLOATS, ints, staging, INTS, plan, staged, problem.qo_indptr,
                                             problem.kv_indptr, problem.kv_len, problem.batch, problem.heads, CKV, true, 0)))
        return 1;
    // MLAPlan stages its tables; its callers copy them.
    if (said("cudaMemcpyAsync", cudaMemcpyAsync(ints, staging, staged, cudaMemcpyHostToDevice, 0)))
        return 1;

    fi::MLAParams<bf16, Cache, bf16, int32_t> params{};
    auto table = [&](int64_t offset) { return fi::GetPtrFromBaseOffset<int32_t>(ints, offset); };
    params.q_nope = static_cast<bf16 *>(problem.q_nope);
    params.q_pe = static_cast<bf16 *>(problem.q_pe);
    params.ckv = static_cast<Cache *>(problem.ckv);
    params.kpe = static_cast<Cache *>(problem.kpe);
    params.kv_indices = static_cast<int32_t *>(problem.kv_indices);
    params.final_o = static_cast<bf16 *>(problem.out);
    params.final_lse = static_cast<float *>(problem.lse);
    params.q_indptr = table(plan.q_indptr_offset);
    params.kv_indptr = table(plan.kv_indptr_offset);
    params.partial_indptr = table(plan.partial_indptr_offset);
    params.q_len = table(plan.q_len_offset);
    params.kv_len = table(plan.kv_len_offset);
    params.q_start = table(plan.q_start_offset);
    params.kv_start = table(plan.kv_start_offset);
    params.kv_end = table(plan.kv_end_offset);
    params.work_indptr = table(plan.work_indptr_offset);
    params.merge_packed_offset_start = table(plan.merge_packed_offset_start_offset);
    params.merge_packed_offset_end = table(plan.merge_packed_offset_end_offset);
    params.merge_partial_packed_offset_start = table(plan.merge_partial_packed_offset_start_offset);
    params.merge_partial_packed_offset_end = table(plan.merge_partial_packed_offset_end_offset);
    params.merge_partial_stride = table(plan.merge_partial_stride_offset);
    params.partial_o = fi::GetPtrFromBaseOffset<bf16>(floats, plan.partial_o_offset);
    params.partial_lse = fi::GetPtrFromBaseOffset<float>(floats, plan.partial_lse_offset);
    params.num_heads = fi::uint_fastdiv(problem.heads);
    params.block_size = fi::uint_fastdiv(problem.page_size);
    params.q_nope_stride_n = problem.heads * CKV;
    params.q_nope_stride_h = params.ckv_stride_n = params.o_stride_h = CKV;
    params.q_pe_stride_n = problem.heads * KPE;
    params.q_pe_stride_h = params.kpe_stride_n = KPE;
    params.ckv_stride_page = problem.page_size * CKV;
    params.kpe_stride_page = problem.page_size * KPE;
    params.o_stride_n = problem.heads * CKV;
    params.sm_scale = problem.sm_scale;
    params.ckv_scale = problem.ckv_scale;
    params.kpe_scale = problem.kpe_scale;
    params.return_lse_base_on_e = false;

    blocks[0] = plan.num_blks_x, blocks[1] = plan.num_blks_y;
    auto run = fi::mla::BatchMLAPageAttentionHopper<fi::MaskMode::kCausal, CKV, KPE, decltype(params)>;
    int wrong = said("launch", run(params, plan.num_blks_x, plan.num_blks_y, 0)) || said("kernel", cudaDeviceSynchronize());
    cudaFree(floats), cudaFree(ints), cudaFreeHost(staging);
    return wrong;
}

extern "C" int mla_bf16(const Problem *problem, int *blocks) { return decode<__nv_bfloat16>(*problem, blocks); }
extern "C" int mla_e4m3(const Problem *problem, int *blocks) { return decode<__nv_fp8_e4m3>(*problem, blocks); }
