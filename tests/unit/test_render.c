/* Events made by hand -> OpenAI's documents and streams. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "api/render.h"
#include "base/json.h"

/* Ids 0-25 are letters; 100 and 101 are the two halves of "é"; 102 is "a" again. */
static const char *piece(const void *ctx, int32_t id, size_t *len)
{
    static char text[2];
    (void)ctx;
    *len = 1;
    if (id == 100 || id == 101)
        return id == 100 ? "\xc3" : "\xa9";
    text[0] = id == 102 ? 'a' : (char)('a' + id);
    return text;
}

struct fixture {
    struct render *r;
    struct buf out;
    struct cJSON *doc;
    int rc;
    struct err e;
};

static struct render_options options(enum render_shape shape, bool stream)
{
    return (struct render_options){.shape = shape,
                                   .stream = stream,
                                   .n_choices = 1,
                                   .n = 1,
                                   .model = "m",
                                   .fingerprint = "fp_test",
                                   .created = 1700000000,
                                   .max_bytes = 1 << 20,
                                   .piece = piece};
}

static struct fixture open_with(const struct render_options *o)
{
    struct fixture f = {.r = render_open(o)};
    assert_non_null(f.r);
    buf_init(&f.out, 1 << 20);
    return f;
}

static void close_all(struct fixture *f)
{
    json_free(f->doc);
    render_close(f->r);
    buf_free(&f->out);
}

static void feed(struct fixture *f, struct event ev)
{
    if (f->rc == 0)
        f->rc = render_event(f->r, &ev, &f->out, &f->e);
}

static void text(struct fixture *f, int index, const char *s)
{
    feed(f, (struct event){.kind = EV_TEXT, .index = index, .text = s, .len = strlen(s)});
}

static void token(struct fixture *f, enum event_kind kind, int index, const char *s,
                  const struct token_info *t)
{
    feed(f, (struct event){.kind = kind,
                           .index = index,
                           .text = s,
                           .len = s ? strlen(s) : 0,
                           .tokens = t,
                           .n_tokens = 1});
}

static void finish(struct fixture *f, int index, enum finish how)
{
    feed(f, (struct event){.kind = EV_FINISH,
                           .index = index,
                           .finish = how,
                           .usage = {.prompt_tokens = 5, .completion_tokens = 2}});
}

static void done(struct fixture *f)
{
    feed(f, (struct event){.kind = EV_DONE,
                           .usage = {.prompt_tokens = 5,
                                     .cached_tokens = 3,
                                     .completion_tokens = 2,
                                     .prefill_us = 2000,
                                     .decode_us = 4000}});
}

static const struct cJSON *document(struct fixture *f)
{
    assert_int_equal(f->rc, 0);
    struct err e = {0};
    if (json_parse(&f->doc, buf_str(&f->out), f->out.len, &json_limits_default, &e) != 0)
        fail_msg("%s: %s", e.msg, buf_str(&f->out));
    return f->doc;
}

/* Takes the next "data: ...\n\n" off the front; false at [DONE] or when there is no more. */
static bool next_frame(struct fixture *f)
{
    json_free(f->doc);
    f->doc = NULL;
    char *end = f->out.len ? strstr(f->out.data, "\n\n") : NULL;
    if (end == NULL || strncmp(f->out.data, "data: [DONE]", 12) == 0)
        return false;
    assert_int_equal(strncmp(f->out.data, "data: ", 6), 0);
    assert_int_equal(json_parse(&f->doc, f->out.data + 6, (size_t)(end - f->out.data) - 6,
                                &json_limits_default, NULL),
                     0);
    buf_drop(&f->out, (size_t)(end - f->out.data) + 2);
    return true;
}

static const struct cJSON *choice(const struct cJSON *doc, int i)
{
    const struct cJSON *c = json_first(json_get(doc, "choices"));
    while (i-- > 0)
        c = json_next(c);
    return c;
}

static const char *str(const struct cJSON *v, const char *key)
{
    const char *s = json_str(json_get(v, key));
    return s != NULL ? s : "(none)";
}

static int num(const struct cJSON *v, const char *key)
{
    return (int)json_num(json_get(v, key));
}

static void a_chat_answer_has_the_shape_of_openai(void **state)
{
    (void)state;
    struct render_options o = options(RENDER_CHAT, false);
    struct fixture f = open_with(&o);
    text(&f, 0, "Hel");
    text(&f, 0, "lo \"you\"\n");
    finish(&f, 0, FINISH_STOP);
    assert_int_equal(f.out.len, 0);
    done(&f);
    const struct cJSON *d = document(&f), *c = choice(d, 0), *m = json_get(c, "message");
    assert_int_equal(strncmp(str(d, "id"), "chatcmpl-", 9), 0);
    assert_string_equal(str(d, "object"), "chat.completion");
    assert_string_equal(str(d, "model"), "m");
    assert_string_equal(str(d, "system_fingerprint"), "fp_test");
    assert_int_equal(num(d, "created"), 1700000000);
    assert_string_equal(str(m, "role"), "assistant");
    assert_string_equal(str(m, "content"), "Hello \"you\"\n");
    assert_non_null(json_get(m, "refusal"));
    assert_int_equal(json_type(json_get(c, "logprobs")), JSON_NULL);
    assert_string_equal(str(c, "finish_reason"), "stop");
    const struct cJSON *u = json_get(d, "usage");
    assert_int_equal(num(u, "prompt_tokens"), 5);
    assert_int_equal(num(u, "completion_tokens"), 2);
    assert_int_equal(num(u, "total_tokens"), 7);
    assert_int_equal(num(json_get(u, "prompt_tokens_details"), "cached_tokens"), 3);
    assert_null(json_get(d, "timings"));
    assert_string_equal(render_finish(f.r), "stop");
    close_all(&f);
}

static void interleaved_choices_are_put_together(void **state)
{
    (void)state;
    struct render_options o = options(RENDER_CHAT, false);
    o.n = o.n_choices = 3;
    struct fixture f = open_with(&o);
    text(&f, 2, "c");
    text(&f, 0, "a");
    text(&f, 1, "b");
    text(&f, 0, "A");
    finish(&f, 1, FINISH_LENGTH);
    finish(&f, 0, FINISH_STOP);
    finish(&f, 2, FINISH_STOP);
    done(&f);
    const struct cJSON *d = document(&f);
    static const char *const want[] = {"aA", "b", "c"};
    for (int i = 0; i < 3; i++) {
        assert_int_equal(num(choice(d, i), "index"), i);
        assert_string_equal(str(json_get(choice(d, i), "message"), "content"), want[i]);
    }
    assert_string_equal(str(choice(d, 1), "finish_reason"), "length");
    close_all(&f);
}

static void a_stream_begins_with_the_role_and_ends_with_done(void **state)
{
    (void)state;
    struct render_options o = options(RENDER_CHAT, true);
    o.include_usage = true;
    struct fixture f = open_with(&o);
    text(&f, 0, "Hi");
    finish(&f, 0, FINISH_STOP);
    done(&f);
    assert_true(next_frame(&f));
    assert_string_equal(str(f.doc, "object"), "chat.completion.chunk");
    char id[64];
    snprintf(id, sizeof id, "%s", str(f.doc, "id"));
    assert_string_equal(str(json_get(choice(f.doc, 0), "delta"), "role"), "assistant");
    assert_string_equal(str(json_get(choice(f.doc, 0), "delta"), "content"), "");
    assert_int_equal(json_type(json_get(f.doc, "usage")), JSON_NULL);
    assert_true(next_frame(&f));
    assert_string_equal(str(json_get(choice(f.doc, 0), "delta"), "content"), "Hi");
    assert_int_equal(json_type(json_get(choice(f.doc, 0), "finish_reason")), JSON_NULL);
    assert_string_equal(str(f.doc, "id"), id);
    assert_true(next_frame(&f));
    assert_int_equal(json_size(json_get(choice(f.doc, 0), "delta")), 0);
    assert_string_equal(str(choice(f.doc, 0), "finish_reason"), "stop");
    assert_true(next_frame(&f));
    assert_int_equal(json_size(json_get(f.doc, "choices")), 0);
    assert_int_equal(num(json_get(f.doc, "usage"), "total_tokens"), 7);
    assert_false(next_frame(&f));
    assert_string_equal(buf_str(&f.out), "data: [DONE]\n\n");
    close_all(&f);
}

static void without_text_the_stream_still_has_role_and_finish(void **state)
{
    (void)state;
    struct render_options o = options(RENDER_CHAT, true);
    struct fixture f = open_with(&o);
    finish(&f, 0, FINISH_LENGTH);
    done(&f);
    assert_true(next_frame(&f));
    assert_string_equal(str(json_get(choice(f.doc, 0), "delta"), "role"), "assistant");
    assert_null(json_get(f.doc, "usage"));
    assert_true(next_frame(&f));
    assert_string_equal(str(choice(f.doc, 0), "finish_reason"), "length");
    assert_false(next_frame(&f));
    close_all(&f);
}

static void chat_logprobs_have_bytes_and_alternatives(void **state)
{
    (void)state;
    struct render_options o = options(RENDER_CHAT, false);
    o.logprobs = true;
    o.top_logprobs = 2;
    struct fixture f = open_with(&o);
    struct token_info t = {.id = 100, .logprob = -0.5f, .n_top = 2};
    t.top[0].id = 100;
    t.top[0].logprob = -0.5f;
    t.top[1].id = 1;
    t.top[1].logprob = -INFINITY;
    token(&f, EV_TEXT, 0, "", &t);
    t.id = 101;
    token(&f, EV_TEXT, 0, "\xc3\xa9", &t);
    finish(&f, 0, FINISH_STOP);
    done(&f);
    const struct cJSON *content =
        json_get(json_get(choice(document(&f), 0), "logprobs"), "content");
    assert_int_equal(json_size(content), 2);
    const struct cJSON *first = json_first(content), *tops = json_get(first, "top_logprobs");
    assert_int_equal((int)json_num(json_first(json_get(first, "bytes"))), 0xc3);
    assert_float_equal(json_num(json_get(first, "logprob")), -0.5, 1e-9);
    assert_int_equal(json_size(tops), 2);
    assert_string_equal(str(json_next(json_first(tops)), "token"), "b");
    assert_float_equal(json_num(json_get(json_next(json_first(tops)), "logprob")), -9999, 1e-9);
    close_all(&f);
}

static void completion_logprobs_have_the_legacy_format(void **state)
{
    (void)state;
    struct render_options o = options(RENDER_COMPLETION, false);
    const char *echo = "ab";
    size_t echo_len = 2;
    o.logprobs = true;
    o.top_logprobs = 2;
    o.echo = &echo;
    o.echo_len = &echo_len;
    struct fixture f = open_with(&o);
    struct token_info t = {.id = 0, .logprob = NAN};
    token(&f, EV_PROMPT, 0, NULL, &t);
    t = (struct token_info){.id = 1, .logprob = -1, .n_top = 2};
    t.top[0].id = 102; /* the same text twice: the better one stays */
    t.top[0].logprob = -0.25f;
    t.top[1].id = 0;
    t.top[1].logprob = -0.5f;
    token(&f, EV_PROMPT, 0, NULL, &t);
    t = (struct token_info){.id = 100, .logprob = -2};
    token(&f, EV_TEXT, 0, "", &t);
    t = (struct token_info){.id = 101, .logprob = -3};
    token(&f, EV_TEXT, 0, "\xc3\xa9", &t);
    finish(&f, 0, FINISH_LENGTH);
    done(&f);
    const struct cJSON *d = document(&f), *c = choice(d, 0), *l = json_get(c, "logprobs");
    assert_string_equal(str(d, "object"), "text_completion");
    assert_int_equal(strncmp(str(d, "id"), "cmpl-", 5), 0);
    assert_string_equal(str(c, "text"), "ab\xc3\xa9");
    const struct cJSON *tokens = json_first(json_get(l, "tokens"));
    assert_string_equal(json_str(tokens), "a");
    assert_string_equal(json_str(json_next(tokens)), "b");
    assert_string_equal(json_str(json_next(json_next(tokens))), "bytes:\\xc3");
    const struct cJSON *numbers = json_get(l, "token_logprobs");
    assert_int_equal(json_size(numbers), 4);
    assert_int_equal(json_type(json_first(numbers)), JSON_NULL);
    const struct cJSON *tops = json_first(json_get(l, "top_logprobs"));
    assert_int_equal(json_type(tops), JSON_NULL);
    tops = json_next(tops);
    assert_int_equal(json_size(tops), 2);
    assert_float_equal(json_num(json_get(tops, "a")), -0.25, 1e-9);
    assert_float_equal(json_num(json_get(tops, "b")), -1, 1e-9);
    static const int offsets[] = {0, 1, 2, 3};
    int i = 0;
    for (const struct cJSON *v = json_first(json_get(l, "text_offset")); v; v = json_next(v))
        assert_int_equal((int)json_num(v), offsets[i++]);
    close_all(&f);
}

static void echo_comes_first_in_a_stream_too(void **state)
{
    (void)state;
    struct render_options o = options(RENDER_COMPLETION, true);
    const char *echo[] = {"one ", "two "};
    size_t echo_len[] = {4, 4};
    o.n = 2;
    o.n_choices = 4;
    o.echo = echo;
    o.echo_len = echo_len;
    struct fixture f = open_with(&o);
    text(&f, 3, "x");
    finish(&f, 1, FINISH_LENGTH);
    assert_true(next_frame(&f));
    assert_int_equal(num(choice(f.doc, 0), "index"), 3);
    assert_string_equal(str(choice(f.doc, 0), "text"), "two x");
    assert_true(next_frame(&f));
    assert_string_equal(str(choice(f.doc, 0), "text"), "one ");
    assert_string_equal(str(choice(f.doc, 0), "finish_reason"), "length");
    close_all(&f);
}

static void timings_are_llama_servers(void **state)
{
    (void)state;
    struct render_options o = options(RENDER_CHAT, false);
    o.timings = true;
    struct fixture f = open_with(&o);
    done(&f);
    const struct cJSON *t = json_get(document(&f), "timings");
    assert_int_equal(num(t, "cache_n"), 3);
    assert_int_equal(num(t, "prompt_n"), 2);
    assert_int_equal(num(t, "predicted_n"), 2);
    assert_float_equal(json_num(json_get(t, "prompt_ms")), 2, 1e-9);
    assert_float_equal(json_num(json_get(t, "prompt_per_second")), 1000, 1e-6);
    assert_float_equal(json_num(json_get(t, "predicted_per_second")), 500, 1e-6);
    close_all(&f);
}

static void invalid_utf8_never_reaches_the_client(void **state)
{
    (void)state;
    struct render_options o = options(RENDER_CHAT, false);
    struct fixture f = open_with(&o);
    text(&f, 0, "a\xff\xc3");
    done(&f);
    const char *s = str(json_get(choice(document(&f), 0), "message"), "content");
    assert_string_equal(s, "a\xef\xbf\xbd\xef\xbf\xbd");
    close_all(&f);
}

static void an_answer_over_its_limit_is_an_error(void **state)
{
    (void)state;
    struct render_options o = options(RENDER_CHAT, false);
    o.max_bytes = 1000;
    struct fixture f = open_with(&o);
    for (int i = 0; i < 300 && f.rc == 0; i++)
        text(&f, 0, "0123456789");
    assert_int_equal(f.rc, ERR_TOOBIG);
    assert_string_equal(f.e.reason, "answer_too_large");
    close_all(&f);
}

static void a_choice_that_does_not_exist_is_an_error(void **state)
{
    (void)state;
    struct render_options o = options(RENDER_CHAT, false);
    struct fixture f = open_with(&o);
    text(&f, 1, "x");
    assert_int_not_equal(f.rc, 0);
    close_all(&f);
}

static void a_stream_that_fails_ends_with_an_error_frame(void **state)
{
    (void)state;
    struct buf out;
    struct err e = {.code = ERR_DEVICE, .msg = "the device failed"};
    buf_init(&out, 4096);
    render_error_frame(&out, 500, &e);
    assert_int_equal(strncmp(out.data, "data: {\"error\":{", 16), 0);
    assert_null(strstr(out.data, "[DONE]"));
    assert_string_equal(out.data + out.len - 2, "\n\n");
    buf_free(&out);
}

static void thoughts_are_told_apart(void **state)
{
    (void)state;
    struct render_options o = options(RENDER_CHAT, false);
    o.think = THINK_MAYBE;
    for (int hidden = 0; hidden < 2; hidden++) {
        o.hide_thoughts = hidden;
        struct fixture f = open_with(&o);
        text(&f, 0, "<think>\nso ");
        text(&f, 0, "so\n</think>\n\nYes");
        text(&f, 0, ".");
        feed(&f, (struct event){.kind = EV_FINISH, .finish = FINISH_STOP});
        feed(&f, (struct event){.kind = EV_DONE});
        assert_int_equal(json_parse(&f.doc, f.out.data, f.out.len, NULL, NULL), 0);
        const struct cJSON *m = json_get(json_first(json_get(f.doc, "choices")), "message");
        assert_string_equal(json_str(json_get(m, "content")), "Yes.");
        if (hidden)
            assert_null(json_get(m, "reasoning_content"));
        else
            assert_string_equal(json_str(json_get(m, "reasoning_content")), "so so");
        close_all(&f);
    }
}

static void a_stream_tells_thoughts_first(void **state)
{
    (void)state;
    struct render_options o = options(RENDER_CHAT, true);
    struct token_info t = {.id = 1, .logprob = -1};
    o.think = THINK_OPEN;
    o.logprobs = true;
    struct fixture f = open_with(&o);
    token(&f, EV_TEXT, 0, "\nso ", &t);
    token(&f, EV_TEXT, 0, "so\n</think>\n\nYes", &t);
    token(&f, EV_TEXT, 0, ".", &t);
    feed(&f, (struct event){.kind = EV_FINISH, .finish = FINISH_STOP});
    const char *first = strstr(buf_str(&f.out), "\"reasoning_content\":\"so\"");
    const char *second = strstr(buf_str(&f.out), "\"reasoning_content\":\" so\"");
    const char *said = strstr(buf_str(&f.out), "\"content\":\"Yes\"");
    const char *dot = strstr(buf_str(&f.out), "\"content\":\".\"");
    assert_true(first && second > first && said > second && dot > said);
    int n_logprobs = 0;
    for (const char *p = buf_str(&f.out); (p = strstr(p, "\"logprob\":")) != NULL; p++)
        n_logprobs++;
    assert_int_equal(n_logprobs, 3);
    close_all(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(thoughts_are_told_apart),
        cmocka_unit_test(a_stream_tells_thoughts_first),
        cmocka_unit_test(a_chat_answer_has_the_shape_of_openai),
        cmocka_unit_test(interleaved_choices_are_put_together),
        cmocka_unit_test(a_stream_begins_with_the_role_and_ends_with_done),
        cmocka_unit_test(without_text_the_stream_still_has_role_and_finish),
        cmocka_unit_test(chat_logprobs_have_bytes_and_alternatives),
        cmocka_unit_test(completion_logprobs_have_the_legacy_format),
        cmocka_unit_test(echo_comes_first_in_a_stream_too),
        cmocka_unit_test(timings_are_llama_servers),
        cmocka_unit_test(invalid_utf8_never_reaches_the_client),
        cmocka_unit_test(an_answer_over_its_limit_is_an_error),
        cmocka_unit_test(a_choice_that_does_not_exist_is_an_error),
        cmocka_unit_test(a_stream_that_fails_ends_with_an_error_frame),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
