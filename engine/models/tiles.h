/* Overlapping tiles of one size along an axis, spread evenly: where they lie, and whose a cell is between two
 * of them.  Pictures that are too large for a pass are made of them (image_vae.c, upscaler.c), and latents
 * that are too large for a UNet (engine/windows.c).
 * Thread: any. */
#ifndef ENGINE_MODELS_TILES_H
#define ENGINE_MODELS_TILES_H

struct tiles_axis {
    int size, tile, n; /* cells of all, of a tile; tiles */
};

/* Tiles that begin at most `stride` cells apart; one where size <= tile. */
struct tiles_axis tiles_axis(int size, int tile, int stride);
int tiles_begin(const struct tiles_axis *a, int i);
/* The first cell of tile i where each cell belongs to one tile alone: the middle of an overlap; i = n: size. */
int tiles_border(const struct tiles_axis *a, int i);
/* Tile i's share of a cell, 0 ... 1, where results go over from one to the other on a straight line in the
 * middle of their overlap; `at` counts parts of a cell, `scale` of them each.  The shares sum up to 1. */
float tiles_share(const struct tiles_axis *a, int i, int at, int scale);
#endif
