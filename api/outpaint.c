/* The canvas of an outpainting.  Edge pixels drawn out give the VAE no hard border to see at the seam, and the
 * seam lies a little inside of the picture, so that the new part grows out of it. */
#include "api/outpaint.h"

enum { SEAM = 8 }; /* pixels of the picture that are made anew with the rest */

/* Where a side of the picture begins on the canvas. */
static int place(int room, bool at_begin, bool at_end)
{
    return at_begin ? 0 : at_end ? room : room / 2;
}

int outpaint_canvas(struct image *canvas, struct image *mask, const struct image *from,
                    const int size[2], enum outpaint_anchor anchor, struct err *e)
{
    const int room_x = size[0] - from->width, room_y = size[1] - from->height;
    const int x0 = place(room_x, anchor == OUTPAINT_LEFT, anchor == OUTPAINT_RIGHT);
    const int y0 = place(room_y, anchor == OUTPAINT_TOP, anchor == OUTPAINT_BOTTOM);
    *canvas = *mask = (struct image){0};
    if (room_x < 0 || room_y < 0) {
        err_set(e, ERR_INVALID, "a picture of %dx%d does not fit into a size of %dx%d", from->width,
                from->height, size[0], size[1]);
        return err_param(e, "size");
    }
    int rc = image_extend(canvas, from, -x0, -y0, size[0], size[1], e);
    if (rc == 0)
        rc = image_init(mask, size[0], size[1], 1, e);
    if (rc != 0) {
        image_free(canvas);
        return rc;
    }
    uint8_t *is_new = mask->data;
    for (int y = 0; y < size[1]; y++) {
        const int fy = y - y0, top = y0 > 0 ? SEAM : 0, bottom = y0 < room_y ? SEAM : 0;
        const bool in_y = fy >= top && fy < from->height - bottom;
        for (int x = 0; x < size[0]; x++) {
            const int fx = x - x0, left = x0 > 0 ? SEAM : 0, right = x0 < room_x ? SEAM : 0;
            const bool in = in_y && fx >= left && fx < from->width - right;
            *is_new++ = in ? 0 : 255;
        }
    }
    return 0;
}
