// Functions that only a GPU has: barriers, shared memory, and the inverse square root.
// tests/support/cuda_on_cpu.h defines the same names for g++, so that the other source files also run on a CPU.

#define DEVICE __device__ __forceinline__

extern __shared__ float4 shared_memory[];

DEVICE float2* shared() { return reinterpret_cast<float2*>(shared_memory); }

DEVICE int thread_in_block() { return threadIdx.x; }

DEVICE int block_in_grid() { return blockIdx.x; }

// 1 / sqrt(x) of a normal number, to 2^-22.9.
DEVICE float inverse_root(float x) {
    float y;
    asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

DEVICE unsigned bits_of(float x) { return __float_as_uint(x); }

// The threads of a frame wait for each other; each frame has a barrier of its own.
DEVICE void frame_barrier(int frame) {
    if constexpr (CLUSTER) __syncthreads();
    else if constexpr (N_THREADS_OF_A_FRAME == 32) __syncwarp();
    else asm volatile("bar.sync %0, %1;" ::"r"(frame + 1), "n"(N_THREADS_OF_A_FRAME) : "memory");
}

// The threads of a stream wait for each other.
DEVICE void stream_barrier() {
    if constexpr (CLUSTER) {
        asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
        asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
    } else {
        __syncthreads();
    }
}

// Returns the address, in the block of another frame, of the same variable as `here`; only in a cluster.
DEVICE const float2* in_block_of(int frame, const float2* here) {
    unsigned long long there;
    asm("mapa.u64 %0, %1, %2;" : "=l"(there) : "l"(here), "r"(frame));
    return reinterpret_cast<const float2*>(there);
}

#define KERNEL(MOST_THREADS, LEAST_BLOCKS) extern "C" __global__ void __launch_bounds__(MOST_THREADS, LEAST_BLOCKS)
#ifdef IN_CLUSTERS  // of so many blocks: from compute capability 9.0 on
#define CLUSTERED __cluster_dims__(IN_CLUSTERS, 1, 1)
#else
#define CLUSTERED
#endif
