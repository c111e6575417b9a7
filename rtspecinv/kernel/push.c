/*
 * One push of a stream: push.h describes how to call it, docs/architecture.md what it computes. It has the equations of
 * rtspecinv/frames.py, projections.py, phase.py and engines/table.py; tests compare it with rtspecinv/engines/eager.py.
 *
 * A spectrum is a row of real parts and then a row of imaginary parts, `padded` floats each: n_fft / 2 + 1 and zeros
 * up to a multiple of 4. Rules, projections and transforms map zeros to zeros.
 */
#include "push.h"

/* Square roots are instructions of the processor; compilers that do not know that link a library for them. */
#if defined(__GNUC__)
#define ROOTF __builtin_sqrtf
#define ROOT __builtin_sqrt
#else
#include <math.h>
#define ROOTF sqrtf
#define ROOT sqrt
#endif

#define SMALLEST_NORMAL 1.17549435e-38f
#define PI 3.14159265358979323846
#define MOST_SLOTS 3
#define MOST_ITER 1000000

/* Parts of the three memories. */
enum { WINDOW, DUAL_WINDOW, ENVELOPE, FADE, SIGNS, RULE, SHARES, SPLIT, TWIDDLES, ADVANCE, TURN, N_CONSTANTS };
enum { MAGNITUDE, PRESENT, SPECTRA, PAST, COMMITTED, COVERAGE, EXPECTED, N_STATE };
enum { SAMPLES, OUTPUT, SCALE, START_SCALE, SPECTRUM, FINAL, ROOM, N_WORK };

typedef struct {
    const rtspecinv_plan *plan;
    int n_fft, hop, n_half, padded, n_open, n_known, n_samples, n_heard, n_slots;
    const float *constants[N_CONSTANTS];
    float *state[N_STATE];
    float *work[N_WORK];
} stream;

/* --- Sizes and memory ------------------------------------------------------------------------------------------ */

static size_t rounded(size_t n) { return (n + 3) & ~(size_t)3; }

static int n_samples_of(const rtspecinv_plan *plan) { return (plan->n_open - 1) * plan->hop_length + plan->n_fft; }

/*
 * Sizes of the constants, in floats. They follow the plan in this order, each padded to a multiple of 4:
 * windows with the scales of the transforms, the fade, the directions of 0, the numbers of the rule (first step and
 * later ones, frames, rows, columns), the shares of the start in the state, and the constants of transforms and of the
 * phase gradient.
 */
static void constants_of(const rtspecinv_plan *plan, size_t sizes[N_CONSTANTS])
{
    size_t n_fft = (size_t)plan->n_fft, n_half = n_fft / 2 + 1, n_slots = (size_t)plan->n_slots;
    size_t n_gradient = plan->start == RTSPECINV_GRADIENT ? n_half : 0, n_twiddles = 0;
    for (size_t length = n_fft / 2; length > 4; length /= 4) n_twiddles += 6 * (length / 4);
    sizes[WINDOW] = sizes[DUAL_WINDOW] = sizes[ENVELOPE] = n_fft;
    sizes[FADE] = (size_t)plan->n_fade;
    sizes[SIGNS] = n_half;
    sizes[RULE] = 2 * (size_t)plan->n_open * (3 + n_slots) * (2 + n_slots);
    sizes[SHARES] = n_slots;
    sizes[SPLIT] = 2 * (n_fft / 4 + 1); /* cosines and sines of bins 0 to n_fft / 4 */
    sizes[TWIDDLES] = n_twiddles;
    sizes[ADVANCE] = sizes[TURN] = n_gradient;
}

/* Sizes of the state of a stream, in floats; see `FrameBuffer` in rtspecinv/frames.py. */
static void state_of(const rtspecinv_plan *plan, size_t sizes[N_STATE])
{
    size_t padded = rounded((size_t)plan->n_fft / 2 + 1), n_open = (size_t)plan->n_open;
    size_t n_known = n_open + (size_t)plan->n_waiting, n_samples = (size_t)n_samples_of(plan);
    sizes[MAGNITUDE] = n_known * padded; /* of the open frames, and of those that wait */
    sizes[PRESENT] = n_known;            /* 1 for a frame, 0 for none: before the first, after the last */
    sizes[SPECTRA] = (size_t)plan->n_slots * n_open * 2 * padded; /* the iterate, and what the rule carries */
    sizes[PAST] = (size_t)plan->n_past * 2 * padded;              /* spectra of the frames that left last */
    sizes[COMMITTED] = n_samples; /* heard samples, then what frames have left of those to come */
    sizes[COVERAGE] = n_samples;  /* window sum of the committed samples */
    sizes[EXPECTED] = (size_t)plan->n_fade;
}

/* Sizes of the work memory, in floats. */
static void work_of(const rtspecinv_plan *plan, size_t sizes[N_WORK])
{
    size_t n_fft = (size_t)plan->n_fft, padded = rounded(n_fft / 2 + 1);
    sizes[SAMPLES] = sizes[OUTPUT] = sizes[SCALE] = (size_t)n_samples_of(plan);
    sizes[START_SCALE] = n_fft;
    sizes[SPECTRUM] = sizes[FINAL] = 2 * padded; /* of one frame: of P_C, before or after; to commit */
    sizes[ROOM] = 5 * padded; /* of a transform, or of the phase gradient */
}

static size_t sum_of(const size_t *sizes, int n)
{
    size_t sum = 0;
    for (int i = 0; i < n; i++) sum += rounded(sizes[i]);
    return sum;
}

/* Return the parts of all memories of a stream. */
static stream stream_of(const rtspecinv_plan *plan, float *state, float *work)
{
    size_t constants[N_CONSTANTS], states[N_STATE], works[N_WORK];
    stream s = {.plan = plan, .n_fft = plan->n_fft, .hop = plan->hop_length, .n_open = plan->n_open};
    const float *at = (const float *)(plan + 1);
    s.n_half = plan->n_fft / 2 + 1;
    s.padded = (int)rounded((size_t)s.n_half);
    s.n_known = plan->n_open + plan->n_waiting;
    s.n_samples = n_samples_of(plan);
    s.n_heard = plan->n_revised * plan->hop_length;
    s.n_slots = plan->n_slots;
    constants_of(plan, constants);
    state_of(plan, states);
    work_of(plan, works);
    for (int i = 0; i < N_CONSTANTS; i++, at += rounded(constants[i - 1])) s.constants[i] = at;
    for (int i = 0; i < N_STATE; i++, state += rounded(states[i - 1])) s.state[i] = state;
    for (int i = 0; i < N_WORK; i++, work += rounded(works[i - 1])) s.work[i] = work;
    return s;
}

static void fill(float *target, float value, int n)
{
    for (int i = 0; i < n; i++) target[i] = value;
}

static void copy(float *restrict target, const float *restrict source, int n)
{
    for (int i = 0; i < n; i++) target[i] = source[i];
}

/* Move n floats to the left, or leave them where they are. */
static void move(float *target, const float *source, int n)
{
    for (int i = 0; i < n; i++) target[i] = source[i];
}

static float *spectrum_of(const stream *s, int slot, int frame)
{
    return s->state[SPECTRA] + (slot * s->n_open + frame) * 2 * s->padded;
}

static int is_present(const stream *s, int frame) { return s->state[PRESENT][frame] != 0; }

/* --- Lanes: four numbers at once, or one where the compiler has no vectors ----------------------------------------- */

#if defined(__GNUC__) && !defined(RTSPECINV_SCALAR)

enum { WIDTH = 4 };
typedef float lanes __attribute__((vector_size(16)));
typedef int32_t masks __attribute__((vector_size(16))); /* -1 for true, 0 for false */
typedef float loose __attribute__((vector_size(16), aligned(4), may_alias));

static inline lanes load(const float *from) { return *(const loose *)from; }
static inline void store(float *to, lanes x) { *(loose *)to = x; }
static inline lanes spread(float x) { return (lanes){x, x, x, x}; }
static inline lanes reverse(lanes x) { return (lanes){x[3], x[2], x[1], x[0]}; }
static inline masks less(lanes a, lanes b) { return a < b; }
static inline masks bits_of(lanes x) { return (masks)x; }
static inline lanes lanes_of(masks bits) { return (lanes)bits; }

static inline lanes root(lanes x)
{
#if defined(__wasm_simd128__)
    return __builtin_wasm_sqrt_f32x4(x);
#else
    return (lanes){ROOTF(x[0]), ROOTF(x[1]), ROOTF(x[2]), ROOTF(x[3])};
#endif
}

/* Numbers at even and at odd places. */
static inline void load_pairs(const float *from, lanes *even, lanes *odd)
{
    lanes a = load(from), b = load(from + 4);
    *even = (lanes){a[0], a[2], b[0], b[2]};
    *odd = (lanes){a[1], a[3], b[1], b[3]};
}

static inline void store_pairs(float *to, lanes even, lanes odd)
{
    store(to, (lanes){even[0], odd[0], even[1], odd[1]});
    store(to + 4, (lanes){even[2], odd[2], even[3], odd[3]});
}

/* Store a[0], b[0], c[0], d[0], a[1], ... */
static inline void store_fours(float *to, lanes a, lanes b, lanes c, lanes d)
{
    for (int i = 0; i < 4; i++) store(to + 4 * i, (lanes){a[i], b[i], c[i], d[i]});
}

#else

enum { WIDTH = 1 };
typedef float lanes;
typedef int32_t masks;
typedef union {
    float x;
    int32_t bits;
} both;

static inline lanes load(const float *from) { return *from; }
static inline void store(float *to, lanes x) { *to = x; }
static inline lanes spread(float x) { return x; }
static inline lanes reverse(lanes x) { return x; }
static inline masks less(lanes a, lanes b) { return -(a < b); }
static inline masks bits_of(lanes x) { return ((both){.x = x}).bits; }
static inline lanes lanes_of(masks bits) { return ((both){.bits = bits}).x; }
static inline lanes root(lanes x) { return ROOTF(x); }

static inline void load_pairs(const float *from, lanes *even, lanes *odd)
{
    *even = from[0];
    *odd = from[1];
}

static inline void store_pairs(float *to, lanes even, lanes odd)
{
    to[0] = even;
    to[1] = odd;
}

static inline void store_fours(float *to, lanes a, lanes b, lanes c, lanes d)
{
    to[0] = a;
    to[1] = b;
    to[2] = c;
    to[3] = d;
}

#endif

static inline lanes choose(masks mask, lanes a, lanes b)
{
    return lanes_of((mask & bits_of(a)) | (~mask & bits_of(b)));
}

/* --- Fourier transforms ---------------------------------------------------------------------------------------- */

/*
 * A real frame is transformed as n = n_fft / 2 complex numbers, even samples + i odd samples. Their transform consists
 * of steps of radix 4 (Stockham's, decimation in frequency), the last of which may have radix 2. A complex sequence of n
 * numbers has its real parts first, and its imaginary parts n floats later.
 *
 * A step works on `stride` interleaved sequences of length 4 m:
 * y[q + stride (4 p + j)] = w^(j p) sum_i (-i)^(i j) x[q + stride (p + i m)], with w = exp(-2 pi i / (4 m)).
 */
typedef struct {
    lanes a, A, b, B, c, C, d, D; /* complex numbers a + iA, ... */
} four;

typedef struct {
    lanes re, im;
} complex_lanes;

static inline complex_lanes turned(lanes a, lanes A, lanes w, lanes W)
{
    return (complex_lanes){a * w - A * W, a * W + A * w};
}

/* The transform of four complex numbers that are `step` floats apart. */
static inline four transform_of_four(const float *x, int step, int n)
{
    lanes a = load(x), A = load(x + n), b = load(x + step), B = load(x + step + n);
    lanes c = load(x + 2 * step), C = load(x + 2 * step + n), d = load(x + 3 * step), D = load(x + 3 * step + n);
    lanes e = a + c, E = A + C, f = a - c, F = A - C, g = b + d, G = B + D, h = b - d, H = B - D;
    return (four){e + g, E + G, f + H, F - h, e - g, E - G, f - H, F + h};
}

static inline void put(float *y, int n, lanes a, lanes A)
{
    store(y, a);
    store(y + n, A);
}

/* The first step, whose stride is 1: the results of WIDTH butterflies are interleaved. */
static void first_step(const float *x, float *y, int n, const float *w)
{
    int m = n / 4;
    for (int p = 0; p < m; p += WIDTH) {
        four z = transform_of_four(x + p, m, n);
        complex_lanes b = turned(z.b, z.B, load(w + p), load(w + p + m));
        complex_lanes c = turned(z.c, z.C, load(w + p + 2 * m), load(w + p + 3 * m));
        complex_lanes d = turned(z.d, z.D, load(w + p + 4 * m), load(w + p + 5 * m));
        store_fours(y + 4 * p, z.a, b.re, c.re, d.re);
        store_fours(y + 4 * p + n, z.A, b.im, c.im, d.im);
    }
}

static inline void next_step(const float *x, float *y, int n, int m, int stride, const float *w)
{
    for (int p = 0; p < m; p++) {
        lanes b = spread(w[p]), B = spread(w[p + m]), c = spread(w[p + 2 * m]), C = spread(w[p + 3 * m]);
        lanes d = spread(w[p + 4 * m]), D = spread(w[p + 5 * m]);
        for (int q = 0; q < stride; q += WIDTH) {
            four z = transform_of_four(x + q + stride * p, stride * m, n);
            complex_lanes e = turned(z.b, z.B, b, B), f = turned(z.c, z.C, c, C), g = turned(z.d, z.D, d, D);
            float *to = y + q + 4 * stride * p;
            put(to, n, z.a, z.A);
            put(to + stride, n, e.re, e.im);
            put(to + 2 * stride, n, f.re, f.im);
            put(to + 3 * stride, n, g.re, g.im);
        }
    }
}

/* The last step, whose factors w are 1. */
static void last_step(const float *x, float *y, int n, int radix)
{
    int m = n / radix;
    for (int q = 0; q < m; q += WIDTH) {
        if (radix == 4) {
            four z = transform_of_four(x + q, m, n);
            put(y + q, n, z.a, z.A);
            put(y + q + m, n, z.b, z.B);
            put(y + q + 2 * m, n, z.c, z.C);
            put(y + q + 3 * m, n, z.d, z.D);
        } else {
            lanes a = load(x + q), A = load(x + q + n), b = load(x + q + m), B = load(x + q + m + n);
            put(y + q, n, a + b, A + B);
            put(y + q + m, n, a - b, A - B);
        }
    }
}

/* Transform n complex numbers at z, and return where the result is: at z, or behind it, where there is room. */
static float *transform(const stream *s, float *z, int n)
{
    const float *w = s->constants[TWIDDLES];
    float *x = z, *y = z + 2 * n;
    int stride = 1, length = n;
    for (; length > 4; length /= 4, stride *= 4) {
        int m = length / 4;
        if (stride == 1) first_step(x, y, n, w);
        else if (stride == 4) next_step(x, y, n, m, 4, w); /* known strides make faster code */
        else if (stride == 16) next_step(x, y, n, m, 16, w);
        else next_step(x, y, n, m, stride, w);
        w += 6 * m;
        float *other = x;
        x = y;
        y = other;
    }
    last_step(x, y, n, length);
    return y;
}

/*
 * With W = exp(-2 pi i / n_fft) and Z the transform of even + i odd samples, those of the even and the odd samples are
 * E[k] = (Z[k] + conj Z[n - k]) / 2 and O[k] = (Z[k] - conj Z[n - k]) / 2i. The spectrum is X[k] = E[k] + W^k O[k] and
 * X[n - k] = conj(E[k] - W^k O[k]). The window contains the 1/2.
 */

/* Compute the spectrum of n_fft samples times the window. */
static void analyze(const stream *s, const float *samples, float *spectrum)
{
    int n = s->n_fft / 2, padded = s->padded;
    const float *window = s->constants[WINDOW], *w = s->constants[SPLIT], *W = w + n / 2 + 1;
    float *z = s->work[ROOM];
    for (int i = 0; i < n; i += WIDTH) {
        lanes even, odd, of_even, of_odd;
        load_pairs(samples + 2 * i, &even, &odd);
        load_pairs(window + 2 * i, &of_even, &of_odd);
        put(z + i, n, even * of_even, odd * of_odd);
    }
    z = transform(s, z, n);
    spectrum[0] = 2 * (z[0] + z[n]);
    spectrum[n] = 2 * (z[0] - z[n]);
    spectrum[padded] = spectrum[padded + n] = 0;
    for (int k = n + 1; k < padded; k++) spectrum[k] = spectrum[k + padded] = 0;
    for (int k = 1; k <= n / 2; k += WIDTH) {
        int mirror = n - k - WIDTH + 1;
        lanes a = load(z + k), A = load(z + k + n), b = reverse(load(z + mirror)), B = reverse(load(z + mirror + n));
        lanes e = a + b, E = A - B;
        complex_lanes o = turned(A + B, b - a, load(w + k), load(W + k));
        put(spectrum + k, padded, e + o.re, E + o.im);
        put(spectrum + mirror, padded, reverse(e - o.re), reverse(o.im - E));
    }
}

/*
 * Add the frame of a spectrum, times the dual window, to samples. Imaginary parts at 0 Hz and at the Nyquist frequency
 * do not count. The inverse transform is the transform with real and imaginary parts swapped, before and after.
 */
static void synthesize(const stream *s, const float *spectrum, float *samples)
{
    int n = s->n_fft / 2, padded = s->padded;
    const float *window = s->constants[DUAL_WINDOW], *w = s->constants[SPLIT], *W = w + n / 2 + 1;
    const float *x = spectrum;
    float *z = s->work[ROOM];
    z[0] = x[0] - x[n];
    z[n] = x[0] + x[n];
    for (int k = 1; k <= n / 2; k += WIDTH) {
        int mirror = n - k - WIDTH + 1;
        lanes a = load(x + k), A = load(x + k + padded);
        lanes b = reverse(load(x + mirror)), B = reverse(load(x + mirror + padded));
        lanes e = a + b, E = A - B;
        complex_lanes o = turned(a - b, A + B, load(w + k), spread(0) - load(W + k));
        put(z + k, n, E + o.re, e - o.im);
        put(z + mirror, n, reverse(o.re - E), reverse(e + o.im));
    }
    z = transform(s, z, n);
    for (int i = 0; i < n; i += WIDTH) {
        lanes even, odd, of_even, of_odd;
        load_pairs(samples + 2 * i, &even, &odd);
        load_pairs(window + 2 * i, &of_even, &of_odd);
        store_pairs(samples + 2 * i, even + load(z + i + n) * of_even, odd + load(z + i) * of_odd);
    }
}

/* --- The projection on magnitudes, and the rule ----------------------------------------------------------------- */

/*
 * P_M: the magnitude times c / |c|, or times the sign if |c| is below the smallest normal number. c is first scaled by a
 * power of two, so that its squares neither overflow nor underflow: 2^(127 - e) has the exponent bits 254 - e.
 */
static inline complex_lanes project(lanes magnitude, lanes re, lanes im, lanes sign)
{
    const masks absolute = bits_of(spread(0)) + 0x7fffffff, exponent = bits_of(spread(0)) + (255 << 23);
    lanes a = lanes_of(bits_of(re) & absolute), b = lanes_of(bits_of(im) & absolute);
    lanes largest = choose(less(a, b), b, a), scale = lanes_of((254 << 23) - (bits_of(largest) & exponent));
    masks is_zero = less(largest, spread(SMALLEST_NORMAL));
    lanes x = choose(is_zero, sign, re * scale), y = choose(is_zero, spread(0), im * scale);
    lanes gain = magnitude / root(x * x + y * y);
    return (complex_lanes){x * gain, y * gain};
}

static void to_magnitude(const float *magnitude, const float *c, float *to, int padded, const float *signs)
{
    for (int k = 0; k < padded; k += WIDTH) {
        complex_lanes a = project(load(magnitude + k), load(c + k), load(c + k + padded), load(signs + k));
        put(to + k, padded, a.re, a.im);
    }
}

/*
 * The numbers of a rule are rows m, y, b_0, ..., e of a table with the columns s, A, x_0, ... (engines/table.py). With
 * A = P_M(sum_j m_j x_j), an iteration is y = y_A A + sum_j y_j x_j, s = P_C(y), and
 * x_i = b_is s + b_iA A + sum_j b_ij x_j.
 */
static const float *row_of(const stream *s, int is_later, int frame, int row)
{
    int n_columns = 2 + s->n_slots, n_rows = 3 + s->n_slots;
    return s->constants[RULE] + ((is_later * s->n_open + frame) * n_rows + row) * n_columns;
}

/* Compute y, and all of the new state but s: `row` are the rows of the frame, x its spectra, `apart` floats apart. */
static inline void before(const float *row, float *x, int apart, int n_slots, const float *magnitude,
                          const float *signs, float *y, int padded)
{
    const int n = 2 + n_slots;
    for (int k = 0; k < padded; k += WIDTH) {
        lanes re[MOST_SLOTS], im[MOST_SLOTS], m = spread(0), M = m, d = m, D = m;
        for (int j = 0; j < n_slots; j++) {
            lanes of_m = spread(row[2 + j]), of_y = spread(row[n + 2 + j]);
            re[j] = load(x + j * apart + k);
            im[j] = load(x + j * apart + padded + k);
            m += of_m * re[j];
            M += of_m * im[j];
            d += of_y * re[j];
            D += of_y * im[j];
        }
        complex_lanes a = project(load(magnitude + k), m, M, load(signs + k));
        put(y + k, padded, d + spread(row[n + 1]) * a.re, D + spread(row[n + 1]) * a.im);
        for (int i = 0; i < n_slots; i++) {
            const float *b = row + (2 + i) * n;
            lanes sum = spread(b[1]) * a.re, SUM = spread(b[1]) * a.im;
            for (int j = 0; j < n_slots; j++) {
                sum += spread(b[2 + j]) * re[j];
                SUM += spread(b[2 + j]) * im[j];
            }
            put(x + i * apart + k, padded, sum, SUM);
        }
    }
}

static void add_multiple(float *restrict to, const float *restrict spectrum, float factor, int n)
{
    for (int i = 0; i < n; i++) to[i] += factor * spectrum[i];
}

/* --- The projection on consistent spectra, and an iteration ------------------------------------------------------ */

static float *magnitude_of(const stream *s, int frame) { return s->state[MAGNITUDE] + frame * s->padded; }

static void begin_sum(const stream *s) { copy(s->work[SAMPLES], s->state[COMMITTED], s->n_samples); }

static void add_frame(const stream *s, int frame) { synthesize(s, s->work[SPECTRUM], s->work[SAMPLES] + frame * s->hop); }

/* Divide the sum by the window sum; samples that were heard do not change. */
static void end_sum(const stream *s)
{
    float *restrict samples = s->work[SAMPLES];
    const float *restrict scale = s->work[SCALE];
    copy(samples, s->state[COMMITTED], s->n_heard);
    for (int i = 0; i < s->n_samples; i++) samples[i] *= scale[i];
}

/* Do one iteration; frames that are absent are zeros and remain zeros. */
static void step(const stream *s, int is_later)
{
    float *y = s->work[SPECTRUM];
    int apart = s->n_open * 2 * s->padded;
    begin_sum(s);
    for (int frame = 0; frame < s->n_open; frame++) {
        if (!is_present(s, frame)) continue;
        const float *row = row_of(s, is_later, frame, 0), *magnitude = magnitude_of(s, frame);
        float *x = spectrum_of(s, 0, frame);
        if (s->n_slots == 1) before(row, x, apart, 1, magnitude, s->constants[SIGNS], y, s->padded);
        else if (s->n_slots == 2) before(row, x, apart, 2, magnitude, s->constants[SIGNS], y, s->padded);
        else before(row, x, apart, 3, magnitude, s->constants[SIGNS], y, s->padded);
        add_frame(s, frame);
    }
    end_sum(s);
    for (int frame = 0; frame < s->n_open; frame++) {
        if (!is_present(s, frame)) continue;
        analyze(s, s->work[SAMPLES] + frame * s->hop, y);
        for (int slot = 0; slot < s->n_slots; slot++)
            add_multiple(spectrum_of(s, slot, frame), y, row_of(s, is_later, frame, 2 + slot)[0], 2 * s->padded);
    }
}

/* --- Functions for the phase gradient, which has no library ------------------------------------------------------ */

/* Logarithm of a normal number: x = 2^e m, log m = 2 atanh((m - 1) / (m + 1)) with m from 0.7 to 1.4. */
static double logarithm(float x)
{
    union {
        float x;
        int32_t bits;
    } both = {x};
    int e = (both.bits >> 23) - 127;
    both.bits = (both.bits & 0x7fffff) | (127 << 23);
    double m = both.x;
    if (m > 1.41421356) {
        m /= 2;
        e++;
    }
    double t = (m - 1) / (m + 1), u = t * t;
    double series = 1 + u * (1.0 / 3 + u * (1.0 / 5 + u * (1.0 / 7 + u * (1.0 / 9 + u * (1.0 / 11 + u / 13)))));
    return 0.69314718055994530942 * e + 2 * t * series;
}

typedef struct {
    double re, im;
} direction;

/* exp(i angle): quarter turns, and series from -pi / 4 to pi / 4. */
static direction unit(double angle)
{
    double quarters = angle * (2 / PI);
    int64_t n = (int64_t)(quarters + (quarters < 0 ? -0.5 : 0.5));
    double x = angle - (double)n * (PI / 2), u = x * x;
    double c = 1 - u / 2 * (1 - u / 12 * (1 - u / 30 * (1 - u / 56 * (1 - u / 90))));
    double d = x * (1 - u / 6 * (1 - u / 20 * (1 - u / 42 * (1 - u / 72 * (1 - u / 110)))));
    int turn = (int)(n & 3);
    return turn == 0 ? (direction){c, d} : turn == 1 ? (direction){-d, c} : turn == 2 ? (direction){-c, -d}
                                                                                      : (direction){d, -c};
}

/* --- Starts ------------------------------------------------------------------------------------------------------ */

/*
 * Write log magnitudes of the frame `age` frames before the newest open one, and return whether it sounds. If it does
 * not, the logarithms at `otherwise` take their place. Frames that have left are in `past`.
 */
static int log_magnitudes(const stream *s, int age, float *to, const float *otherwise)
{
    int frame = s->n_open - 1 - age, sounds = 0, n_past = s->plan->n_past;
    for (int k = 0; k < s->n_half; k++) {
        float magnitude;
        if (frame >= 0) magnitude = magnitude_of(s, frame)[k];
        else {
            const float *past = s->state[PAST] + (n_past + frame) * 2 * s->padded;
            double re = past[k], im = past[k + s->padded];
            magnitude = (float)ROOT(re * re + im * im);
        }
        sounds |= magnitude > 0;
        to[k] = (float)logarithm(magnitude > SMALLEST_NORMAL ? magnitude : SMALLEST_NORMAL);
    }
    if (!sounds) move(to, otherwise, s->n_half);
    return sounds;
}

/* The direction of bin k in the frame before the newest; that of `signs` if the bin is 0. */
static direction direction_before(const stream *s, int k)
{
    const float *c = s->state[PAST] + (s->plan->n_past - 1) * 2 * s->padded;
    float magnitude = 1;
    if (s->n_open > 1) {
        c = spectrum_of(s, 0, s->n_open - 2);
        magnitude = magnitude_of(s, s->n_open - 2)[k];
    }
    double re = c[k], im = c[k + s->padded], size = ROOT(re * re + im * im);
    if (magnitude == 0 || size < SMALLEST_NORMAL) return (direction){s->constants[SIGNS][k], 0};
    return (direction){re / size, im / size};
}

static float smaller(float a, float b) { return a < b ? a : b; }
static float larger(float a, float b) { return a > b ? a : b; }

/*
 * Write the start `phase.Gradient` of the newest frame: its magnitudes, with phases integrated from loud to quiet bins.
 *
 * A bin gets its phase along the path whose quietest bin is the loudest of all paths. Paths begin at a bin of the last
 * frame, go to the same bin of this one, and then up or down. `below[k]` and `above[k]` are the quietest levels on the
 * best paths that come from lower and from higher bins.
 */
static void gradient(const stream *s)
{
    const rtspecinv_plan *plan = s->plan;
    const float *advance = s->constants[ADVANCE], *turn = s->constants[TURN];
    int n_half = s->n_half, padded = s->padded, newest = s->n_open - 1;
    float *now = s->work[ROOM], *last = now + padded, *over_time = now + 2 * padded;
    float *below = now + 3 * padded, *above = now + 4 * padded;
    const float *magnitude = magnitude_of(s, newest);
    float *c = spectrum_of(s, 0, newest);

    log_magnitudes(s, 0, now, now);
    if (!log_magnitudes(s, 1, last, now)) { /* after silence there is no earlier phase */
        fill(s->work[SPECTRUM], 0, 2 * padded);
        to_magnitude(magnitude, s->work[SPECTRUM], c, padded, s->constants[SIGNS]);
        return;
    }
    if (plan->n_waiting) log_magnitudes(s, -1, over_time, now);
    else log_magnitudes(s, 2, over_time, last);
    float floor = now[0];
    for (int k = 0; k < n_half; k++) {
        floor = larger(floor, larger(now[k], last[k]));
        over_time[k] = plan->n_waiting ? over_time[k] - last[k] : over_time[k] + (3 * now[k] - 4 * last[k]);
    }
    floor += plan->log_tolerance;

    const float nothing = -1e30f; /* below any logarithm */
    below[0] = above[n_half - 1] = nothing;
    for (int k = 1; k < n_half; k++)
        below[k] = now[k - 1] > floor ? smaller(larger(last[k - 1], below[k - 1]), now[k - 1]) : nothing;
    for (int k = n_half - 2; k >= 0; k--)
        above[k] = now[k + 1] > floor ? smaller(larger(last[k + 1], above[k + 1]), now[k + 1]) : nothing;

    /* Up: paths that come from below, and bins that begin with the last frame; then down: paths that come from above.
       `begin` is the direction of the bin of the last frame where the path begins, `angle` the phase gained since. */
    for (int is_down = 0; is_down < 2; is_down++) {
        double angle = 0;
        direction begin = {1, 0};
        for (int i = 0; i < n_half; i++) {
            int k = is_down ? n_half - 1 - i : i;
            int is_quiet = !(now[k] > floor);
            int from_below = !is_quiet && below[k] >= last[k] && below[k] >= above[k];
            int from_above = !is_quiet && above[k] > last[k] && !from_below;
            if (is_down ? from_above : from_below) {
                int low = is_down ? k : k - 1;
                double gain = plan->to_bin * ((double)over_time[low] + over_time[low + 1]);
                angle += is_down ? -gain : gain;
            } else {
                begin = direction_before(s, k);
                angle = (double)turn[k] + advance[k];
                if (!is_quiet && k > 0 && k < n_half - 1)
                    angle += plan->to_frame * ((double)last[k + 1] + now[k + 1] - last[k - 1] - now[k - 1]);
            }
            if (is_down ? from_above : !from_above) {
                direction gained = unit(angle - turn[k]);
                c[k] = (float)(magnitude[k] * (begin.re * gained.re - begin.im * gained.im));
                c[k + padded] = (float)(magnitude[k] * (begin.re * gained.im + begin.im * gained.re));
            }
        }
    }
}

/* Compute the first spectra of the newest frame. */
static void start(const stream *s)
{
    int newest = s->n_open - 1, padded = s->padded;
    float *c = spectrum_of(s, 0, newest), *y = s->work[SPECTRUM];
    if (!is_present(s, newest)) return;
    if (s->plan->start == RTSPECINV_ZEROS) {
        fill(y, 0, 2 * padded);
        to_magnitude(magnitude_of(s, newest), y, c, padded, s->constants[SIGNS]);
    } else if (s->plan->start == RTSPECINV_GRADIENT) {
        gradient(s);
    } else { /* the spectrum of the samples of the other frames within this one */
        begin_sum(s);
        for (int frame = 0; frame < newest; frame++) {
            if (!is_present(s, frame)) continue;
            to_magnitude(magnitude_of(s, frame), spectrum_of(s, 0, frame), y, padded, s->constants[SIGNS]);
            add_frame(s, frame);
        }
        float *samples = s->work[SAMPLES];
        copy(samples, s->state[COMMITTED], s->n_heard);
        for (int i = 0; i < s->n_fft; i++) samples[newest * s->hop + i] *= s->work[START_SCALE][i];
        analyze(s, samples + newest * s->hop, c);
    }
    for (int slot = s->n_slots - 1; slot >= 0; slot--) {
        float *x = spectrum_of(s, slot, newest), share = s->constants[SHARES][slot];
        for (int i = 0; i < 2 * padded; i++) x[i] = share * c[i];
    }
}

/* --- The beginning and the end of a push -------------------------------------------------------------------------- */

/* Shift all frames by one; the newest has this magnitude, or none. */
static void take_in(const stream *s, const float *magnitude)
{
    int padded = s->padded, newest = s->n_known - 1;
    move(s->state[MAGNITUDE], s->state[MAGNITUDE] + padded, newest * padded);
    move(s->state[PRESENT], s->state[PRESENT] + 1, newest);
    s->state[PRESENT][newest] = magnitude ? 1 : 0;
    if (magnitude) copy(magnitude_of(s, newest), magnitude, s->n_half);
    else fill(magnitude_of(s, newest), 0, s->n_half);
    for (int slot = 0; slot < s->n_slots; slot++) {
        float *x = spectrum_of(s, slot, 0);
        move(x, x + 2 * padded, (s->n_open - 1) * 2 * padded);
        fill(spectrum_of(s, slot, s->n_open - 1), 0, 2 * padded);
    }
}

/*
 * Compute what overlap-added samples are divided by, from the window sum of the frames that are present. In the window
 * sum of the start, the newest frame is missing.
 */
static void make_scales(const stream *s)
{
    const float *restrict envelope = s->constants[ENVELOPE];
    float *restrict scale = s->work[SCALE], *restrict at_start = s->work[START_SCALE];
    int newest = s->n_open - 1;
    copy(scale, s->state[COVERAGE], s->n_samples);
    for (int frame = 0; frame < s->n_open; frame++) {
        if (frame == newest) copy(at_start, scale + newest * s->hop, s->n_fft);
        if (!is_present(s, frame)) continue;
        for (int i = 0; i < s->n_fft; i++) scale[frame * s->hop + i] += envelope[i];
    }
    copy(scale, s->state[COVERAGE], s->n_heard);
    for (int i = 0; i < s->n_samples; i++) scale[i] = 1 / larger(scale[i], s->plan->min_coverage);
    for (int i = 0; i < s->n_fft; i++) at_start[i] = 1 / larger(at_start[i], s->plan->min_coverage_at_start);
}

/* Write P_M of a mixture of the spectra of a frame, row e of the table; without iterations, of its start. */
static void estimate(const stream *s, int n_iter, int frame, float *to)
{
    const float *e = row_of(s, 1, frame, 2 + s->n_slots), *x = spectrum_of(s, 0, frame);
    float *mixed = s->work[ROOM];
    if (n_iter) {
        fill(mixed, 0, 2 * s->padded);
        for (int slot = 0; slot < s->n_slots; slot++)
            add_multiple(mixed, spectrum_of(s, slot, frame), e[2 + slot], 2 * s->padded);
        x = mixed;
    }
    to_magnitude(magnitude_of(s, frame), x, to, s->padded, s->constants[SIGNS]);
}

/* Shift samples to the left by a hop; zeros follow. */
static void shift(const stream *s, float *samples)
{
    move(samples, samples + s->hop, s->n_samples - s->hop);
    fill(samples + s->n_samples - s->hop, 0, s->hop);
}

/* Write the final hop, and let the oldest frame leave the buffer. */
static void commit(const stream *s, int n_iter, float *hop)
{
    const rtspecinv_plan *plan = s->plan;
    int looks_again = n_iter && plan->looks_again, n_fade = plan->n_fade;
    int n_heard = s->n_heard, n_final = n_heard + s->hop, row = 2 * s->padded;
    int n_frames = plan->n_revised + (n_fade ? 2 : 1); /* number of frames that contain the hop */
    float *c = s->work[SPECTRUM], *final = s->work[FINAL], *out = s->work[OUTPUT];
    float *past = s->state[PAST], *committed = s->state[COMMITTED], *coverage = s->state[COVERAGE];
    const float *scale = s->work[SCALE];
    if (n_frames > s->n_open) n_frames = s->n_open;
    if (looks_again) {
        begin_sum(s);
        for (int frame = 0; frame < s->n_open; frame++) {
            if (!is_present(s, frame)) continue;
            estimate(s, n_iter, frame, c);
            add_frame(s, frame);
        }
        end_sum(s);
    }
    copy(out, committed, s->n_samples);
    for (int frame = 0; frame < n_frames; frame++) {
        fill(final, 0, row);
        if (is_present(s, frame)) {
            if (looks_again) {
                analyze(s, s->work[SAMPLES] + frame * s->hop, c);
                to_magnitude(magnitude_of(s, frame), c, final, s->padded, s->constants[SIGNS]);
            } else {
                estimate(s, n_iter, frame, final);
            }
            synthesize(s, final, out + frame * s->hop);
        }
        if (frame > 0) continue;
        if (plan->n_past) { /* keep its spectrum and its samples that were not returned */
            move(past, past + row, (plan->n_past - 1) * row);
            copy(past + (plan->n_past - 1) * row, final, row);
        }
        copy(committed + n_final, out + n_final, s->n_samples - n_final);
    }
    for (int i = 0; i < s->hop; i++) hop[i] = out[n_heard + i] * scale[n_heard + i];
    for (int i = 0; i < n_fade; i++) {
        float expected = s->state[EXPECTED][i];
        hop[i] = expected + s->constants[FADE][i] * (hop[i] - expected);
        s->state[EXPECTED][i] = out[n_final + i] * scale[n_final + i];
    }
    if (is_present(s, 0)) {
        for (int i = n_final; i < s->n_fft; i++) coverage[i] += s->constants[ENVELOPE][i];
    }
    shift(s, committed);
    shift(s, coverage);
    if (n_heard) { /* this hop follows the samples that were returned before */
        copy(committed + n_heard - s->hop, hop, s->hop);
        fill(coverage + n_heard - s->hop, 1, s->hop);
    }
}

/* --- Public functions -------------------------------------------------------------------------------------------- */

int rtspecinv_check(const rtspecinv_plan *plan, size_t n_bytes)
{
    size_t sizes[N_CONSTANTS];
    if (!plan || (uintptr_t)plan % sizeof(float) || n_bytes < sizeof *plan) return RTSPECINV_NO_PLAN;
    if (plan->magic != RTSPECINV_MAGIC) return RTSPECINV_NO_PLAN;
    if (plan->format != RTSPECINV_FORMAT) return RTSPECINV_OTHER_FORMAT;
    int n_fft = plan->n_fft, hop = plan->hop_length;
    if (n_fft < 32 || n_fft > 32768 || n_fft & (n_fft - 1)) return RTSPECINV_LENGTH;
    if (hop < 1 || hop > n_fft || plan->n_open < 1 || plan->n_open > 256) return RTSPECINV_SIZES;
    if (plan->n_waiting < 0 || plan->n_waiting > 1 || plan->n_revised < 0 || plan->n_past < 0 || plan->n_past > 2)
        return RTSPECINV_SIZES;
    if (plan->n_revised >= plan->n_open || plan->n_revised > (n_fft - 1) / hop) return RTSPECINV_SIZES;
    if (plan->n_fade < 0 || plan->n_fade > hop || plan->n_fade > n_fft - hop) return RTSPECINV_SIZES;
    if (plan->n_iter < 0 || plan->n_iter > MOST_ITER) return RTSPECINV_SIZES;
    int longest = (plan->n_open + plan->n_waiting) * hop + n_fft;
    if (plan->latency < 0 || plan->latency > longest || plan->n_flush < 0 || plan->n_flush > longest)
        return RTSPECINV_SIZES;
    if (plan->n_slots < 1 || plan->n_slots > MOST_SLOTS) return RTSPECINV_RULE;
    if (plan->start < RTSPECINV_OVERLAP || plan->start > RTSPECINV_GRADIENT) return RTSPECINV_START;
    if (plan->start == RTSPECINV_GRADIENT && plan->n_past != 2) return RTSPECINV_SIZES;
    constants_of(plan, sizes);
    size_t n_words = sizeof *plan / sizeof(float) + sum_of(sizes, N_CONSTANTS);
    if (plan->n_words < 0 || (size_t)plan->n_words != n_words || n_bytes / sizeof(float) < n_words)
        return RTSPECINV_NO_PLAN;
    return RTSPECINV_OK;
}

size_t rtspecinv_state_floats(const rtspecinv_plan *plan)
{
    size_t sizes[N_STATE];
    state_of(plan, sizes);
    return sum_of(sizes, N_STATE);
}

size_t rtspecinv_work_floats(const rtspecinv_plan *plan)
{
    size_t sizes[N_WORK];
    work_of(plan, sizes);
    return sum_of(sizes, N_WORK);
}

void rtspecinv_reset(const rtspecinv_plan *plan, float *state)
{
    fill(state, 0, (int)rtspecinv_state_floats(plan));
}

int rtspecinv_push(const rtspecinv_plan *plan, float *state, float *work, const float *magnitude, int32_t n_iter,
                   float *hop)
{
    stream s = stream_of(plan, state, work);
    if (n_iter < 0) return RTSPECINV_BAD_N_ITER;
    for (int k = 0; magnitude && k < s.n_half; k++) {
        if (!(magnitude[k] >= 0 && magnitude[k] <= plan->largest)) return RTSPECINV_BAD_MAGNITUDE;
    }
    take_in(&s, magnitude);
    make_scales(&s);
    start(&s);
    for (int32_t i = 0; i < n_iter; i++) step(&s, i > 0);
    commit(&s, n_iter, hop);
    return RTSPECINV_OK;
}
