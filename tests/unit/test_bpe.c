/* The merge loop, and byte-level vocabularies that are right, odd or broken. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/arena.h"
#include "base/utf8.h"
#include "engine/text/bpe.h"
#include "tests/unit/tokenizer_gguf.h"

enum { N_MAX = 300 };

static struct tg w;
static char alphabet[256][4];

/* 256 byte tokens in byte order, then `more`. */
static size_t put_tokens(const char *const *more, size_t n_more)
{
    const char *all[N_MAX];
    for (int b = 0; b < 256; b++) {
        memset(alphabet[b], 0, 4);
        utf8_encode(alphabet[b], vocab_byte_to_cp((unsigned char)b));
        all[b] = alphabet[b];
    }
    memcpy(all + 256, more, n_more * sizeof *more);
    tg_strs(&w, "tokens", all, 256 + n_more);
    return 256 + n_more;
}

static void put_types(size_t n, size_t first_control, size_t first_user)
{
    int32_t types[N_MAX];
    for (size_t i = 0; i < n; i++)
        types[i] = i >= first_user ? TOKEN_USER : i >= first_control ? TOKEN_CONTROL : TOKEN_NORMAL;
    tg_ints(&w, "token_type", types, n);
}

static void begin(const char *pre)
{
    tg_begin(&w);
    tg_str(&w, "model", "gpt2");
    if (pre)
        tg_str(&w, "pre", pre);
}

static const char *const more[] = {"ab",
                                   "abc",
                                   "bc",
                                   "aa",
                                   ("\xC4\xA0"
                                    "a"),
                                   "<|im_start|>",
                                   "<|end|>",
                                   "<|end|>x",
                                   "<tool>",
                                   "<tool>s"};
static const char *const merges[] = {"a b", "b c", "ab c", "a a", "\xC4\xA0 a"};
enum { AB = 256, ABC, BC, AA, SPACE_A, START, END, END_X, TOOL, TOOLS };

static struct tokenizer *open_good(void)
{
    begin("gpt-2");
    size_t n = put_tokens(more, 10);
    put_types(n, START, TOOL);
    tg_strs(&w, "merges", merges, 5);
    tg_int(&w, "bos_token_id", START);
    tg_int(&w, "eos_token_id", 'z');
    tg_bool(&w, "add_bos_token", 1);
    struct tokenizer *t = NULL;
    struct err e = {0};
    if (tg_open(&w, &t, &e))
        fail_msg("%s", e.msg);
    return t;
}

static void expect(const struct tokenizer *t, const char *text, size_t len, int flags,
                   const int32_t *want, size_t n_want)
{
    int32_t *ids;
    size_t n;
    struct err e = {0};
    assert_int_equal(tokenizer_encode(t, text, len, flags, &ids, &n, 1000, &e), 0);
    assert_int_equal(n, n_want);
    if (n)
        assert_memory_equal(ids, want, n * sizeof *ids);
    free(ids);
}
#define EXPECT(t, text, flags, ...)                                          \
    expect(t, text, sizeof(text) - 1, flags, (const int32_t[]){__VA_ARGS__}, \
           sizeof((const int32_t[]){__VA_ARGS__}) / sizeof(int32_t))

static void lowest_rank_then_leftmost_merges_first(void **state)
{
    (void)state;
    struct tokenizer *t = open_good();
    EXPECT(t, "abc", 0, ABC);
    EXPECT(t, "bc", 0, BC);
    EXPECT(t, "bbc", 0, 'b', BC);
    EXPECT(t, "aaa", 0, AA, 'a');
    EXPECT(t, "aab", 0, 'a', AB);
    EXPECT(t, "a a", 0, 'a', SPACE_A);
    expect(t, "", 0, 0, NULL, 0);
    tokenizer_close(t);
}

static void special_tokens_are_cut_out_longest_first(void **state)
{
    (void)state;
    struct tokenizer *t = open_good();
    EXPECT(t, "<|end|>x<|end|>", TOKENIZE_SPECIAL, END_X, END);
    EXPECT(t, "<tool>s<tool>", 0, TOOLS, TOOL);
    EXPECT(t, "ab<tool>", TOKENIZE_BOS, START, AB, TOOL);
    EXPECT(t, "<|e", TOKENIZE_SPECIAL, '<', '|', 'e');
    int32_t *ids;
    size_t n;
    assert_int_equal(tokenizer_encode(t, "<|end|>", 7, 0, &ids, &n, 100, NULL), 0);
    assert_int_equal(n, 7); /* not asked for: letters */
    free(ids);
    tokenizer_close(t);
}

static void broken_utf8_goes_byte_by_byte_and_comes_back(void **state)
{
    (void)state;
    struct tokenizer *t = open_good();
    EXPECT(t,
           "ab\xFF"
           "bc\xE2\x82",
           0, AB, 0xFF, BC, 0xE2, 0x82);
    char bytes[256];
    for (int i = 0; i < 256; i++)
        bytes[i] = (char)(255 - i);
    assert_true(tg_comes_back(t, bytes, 256, true));
    tokenizer_close(t);
}

static void maximum_is_kept(void **state)
{
    (void)state;
    struct tokenizer *t = open_good();
    int32_t *ids = NULL;
    size_t n;
    struct err e = {0};
    assert_int_equal(tokenizer_encode(t, "zzz", 3, 0, &ids, &n, 2, &e), ERR_TOOBIG);
    assert_int_equal(tokenizer_encode(t, "zzz", 3, 0, &ids, &n, 3, &e), 0);
    free(ids);
    assert_int_equal(tokenizer_encode(t, "zz", 2, TOKENIZE_BOS, &ids, &n, 2, &e), ERR_TOOBIG);
    char *big = calloc(1, 4 << 20); /* cannot fit: refused without looking at it */
    assert_int_equal(tokenizer_encode(t, big, 4 << 20, 0, &ids, &n, 8, &e), ERR_TOOBIG);
    free(big);
    tokenizer_close(t);
}

static void ids_outside_are_refused(void **state)
{
    (void)state;
    struct tokenizer *t = open_good();
    char *s;
    size_t len;
    struct err e = {0};
    const int32_t bad[] = {'a', -1}, high[] = {266};
    assert_int_equal(tokenizer_decode(t, bad, 2, true, &s, &len, &e), ERR_INVALID);
    assert_int_equal(tokenizer_decode(t, high, 1, true, &s, &len, &e), ERR_INVALID);
    assert_string_equal(tokenizer_piece(t, INT32_MIN, true, &len), "");
    assert_string_equal(tokenizer_token(t, INT32_MAX, &len), "");
    assert_false(tokenizer_is_end(t, -1));
    assert_false(tokenizer_is_control(t, 266));
    tokenizer_close(t);
}

static void pieces_hide_control_tokens(void **state)
{
    (void)state;
    struct tokenizer *t = open_good();
    size_t len;
    assert_memory_equal(tokenizer_piece(t, SPACE_A, false, &len), " a", 2);
    assert_int_equal(len, 2);
    (void)tokenizer_piece(t, START, false, &len);
    assert_int_equal(len, 0);
    (void)tokenizer_piece(t, START, true, &len);
    assert_int_equal(len, 12);
    (void)tokenizer_piece(t, TOOL, false, &len);
    assert_int_equal(len, 6);
    assert_true(tokenizer_is_end(t, 'z'));
    assert_true(tokenizer_is_end(t, END));
    assert_false(tokenizer_is_end(t, START));
    assert_int_equal(tokenizer_find(t, "abc", 3), ABC);
    assert_int_equal(tokenizer_find(t, "nope", 4), -1);
    tokenizer_close(t);
}

static void random_merges_equal_the_obvious_loop(void **state)
{
    (void)state;
    uint32_t x = 7;
    struct bpe_work work = {0};
    for (int round = 0; round < 300; round++) {
        struct bpe_merges m;
        assert_int_equal(bpe_merges_init(&m, 4), 0);
        for (int i = 0; i < 40; i++) {
            x = x * 1664525 + 1013904223;
            assert_int_equal(
                bpe_merges_put(&m, x >> 8 & 7, x >> 12 & 7, (x >> 16) % 12, (int32_t)(x >> 24 & 7)),
                0);
        }
        int32_t ids[64];
        size_t n = 1 + x % 64, n_ids = n;
        assert_int_equal(bpe_work_reserve(&work, n), 0);
        for (size_t i = 0; i < n; i++) {
            x = x * 1664525 + 1013904223;
            ids[i] = (int32_t)(x >> 20 & 7);
            work.syms[i] = (struct bpe_sym){.id = ids[i], .at = (uint32_t)i};
        }
        for (;;) {
            uint32_t rank, best = UINT32_MAX;
            int32_t id, best_id = 0;
            size_t at = 0;
            for (size_t i = 0; i + 1 < n_ids; i++) {
                if (bpe_merges_get(&m, ids[i], ids[i + 1], &rank, &id) && rank < best) {
                    best = rank;
                    best_id = id;
                    at = i;
                }
            }
            if (best == UINT32_MAX)
                break;
            ids[at] = best_id;
            memmove(ids + at + 1, ids + at + 2, (n_ids - at - 2) * sizeof *ids);
            n_ids--;
        }
        assert_int_equal(bpe_merge(&m, &work, n), n_ids);
        for (size_t i = 0; i < n_ids; i++)
            assert_int_equal(work.syms[i].id, ids[i]);
        bpe_merges_free(&m);
    }
    bpe_work_free(&work);
}

static void refuse(int code, const char *part)
{
    struct tokenizer *t;
    struct err e = {0};
    int rc = tg_open(&w, &t, &e);
    assert_int_equal(rc, code);
    if (!strstr(e.msg, part))
        fail_msg("\"%s\" does not say \"%s\"", e.msg, part);
}

static void contradictions_are_refused(void **state)
{
    (void)state;
    static const char *const no_space[] = {"ab"};
    const int32_t bad_type[] = {1, 99};
    begin("gpt-2");
    refuse(ERR_CORRUPT, "0 tokens");
    begin("gpt-2");
    put_tokens(more, 2);
    tg_ints(&w, "token_type", bad_type, 2);
    refuse(ERR_CORRUPT, "token types");
    begin("gpt-2");
    tg_strs(&w, "tokens", more, 2);
    tg_ints(&w, "token_type", bad_type, 2);
    refuse(ERR_CORRUPT, "type 99");
    begin("gpt-2");
    tg_strs(&w, "tokens", more, 2);
    tg_strs(&w, "token_type", more, 2);
    refuse(ERR_CORRUPT, "token_type");
    begin("gpt-2");
    tg_strs(&w, "tokens", more, 2);
    tg_strs(&w, "merges", no_space, 1);
    refuse(ERR_CORRUPT, "merge 0");
    begin("gpt-2");
    tg_strs(&w, "tokens", more, 2);
    tg_int(&w, "eos_token_id", 2);
    refuse(ERR_CORRUPT, "eos_token_id");
    begin("gpt-2");
    tg_strs(&w, "tokens", more, 2);
    tg_int(&w, "eot_token_id", -1);
    refuse(ERR_CORRUPT, "eot_token_id");
    begin("no-such-regex");
    refuse(ERR_UNSUPPORTED, "no-such-regex");
    tg_begin(&w);
    refuse(ERR_CORRUPT, "no tokenizer");
    tg_begin(&w);
    tg_str(&w, "model", "bert");
    refuse(ERR_UNSUPPORTED, "bert");
    begin("gpt-2");
    tg_int(&w, "tokens", 1);
    refuse(ERR_CORRUPT, "tokens");
}

static void odd_vocabularies_are_tolerated(void **state)
{
    (void)state;
    static const char *const tokens[] = {"a", "a", "", "b", "ab", "\xFF\xFE", "ab"};
    static const char *const odd[] = {"x y", "a x", "a b", "a b", " a b", "a  ", "a a"};
    const int32_t types[] = {1, 1, 3, 1, 0, 4, 4};
    begin(NULL); /* no pre: default */
    tg_strs(&w, "tokens", tokens, 7);
    tg_ints(&w, "token_type", types, 7);
    tg_strs(&w, "merges", odd, 7);
    tg_int(&w, "padding_token_id", -1);
    tg_int(&w, "unknown_token_id", 1000);
    tg_bool(&w, "add_bos_token", 1); /* but there is no bos */
    struct tokenizer *t;
    struct err e = {0};
    if (tg_open(&w, &t, &e))
        fail_msg("%s", e.msg);
    assert_string_equal(tokenizer_info(t)->pre, "default");
    assert_false(tokenizer_info(t)->add_bos);
    assert_int_equal(tokenizer_info(t)->pad, -1);
    EXPECT(t, "ba", TOKENIZE_BOS, 3, 0);
    EXPECT(t, "zaq\xFF\xFE", 0, 0, 5); /* bytes that it lacks give nothing */
    tokenizer_close(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lowest_rank_then_leftmost_merges_first),
        cmocka_unit_test(special_tokens_are_cut_out_longest_first),
        cmocka_unit_test(broken_utf8_goes_byte_by_byte_and_comes_back),
        cmocka_unit_test(maximum_is_kept),
        cmocka_unit_test(ids_outside_are_refused),
        cmocka_unit_test(pieces_hide_control_tokens),
        cmocka_unit_test(random_merges_equal_the_obvious_loop),
        cmocka_unit_test(contradictions_are_refused),
        cmocka_unit_test(odd_vocabularies_are_tolerated),
    };
    return cmocka_run_group_tests_name("bpe", tests, NULL, NULL);
}
