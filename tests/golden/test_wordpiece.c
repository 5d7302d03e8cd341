/* BERT's tokenizer against transformers' BertTokenizer, lower-casing and not, and the text of the ids,
 * on what tools/make_wordpiece_fixtures.py made; then files and limits.  Another fixture can be given:
 *     WORDPIECE_FIXTURES=DIR */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/text/wordpiece.h"
#include "tests/temp_dir.h"

enum { MAX_LINE = 1 << 16 };
static char line[MAX_LINE], text[MAX_LINE / 2], back[MAX_LINE / 2];

static const char *fixtures(void)
{
    const char *d = getenv("WORDPIECE_FIXTURES");
    return d ? d : "tests/fixtures/wordpiece";
}

static struct wordpiece *opened(const char *path)
{
    struct wordpiece *t = NULL;
    struct err e;
    if (wordpiece_open(&t, path, &e) != 0)
        fail_msg("%s", e.msg);
    return t;
}

static void refused(int code, const char *words)
{
    struct wordpiece *t = NULL;
    struct err e = {0};
    int rc = wordpiece_open(&t, temp_dir, &e);
    if (rc == 0)
        wordpiece_close(t);
    if (strstr(e.msg, words) == NULL)
        fail_msg("no \"%s\" in \"%s\"", words, e.msg);
    assert_int_equal(rc, code);
}

static size_t unhex(char *out, const char *s)
{
    size_t n = strcspn(s, "\t\n") / 2;
    for (size_t i = 0; i < n; i++) {
        unsigned b = 0;
        sscanf(s + 2 * i, "%2x", &b);
        out[i] = (char)b;
    }
    return n;
}

/* The ids of the text against those behind p; and what they decode to, if it is asked. */
static bool same(const struct wordpiece *t, size_t len, const char *p, const char *decoded)
{
    struct token_list l = {.max = MAX_LINE};
    struct buf b;
    struct err e;
    if (wordpiece_encode(t, text, len, &l, &e) != 0)
        fail_msg("%s", e.msg);
    size_t i = 0;
    bool ok = true;
    while (*p != '\t' && *p != '\n' && *p != 0) {
        char *end;
        long id = strtol(p, &end, 10);
        ok = ok && end != p && i < l.n && l.ids[i] == id;
        i++;
        p = end + (*end == ' ');
    }
    ok = ok && i == l.n;
    buf_init(&b, MAX_LINE);
    if (decoded != NULL) {
        size_t n = unhex(back, decoded);
        assert_int_equal(wordpiece_decode(t, l.ids, l.n, &b, &e), 0);
        ok = ok && b.len == n && memcmp(buf_str(&b), back, n) == 0;
    }
    if (!ok) {
        print_error("got \"%s\":", buf_str(&b));
        for (size_t k = 0; k < l.n; k++)
            print_error(" %d", l.ids[k]);
        print_error("\n");
    }
    free(l.ids);
    buf_free(&b);
    return ok;
}

static struct wordpiece *opened_cased(void)
{
    static char vocab[1 << 20];
    char path[512];
    snprintf(path, sizeof path, "%s/vocab.txt", fixtures());
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    size_t n = fread(vocab, 1, sizeof vocab, f);
    fclose(f);
    temp_dir_clear();
    temp_dir_put("vocab.txt", vocab, n);
    temp_dir_put_text("tokenizer_config.json", "{\"do_lower_case\":false,\"strip_accents\":null}");
    return opened(temp_dir);
}

static void wordpiece_gives_the_ids_of_transformers(void **state)
{
    (void)state;
    struct wordpiece *lower = opened(fixtures()), *cased = opened_cased();
    char path[512];
    snprintf(path, sizeof path, "%s/ids.tsv", fixtures());
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    int n = 0, wrong = 0;
    while (fgets(line, sizeof line, f)) {
        size_t len = unhex(text, line);
        const char *field[3] = {line};
        const char *first = strchr(line, '\t') + 1, *second = strchr(first, '\t') + 1;
        field[0] = first;
        field[1] = second;
        field[2] = strchr(second, '\t') + 1;
        n++;
        if (!same(lower, len, field[0], field[2]) || !same(cased, len, field[1], NULL)) {
            print_error("text %d: %.*s\n", n, (int)len, text);
            wrong++;
        }
    }
    fclose(f);
    assert_true(n > 150);
    assert_int_equal(wrong, 0);
    wordpiece_close(lower);
    wordpiece_close(cased);
}

static void ids_are(const struct wordpiece *t, const char *s, const char *expected)
{
    struct token_list l = {.max = 100};
    struct buf b;
    buf_init(&b, 1000);
    assert_int_equal(wordpiece_encode(t, s, strlen(s), &l, NULL), 0);
    for (size_t i = 0; i < l.n; i++)
        buf_printf(&b, "%s%d", i > 0 ? " " : "", l.ids[i]);
    assert_string_equal(buf_str(&b), expected);
    free(l.ids);
    buf_free(&b);
}

static void wordpiece_reads_both_kinds_of_files(void **state)
{
    (void)state;
    temp_dir_clear();
    temp_dir_put_text("vocab.txt", "[PAD]\r\n[UNK]\r\na\r\n##b\r\nab\r\n\r\nc");
    struct wordpiece *t = opened(temp_dir);
    assert_int_equal(wordpiece_info(t)->n_vocab, 7);
    assert_int_equal(wordpiece_info(t)->pad, 0);
    assert_int_equal(wordpiece_info(t)->unk, 1);
    assert_int_equal(wordpiece_info(t)->sep, -1);
    assert_int_equal(wordpiece_find(t, "##b"), 3);
    assert_int_equal(wordpiece_find(t, "b"), -1);
    ids_are(t, "AB abb b c [PAD] [SEP]", "4 4 3 1 6 0 1 1 1");
    ids_are(t,
            "a\xff"
            "c",
            "1");
    wordpiece_close(t);
    temp_dir_clear();
    temp_dir_put_text(
        "tokenizer.json",
        "{\"normalizer\":{\"lowercase\":false},\"model\":{\"type\":\"WordPiece\","
        "\"continuing_subword_prefix\":\"##\",\"vocab\":{\"[UNK]\":5,\"a\":1,\"##b\":0}}}");
    t = opened(temp_dir);
    assert_int_equal(wordpiece_info(t)->n_vocab, 6);
    ids_are(t, "abb A", "1 0 0 5");
    const int32_t ids[] = {1, 0, 3, -1, 99, 1, 5};
    struct buf b;
    struct err e;
    buf_init(&b, 4);
    assert_int_equal(wordpiece_decode(t, ids, 7, &b, &e), 0);
    assert_string_equal(buf_str(&b), "ab a");
    assert_int_equal(wordpiece_decode(t, ids, 7, &b, &e), ERR_TOOBIG);
    buf_free(&b);
    wordpiece_close(t);
}

static void wordpiece_refuses_files_that_are_wrong(void **state)
{
    (void)state;
    temp_dir_clear();
    refused(ERR_NOTFOUND, "neither vocab.txt nor tokenizer.json");
    temp_dir_put_text("vocab.txt", "");
    refused(ERR_CORRUPT, "0 tokens");
    temp_dir_put_text("vocab.txt", "a\nb\n");
    refused(ERR_CORRUPT, "[UNK] is not");
    temp_dir_put_text("vocab.txt", "a\n[UNK]\n");
    temp_dir_put_text("tokenizer_config.json", "{\"do_lower_case\":1}");
    refused(ERR_INVALID, "do_lower_case");
    temp_dir_put_text("tokenizer_config.json", "{");
    refused(ERR_CORRUPT, "tokenizer_config.json");
    temp_dir_clear();
    temp_dir_put_text("tokenizer.json", "{\"model\":{\"type\":\"BPE\"}}");
    refused(ERR_UNSUPPORTED, "not the tokenizer of a BERT");
    temp_dir_put_text("tokenizer.json", "{\"model\":{\"continuing_subword_prefix\":\"##\","
                                        "\"vocab\":{\"[UNK]\":0,\"a\":1e7}}}");
    refused(ERR_CORRUPT, "id is not a number");
}

static void wordpiece_has_limits(void **state)
{
    (void)state;
    struct wordpiece *t = opened(fixtures());
    struct token_list l = {.max = 3};
    struct err e;
    assert_int_equal(wordpiece_encode(t, "a a a a", 7, &l, &e), ERR_TOOBIG);
    free(l.ids);
    size_t n = WORDPIECE_MAX_BYTES + 1;
    char *s = calloc(1, n);
    memset(s, 'a', n);
    l = (struct token_list){.max = SIZE_MAX};
    assert_int_equal(wordpiece_encode(t, s, n, &l, &e), ERR_TOOBIG);
    assert_int_equal(wordpiece_encode(t, s, n - 1, &l, &e), 0);
    assert_int_equal(l.n, 1); /* one word that is too long to be known */
    free(l.ids);
    free(s);
    wordpiece_close(t);
    wordpiece_close(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(wordpiece_gives_the_ids_of_transformers),
        cmocka_unit_test(wordpiece_reads_both_kinds_of_files),
        cmocka_unit_test(wordpiece_refuses_files_that_are_wrong),
        cmocka_unit_test(wordpiece_has_limits),
    };
    return cmocka_run_group_tests(tests, temp_dir_make, temp_dir_remove);
}
