/* PTX text as a tree: what parse.c makes and decode.c reads.  Everything lives in the module's arena. */
#ifndef TESTS_PTXVM_PTX_H
#define TESTS_PTXVM_PTX_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/err.h"

enum ptx_type {
    T_NONE,
    T_PRED,
    T_B8,
    T_U8,
    T_S8,
    T_B16,
    T_U16,
    T_S16,
    T_F16,
    T_BF16,
    T_B32,
    T_U32,
    T_S32,
    T_F32,
    T_TF32,
    T_F16X2,
    T_BF16X2,
    T_B64,
    T_U64,
    T_S64,
    T_F64,
    T_N,
};

enum ptx_space { SP_GENERIC, SP_REG, SP_GLOBAL, SP_CONST, SP_SHARED, SP_LOCAL, SP_PARAM };

/* A declared name: a register (or a family %r<n>), or memory. */
struct ptx_var {
    const char *name;
    enum ptx_space space;
    enum ptx_type type;
    int id;           /* in the function; module-level variables count by themselves */
    int scope;        /* of the declaration */
    uint32_t n;       /* registers: how many a family has, 0 for a single one */
    uint32_t align;   /* memory: bytes */
    uint64_t bytes;   /* memory: 0 for `extern .shared x[]` */
    uint8_t *init;    /* initial bytes, NULL for zeros */
    uint64_t address; /* of a module's .global or .const, once loaded */
    bool is_formal;   /* parameter or return value of a function */
    bool is_extern;
    struct ptx_var *next;
};

enum ptx_operand_kind {
    OPD_REG,     /* var, index */
    OPD_INT,     /* bits */
    OPD_F32,     /* bits, 32 of them */
    OPD_F64,     /* bits of a double */
    OPD_SYMBOL,  /* var + imm: a variable in memory */
    OPD_NAME,    /* label, function or special register, by name */
    OPD_ADDRESS, /* [items[0] + imm]: a register, a symbol, or an absolute number */
    OPD_VECTOR,  /* {items...} */
    OPD_SINK,    /* _ */
};

struct ptx_operand {
    enum ptx_operand_kind kind;
    bool negated; /* !%p */
    const struct ptx_var *var;
    uint32_t index;
    uint64_t bits;
    int64_t imm;
    const char *name;
    struct ptx_operand *items;
    int n_items;
    struct ptx_operand *second; /* d|p */
};

struct ptx_stmt {
    const char *op; /* "ld.global.nc.v4.f32" */
    struct ptx_operand *args;
    int n_args;
    bool guarded, guard_negated; /* @!%p */
    struct ptx_operand guard;
    int line, scope;
    int src_file, src_line; /* of the last .loc */
};

struct ptx_label {
    const char *name;
    int scope;
    int at; /* index of the statement that follows */
    struct ptx_label *next;
};

#define PTX_MAX_SCOPES 4096

struct ptx_func {
    const char *name;
    bool is_entry, has_body;
    int line;
    struct ptx_var **params; /* formals in order */
    int n_params;
    struct ptx_var **returns;
    int n_returns;
    struct ptx_var *vars; /* newest first, formals included */
    int n_vars;
    struct ptx_stmt *stmts;
    int n_stmts;
    struct ptx_label *labels;
    int *scope_parent; /* [n_scopes] */
    int n_scopes;
    uint32_t max_threads; /* .maxntid / .reqntid, 0 when absent */
    struct ptx_func *next;
};

struct ptx_file {
    int number;
    const char *name; /* without its folders */
    struct ptx_file *next;
};

struct ptx_module {
    struct arena arena;
    const char *name; /* of the file, for messages */
    int sm;           /* 80 */
    struct ptx_func *funcs;
    struct ptx_var *vars;
    struct ptx_file *files;
    struct ptx_module *next;
};

/* Reads a module; len bytes that need not end in NUL.  ERR_CORRUPT names file and line.  On failure
 * nothing is kept. */
int parse_module(struct ptx_module *m, const char *name, const char *text, size_t len,
                 struct err *e);
void parse_free(struct ptx_module *m);

/* ".f32" or "f32" -> T_F32; T_NONE for what is no type. */
enum ptx_type parse_type(const char *word);
int parse_type_bytes(enum ptx_type t); /* 0 for predicates */
/* The variable that a name means in a scope, with its index in a family; NULL when there is none. */
const struct ptx_var *parse_find(const struct ptx_module *m, const struct ptx_func *f, int scope,
                                 const char *name, uint32_t *index);
#endif
