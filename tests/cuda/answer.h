/* A chat's answer, as a test of the engine gathers it. */
#ifndef TESTS_CUDA_ANSWER_H
#define TESTS_CUDA_ANSWER_H
#include <stdbool.h>
#include <string.h>

#include "engine/job.h"

struct answer {
    struct job *job;
    char text[4096];
    struct err err; /* code 0: none */
    bool ended;
};

/* What has come since the last time. */
static inline void answer_poll(struct answer *a)
{
    struct event *ev;
    while ((ev = job_poll(a->job)) != NULL) {
        if (ev->kind == EV_TEXT)
            strncat(a->text, ev->text, sizeof a->text - strlen(a->text) - 1);
        if (ev->kind == EV_ERROR)
            a->err = ev->err;
        a->ended = a->ended || ev->kind == EV_ERROR || ev->kind == EV_DONE;
        job_event_free(ev);
    }
}
#endif
