// Warp and block primitives: shuffles, votes, matches, reductions, atomics, cooperative groups.
#include <cooperative_groups.h>
#include <cooperative_groups/reduce.h>

namespace cg = cooperative_groups;

// Sum and largest of each block through shuffles, then of the grid through atomics; the last block to arrive writes the mean.
extern "C" __global__ void grid_reduce(const float *x, int n, double *sum, int *largest, unsigned *arrived, double *mean) {
    __shared__ float sums[32];
    __shared__ bool last;
    float part = 0;
    int most = -2147483647 - 1;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
        part += x[i];
        most = max(most, __float2int_rn(x[i]));
    }
    for (int d = 16; d > 0; d /= 2)
        part += __shfl_xor_sync(~0u, part, d);
    most = __reduce_max_sync(~0u, most);
    if (threadIdx.x % 32 == 0) {
        sums[threadIdx.x / 32] = part;
        atomicMax(largest, most);
    }
    __syncthreads();
    if (threadIdx.x < 32) {
        part = threadIdx.x < blockDim.x / 32 ? sums[threadIdx.x] : 0;
        for (int d = 16; d > 0; d /= 2)
            part += __shfl_down_sync(~0u, part, d);
    }
    if (threadIdx.x == 0) {
        atomicAdd(sum, (double)part);
        __threadfence();
        last = atomicInc(arrived, gridDim.x - 1) == gridDim.x - 1;
        if (last)
            *mean = atomicAdd(sum, 0.0) / n;
    }
}

// Counts of equal keys per warp: one atomic for all lanes with the same key, which also get their rank among them.
extern "C" __global__ void count_keys(const int *keys, int n, int *counts, int *ranks) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n)
        return;
    unsigned active = __activemask();
    unsigned same = __match_any_sync(active, keys[i]);
    int lane = threadIdx.x % 32, leader = __ffs(same) - 1;
    int base = 0;
    if (lane == leader)
        base = atomicAdd(counts + keys[i], __popc(same));
    base = __shfl_sync(same, base, leader);
    ranks[i] = base + __popc(same & ((1u << lane) - 1));
}

// Stream compaction: ballots inside a warp, a scan over warps by cooperative groups.
extern "C" __global__ void compact(const int *x, int n, int *kept, int *count) {
    auto block = cg::this_thread_block();
    auto warp = cg::tiled_partition<32>(block);
    __shared__ int offsets[33];
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    bool keep = i < n && x[i] % 3 == 0;
    unsigned votes = warp.ballot(keep);
    if (warp.thread_rank() == 0)
        offsets[warp.meta_group_rank() + 1] = __popc(votes);
    if (threadIdx.x == 0)
        offsets[0] = 0;
    block.sync();
    if (threadIdx.x == 0) {
        for (int w = 0; w < (int)warp.meta_group_size(); w++)
            offsets[w + 1] += offsets[w];
        int base = atomicAdd(count, offsets[warp.meta_group_size()]);
        for (int w = 0; w < (int)warp.meta_group_size(); w++)
            offsets[w] += base;
    }
    block.sync();
    if (keep)
        kept[offsets[warp.meta_group_rank()] + __popc(votes & ((1u << warp.thread_rank()) - 1))] = x[i];
}

// Sums of groups of eight lanes, through a compare-and-swap loop on halves of a word.
extern "C" __global__ void tile_sums(const int *x, int *y, unsigned long long *product) {
    auto tile = cg::tiled_partition<8>(cg::this_thread_block());
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    int sum = cg::reduce(tile, x[i], cg::plus<int>());
    if (tile.thread_rank() == 0) {
        y[i / 8] = sum;
        unsigned long long old = *(volatile unsigned long long *)product, seen;
        do {
            seen = old;
            old = atomicCAS(product, seen, seen * (2 * (unsigned)sum + 1));
        } while (old != seen);
    }
}
