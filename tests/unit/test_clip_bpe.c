/* The files of CLIP tokenizers: what is read, which token pads, and what is refused.  The ids of texts
 * are compared with the reference in tests/golden/test_clip_bpe.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "engine/text/clip_bpe.h"
#include "tests/temp_dir.h"

#define SPECIALS "\"<|startoftext|>\":8,\"<|endoftext|>\":9"
#define VOCAB                                                                         \
    "{\"!\":0,\"a\":1,\"b\":2,\"a</w>\":3,\"b</w>\":4,\"ab\":5,\"ab</w>\":6,\"abab</" \
    "w>\":7," SPECIALS "}"
#define MERGES "#version: 0.2\na b\na b</w>\nab ab</w>\n"

/* Only these two. */
static void make(const char *vocab, const char *merges)
{
    temp_dir_clear();
    temp_dir_put_text("vocab.json", vocab);
    temp_dir_put_text("merges.txt", merges);
}

static struct clip_bpe *opened(const char *pad)
{
    struct clip_bpe *t = NULL;
    struct err e;
    if (clip_bpe_open(&t, temp_dir, pad, &e) != 0)
        fail_msg("%s", e.msg);
    return t;
}

static void refused(int code, const char *words)
{
    struct clip_bpe *t = NULL;
    struct err e = {0};
    int rc = clip_bpe_open(&t, temp_dir, NULL, &e);
    if (rc == 0)
        clip_bpe_close(t);
    if (strstr(e.msg, words) == NULL)
        fail_msg("no \"%s\" in \"%s\"", words, e.msg);
    assert_int_equal(rc, code);
    assert_int_equal(e.code, code);
}

/* With work of its own. */
static int encode(const struct clip_bpe *t, const char *s, size_t len, struct token_list *out,
                  struct err *e)
{
    struct clip_bpe_work *w = clip_bpe_work_new(t);
    assert_non_null(w);
    int rc = clip_bpe_encode(t, w, s, len, out, e);
    clip_bpe_work_free(w);
    return rc;
}

static void ids_are(const struct clip_bpe *t, const char *text, size_t len, const char *expected)
{
    struct token_list l = {.max = 1000};
    struct buf b;
    struct err e;
    buf_init(&b, 10000);
    if (encode(t, text, len, &l, &e) != 0)
        fail_msg("%s", e.msg);
    for (size_t i = 0; i < l.n; i++)
        buf_printf(&b, "%s%d", i > 0 ? " " : "", l.ids[i]);
    assert_string_equal(buf_str(&b), expected);
    free(l.ids);
    buf_free(&b);
}

static void clip_bpe_marks_the_end_of_a_word(void **state)
{
    (void)state;
    make(VOCAB, MERGES);
    struct clip_bpe *t = opened(NULL);
    ids_are(t, "a", 1, "3");
    ids_are(t, "ab", 2, "6");
    ids_are(t, "ABAB", 4, "7");
    ids_are(t, " ab\tab ", 7, "6 6");
    ids_are(t, "aab", 3, "1 6");
    ids_are(t, "", 0, "");
    ids_are(t, "c", 1, "9"); /* a byte that the vocabulary lacks is unknown: eos */
    ids_are(t, "\xff", 1, "9 9 9");
    ids_are(t, "a\0b", 3, "3 9 4");
    ids_are(t, "ab<|endoftext|>ab", 17, "6 9 6");
    clip_bpe_close(t);
    make(VOCAB, "a b\r\na b</w>\r\nab ab</w>"); /* without a version, from another system */
    t = opened(NULL);
    ids_are(t, "abab", 4, "7");
    clip_bpe_close(t);
}

static void clip_bpe_reads_tokenizer_json(void **state)
{
    (void)state;
    temp_dir_clear();
    temp_dir_put_text(
        "tokenizer.json",
        "{\"model\":{\"type\":\"BPE\",\"end_of_word_suffix\":\"</w>\",\"vocab\":" VOCAB
        ",\"merges\":[\"a b\",[\"a\",\"b</w>\"],\"ab ab</w>\"]}}");
    struct clip_bpe *t = opened(NULL);
    ids_are(t, "abab ab", 7, "7 6");
    assert_int_equal(clip_bpe_info(t)->n_vocab, 10);
    assert_int_equal(clip_bpe_info(t)->comma, -1);
    clip_bpe_close(t);
    temp_dir_put_text("tokenizer.json",
                      "{\"model\":{\"type\":\"BPE\",\"vocab\":" VOCAB ",\"merges\":[]}}");
    refused(ERR_UNSUPPORTED, "not the tokenizer of a CLIP");
    temp_dir_put_text("tokenizer.json",
                      "{\"model\":{\"type\":\"WordPiece\",\"end_of_word_suffix\":\"</w>\"}}");
    refused(ERR_UNSUPPORTED, "not the tokenizer of a CLIP");
    temp_dir_put_text("tokenizer.json",
                      "{\"model\":{\"end_of_word_suffix\":\"</w>\",\"vocab\":" VOCAB "}}");
    refused(ERR_CORRUPT, "no merges");
    temp_dir_put_text("tokenizer.json",
                      "{\"model\":{\"end_of_word_suffix\":\"</w>\",\"vocab\":" VOCAB
                      ",\"merges\":[[\"a\"]]}}");
    refused(ERR_CORRUPT, "not two tokens");
}

static int32_t pad_of(const char *config, const char *map)
{
    make(VOCAB, MERGES);
    if (config != NULL)
        temp_dir_put_text("tokenizer_config.json", config);
    if (map != NULL)
        temp_dir_put_text("special_tokens_map.json", map);
    struct clip_bpe *t = opened(NULL);
    int32_t pad = clip_bpe_info(t)->pad;
    clip_bpe_close(t);
    return pad;
}

static void clip_bpe_finds_the_token_that_pads(void **state)
{
    (void)state;
    assert_int_equal(pad_of(NULL, NULL), 9);
    assert_int_equal(pad_of("{\"pad_token\":\"!\"}", NULL), 0);
    assert_int_equal(pad_of("{\"pad_token\":null}", "{}"), 9);
    assert_int_equal(pad_of("{\"pad_token\":\"<|endoftext|>\"}", "{\"pad_token\":\"!\"}"), 0);
    assert_int_equal(pad_of(NULL, "{\"pad_token\":{\"content\":\"!\",\"lstrip\":false}}"), 0);
    /* The newer kind has all in tokenizer_config.json. */
    assert_int_equal(pad_of("{\"pad_token\":\"!\",\"added_tokens_decoder\":{}}",
                            "{\"pad_token\":\"<|endoftext|>\"}"),
                     0);
    struct clip_bpe *t = opened("a</w>");
    assert_int_equal(clip_bpe_info(t)->pad, 3);
    clip_bpe_close(t);
    temp_dir_put_text("special_tokens_map.json", "{\"pad_token\":\"[PAD]\"}");
    temp_dir_put_text("tokenizer_config.json", "{}");
    refused(ERR_CORRUPT, "\"[PAD]\" is not in the vocabulary");
    temp_dir_put_text("special_tokens_map.json", "nonsense");
    refused(ERR_CORRUPT, "special_tokens_map.json");
}

static void clip_bpe_refuses_files_that_are_wrong(void **state)
{
    (void)state;
    temp_dir_clear();
    refused(ERR_NOTFOUND, "neither vocab.json and merges.txt nor tokenizer.json");
    temp_dir_put_text("vocab.json", VOCAB);
    refused(ERR_NOTFOUND, "neither vocab.json and merges.txt nor tokenizer.json");
    make("[]", MERGES);
    refused(ERR_CORRUPT, "tokens, expected 2");
    make("{}", MERGES);
    refused(ERR_CORRUPT, "0 tokens");
    make("{\"a\":0,\"a\":1}", MERGES);
    refused(ERR_CORRUPT, "JSON");
    make("{\"a\":0,\"b\":-1}", MERGES);
    refused(ERR_CORRUPT, "id is not a number");
    make("{\"a\":0,\"b\":\"1\"}", MERGES);
    refused(ERR_CORRUPT, "id is not a number");
    make("{\"a\":0,\"b\":1.5}", MERGES);
    refused(ERR_CORRUPT, "id is not a number");
    make("{\"a\":0,\"b\":1e9}", MERGES);
    refused(ERR_CORRUPT, "id is not a number");
    make(VOCAB, "#version: 0.2\n");
    refused(ERR_CORRUPT, "merges.txt has no merges");
    make("{\"a\":0,\"b\":1}", MERGES);
    refused(ERR_CORRUPT, "\"<|startoftext|>\" is not in the vocabulary");
    make(VOCAB, "a\n");
    refused(ERR_CORRUPT, "merge 0 is not two tokens");
    make(VOCAB, "a b c\n");
    refused(ERR_CORRUPT, "merge 0 is not two tokens");
    make(VOCAB, "a b\nb  a\n");
    refused(ERR_CORRUPT, "merge 1 is not two tokens");
    make(VOCAB, "x y\n a\na \na b</w>\n"); /* what could never give a token is left out */
    struct clip_bpe *t = opened(NULL);
    ids_are(t, "ab", 2, "6");
    clip_bpe_close(t);
}

static void clip_bpe_has_limits(void **state)
{
    (void)state;
    make(VOCAB, MERGES);
    struct clip_bpe *t = opened(NULL);
    struct token_list l = {.max = 3};
    struct err e;
    assert_int_equal(encode(t, "a a a a", 7, &l, &e), ERR_TOOBIG);
    free(l.ids);
    size_t n = CLIP_BPE_MAX_BYTES + 1;
    char *text = calloc(1, n);
    memset(text, 'a', n);
    l = (struct token_list){.max = SIZE_MAX};
    assert_int_equal(encode(t, text, n, &l, &e), ERR_TOOBIG);
    assert_int_equal(encode(t, text, n - 1, &l, &e), 0); /* one word of a megabyte */
    assert_int_equal(l.n, n - 1);
    free(l.ids);
    free(text);
    clip_bpe_close(t);
    clip_bpe_close(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(clip_bpe_marks_the_end_of_a_word),
        cmocka_unit_test(clip_bpe_reads_tokenizer_json),
        cmocka_unit_test(clip_bpe_finds_the_token_that_pads),
        cmocka_unit_test(clip_bpe_refuses_files_that_are_wrong),
        cmocka_unit_test(clip_bpe_has_limits),
    };
    return cmocka_run_group_tests(tests, temp_dir_make, temp_dir_remove);
}
