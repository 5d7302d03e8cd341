/* Programs: memory is shared by tensors whose lives do not meet, a run may stop between any two ops, and
 * the result is that of the same ops called directly. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "kernels/program.h"

enum { ROWS = 3, DIM = 32, DEPTH = 20 };

static struct backend *be;

static int open_backend(void **state)
{
    (void)state;
    return backend_open(&be, "cpu", 1, NULL);
}

static int close_backend(void **state)
{
    (void)state;
    be->close(be);
    return 0;
}

struct chain {
    float input[ROWS * DIM], *out;
    int depth, passes;
    int pin;     /* number of a tensor of the chain that is kept; 0: none */
    float *kept; /* it */
};

/* y = x + x, DEPTH times, each into a new tensor; the sum of the first and the last is the result. */
static void record_chain(struct program *p, void *arg)
{
    struct chain *c = arg;
    struct backend *rec = program_backend(p);
    struct tensor in = {.data = c->input, .ndim = 2, .dims = {ROWS, DIM}};
    struct tensor out = PROGRAM_PINNED(p, ROWS, DIM), first = PROGRAM_TENSOR(p, ROWS, DIM);
    struct tensor unused = PROGRAM_TENSOR(p, 1000, 1000), x = first;
    (void)unused;
    OP(rec, add, .out = &first, .a = &in, .b = &in);
    for (int i = 1; i < c->depth; i++) {
        struct tensor y = PROGRAM_TENSOR(p, ROWS, DIM);
        OP(rec, add, .out = &y, .a = &x, .b = &x);
        x = y;
        if (i == c->pin) {
            program_pin(p, &x);
            c->kept = x.data;
        }
    }
    OP(rec, add, .out = &out, .a = &x, .b = &first);
    c->passes++;
    if (program_recording(p))
        c->out = out.data;
}

static void fill(struct chain *c, float start)
{
    for (int i = 0; i < ROWS * DIM; i++)
        c->input[i] = start + (float)i;
}

static void program_computes_what_its_ops_say(void **state)
{
    (void)state;
    struct chain c = {.depth = DEPTH};
    struct program *p;
    struct err e = {0};
    fill(&c, 1);
    assert_int_equal(program_open(&p, be, record_chain, &c, &e), 0);
    assert_int_equal(c.passes, 2);
    assert_int_equal(program_n_ops(p), DEPTH + 1);
    for (int run = 0; run < 3; run++) {
        fill(&c, (float)run);
        assert_int_equal(program_run(p, INT64_MAX, &e), 0);
        for (int i = 0; i < ROWS * DIM; i++)
            assert_true(c.out[i] == ((float)run + (float)i) * (float)((1 << DEPTH) + 2));
    }
    program_close(p);
}

static void program_stops_between_ops(void **state)
{
    (void)state;
    struct chain c = {.depth = DEPTH};
    struct program *p;
    struct err e = {0};
    fill(&c, 1);
    assert_int_equal(program_open(&p, be, record_chain, &c, &e), 0);
    for (int i = 0; i < DEPTH; i++) {
        assert_int_equal(program_run(p, 0, &e), 1);
        assert_int_equal(program_position(p), i + 1);
    }
    assert_int_equal(program_run(p, 0, &e), 0);
    assert_true(c.out[0] == (float)((1 << DEPTH) + 2));
    assert_int_equal(program_run(p, 0, &e), 1);
    program_restart(p);
    assert_int_equal(program_position(p), 0);
    program_close(p);
}

static void record_halves(struct program *p, void *arg)
{
    const enum dtype *type = arg;
    program_use(p, *type);
    struct tensor x = PROGRAM_PINNED(p, ROWS, DIM), h = PROGRAM_TENSOR(p, 64, 64);
    assert_int_equal(x.type, DTYPE_F32);
    assert_int_equal(h.type, *type);
    OP(program_backend(p), add, .out = &h, .a = &h, .b = &h);
}

static void program_has_halves_in_half_the_bytes(void **state)
{
    (void)state;
    enum dtype type = DTYPE_F32;
    struct err e = {0};
    const size_t floats = program_bytes(be, record_halves, &type, &e);
    for (int i = 0; i < 2; i++) {
        type = i ? DTYPE_F16 : DTYPE_BF16;
        assert_int_equal(program_bytes(be, record_halves, &type, &e), floats - 64 * 64 * 2);
    }
}

static void program_memory_is_shared_by_lives_that_do_not_meet(void **state)
{
    (void)state;
    struct chain c = {.depth = DEPTH};
    struct err e = {0};
    size_t deep = program_bytes(be, record_chain, &c, &e);
    c.depth = 3;
    size_t flat = program_bytes(be, record_chain, &c, &e);
    struct program *p;
    assert_int_equal(program_open(&p, be, record_chain, &c, &e), 0);
    assert_int_equal(program_memory(p), flat);
    program_close(p);
    /* out, first, x and y; the list of ops is what is longer */
    assert_true(flat < 4 * ROWS * DIM * sizeof(float) + 4096);
    assert_true(deep - flat < (DEPTH - 3) * 1024);
}

static void program_keeps_what_was_pinned_after_it_was_made(void **state)
{
    (void)state;
    struct chain c = {.depth = DEPTH, .pin = 2};
    struct program *p;
    struct err e = {0};
    fill(&c, 1);
    assert_int_equal(program_open(&p, be, record_chain, &c, &e), 0);
    assert_int_equal(program_run(p, INT64_MAX, &e), 0);
    for (int i = 0; i < ROWS * DIM; i++) {
        assert_true(c.kept[i] == (float)(1 + i) * 8);
        assert_true(c.out[i] == (float)(1 + i) * (float)((1 << DEPTH) + 2));
    }
    program_close(p);
}

static void record_nothing(struct program *p, void *arg)
{
    (void)p;
    (void)arg;
}

static void record_huge(struct program *p, void *arg)
{
    const int64_t *dims = arg;
    struct tensor t = program_tensor(p, 4, dims);
    OP(program_backend(p), add, .out = &t, .a = &t, .b = &t);
}

static void record_fickle(struct program *p, void *arg)
{
    int *n = arg;
    struct tensor t = PROGRAM_TENSOR(p, 4);
    for (int i = 0; i <= *n; i++)
        OP(program_backend(p), add, .out = &t, .a = &t, .b = &t);
    (*n)++;
}

static void program_refuses_what_makes_no_sense(void **state)
{
    (void)state;
    struct program *p = NULL;
    struct err e = {0};
    assert_int_equal(program_open(&p, be, record_nothing, NULL, &e), ERR_INVALID);
    int64_t dims[4] = {INT64_MAX / 2, INT64_MAX / 2, 8, 8};
    assert_int_equal(program_open(&p, be, record_huge, dims, &e), ERR_TOOBIG);
    assert_int_equal(program_bytes(be, record_huge, dims, &e), 0);
    dims[0] = 0;
    assert_int_equal(program_open(&p, be, record_huge, dims, &e), ERR_TOOBIG);
    dims[0] = dims[1] = 1 << 20;
    dims[2] = 1 << 10;
    dims[3] = 16;
    assert_int_equal(program_open(&p, be, record_huge, dims, &e), ERR_NOMEM);
    int n = 0;
    assert_true(program_open(&p, be, record_fickle, &n, &e) != 0);
    assert_null(p);
}

/* Many tensors of odd sizes and lives, each filled with its own number: whoever is overwritten shows. */
static void record_tangle(struct program *p, void *arg)
{
    float *one = arg; /* [64] of 1 */
    struct backend *rec = program_backend(p);
    struct tensor live[8], total = PROGRAM_PINNED(p, 64);
    struct tensor ones = {.data = one, .ndim = 1, .dims = {64}};
    for (int i = 0; i < 8; i++) {
        live[i] = PROGRAM_TENSOR(p, 64 + 16 * i);
        live[i].dims[0] = 64;
        OP(rec, add, .out = &live[i], .a = &ones, .b = &ones);
    }
    for (int i = 0; i < 500; i++) {
        int from = i * 7 % 8, to = (i * 5 + i / 8) % 8;
        struct tensor t = PROGRAM_TENSOR(p, 64 + i * 37 % 900);
        t.dims[0] = 64;
        OP(rec, add, .out = &t, .a = &live[from], .b = &ones);
        live[to] = t;
    }
    for (int i = 0; i < 8; i++)
        OP(rec, add, .out = &total, .a = &live[i], .b = i > 0 ? &total : &ones);
    if (program_recording(p))
        one[64] = ((float *)total.data)[0], memcpy(one + 66, &total.data, sizeof total.data);
}

static void program_never_overlays_what_lives(void **state)
{
    (void)state;
    float memory[80], *total;
    for (int i = 0; i < 64; i++)
        memory[i] = 1;
    struct program *p;
    struct err e = {0};
    assert_int_equal(program_open(&p, be, record_tangle, memory, &e), 0);
    assert_int_equal(program_run(p, INT64_MAX, &e), 0);
    memcpy(&total, memory + 66, sizeof total);
    float live[8], sum = 1;
    for (int i = 0; i < 8; i++)
        live[i] = 2;
    for (int i = 0; i < 500; i++)
        live[(i * 5 + i / 8) % 8] = live[i * 7 % 8] + 1;
    for (int i = 0; i < 8; i++)
        sum += live[i];
    for (int i = 0; i < 64; i++)
        assert_true(total[i] == sum);
    program_close(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(program_computes_what_its_ops_say),
        cmocka_unit_test(program_stops_between_ops),
        cmocka_unit_test(program_has_halves_in_half_the_bytes),
        cmocka_unit_test(program_memory_is_shared_by_lives_that_do_not_meet),
        cmocka_unit_test(program_keeps_what_was_pinned_after_it_was_made),
        cmocka_unit_test(program_never_overlays_what_lives),
        cmocka_unit_test(program_refuses_what_makes_no_sense),
    };
    return cmocka_run_group_tests(tests, open_backend, close_backend);
}
