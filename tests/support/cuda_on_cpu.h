// Runs the kernels of rtspecinv/engines/gpu on a CPU: in place of device.cu, before transform.cu and push.cu.
//
// Every thread of a block, or of a cluster of blocks, is a fiber with a stack of its own. A fiber runs until it waits
// at a barrier; then the next one that may run does, in an order that the caller chooses. So a thread is as far ahead
// of the others as barriers let it be, and where a barrier is missing, two orders have different results.

#include <math.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include <vector>

#define DEVICE inline
#define KERNEL(MOST_THREADS, LEAST_BLOCKS) static void
#define CLUSTERED

struct float2 {
    float x, y;
};
inline float2 make_float2(float x, float y) { return {x, y}; }

namespace cpu {

constexpr size_t STACK = 1 << 16, SHARED = 1 << 18;  // bytes, of a thread and of a block
constexpr int MOST_FRAMES = 64;

struct Barrier {
    int arrived = 0, size = 0;
    std::vector<int> waiting;
};

struct Fiber {
    ucontext_t context;
    jmp_buf place;
    bool begun = false, done = false, waits = false;
};

static std::vector<Fiber> fibers;
static std::vector<char> stacks, shared;
static std::vector<Barrier> barriers;  // of the stream, then of frames
static jmp_buf scheduler;
static int current, n_threads, first_block;
static void (*body)();

static void run() {
    body();
    fibers[current].done = true;
    _longjmp(scheduler, 1);
}

static void wait(Barrier& barrier) {
    if (++barrier.arrived == barrier.size) {
        for (int i : barrier.waiting) fibers[i].waits = false;
        barrier.waiting.clear();
        barrier.arrived = 0;
        return;
    }
    barrier.waiting.push_back(current);
    fibers[current].waits = true;
    if (!_setjmp(fibers[current].place)) _longjmp(scheduler, 1);
}

// Run n_blocks * n threads that share barriers, `order` saying whose turn is next; false where they wait forever.
static bool run_all(int n, int n_blocks, int n_of_a_frame, const std::vector<int>& order) {
    const int total = n * n_blocks;
    n_threads = n;
    if (static_cast<int>(fibers.size()) < total) fibers.resize(total), stacks.resize(total * STACK);
    shared.resize(n_blocks * SHARED);
    barriers.assign(1 + MOST_FRAMES, Barrier());
    for (Barrier& barrier : barriers) barrier.size = n_of_a_frame;
    barriers[0].size = total;
    for (int i = 0; i < total; i++) fibers[i].begun = fibers[i].done = fibers[i].waits = false;
    for (;;) {
        int next = -1, left = 0;
        for (int i : order) {
            left += !fibers[i].done;
            if (!fibers[i].done && !fibers[i].waits) {
                next = i;
                break;
            }
        }
        if (next < 0) return left == 0;
        current = next;
        if (_setjmp(scheduler)) continue;
        Fiber& fiber = fibers[current];
        if (fiber.begun) _longjmp(fiber.place, 1);
        fiber.begun = true;
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = &stacks[current * STACK];
        fiber.context.uc_stack.ss_size = STACK;
        fiber.context.uc_link = nullptr;
        makecontext(&fiber.context, run, 0);
        setcontext(&fiber.context);
    }
}

}  // namespace cpu

DEVICE int thread_in_block() { return cpu::current % cpu::n_threads; }
DEVICE int block_in_grid() { return cpu::first_block + cpu::current / cpu::n_threads; }
DEVICE float2* shared() {
    return reinterpret_cast<float2*>(&cpu::shared[cpu::current / cpu::n_threads * cpu::SHARED]);
}
DEVICE float inverse_root(float x) { return 1 / sqrtf(x); }
DEVICE unsigned bits_of(float x) {
    unsigned bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}
DEVICE void frame_barrier(int frame) { cpu::wait(cpu::barriers[1 + frame]); }
DEVICE void stream_barrier() { cpu::wait(cpu::barriers[0]); }
DEVICE const float2* in_block_of(int frame, const float2* here) {
    const char* own = &cpu::shared[cpu::current / cpu::n_threads * cpu::SHARED];
    return reinterpret_cast<const float2*>(&cpu::shared[frame * cpu::SHARED] + (reinterpret_cast<const char*>(here) - own));
}
