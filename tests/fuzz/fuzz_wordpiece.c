/* BERT's tokenizer.  The first byte chooses: a text for the small vocabulary of tests/fixtures, or the
 * files of a vocabulary (vocab.txt, a NUL byte, tokenizer_config.json; or tokenizer.json) and a text
 * behind another NUL. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/utf8.h"
#include "engine/text/wordpiece.h"
#define TEMP_DIR_PARENT "/dev/shm"
#include "tests/temp_dir.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct wordpiece *fixture;

static void try_text(const struct wordpiece *t, const char *text, size_t n)
{
    struct token_list l = {.max = 4096};
    struct buf b;
    struct err e;
    buf_init(&b, 1 << 16);
    if (wordpiece_encode(t, text, n, &l, &e) == 0) {
        for (size_t i = 0; i < l.n; i++)
            if (l.ids[i] < 0 || l.ids[i] >= wordpiece_info(t)->n_vocab)
                abort();
        if (wordpiece_decode(t, l.ids, l.n, &b, &e) == 0 && t == fixture &&
            !utf8_valid(buf_str(&b), b.len))
            abort();
    }
    free(l.ids);
    buf_free(&b);
}

/* Up to the next NUL byte, which is stepped over. */
static size_t part(const char *s, size_t n, size_t *at)
{
    size_t from = *at;
    const char *end = from < n ? memchr(s + from, 0, n - from) : NULL;
    size_t len = end != NULL ? (size_t)(end - s) - from : n - from;
    *at = from + len + (end != NULL);
    return len;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct err e;
    struct wordpiece *t = NULL;
    if (fixture == NULL) {
        if (wordpiece_open(&fixture, "tests/fixtures/wordpiece", &e) != 0)
            abort();
        temp_dir_open();
    }
    if (size < 1)
        return 0;
    const char *s = (const char *)data + 1;
    size_t n = size - 1, at = 0, first, from;
    if (data[0] % 4 < 2) {
        try_text(fixture, s, n);
        return 0;
    }
    temp_dir_clear();
    first = part(s, n, &at);
    temp_dir_put(data[0] % 4 == 2 ? "vocab.txt" : "tokenizer.json", s, first);
    from = at;
    if (data[0] % 4 == 2)
        temp_dir_put("tokenizer_config.json", s + from, part(s, n, &at));
    if (wordpiece_open(&t, temp_dir, &e) == 0)
        try_text(t, s + at, n - at);
    wordpiece_close(t);
    return 0;
}
