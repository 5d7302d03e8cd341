/* The frame of kcheck: levels, guarded memory, comparing, timing (kcheck.h says how it is used). */
#include "tests/kcheck/kcheck.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/clock.h"
#include "kernels/quant.h"

const int kcheck_sizes[KCHECK_SIZES] = {1, 7, 8, 15, 16, 17, 64, 100, 576, 4096};

/* Those of ops that take f32 alone come last. */
static void (*const checks[])(struct kcheck *kc) = {
    kcheck_norm,  kcheck_elem,    kcheck_linear, kcheck_conv,
    kcheck_dense, kcheck_lowrank, kcheck_rope,   kcheck_attn,
};
#define N_CHECKS (sizeof(checks) / sizeof(checks[0]))
#define F32_ONLY 2

/* ---- guarded memory */

#define GUARD     64          /* bytes on either side */
#define GUARD_IN  0x7fff7fffu /* NaN as float, half and bfloat16 */
#define GUARD_OUT 0xdeadbeefu
#define MAX_BUFS  64

static struct {
    unsigned char *memory, *p;
    size_t bytes;
    uint32_t guard;
} bufs[MAX_BUFS];
static int n_bufs;

static unsigned char guard_byte(uint32_t guard, const unsigned char *at)
{
    return (unsigned char)(guard >> (8 * ((uintptr_t)at % 4)));
}

static void *take(struct kcheck *kc, size_t bytes, size_t align, uint32_t guard)
{
    if (n_bufs == MAX_BUFS) {
        fprintf(stderr, "kcheck: more than %d buffers in a case\n", MAX_BUFS);
        exit(1);
    }
    size_t shift = align >= 64 ? 0 : kcheck_random(kc) % (64 / align) * align;
    size_t all = (bytes + shift + 2 * GUARD + 127) / 64 * 64;
    unsigned char *m = aligned_alloc(64, all);
    if (!m)
        exit(1);
    for (size_t i = 0; i < all; i++)
        m[i] = guard_byte(guard, m + i);
    bufs[n_bufs].memory = m;
    bufs[n_bufs].p = m + GUARD + shift;
    bufs[n_bufs].bytes = bytes;
    bufs[n_bufs].guard = guard;
    return bufs[n_bufs++].p;
}

void *kcheck_in_bytes(struct kcheck *kc, size_t bytes, size_t align)
{
    return take(kc, bytes, align, GUARD_IN);
}

void *kcheck_out_bytes(struct kcheck *kc, size_t bytes, size_t align)
{
    return take(kc, bytes, align, GUARD_OUT);
}

float *kcheck_in(struct kcheck *kc, int64_t n)
{
    return kcheck_in_bytes(kc, (size_t)n * sizeof(float), sizeof(float));
}

float *kcheck_out(struct kcheck *kc, int64_t n)
{
    return kcheck_out_bytes(kc, (size_t)n * sizeof(float), sizeof(float));
}

static bool guards_whole(int i)
{
    const unsigned char *p = bufs[i].p, *end = p + bufs[i].bytes;
    for (int k = 0; k < GUARD; k++) {
        const unsigned char *before = p - 1 - k, *after = end + k;
        if (*before != guard_byte(bufs[i].guard, before) ||
            *after != guard_byte(bufs[i].guard, after))
            return false;
    }
    return true;
}

void kcheck_done(struct kcheck *kc)
{
    for (int i = 0; i < n_bufs; i++) {
        if (!guards_whole(i)) {
            printf("    wrote outside a buffer of %zu bytes\n", bufs[i].bytes);
            kc->bad++;
        }
        free(bufs[i].memory);
    }
    n_bufs = 0;
}

/* ---- inputs */

uint32_t kcheck_random(struct kcheck *kc)
{
    kc->state = kc->state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(kc->state >> 32);
}

void kcheck_fill(struct kcheck *kc, float *p, int64_t n, float range)
{
    for (int64_t i = 0; i < n; i++)
        p[i] = ((float)(kcheck_random(kc) >> 8) / 8388608.0f - 1.0f) * range;
    kcheck_round(kc, p, n);
}

void kcheck_round(const struct kcheck *kc, float *p, int64_t n)
{
    for (int64_t i = 0; kc->type != DTYPE_F32 && i < n; i++) {
        uint16_t bits;
        quant_pack(kc->type, &bits, p + i, 1);
        quant_unpack(kc->type, p + i, &bits, 1);
    }
}

double kcheck_slack(const struct kcheck *kc, double v)
{
    if (kc->type == DTYPE_F32)
        return 0;
    return kc->type == DTYPE_F16 ? fmax(fabs(v) * 0x1p-11, 0x1p-25) : fabs(v) * 0x1p-8;
}

struct tensor kcheck_tensor(const void *data, int64_t rows, int64_t cols)
{
    return (struct tensor){
        .data = (void *)(uintptr_t)data,
        .type = DTYPE_F32,
        .ndim = cols > 0 ? 2 : 1,
        .dims = {rows, cols},
    };
}

struct backend *kcheck_backend(struct kcheck *kc, int n_threads)
{
    char name[32];
    struct err e = {0};
    struct backend *be = NULL;
    if (kc->device)
        return kcheck_device(kc, kc->device);
    snprintf(name, sizeof(name), "cpu/%s", kc->level);
    if (backend_open(&be, name, n_threads, &e)) {
        fprintf(stderr, "kcheck: %s\n", e.msg);
        exit(1);
    }
    return be;
}

/* ---- comparing */

/* Floats that lie between a and b; INT64_MAX with a NaN. */
static int64_t ulps(float a, float b)
{
    if (isnan(a) || isnan(b))
        return isnan(a) && isnan(b) ? 0 : INT64_MAX;
    int32_t x, y;
    memcpy(&x, &a, sizeof(x));
    memcpy(&y, &b, sizeof(y));
    int64_t i = x < 0 ? -(int64_t)(x & INT32_MAX) : x, j = y < 0 ? -(int64_t)(y & INT32_MAX) : y;
    return i > j ? i - j : j - i;
}

void kcheck_near(struct kcheck *kc, const float *ref, const float *got, int64_t n, float eps,
                 int max_ulp, const char *what)
{
    kc->cases++;
    for (int64_t i = 0; i < n; i++) {
        if (fabsf(ref[i] - got[i]) <= eps || ulps(ref[i], got[i]) <= max_ulp)
            continue;
        const double v = (double)ref[i], exact = (double)eps + max_ulp * fabs(v) * 0x1p-23;
        if (kc->type != DTYPE_F32 && fabs(v - (double)got[i]) <= exact + kcheck_slack(kc, v))
            continue;
        printf("    %s[%lld of %lld]: expected %.9g, got %.9g\n", what, (long long)i, (long long)n,
               (double)ref[i], (double)got[i]);
        kc->bad++;
        return;
    }
}

void kcheck_that(struct kcheck *kc, bool ok, const char *what)
{
    kc->cases++;
    if (ok)
        return;
    printf("    %s\n", what);
    kc->bad++;
}

void kcheck_same(struct kcheck *kc, const void *a, const void *b, size_t bytes, const char *what)
{
    char text[160];
    snprintf(text, sizeof(text), "%s: the bits differ", what);
    kcheck_that(kc, memcmp(a, b, bytes) == 0, text);
}

/* ---- running */

static void finish(struct kcheck *kc)
{
    if (kc->name[0] == '\0')
        return;
    printf("  %s %s %s (%d cases)\n", kc->bad ? "FAIL" : "ok  ", kc->level, kc->name, kc->cases);
    fflush(stdout);
    kc->passed += kc->bad == 0;
    kc->failed += kc->bad != 0;
    kc->name[0] = '\0';
}

bool kcheck_begin(struct kcheck *kc, const char *name)
{
    finish(kc);
    if (kc->only && !strstr(name, kc->only))
        return false;
    snprintf(kc->name, sizeof(kc->name), "%s", name);
    kc->cases = kc->bad = 0;
    kc->state = kc->seed;
    return true;
}

void kcheck_bench(struct kcheck *kc, const char *what, double amount, const char *unit,
                  void (*fn)(void *arg), void *arg)
{
    if (!kc->bench)
        return;
    double best_us = 1e30;
    int times = 1;
    for (int64_t begin = clock_us(); clock_us() - begin < 300 * 1000;) {
        int64_t t = clock_us();
        for (int i = 0; i < times; i++)
            fn(arg);
        t = clock_us() - t;
        if (t < 1000) { /* too short for the clock */
            times *= 4;
            continue;
        }
        double us = (double)t / times;
        best_us = us < best_us ? us : best_us;
    }
    printf("       %-40s %9.2f us  %8.2f %s\n", what, best_us, amount / best_us / 1e3, unit);
}

static enum dtype half_type(const char *name)
{
    if (strcmp(name, "f16") == 0)
        return DTYPE_F16;
    return strcmp(name, "bf16") == 0 ? DTYPE_BF16 : DTYPE_F32;
}

int main(int argc, char **argv)
{
    struct kcheck kc = {.seed = 1, .state = 1};
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--bench") == 0)
            kc.bench = true;
        else if (strcmp(argv[i], "--seed") == 0 && i + 1 < argc)
            kc.seed = strtoull(argv[++i], NULL, 10);
        else if (strcmp(argv[i], "--device") == 0 && i + 1 < argc)
            kc.device = argv[++i];
        else if (strcmp(argv[i], "--activations") == 0 && i + 1 < argc)
            kc.type = half_type(argv[++i]);
        else if (strcmp(argv[i], "--blas_rows") == 0 && i + 1 < argc)
            kc.blas_rows = (int)strtol(argv[++i], NULL, 10);
        else
            kc.only = argv[i];
    }
    if (!kc.device)
        kc.type = DTYPE_F32; /* the CPU has no others */
    printf("kcheck: seed %llu\n", (unsigned long long)kc.seed);
    struct cpu_ops ref, var, below;
    cpu_ops_init(&ref, CPU_SCALAR);
    kc.ref = &ref;
    kc.var = &var;
    kc.below = &below;
    for (int isa = 0; isa <= (kc.device ? 0 : (int)cpu_isa_detect()); isa++) {
        kc.isa = (enum cpu_isa)isa;
        kc.level = kc.device ? kc.device : cpu_isa_name(kc.isa);
        cpu_ops_init(&var, kc.isa);
        cpu_ops_init(&below, (enum cpu_isa)(isa > 0 ? isa - 1 : 0));
        for (size_t c = 0; c < N_CHECKS - (kc.type == DTYPE_F32 ? 0 : F32_ONLY); c++)
            checks[c](&kc);
        finish(&kc);
    }
    printf("%d passed, %d failed\n", kc.passed, kc.failed);
    return kc.failed != 0;
}
