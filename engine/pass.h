/* Passes of an image model's pipeline: measured once, opened when they are needed, kept while there is room.
 * Included only by pipeline*.c and pass.c.  Thread: engine. */
#ifndef ENGINE_PASS_H
#define ENGINE_PASS_H
#include "engine/pipeline.h"

/* Bytes of a pass; measured once, for it takes milliseconds.  0 with *e filled. */
size_t pass_bytes(struct pipeline *p, struct pass_key key, struct err *e);
/* Makes a pass the current one.  Its bytes are at most hold_bytes. */
int pass_make_current(struct pipeline *p, struct pass_key key, struct err *e);
/* The current pass becomes one that is kept. */
void pass_put_away(struct pipeline *p);
void pass_close(struct pass *s);
/* Parts of the UNet: `a` of PASS_UNET and PASS_STEERED.  With IMAGE_WHOLE and branch -1 it is the rows alone. */
int pass_unet_rows(int rows, unsigned parts, int branch);
int pass_unet_pairs(int rows, int branch); /* whole, with rows in pairs */
/* Closes the passes of a kind with (a & mask) == a, none of which is running, and forgets their sizes. */
void pass_forget(struct pipeline *p, enum pass_kind kind, int a, int mask);
#endif
