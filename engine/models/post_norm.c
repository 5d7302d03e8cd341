/* The blocks of layers with their norms behind. */
#include "engine/models/post_norm.h"

void post_norm_project(const struct post_norm *p, const struct nn_linear *const qkv[3],
                       const struct tensor *x, struct tensor *const to[3])
{
    OP(p->be, linear, .out = {to[0], to[1], to[2]}, .w = {qkv[0]->w, qkv[1]->w, qkv[2]->w},
       .bias = {&qkv[0]->bias, &qkv[1]->bias, &qkv[2]->bias}, .x = x);
}

void post_norm_close(const struct post_norm *p, const struct nn_linear *l,
                     const struct nn_norm *norm, const struct tensor *from, struct tensor *x)
{
    OP(p->be, linear, .out = {x}, .w = {l->w}, .bias = {&l->bias}, .x = from, .add = x);
    OP(p->be, layernorm, .out = x, .x = x, .w = &norm->w, .bias = &norm->bias, .eps = p->eps);
}

void post_norm_feed(const struct post_norm *p, const struct post_norm_ff *l, struct tensor *ff,
                    struct tensor *x)
{
    OP(p->be, linear, .out = {ff}, .w = {l->fc1->w}, .bias = {&l->fc1->bias}, .x = x);
    OP(p->be, act, .out = ff, .x = ff, .act = p->act);
    post_norm_close(p, l->fc2, l->norm, ff, x);
}
