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

// Blocks swap rows through mbarriers in each other's shared memory, initialised as CUTLASS does it: the fence releases the
// initialisation, the cluster barrier's arrival is relaxed.
extern "C" __global__ void __cluster_dims__(2, 1, 1) cluster_swap(const int *x, int *y) {
    __shared__ int theirs[128];
    __shared__ unsigned long long full;
    auto cluster = cg::this_cluster();
    unsigned barrier = (unsigned)__cvta_generic_to_shared(&full), peer = cluster.block_rank() ^ 1;
    if (threadIdx.x == 0)
        asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(barrier), "r"(blockDim.x) : "memory");
    asm volatile("fence.mbarrier_init.release.cluster;\n\tbarrier.cluster.arrive.relaxed.aligned;\n\t"
                 "barrier.cluster.wait.acquire.aligned;" ::: "memory");
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    *cluster.map_shared_rank(theirs + threadIdx.x, peer) = x[i];
    asm volatile("{\n\t.reg .b32 remote;\n\tmapa.shared::cluster.u32 remote, %0, %1;\n\t"
                 "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [remote];\n\t}" ::"r"(barrier), "r"(peer) : "memory");
    asm volatile("{\n\t.reg .pred done;\nwait:\n\t"
                 "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 done, [%0], 0;\n\t@!done bra wait;\n\t}"
                 ::"r"(barrier) : "memory");
    y[i] = theirs[blockDim.x - 1 - threadIdx.x];
    cluster.sync();
}
