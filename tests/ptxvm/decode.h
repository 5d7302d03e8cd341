/* What the decoders of instruction families (alu.c, fpu.c ...) work with.  Private to tests/ptxvm/. */
#ifndef TESTS_PTXVM_DECODE_H
#define TESTS_PTXVM_DECODE_H
#include "tests/ptxvm/vm.h"

#define DEC_MAX_WORDS 24
#define DEC_MAX_CALLS 16 /* inlined into each other */

struct dec {
    struct ptxvm *vm;
    struct kernel *k;
    const struct ptx_module *m;
    const struct ptx_func *f;
    const struct ptx_stmt *s;
    char words[128]; /* the opcode, cut at its dots */
    const char *word[DEC_MAX_WORDS];
    bool used[DEC_MAX_WORDS];
    int n_words;
    struct ptx_ins *i;
    struct dec_frame *frame;
    struct err *e;
    int rc; /* the first failure */
};

/* A function that is being translated, with what its names mean this time. */
struct dec_frame {
    struct dec_frame *caller;
    const struct ptx_func *f;
    uint32_t **slots; /* [var][index], VM_NONE until used */
    uint32_t *memory; /* [var] offset of local and parameter variables */
    bool *has_memory;
    uint32_t *stmt_at; /* [n_stmts + 1] first instruction */
    uint32_t *jumps;   /* instructions whose target is a statement, still */
    uint32_t n_jumps, cap_jumps;
    int depth;
};

/* layout.c */
void layout_shared(struct dec *d);
void layout_locals(struct dec *d, struct dec_frame *f); /* but those that has_memory names */
void layout_params(struct dec *d, struct dec_frame *f);
const struct ptx_func *layout_find_func(const struct ptx_module *m, const char *name);

/* An instruction's name and what fills *d->i for it. */
struct dec_op {
    const char *name;
    void (*decode)(struct dec *d);
};
extern const struct dec_op alu_ops[], logic_ops[], fpu_ops[], cvt_ops[], mem_ops[], sync_ops[],
    mma_ops[];

/* Qualifiers: each is used once; what remains unused at the end is an error. */
bool dec_has(struct dec *d, const char *word);
/* The index of the first of names (NULL-terminated) that is there; -1. */
int dec_one_of(struct dec *d, const char *const *names);
enum ptx_type dec_type(struct dec *d); /* the next type; fails when there is none */
void dec_rounding(struct dec *d);      /* .rn .rz .rm .rp, .ftz, .sat when there */

bool dec_is_float(enum ptx_type t);
bool dec_is_signed(enum ptx_type t);
bool dec_is_wide(enum ptx_type t); /* 64 bits */

/* Operand n: the slot that holds it.  A register must have the type's width. */
uint32_t dec_src(struct dec *d, int n, enum ptx_type t);
uint32_t dec_dst(struct dec *d, int n, enum ptx_type t);
uint32_t dec_operand(struct dec *d, const struct ptx_operand *o, enum ptx_type t, bool dst);
/* As above, but the register may be wider than the type (ld, st, cvt). *wide says it has 64 bits. */
uint32_t dec_loose(struct dec *d, const struct ptx_operand *o, enum ptx_type t, bool dst,
                   bool *wide);
uint32_t dec_const(struct dec *d, uint64_t bits,
                   bool wide);                  /* a slot that holds bits in every lane */
uint32_t dec_scratch(struct dec *d, bool wide); /* a slot for a result nobody wants */
/* Operand n, [register + offset]: op[at], imm, wide, and the space when it is generic. */
void dec_address(struct dec *d, int n, int at);
/* Operand n, {a, b, ...} or a single one, of `count` elements, into op[at...]. */
void dec_vector(struct dec *d, int n, int at, int count, enum ptx_type t, bool dst);
void dec_args(struct dec *d, int min, int max); /* that many operands */
void dec_fail(struct dec *d, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* add, sub, mul ... of integers, once fpu.c has seen that they are. */
void alu_binary(struct dec *d, enum ptx_type t);
void alu_multiply(struct dec *d, enum ptx_type t);

/* Translates a kernel at its first launch. */
int decode_kernel(struct ptxvm *vm, struct kernel *k, struct err *e);
#endif
