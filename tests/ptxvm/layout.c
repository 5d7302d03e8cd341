/* Where a kernel's variables are: shared memory of the block, local memory of the thread, parameters. */
#include <string.h>

#include "tests/ptxvm/decode.h"

enum { MAX_SHARED = 232448 };
#define DYNAMIC (UINT64_MAX - 1) /* address of `extern .shared` until it has its place */

static uint32_t place(struct dec *d, uint32_t *end, const struct ptx_var *v, uint32_t max)
{
    uint64_t at = ((uint64_t)*end + v->align - 1) & ~((uint64_t)v->align - 1);
    if (at + v->bytes > max) {
        dec_fail(d, "%.60s does not fit", v->name);
        return 0;
    }
    *end = (uint32_t)(at + v->bytes);
    return (uint32_t)at;
}

/* Local variables and the parameters of calls live in the thread's local memory; the caller has set
 * those that are aliases. */
void layout_locals(struct dec *d, struct dec_frame *f)
{
    for (const struct ptx_var *v = f->f->vars; v; v = v->next)
        if ((v->space == SP_LOCAL || v->space == SP_PARAM) && !f->has_memory[v->id])
            f->memory[v->id] = place(d, &d->k->local_bytes, v, 1 << 20);
}

const struct ptx_func *layout_find_func(const struct ptx_module *m, const char *name)
{
    for (const struct ptx_func *f = m->funcs; f; f = f->next)
        if (f->has_body && strcmp(f->name, name) == 0)
            return f;
    return NULL;
}

/* Shared variables get their places before anything is translated: static ones first, then the
 * dynamic memory.  The offset is kept in the variable: a kernel's translation is done in one go. */
static void place_shared(struct dec *d, const struct ptx_func *f, bool dynamic, int depth)
{
    if (depth > DEC_MAX_CALLS)
        return;
    for (int n = 0; n < f->n_stmts; n++) {
        const struct ptx_stmt *s = &f->stmts[n];
        for (int a = 0; a < s->n_args; a++) {
            const struct ptx_operand *o = &s->args[a];
            if ((o->kind == OPD_ADDRESS || o->kind == OPD_VECTOR) && o->n_items > 0)
                o = &o->items[0];
            if (o->kind == OPD_NAME && strncmp(s->op, "call", 4) == 0) {
                const struct ptx_func *callee = layout_find_func(d->m, o->name);
                if (callee != NULL)
                    place_shared(d, callee, dynamic, depth + 1);
            }
            struct ptx_var *v = (struct ptx_var *)o->var;
            if (o->kind != OPD_SYMBOL || v->space != SP_SHARED || v->is_extern != dynamic)
                continue;
            if (!dynamic && v->address == UINT64_MAX)
                v->address = place(d, &d->k->shared_static, v, MAX_SHARED);
            if (dynamic) {
                if (v->align > d->k->shared_align)
                    d->k->shared_align = v->align;
                v->address = DYNAMIC;
            }
        }
    }
}

static void each_shared(struct dec *d, uint64_t from, uint64_t to)
{
    for (const struct ptx_func *f = d->m->funcs; f; f = f->next)
        for (struct ptx_var *v = f->vars; v; v = v->next)
            if (v->space == SP_SHARED && (from == 0 || v->address == from))
                v->address = to;
    for (struct ptx_var *v = d->m->vars; v; v = v->next)
        if (v->space == SP_SHARED && (from == 0 || v->address == from))
            v->address = to;
}

void layout_shared(struct dec *d)
{
    each_shared(d, 0, UINT64_MAX);
    place_shared(d, d->f, false, 0);
    d->k->shared_align = 1;
    place_shared(d, d->f, true, 0);
    uint32_t a = d->k->shared_align;
    d->k->shared_static = (d->k->shared_static + a - 1) & ~(a - 1);
    each_shared(d, DYNAMIC, d->k->shared_static);
}

void layout_params(struct dec *d, struct dec_frame *f)
{
    uint32_t end = 0;
    for (int n = 0; n < f->f->n_params; n++) {
        const struct ptx_var *v = f->f->params[n];
        f->has_memory[v->id] = true;
        f->memory[v->id] = place(d, &end, v, 1 << 15);
    }
    d->k->param_bytes = end;
}
