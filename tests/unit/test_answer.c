/* An answer in blocks: what begins, grows and ends, in which order, and what is kept of it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "api/answer.h"

static void text_begins(void *ctx, enum answer_kind kind, int index, struct buf *out)
{
    (void)ctx;
    buf_printf(out, kind == ANSWER_THOUGHT ? "{%d " : "[%d ", index);
}

static void text(void *ctx, enum answer_kind kind, int index, const char *s, size_t n,
                 struct buf *out)
{
    (void)ctx;
    (void)kind;
    (void)index;
    buf_add(out, s, n);
}

static void text_ends(void *ctx, enum answer_kind kind, int index, struct buf *out)
{
    (void)ctx;
    (void)index;
    buf_adds(out, kind == ANSWER_THOUGHT ? "}" : "]");
}

static void call_begins(void *ctx, const struct tool_call *c, int index, struct buf *out)
{
    (void)ctx;
    buf_printf(out, "<%d %s ", index, c->name);
}

static void call(void *ctx, const struct tool_call *c, int index, const char *s, size_t n,
                 struct buf *out)
{
    (void)ctx;
    (void)c;
    (void)index;
    buf_add(out, s, n);
}

static void call_ends(void *ctx, const struct tool_call *c, int index, struct buf *out)
{
    (void)ctx;
    buf_printf(out, "%s %d>", c->whole ? "" : " cut", index);
}

static const struct answer_sink sink = {text_begins, text, text_ends, call_begins, call, call_ends};

/* The answer in pieces of `step` bytes, and how it ended. */
static void tell(struct answer *a, const char *said, size_t step, enum finish finish, bool forget,
                 struct buf *out)
{
    const size_t n = strlen(said);
    for (size_t i = 0; i < n; i += step) {
        struct event ev = {.kind = EV_TEXT, .text = said + i, .len = n - i < step ? n - i : step};
        answer_take(a, &ev);
        answer_tell(a, &sink, NULL, out);
        if (forget)
            answer_forget(a);
    }
    const struct event end = {.kind = EV_FINISH, .finish = finish};
    answer_take(a, &end);
    answer_tell(a, &sink, NULL, out);
}

static void check(const char *said, enum finish finish, const char *expected, const char *word)
{
    const struct render_options o = {.tools = &tool_format_generic};
    for (size_t step = 1; step < 40; step += 3) {
        for (int forget = 0; forget < 2; forget++) {
            struct answer a;
            struct buf out;
            struct err e = {0};
            buf_init(&out, 4096);
            assert_int_equal(answer_open(&a, &o, 4096, &e), 0);
            tell(&a, said, step, finish, forget, &out);
            assert_string_equal(buf_str(&out), expected);
            assert_string_equal(answer_finish(&a), word);
            assert_int_equal(answer_check(&a, 0, false, &e), 0);
            answer_close(&a);
            buf_free(&out);
        }
    }
}

#define CALL "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}}\n</tool_call>"

static void blocks_come_in_order_however_the_text_is_cut(void **state)
{
    (void)state;
    check("Hello there", FINISH_STOP, "[0 Hello there]", "stop");
    check("", FINISH_STOP, "[0 ]", "stop");
    check("Hello", FINISH_LENGTH, "[0 Hello]", "length");
    check(CALL, FINISH_STOP, "<0 f {\"a\": 1} 0>", "tool_calls");
    check("I look." CALL "\n" CALL, FINISH_STOP, "[0 I look.]<1 f {\"a\": 1} 1><2 f {\"a\": 1} 2>",
          "tool_calls");
    check("<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": ", FINISH_LENGTH,
          "<0 f {\"a\":  cut 0>", "length");
}

static void thoughts_are_a_block_in_front(void **state)
{
    (void)state;
    static const struct {
        enum think_start start;
        bool hidden;
        const char *said, *told;
        enum finish finish;
    } cases[] = {
        {THINK_OPEN, false, "so\n</think>\nYes", "{0 so}[1 Yes]", FINISH_STOP},
        {THINK_OPEN, true, "so\n</think>\nYes", "[0 Yes]", FINISH_STOP},
        {THINK_MAYBE, false, "<think>so</think>" CALL, "{0 so}<1 f {\"a\": 1} 1>", FINISH_STOP},
        {THINK_MAYBE, false, "<think>so</think>I look." CALL, "{0 so}[1 I look.]<2 f {\"a\": 1} 2>",
         FINISH_STOP},
        {THINK_MAYBE, false, "<think>so", "{0 so}", FINISH_LENGTH},
        {THINK_MAYBE, true, "<think>so", "[0 ]", FINISH_LENGTH},
        {THINK_MAYBE, false, "<think></think>Yes", "[0 Yes]", FINISH_STOP},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        for (size_t step = 1; step < 8; step++) {
            const struct render_options o = {.tools = &tool_format_generic,
                                             .think = cases[i].start,
                                             .hide_thoughts = cases[i].hidden};
            struct answer a;
            struct buf out;
            buf_init(&out, 4096);
            assert_int_equal(answer_open(&a, &o, 4096, NULL), 0);
            tell(&a, cases[i].said, step, cases[i].finish, step % 2, &out);
            assert_string_equal(buf_str(&out), cases[i].told);
            answer_close(&a);
            buf_free(&out);
        }
    }
}

static void an_answer_that_is_forgotten_may_be_longer_than_its_memory(void **state)
{
    (void)state;
    const struct render_options o = {.tools = NULL};
    for (int forget = 0; forget < 2; forget++) {
        struct answer a;
        struct buf out;
        struct err e = {0};
        buf_init(&out, 4096);
        assert_int_equal(answer_open(&a, &o, 20, &e), 0);
        tell(&a, "0123456789012345678901234567890123456789", 5, FINISH_STOP, forget, &out);
        assert_int_equal(answer_check(&a, 0, false, &e), forget ? 0 : ERR_TOOBIG);
        assert_string_equal(e.reason, forget ? "" : "answer_too_large");
        if (forget)
            assert_string_equal(buf_str(&out), "[0 0123456789012345678901234567890123456789]");
        answer_close(&a);
        buf_free(&out);
    }
}

static void the_stop_text_is_kept(void **state)
{
    (void)state;
    const struct render_options o = {.tools = NULL};
    struct answer a;
    assert_int_equal(answer_open(&a, &o, 100, NULL), 0);
    const struct event end = {.kind = EV_FINISH, .finish = FINISH_STOP, .stop = "END"};
    assert_null(answer_finish(&a));
    answer_take(&a, &end);
    assert_string_equal(buf_str(&a.stop), "END");
    answer_close(&a);
}

static void ids_are_fresh(void **state)
{
    (void)state;
    char a[ANSWER_ID_MAX], b[ANSWER_ID_MAX];
    assert_ptr_equal(answer_id(a, "resp"), a);
    answer_id(b, "resp");
    assert_int_equal(strlen(a), strlen("resp_") + 32);
    assert_string_not_equal(a, b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocks_come_in_order_however_the_text_is_cut),
        cmocka_unit_test(thoughts_are_a_block_in_front),
        cmocka_unit_test(an_answer_that_is_forgotten_may_be_longer_than_its_memory),
        cmocka_unit_test(the_stop_text_is_kept),
        cmocka_unit_test(ids_are_fresh),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
