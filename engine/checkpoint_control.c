/* ControlNets and T2I-Adapters in one file: under LDM's names (control_model.input_blocks ...), under those of
 * diffusers, and adapters under the names of their authors, who number residual blocks in a row. */
#include <stdio.h>
#include <string.h>

#include "engine/checkpoint_impl.h"

bool checkpoint_control_class(const char *name)
{
    return name != NULL &&
           (strcmp(name, "ControlNetModel") == 0 || strcmp(name, "T2IAdapter") == 0);
}

static bool has(const struct checkpoint_file *f, const char *name)
{
    struct checkpoint_raw t;
    return checkpoint_raw_find(f, name, &t);
}

enum kind {
    KIND_NONE,
    KIND_LDM,
    KIND_LDM_BARE,
    KIND_DIFFUSERS,
    KIND_ADAPTER,
    KIND_ADAPTER_FLAT,
    KIND_ADAPTER_LIGHT
};

static enum kind kind_of(const struct checkpoint_file *f)
{
    static const struct {
        const char *name;
        enum kind kind;
    } signs[] = {
        {"control_model.input_hint_block.0.weight", KIND_LDM},
        {"input_hint_block.0.weight", KIND_LDM_BARE},
        {"controlnet_cond_embedding.conv_in.weight", KIND_DIFFUSERS},
        {"adapter.body.0.resnets.0.block1.weight", KIND_ADAPTER},
        {"body.0.block1.weight", KIND_ADAPTER_FLAT},
        {"body.0.body.0.block1.weight", KIND_ADAPTER_LIGHT},
    };
    for (size_t i = 0; i < sizeof signs / sizeof *signs; i++) {
        if (has(f, signs[i].name))
            return signs[i].kind;
    }
    return KIND_NONE;
}

bool checkpoint_control_names(const struct checkpoint_file *f)
{
    return kind_of(f) != KIND_NONE;
}

/* ---- the authors' adapters ---- */

enum { FLAT_RESNETS = 2, NAME_ROOM = CHECKPOINT_MAX_NAME + 64 }; /* residual blocks of a level */

/* "body.12." */
static bool take_body(const char **s, int *v)
{
    const char *p = *s;
    int n = 0;
    if (strncmp(p, "body.", 5) != 0 || p[5] < '0' || p[5] > '9')
        return false;
    for (p += 5; *p >= '0' && *p <= '9' && n < 100; p++)
        n = n * 10 + (*p - '0');
    if (*p != '.')
        return false;
    *v = n;
    *s = p + 1;
    return true;
}

/* "body.5.block1.weight" is of the second residual block of level 2.  A light adapter's levels have a body of
 * their own: "body.2.body.1.block1.weight". */
static bool map_flat(const char *s, bool light, char *out)
{
    int i, k;
    if (strncmp(s, "conv_in.", 8) == 0)
        return snprintf(out, NAME_ROOM, "adapter.%s", s) > 0;
    if (!take_body(&s, &i))
        return false;
    const bool block = light ? take_body(&s, &k) : strncmp(s, "block", 5) == 0;
    if (!light) {
        k = i % FLAT_RESNETS;
        i /= FLAT_RESNETS;
    }
    if (block)
        return snprintf(out, NAME_ROOM, "adapter.body.%d.resnets.%d.%s", i, k, s) > 0;
    return snprintf(out, NAME_ROOM, "adapter.body.%d.%s", i, s) > 0;
}

/* ---- open ---- */

int checkpoint_control_open(struct checkpoint *c, struct err *e)
{
    const struct checkpoint_file *f = &c->files[0];
    const enum kind kind = kind_of(f);
    const bool light = kind == KIND_ADAPTER_LIGHT;
    if (kind == KIND_LDM || kind == KIND_LDM_BARE)
        return checkpoint_ldm_control(c, kind == KIND_LDM ? "control_model." : "", e);
    int rc = 0;
    for (int i = 0; rc == 0 && i < checkpoint_n_raw(f); i++) {
        const struct checkpoint_raw t = checkpoint_raw_at(f, i);
        char name[NAME_ROOM];
        if (kind != KIND_ADAPTER_FLAT && !light)
            rc = checkpoint_add(c, CHECKPOINT_CONTROL, t.name, &t, e);
        else if (map_flat(t.name, light, name))
            rc = checkpoint_add(c, CHECKPOINT_CONTROL, name, &t, e);
        else
            rc = err_set(e, ERR_UNSUPPORTED, "tensor \"%s\" has no place in a T2I-Adapter",
                         err_shown_str(t.name).text);
    }
    return rc;
}
