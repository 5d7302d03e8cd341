/* Token ids and word borders against Hugging Face's tokenizers and Google's sentencepiece, on the
 * texts of tests/fixtures/tokenizer_texts.tsv (tools/make_tokenizer_fixtures.py made them all), and
 * the round trip of every text.  Real files can be given:
 *     TOKENIZER_FIXTURES=DIR  instead of tests/fixtures
 *     SMOLLM2=FILE            instead of models/cache/SmolLM2-135M-Instruct.Q4_1.gguf */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/utf8.h"
#include "engine/gguf.h"
#include "engine/text/pretok.h"
#include "engine/text/tokenizer.h"

enum { MAX_TEXTS = 1 << 17, MAX_LINE = 1 << 20 };

static struct {
    char *s;
    size_t len;
} texts[MAX_TEXTS];
static int n_texts;
static char line[MAX_LINE];

static const char *fixtures(void)
{
    const char *dir = getenv("TOKENIZER_FIXTURES");
    return dir ? dir : "tests/fixtures";
}

static FILE *open_fixture(const char *name)
{
    char path[512];
    snprintf(path, sizeof path, "%s/tokenizer_%s.tsv", fixtures(), name);
    FILE *f = fopen(path, "r");
    if (!f)
        fail_msg("cannot open %s", path);
    return f;
}

static int read_texts(void **state)
{
    (void)state;
    FILE *f = open_fixture("texts");
    while (n_texts < MAX_TEXTS && fgets(line, sizeof line, f)) {
        size_t len = strcspn(line, "\n") / 2;
        char *s = calloc(1, len + 1);
        for (size_t i = 0; i < len; i++) {
            unsigned b = 0;
            sscanf(line + 2 * i, "%2x", &b);
            s[i] = (char)b;
        }
        texts[n_texts].s = s;
        texts[n_texts++].len = len;
    }
    fclose(f);
    return n_texts == 0;
}

static int free_texts(void **state)
{
    (void)state;
    while (n_texts > 0)
        free(texts[--n_texts].s);
    return 0;
}

/* Numbers after the n-th tab of the line. */
static size_t read_numbers(int tabs, int32_t **out)
{
    char *p = line;
    for (; tabs > 0; tabs--)
        p = strchr(p, '\t') + 1;
    size_t n = 0;
    *out = calloc(strlen(p) + 1, sizeof **out);
    for (char *end; *p && *p != '\n'; p = *end == ' ' ? end + 1 : end)
        (*out)[n++] = (int32_t)strtol(p, &end, 10);
    return n;
}

static void print_ids(const char *what, const int32_t *ids, size_t n)
{
    fprintf(stderr, "  %s:", what);
    for (size_t i = 0; i < n; i++)
        fprintf(stderr, " %d", (int)ids[i]);
    fprintf(stderr, "\n");
}

static bool same(const char *what, int i, const int32_t *want, size_t n_want, const int32_t *got,
                 size_t n_got)
{
    if (n_want == n_got && (n_got == 0 || memcmp(want, got, n_got * sizeof *got) == 0))
        return true;
    fprintf(stderr, "%s: text %d \"%s\"\n", what, i, texts[i].s);
    print_ids("want", want, n_want);
    print_ids("got ", got, n_got);
    return false;
}

struct ends {
    const char *text;
    size_t n;
    int32_t end[MAX_LINE / 2];
};

static int put_end(void *arg, const char *word, size_t len)
{
    struct ends *x = arg;
    x->end[x->n++] = (int32_t)(word - x->text + (ptrdiff_t)len);
    return 0;
}

static const char *const pres[] = {
    "default",    "gpt-2",  "smollm",       "falcon",         "llama-bpe",   "qwen2", "qwen35",
    "tekken",     "gpt-4o", "deepseek-llm", "deepseek-coder", "deepseek-v3", "bloom", "bailingmoe",
    "seed-coder", "viking", "kimi-k2",      "minicpm5",       "laguna",
};

static void words_are_the_reference_s(void **state)
{
    (void)state;
    static struct ends got;
    int n_bad = 0;
    for (size_t k = 0; k < sizeof pres / sizeof *pres; k++) {
        char name[64];
        snprintf(name, sizeof name, "pre_%s", pres[k]);
        FILE *f = open_fixture(name);
        struct pretok *p;
        struct err e = {0};
        assert_int_equal(pretok_open(&p, pres[k], strlen(pres[k]), &e), 0);
        struct pretok_work *w = pretok_work_new(p);
        while (fgets(line, sizeof line, f)) {
            int i = atoi(line);
            int32_t *want;
            size_t n_want = read_numbers(1, &want);
            got.text = texts[i].s;
            got.n = 0;
            assert_int_equal(pretok_split(p, w, texts[i].s, texts[i].len, put_end, &got), 0);
            n_bad += !same(pres[k], i, want, n_want, got.end, got.n);
            free(want);
        }
        pretok_work_free(w);
        pretok_close(p);
        fclose(f);
    }
    assert_int_equal(n_bad, 0);
}

static bool is_nfc(const char *s, size_t len)
{
    size_t n;
    char *nfc = utf8_nfc(s, len, &n);
    bool is = nfc && n == len && memcmp(nfc, s, n) == 0;
    free(nfc);
    return is;
}

/* SmolLM2's vocabulary has no token for 10 or so control bytes: they are lost, there as here. */
static bool has_bytes(const struct tokenizer *t, const char *s, size_t len)
{
    static int asked; /* the vocabulary's size stands for the vocabulary */
    static bool has[256];
    for (int b = 0; b < 256 && asked != tokenizer_info(t)->n_vocab; b++) {
        int32_t *ids;
        size_t n;
        char c = (char)b;
        assert_int_equal(tokenizer_encode(t, &c, 1, 0, &ids, &n, 8, NULL), 0);
        has[b] = n > 0;
        free(ids);
    }
    asked = tokenizer_info(t)->n_vocab;
    for (size_t i = 0; i < len; i++) {
        if (!has[(unsigned char)s[i]])
            return false;
    }
    return true;
}

/* What encoding cannot keep: SentencePiece's mark for a space, and what NFC changes. */
static bool round_trips(const struct tokenizer *t, int i)
{
    if (!has_bytes(t, texts[i].s, texts[i].len))
        return false;
    if (tokenizer_strips_space(t))
        return memmem(texts[i].s, texts[i].len, "\xE2\x96\x81", 3) == NULL;
    return strcmp(tokenizer_info(t)->pre, "qwen2") != 0 || is_nfc(texts[i].s, texts[i].len);
}

static void check_vocab(const struct tokenizer *t, const char *name)
{
    FILE *f = open_fixture(name);
    struct err e = {0};
    int n_bad = 0, n_lines = 0;
    while (fgets(line, sizeof line, f)) {
        int i = atoi(line), flags = atoi(strchr(line, '\t'));
        int32_t *want, *got;
        size_t n_want = read_numbers(2, &want), n_got;
        if (tokenizer_encode(t, texts[i].s, texts[i].len, flags, &got, &n_got, 1 << 20, &e))
            fail_msg("%s: text %d: %s", name, i, e.msg);
        n_bad += !same(name, i, want, n_want, got, n_got);
        char *back;
        size_t len;
        assert_int_equal(tokenizer_decode(t, got, n_got, true, &back, &len, &e), 0);
        if (round_trips(t, i) && (len != texts[i].len || memcmp(back, texts[i].s, len) != 0)) {
            fprintf(stderr, "%s: text %d comes back as \"%s\"\n", name, i, back);
            n_bad++;
        }
        n_lines++;
        free(back);
        free(got);
        free(want);
    }
    fclose(f);
    assert_int_equal(n_bad, 0);
    assert_true(n_lines >= n_texts);
}

static struct tokenizer *open_vocab(const char *path)
{
    struct gguf *g;
    struct tokenizer *t = NULL;
    struct err e = {0};
    if (gguf_open(&g, path, &e) || tokenizer_open(&t, g, &e))
        fail_msg("%s: %s", path, e.msg);
    gguf_close(g);
    return t;
}

static const char *const vocabs[] = {"gpt-2",  "llama-bpe", "qwen2", "deepseek-coder",
                                     "falcon", "gpt-4o",    "spm"};

static struct tokenizer *open_named(const char *name)
{
    char path[512];
    snprintf(path, sizeof path, "%s/tokenizer_%s.gguf", fixtures(), name);
    return open_vocab(path);
}

static void ids_are_the_reference_s(void **state)
{
    (void)state;
    for (size_t k = 0; k < sizeof vocabs / sizeof *vocabs; k++) {
        struct tokenizer *t = open_named(vocabs[k]);
        check_vocab(t, vocabs[k]);
        tokenizer_close(t);
    }
}

static void time_text(const struct tokenizer *t, const char *what, const char *s, size_t len)
{
    int32_t *ids;
    size_t n;
    struct err e = {0};
    int64_t t0 = clock_us();
    assert_int_equal(tokenizer_encode(t, s, len, 0, &ids, &n, len + 1, &e), 0);
    int64_t us = clock_us() - t0;
    char *back;
    size_t n_back;
    assert_int_equal(tokenizer_decode(t, ids, n, true, &back, &n_back, &e), 0);
    if (has_bytes(t, s, len)) {
        assert_int_equal(n_back, len);
        assert_memory_equal(back, s, len);
    }
    const char *pre = tokenizer_info(t)->pre;
    print_message("           %-14s 1 MB of %-19s %7zu tokens, %4.0f ms\n", *pre ? pre : "spm",
                  what, n, (double)us / 1000);
    free(back);
    free(ids);
}

/* Text that is hard on the regular expressions and on the merge loop must finish. */
static void long_texts(const struct tokenizer *t)
{
    const size_t n = 1 << 20;
    char *s = malloc(n + 8);
    memset(s, ' ', n);
    time_text(t, "spaces", s, n);
    s[n - 1] = 'a';
    time_text(t, "spaces and a letter", s, n);
    memset(s, 'a', n);
    time_text(t, "'a'", s, n);
    memset(s, 'A', n);
    time_text(t, "'A'", s, n);
    memset(s, '7', n);
    time_text(t, "'7'", s, n);
    memset(s, '\n', n);
    time_text(t, "newlines", s, n);
    memset(s, '!', n);
    time_text(t, "'!'", s, n);
    for (size_t i = 0; i < n; i++)
        s[i] = "a \n"[i % 3];
    time_text(t, "\"a \\n\"", s, n);
    for (size_t i = 0; i + 3 <= n; i += 3)
        memcpy(s + i, "\xE4\xB8\xAD", 3);
    time_text(t, "one Han character", s, n / 3 * 3);
    uint32_t x = 1;
    size_t len = 0;
    while (len + 4 <= n) {
        x = x * 1664525 + 1013904223;
        uint32_t cp = (x >> 8) % 0x11000;
        if (cp >= 0x300 && !tokenizer_strips_space(t) &&
            strcmp(tokenizer_info(t)->pre, "qwen2") == 0)
            cp %= 0x300; /* what NFC leaves alone */
        if (cp == 0x2581)
            cp = 'x';
        len += (size_t)utf8_encode(s + len, cp);
    }
    time_text(t, "random characters", s, len);
    for (size_t i = 0; i < n; i++) {
        x = x * 1664525 + 1013904223;
        s[i] = (char)(x >> 24);
        if ((unsigned char)s[i] == 0xE2) /* no U+2581 by chance */
            s[i] = 'x';
        if ((unsigned char)s[i] >= 0xCC && strcmp(tokenizer_info(t)->pre, "qwen2") == 0)
            s[i] = (char)0xFF;
    }
    time_text(t, "random bytes", s, n);
    free(s);
}

static void long_texts_finish(void **state)
{
    (void)state;
    for (size_t k = 0; k < sizeof vocabs / sizeof *vocabs; k++) {
        struct tokenizer *t = open_named(vocabs[k]);
        long_texts(t);
        tokenizer_close(t);
    }
}

static void smollm2_is_the_reference_s(void **state)
{
    (void)state;
    const char *path = getenv("SMOLLM2");
    if (!path)
        path = "models/cache/SmolLM2-135M-Instruct.Q4_1.gguf";
    if (access(path, R_OK) != 0) {
        print_message("           SKIPPED: %s is not there\n", path);
        skip();
    }
    int64_t t0 = clock_us();
    struct tokenizer *t = open_vocab(path);
    print_message("           opened in %.0f ms\n", (double)(clock_us() - t0) / 1000);
    const struct tokenizer_info *info = tokenizer_info(t);
    assert_int_equal(info->n_vocab, 49152);
    assert_int_equal(info->bos, 1);
    assert_int_equal(info->eos, 2);
    assert_false(info->add_bos);
    assert_string_equal(info->pre, "smollm");
    assert_true(tokenizer_is_end(t, 2));
    assert_true(tokenizer_is_end(t, 0));
    assert_false(tokenizer_is_end(t, 1));
    assert_true(tokenizer_is_control(t, 1));
    assert_int_equal(tokenizer_find(t, "<|im_start|>", 12), 1);
    check_vocab(t, "smollm2");
    long_texts(t);
    tokenizer_close(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(words_are_the_reference_s),
        cmocka_unit_test(ids_are_the_reference_s),
        cmocka_unit_test(smollm2_is_the_reference_s),
        cmocka_unit_test(long_texts_finish),
    };
    return cmocka_run_group_tests_name("tokenizer golden", tests, read_texts, free_texts);
}
