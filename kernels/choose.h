/* From logits to tokens on the device, so that the next step need not wait for the host to see them.
 * Thread: the backend's. */
#ifndef KERNELS_CHOOSE_H
#define KERNELS_CHOOSE_H
#include "kernels/tensor.h"

/* How one row's token is chosen; engine/sample.h says the same of its parameters. */
struct choose_row {
    float temperature;                     /* 0: the best token, the lowest id of equals */
    float top_p;                           /* 1: all */
    int32_t top_k;                         /* 0: all */
    float repetition, presence, frequency; /* 1, 0, 0: none */
    float u;                               /* [0, 1): which of the tokens */
    int32_t first, n_ids, n_prompt; /* ids[first ...]: what the penalties look at, prompt first */
};

enum { CHOOSE_SLOTS = 2 };

/* Tokens for every row.  They stay on the device, in `there` (embed may read them), and come to `here` in
 * their own time: backend->chosen(slot) waits for that.  At most one choice a slot is under way.
 * -1 where no logit is finite. */
struct op_choose {
    struct tensor *logits;         /* [rows, n_vocab]; changed */
    const struct choose_row *rows; /* [rows] */
    const int32_t *ids;            /* [n_ids] */
    int n_ids;
    /* [rows] of the device: what row r has at ids[first + n_prompt], if it has that many; NULL: as it is there. */
    const int32_t *before;
    int32_t *there; /* [rows] of the device */
    int32_t *here;  /* [rows] of host_alloc */
    int slot;
};
#endif
