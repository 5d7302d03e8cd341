/* Stable Diffusion's safety checker: CLIP's vision tower looks at a picture, and what it sees is held against
 * embeddings of concepts, each with a threshold of its own.  Three "special care" concepts make the others'
 * thresholds stricter.
 * Thread: engine. */
#ifndef ENGINE_MODELS_SAFETY_H
#define ENGINE_MODELS_SAFETY_H
#include "base/image.h"
#include "engine/job.h"
#include "engine/models/nn.h"

struct safety;

/* part: CHECKPOINT_SAFETY, with feature_extractor/preprocessor_config.json where the directory has it. */
int safety_open(struct safety **out, struct nn_loader *l, struct err *e);
void safety_close(struct safety *m); /* its weights are the store's */

/* Pixels of a side of what the tower takes. */
int safety_size(const struct safety *m);

struct safety_pass {
    struct tensor pixels;  /* [1, size, size, 3], pinned, by safety_look */
    struct tensor seen;    /* [1, n_project], pinned */
    struct tensor cosines; /* [1, concepts of both kinds], pinned */
};
struct safety_pass safety_record(const struct safety *m, struct program *p);
/* A picture as the tower takes it: the shortest side resized as PIL does, the middle cut out, normalised. */
int safety_look(const struct safety *m, const struct image *rgb, float *pixels, struct err *e);
/* The cosines of what was seen, as scores: how far above its threshold each concept is, rounded to three digits; one
 * above 0 flags the picture. */
void safety_judge(const struct safety *m, const float *cosines, struct safety_result *out);
#endif
