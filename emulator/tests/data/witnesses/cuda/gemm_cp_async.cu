// C = A · Bᵀ in BF16 as written for Ampere: a ring of cp.async stages, ldmatrix, mma.sync. A is M×K and B is N×K, multiples of
// the 64×64×32 tile. Four warps, 32×32 each.
#include <cuda_bf16.h>
#include <cuda_pipeline.h>

constexpr int TILE_M = 64, TILE_N = 64, TILE_K = 32, STAGES = 3;

// 16-byte chunks of a row are permuted so that the eight rows of an ldmatrix meet different banks.
__device__ int swizzled(int row, int chunk) { return row * TILE_K + ((chunk ^ (row >> 1 & 3)) * 8); }

__device__ void load_tile(__nv_bfloat16 *to, const __nv_bfloat16 *from, int k) {
    for (int i = threadIdx.x; i < TILE_M * TILE_K / 8; i += blockDim.x) {
        int row = i / 4, chunk = i % 4;
        __pipeline_memcpy_async(to + swizzled(row, chunk), from + (size_t)row * k + chunk * 8, 16);
    }
}

__device__ void ldmatrix(unsigned (&to)[4], const __nv_bfloat16 *from) {
    unsigned address = (unsigned)__cvta_generic_to_shared(from);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3]) : "r"(address) : "memory");
}

extern "C" __global__ void __launch_bounds__(128) gemm_cp_async(const __nv_bfloat16 *a, const __nv_bfloat16 *b, float *c,
                                                                int n, int k) {
    extern __shared__ __align__(128) __nv_bfloat16 shared[];
    __nv_bfloat16 *as = shared, *bs = shared + STAGES * TILE_M * TILE_K;
    a += (size_t)blockIdx.x * TILE_M * k;
    b += (size_t)blockIdx.y * TILE_N * k;
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int row0 = warp / 2 * 32, col0 = warp % 2 * 32;
    float acc[2][4][4] = {};
    int steps = k / TILE_K;
    for (int s = 0; s < STAGES - 1; s++) {
        if (s < steps) {
            load_tile(as + s * TILE_M * TILE_K, a + s * TILE_K, k);
            load_tile(bs + s * TILE_N * TILE_K, b + s * TILE_K, k);
        }
        __pipeline_commit();
    }
    for (int step = 0; step < steps; step++) {
        __pipeline_wait_prior(STAGES - 2);
        __syncthreads();
        int next = step + STAGES - 1;
        if (next < steps) {
            load_tile(as + next % STAGES * TILE_M * TILE_K, a + next * TILE_K, k);
            load_tile(bs + next % STAGES * TILE_N * TILE_K, b + next * TILE_K, k);
        }
        __pipeline_commit();
        const __nv_bfloat16 *at = as + step % STAGES * TILE_M * TILE_K, *bt = bs + step % STAGES * TILE_N * TILE_K;
        for (int kk = 0; kk < TILE_K / 16; kk++) {
            unsigned fa[2][4], fb[2][4];
            for (int i = 0; i < 2; i++)
                ldmatrix(fa[i], at + swizzled(row0 + i * 16 + lane % 16, kk * 2 + lane / 16));
            for (int j = 0; j < 2; j++)
                ldmatrix(fb[j], bt + swizzled(col0 + j * 16 + lane % 8 + lane / 16 * 8, kk * 2 + lane / 8 % 2));
            for (int i = 0; i < 2; i++)
                for (int j = 0; j < 4; j++)
                    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
                                 "{%8, %9}, {%0, %1, %2, %3};"
                                 : "+f"(acc[i][j][0]), "+f"(acc[i][j][1]), "+f"(acc[i][j][2]), "+f"(acc[i][j][3])
                                 : "r"(fa[i][0]), "r"(fa[i][1]), "r"(fa[i][2]), "r"(fa[i][3]),
                                   "r"(fb[j / 2][j % 2 * 2]), "r"(fb[j / 2][j % 2 * 2 + 1]));
        }
    }
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < 4; j++)
            for (int half = 0; half < 2; half++) {
                size_t row = blockIdx.x * TILE_M + row0 + i * 16 + half * 8 + lane / 4;
                size_t col = blockIdx.y * TILE_N + col0 + j * 8 + lane % 4 * 2;
                *(float2 *)(c + row * n + col) = make_float2(acc[i][j][half * 2], acc[i][j][half * 2 + 1]);
            }
}
