/* Where tiles lie, and their shares. */
#include "engine/models/tiles.h"

#include <stdint.h>

struct tiles_axis tiles_axis(int size, int tile, int stride)
{
    struct tiles_axis a = {.size = size, .tile = tile < size ? tile : size, .n = 1};
    if (a.tile < size)
        a.n = (size - a.tile + stride - 1) / stride + 1;
    return a;
}

int tiles_begin(const struct tiles_axis *a, int i)
{
    return a->n > 1 ? (int)((int64_t)i * (a->size - a->tile) / (a->n - 1)) : 0;
}

int tiles_border(const struct tiles_axis *a, int i)
{
    if (i <= 0)
        return 0;
    return i < a->n ? (tiles_begin(a, i - 1) + a->tile + tiles_begin(a, i)) / 2 : a->size;
}

/* How much of a cell the tiles up to i have left for i + 1 ...: 0 before the border between the two, 1 after
 * it. */
static float beyond(const struct tiles_axis *a, int i, int at, int scale)
{
    if (i < 0)
        return 1;
    if (i >= a->n - 1)
        return 0;
    const int overlap = tiles_begin(a, i) + a->tile - tiles_begin(a, i + 1);
    const int wide = (overlap < a->tile / 4 ? overlap : a->tile / 4) * scale;
    const float middle = (float)((tiles_begin(a, i) + a->tile + tiles_begin(a, i + 1)) * scale) / 2;
    const float t = ((float)at + 0.5f - middle) / (float)(wide > 0 ? wide : 1) + 0.5f;
    return t < 0 ? 0 : t > 1 ? 1 : t;
}

float tiles_share(const struct tiles_axis *a, int i, int at, int scale)
{
    return beyond(a, i - 1, at, scale) * (1 - beyond(a, i, at, scale));
}
