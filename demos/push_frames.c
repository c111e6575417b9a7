/*
 * Inverts magnitudes without Python: a plan and frames in, samples out.
 *
 *     cc -O3 -fno-math-errno -I KERNEL demos/push_frames.c KERNEL/push.c -o push_frames
 *     ./push_frames stream.plan < magnitudes.f32 > samples.f32
 *
 * KERNEL is the folder rtspecinv/kernel. Frames are n_fft / 2 + 1 magnitudes each, one after the other, and samples are
 * mono, both as 32-bit floats. In Python, the plan is made by
 *
 *     Path("stream.plan").write_bytes(rtspecinv.kernel_plan(rtspecinv.StreamingInverter(stft)))
 */
#include "push.h"

#include <stdio.h>
#include <stdlib.h>

/* All bytes of a file; the program ends if there is none. */
static void *read_all(const char *path, size_t *n_bytes)
{
    FILE *file = fopen(path, "rb");
    if (!file || fseek(file, 0, SEEK_END)) exit(fprintf(stderr, "%s cannot be read\n", path));
    *n_bytes = (size_t)ftell(file);
    void *bytes = malloc(*n_bytes);
    rewind(file);
    if (!bytes || fread(bytes, 1, *n_bytes, file) != *n_bytes) exit(fprintf(stderr, "%s cannot be read\n", path));
    fclose(file);
    return bytes;
}

int main(int n_arguments, char **arguments)
{
    if (n_arguments != 2) return fprintf(stderr, "usage: push_frames PLAN < magnitudes.f32 > samples.f32\n");
    size_t n_bytes, n_read;
    rtspecinv_plan *plan = read_all(arguments[1], &n_bytes);
    int error = rtspecinv_check(plan, n_bytes);
    if (error) return fprintf(stderr, "%s: error %d, see push.h\n", arguments[1], error);

    size_t n_freq = (size_t)plan->n_fft / 2 + 1, hop_length = (size_t)plan->hop_length;
    float *state = calloc(rtspecinv_state_floats(plan), sizeof(float));
    float *work = malloc(rtspecinv_work_floats(plan) * sizeof(float));
    float *frame = malloc(n_freq * sizeof(float)), *hop = malloc(hop_length * sizeof(float));
    if (!state || !work || !frame || !hop) return fprintf(stderr, "There is not enough memory\n");

    size_t to_drop = (size_t)plan->latency, to_flush = (size_t)plan->n_flush;
    for (;;) {
        n_read = fread(frame, sizeof(float), n_freq, stdin);
        int is_frame = n_read == n_freq;
        size_t n = is_frame || to_flush > hop_length ? hop_length : to_flush; /* samples of this hop that count */
        if (!is_frame && !to_flush) break;
        error = rtspecinv_push(plan, state, work, is_frame ? frame : NULL, plan->n_iter, hop);
        if (error) return fprintf(stderr, "A frame: error %d, see push.h\n", error);
        if (!is_frame) to_flush -= n;
        size_t dropped = to_drop < n ? to_drop : n;
        to_drop -= dropped;
        fwrite(hop + dropped, sizeof(float), n - dropped, stdout);
    }
    free(plan), free(state), free(work), free(frame), free(hop);
    return ferror(stdin) || ferror(stdout) || fflush(stdout);
}
