/* A model that comes while another one computes: its weights reach the (emulated) device beside the steps, in every
 * order of streams; the chat goes on and says the same; and whatever call fails, nothing hangs and everybody is
 * told.
 *
 * FAULTS=all lets each call fail, else some. */
#include <pthread.h>
#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/log.h"
#include "engine/engine.h"
#include "engine/loader.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/quant.h"
#include "tests/cuda/answer.h"
#include "tests/cuemu/cuemu.h"
#include "tests/pause.h"

enum { HANG_S = 60, CHAT_TOKENS = 24 };

/* ---- weights and ops ---- */

enum { OUT = 80, IN = 256, ROWS = 3 };

struct beside {
    struct backend *be;
    struct weight *w;
    const void *raw;
    int rc;
};

static void *fill(void *arg)
{
    struct beside *b = arg;
    b->rc = b->be->weight_fill(b->be, b->w, b->raw, NULL);
    return NULL;
}

static void multiply(struct backend *be, const struct weight *w, float *x, float *device,
                     float *out)
{
    struct err e = {0};
    struct tensor in = {.type = DTYPE_F32, .ndim = 2, .dims = {ROWS, IN}, .data = x};
    struct tensor to = {.type = DTYPE_F32, .ndim = 2, .dims = {ROWS, OUT}, .data = device};
    OP(be, linear, .out = {&to}, .w = {w}, .x = &in);
    be->download(be, out, device, (size_t)ROWS * OUT * sizeof *out);
    if (be->sync(be, &e) != 0)
        fail_msg("%s", e.msg);
}

/* In memory that was another weight's a moment ago, whose last product is not done yet. */
static void weights_come_beside_ops(void **state)
{
    (void)state;
    static float values[OUT * IN], x[ROWS * IN], right[ROWS * OUT], got[ROWS * OUT];
    struct backend *be;
    struct err e = {0};
    cuemu_reset();
    assert_int_equal(cuda_backend_open(&be, 0, &e), 0);
    be->graphs = true;
    for (int i = 0; i < OUT * IN; i++)
        values[i] = (float)(i % 37) - 18;
    for (int i = 0; i < ROWS * IN; i++)
        x[i] = (float)(i % 11) - 5;
    float *device_x = be->alloc(be, sizeof x, &e), *device = be->alloc(be, sizeof right, &e);
    be->upload(be, device_x, x, sizeof x);
    struct weight *first;
    assert_int_equal(be->weight_open(be, &first, DTYPE_F32, OUT, IN, values, &e), 0);
    multiply(be, first, device_x, device, right);
    for (uint64_t seed = 1; seed <= 20; seed++) {
        struct beside b = {.be = be, .raw = values};
        struct weight *old;
        struct tensor in = {.type = DTYPE_F32, .ndim = 2, .dims = {ROWS, IN}, .data = device_x};
        struct tensor to = {.type = DTYPE_F32, .ndim = 2, .dims = {ROWS, OUT}, .data = device};
        pthread_t thread;
        cuemu_seed(seed);
        assert_int_equal(be->weight_open(be, &old, DTYPE_F32, OUT, IN, values, &e), 0);
        OP(be, linear, .out = {&to}, .w = {old}, .x = &in);
        be->weight_close(be, old);
        assert_int_equal(be->weight_place(be, &b.w, DTYPE_F32, OUT, IN, &e), 0);
        assert_int_equal(pthread_create(&thread, NULL, fill, &b), 0);
        multiply(be, first, device_x, device, got); /* the owner goes on */
        assert_memory_equal(got, right, sizeof right);
        pthread_join(thread, NULL);
        assert_int_equal(b.rc, 0);
        multiply(be, b.w, device_x, device, got);
        assert_memory_equal(got, right, sizeof right);
        be->weight_close(be, b.w);
    }
    be->weight_close(be, first);
    be->free(be, device_x);
    be->free(be, device);
    be->close(be);
}

/* ---- with the loader ---- */

static sem_t product_done;
static int (*real_fill)(struct backend *be, struct weight *w, const void *raw, struct err *e);

static int fill_after_a_product(struct backend *be, struct weight *w, const void *raw,
                                struct err *e)
{
    sem_wait(&product_done);
    return real_fill(be, w, raw, e);
}

/* No weight is filled before the owner has computed something meanwhile: so the device is not lent then. */
static void the_owner_computes_while_a_weight_is_filled(void **state)
{
    (void)state;
    static float values[OUT * IN], x[ROWS * IN], right[ROWS * OUT], got[ROWS * OUT];
    pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    pthread_cond_t wake = PTHREAD_COND_INITIALIZER;
    const struct model_options o = {
        .n_ctx = 64, .max_rows = 8, .max_logits = 1, .kv_type = DTYPE_F16, .bare = true};
    struct backend *be;
    struct loader l;
    struct weight *w;
    struct err e = {0};
    alarm(HANG_S);
    cuemu_reset();
    sem_init(&product_done, 0, 0);
    assert_int_equal(cuda_backend_open(&be, 0, &e), 0);
    float *device_x = be->alloc(be, sizeof x, &e), *device = be->alloc(be, sizeof right, &e);
    for (int i = 0; i < OUT * IN; i++)
        values[i] = (float)(i % 7);
    for (int i = 0; i < ROWS * IN; i++)
        x[i] = (float)(i % 5);
    be->upload(be, device_x, x, sizeof x);
    assert_int_equal(be->weight_open(be, &w, DTYPE_F32, OUT, IN, values, &e), 0);
    multiply(be, w, device_x, device, right);
    real_fill = be->weight_fill;
    be->weight_fill = fill_after_a_product;
    loader_init(&l, be, &mutex, &wake);
    assert_int_equal(loader_start(&l, "second", "tests/fixtures/llama_q4_0.gguf", &o, &e), 0);
    while (!loader_join(&l)) {
        loader_turn(&l, clock_us() + 1000);
        multiply(be, w, device_x, device, got);
        assert_memory_equal(got, right, sizeof right);
        sem_post(&product_done);
    }
    assert_int_equal(l.rc, 0);
    model_close(l.model);
    loader_fini(&l);
    be->weight_close(be, w);
    be->free(be, device_x);
    be->free(be, device);
    be->close(be);
    sem_destroy(&product_done);
    alarm(0);
}

/* ---- in the engine ---- */

static struct answer right_chat, right_second;

static struct engine *start(void)
{
    static const struct engine_model models[] = {
        {.id = "tiny", .path = "tests/fixtures/tiny-llama.gguf"},
        {.id = "second", .path = "tests/fixtures/llama_q4_0.gguf"}};
    const struct engine_options o = {.device = "cuda:0",
                                     .n_threads = 1,
                                     .n_models = 2,
                                     .models = models,
                                     .n_ctx = 256,
                                     .preload = PRELOAD_CHAT,
                                     .kv_type = DTYPE_F16,
                                     .graphs = true,
                                     .cache_bytes = (size_t)8 << 20,
                                     .weight_bytes = (size_t)64 << 20,
                                     .max_sequences = 2,
                                     .max_batch_rows = 32};
    struct engine *g;
    struct err e = {0};
    assert_int_equal(engine_open(&g, &o, &e), 0);
    while (engine_state(g) == ENGINE_LOADING)
        pause_ms(1);
    return g;
}

static void ask(struct engine *g, struct answer *a, const char *model, int max_tokens)
{
    static const int32_t ids[] = {1, 20, 30, 40}, n_prompt[] = {4};
    static const int32_t *const prompts[] = {ids};
    *a = (struct answer){.job = job_new(1 << 16)};
    struct text_spec *s = &a->job->text;
    s->model = model;
    s->n_prompts = 1;
    s->prompts = prompts;
    s->n_prompt = n_prompt;
    s->max_tokens = max_tokens;
    s->ignore_eos = true;
    s->sample.temperature = 0;
    a->ended = engine_submit(g, a->job, &a->err) != 0;
}

static void finish(struct answer *a)
{
    for (; !a->ended; pause_ms(1))
        answer_poll(a);
    job_unref(a->job);
}

static void check(const struct answer *a, const struct answer *right, const char *what)
{
    if (a->err.code == 0 && strcmp(a->text, right->text) != 0)
        fail_msg("%s: another answer", what);
    if (a->err.code != 0 && strlen(a->err.msg) < 10)
        fail_msg("%s: the error says \"%s\"", what, a->err.msg);
}

/* A chat, and one with the second model after the first word of the other. */
static void both(struct engine *g, const char *what)
{
    static struct answer chat, second;
    ask(g, &chat, "tiny", CHAT_TOKENS);
    for (; !chat.ended && chat.text[0] == '\0'; pause_ms(1))
        answer_poll(&chat);
    ask(g, &second, "second", 8);
    finish(&chat);
    finish(&second);
    check(&chat, &right_chat, what);
    check(&second, &right_second, what);
}

static void a_chat_goes_on_while_a_model_comes(void **state)
{
    (void)state;
    cuemu_reset();
    struct engine *g = start();
    ask(g, &right_chat, "tiny", CHAT_TOKENS);
    finish(&right_chat);
    ask(g, &right_second, "second", 8);
    finish(&right_second);
    assert_int_equal(right_chat.err.code, 0);
    assert_int_equal(right_second.err.code, 0);
    engine_close(g);
    for (uint64_t seed = 1; seed <= 3; seed++) {
        cuemu_seed(seed);
        g = start();
        both(g, "no fault");
        engine_close(g);
    }
}

static size_t in_use(void)
{
    size_t left = 0, total = 0;
    cudaMemGetInfo(&left, &total);
    return total - left;
}

/* The n-th call after the start fails; how many calls there were. */
static int one_fault(enum cuemu_call call, int n, const char *what)
{
    const size_t before = in_use();
    struct err e = {0};
    alarm(HANG_S);
    cuemu_reset();
    cuemu_fail(call, 0);
    struct engine *g = start();
    assert_int_equal(engine_state(g), ENGINE_READY);
    cuemu_fail(call, n);
    both(g, what);
    const int n_calls = cuemu_calls(call);
    if (engine_state(g) == ENGINE_FAILED) {
        engine_failure(g, &e);
        if (!strstr(e.msg, "cuda:0"))
            fail_msg("%s: the failure says \"%s\"", what, e.msg);
    } else { /* what failed once does not fail the next ones */
        static struct answer chat, second;
        cuemu_fail(call, 0);
        ask(g, &chat, "tiny", CHAT_TOKENS);
        finish(&chat);
        ask(g, &second, "second", 8);
        finish(&second);
        if (chat.err.code || second.err.code)
            fail_msg("%s: later: %s%s", what, chat.err.msg, second.err.msg);
        check(&chat, &right_chat, what);
        check(&second, &right_second, what);
    }
    engine_close(g);
    cuemu_fail(call, 0);
    cuemu_reset();
    if (in_use() != before)
        fail_msg("%s: %zu bytes of the device are lost", what, in_use() - before);
    alarm(0);
    return n_calls;
}

static void every_call_fails_once(void **state)
{
    (void)state;
    static const struct {
        enum cuemu_call call;
        const char *name;
    } kinds[] = {
        {CUEMU_MALLOC, "malloc"}, {CUEMU_HOST, "host"}, {CUEMU_SYNC, "sync"}, {CUEMU_COPY, "copy"}};
    const char *want = getenv("FAULTS");
    const bool all = want && strcmp(want, "all") == 0;
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        const int n_calls = one_fault(kinds[k].call, 0, kinds[k].name);
        for (int n = 1; n <= n_calls; n += all ? 1 : 1 + n) {
            char what[64];
            snprintf(what, sizeof what, "%s:%d", kinds[k].name, n);
            one_fault(kinds[k].call, n, what);
        }
    }
}

int main(void)
{
    log_init(LOG_OFF, false);
    setenv("CUEMU_QUIET", "1", 1);
    setvbuf(stdout, NULL, _IOLBF, 0);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(weights_come_beside_ops),
        cmocka_unit_test(the_owner_computes_while_a_weight_is_filled),
        cmocka_unit_test(a_chat_goes_on_while_a_model_comes),
        cmocka_unit_test(every_call_fails_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
