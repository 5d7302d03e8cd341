/* theta_i = base^(-2i / n_rot)                                         Su et al. 2021
 * linear:  theta_i / factor                                            Chen et al. 2023
 * llama 3: theta_i / rope_freqs[i], worked out by the converter        Llama 3.1 model card
 * YaRN:    theta_i for pairs that turn more than beta_fast times within the original context,
 *          theta_i / factor for those below beta_slow turns, a ramp between; attention is sharpened
 *          by 0.1 ln(factor) + 1                                       Peng et al. 2023
 * Keys and defaults as llama.cpp writes and reads them. */
#include "engine/models/rope_freq.h"

#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "engine/gguf.h"
#include "kernels/quant.h"

enum scaling { SCALING_NONE, SCALING_LINEAR, SCALING_YARN };

struct settings {
    enum scaling scaling;
    float base, factor;
    int64_t original; /* positions before stretching */
    float ext_factor, attn_factor, beta_fast, beta_slow;
};

static const double PI = 3.14159265358979323846;

/* Where the keys <arch>.rope.* are. */
struct source {
    const struct gguf *g;
    const char *arch;
    struct err *e;
};

static int get_float(const struct source *src, const char *name, float *v, float min, float max)
{
    char key[96];
    snprintf(key, sizeof key, "%s.rope.%s", src->arch, name);
    int rc = gguf_get_float(src->g, key, v, src->e);
    if (rc != 0)
        return rc;
    if (*v < min || *v > max)
        return err_set(src->e, ERR_CORRUPT, "%s is %g, allowed are %g to %g", key, (double)*v,
                       (double)min, (double)max);
    return 0;
}

static int read_scaling(struct settings *s, const struct source *src)
{
    char key[96];
    struct gguf_str type = {0};
    s->factor = 0;
    int rc = get_float(src, "scale_linear", &s->factor, 0, 1e6f); /* files before 2024 */
    if (rc == 0)
        rc = get_float(src, "scaling.factor", &s->factor, 0, 1e6f);
    snprintf(key, sizeof key, "%s.rope.scaling.type", src->arch);
    if (rc == 0)
        rc = gguf_get_str(src->g, key, &type, src->e);
    if (rc != 0)
        return rc;
    s->scaling = SCALING_LINEAR; /* what a factor alone means */
    if (type.len == 4 && memcmp(type.data, "none", 4) == 0)
        s->scaling = SCALING_NONE;
    else if (type.len == 4 && memcmp(type.data, "yarn", 4) == 0)
        s->scaling = SCALING_YARN;
    else if (type.len != 0 && !(type.len == 6 && memcmp(type.data, "linear", 6) == 0))
        return err_set(src->e, ERR_UNSUPPORTED,
                       "%s \"%.*s\" is not built in (none, linear, yarn and llama 3 are)", key,
                       (int)(type.len < 24 ? type.len : 24), type.data);
    if (s->factor == 0 || s->scaling == SCALING_NONE) {
        s->factor = 1;
        s->scaling = SCALING_NONE;
    }
    if (s->factor < 1)
        return err_set(src->e, ERR_CORRUPT, "%s.rope.scaling.factor is %g, less than 1", src->arch,
                       (double)s->factor);
    return 0;
}

static int read_settings(struct settings *s, const struct source *src, int64_t n_ctx)
{
    *s = (struct settings){.base = 10000,
                           .original = n_ctx,
                           .ext_factor = 1,
                           .attn_factor = 1,
                           .beta_fast = 32,
                           .beta_slow = 1};
    int rc = get_float(src, "freq_base", &s->base, 1.001f, 1e12f);
    if (rc == 0)
        rc = read_scaling(s, src);
    if (rc != 0 || s->scaling == SCALING_NONE)
        return rc;
    char key[96];
    snprintf(key, sizeof key, "%s.rope.scaling.original_context_length", src->arch);
    rc = gguf_get_int(src->g, key, &s->original, 1, ROPE_MAX_CTX, src->e);
    if (rc != 0 || s->scaling != SCALING_YARN)
        return rc;
    rc = get_float(src, "scaling.attn_factor", &s->attn_factor, 1e-3f, 1e3f);
    if (rc == 0)
        rc = get_float(src, "scaling.yarn_attn_factor", &s->attn_factor, 1e-3f, 1e3f);
    if (rc == 0)
        rc = get_float(src, "scaling.yarn_ext_factor", &s->ext_factor, -1, 1);
    if (rc == 0)
        rc = get_float(src, "scaling.yarn_beta_fast", &s->beta_fast, 1e-3f, 1e6f);
    if (rc == 0)
        rc = get_float(src, "scaling.yarn_beta_slow", &s->beta_slow, 1e-3f, 1e6f);
    if (s->ext_factor < 0) /* "not set" */
        s->ext_factor = 1;
    return rc;
}

/* The pair (as a real number, in dimensions) that turns n_turns times within the context. */
static double yarn_dim(const struct settings *s, int n_rot, double n_turns)
{
    return n_rot * log((double)s->original / (n_turns * 2 * PI)) / (2 * log(s->base));
}

static void fill(struct rope_freq *r, const struct settings *s, const float *divisors)
{
    double low = 0, high = 0;
    r->mscale = 1;
    if (s->scaling == SCALING_YARN) {
        low = fmax(floor(yarn_dim(s, r->n_rot, s->beta_fast)), 0);
        high = fmin(ceil(yarn_dim(s, r->n_rot, s->beta_slow)), r->n_rot - 1);
        double sharpen = s->ext_factor != 0 ? 1 + 0.1 * log(s->factor) : 1;
        r->mscale = (float)(s->attn_factor * sharpen);
    }
    for (int i = 0; i < r->n_rot / 2; i++) {
        double theta = pow(s->base, -2.0 * i / r->n_rot);
        if (divisors != NULL)
            theta /= divisors[i];
        double keep = 0; /* share of the frequency that is not stretched */
        if (s->scaling == SCALING_YARN) {
            double ramp = (i - low) / fmax(0.001, high - low);
            keep = (1 - fmin(1, fmax(0, ramp))) * s->ext_factor;
        }
        r->freq[i] = (float)(theta / s->factor * (1 - keep) + theta * keep);
    }
}

static int read_divisors(const struct gguf *g, int n_rot, float *divisors, bool *found,
                         struct err *e)
{
    const struct gguf_tensor *t = gguf_tensor_find(g, "rope_freqs.weight");
    *found = t != NULL;
    if (t == NULL)
        return 0;
    if (t->type != DTYPE_F32 || t->ndim != 1 || t->dims[0] != n_rot / 2)
        return err_set(e, ERR_CORRUPT,
                       "tensor rope_freqs.weight is %s with %" PRId64 " values, expected f32 [%d]",
                       dtype_name(t->type), t->dims[t->ndim - 1], n_rot / 2);
    memcpy(divisors, t->data, t->bytes);
    for (int i = 0; i < n_rot / 2; i++)
        if (!(divisors[i] > 1e-6f && divisors[i] < 1e6f)) /* NaN as well */
            return err_set(e, ERR_CORRUPT, "rope_freqs.weight[%d] is %g", i, (double)divisors[i]);
    return 0;
}

int rope_freq_read(struct rope_freq *r, const struct gguf *g, const char *arch, int n_rot,
                   int64_t n_ctx, struct err *e)
{
    struct settings s;
    float divisors[ROPE_MAX_ROT / 2];
    bool has_divisors;
    const struct source src = {g, arch, e};
    int rc = read_settings(&s, &src, n_ctx);
    if (rc == 0)
        rc = read_divisors(g, n_rot, divisors, &has_divisors, e);
    if (rc != 0)
        return rc;
    *r = (struct rope_freq){.n_rot = n_rot, .n_ctx_train = n_ctx};
    /* Files give the context before or after stretching: the larger number is the one after it. */
    double stretched = floor((double)s.original * s.factor);
    if (stretched > (double)n_ctx)
        r->n_ctx_train = stretched < ROPE_MAX_CTX ? (int64_t)stretched : ROPE_MAX_CTX;
    fill(r, &s, has_divisors ? divisors : NULL);
    return 0;
}
