/* Image jobs in the engine: what is checked before one is queued. */
#include <math.h>

#include "engine/engine_int.h"

int engine_image_submit(struct engine *g, struct job *j, struct err *e)
{
    int model = engine_find(g, MODEL_IMAGE, j->image.model, e);
    if (model < 0)
        return model;
    return err_set(e, ERR_UNSUPPORTED, "images are not built in yet");
}
