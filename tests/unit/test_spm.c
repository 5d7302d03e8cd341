/* SentencePiece: scores, byte fallback, the space in front, and broken vocabularies. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "engine/text/vocab.h"
#include "tests/unit/tokenizer_gguf.h"

#define MARK "\xE2\x96\x81"

enum { BYTE0 = 3, SPACE = 259, A, B, AB, BC, SPACE_A, AQ, Q_A, TOOL, N };

static struct tg w;
static char byte_names[256][8];
static const char *tokens[N];
static int32_t types[N];
static float scores[N];

static void fill(void)
{
    static const char *const more[] = {MARK, "a", "b", "ab", "bc", MARK "a", "aq", "qa", "<tool>"};
    static const char *const first[] = {"<unk>", "<s>", "</s>"};
    for (int i = 0; i < N; i++) {
        types[i] = i == 0 ? TOKEN_UNKNOWN : i < BYTE0 ? TOKEN_CONTROL : TOKEN_NORMAL;
        scores[i] = (float)-i;
        tokens[i] = i < BYTE0 ? first[i] : i >= SPACE ? more[i - SPACE] : NULL;
    }
    for (int b = 0; b < 256; b++) {
        snprintf(byte_names[b], sizeof byte_names[b], "<0x%02X>", (unsigned)b);
        tokens[BYTE0 + b] = byte_names[b];
        types[BYTE0 + b] = TOKEN_BYTE;
    }
    types[TOOL] = TOKEN_USER;
}

static void put(void)
{
    tg_begin(&w);
    tg_str(&w, "model", "llama");
    tg_strs(&w, "tokens", tokens, N);
    tg_ints(&w, "token_type", types, N);
    tg_floats(&w, "scores", scores, N);
}

static struct tokenizer *open_put(void)
{
    struct tokenizer *t;
    struct err e = {0};
    if (tg_open(&w, &t, &e))
        fail_msg("%s", e.msg);
    return t;
}

static void expect(const struct tokenizer *t, const char *text, int flags, const int32_t *want,
                   size_t n_want)
{
    int32_t *ids;
    size_t n;
    assert_int_equal(tokenizer_encode(t, text, strlen(text), flags, &ids, &n, 1000, NULL), 0);
    assert_int_equal(n, n_want);
    for (size_t i = 0; i < n; i++)
        assert_int_equal(ids[i], want[i]);
    free(ids);
}
#define EXPECT(t, text, flags, ...)                        \
    expect(t, text, flags, (const int32_t[]){__VA_ARGS__}, \
           sizeof((const int32_t[]){__VA_ARGS__}) / sizeof(int32_t))

static void highest_score_merges_first(void **state)
{
    (void)state;
    fill();
    put();
    struct tokenizer *t = open_put();
    EXPECT(t, "bc", 0, SPACE, BC); /* c is no token by itself, but merges */
    EXPECT(t, "abc", 0, SPACE, AB, BYTE0 + 'c');
    EXPECT(t, "qa", 0, SPACE, Q_A);
    EXPECT(t, "aqa", 0, SPACE_A, Q_A); /* the space's pair scores higher than aq */
    tokenizer_close(t);
}

static void expect_none(const struct tokenizer *t, const char *text)
{
    expect(t, text, 0, NULL, 0);
}

static void equal_scores_merge_leftmost(void **state)
{
    (void)state;
    fill();
    scores[AQ] = scores[Q_A] = 0;
    put();
    tg_bool(&w, "add_space_prefix", 0);
    struct tokenizer *t = open_put();
    assert_false(tokenizer_strips_space(t));
    EXPECT(t, "aqa", 0, AQ, A);
    EXPECT(t, "qaq", 0, Q_A, BYTE0 + 'q');
    expect_none(t, "");
    tokenizer_close(t);
}

static void bytes_stand_in_and_come_back(void **state)
{
    (void)state;
    fill();
    put();
    struct tokenizer *t = open_put();
    EXPECT(t, "\xC3\xA8", 0, SPACE, BYTE0 + 0xC3, BYTE0 + 0xA8);
    EXPECT(t,
           "\xFF"
           "a",
           0, SPACE, BYTE0 + 0xFF, A);
    char bytes[255];
    for (int i = 0; i < 255; i++)
        bytes[i] = (char)(i + 1);
    assert_true(tg_comes_back(t, bytes, 255, false));
    tokenizer_close(t);
}

static void the_space_goes_where_text_begins(void **state)
{
    (void)state;
    fill();
    put();
    struct tokenizer *t = open_put();
    assert_true(tokenizer_info(t)->add_bos);
    EXPECT(t, "a", TOKENIZE_BOS, 1, SPACE_A);
    EXPECT(t, "a<s>a", TOKENIZE_SPECIAL, SPACE_A, 1, SPACE_A);
    EXPECT(t, "a<tool>a", 0, SPACE_A, TOOL, A);
    EXPECT(t, "<tool>", 0, SPACE, TOOL);
    EXPECT(t, "<s>", TOKENIZE_SPECIAL, 1);
    const int32_t ids[] = {1, SPACE_A, SPACE_A, TOOL, 2, SPACE, A};
    char *s;
    size_t len;
    assert_int_equal(tokenizer_decode(t, ids, 7, true, &s, &len, NULL), 0);
    assert_string_equal(s, "<s>a a<tool></s>a");
    free(s);
    assert_int_equal(tokenizer_decode(t, ids, 7, false, &s, &len, NULL), 0);
    assert_string_equal(s, "a a<tool>a");
    free(s);
    tokenizer_close(t);
}

static void without_byte_tokens_a_run_is_one_unknown(void **state)
{
    (void)state;
    fill();
    for (int b = 0; b < 256; b++)
        types[BYTE0 + b] = TOKEN_CONTROL;
    put();
    struct tokenizer *t = open_put();
    EXPECT(t, "a\xE4\xB8\xAD\xE6\x96\x87z", 0, SPACE_A, 0);
    EXPECT(t, "az az", 0, SPACE_A, 0, SPACE_A, 0);
    tokenizer_close(t);
}

static void refuse(const char *part)
{
    struct tokenizer *t;
    struct err e = {0};
    assert_int_equal(tg_open(&w, &t, &e), ERR_CORRUPT);
    if (!strstr(e.msg, part))
        fail_msg("\"%s\" does not say \"%s\"", e.msg, part);
}

static void contradictions_are_refused(void **state)
{
    (void)state;
    static const char *const wrong[] = {"<0x-1>", "<0x100>", "<0xG0>", "<0x1>", "", "<0x00"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        fill();
        tokens[BYTE0 + 7] = wrong[i];
        put();
        refuse("byte token 10");
    }
    fill();
    tg_begin(&w);
    tg_str(&w, "model", "llama");
    tg_strs(&w, "tokens", tokens, N);
    refuse("0 scores");
    tg_floats(&w, "scores", scores, N - 1);
    refuse("scores");
    fill();
    scores[A] = NAN;
    put();
    struct tokenizer *t;
    assert_int_equal(tg_open(&w, &t, NULL), ERR_CORRUPT);
    tg_begin(&w);
    tg_str(&w, "model", "llama");
    tg_strs(&w, "tokens", tokens, N);
    tg_ints(&w, "scores", types, N);
    refuse("scores");
}

static void a_text_longer_than_the_maximum_is_refused(void **state)
{
    (void)state;
    fill();
    put();
    struct tokenizer *t = open_put();
    int32_t *ids;
    size_t n;
    assert_int_equal(tokenizer_encode(t, "zzzz", 4, 0, &ids, &n, 4, NULL), ERR_TOOBIG);
    assert_int_equal(tokenizer_encode(t, "zzzz", 4, 0, &ids, &n, 5, NULL), 0);
    free(ids);
    tokenizer_close(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(highest_score_merges_first),
        cmocka_unit_test(equal_scores_merge_leftmost),
        cmocka_unit_test(bytes_stand_in_and_come_back),
        cmocka_unit_test(the_space_goes_where_text_begins),
        cmocka_unit_test(without_byte_tokens_a_run_is_one_unknown),
        cmocka_unit_test(contradictions_are_refused),
        cmocka_unit_test(a_text_longer_than_the_maximum_is_refused),
    };
    return cmocka_run_group_tests_name("spm", tests, NULL, NULL);
}
