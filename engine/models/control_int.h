/* What the files of ControlNets and T2I-Adapters share.  Included only by control*.c; thread: engine. */
#ifndef ENGINE_MODELS_CONTROL_INT_H
#define ENGINE_MODELS_CONTROL_INT_H
#include "engine/models/control.h"
#include "engine/models/unet.h"

enum { CONTROL_EMBED_MAX = 16, CONTROL_STAGES_MAX = 8, CONTROL_RESNETS_MAX = 16 };

/* One level of an adapter: a halving, a change of width, residual blocks, a change of width. */
struct control_stage {
    bool down, has_in, has_out;
    int c_in, c_mid, c_out;
    struct nn_linear in, out;
    struct nn_conv down_in; /* down: the average of 2 x 2 pixels and `in` in one */
    struct {
        struct nn_conv block1, block2; /* block2: of a light adapter */
        struct nn_linear point;        /* of the others */
    } resnets[CONTROL_RESNETS_MAX];
};

struct control {
    struct control_info info;
    struct backend *be;
    struct nn_store store;
    int shrink; /* pixels of a side that make one of the hint's or of the first feature's */
    /* a ControlNet */
    struct unet *net; /* its half of a UNet; NULL: an adapter */
    bool bgr;         /* it wants blue first */
    int n_embed;
    struct nn_conv embed[CONTROL_EMBED_MAX];
    struct nn_linear zero[UNET_MAX_SKIPS], zero_mid; /* the convolutions that began as zeros */
    struct unet_places places;                       /* of its half: n_skips + 1 count */
    /* an adapter */
    int channels, n_stages, n_resnets; /* of the picture: 3, or 1 for gray */
    bool light;
    struct nn_conv conv_in;
    struct control_stage stages[CONTROL_STAGES_MAX];
};

int control_net_load(struct control *c, struct nn_loader *l, struct err *e);
int control_adapter_load(struct control *c, struct nn_loader *l, struct err *e);

/* What a hint is made of: recorded from a picture [1, height, width, ...]. */
struct control_hint_pass {
    struct tensor picture; /* [1, h, w, c] pinned: as it is, or its pixels side by side */
    struct tensor out[CONTROL_STAGES_MAX]; /* pinned */
    int n_out;
};
void control_net_record_hint(const struct control *c, struct program *p, int height, int width,
                             struct control_hint_pass *pass);
void control_adapter_record(const struct control *c, struct program *p, int height, int width,
                            struct control_hint_pass *pass);
/* Pixels of a side that a level's feature has one value for. */
int control_adapter_shrink(const struct control *c, int stage);
#endif
