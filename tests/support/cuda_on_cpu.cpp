// After push.cu: what the tests call.

static const Arguments* arguments;

// Order of the threads: 0 from the first to the last, 1 from the last to the first, else any, by this seed.
static std::vector<int> ordered(int n, int order) {
    std::vector<int> found(n);
    for (int i = 0; i < n; i++) found[i] = order == 1 ? n - 1 - i : i;
    unsigned state = order;
    for (int i = n - 1; order > 1 && i > 0; i--) {
        state = state * 1664525u + 1013904223u;
        const int j = (state >> 8) % (i + 1), kept = found[i];
        found[i] = found[j];
        found[j] = kept;
    }
    return found;
}

extern "C" int run_check(int n, const Arguments* call, int order) {
    arguments = call;
    cpu::body = [] { check(*arguments); };
    for (cpu::first_block = 0; cpu::first_block < n; cpu::first_block++)
        if (!cpu::run_all(N_CHECKING, 1, 1, ordered(N_CHECKING, order))) return 1;
    return 0;
}

extern "C" int run_push(int n, const Arguments* call, int order) {
    arguments = call;
    cpu::body = [] { push(*arguments); };
    for (int i = 0; i < n; i++) {
        cpu::first_block = i * N_BLOCKS;
        if (!cpu::run_all(N_THREADS / N_BLOCKS, N_BLOCKS, P, ordered(N_THREADS, order))) return 1;
    }
    return 0;
}

extern "C" int size_of_arguments() { return sizeof(Arguments); }
