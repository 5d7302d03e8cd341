/* Edits that make a picture larger: the canvas grows around it, and what is new is the mask.
 * Thread: one worker during api_begin. */
#ifndef API_OUTPAINT_H
#define API_OUTPAINT_H
#include "base/image.h"

enum outpaint_anchor {
    OUTPAINT_NO,
    OUTPAINT_CENTER,
    OUTPAINT_LEFT,
    OUTPAINT_RIGHT,
    OUTPAINT_TOP,
    OUTPAINT_BOTTOM
};

/* canvas: the RGB picture where the anchor says, its edge pixels drawn out over the rest; mask: gray, 255 what is
 * new and a seam into the picture.  ERR_INVALID when it does not fit. */
int outpaint_canvas(struct image *canvas, struct image *mask, const struct image *from,
                    const int size[2], enum outpaint_anchor anchor, struct err *e);
#endif
