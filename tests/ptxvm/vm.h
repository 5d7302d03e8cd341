/* The machine's inside: instructions as they are executed, warps, blocks.  Private to tests/ptxvm/.
 *
 * A register is 32 lanes side by side: 4 bytes a lane, 8 for 64-bit types, and for a predicate one word
 * with a bit a lane.  16-bit values stand in 4-byte lanes with zeros above.  Constants and special
 * registers are registers too, filled when a warp starts, so every source is `w->regs + slot`. */
#ifndef TESTS_PTXVM_VM_H
#define TESTS_PTXVM_VM_H
#include "tests/ptxvm/ptx.h"
#include "tests/ptxvm/ptxvm.h"

#define VM_LANES     32
#define VM_ALL       0xffffffffu
#define VM_MAX_WARPS 32
#define VM_NONE      UINT32_MAX  /* no slot */
#define VM_POISON    0xffffffffu /* what undefined 32 bits hold: a NaN */

/* Where shared, local and parameter memory appear in generic addresses: no host pointer is there. */
#define VM_WINDOW_SHARED 0x5aa0000000000000ull
#define VM_WINDOW_LOCAL  0x5bb0000000000000ull
#define VM_WINDOW_PARAM  0x5cc0000000000000ull
#define VM_WINDOW_MASK   0xfff0000000000000ull

typedef uint32_t u32v __attribute__((may_alias));
typedef int32_t s32v __attribute__((may_alias));
typedef uint64_t u64v __attribute__((may_alias));
typedef int64_t s64v __attribute__((may_alias));
typedef float f32v __attribute__((may_alias));
typedef double f64v __attribute__((may_alias));

enum vm_flow {
    FLOW_NEXT, /* run() and go on */
    FLOW_SYNC, /* run() once all lanes of the mask are here: shfl.sync, mma.sync ... */
    FLOW_BRANCH,
    FLOW_TABLE, /* brx.idx */
    FLOW_EXIT,
    FLOW_BARRIER,
    FLOW_TRAP,
};

enum vm_round { RND_N, RND_Z, RND_M, RND_P };

struct warp;
struct ptx_ins;
typedef void vm_run(struct warp *w, const struct ptx_ins *i, uint32_t mask);

#define VM_MAX_OPS 20

struct ptx_ins {
    vm_run *run;
    uint32_t op[VM_MAX_OPS]; /* slots; what each is stands at the decoder */
    int64_t imm;             /* offset of an address, or another constant */
    int64_t imm2;            /* offset of a second address */
    uint32_t guard;          /* slot of a predicate, VM_NONE when always */
    uint32_t target;         /* of a branch */
    uint32_t *table;         /* of brx.idx, imm entries */
    const struct ptx_stmt *stmt;
    const struct ptx_module *module;
    uint8_t flow, space, type, type2;
    uint8_t n;    /* elements of a vector */
    uint8_t size; /* bytes of an element in memory */
    uint8_t sub;  /* which of several: compare, atomic operation, mode */
    uint8_t round;
    bool guard_negated, ftz, sat, wide, wide2, relu;
    bool whole_warp;    /* FLOW_SYNC: all 32 lanes, whatever op[] says */
    bool arrive;        /* bar.arrive */
    bool release;       /* atom.acq_rel.gpu and the like */
    uint32_t sync_mask; /* slot of the member mask, VM_NONE for whole_warp */
};

/* Registers that start with a value other than poison. */
struct vm_const {
    uint32_t slot;
    bool wide;
    uint64_t bits;
};

enum vm_special {
    SR_TID_X,
    SR_TID_Y,
    SR_TID_Z,
    SR_NTID_X,
    SR_NTID_Y,
    SR_NTID_Z,
    SR_CTAID_X,
    SR_CTAID_Y,
    SR_CTAID_Z,
    SR_NCTAID_X,
    SR_NCTAID_Y,
    SR_NCTAID_Z,
    SR_LANEID,
    SR_WARPID,
    SR_NWARPID,
    SR_SMID,
    SR_NSMID,
    SR_GRIDID,
    SR_LANEMASK_EQ,
    SR_LANEMASK_LE,
    SR_LANEMASK_LT,
    SR_LANEMASK_GE,
    SR_LANEMASK_GT,
    SR_CLOCK,
    SR_CLOCK64,
    SR_GLOBALTIMER,
    SR_DYNAMIC_SMEM,
    SR_TOTAL_SMEM,
    SR_ZERO,
    SR_ONE,
    SR_N,
};

struct kernel {
    const char *name;
    const struct ptx_module *module;
    const struct ptx_func *func;
    bool ready;
    struct ptx_ins *code;
    uint32_t n_code, cap_code;
    uint32_t n_slots; /* of 4 bytes: a warp's register file */
    struct vm_const *consts;
    uint32_t n_consts, cap_consts;
    uint32_t special[SR_N]; /* slots, VM_NONE where unused */
    uint32_t shared_static, local_bytes, param_bytes;
    uint32_t shared_align;
    struct arena arena; /* code, tables, constants */
    struct ptxvm_stats stats;
    struct kernel *next;
};

struct range {
    uint64_t at, bytes;
    char name[32];
    bool read_only;
};

/* What is known of a byte of shared memory (races.c). */
struct cell {
    uint32_t wrote_clock, read_clock; /* of the warp, when it did */
    uint32_t wrote_sync, read_sync;   /* of its syncwarps */
    uint32_t readers;                 /* warps since the last write */
    uint32_t read_phase;              /* of the block's full barriers */
    uint16_t writer, reader;          /* thread + 1, 0 for none */
    bool wrote_atomic, many_lanes, pending, read_any;
};

/* Some lanes that stand at the same instruction. */
struct group {
    uint32_t pc, mask;
    bool waits; /* for the others of a sync */
};

struct copy { /* a cp.async on its way */
    uint32_t to, group;
    uint64_t from;
    uint8_t lane, bytes, from_bytes;
    const struct ptx_ins *ins;
};

enum warp_state { WARP_RUNS, WARP_BARRIER, WARP_DONE };

struct warp {
    uint32_t *regs;
    struct block *block;
    uint8_t *local; /* [lane][local_bytes] */
    int id;
    enum warp_state state;
    uint32_t live, exist; /* lanes that have not exited; that there are at all */
    uint32_t carry;       /* of add.cc, a bit a lane */
    struct group groups[VM_LANES];
    int n_groups;
    bool bad;                      /* an error was set; leave */
    const struct ptx_ins *barrier; /* it waits there */
    int barrier_id;
    uint32_t barrier_arg; /* lanes whose predicate is true, for bar.red */
    struct copy *copies;
    uint32_t n_copies, cap_copies;
    uint32_t copy_group[VM_LANES]; /* groups committed */
    uint32_t clock[VM_MAX_WARPS];  /* what it knows of each warp's time */
    uint32_t stored;               /* its own at its last store to global memory, + 1; 0: none */
    uint32_t sync;
};

struct barrier {
    uint32_t waiting;             /* warps */
    uint32_t arrived;             /* threads */
    uint32_t expected;            /* 0: the whole block */
    uint32_t clock[VM_MAX_WARPS]; /* of those that arrived */
    const struct ptx_ins *first;
};

#define VM_BARRIERS 16

struct block {
    struct ptxvm *vm;
    struct kernel *kernel;
    const struct ptxvm_launch *launch;
    const uint8_t *params;
    uint32_t at[3]; /* ctaid */
    uint8_t *shared;
    uint32_t shared_bytes;
    struct cell *cells; /* [shared_bytes], NULL without races */
    struct warp *warps;
    int n_warps, n_done;
    uint32_t n_threads, phase;
    bool partial;      /* a barrier of some warps completed in this phase */
    int releaser;      /* warp of the last release, + 1; 0: none */
    uint32_t released; /* its clock then */
    struct barrier barriers[VM_BARRIERS];
    bool started;
};

struct ptxvm {
    struct ptxvm_options o;
    struct ptx_module *modules;
    struct kernel *kernels;
    struct range *ranges; /* ascending */
    int n_ranges, cap_ranges, last_range;
    uint64_t instructions; /* thread instructions of this launch */
    uint64_t random;
    struct ptxvm_stats *stats; /* of the kernel that runs */
    struct err *e;             /* of the launch that runs */
};

#define R(type, w, slot) ((type *)((w)->regs + (slot)))

/* The statements for every lane l of a mask; the full warp is a loop that vectorizes. */
#define LANES(mask, ...)                                               \
    do {                                                               \
        if ((mask) == VM_ALL) {                                        \
            for (int l = 0; l < VM_LANES; l++) {                       \
                __VA_ARGS__;                                           \
            }                                                          \
        } else {                                                       \
            for (uint32_t rest_ = (mask); rest_; rest_ &= rest_ - 1) { \
                int l = __builtin_ctz(rest_);                          \
                __VA_ARGS__;                                           \
            }                                                          \
        }                                                              \
    } while (0)

/* Reports what the lane did at this instruction and ends the launch (warp.c). */
void warp_fail(struct warp *w, const struct ptx_ins *i, int lane, const char *fmt, ...)
    PRINTF_LIKE(4, 5);
/* Runs at most n instructions; leaves early when it waits at a barrier, ends or fails. */
void warp_slice(struct warp *w, uint32_t n);
void warp_start(struct warp *w, struct block *b, int id);
bool warp_pred(const struct warp *w, uint32_t slot, int lane);

/* block.c */
void block_start(struct block *b);
void block_free(struct block *b);
/* Some turns of its warps; true when it has ended. */
bool block_run(struct block *b, uint32_t turns);

/* A lane's register and an offset; 32 bits wrap, as those of a window do (mem.c). */
uint64_t mem_address(const struct warp *w, uint32_t slot, bool wide, int lane, int64_t offset);
/* The bytes of an access of one lane, NULL after an error (mem.c). */
void *mem_at(struct warp *w, const struct ptx_ins *i, int lane, uint64_t address, uint32_t bytes,
             bool write);

/* access.c: what the lanes of a warp touch with one instruction. */
struct access {
    uint64_t at[VM_LANES];
    uint32_t mask;
    uint8_t bytes[VM_LANES];
};
void access_add(struct access *a, int lane, uint64_t at, uint32_t bytes);
void access_global(struct ptxvm_stats *s, const struct access *a);
void access_shared(struct ptxvm_stats *s, const struct access *a);

/* races.c: all do nothing when races are not watched. */
enum race_kind { RACE_READ, RACE_WRITE, RACE_ATOMIC, RACE_COPY, RACE_LAND };
void races_touch(struct warp *w, const struct ptx_ins *i, int lane, uint32_t at, uint32_t bytes,
                 enum race_kind kind);
/* Global memory: a store; a release, behind which other blocks may read what this one stored. */
void races_store(struct warp *w, const struct ptx_ins *i, int lane);
void races_release(struct warp *w, const struct ptx_ins *i, int lane);
void races_arrive(struct warp *w, struct barrier *b);
void races_leave(struct warp *w, const struct barrier *b);
#define RACES_WHOLE_WARP 32 /* as a lane: the warp together, as in ldmatrix */
#endif
