/* String -> int64 table (vocabularies, tensor names).  Keys are borrowed: the caller keeps the bytes
 * alive.  Keys may contain NUL bytes.  Thread: any once filled. */
#ifndef BASE_MAP_H
#define BASE_MAP_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct map_slot;
struct map {
    struct map_slot *slots;
    size_t n, cap;
};
/* Room for n_expected without growing; seeds its hash so that chosen keys cannot degrade it.
 * 0 or ERR_NOMEM. */
int map_init(struct map *m, size_t n_expected);
void map_free(struct map *m);
/* 0, ERR_NOMEM, or ERR_INVALID if the key is there already (then *m is unchanged). */
int map_put(struct map *m, const char *key, size_t len, int64_t v);
bool map_get(const struct map *m, const char *key, size_t len, int64_t *v);

/* The hash of the tables: the same for the same bytes, within this process only. */
uint64_t map_hash(const char *p, size_t n);
#endif
