/* Matrices repacked for the CPU (the layout is drawn in panel.h).
 * Thread: the backend's; a weight is constant once open. */
#ifndef KERNELS_CPU_WEIGHT_H
#define KERNELS_CPU_WEIGHT_H
#include "kernels/backend.h"

struct cpu_weight {
    struct weight w; /* first */
    char *data;      /* [n_panels] of panel_bytes, 64-byte aligned */
    size_t panel_bytes;
    int64_t n_panels;
};

static inline const struct cpu_weight *cpu_weight_of(const struct weight *w)
{
    return (const struct cpu_weight *)w;
}

/* The backend's weight_open, weight_close, weight_row and weight_bytes (kernels/backend.h). */
int cpu_weight_open(struct backend *be, struct weight **out, enum dtype type, int64_t n_out,
                    int64_t n_in, const void *raw, struct err *e);
void cpu_weight_close(struct backend *be, struct weight *w);
void cpu_weight_row(struct backend *be, const struct weight *w, int64_t row, float *dst);
size_t cpu_weight_bytes(enum dtype type, int64_t n_out, int64_t n_in, struct err *e);
#endif
