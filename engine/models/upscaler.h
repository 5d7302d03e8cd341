/* Super-resolution networks: RRDBNet (ESRGAN, Wang et al. 2018; Real-ESRGAN, Wang et al. 2021) and
 * SRVGGNetCompact, from a .safetensors.  A picture becomes one of `scale` times its sides, by overlapping tiles.
 * Thread: engine; upscaler_info never changes after upscaler_open and may be read by any. */
#ifndef ENGINE_MODELS_UPSCALER_H
#define ENGINE_MODELS_UPSCALER_H
#include "engine/models/image_model.h"

enum { UPSCALER_SIDE_MAX = 8192 }; /* of a result */

struct upscaler_info {
    const char *family; /* "esrgan", "srvgg" */
    int scale;          /* 1, 2, 4 or 8 */
    int64_t n_params;
    enum dtype type; /* of most weights' bytes */
    size_t weight_bytes;
};

struct upscaler;
/* tile_bytes: the most that a pass takes, 0: 256 MiB.  progress may be NULL. */
int upscaler_open(struct upscaler **out, struct checkpoint *c, struct backend *be,
                  size_t tile_bytes, atomic_int *progress, struct err *e);
void upscaler_close(struct upscaler *m); /* after its passes; NULL is nothing */
const struct upscaler_info *upscaler_info(const struct upscaler *m);

/* A picture through the network, in pieces (image_run, image_restart, image_close).  What comes out depends
 * on the picture and on tile_bytes alone. */
struct upscaler_pass {
    struct image_unit unit;
    int width, height;
    const uint8_t *rgb; /* [height, width, 3] the caller's, set before a run */
    uint8_t *out;       /* [height * scale, width * scale, 3] the caller's too */
    bool broken;        /* the network's numbers were not finite */
};
int upscaler_pass_open(struct upscaler_pass **out, struct upscaler *m, int width, int height,
                       struct err *e);
/* Bytes that it would take; 0 with *e filled. */
size_t upscaler_pass_bytes(struct upscaler *m, int width, int height, struct err *e);
#endif
