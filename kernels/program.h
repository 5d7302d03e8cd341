/* A forward pass as a list of ops: recorded once for given shapes, run many times, and left between any
 * two ops, so that a long pass (a UNet, an image decoder) is cut into pieces of a few milliseconds.
 * Thread: the backend's.
 *
 * A model writes its pass as a function that takes tensors from program_tensor and calls
 *     OP(program_backend(p), linear, .out = {&y}, .w = {w}, .x = &x);
 * The function runs twice.  The first time tensors have no memory; the program notes which op touches
 * them first and last, and lays them over each other where their lives do not meet.  So the bytes are
 * known before any are taken (program_bytes).  The second time they have their places, and the ops
 * are kept.  Both times the function must do the same: it may look at shapes, never at contents.
 *
 * Data that is there before (weights, inputs that the caller owns) may be used in any op by its address;
 * it must live as long as the program.  Arrays that ops point to (ids, attention items) come from
 * program_array, and may be filled or changed between runs. */
#ifndef KERNELS_PROGRAM_H
#define KERNELS_PROGRAM_H
#include "kernels/backend.h"

#define PROGRAM_MAX_OPS (1 << 20)

struct program;
typedef void program_record_fn(struct program *p, void *arg);

/* ---- for the function that records ---- */

/* Tensors are of this type from here on: f32 (at first), or what program_backend(p)->activations says.  Pinned ones
 * are f32 always. */
void program_use(struct program *p, enum dtype type);
/* A tensor [dims] that lives from the first to the last op that touches any part of it.  ndim
 * 1 ... 4. */
struct tensor program_tensor(struct program *p, int ndim, const int64_t *dims);
#define PROGRAM_TENSOR(p, ...)                                                   \
    program_tensor(p, (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), \
                   (const int64_t[]){__VA_ARGS__})
/* The same of f32, but it keeps its place and contents from run to run: inputs and results. */
struct tensor program_pinned(struct program *p, int ndim, const int64_t *dims);
#define PROGRAM_PINNED(p, ...)                                                   \
    program_pinned(p, (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), \
                   (const int64_t[]){__VA_ARGS__})
/* Makes a tensor of the program, of f32, a pinned one. */
void program_pin(struct program *p, const struct tensor *t);
/* Where the host fills or reads a pinned tensor, between runs: its own memory on a device that computes
 * in the host's, else a copy that goes to the device before the first op of each run (PROGRAM_IN) or
 * comes from it after the last one (PROGRAM_OUT).  For any time from recording on; NULL in the first
 * of the two passes, and when there is no memory, which the next run then says. */
enum program_way { PROGRAM_IN, PROGRAM_OUT };
float *program_host(struct program *p, const struct tensor *t, enum program_way way);
/* Zeroed memory of the program for what is not a tensor. */
void *program_array(struct program *p, size_t count, size_t size);
/* Takes ops by OP(); has nothing else of a backend. */
struct backend *program_backend(struct program *p);
/* A pointer of whoever records, for the functions that are called below. */
void program_set_note(struct program *p, void *note);
void *program_note(const struct program *p);
/* False in the first of the two passes, when addresses of tensors mean nothing. */
bool program_recording(const struct program *p);

/* ---- for everybody else ---- */

/* Bytes that program_open would take, or 0 with *e filled. */
size_t program_bytes(struct backend *be, program_record_fn *fn, void *arg, struct err *e);
/* ERR_NOMEM, or ERR_TOOBIG for shapes beyond all reason.  fn and arg are not needed afterwards. */
int program_open(struct program **out, struct backend *be, program_record_fn *fn, void *arg,
                 struct err *e);
void program_close(struct program *p);          /* NULL is nothing */
size_t program_memory(const struct program *p); /* bytes it took */
int program_n_ops(const struct program *p);

/* Goes on where it stopped until clock_us() >= until_us, at least one op.  1: there is more; 0: done, and
 * the next call begins again; ERR_DEVICE; ERR_NOMEM when program_host had none: nothing ran, and inputs must be
 * set again. */
int program_run(struct program *p, int64_t until_us, struct err *e);
/* The next run begins at the first op. */
void program_restart(struct program *p);
int program_position(const struct program *p); /* ops done of this run */
#endif
