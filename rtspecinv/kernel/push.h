/*
 * One push of a stream of phase retrieval, in C: a frame of magnitudes in, one hop of samples out.
 *
 * push.c and this header are all that a program needs. They call no library, allocate no memory and keep nothing
 * between calls, so they compile for browsers (WebAssembly), plug-ins and firmware:
 *
 *     cc -O3 -fno-math-errno -c push.c
 *
 * The constants of an inverter, its sizes, windows and the numbers of its rule, come in a *plan*: bytes that
 * `rtspecinv.kernel_plan(inverter)` returns in Python, in memory aligned as floats are. A plan does not change, so
 * it serves any number of streams, in any threads. Each stream has a *state*; the *work* memory is used during a
 * push only, so that the streams of one thread can share it.
 *
 *     const rtspecinv_plan *plan = bytes_of_a_file;
 *     if (rtspecinv_check(plan, n_bytes) != RTSPECINV_OK) ...
 *     float *state = calloc(rtspecinv_state_floats(plan), sizeof(float));
 *     float *work = malloc(rtspecinv_work_floats(plan) * sizeof(float));
 *     rtspecinv_push(plan, state, work, magnitude, plan->n_iter, hop);
 */
#ifndef RTSPECINV_PUSH_H
#define RTSPECINV_PUSH_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum {
    RTSPECINV_MAGIC = 0x49535452, /* the letters RTSI, little-endian */
    RTSPECINV_FORMAT = 1          /* version of the layout of a plan */
};

/* Results of the functions. */
enum rtspecinv_error {
    RTSPECINV_OK = 0,
    RTSPECINV_NO_PLAN = 1,       /* the bytes are not a plan, are incomplete, or are not aligned as floats are */
    RTSPECINV_OTHER_FORMAT = 2,  /* another version of the package made the plan: make it again */
    RTSPECINV_LENGTH = 3,        /* n_fft is not a power of two from 32 to 32768 */
    RTSPECINV_SIZES = 4,         /* hop_length, n_open or another size is out of range */
    RTSPECINV_RULE = 5,          /* the rule needs more than 3 spectra for each frame */
    RTSPECINV_START = 6,         /* the start of a frame is not one of `rtspecinv_start` */
    RTSPECINV_BAD_MAGNITUDE = 7, /* a magnitude is negative, not a number or too large: the state is unchanged */
    RTSPECINV_BAD_N_ITER = 8     /* n_iter is negative: the state is unchanged */
};

/* Methods that make the first phase of a frame, as in `rtspecinv.phase`. */
enum rtspecinv_start { RTSPECINV_OVERLAP = 0, RTSPECINV_ZEROS = 1, RTSPECINV_GRADIENT = 2 };

typedef struct rtspecinv_plan {
    int32_t magic, format;
    int32_t n_words;       /* size of the plan with its constants, in words of 4 bytes */
    int32_t n_fft;         /* a frame has n_fft / 2 + 1 magnitudes */
    int32_t hop_length;    /* samples of a hop */
    int32_t latency;       /* samples to drop from the beginning of a stream */
    int32_t n_flush;       /* samples that follow the hop of the last frame: push NULL to get them */
    int32_t n_iter;        /* default number of iterations of a push */
    int32_t n_open;        /* frames that iterations change */
    int32_t n_waiting;     /* frames that have arrived but have no phase yet */
    int32_t n_revised;     /* those of the open frames whose first hop has been returned */
    int32_t n_past;        /* frames that are kept after they have left the buffer */
    int32_t n_fade;        /* samples at the beginning of a hop that fade from the expected samples */
    int32_t n_slots;       /* spectra that the rule keeps for each frame */
    int32_t looks_again;   /* whether one more iteration of Griffin-Lim makes the spectrum to commit */
    int32_t start;         /* enum rtspecinv_start */
    float largest;         /* largest magnitude that a push accepts */
    float min_coverage;    /* smallest window sum that samples are divided by */
    float min_coverage_at_start; /* the same for the start of the newest frame */
    float to_frame, to_bin, log_tolerance; /* constants of the phase gradient */
    float unused[2];       /* the constants in push.c, `constants_of`, follow */
} rtspecinv_plan;

/* Return RTSPECINV_OK if the plan can be used. Call it once, before the other functions. */
int rtspecinv_check(const rtspecinv_plan *plan, size_t n_bytes);

/* Return the size of the memory of a stream, and of the work memory, in floats. */
size_t rtspecinv_state_floats(const rtspecinv_plan *plan);
size_t rtspecinv_work_floats(const rtspecinv_plan *plan);

/* Begin a stream, or begin it anew: set all of its state to zero. */
void rtspecinv_reset(const rtspecinv_plan *plan, float *state);

/*
 * Take in a frame of n_fft / 2 + 1 magnitudes, or NULL after the last one, and write hop_length samples to `hop`.
 *
 * state, work: memory aligned as floats are, faster if aligned to 16 bytes. n_iter: iterations of this push, usually plan->n_iter.
 * Returns RTSPECINV_OK, RTSPECINV_BAD_MAGNITUDE or RTSPECINV_BAD_N_ITER. `hop` may not overlap with `magnitude`.
 */
int rtspecinv_push(const rtspecinv_plan *plan, float *state, float *work, const float *magnitude, int32_t n_iter,
                   float *hop);

#ifdef __cplusplus
}
#endif

#endif
