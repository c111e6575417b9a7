// The real Fourier transform of a frame, computed in registers by the threads of that frame.
//
// N real samples are treated as M = N / 2 complex ones, z[n] = x[2n] + i x[2n + 1]. Let Z be their transform, E and
// O the transforms of the even and the odd samples, X the spectrum of x, and W = exp(-2 pi i / N). Then
//
//     E[k] = (Z[k] + conj Z[M - k]) / 2      X[k]     = E[k] + W^k O[k]
//     O[k] = (Z[k] - conj Z[M - k]) / 2i     X[M - k] = conj(E[k] - W^k O[k])          k = 0 ... M / 2
//
// (Cooley, Lewis & Welch 1970). Z is computed in passes of radix R that need no bit reversal (Stockham 1966). Let
// N_DONE be the product of the earlier radices. Butterfly j reads the values j + r M / R, multiplies them by
// exp(-2 pi i r (j mod N_DONE) / (N_DONE R)), and writes its results to
// (j - j mod N_DONE) R + j mod N_DONE + r N_DONE.
//
// Each frame has P threads. Thread t holds E = M / P complex values of its frame, `t + P i` for i = 0 ... E - 1,
// before and after a transform. Of a spectrum it holds E *slots*: for j = 0 ... E / 2 - 1, slot j is bin k = t + P j
// and slot E / 2 + j is bin M - k. Thread 0 differs: the two parts of its slot 0 are bins 0 and M, whose imaginary
// parts are ignored, and its slot E / 2 is bin M / 2.

constexpr int M = N_FFT / 2;
constexpr int E = N_OF_A_THREAD;
constexpr int P = N_THREADS_OF_A_FRAME;
constexpr int ROW = M + M / (M == 128 ? 4 : M <= 512 ? 8 : 16);  // complex values a frame, with gaps (`place`)
static_assert(P * E == M && P % 32 == 0, "threads");

// Every fused multiply-add is explicit, not left to the compiler, so that any two builds give the same bits.
DEVICE float2 operator+(float2 a, float2 b) { return make_float2(a.x + b.x, a.y + b.y); }
DEVICE float2 operator-(float2 a, float2 b) { return make_float2(a.x - b.x, a.y - b.y); }
DEVICE float2 operator*(float a, float2 b) { return make_float2(a * b.x, a * b.y); }
DEVICE float2 conj(float2 a) { return make_float2(a.x, -a.y); }
DEVICE float2 times(float2 a, float2 b) {
    return make_float2(fmaf(a.x, b.x, -(a.y * b.y)), fmaf(a.x, b.y, a.y * b.x));
}
DEVICE float2 add_times(float a, float2 b, float2 c) { return make_float2(fmaf(a, b.x, c.x), fmaf(a, b.y, c.y)); }
template <int SIGN> DEVICE float2 times_i(float2 a) {  // times i, or -i
    return SIGN > 0 ? make_float2(-a.y, a.x) : make_float2(a.y, -a.x);
}
template <int SIGN> DEVICE float2 times_unit(float2 a, float cosine, float sine) {  // sine of SIGN 1
    return times(a, make_float2(cosine, SIGN > 0 ? sine : -sine));
}

// Transforms of R values in place; SIGN is that of the exponent.
template <int SIGN> DEVICE void butterfly(float2 (&v)[2]) {
    const float2 a = v[0];
    v[0] = a + v[1];
    v[1] = a - v[1];
}

template <int SIGN> DEVICE void butterfly(float2 (&v)[4]) {
    const float2 a = v[0] + v[2], b = v[0] - v[2], c = v[1] + v[3], d = times_i<SIGN>(v[1] - v[3]);
    v[0] = a + c;
    v[1] = b + d;
    v[2] = a - c;
    v[3] = b - d;
}

template <int SIGN> DEVICE void butterfly(float2 (&v)[8]) {
    constexpr float HALF_ROOT = 0.70710678118654752f;
    float2 even[4] = {v[0] + v[4], v[1] + v[5], v[2] + v[6], v[3] + v[7]};
    float2 odd[4] = {v[0] - v[4], v[1] - v[5], times_i<SIGN>(v[2] - v[6]), v[3] - v[7]};
    // odd[1] and odd[3] turned by one and three eighths, without the factor, which is left to the sums below
    const float2 one = odd[1] + times_i<SIGN>(odd[1]), three = times_i<SIGN>(odd[3]) - odd[3];
    butterfly<SIGN>(even);
    const float2 a = odd[0] + odd[2], b = odd[0] - odd[2], c = one + three, d = times_i<SIGN>(one - three);
    v[0] = even[0];
    v[2] = even[1];
    v[4] = even[2];
    v[6] = even[3];
    v[1] = add_times(HALF_ROOT, c, a);
    v[5] = add_times(-HALF_ROOT, c, a);
    v[3] = add_times(HALF_ROOT, d, b);
    v[7] = add_times(-HALF_ROOT, d, b);
}

template <int SIGN> DEVICE void butterfly(float2 (&v)[16]) {
    constexpr float COSINE[10] = {1,           0.92387953251128674f,  0.70710678118654752f, 0.38268343236508977f, 0,
                                  0,           -0.70710678118654752f, 0,                    0,
                                  -0.92387953251128674f};
    constexpr float SINE[10] = {0, 0.38268343236508977f, 0.70710678118654752f, 0.92387953251128674f, 1,
                                0, 0.70710678118654752f, 0,                    0,
                                -0.38268343236508977f};
    float2 part[4][4];
#pragma unroll
    for (int a = 0; a < 4; a++) {
#pragma unroll
        for (int b = 0; b < 4; b++) part[a][b] = v[a + 4 * b];
        butterfly<SIGN>(part[a]);
#pragma unroll
        for (int b = 1; b < 4; b++) {
            if (a * b == 4) part[a][b] = times_i<SIGN>(part[a][b]);
            else if (a) part[a][b] = times_unit<SIGN>(part[a][b], COSINE[a * b], SINE[a * b]);
        }
    }
#pragma unroll
    for (int b = 0; b < 4; b++) {
        float2 column[4] = {part[0][b], part[1][b], part[2][b], part[3][b]};
        butterfly<SIGN>(column);
#pragma unroll
        for (int a = 0; a < 4; a++) v[b + 4 * a] = column[a];
    }
}

// a + w b and a - w b, the second as 2 a less the first: six operations (Linzer & Feig 1993).
DEVICE void add_and_subtract(float2& a, float2& b, float2 w) {
    const float2 sum = make_float2(fmaf(-w.y, b.y, fmaf(w.x, b.x, a.x)), fmaf(w.y, b.x, fmaf(w.x, b.y, a.y)));
    b = make_float2(fmaf(2, a.x, -sum.x), fmaf(2, a.y, -sum.y));
    a = sum;
}

DEVICE constexpr int reversed(int k, int n) {  // the binary digits of k below n
    int found = 0;
    for (; n > 1; n /= 2, k /= 2) found = 2 * found + k % 2;
    return found;
}

// The same of v[r] w^r. By halves, v[r] of the first and v[r + R / 2] of the second, all terms with k even have the
// factor w^(R / 2) in between, those with k odd its negative; then again by halves for k / 2, with w^(R / 4) turned
// by k R / 4, and so on. The result k comes to lie at `reversed(k)`.
template <int SIGN, int R> DEVICE void butterfly(float2 (&v)[R], float2 w) {
    constexpr float COSINE[4] = {1, 0.92387953251128674f, 0.70710678118654752f, 0.38268343236508977f};
    constexpr int LEVELS = R == 16 ? 4 : R == 8 ? 3 : R / 2;
    float2 powers[LEVELS];  // w^(1, 2, 4, 8)
    powers[0] = w;
#pragma unroll
    for (int i = 1; i < LEVELS; i++) powers[i] = times(powers[i - 1], powers[i - 1]);
#pragma unroll
    for (int level = 1; level <= LEVELS; level++) {
        const int half = R >> level, n = 1 << (level - 1);  // values of half a group, groups
        const float2 power = powers[LEVELS - level];
#pragma unroll
        for (int m = 0; m < n; m++) {  // turned by m / 2n of a circle
            const int sixteenth = m * 8 / n;
            float2 factor = power;
            if (sixteenth % 4) factor = times_unit<SIGN>(power, COSINE[sixteenth % 4], COSINE[4 - sixteenth % 4]);
            if (sixteenth >= 4) factor = times_i<SIGN>(factor);
            const int group = reversed(m, n) * 2 * half;
#pragma unroll
            for (int r = 0; r < half; r++) add_and_subtract(v[group + r], v[group + half + r], factor);
        }
    }
}

// Butterflies of one pass. roots: W^k, k = 0 ... M - 1.
template <int SIGN, int N_DONE, int R> DEVICE void compute(float2 (&v)[E], const float2* roots, int t) {
    constexpr int N = E / R;  // butterflies a thread
#pragma unroll
    for (int b = 0; b < N; b++) {
        float2 u[R];
#pragma unroll
        for (int r = 0; r < R; r++) u[r] = v[b + r * N];
        if constexpr (N_DONE > 1) {
            const float2 w = roots[(t + b * P) % N_DONE * (N_FFT / (N_DONE * R))];
            butterfly<SIGN>(u, SIGN > 0 ? conj(w) : w);
        } else {
            butterfly<SIGN>(u);
        }
#pragma unroll
        for (int r = 0; r < R; r++) v[b + r * N] = u[N_DONE > 1 ? reversed(r, R) : r];
    }
}

// Results of one pass to the threads that need them in the next. A gap after EVERY values keeps 16 neighbours in 16
// banks of 8 bytes. Addresses are a base and what is known when this is compiled: few registers.
template <int N_DONE, int R> DEVICE void exchange(float2 (&v)[E], float2* room, int frame, int t) {
    constexpr int N = E / R, GAP = N_DONE < 16 ? N_DONE : 0, EVERY = N_DONE * R < 16 ? 16 : N_DONE * R;
    constexpr bool IS_EVEN = GAP == 0 || P % EVERY == 0;  // rows of P values have as many gaps each
    const auto place = [](int i) { return i + i / EVERY * GAP; };
#pragma unroll
    for (int b = 0; b < N; b++) {
        const int j = t + b * P, k = j % N_DONE;
        float2* to = room + place((j - k) * R + k);  // R values that no gap divides
#pragma unroll
        for (int r = 0; r < R; r++) to[r * N_DONE] = v[b + r * N];
    }
    frame_barrier(frame);
    const float2* from = room + place(t);
#pragma unroll
    for (int i = 0; i < E; i++) v[i] = IS_EVEN ? from[i * (P + P / EVERY * GAP)] : room[place(t + P * i)];
    frame_barrier(frame);
}

template <int SIGN, int N_DONE, int R, int... LATER>
DEVICE void passes(float2 (&v)[E], float2* room, const float2* roots, int frame, int t) {
    compute<SIGN, N_DONE, R>(v, roots, t);
    if constexpr (sizeof...(LATER) > 0) {
        exchange<N_DONE, R>(v, room, frame, t);
        passes<SIGN, N_DONE * R, LATER...>(v, room, roots, frame, t);
    } else {
        static_assert(N_DONE * R == M, "radices");
    }
}

// Slots of E complex values, times 2: the window has the factor.
DEVICE void transform(float2 (&v)[E], float2 (&slots)[E], float2* room, const float2* roots, int frame, int t) {
    passes<-1, 1, RADICES>(v, room, roots, frame, t);
#pragma unroll
    for (int i = E / 2; i < E; i++) room[t + P * i] = v[i];
    frame_barrier(frame);
    const float2* mirror = room + M - t;
#pragma unroll
    for (int j = 0; j < E / 2; j++) {
        const float2 p = v[j], q = *(j || t ? mirror - P * j : room + M / 2);
        const float2 e = make_float2(p.x + q.x, p.y - q.y);
        float2 sum = e, difference = make_float2(p.y + q.y, q.x - p.x);
        add_and_subtract(sum, difference, roots[t + P * j]);
        slots[j] = sum;
        slots[E / 2 + j] = conj(difference);
        if (j == 0 && t == 0) {
            slots[0] = make_float2(2 * (p.x + p.y), 2 * (p.x - p.y));
            slots[E / 2] = make_float2(2 * q.x, -2 * q.y);
        }
    }
    frame_barrier(frame);
}

// E complex values of slots, times N: the window has the factor.
DEVICE void inverse(float2 (&slots)[E], float2 (&v)[E], float2* room, const float2* roots, int frame, int t) {
    float2* mirror = room + M - t;
#pragma unroll
    for (int j = 0; j < E / 2; j++) {
        const float2 p = slots[j], q = slots[E / 2 + j];
        const float2 e = make_float2(p.x + q.x, p.y - q.y);
        float2 sum = e, difference = make_float2(-p.y - q.y, p.x - q.x);
        add_and_subtract(sum, difference, conj(roots[t + P * j]));
        v[j] = sum;
        float2 mirrored = conj(difference);
        if (j == 0 && t == 0) {
            v[0] = make_float2(p.x + p.y, p.x - p.y);
            mirrored = make_float2(2 * q.x, -2 * q.y);
        }
        *(j || t ? mirror - P * j : room + M / 2) = mirrored;
    }
    frame_barrier(frame);
#pragma unroll
    for (int i = E / 2; i < E; i++) v[i] = room[t + P * i];
    frame_barrier(frame);
    passes<1, 1, RADICES>(v, room, roots, frame, t);
}
