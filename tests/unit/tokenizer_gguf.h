/* A GGUF in memory, written by the tests of the tokenizers: metadata only, right or wrong at will.
 * Thread: one at a time. */
#ifndef TESTS_UNIT_TOKENIZER_GGUF_H
#define TESTS_UNIT_TOKENIZER_GGUF_H
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "engine/gguf.h"
#include "engine/text/tokenizer.h"

/* Numbers of the format. */
enum { GT_I32 = 5, GT_F32 = 6, GT_BOOL = 7, GT_STR = 8, GT_ARR = 9, GT_U32 = 4 };

struct tg {
    unsigned char data[1 << 20];
    size_t len;
    uint64_t n_kv;
};

static inline void tg_raw(struct tg *w, const void *p, size_t n)
{
    if (n > sizeof w->data - w->len)
        n = sizeof w->data - w->len;
    memcpy(w->data + w->len, p, n);
    w->len += n;
}

static inline void tg_u32(struct tg *w, uint32_t v)
{
    tg_raw(w, &v, 4);
}

static inline void tg_u64(struct tg *w, uint64_t v)
{
    tg_raw(w, &v, 8);
}

static inline void tg_strn(struct tg *w, const char *s, size_t n)
{
    tg_u64(w, n);
    tg_raw(w, s, n);
}

static inline void tg_begin(struct tg *w)
{
    w->len = 0;
    w->n_kv = 0;
    tg_raw(w, "GGUF", 4);
    tg_u32(w, 3);
    tg_u64(w, 0);
    tg_u64(w, 0);
}

static inline void tg_key(struct tg *w, const char *name, uint32_t type)
{
    char key[128];
    int n = snprintf(key, sizeof key, "tokenizer.ggml.%s", name);
    tg_strn(w, key, (size_t)n);
    tg_u32(w, type);
    w->n_kv++;
}

static inline void tg_str(struct tg *w, const char *name, const char *v)
{
    tg_key(w, name, GT_STR);
    tg_strn(w, v, strlen(v));
}

static inline void tg_int(struct tg *w, const char *name, int32_t v)
{
    tg_key(w, name, GT_I32);
    tg_u32(w, (uint32_t)v);
}

static inline void tg_bool(struct tg *w, const char *name, char v)
{
    tg_key(w, name, GT_BOOL);
    tg_raw(w, &v, 1);
}

static inline void tg_arr(struct tg *w, const char *name, uint32_t type, size_t n)
{
    tg_key(w, name, GT_ARR);
    tg_u32(w, type);
    tg_u64(w, n);
}

static inline void tg_strs(struct tg *w, const char *name, const char *const *v, size_t n)
{
    tg_arr(w, name, GT_STR, n);
    for (size_t i = 0; i < n; i++)
        tg_strn(w, v[i], strlen(v[i]));
}

static inline void tg_ints(struct tg *w, const char *name, const int32_t *v, size_t n)
{
    tg_arr(w, name, GT_I32, n);
    tg_raw(w, v, n * 4);
}

static inline void tg_floats(struct tg *w, const char *name, const float *v, size_t n)
{
    tg_arr(w, name, GT_F32, n);
    tg_raw(w, v, n * 4);
}

/* Any bytes as a GGUF; through a file descriptor, because gguf_open wants a path. */
static inline int tg_open_bytes(struct gguf **g, const void *p, size_t n, struct err *e)
{
    char path[64];
    int fd = memfd_create("gguf", MFD_CLOEXEC);
    if (fd < 0)
        return ERR_IO;
    int rc = write(fd, p, n) == (ssize_t)n ? 0 : ERR_IO;
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    if (!rc)
        rc = gguf_open(g, path, e);
    close(fd);
    return rc;
}

static inline int tg_open(struct tg *w, struct tokenizer **t, struct err *e)
{
    memcpy(w->data + 16, &w->n_kv, 8);
    struct gguf *g;
    int rc = tg_open_bytes(&g, w->data, w->len, e);
    if (rc)
        return rc;
    rc = tokenizer_open(t, g, e);
    gguf_close(g);
    return rc;
}

/* Whether a text's ids give the text. */
static inline bool tg_comes_back(const struct tokenizer *t, const char *s, size_t len, bool special)
{
    int32_t *ids;
    char *back;
    size_t n, n_back;
    if (tokenizer_encode(t, s, len, 0, &ids, &n, 4 * len + 16, NULL))
        return false;
    bool same = tokenizer_decode(t, ids, n, special, &back, &n_back, NULL) == 0;
    if (same) {
        same = n_back == len && memcmp(back, s, len) == 0;
        free(back);
    }
    free(ids);
    return same;
}
#endif
