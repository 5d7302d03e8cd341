/* Modules, memory and launches. */
#include "tests/ptxvm/ptxvm.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/file.h"
#include "tests/ptxvm/decode.h"
#include "tests/ptxvm/num.h"

enum { MAX_RESIDENT = 16, TURNS = 256, MAX_SHARED_BYTES = 232448 };

void ptxvm_set_options(struct ptxvm *vm, const struct ptxvm_options *o)
{
    vm->o = *o;
    if (vm->o.max_instructions == 0)
        vm->o.max_instructions = (uint64_t)1 << 32;
    vm->random = vm->o.seed * 0x9e3779b97f4a7c15ull | 1;
}

int ptxvm_open(struct ptxvm **out, const struct ptxvm_options *o, struct err *e)
{
    struct ptxvm *vm = mem_try(1, sizeof *vm);
    if (vm == NULL)
        return err_set(e, ERR_NOMEM, "no memory for the virtual machine");
    ptxvm_set_options(vm, o);
    num_init();
    *out = vm;
    return 0;
}

static void free_globals(struct ptx_module *m)
{
    for (struct ptx_var *v = m->vars; v; v = v->next)
        if ((v->space == SP_GLOBAL || v->space == SP_CONST) && v->address)
            free((void *)(uintptr_t)v->address);
}

void ptxvm_close(struct ptxvm *vm)
{
    if (vm == NULL)
        return;
    for (struct kernel *k = vm->kernels, *next; k; k = next) {
        next = k->next;
        if (k->ready)
            arena_free(&k->arena);
        free(k);
    }
    for (struct ptx_module *m = vm->modules, *next; m; m = next) {
        next = m->next;
        free_globals(m);
        parse_free(m);
        free(m);
    }
    free(vm->ranges);
    free(vm);
}

/* ---- Memory ---- */

static int add_range(struct ptxvm *vm, uint64_t at, uint64_t bytes, const char *name,
                     bool read_only, struct err *e)
{
    int n = 0;
    while (n < vm->n_ranges && vm->ranges[n].at < at)
        n++;
    if ((n < vm->n_ranges && at + bytes > vm->ranges[n].at) ||
        (n > 0 && vm->ranges[n - 1].at + vm->ranges[n - 1].bytes > at))
        return err_set(e, ERR_INVALID, "%.60s overlaps memory that is the device's already", name);
    if (vm->n_ranges == vm->cap_ranges) {
        vm->cap_ranges = vm->cap_ranges ? 2 * vm->cap_ranges : 64;
        vm->ranges = xrealloc(vm->ranges, (size_t)vm->cap_ranges * sizeof *vm->ranges);
    }
    memmove(&vm->ranges[n + 1], &vm->ranges[n], (size_t)(vm->n_ranges - n) * sizeof *vm->ranges);
    vm->n_ranges++;
    struct range *r = &vm->ranges[n];
    *r = (struct range){.at = at, .bytes = bytes, .read_only = read_only};
    size_t len = strlen(name) < sizeof r->name - 1 ? strlen(name) : sizeof r->name - 1;
    memcpy(r->name, name, len);
    return 0;
}

int ptxvm_map(struct ptxvm *vm, const void *p, size_t bytes, const char *name, struct err *e)
{
    if (p == NULL || bytes == 0)
        return err_set(e, ERR_INVALID, "%.60s has no bytes", name);
    return add_range(vm, (uint64_t)(uintptr_t)p, bytes, name, false, e);
}

int ptxvm_unmap(struct ptxvm *vm, const void *p, struct err *e)
{
    for (int n = 0; n < vm->n_ranges; n++)
        if (vm->ranges[n].at == (uint64_t)(uintptr_t)p) {
            memmove(&vm->ranges[n], &vm->ranges[n + 1],
                    (size_t)(vm->n_ranges - n - 1) * sizeof *vm->ranges);
            vm->n_ranges--;
            return 0;
        }
    return err_set(e, ERR_NOTFOUND, "that memory is not the device's");
}

void *ptxvm_global(struct ptxvm *vm, const char *name, size_t *bytes)
{
    for (struct ptx_module *m = vm->modules; m; m = m->next)
        for (struct ptx_var *v = m->vars; v; v = v->next)
            if (v->address && v->space != SP_SHARED && strcmp(v->name, name) == 0) {
                *bytes = v->bytes;
                return (void *)(uintptr_t)v->address;
            }
    return NULL;
}

/* ---- Modules ---- */

/* Names that g++ gives a static function and nvcc does not: _ZL3fooi is _Z3fooi. */
static bool same_name(const char *ptx, const char *asked)
{
    if (strcmp(ptx, asked) == 0)
        return true;
    return strncmp(asked, "_ZL", 3) == 0 && strncmp(ptx, "_Z", 2) == 0 &&
           strcmp(ptx + 2, asked + 3) == 0;
}

static struct kernel *find(const struct ptxvm *vm, const char *name)
{
    for (struct kernel *k = vm->kernels; k; k = k->next)
        if (same_name(k->name, name))
            return k;
    return NULL;
}

bool ptxvm_has(const struct ptxvm *vm, const char *kernel)
{
    return find(vm, kernel) != NULL;
}

const char *ptxvm_kernel(const struct ptxvm *vm, int i)
{
    struct kernel *k = vm->kernels;
    while (k && i-- > 0)
        k = k->next;
    return k ? k->name : NULL;
}

static int place_globals(struct ptxvm *vm, struct ptx_module *m, struct err *e)
{
    for (struct ptx_var *v = m->vars; v; v = v->next) {
        if ((v->space != SP_GLOBAL && v->space != SP_CONST) || v->is_extern)
            continue;
        size_t bytes = v->bytes ? v->bytes : 1;
        /* Room behind it: a neighbour that malloc places there must not look like its end. */
        void *p = aligned_alloc(4096, (bytes + 64 + 4095) & ~(size_t)4095);
        if (p == NULL)
            return err_set(e, ERR_NOMEM, "no memory for %.60s", v->name);
        memset(p, 0, bytes);
        if (v->init)
            memcpy(p, v->init, v->bytes);
        v->address = (uint64_t)(uintptr_t)p;
        int rc = add_range(vm, v->address, bytes, v->name, v->space == SP_CONST, e);
        if (rc != 0)
            return rc;
    }
    return 0;
}

int ptxvm_load_text(struct ptxvm *vm, const char *name, const char *text, size_t len, struct err *e)
{
    struct ptx_module *m = mem_try(1, sizeof *m);
    if (m == NULL)
        return err_set(e, ERR_NOMEM, "no memory for %.60s", name);
    int rc = parse_module(m, name, text, len, e);
    if (rc != 0) {
        free(m);
        return rc;
    }
    m->next = vm->modules;
    vm->modules = m;
    if ((rc = place_globals(vm, m, e)) != 0)
        return rc;
    for (struct ptx_func *f = m->funcs; f; f = f->next) {
        if (!f->is_entry || !f->has_body)
            continue;
        if (find(vm, f->name))
            return err_set(e, ERR_INVALID, "%.60s: kernel %.100s is there already", name, f->name);
        struct kernel *k = mem_try(1, sizeof *k);
        if (k == NULL)
            return err_set(e, ERR_NOMEM, "no memory for %.60s", f->name);
        k->name = f->name;
        k->module = m;
        k->func = f;
        k->next = vm->kernels;
        vm->kernels = k;
    }
    return 0;
}

int ptxvm_load(struct ptxvm *vm, const char *path, struct err *e)
{
    struct file f;
    int rc = file_open(&f, path, e);
    if (rc != 0)
        return rc;
    const char *slash = strrchr(path, '/');
    rc = ptxvm_load_text(vm, slash ? slash + 1 : path, f.data ? f.data : "", f.size, e);
    file_close(&f);
    return rc;
}

static struct kernel *prepared(struct ptxvm *vm, const char *name, int *rc, struct err *e)
{
    struct kernel *k = find(vm, name);
    *rc = 0;
    if (k == NULL) {
        *rc = err_set(e, ERR_INVALID, "no loaded module has a kernel %.100s", name);
        return NULL;
    }
    if (!k->ready && (*rc = decode_kernel(vm, k, e)) != 0)
        return NULL;
    return k;
}

int ptxvm_prepare(struct ptxvm *vm, const char *kernel, struct err *e)
{
    int rc;
    prepared(vm, kernel, &rc, e);
    return rc;
}

/* ---- Launches ---- */

static int check_launch(const struct kernel *k, const struct ptxvm_launch *l, struct err *e)
{
    static const uint32_t max_grid[3] = {INT32_MAX, 65535, 65535}, max_block[3] = {1024, 1024, 64};
    for (int n = 0; n < 3; n++)
        if (l->grid[n] == 0 || l->grid[n] > max_grid[n] || l->block[n] == 0 ||
            l->block[n] > max_block[n])
            return err_set(e, ERR_INVALID, "%.60s: grid (%u,%u,%u), block (%u,%u,%u)", k->name,
                           l->grid[0], l->grid[1], l->grid[2], l->block[0], l->block[1],
                           l->block[2]);
    uint32_t threads = l->block[0] * l->block[1] * l->block[2];
    if (threads > 1024 || (k->func->max_threads && threads > k->func->max_threads))
        return err_set(e, ERR_INVALID, "%.60s: %u threads a block, at most %u", k->name, threads,
                       k->func->max_threads ? k->func->max_threads : 1024);
    if ((uint64_t)k->shared_static + l->shared_bytes > MAX_SHARED_BYTES)
        return err_set(e, ERR_INVALID, "%.60s: %u bytes of shared memory", k->name,
                       k->shared_static + l->shared_bytes);
    if (k->func->n_params > 0 && l->args == NULL)
        return err_set(e, ERR_INVALID, "%.60s: it takes %d parameters", k->name, k->func->n_params);
    return 0;
}

static void copy_params(const struct kernel *k, const struct ptxvm_launch *l, uint8_t *to)
{
    uint32_t end = 0;
    for (int n = 0; n < k->func->n_params; n++) {
        const struct ptx_var *v = k->func->params[n];
        end = (end + v->align - 1) & ~(v->align - 1);
        memcpy(to + end, l->args[n], v->bytes);
        end += (uint32_t)v->bytes;
    }
}

/* Blocks run one after the other; one that takes long gives way to a few others, so that a block may wait
 * for an earlier one's flag. */
static int run_blocks(struct ptxvm *vm, struct kernel *k, const struct ptxvm_launch *l,
                      uint8_t *params)
{
    struct block slots[MAX_RESIDENT] = {{0}};
    uint64_t n_blocks = (uint64_t)l->grid[0] * l->grid[1] * l->grid[2], next = 0, running = 0;
    int n_slots = n_blocks < MAX_RESIDENT ? (int)n_blocks : MAX_RESIDENT;
    bool bad = false;
    while (!bad && (next < n_blocks || running > 0)) {
        for (int s = 0; s < n_slots && !bad; s++) {
            struct block *b = &slots[s];
            if (!b->started && next < n_blocks) {
                b->vm = vm;
                b->kernel = k;
                b->launch = l;
                b->params = params;
                b->at[0] = (uint32_t)(next % l->grid[0]);
                b->at[1] = (uint32_t)(next / l->grid[0] % l->grid[1]);
                b->at[2] = (uint32_t)(next / l->grid[0] / l->grid[1]);
                next++;
                running++;
                block_start(b);
            }
            while (b->started && !bad) {
                if (block_run(b, TURNS)) {
                    b->started = false;
                    running--;
                    k->stats.blocks++;
                }
                for (int n = 0; n < b->n_warps; n++)
                    bad = bad || b->warps[n].bad;
                if (b->started && n_slots > 1)
                    break;
            }
            if (running == 0 && next < n_blocks)
                s = -1; /* the first slot again: its memory is warm */
        }
    }
    for (int s = 0; s < n_slots; s++)
        if (slots[s].warps)
            block_free(&slots[s]);
    return bad ? ERR_DEVICE : 0;
}

int ptxvm_launch(struct ptxvm *vm, const struct ptxvm_launch *l, struct err *e)
{
    int rc;
    struct kernel *k = prepared(vm, l->kernel, &rc, e);
    if (k == NULL)
        return rc;
    if ((rc = check_launch(k, l, e)) != 0)
        return rc;
    struct timespec t0, t1;
    clock_gettime(CLOCK_MONOTONIC, &t0);
    uint8_t *params = xcalloc(1, (size_t)k->param_bytes + 16);
    copy_params(k, l, params);
    struct err local = {0};
    vm->e = e ? e : &local;
    vm->stats = &k->stats;
    vm->instructions = 0;
    k->stats.launches++;
    rc = run_blocks(vm, k, l, params);
    free(params);
    vm->e = NULL;
    clock_gettime(CLOCK_MONOTONIC, &t1);
    k->stats.microseconds +=
        (uint64_t)((t1.tv_sec - t0.tv_sec) * 1000000 + (t1.tv_nsec - t0.tv_nsec) / 1000);
    return rc;
}

struct ptxvm_stats ptxvm_stats(const struct ptxvm *vm, const char *kernel)
{
    const struct kernel *k = find(vm, kernel);
    return k ? k->stats : (struct ptxvm_stats){0};
}

void ptxvm_accesses(const struct ptxvm *vm, FILE *f)
{
    for (const struct kernel *k = vm->kernels; k; k = k->next) {
        const struct ptxvm_stats *s = &k->stats;
        const uint64_t n[] = {s->launches,     s->global_accesses, s->global_sectors,
                              s->global_least, s->shared_turns,    s->shared_least};
        if (s->launches == 0)
            continue;
        fprintf(f, "%s", k->name);
        for (size_t i = 0; i < sizeof n / sizeof *n; i++)
            fprintf(f, "\t%llu", (unsigned long long)n[i]);
        fprintf(f, "\n");
    }
}

void ptxvm_report(const struct ptxvm *vm, FILE *f)
{
    fprintf(f, "%-48s %8s %8s %12s %10s %8s %8s %8s\n", "kernel", "launches", "blocks",
            "thread ins", "M ins/s", "mma", "ldmatrix", "cp.async");
    for (const struct kernel *k = vm->kernels; k; k = k->next) {
        const struct ptxvm_stats *s = &k->stats;
        if (s->launches == 0)
            continue;
        fprintf(f, "%-48.48s %8llu %8llu %12llu %10.1f %8llu %8llu %8llu\n", k->name,
                (unsigned long long)s->launches, (unsigned long long)s->blocks,
                (unsigned long long)s->thread_instructions,
                s->microseconds ? (double)s->thread_instructions / (double)s->microseconds : 0.0,
                (unsigned long long)s->mma, (unsigned long long)s->ldmatrix,
                (unsigned long long)s->cp_async);
    }
}
