/* Every call of a kind (cudaMalloc, copies, launches ...) fails once, through a start, a chat and a picture: the
 * engine never hangs, says what happened, and afterwards either serves with the right answers or is dead
 * and says so, which ends the process (server/main.c).  cuBLASLt's calls fail in engines whose products of halves are
 * its own, of one device and of a team of two; what then serves may be our own kernels, whose last bits are others.
 *
 * There are hundreds of calls.  FAULTS=all tries each one, FAULTS=blas each of that kind; else some are tried: the
 * first ones, then ever fewer. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/buf.h"
#include "base/log.h"
#include "engine/engine.h"
#include "tests/cuemu/cuemu.h"
#include "tests/pause.h"
#include <cuda_runtime_api.h>

enum {
    SIDE = 16,
    TOKENS = 16,    /* so many that steps recur and become graphs */
    OWN_WITHIN = 2, /* of 255: how far pictures by our own kernels are from those by the library */
    HANG_S = 120
};

struct answer {
    struct err err; /* code 0: none */
    char text[256];
    uint8_t rgb[SIDE * SIDE * 3];
};

/* What an engine is started with, and what it answers when nothing fails. */
struct setup {
    const char *device;
    bool library; /* --cuda_activations f16 --cuda_blas_rows 1 */
    struct answer chat, picture;
};

static struct setup plain = {.device = "cuda:0"}, library = {.device = "cuda:0", .library = true},
                    team = {.device = "cuda:0+cuda:1", .library = true};
static struct {
    int tried, served, refused, dead_start, dead_later;
} seen;

static struct engine *start(const struct setup *s)
{
    static const struct engine_model models[] = {
        {.id = "tiny", .path = "tests/fixtures/tiny-llama.gguf"},
        {.id = "sd15", .path = "tests/fixtures/sd_sd15"}};
    const struct engine_options o = {.device = s->device,
                                     .activations = s->library ? DTYPE_F16 : DTYPE_F32,
                                     .blas_rows = s->library,
                                     .n_threads = 1,
                                     .n_models = 2,
                                     .models = models,
                                     .n_ctx = 64,
                                     .preload = PRELOAD_CHAT,
                                     .kv_type = DTYPE_F16,
                                     .graphs = true,
                                     .cache_bytes = (size_t)40 << 20,
                                     .weight_bytes = (size_t)64 << 20,
                                     .max_sequences = 1,
                                     .max_batch_rows = 32,
                                     .prefix_sharing = true};
    struct engine *g;
    struct err e = {0};
    assert_int_equal(engine_open(&g, &o, &e), 0);
    while (engine_state(g) == ENGINE_LOADING)
        pause_ms(1);
    return g;
}

static void ask(struct engine *g, bool picture, struct answer *a)
{
    static const int32_t ids[] = {1, 20, 30, 40}, n_prompt[] = {4};
    static const int32_t *const prompts[] = {ids};
    struct job *j = job_new(1 << 16);
    *a = (struct answer){0};
    if (picture) {
        j->kind = JOB_IMAGE;
        j->image.model = "sd15";
        j->image.prompt = "a cat";
        j->image.width = j->image.height = SIDE;
        j->image.steps = 1;
        j->image.guidance_scale = 1;
    } else {
        j->text.n_prompts = 1;
        j->text.prompts = prompts;
        j->text.n_prompt = n_prompt;
        j->text.max_tokens = TOKENS;
        j->text.ignore_eos = true;
        j->text.sample.temperature = 0;
    }
    if (engine_submit(g, j, &a->err) != 0) {
        job_unref(j);
        return;
    }
    for (bool ended = false; !ended; pause_ms(1)) {
        struct event *ev;
        while ((ev = job_poll(j)) != NULL) {
            if (ev->kind == EV_TEXT)
                strncat(a->text, ev->text, sizeof a->text - strlen(a->text) - 1);
            if (ev->kind == EV_IMAGE && ev->partial < 0)
                memcpy(a->rgb, ev->rgb, sizeof a->rgb);
            if (ev->kind == EV_ERROR)
                a->err = ev->err;
            ended = ended || ev->kind == EV_ERROR || ev->kind == EV_DONE;
            job_event_free(ev);
        }
    }
    job_unref(j);
}

static int farthest(const uint8_t *a, const uint8_t *b, size_t n)
{
    int most = 0;
    for (size_t i = 0; i < n; i++)
        most = abs(a[i] - b[i]) > most ? abs(a[i] - b[i]) : most;
    return most;
}

/* true: served, and right. */
static bool check(struct engine *g, const struct setup *s, bool picture, const char *fault)
{
    struct answer a;
    const struct answer *right = picture ? &s->picture : &s->chat;
    ask(g, picture, &a);
    if (a.err.code == 0) {
        const int off = farthest(a.rgb, right->rgb, sizeof a.rgb);
        if (strcmp(a.text, right->text) != 0 || off > (s->library ? OWN_WITHIN : 0))
            fail_msg("%s: another answer: \"%s\", %d of 255 off", fault, a.text, off);
        return true;
    }
    if (a.err.code == ERR_DEVICE ? !strstr(a.err.msg, "cuda:0") : strlen(a.err.msg) < 10)
        fail_msg("%s: the error says \"%s\"", fault, a.err.msg);
    return false;
}

static size_t device_memory_in_use(void)
{
    size_t left = 0, total = 0, all = 0;
    for (int device = 0; device < 2; device++) {
        cudaSetDevice(device);
        cudaMemGetInfo(&left, &total);
        all += total - left;
    }
    return all;
}

/* A start, a chat, a picture, and both again, while call n fails; how many calls there were. */
static int one_fault(const struct setup *s, enum cuemu_call call, int n, const char *fault)
{
    struct err e = {0};
    const size_t in_use = device_memory_in_use();
    alarm(HANG_S);
    cuemu_reset();
    cuemu_fail(call, n);
    struct engine *g = start(s);
    bool dead_at_start = engine_state(g) == ENGINE_FAILED, served = false;
    for (int i = 0; i < 4 && !dead_at_start; i++) {
        bool ok = check(g, s, i % 2 == 1, fault);
        served = i == 0 ? ok : served && ok;
        /* what failed once does not fail the next one, or the engine is dead */
        if (!ok && i >= 2 && engine_state(g) != ENGINE_FAILED)
            fail_msg("%s: fails, and the engine lives", fault);
    }
    const int n_calls = cuemu_calls(call);
    const bool hit = n > 0 && n_calls >= n, failed = engine_state(g) == ENGINE_FAILED;
    if (failed && call == CUEMU_HOST && !dead_at_start)
        fail_msg("%s: pinned memory of a request ended the engine", fault);
    if (failed) {
        engine_failure(g, &e);
        if (!strstr(e.msg, "cuda:0"))
            fail_msg("%s: the failure says \"%s\"", fault, e.msg);
    }
    if (getenv("FAULTS_SAY") && hit)
        printf("%s: %s%s\n", fault,
               failed   ? "dead: "
               : served ? "served"
                        : "a request failed",
               failed ? e.msg : "");
    engine_close(g);
    cuemu_fail(call, 0);
    cuemu_reset();
    if (device_memory_in_use() != in_use)
        fail_msg("%s: %zu bytes of the device are lost", fault, device_memory_in_use() - in_use);
    seen.tried += hit;
    seen.dead_start += hit && dead_at_start;
    seen.dead_later += hit && failed && !dead_at_start;
    seen.served += hit && !failed && served;
    seen.refused += hit && !failed && !served;
    alarm(0);
    return n_calls;
}

static void every(const struct setup *s, enum cuemu_call call, const char *name)
{
    const char *want = getenv("FAULTS");
    const bool all = want && (strcmp(want, "all") == 0 || strcmp(want, name) == 0);
    memset(&seen, 0, sizeof seen);
    const int n_calls = one_fault(s, call, 0, name);
    assert_true(n_calls > 0);
    for (int n = 1; n <= n_calls; n += all ? 1 : 1 + n / 2) {
        char fault[64];
        snprintf(fault, sizeof fault, "%s:%d", name, n);
        one_fault(s, call, n, fault);
    }
    printf(
        "%s: %d of %d calls failed: %d dead at the start, %d later, %d served but for a request, "
        "%d served all\n",
        name, seen.tried, n_calls, seen.dead_start, seen.dead_later, seen.refused, seen.served);
}

#define KIND(name, setup, call)            \
    static void name##_fails(void **state) \
    {                                      \
        (void)state;                       \
        every(&setup, call, #name);        \
    }
KIND(malloc, plain, CUEMU_MALLOC)
KIND(host, plain, CUEMU_HOST)
KIND(copy, plain, CUEMU_COPY)
KIND(launch, plain, CUEMU_LAUNCH)
KIND(sync, plain, CUEMU_SYNC)
KIND(graph, plain, CUEMU_GRAPH)
KIND(blas, library, CUEMU_BLAS)
KIND(team_blas, team, CUEMU_BLAS)

static void nothing_fails(void **state)
{
    (void)state;
    struct setup *const setups[] = {&plain, &library, &team};
    for (int i = 0; i < 3; i++) {
        struct setup *s = setups[i];
        const uint64_t before = cuemu_counted("panel_unpack").launches;
        struct engine *g = start(s);
        assert_int_equal(engine_state(g), ENGINE_READY);
        ask(g, false, &s->chat);
        ask(g, true, &s->picture);
        assert_int_equal(s->chat.err.code, 0);
        assert_int_equal(s->picture.err.code, 0);
        assert_true(strlen(s->chat.text) > 0);
        engine_close(g);
        assert_true((cuemu_counted("panel_unpack").launches > before) == s->library);
        one_fault(s, CUEMU_MALLOC, 0, "none");
    }
}

int main(void)
{
    log_init(LOG_OFF, false);
    setenv("CUEMU_QUIET", "1", 1);
    setenv("CUEMU_DEVICES", "2", 1);
    setvbuf(stdout, NULL, _IOLBF, 0);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_fails),   cmocka_unit_test(malloc_fails),
        cmocka_unit_test(host_fails),      cmocka_unit_test(sync_fails),
        cmocka_unit_test(graph_fails),     cmocka_unit_test(copy_fails),
        cmocka_unit_test(launch_fails),    cmocka_unit_test(blas_fails),
        cmocka_unit_test(team_blas_fails),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
