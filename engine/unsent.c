/* A list of the jobs with pixels underway; jobs keep the count themselves (job_pixels), so that it may outlive them. */
#include "engine/unsent.h"

#include <stdlib.h>

struct unsent {
    struct unsent *next;
    struct job_pixels *pixels;
    size_t bytes; /* held */
};

void unsent_add(struct unsent **list, struct cache *c, const struct job *j)
{
    struct job_pixels *pixels = job_pixels_ref(j);
    const size_t bytes = job_pixels_bytes(pixels);
    /* It fits, since the job held more; were it otherwise, nobody could wait for it. */
    if (bytes == 0 || !cache_hold(c, bytes)) {
        job_pixels_unref(pixels);
        return;
    }
    struct unsent *u = xcalloc(1, sizeof *u);
    *u = (struct unsent){.next = *list, .pixels = pixels, .bytes = bytes};
    *list = u;
}

static void keep(struct unsent **at, struct cache *c, size_t bytes)
{
    struct unsent *u = *at;
    if (bytes < u->bytes) {
        cache_unhold(c, u->bytes - bytes);
        u->bytes = bytes;
    }
    if (bytes > 0)
        return;
    *at = u->next;
    job_pixels_unref(u->pixels);
    free(u);
}

void unsent_turn(struct unsent **list, struct cache *c)
{
    while (*list) {
        struct unsent *u = *list;
        keep(list, c, job_pixels_bytes(u->pixels));
        if (*list == u)
            list = &u->next;
    }
}

void unsent_close(struct unsent **list, struct cache *c)
{
    while (*list)
        keep(list, c, 0);
}
