// Clusters and distributed shared memory.
#include <cooperative_groups.h>

namespace cg = cooperative_groups;

// A histogram too large for one block: the bins are spread over the blocks of a cluster, and each counts into the others'.
extern "C" __global__ void __cluster_dims__(4, 1, 1) cluster_histogram(const int *x, int n, int bins_per_block, int *counts) {
    extern __shared__ int bins[];
    auto cluster = cg::this_cluster();
    for (int i = threadIdx.x; i < bins_per_block; i += blockDim.x)
        bins[i] = 0;
    cluster.sync();
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
        int *theirs = cluster.map_shared_rank(bins, x[i] / bins_per_block);
        atomicAdd(theirs + x[i] % bins_per_block, 1);
    }
    // Nobody leaves while others may still count into its bins.
    cluster.sync();
    for (int i = threadIdx.x; i < bins_per_block; i += blockDim.x)
        atomicAdd(counts + cluster.block_rank() * bins_per_block + i, bins[i]);
}

// Each block rotates its row through its neighbour's shared memory.
extern "C" __global__ void __cluster_dims__(2, 2, 1) cluster_rotate(const float *x, float *y, int cols) {
    extern __shared__ float row[];
    auto cluster = cg::this_cluster();
    int from = (blockIdx.y * gridDim.x + blockIdx.x) * cols;
    for (int i = threadIdx.x; i < cols; i += blockDim.x)
        row[i] = x[from + i];
    cluster.sync();
    const float *next = cluster.map_shared_rank(row, (cluster.block_rank() + 1) % cluster.num_blocks());
    for (int i = threadIdx.x; i < cols; i += blockDim.x)
        y[from + i] = next[i];
    cluster.sync();
}
