/* Streaming text: whole characters only, however the tokens cut them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/buf.h"
#include "base/utf8.h"
#include "engine/text/detok.h"
#include "engine/text/vocab.h"
#include "tests/unit/tokenizer_gguf.h"

enum { N = 260, CONTROL = 256, SPACE_A, LONG, SPACE };

static struct tg w;

/* A token for every byte, its id the byte; SentencePiece or byte-level. */
static struct tokenizer *open_bytes(bool spm)
{
    static char names[256][8], long_token[201];
    const char *tokens[N];
    int32_t types[N];
    float scores[N] = {0};
    for (int b = 0; b < 256; b++) {
        memset(names[b], 0, sizeof names[b]);
        if (spm)
            snprintf(names[b], sizeof names[b], "<0x%02X>", (unsigned)b);
        else
            utf8_encode(names[b], vocab_byte_to_cp((unsigned char)b));
        tokens[b] = names[b];
        types[b] = spm ? TOKEN_BYTE : TOKEN_NORMAL;
    }
    memset(long_token, 'l', 200);
    tokens[CONTROL] = "<|end|>";
    tokens[SPACE_A] = spm ? "\xE2\x96\x81"
                            "a"
                          : "\xC4\xA0"
                            "a";
    tokens[LONG] = long_token;
    tokens[SPACE] = spm ? "\xE2\x96\x81" : "\xC4\xA0\xC4\xA0";
    for (int i = CONTROL; i < N; i++)
        types[i] = i == CONTROL ? TOKEN_CONTROL : TOKEN_NORMAL;
    tg_begin(&w);
    tg_str(&w, "model", spm ? "llama" : "gpt2");
    tg_strs(&w, "tokens", tokens, N);
    tg_ints(&w, "token_type", types, N);
    tg_floats(&w, "scores", scores, N);
    struct tokenizer *t;
    struct err e = {0};
    if (tg_open(&w, &t, &e))
        fail_msg("%s", e.msg);
    return t;
}

static void push_bytes(struct detok *d, const char *s, struct buf *out)
{
    for (; *s; s++)
        assert_int_equal(detok_push(d, (unsigned char)*s, out, NULL), 0);
}

static void characters_come_out_whole(void **state)
{
    (void)state;
    struct tokenizer *t = open_bytes(false);
    struct detok d;
    struct buf out;
    buf_init(&out, 1000);
    detok_init(&d, t, true, false);
    push_bytes(&d, "a\xF0\x9F\x98", &out);
    assert_string_equal(buf_str(&out), "a");
    push_bytes(&d, "\x80", &out);
    assert_string_equal(buf_str(&out), "a\xF0\x9F\x98\x80");
    buf_clear(&out);
    push_bytes(&d, "\xE4\xB8", &out);
    assert_int_equal(out.len, 0);
    push_bytes(&d, "x", &out); /* it will never be one */
    assert_string_equal(buf_str(&out), "\xEF\xBF\xBDx");
    buf_clear(&out);
    push_bytes(&d, "\xE4\xB8", &out);
    assert_int_equal(detok_flush(&d, &out, NULL), 0);
    assert_string_equal(buf_str(&out), "\xEF\xBF\xBD");
    assert_int_equal(detok_flush(&d, &out, NULL), 0);
    assert_int_equal(out.len, 3);
    buf_free(&out);
    tokenizer_close(t);
}

static void any_bytes_give_the_repaired_whole(void **state)
{
    (void)state;
    struct tokenizer *t = open_bytes(false);
    uint32_t x = 5;
    for (int round = 0; round < 2000; round++) {
        static const unsigned char lead[] = {0x41, 0x80, 0xBF, 0xC3, 0xE0, 0xE4,
                                             0xED, 0xF0, 0xF4, 0xFF, 0xA0, 0x9F};
        char s[24], want[80];
        struct detok d;
        struct buf out;
        buf_init(&out, 1000);
        detok_init(&d, t, true, false);
        for (size_t i = 0; i < sizeof s; i++) {
            x = x * 1664525 + 1013904223;
            s[i] = (char)lead[(x >> 16) % sizeof lead];
            assert_int_equal(detok_push(&d, (unsigned char)s[i], &out, NULL), 0);
            assert_true(out.len == 0 || utf8_valid(out.data, out.len));
            assert_true(d.n_pending <= 3);
        }
        assert_int_equal(detok_flush(&d, &out, NULL), 0);
        size_t n = utf8_repair(want, s, sizeof s);
        assert_int_equal(out.len, n);
        assert_memory_equal(out.data, want, n);
        buf_free(&out);
    }
    tokenizer_close(t);
}

static void the_first_space_goes_at_the_start_only(void **state)
{
    (void)state;
    struct tokenizer *t = open_bytes(true);
    struct detok d;
    struct buf out;
    buf_init(&out, 1000);
    detok_init(&d, t, true, false);
    assert_int_equal(detok_push(&d, CONTROL, &out, NULL), 0);
    assert_int_equal(detok_push(&d, SPACE_A, &out, NULL), 0);
    assert_int_equal(detok_push(&d, SPACE_A, &out, NULL), 0);
    assert_string_equal(buf_str(&out), "a a");
    buf_clear(&out);
    detok_init(&d, t, false, true); /* goes on after a prompt */
    assert_int_equal(detok_push(&d, SPACE_A, &out, NULL), 0);
    assert_int_equal(detok_push(&d, CONTROL, &out, NULL), 0);
    assert_int_equal(detok_push(&d, SPACE, &out, NULL), 0);
    assert_int_equal(detok_push(&d, SPACE_A, &out, NULL), 0);
    assert_string_equal(buf_str(&out), " a<|end|> a");
    buf_free(&out);
    tokenizer_close(t);
    t = open_bytes(false); /* byte-level models have no such space */
    buf_init(&out, 1000);
    detok_init(&d, t, true, false);
    assert_int_equal(detok_push(&d, SPACE_A, &out, NULL), 0);
    assert_string_equal(buf_str(&out), " a");
    buf_free(&out);
    tokenizer_close(t);
}

static void errors_change_nothing(void **state)
{
    (void)state;
    struct tokenizer *t = open_bytes(false);
    struct detok d;
    struct buf out;
    struct err e = {0};
    buf_init(&out, 202);
    detok_init(&d, t, true, false);
    push_bytes(&d, "a\xC3", &out);
    assert_int_equal(detok_push(&d, N, &out, &e), ERR_INVALID);
    assert_int_equal(detok_push(&d, -1, &out, &e), ERR_INVALID);
    assert_int_equal(detok_push(&d, LONG, &out, &e), ERR_TOOBIG);
    assert_int_equal(d.n_pending, 1);
    buf_clear(&out);
    push_bytes(&d, "\xA8", &out);
    assert_string_equal(buf_str(&out), "\xC3\xA8");
    assert_int_equal(detok_push(&d, LONG, &out, &e), 0);
    assert_int_equal(out.len, 202);
    buf_free(&out);
    tokenizer_close(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(characters_come_out_whole),
        cmocka_unit_test(any_bytes_give_the_repaired_whole),
        cmocka_unit_test(the_first_space_goes_at_the_start_only),
        cmocka_unit_test(errors_change_nothing),
    };
    return cmocka_run_group_tests_name("detok", tests, NULL, NULL);
}
