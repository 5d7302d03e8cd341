/* The lists of a picture's steps that a request may give by hand. */
#include "api/image_lists.h"

#include <stdlib.h>
#include <string.h>

#include "base/json.h"

#define TIMESTEP_LIMIT 1e6
#define SIGMA_LIMIT    1e5

enum { NUMBER_MAX = 32 }; /* characters of a number in a text */

/* One of the two lists while it is read. */
struct list {
    const char *name;
    struct image_params *p;
    int n; /* so far */
    double last;
    struct err *e;
};

static bool is_sigmas(const struct list *l)
{
    return l->name[0] == 's';
}

static int bad(const struct list *l)
{
    if (is_sigmas(l))
        err_set(l->e, ERR_INVALID,
                "sigmas must be 2 to %d numbers that fall to 0 or above, as [14.6, 3.2, 0.7, 0] or "
                "\"14.6,3.2,0.7,0\"",
                JOB_TIMESTEPS_MAX + 1);
    else
        err_set(l->e, ERR_INVALID,
                "timesteps must be 1 to %d whole numbers that fall, as [999, 749, 499, 249] or "
                "\"999,749,499,249\"",
                JOB_TIMESTEPS_MAX);
    return err_param(l->e, "%s", l->name);
}

static int add(struct list *l, double v)
{
    const bool sigmas = is_sigmas(l);
    if (l->n == JOB_TIMESTEPS_MAX + sigmas || !(v >= 0) || (l->n > 0 && v >= l->last) ||
        v >= (sigmas ? SIGMA_LIMIT : TIMESTEP_LIMIT))
        return bad(l);
    if (sigmas)
        l->p->sigmas[l->n++] = (float)v;
    else
        l->p->timesteps[l->n++] = (int)v;
    l->last = sigmas ? (double)(float)v : v;
    return 0;
}

/* A number of JSON's kind at s, of digits only for timesteps; the end of it, or NULL. */
static const char *read_number(const struct list *l, const char *s, double *v)
{
    char text[NUMBER_MAX + 1];
    const size_t n = strspn(s, is_sigmas(l) ? "0123456789.eE+-" : "0123456789");
    if (n == 0 || n > NUMBER_MAX || s[0] < '0' || s[0] > '9')
        return NULL;
    memcpy(text, s, n);
    text[n] = '\0';
    char *end;
    *v = strtod(text, &end);
    return *end == '\0' ? s + n : NULL;
}

/* "999, 749": what a form can say. */
static int read_text(struct list *l, const char *s)
{
    for (;; s++) {
        double v = 0;
        s += strspn(s, " ");
        s = read_number(l, s, &v);
        const int err = s == NULL ? bad(l) : add(l, v);
        if (err != 0)
            return err;
        s += strspn(s, " ");
        if (*s != ',')
            return *s == '\0' ? 0 : bad(l);
    }
}

static int read_list(struct list *l, const struct cJSON *list, int *n)
{
    int err = 0;
    if (json_type(list) == JSON_NULL)
        return 0;
    if (json_str(list) != NULL)
        err = read_text(l, json_str(list));
    else if (json_type(list) != JSON_ARRAY || json_size(list) == 0)
        err = bad(l);
    else
        for (const struct cJSON *v = json_first(list); v != NULL && err == 0; v = json_next(v)) {
            const bool fits = is_sigmas(l) ? json_type(v) == JSON_NUMBER : json_is_int(v);
            err = fits ? add(l, json_num(v)) : bad(l);
        }
    if (err == 0 && is_sigmas(l) && l->n < 2)
        err = bad(l);
    *n = l->n;
    return err;
}

int image_lists_parse(const struct cJSON *body, struct image_params *p, struct err *e)
{
    struct list timesteps = {.name = "timesteps", .p = p, .e = e};
    struct list sigmas = {.name = "sigmas", .p = p, .e = e};
    int err = read_list(&timesteps, json_get(body, timesteps.name), &p->n_timesteps);
    if (err == 0)
        err = read_list(&sigmas, json_get(body, sigmas.name), &p->n_sigmas);
    if (err != 0)
        return err;
    if (p->n_timesteps > 0 && p->n_sigmas > 0) {
        err_set(e, ERR_INVALID, "timesteps and sigmas do not go together: they say the same thing");
        return err_param(e, "sigmas");
    }
    const int n = p->n_sigmas > 0 ? p->n_sigmas - 1 : p->n_timesteps;
    if (n > 0 && p->steps >= 0 && p->steps != n) {
        err_set(e, ERR_INVALID, "steps is %lld, but there are %d of them in %s: leave it out",
                (long long)p->steps, n, p->n_sigmas > 0 ? "sigmas" : "timesteps");
        return err_param(e, "steps");
    }
    return 0;
}

int image_lists_put(const struct image_params *p, struct job *job, struct err *e)
{
    struct image_spec *s = &job->image;
    int *timesteps = arena_array(&job->arena, (size_t)p->n_timesteps + 1, sizeof *timesteps);
    float *sigmas = arena_array(&job->arena, (size_t)p->n_sigmas + 1, sizeof *sigmas);
    if (timesteps == NULL || sigmas == NULL)
        return err_set(e, ERR_TOOBIG, "the request needs more memory than allowed");
    memcpy(timesteps, p->timesteps, (size_t)p->n_timesteps * sizeof *timesteps);
    memcpy(sigmas, p->sigmas, (size_t)p->n_sigmas * sizeof *sigmas);
    s->timesteps = timesteps;
    s->n_timesteps = p->n_timesteps;
    s->sigma_list = sigmas;
    s->n_sigma_list = p->n_sigmas;
    return 0;
}
