/* Runs the blocks of a kernel: one after the other in shuffled order, every thread of a block a fiber.
 *
 * A fiber goes on until it meets a barrier, a warp operation or its end, then another one that is ready
 * takes over: a lane of the same warp, or else one of a warp picked at random.  When none is ready and
 * some wait, the kernel is wrong (a barrier that not all threads reach), and says who waits where.
 *
 * Shared memory starts as NaN in each block.  Dynamic shared memory ends at a page that traps.  The
 * bytes of a cp.async are NaN until its wait.  Built without sanitizers; under ThreadSanitizer every
 * fiber is known to it, and only barriers, __syncwarp and the ends of kernels order memory: a shuffle
 * does not, so a missing __syncwarp is reported at its line. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <vector>

#include "tests/cuemu/cuemu_int.h"

extern "C" {
extern char __executable_start[];
void *__tsan_get_current_fiber(void) __attribute__((weak));
void *__tsan_create_fiber(unsigned flags) __attribute__((weak));
void __tsan_switch_to_fiber(void *fiber, unsigned flags) __attribute__((weak));
void __tsan_acquire(void *p) __attribute__((weak));
void __tsan_release(void *p) __attribute__((weak));
}

namespace
{

enum {
    MAX_THREADS = 1024,
    LANES = 32,
    STACK = 64 * 1024 + 17 * 64, /* neighbours' tops lie in different sets of the caches */
    SHARED_MAX = 227 * 1024,
    GAP = 64,
    CANARY = 0x5a
};
enum class state { running, warp, barrier, grid, done };

struct async_copy {
    char *dst;
    const char *src;
    int bytes, src_bytes, group;
};

#ifdef __x86_64__
struct context {
    void *sp, *pc, *bp;
};
#else
typedef ucontext_t context;
#endif

struct alignas(64) fiber {
    cuemu_thread self; /* first: cuemu_self points here */
    context at;
    state st;
    cuemu_op op;
    unsigned mask;
    int line;
    const char *file;
    char *stack;
    void *tsan;
    std::vector<async_copy> copies;
    int groups; /* committed */
};

struct warp {
    unsigned ready, arrived, fresh; /* lanes; fresh: they have not begun */
    unsigned bit;                   /* in warps_ready */
    fiber *fibers;
    /* Of those that have arrived: the last one's, and whether another one's differ from it. */
    unsigned mask;
    cuemu_op op;
    int line;
    bool mixed;
    void *mine[LANES];
};

fiber fibers[MAX_THREADS];
warp warps[MAX_THREADS / LANES], *here; /* here: of the fiber that runs */
unsigned warps_ready;                   /* a bit a warp that has ready lanes */
uint64_t grid_waits;                    /* threads that waited for the kernel before */
int n_threads, n_warps, n_done, n_at_grid_wait, n_at_barrier, barrier_sum, barrier_result;
const fiber *barrier_first; /* the thread that came to it first */
char barrier_object, warp_objects[MAX_THREADS / LANES], kernel_begin, kernel_end;
context scheduler;
void *scheduler_tsan;
const cuemu_grid *grid_now;
cuemu_counts *counts;
cudaError_t failure;
sigjmp_buf trap_jump;
thread_local volatile bool in_kernel; /* this thread runs it */

struct site {
    void *p;
    size_t bytes;
};
std::vector<site> sites;
std::vector<int> sites_used; /* by this block */
int n_sites;
alignas(64) char shared_static[SHARED_MAX + 64 * GAP];
size_t shared_used;
int chance; /* 0: the order of threads starts anew from the seed */
char *dynamic_map, *dynamic_now, *stacks;
long page;

void release(void *p)
{
    if (__tsan_release)
        __tsan_release(p);
}

void acquire(void *p)
{
    if (__tsan_acquire)
        __tsan_acquire(p);
}

void tsan_to(void *fiber)
{
    if (__tsan_switch_to_fiber)
        __tsan_switch_to_fiber(fiber, 1 /* orders nothing */);
}

fiber *self()
{
    return reinterpret_cast<fiber *>(cuemu_self);
}

/* Of a thread in its block. */
unsigned number(const fiber *f)
{
    return f->self.warp * LANES + f->self.lane;
}

void make_ready(warp *w, unsigned lanes)
{
    w->ready |= lanes;
    if (lanes)
        warps_ready |= w->bit;
}

/* All threads of the block; fresh: none has begun. */
void make_all_ready(bool fresh)
{
    for (int w = 0; w < n_warps; w++) {
        const int lanes = n_threads - w * LANES;
        warps[w].ready = lanes < LANES ? (1u << lanes) - 1 : 0xffffffffu;
        if (fresh) {
            warps[w].fresh = warps[w].ready;
            warps[w].arrived = 0;
        }
    }
    warps_ready = n_warps < 32 ? (1u << n_warps) - 1 : 0xffffffffu;
}

/* A bit of the mask, by chance. */
unsigned pick(unsigned mask)
{
    static uint32_t state = 1;
    if (!chance)
        state = (uint32_t)cuemu_random() | 1;
    chance = 1;
    state = state * 1664525u + 1013904223u;
    unsigned by = state >> 27;
    unsigned turned = mask >> by | mask << (-by & 31);
    return (unsigned)(__builtin_ctz(turned) + by) & 31;
}

const char *state_name(const fiber *f)
{
    static const char *const ops[] = {"__syncwarp",  "a shuffle", "a vote",   "a match",
                                      "a reduction", "ldmatrix",  "mma.sync", "a warp operation"};
    return f->st == state::barrier ? "__syncthreads"
           : f->st == state::grid  ? "cuda_grid_wait"
                                   : ops[f->op];
}

/* Nobody can go on: who waits where. */
void report_deadlock()
{
    char text[600];
    int waiting = 0, at = 0;
    for (int t = 0; t < n_threads; t++)
        waiting += fibers[t].st != state::done;
    at += snprintf(text, sizeof text,
                   "%s: block (%u, %u, %u): divergent barrier: %d threads wait, %d have ended",
                   grid_now->name, cuemu_here.block.x, cuemu_here.block.y, cuemu_here.block.z,
                   waiting, n_done);
    for (int t = 0, shown = 0; t < n_threads && shown < 4; t++) {
        const fiber *f = &fibers[t];
        if (f->st == state::done)
            continue;
        bool seen = false;
        for (int k = 0; k < t; k++)
            seen |= fibers[k].st == f->st && fibers[k].line == f->line && fibers[k].file == f->file;
        if (seen)
            continue;
        shown++;
        at += snprintf(text + at, sizeof text - (size_t)at, "; thread %d at %s, %s:%d", t,
                       state_name(f), f->file, f->line);
        if (at >= (int)sizeof text)
            break;
    }
    cuemu_set_report(text);
    failure = cudaErrorLaunchFailure;
}

void trampoline();

/* A context that begins with trampoline. */
void start(fiber *f)
{
#ifdef __x86_64__
    void **sp = reinterpret_cast<void **>(f->stack + STACK - 16);
    *--sp = nullptr; /* the return address of trampoline, which never returns */
    f->at = {sp, reinterpret_cast<void *>(trampoline), nullptr};
#else
    getcontext(&f->at);
    f->at.uc_stack.ss_sp = f->stack;
    f->at.uc_stack.ss_size = STACK;
    f->at.uc_link = nullptr;
    makecontext(&f->at, trampoline, 0);
#endif
}

/* Goes on where `to` was left; returns when somebody switches to `from`.  Inline, since the compiler then
 * keeps no more than what the place around needs. */
__attribute__((always_inline)) inline void switch_to(context *from, context *to)
{
#ifdef __x86_64__
    asm volatile("leaq 1f(%%rip), %%rax\n\t"
                 "movq %%rsp, (%0)\n\t"
                 "movq %%rax, 8(%0)\n\t"
                 "movq %%rbp, 16(%0)\n\t"
                 "movq (%1), %%rsp\n\t"
                 "movq 16(%1), %%rbp\n\t"
                 "jmpq *8(%1)\n"
                 "1:"
                 : "+D"(from), "+S"(to)
                 :
                 : "rax", "rbx", "rcx", "rdx", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",
#ifdef __AVX512F__
                   "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", "xmm22", "xmm23", "xmm24",
                   "xmm25", "xmm26", "xmm27", "xmm28", "xmm29", "xmm30", "xmm31", "k1", "k2", "k3",
                   "k4", "k5", "k6", "k7",
#endif
                   "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9",
                   "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15", "memory", "cc");
#else
    swapcontext(from, to);
#endif
}

/* One that is ready, now running; fresh: it is to begin.  NULL when there is none. */
__attribute__((always_inline)) inline fiber *take_next(bool *fresh)
{
    warp *w = here;
    if (!w->ready) {
        if (!warps_ready)
            return nullptr;
        here = w = &warps[pick(warps_ready)];
    }
    const unsigned lane = pick(w->ready), bit = 1u << lane;
    fiber *f = &w->fibers[lane];
    w->ready &= ~bit;
    if (!w->ready)
        warps_ready &= ~w->bit;
    *fresh = (w->fresh & bit) != 0;
    if (*fresh) {
        w->fresh &= ~bit;
        f->st = state::running;
        f->groups = 0;
    }
    return f;
}

__attribute__((always_inline)) inline void go_to(context *from, fiber *next, bool fresh)
{
    if (fresh)
        start(next);
    cuemu_self = &next->self;
    tsan_to(next->tsan);
    switch_to(from, &next->at);
}

/* Leaves the running fiber (its state says why) for one that is ready, or for the scheduler when the
 * block is done or stuck. */
__attribute__((always_inline)) inline void leave(fiber *f)
{
    bool fresh;
    fiber *next = take_next(&fresh);
    if (!next) {
        tsan_to(scheduler_tsan);
        switch_to(&f->at, &scheduler);
    } else if (next != f) {
        go_to(&f->at, next, fresh);
    }
}

/* Sums of products that were not waited for are about to be used. */
inline void no_products(const fiber *f, const char *at)
{
    if (f->self.n_products)
        cuemu_trap(cudaErrorLaunchFailure, "thread %u: mma without a cuda_mma_wait before %s",
                   number(f), at);
}

/* A thread; and when it is done, others that have not begun, on the same stack (but not under
 * ThreadSanitizer, which keeps books about stacks). */
void trampoline()
{
    for (;;) {
        acquire(&kernel_begin);
        grid_now->kernel->run();
        fiber *f = self();
        no_products(f, "its end");
        release(&kernel_end);
        f->st = state::done;
        n_done++;
        if (__tsan_switch_to_fiber)
            leave(f);
        bool fresh;
        fiber *next = take_next(&fresh);
        if (!next)
            switch_to(&f->at, &scheduler);
        if (!fresh)
            go_to(&f->at, next, false);
        cuemu_self = &next->self;
    }
}

/* ---- one block */

/* A thread of the launch's blocks. */
void prepare(fiber *f, int t, dim3 block)
{
    unsigned u = (unsigned)t;
    f->self = {{u % block.x, u / block.x % block.y, u / (block.x * block.y)},
               u % LANES,
               u / LANES,
               0,
               cuemu_products_of(t / LANES, t % LANES)};
    f->stack = stacks + (size_t)t * STACK;
    if (__tsan_create_fiber && !f->tsan)
        f->tsan = __tsan_create_fiber(0);
    f->copies.clear();
    warps[f->self.warp].bit = 1u << f->self.warp;
    warps[f->self.warp].fibers = f - f->self.lane;
}

bool gaps_whole()
{
    for (int i : sites_used) {
        const site *s = &sites[(size_t)i];
        const unsigned char *gap = static_cast<const unsigned char *>(s->p) + s->bytes;
        for (int k = 0; k < GAP; k++)
            if (gap[k] != 0xff)
                return false;
    }
    return true;
}

bool stacks_whole()
{
    for (int t = 0; t < n_threads; t++)
        for (int i = 0; i < 16; i++)
            if (fibers[t].stack[i] != CANARY)
                return false;
    return true;
}

void run_block(unsigned index)
{
    const dim3 g = grid_now->grid;
    cuemu_here.block = {index % g.x, index / g.x % g.y, index / (g.x * g.y)};
    acquire(&kernel_end);
    memset(shared_static, 0xff, shared_used); /* of the block before */
    shared_used = 0;
    for (int i : sites_used)
        sites[(size_t)i].p = nullptr;
    sites_used.clear();
    if (grid_now->shared_bytes) {
        size_t bytes = (grid_now->shared_bytes + 15) / 16 * 16;
        dynamic_now = dynamic_map + SHARED_MAX / page * page + page - bytes;
        memset(dynamic_now, 0xff, bytes);
    }
    release(&kernel_begin);
    warps_ready = 0;
    n_done = n_at_grid_wait = n_at_barrier = barrier_sum = 0;
    make_all_ready(true);
    here = &warps[pick(warps_ready)];
    bool fresh;
    fiber *first = take_next(&fresh);
    go_to(&scheduler, first, fresh);
    if (failure)
        return;
    if (n_done < n_threads) {
        report_deadlock();
    } else if (!gaps_whole()) {
        cuemu_set_report("a write behind the end of a SHARED array");
        failure = cudaErrorIllegalAddress;
    }
}

/* Where the faulting instruction is in the program, for addr2line. */
long instruction(void *context)
{
#ifdef __x86_64__
    const ucontext_t *at = static_cast<const ucontext_t *>(context);
    return reinterpret_cast<const char *>(at->uc_mcontext.gregs[REG_RIP]) - __executable_start;
#else
    return static_cast<void>(context), 0L;
#endif
}

/* Was the fault a write?  Where nobody can tell, it was. */
bool is_write(void *context)
{
#ifdef __x86_64__
    return static_cast<const ucontext_t *>(context)->uc_mcontext.gregs[REG_ERR] & 2;
#else
    return static_cast<void>(context), true;
#endif
}

void on_fault(int sig, siginfo_t *info, void *context)
{
    if (!in_kernel) {
        const char *what = cuemu_is_device(info->si_addr)
                               ? "cuemu: host code touched device memory\n"
                               : "cuemu: a fault outside of kernels\n";
        if (write(2, what, strlen(what)) < 0)
            _exit(9);
        signal(sig, SIG_DFL);
        return; /* again, and fatal */
    }
    const cuemu_thread *t = cuemu_self;
    const cuemu_early_verdict early =
        sig == SIGSEGV ? cuemu_early_fault(info->si_addr, is_write(context)) : CUEMU_NOT_EARLY;
    if (early == CUEMU_GO_ON)
        return;
    const bool foreign = cuemu_is_device(info->si_addr) && cuemu_owner(info->si_addr) >= 0 &&
                         cuemu_owner(info->si_addr) != grid_now->device;
    char text[300];
    snprintf(text, sizeof text,
             "%s: block (%u, %u, %u) thread (%u, %u, %u): %s at %p, instruction 0x%lx",
             grid_now->name, cuemu_here.block.x, cuemu_here.block.y, cuemu_here.block.z,
             t->thread.x, t->thread.y, t->thread.z,
             sig == SIGILL              ? "a misaligned access"
             : early == CUEMU_TOO_EARLY ? "an access before its cuda_grid_wait"
             : foreign                  ? "an access to memory of another device"
                                        : "an access outside of any allocation",
             info->si_addr, instruction(context));
    cuemu_set_report(text);
    failure = sig == SIGILL              ? cudaErrorMisalignedAddress
              : early == CUEMU_TOO_EARLY ? cudaErrorLaunchFailure
                                         : cudaErrorIllegalAddress;
    siglongjmp(trap_jump, 1);
}

const int faults[] = {SIGSEGV, SIGBUS, SIGILL};

/* From now on; theirs (NULL: not wanted): who had them. */
void take_faults(struct sigaction *theirs)
{
    struct sigaction act = {};
    act.sa_sigaction = on_fault;
    act.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    for (int i = 0; i < 3; i++)
        sigaction(faults[i], &act, theirs ? &theirs[i] : nullptr);
}

void give_faults_back(const struct sigaction *theirs)
{
    for (int i = 0; i < 3; i++)
        sigaction(faults[i], &theirs[i], nullptr);
}

/* Once, also for what touches device memory outside of kernels; sanitizers have handlers of their own for what is not
 * ours. */
void watch_faults()
{
    static bool done;
    if (done)
        return;
    done = true;
    page = sysconf(_SC_PAGESIZE);
    static char stack[64 * 1024];
    stack_t alt = {};
    alt.ss_sp = stack;
    alt.ss_size = sizeof stack;
    sigaltstack(&alt, nullptr);
    take_faults(nullptr);
    size_t bytes = SHARED_MAX / (size_t)page * (size_t)page + (size_t)page;
    dynamic_map = static_cast<char *>(mmap(nullptr, bytes + (size_t)page, PROT_READ | PROT_WRITE,
                                           MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    mprotect(dynamic_map + bytes, (size_t)page, PROT_NONE);
    memset(shared_static, 0xff, sizeof shared_static);
    const size_t huge = (size_t)2 << 20, all = (size_t)MAX_THREADS * STACK + huge;
    stacks = static_cast<char *>(mmap(nullptr, all, PROT_READ | PROT_WRITE,
                                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    if (stacks == MAP_FAILED) {
        fprintf(stderr, "cuemu: no memory for stacks\n");
        exit(1);
    }
    stacks += -reinterpret_cast<uintptr_t>(stacks) & (huge - 1);
    madvise(stacks, all - huge, MADV_HUGEPAGE);
    for (int t = 0; t < MAX_THREADS; t++)
        memset(stacks + (size_t)t * STACK, CANARY, 16);
}

} // namespace

cuemu_thread *cuemu_self;
cuemu_block cuemu_here;

void cuemu_count_mma(int n)
{
    counts->mma += (uint64_t)n;
}

cudaError_t cuemu_fiber_run(const cuemu_grid *g)
{
    watch_faults();
    failure = cudaSuccess;
    grid_now = g;
    counts = cuemu_counter(g->name);
    n_threads = (int)(g->block.x * g->block.y * g->block.z);
    n_warps = (n_threads + LANES - 1) / LANES;
    cuemu_here.block_dim = g->block;
    cuemu_here.grid_dim = g->grid;
    scheduler_tsan = __tsan_get_current_fiber ? __tsan_get_current_fiber() : nullptr;
    const unsigned n_blocks = g->grid.x * g->grid.y * g->grid.z;
    counts->launches++;
    counts->blocks += n_blocks;
    counts->threads += (uint64_t)n_blocks * (uint64_t)n_threads;
    grid_waits = 0;
    /* a walk over all blocks by a step that shares no factor with their number */
    volatile unsigned at = (unsigned)(cuemu_random() % n_blocks);
    unsigned step = (unsigned)(cuemu_random() % n_blocks) | 1;
    for (unsigned a = step, b = n_blocks; b != 0;) {
        unsigned r = a % b;
        a = b;
        b = r;
        if (b == 0 && a != 1) {
            a = step += 2;
            b = n_blocks;
        }
    }
    for (int t = 0; t < n_threads; t++)
        prepare(&fibers[t], t, g->block);
    struct sigaction theirs[3]; /* a test's frame may have taken them since */
    take_faults(theirs);
    in_kernel = true;
    cuemu_early_guard(g);
    if (sigsetjmp(trap_jump, 0) == 0) {
        for (unsigned i = 0; i < n_blocks && failure == cudaSuccess; i++) {
            run_block(at);
            cuemu_early_open();
            at = (unsigned)(((uint64_t)at + step) % n_blocks);
        }
    } else {
        tsan_to(scheduler_tsan);
    }
    in_kernel = false;
    give_faults_back(theirs);
    if (failure == cudaSuccess && !stacks_whole()) {
        cuemu_set_report("the stack of a thread overflowed");
        failure = cudaErrorLaunchFailure;
    }
    if (failure == cudaSuccess && g->early &&
        grid_waits != (uint64_t)n_blocks * (uint64_t)n_threads) {
        cuemu_set_report("a thread of an early kernel ended without a cuda_grid_wait");
        failure = cudaErrorLaunchFailure;
    }
    acquire(&kernel_end);
    return failure;
}

void cuemu_grid_wait(const char *file, int line)
{
    grid_waits++;
    if (!cuemu_early_guarded)
        return;
    fiber *f = self();
    f->file = file;
    f->line = line;
    f->st = state::grid;
    if (++n_at_grid_wait == n_threads) {
        cuemu_early_open();
        make_all_ready(false);
    }
    leave(f);
}

void cuemu_trap(cudaError_t error, const char *format, ...)
{
    char text[400];
    va_list ap;
    va_start(ap, format);
    int at = snprintf(text, sizeof text, "%s: ", grid_now->name);
    vsnprintf(text + at, sizeof text - (size_t)at, format, ap);
    va_end(ap);
    cuemu_set_report(text);
    failure = error;
    siglongjmp(trap_jump, 1);
}

/* All lanes of the mask have arrived: they must mean the same; and where the device has an instruction of the whole warp
 * (".aligned"), by the same instruction. */
static void check_meeting(const fiber *last)
{
    const fiber *base = here->fibers;
    const bool aligned = last->op == CUEMU_LDMATRIX || last->op == CUEMU_MMA;
    for (unsigned m = last->mask; m; m &= m - 1) {
        int l = __builtin_ctz(m);
        if (base[l].mask != last->mask || base[l].op != last->op ||
            (aligned && base[l].line != last->line))
            cuemu_trap(cudaErrorLaunchFailure,
                       "divergent warp operation: lane %u at %s:%d, lane %d at %s:%d",
                       last->self.lane, last->file, last->line, l, base[l].file, base[l].line);
    }
}

/* fn for the lanes of a mask that has not all. */
__attribute__((noinline)) static void meet_some(const warp *w, cuemu_warp_fn *fn, unsigned mask)
{
    void *lanes[LANES] = {};
    for (unsigned m = mask; m; m &= m - 1)
        lanes[__builtin_ctz(m)] = w->mine[__builtin_ctz(m)];
    fn(lanes, mask);
}

void cuemu_warp(cuemu_op op, unsigned mask, cuemu_warp_fn *fn, void *mine, const char *file,
                int line)
{
    fiber *f = self();
    warp *w = here;
    const unsigned bit = 1u << f->self.lane;
    f->op = op;
    f->mask = mask;
    f->file = file;
    f->line = line;
    w->mine[f->self.lane] = mine;
    if (!(mask & bit))
        cuemu_trap(cudaErrorLaunchFailure, "%s:%d: lane %u is not in its own mask %08x", file, line,
                   f->self.lane, mask);
    if (op < CUEMU_LDMATRIX && op != CUEMU_SYNCWARP)
        no_products(f, "a shuffle or a vote");
    if (op == CUEMU_SYNCWARP)
        release(&warp_objects[f->self.warp]);
    w->mixed = w->arrived && (w->mixed || w->mask != mask || w->op != op || w->line != line);
    w->mask = mask;
    w->op = op;
    w->line = line;
    w->arrived |= bit;
    if (mask & ~w->arrived) {
        f->st = state::warp;
        leave(f);
    } else {
        if (w->mixed)
            check_meeting(f);
        counts->warp_ops++;
        if (fn && mask == 0xffffffffu)
            fn(w->mine, mask);
        else if (fn)
            meet_some(w, fn, mask);
        w->arrived &= ~mask;
        make_ready(w, mask & ~bit);
    }
    if (op == CUEMU_SYNCWARP)
        acquire(&warp_objects[f->self.warp]);
}

int cuemu_sync_sum(int value, const char *file, int line)
{
    fiber *f = self();
    f->file = file;
    f->line = line;
    no_products(f, "__syncthreads");
    if (n_at_barrier == 0)
        barrier_first = f;
    else if (barrier_first->line != line || strcmp(barrier_first->file, file) != 0)
        cuemu_trap(cudaErrorLaunchFailure,
                   "divergent barrier: thread %u at %s:%d, thread %u at %s:%d", number(f), file,
                   line, number(barrier_first), barrier_first->file, barrier_first->line);
    barrier_sum += value;
    release(&barrier_object);
    if (++n_at_barrier < n_threads) {
        f->st = state::barrier;
    } else {
        n_at_barrier = 0;
        barrier_result = barrier_sum;
        barrier_sum = 0;
        counts->barriers++;
        make_all_ready(false);
    }
    leave(f); /* the last one to arrive need not be the first to go on */
    acquire(&barrier_object);
    return barrier_result;
}

void cuemu_sync_threads(const char *file, int line)
{
    cuemu_sync_sum(0, file, line);
}

int cuemu_shared_site(void)
{
    sites.push_back({nullptr, 0});
    return n_sites++;
}

void *cuemu_shared(int s, size_t bytes, size_t align)
{
    site *at = &sites[(size_t)s];
    if (!at->p) {
        shared_used = (shared_used + align - 1) / align * align;
        if (shared_used + bytes + GAP > sizeof shared_static ||
            shared_used + grid_now->shared_bytes > SHARED_MAX)
            cuemu_trap(cudaErrorInvalidConfiguration, "too much shared memory");
        at->p = shared_static + shared_used;
        at->bytes = bytes;
        sites_used.push_back(s);
        shared_used += bytes + GAP;
    }
    return at->p;
}

void *cuemu_shared_dynamic(void)
{
    return dynamic_now;
}

void cuemu_cp_async(void *dst, const void *src, int bytes, int src_bytes)
{
    fiber *f = self();
    if ((bytes != 4 && bytes != 8 && bytes != 16) || (uintptr_t)dst % (uintptr_t)bytes ||
        (src_bytes && (uintptr_t)src % (uintptr_t)bytes))
        cuemu_trap(cudaErrorMisalignedAddress, "cp.async of %d bytes from %p to %p", bytes, src,
                   dst);
    if (cuemu_early_guarded && src_bytes) /* it may read at once */
        (void)*static_cast<const volatile char *>(src);
    if (bytes == 16)
        memset(dst, 0xff, 16); /* of a size that the compiler sees */
    else
        memset(dst, 0xff, (size_t)bytes);
    f->copies.push_back(
        {static_cast<char *>(dst), static_cast<const char *>(src), bytes, src_bytes, f->groups});
    counts->cp_async_bytes += (uint64_t)src_bytes;
}

void cuemu_cp_async_commit(void)
{
    self()->groups++;
}

void cuemu_cp_async_wait(int groups_left)
{
    fiber *f = self();
    size_t n = 0;
    while (n < f->copies.size() && f->copies[n].group < f->groups - groups_left) {
        const async_copy *c = &f->copies[n++];
        if (c->src_bytes == 16) {
            memcpy(c->dst, c->src, 16);
            continue;
        }
        if (c->src_bytes)
            memcpy(c->dst, c->src, (size_t)c->src_bytes);
        memset(c->dst + c->src_bytes, 0, (size_t)(c->bytes - c->src_bytes));
    }
    if (n)
        f->copies.erase(f->copies.begin(), f->copies.begin() + (long)n);
}
