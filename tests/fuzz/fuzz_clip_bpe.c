/* CLIP's tokenizer and prompts.  The first byte chooses: a text for the small vocabulary of
 * tests/fixtures (as tokens, and as a prompt with its brackets), or the files of a vocabulary
 * (vocab.json, a NUL byte, merges.txt; or tokenizer.json) and a text behind another NUL. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/text/prompt.h"
#define TEMP_DIR_PARENT "/dev/shm"
#include "tests/temp_dir.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct clip_bpe *fixture;

static void try_text(const struct clip_bpe *t, const char *text, size_t n)
{
    struct token_list l = {.max = 4096};
    struct arena a;
    struct prompt p;
    struct err e;
    struct clip_bpe_work *w = clip_bpe_work_new(t);
    if (w != NULL && clip_bpe_encode(t, w, text, n, &l, &e) == 0)
        for (size_t i = 0; i < l.n; i++)
            if (l.ids[i] < 0 || l.ids[i] >= clip_bpe_info(t)->n_vocab)
                abort();
    free(l.ids);
    clip_bpe_work_free(w);
    arena_init(&a, 1 << 20);
    for (int flags = 0; flags <= PROMPT_PLAIN; flags++) {
        if (prompt_parse(&p, t, text, n, flags, &a, &e) != 0)
            continue;
        if (prompt_extend(&p, t, 2, &a, &e) != 0)
            abort();
        for (int i = 0; i < p.n_chunks * PROMPT_CHUNK; i++)
            if (p.ids[i] < 0 || p.ids[i] >= clip_bpe_info(t)->n_vocab ||
                !(p.weights[i] >= -100 && p.weights[i] <= 100))
                abort();
        if (p.ids[0] != clip_bpe_info(t)->bos)
            abort();
    }
    arena_free(&a);
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

static void try_files(const char *s, size_t n, int json)
{
    size_t at = 0, first = part(s, n, &at), second_at = at, second = 0;
    struct clip_bpe *t = NULL;
    struct err e;
    if (json) {
        temp_dir_put("tokenizer.json", s, first);
        unlink(temp_dir_path("merges.txt"));
    } else {
        second = part(s, n, &at);
        temp_dir_put("vocab.json", s, first);
        temp_dir_put("merges.txt", s + second_at, second);
    }
    if (clip_bpe_open(&t, temp_dir, NULL, &e) != 0)
        return;
    try_text(t, s + at, n - at);
    clip_bpe_close(t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct err e;
    if (fixture == NULL) {
        if (clip_bpe_open(&fixture, "tests/fixtures/clip_tokenizer", "!", &e) != 0)
            abort();
        temp_dir_open();
    }
    if (size < 1)
        return 0;
    const char *s = (const char *)data + 1;
    if (data[0] % 4 < 2)
        try_text(fixture, s, size - 1);
    else
        try_files(s, size - 1, data[0] % 4 == 3);
    return 0;
}
