// A whole push of one stream: `Eager.push` and `FrameBuffer`, with the same names where they have the same meaning.
//
// A stream runs in one block, with P threads per frame; or, if there are few streams, in a cluster with one block per
// frame. Spectra, targets and windows are in registers (transform.cu defines the slots of thread t of a frame). For
// overlap-add, each frame writes its windowed samples to shared memory, and each frame sums those that overlap with
// it, oldest first, so that all frames get the same sums. The threads of a stream work on no other stream, and add in
// a fixed order, so that results do not depend on other streams.
//
// State is read at the beginning. It is written after the last barrier, one frame further to the left: a thread reads
// the bins of frame f + 1 and writes those of frame f. A rejected push writes only a silent hop.
//
// The file is long because a push is one kernel; its Fourier transforms are in transform.cu.

struct Arguments {
    const float* frame;   // (n, n_half) of the n streams that are pushed, null after the last frame
    const float2* start;  // (n, n_half), null if `init` computes the start
    float* hops;          // (n, HOP), the result
    const long long* streams;  // (n,), each once, null: all
    // State of all streams, as in FrameBuffer.
    float *magnitude, *present;
    float2 *spectra, *past;
    float *committed, *coverage, *expected;
    // Constants.
    const float* windows;   // (5, N_FFT): window, dual window, their product; asymmetric window before, after
    const float2* roots;    // (M,), W^k
    const float* signs;     // (n_half,), directions of bins that are 0
    const float* fade;      // (N_FADE,)
    const float* numbers;   // (2, N_OPEN, N_ROWS, N_COLUMNS), of the first iteration and of others
    // Checks: for each bad frame, `check` writes the number of the push.
    int *flags, *verdict;   // (n_streams,), one per stream, and (1,), for all streams
    int* report;            // (1,), copy of verdict in memory of the host
    int n_iter, serial;     // number of iterations, and number of the push
    int is_checked;         // 0: no check; 1: one bad frame rejects the push of all streams; 2: that of its stream
    float limit;            // largest magnitude that is accepted
};

constexpr int N_HALF = M + 1;
constexpr int N_OVERLAPS = N_FFT / HOP;
constexpr int N_HOPS = N_OPEN - 1 + N_OVERLAPS;  // hops of the buffer
constexpr int NEWEST = N_OPEN - 1;
constexpr int N_THREADS = N_OPEN * P;            // threads of a stream
constexpr int N_BLOCKS = CLUSTER ? N_OPEN : 1;   // blocks of a stream
// Frames that contain the committed hop.
constexpr int N_LAST = N_OPEN < N_REVISED + (N_FADE ? 2 : 1) ? N_OPEN : N_REVISED + (N_FADE ? 2 : 1);

// E complex numbers in slots, and the imaginary parts at bins 0 and M: no samples have any, but a start may.
struct Spectrum {
    float2 at[E], edges;
};

// Data of a thread.
struct Thread {
    int stream, frame, t, index;  // index: number among all threads of a stream
    unsigned present;             // a bit for each frame
    float2* rooms;                // (N_OPEN, ROW), or (1, ROW) in a cluster
    const float2* roots;          // (M,)
    const float* known;           // committed samples, (N_HOPS * HOP,), or those of the frame in a cluster
    float goal[E], goal_at_end;   // magnitudes; of bin M in thread 0
    float2 analysis[E];           // window from samples to a spectrum

    DEVICE float2* room() const { return rooms + (CLUSTER ? 0 : frame * ROW); }
    DEVICE int bin(int slot) const {
        return slot < E / 2 ? t + P * slot : t || slot > E / 2 ? M - t - P * (slot - E / 2) : M / 2;
    }
};

// ---- P_M --------------------------------------------------------------------------------------------------------

constexpr float FINE = 7.888609052210118e-31f, COARSE = 1.2676506002282294e30f;  // 2^-100, 2^100
constexpr float LEAST_SQUARE = 2.220446049250313e-16f;  // 2^-52, of the smallest normal number times COARSE

DEVICE float square(float2 c) { return fmaf(c.x, c.x, c.y * c.y); }

// Difference of the bits of a square m and of FINE; it is huge if m is NaN or, as it wraps around, below FINE.
DEVICE unsigned above_fine(float m) { return bits_of(m) - bits_of(FINE); }

DEVICE bool is_in_range(unsigned above) { return above <= bits_of(COARSE) - bits_of(FINE); }

// P_M of a number whose square is out of range; `sign` is the direction of 0.
DEVICE float2 far_to_magnitude(float2 c, float goal, const float* sign) {
    c = (square(c) < 1 ? COARSE : FINE) * c;
    const float m = square(c);
    if (m < LEAST_SQUARE) return make_float2(goal * *sign, 0);
    return goal * (inverse_root(m) * c);
}

DEVICE float2 to_magnitude(float2 c, float goal, const float* sign) {
    const float m = square(c);
    return is_in_range(above_fine(m)) ? goal * inverse_root(m) * c : far_to_magnitude(c, goal, sign);
}

// P_M(c) = S c / |c|. The usual path has one test for all slots.
DEVICE void to_magnitude(const Spectrum& c, Spectrum& a, const Thread& me, const float* signs) {
    unsigned furthest = 0;
#pragma unroll
    for (int i = 0; i < E; i++) {
        const float m = square(c.at[i]);
        furthest = above_fine(m) > furthest ? above_fine(m) : furthest;
        a.at[i] = me.goal[i] * inverse_root(m) * c.at[i];
    }
    if (!is_in_range(furthest)) {
#pragma unroll
        for (int i = 0; i < E; i++)
            if (!is_in_range(above_fine(square(c.at[i]))))
                a.at[i] = far_to_magnitude(c.at[i], me.goal[i], signs + me.bin(i));
    }
    a.edges = make_float2(0, 0);
    if (me.t == 0) {
        const float2 first = to_magnitude(make_float2(c.at[0].x, c.edges.x), me.goal[0], signs);
        const float2 last = to_magnitude(make_float2(c.at[0].y, c.edges.y), me.goal_at_end, signs + M);
        a.at[0] = make_float2(first.x, last.x);
        a.edges = make_float2(first.y, last.y);
    }
}

// ---- P_C --------------------------------------------------------------------------------------------------------

// Sum over the frames below n_frames that overlap with offset o of hop h of the buffer, oldest first, on top of z.
template <typename Value, typename Of> DEVICE Value overlapped(Value z, int h, int n_frames, Of of) {
    if (h < N_REVISED) return z;
    if constexpr (N_OPEN < N_OVERLAPS) {
#pragma unroll
        for (int f = 0; f < N_OPEN; f++)
            if (f < n_frames && h >= f && h - f < N_OVERLAPS) z = z + of(f, h - f);
    } else {
#pragma unroll
        for (int r = N_OVERLAPS - 1; r >= 0; r--) {
            const int f = h - r;
            if (f >= 0 && f < n_frames) z = z + of(f, r);
        }
    }
    return z;
}

// Write the windowed samples of a frame to shared memory, where all threads read them after the barrier.
DEVICE void put_frame(Spectrum& y, const Thread& me, const float* windows) {
    float2 v[E];
    const float2* window = reinterpret_cast<const float2*>(windows + N_FFT) + me.t;
    inverse(y.at, v, me.room(), me.roots, me.frame, me.t);
#pragma unroll
    for (int i = 0; i < E; i++)
        me.room()[me.t + P * i] = make_float2(v[i].x * window[P * i].x, v[i].y * window[P * i].y);
}

// Pair `o` of piece r of frame f, as `put_frame` wrote it.
DEVICE float2 piece_of(const Thread& me, int f, int r, int o) {
    const float2* here = me.rooms + (CLUSTER ? 0 : f * ROW) + r * (HOP / 2) + o;
    if constexpr (CLUSTER) return *in_block_of(f, here);
    else return *here;
}

// Samples of a frame times a window: the committed samples plus those of all frames. Frame `f + d` contributes to
// hop q of frame f if it is present and 0 <= q - d < N_OVERLAPS.
DEVICE void add_frames(float2 (&v)[E], const float2 (&analysis)[E], const Thread& me) {
    constexpr int PAIRS = HOP / 2, FAR = (N_OPEN < N_OVERLAPS ? N_OPEN : N_OVERLAPS) - 1;
    const float2* known = reinterpret_cast<const float2*>(me.known) + (CLUSTER ? 0 : me.frame * PAIRS);
    const auto hop = [&](int i) { return PAIRS % P ? (me.t + P * i) / PAIRS : P * i / PAIRS; };
    const auto offset = [&](int i) { return PAIRS % P ? (me.t + P * i) % PAIRS : me.t + P * i % PAIRS; };
#pragma unroll
    for (int i = 0; i < E; i++) v[i] = known[me.t + P * i];
#pragma unroll
    for (int d = -FAR; d <= FAR; d++) {
        if (me.frame + d < 0 || me.frame + d >= N_OPEN) continue;
#pragma unroll
        for (int i = 0; i < E; i++) {
            const int r = hop(i) - d;
            if (r >= 0 && r < N_OVERLAPS) v[i] = v[i] + piece_of(me, me.frame + d, r, offset(i));
        }
    }
    if (me.frame < N_REVISED) {  // heard samples do not change
#pragma unroll
        for (int i = 0; i < E; i++)
            if (me.frame + hop(i) < N_REVISED) v[i] = known[me.t + P * i];
    }
#pragma unroll
    for (int i = 0; i < E; i++) v[i] = make_float2(v[i].x * analysis[i].x, v[i].y * analysis[i].y);
}

// Write P_C(y) with a window to s, for the frames with `wanted`; y is overwritten. All threads of a stream call it.
DEVICE void to_consistent(Spectrum& y, Spectrum& s, const float2 (&analysis)[E], bool wanted, const Thread& me,
                          const float* windows) {
    put_frame(y, me, windows);
    stream_barrier();
    float2 v[E];
    if (wanted) add_frames(v, analysis, me);
    stream_barrier();
    if (wanted) {
        transform(v, s.at, me.room(), me.roots, me.frame, me.t);
        s.edges = make_float2(0, 0);
    }
}

// ---- The rule ---------------------------------------------------------------------------------------------------
// As in engines/table.py: row ROW of the numbers has the factors of s, A, x_0, x_1, x_2 in a spectrum. Numbers that
// are the same in all frames and iterations are compile-time constants (NUMBERS), and so are zeros.

constexpr int S = 0, A = 1, X = 2;  // columns
constexpr int INTO_P_M = 0, INTO_P_C = 1, NEW_STATE = 2, INTO_ESTIMATE = 2 + N_SLOTS;

DEVICE constexpr bool is_used(int row, int column) { return VARIES[row][column] || NUMBERS[row][column] != 0; }

// A sum begins with a term that needs no multiplication, or else with the first term.
template <int ROW> DEVICE constexpr int begins() {
    for (int c = A; c < X + N_SLOTS; c++)
        if (!VARIES[ROW][c] && (NUMBERS[ROW][c] == 1 || NUMBERS[ROW][c] == -1)) return c;
    for (int c = A; c < X + N_SLOTS; c++)
        if (is_used(ROW, c)) return c;
    return S;
}

// sum + number x, or number x alone.
template <int ROW, int COLUMN, bool BEGINS>
DEVICE void term(Spectrum& sum, const Spectrum& x, const float* numbers) {
    constexpr bool IS_ONE = !VARIES[ROW][COLUMN] && NUMBERS[ROW][COLUMN] == 1;
    constexpr bool IS_MINUS_ONE = !VARIES[ROW][COLUMN] && NUMBERS[ROW][COLUMN] == -1;
    constexpr float FIXED = NUMBERS[ROW][COLUMN];
    const float number = VARIES[ROW][COLUMN] ? numbers[ROW * N_COLUMNS + COLUMN] : FIXED;
#pragma unroll
    for (int i = 0; i <= E; i++) {
        float2& to = i < E ? sum.at[i] : sum.edges;
        const float2 value = i < E ? x.at[i] : x.edges;
        if constexpr (IS_ONE) to = BEGINS ? value : to + value;
        else if constexpr (IS_MINUS_ONE) to = BEGINS ? make_float2(-value.x, -value.y) : to - value;
        else to = BEGINS ? number * value : add_times(number, value, to);
    }
}

DEVICE void clear(Spectrum& x) {
#pragma unroll
    for (int i = 0; i <= E; i++) (i < E ? x.at[i] : x.edges) = make_float2(0, 0);
}

// All terms of a row except that of s, which is computed last.
template <int ROW>
DEVICE void row_of(Spectrum& sum, const Spectrum& a, const Spectrum (&x)[N_SLOTS], const float* numbers) {
    constexpr int FIRST = begins<ROW>();
    if constexpr (FIRST == S) clear(sum);
    else if constexpr (FIRST == A) term<ROW, A, true>(sum, a, numbers);
    else term<ROW, FIRST, true>(sum, x[FIRST - X], numbers);
    if constexpr (is_used(ROW, A) && FIRST != A) term<ROW, A, false>(sum, a, numbers);
    if constexpr (is_used(ROW, X) && FIRST != X) term<ROW, X, false>(sum, x[0], numbers);
    if constexpr (N_SLOTS > 1 && is_used(ROW, X + 1) && FIRST != X + 1)
        term<ROW, X + 1, false>(sum, x[N_SLOTS > 1], numbers);
    if constexpr (N_SLOTS > 2 && is_used(ROW, X + 2) && FIRST != X + 2)
        term<ROW, X + 2, false>(sum, x[N_SLOTS - 1], numbers);
}

// The term of s.
template <int ROW> DEVICE void add_s(Spectrum& sum, const Spectrum& s, const float* numbers) {
    if constexpr (is_used(ROW, S)) term<ROW, S, false>(sum, s, numbers);
}

// One step of the rule, x becoming the new state.
DEVICE void step(Spectrum (&x)[N_SLOTS], const Thread& me, const float* numbers, const Arguments& call) {
    Spectrum a, y, s;
    if constexpr (PROJECTS_TWICE) {  // a = P_M(x_0) for y, and P_M of a sum with P_C(x_0) for the state
        y = x[0];
        to_consistent(y, s, me.analysis, true, me, call.windows);
        to_magnitude(x[0], a, me, call.signs);
        row_of<INTO_P_C>(y, a, x, numbers);
        Spectrum sum;
        row_of<INTO_P_M>(sum, a, x, numbers);
        add_s<INTO_P_M>(sum, s, numbers);
        to_magnitude(sum, a, me, call.signs);
    } else {
        row_of<INTO_P_M>(y, x[0], x, numbers);
        to_magnitude(y, a, me, call.signs);
        row_of<INTO_P_C>(y, a, x, numbers);
    }
    Spectrum next[N_SLOTS];
    row_of<NEW_STATE>(next[0], a, x, numbers);
    if constexpr (N_SLOTS > 1) row_of<NEW_STATE + 1>(next[1], a, x, numbers);
    if constexpr (N_SLOTS > 2) row_of<NEW_STATE + 2>(next[2], a, x, numbers);
    to_consistent(y, s, me.analysis, true, me, call.windows);
    add_s<NEW_STATE>(next[0], s, numbers);
    if constexpr (N_SLOTS > 1) add_s<NEW_STATE + 1>(next[1], s, numbers);
    if constexpr (N_SLOTS > 2) add_s<NEW_STATE + 2>(next[2], s, numbers);
#pragma unroll
    for (int slot = 0; slot < N_SLOTS; slot++) x[slot] = next[slot];
}

// ---- State in and out -------------------------------------------------------------------------------------------

DEVICE void load(Spectrum& c, const float2* spectrum, const Thread& me) {
#pragma unroll
    for (int i = 0; i < E; i++) c.at[i] = spectrum[me.bin(i)];
    if (me.t == 0) {
        c.edges = make_float2(c.at[0].y, spectrum[M].y);
        c.at[0].y = spectrum[M].x;
    }
}

DEVICE void save(const Spectrum& c, float2* spectrum, const Thread& me) {
#pragma unroll
    for (int i = 0; i < E; i++)
        if (i || me.t) spectrum[me.bin(i)] = c.at[i];
    if (me.t == 0) {
        spectrum[0] = make_float2(c.at[0].x, c.edges.x);
        spectrum[M] = make_float2(c.at[0].y, c.edges.y);
    }
}

// Window sum at offset o of hop h of the buffer, of the frames below n_frames that are present.
DEVICE float coverage_at(int h, int o, int n_frames, const Thread& me, const Arguments& call) {
    const float before = call.coverage[static_cast<size_t>(me.stream) * (N_HOPS * HOP) + h * HOP + o];
    return overlapped(before, h, n_frames, [&](int f, int r) {
        return me.present >> f & 1 ? call.windows[2 * N_FFT + r * HOP + o] : 0.0f;
    });
}

// FrameBuffer._make_windows for this frame; `starts`: the window sum does not include the frame itself.
DEVICE void make_analysis(float2 (&analysis)[E], bool starts, const Thread& me, const Arguments& call) {
    const bool is_there = me.present >> me.frame & 1;
    const float* window = call.windows;
    if (!COMPENSATED && me.frame == NEWEST) window += (starts ? 3 : 4) * N_FFT;
#pragma unroll
    for (int i = 0; i < 2 * E; i++) {
        const int n = 2 * (me.t + P * (i / 2)) + i % 2;
        float w = is_there ? window[n] : 0.0f;
        if constexpr (COMPENSATED) {
            const float sum = coverage_at(me.frame + n / HOP, n % HOP, starts ? NEWEST : N_OPEN, me, call);
            w /= fmaxf(sum, starts ? MIN_COVERAGE_AT_START : MIN_COVERAGE);
        }
        (i % 2 ? analysis[i / 2].y : analysis[i / 2].x) = w;
    }
}

// Start of the newest frame, to all slots of its state.
DEVICE void start(Spectrum (&x)[N_SLOTS], const Thread& me, const Arguments& call) {
    Spectrum c, y;
    const bool is_newest = me.frame == NEWEST;
    if (call.start) {
        if (is_newest) load(c, call.start + static_cast<size_t>(block_in_grid() / N_BLOCKS) * N_HALF, me);
    } else if constexpr (STARTS_WITH_ZEROS) {
        clear(y);
        to_magnitude(y, c, me, call.signs);
    } else {  // from the samples of the other frames within this one
        float2 analysis[E];
        if (is_newest) make_analysis(analysis, true, me, call);
        to_magnitude(x[0], y, me, call.signs);
        if (is_newest) clear(y);
        to_consistent(y, c, analysis, is_newest, me, call.windows);
    }
    constexpr float SHARES[N_SLOTS] = START;
    if (is_newest) {
#pragma unroll
        for (int slot = 0; slot < N_SLOTS; slot++) {
#pragma unroll
            for (int i = 0; i <= E; i++)
                (i < E ? x[slot].at[i] : x[slot].edges) = SHARES[slot] * (i < E ? c.at[i] : c.edges);
        }
    }
}

// Spectrum to commit.
DEVICE void estimate(const Spectrum (&x)[N_SLOTS], Spectrum& c, const Thread& me, const Arguments& call) {
    if (call.n_iter == 0) {
        to_magnitude(x[0], c, me, call.signs);
        return;
    }
    Spectrum sum;
    row_of<INTO_ESTIMATE>(sum, x[0], x, call.numbers + me.frame * (N_ROWS * N_COLUMNS));
    to_magnitude(sum, c, me, call.signs);
    if constexpr (LOOKS_AGAIN) {
        to_consistent(c, sum, me.analysis, me.frame < N_LAST, me, call.windows);
        to_magnitude(sum, c, me, call.signs);
    }
}

// FrameBuffer.commit: samples, coverage and expected samples; each thread processes its offsets of all hops.
DEVICE void commit(const Thread& me, const Arguments& call) {
    float* committed = call.committed + static_cast<size_t>(me.stream) * (N_HOPS * HOP);
    float* coverage = call.coverage + static_cast<size_t>(me.stream) * (N_HOPS * HOP);
    float* hop = call.hops + static_cast<size_t>(block_in_grid() / N_BLOCKS) * HOP;
    float* expected = call.expected + static_cast<size_t>(me.stream) * N_FADE;
    for (int o = me.index; o < HOP; o += N_THREADS) {
        const bool fades = o < N_FADE;
        const auto part = [&](int f, int r) {
            const float2 pair = piece_of(me, f, r, o / 2);
            return o % 2 ? pair.y : pair.x;
        };
        for (int h = 0; h < N_HOPS; h++) {
            float sample = committed[h * HOP + o], sum = coverage[h * HOP + o], heard = 0;
            if (h == N_REVISED || (fades && h == N_REVISED + 1)) {
                heard = overlapped(sample, h, N_LAST, part) / fmaxf(coverage_at(h, o, N_OPEN, me, call), MIN_COVERAGE);
            }
            if (h == N_REVISED) {
                if (fades) heard = fmaf(call.fade[o], heard - expected[o], expected[o]);
                hop[o] = sample = heard;
                sum = 1;
            } else if (h > N_REVISED && h < N_OVERLAPS) {  // the oldest frame leaves
                sample += part(0, h);
                if (me.present & 1) sum += call.windows[2 * N_FFT + h * HOP + o];
            }
            if (fades && h == N_REVISED + 1) expected[o] = heard;
            if (h) {
                committed[(h - 1) * HOP + o] = sample;
                coverage[(h - 1) * HOP + o] = sum;
            }
        }
        committed[(N_HOPS - 1) * HOP + o] = 0;
        coverage[(N_HOPS - 1) * HOP + o] = 0;
    }
}

// ---- Kernels ----------------------------------------------------------------------------------------------------

// Report frames that are not finite, negative or too large; each stream has one block.
KERNEL(N_CHECKING, 1) check(const Arguments call) {
    const int stream = call.streams ? static_cast<int>(call.streams[block_in_grid()]) : block_in_grid();
    for (int k = thread_in_block(); k < N_HALF; k += N_CHECKING) {
        const float value = call.frame[static_cast<size_t>(block_in_grid()) * N_HALF + k];
        if (!(value >= 0 && value <= call.limit)) call.flags[stream] = *call.verdict = *call.report = call.serial;
    }
}

KERNEL(CLUSTER ? P : N_THREADS, LEAST_BLOCKS) CLUSTERED push(const Arguments call) {
    Thread me;
    const int place = block_in_grid() / N_BLOCKS;
    me.stream = call.streams ? static_cast<int>(call.streams[place]) : place;
    me.frame = CLUSTER ? block_in_grid() % N_BLOCKS : thread_in_block() / P;
    me.t = thread_in_block() % P;
    me.index = me.frame * P + me.t;
    if (call.is_checked && (call.is_checked == 1 ? *call.verdict : call.flags[me.stream]) == call.serial) {
        for (int o = me.index; o < HOP; o += N_THREADS) call.hops[static_cast<size_t>(place) * HOP + o] = 0;
        return;
    }

    // -- shared memory: frames, roots, committed samples
    float2* roots = shared() + (CLUSTER ? 1 : N_OPEN) * ROW;
    float* known = reinterpret_cast<float*>(roots + M);
    const float* committed = call.committed + static_cast<size_t>(me.stream) * (N_HOPS * HOP);
    if (CLUSTER) committed += me.frame * HOP;
    constexpr int N = CLUSTER ? P : N_THREADS, N_KNOWN = CLUSTER ? N_FFT : N_HOPS * HOP;
    for (int i = thread_in_block(); i < M; i += N) roots[i] = call.roots[i];
    for (int i = thread_in_block(); i < N_KNOWN; i += N) known[i] = committed[i];
    me.rooms = shared();
    me.roots = roots;
    me.known = known;

    // -- the frames, each one slot further to the left than before
    const bool is_newest = me.frame == NEWEST;
    const size_t first = static_cast<size_t>(me.stream) * N_OPEN;  // frame of all streams
    me.present = call.frame ? 1u << NEWEST : 0;
    for (int f = 0; f < NEWEST; f++) me.present |= call.present[first + f + 1] != 0 ? 1u << f : 0;
    const float* goal = is_newest ? call.frame : call.magnitude;
    if (goal) goal += (is_newest ? place : first + me.frame + 1) * N_HALF;
#pragma unroll
    for (int i = 0; i < E; i++) me.goal[i] = goal ? goal[me.bin(i)] : 0;
    me.goal_at_end = goal ? goal[M] : 0;
    Spectrum x[N_SLOTS];
#pragma unroll
    for (int slot = 0; slot < N_SLOTS; slot++) {
        clear(x[slot]);
        const float2* from = call.spectra + (first * N_SLOTS + slot * N_OPEN + me.frame + 1) * N_HALF;
        if (!is_newest) load(x[slot], from, me);
    }
    make_analysis(me.analysis, false, me, call);
    stream_barrier();

    if (call.frame) start(x, me, call);
#pragma unroll 1
    for (int i = 0; i < call.n_iter; i++)
        step(x, me, call.numbers + ((i > 0) * N_OPEN + me.frame) * (N_ROWS * N_COLUMNS), call);
    Spectrum last;
    estimate(x, last, me, call);
    Spectrum gone = last;
    if (me.frame < N_LAST) put_frame(gone, me, call.windows);
    stream_barrier();  // after this, no thread reads the state of another frame

#pragma unroll
    for (int slot = 0; slot < N_SLOTS; slot++)
        save(x[slot], call.spectra + (first * N_SLOTS + slot * N_OPEN + me.frame) * N_HALF, me);
    float* magnitude = call.magnitude + (first + me.frame) * N_HALF;
#pragma unroll
    for (int i = 0; i < E; i++) magnitude[me.bin(i)] = me.goal[i];
    if (me.t == 0) {
        magnitude[M] = me.goal_at_end;
        call.present[first + me.frame] = me.present >> me.frame & 1;
    }
    if (me.frame == 0) {
        float2* past = call.past + static_cast<size_t>(me.stream) * (2 * N_HALF);
        Spectrum older;
        load(older, past + N_HALF, me);
        save(older, past, me);
        save(last, past + N_HALF, me);
    }
    commit(me, call);
    if constexpr (CLUSTER) stream_barrier();  // other blocks read the shared memory of this block until then
}
