/* Jobs across threads: order of events, references, cancel. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <pthread.h>
#include <string.h>

#include "engine/job.h"

static void job_events_come_in_order_with_their_payload(void **state)
{
    (void)state;
    struct job *j = job_new(1 << 16);
    assert_null(job_poll(j));
    struct token_info infos[2] = {{.id = 7, .logprob = -1}, {.id = 9, .logprob = -2}};
    job_emit(j, job_event_new(EV_TEXT, 3, "h\0i", 3, infos, 2));
    infos[0].id = 0; /* the event has its own copy */
    job_emit(j, job_event_new(EV_FINISH, 3, NULL, 0, NULL, 0));
    struct event *ev = job_poll(j);
    assert_int_equal(ev->kind, EV_TEXT);
    assert_int_equal(ev->index, 3);
    assert_int_equal(ev->len, 3);
    assert_memory_equal(ev->text, "h\0i", 4);
    assert_int_equal(ev->n_tokens, 2);
    assert_int_equal(ev->tokens[0].id, 7);
    assert_int_equal(ev->tokens[1].id, 9);
    job_event_free(ev);
    ev = job_poll(j);
    assert_int_equal(ev->kind, EV_FINISH);
    assert_string_equal(ev->text, "");
    job_event_free(ev);
    assert_null(job_poll(j));
    job_unref(j);
}

static void job_frees_events_that_nobody_fetched(void **state)
{
    (void)state;
    struct job *j = job_new(1 << 16);
    for (int i = 0; i < 10; i++)
        job_emit(j, job_event_new(EV_TEXT, 0, "abc", 3, NULL, 0));
    job_ref(j);
    job_unref(j);
    job_unref(j); /* the leak checker looks */
}

static void job_cancel_can_be_repeated(void **state)
{
    (void)state;
    struct job *j = job_new(1 << 16);
    assert_false(job_cancelled(j));
    job_cancel(j);
    job_cancel(j);
    assert_true(job_cancelled(j));
    job_unref(j);
}

enum { N_EVENTS = 20000 };

static void *produce(void *arg)
{
    struct job *j = arg;
    for (int i = 0; i < N_EVENTS && !job_cancelled(j); i++)
        job_emit(j, job_event_new(EV_TEXT, i, "x", 1, NULL, 0));
    job_emit(j, job_event_new(EV_DONE, 0, "", 0, NULL, 0));
    job_unref(j);
    return NULL;
}

static void job_passes_events_between_threads(void **state)
{
    (void)state;
    for (int round = 0; round < 4; round++) {
        struct job *j = job_new(1 << 16);
        pthread_t thread;
        job_ref(j);
        assert_int_equal(pthread_create(&thread, NULL, produce, j), 0);
        int next = 0;
        bool done = false;
        while (!done) {
            struct event *ev = job_poll(j);
            if (!ev)
                continue;
            done = ev->kind == EV_DONE;
            if (!done)
                assert_int_equal(ev->index, next++);
            job_event_free(ev);
            if (round == 3 && next == 100)
                job_cancel(j);
        }
        assert_true(round == 3 || next == N_EVENTS);
        job_unref(j);
        pthread_join(thread, NULL);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(job_events_come_in_order_with_their_payload),
        cmocka_unit_test(job_frees_events_that_nobody_fetched),
        cmocka_unit_test(job_cancel_can_be_repeated),
        cmocka_unit_test(job_passes_events_between_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
