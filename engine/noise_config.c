/* What a model's scheduler_config.json says. */
#include <math.h>
#include <string.h>

#include "base/json.h"
#include "engine/noise.h"

/* *out = 1 + the place of the text at key in words; left alone where there is none. */
static int get_word(const struct cJSON *obj, const char *key, const char *const *words, int *out,
                    struct err *e)
{
    const char *s = NULL;
    int rc = json_get_str(obj, key, &s, e);
    if (rc != 0 || s == NULL)
        return rc;
    for (int i = 0; words[i] != NULL; i++)
        if (strcmp(words[i], s) == 0) {
            *out = i + 1;
            return 0;
        }
    return err_set(e, ERR_UNSUPPORTED, "the scheduler's %s \"%.40s\" is not built in", key, s);
}

static int get_number(const struct cJSON *obj, const char *key, double *out, double limit,
                      struct err *e)
{
    const struct cJSON *v = json_get(obj, key);
    if (v == NULL || json_type(v) == JSON_NULL)
        return 0;
    if (json_type(v) != JSON_NUMBER || !(fabs(json_num(v)) <= limit))
        return err_set(e, ERR_INVALID, "the scheduler's %s must be a number up to %g", key, limit);
    *out = json_num(v);
    return 0;
}

static int get_int(const struct cJSON *obj, const char *key, int *out, struct err *e)
{
    int64_t v = *out;
    int rc = json_get_int(obj, key, &v, 0, 100000, e);
    *out = (int)v;
    return rc;
}

static int get_flag(const struct cJSON *obj, const char *key, enum noise_flag *out, struct err *e)
{
    const struct cJSON *v = json_get(obj, key);
    bool on = false;
    int rc = json_get_bool(obj, key, &on, e);
    if (rc == 0 && v != NULL && json_type(v) != JSON_NULL)
        *out = on ? NOISE_YES : NOISE_NO;
    return rc;
}

/* Settings that would change the numbers and that no code here follows. */
static int refuse_unknown(const struct cJSON *obj, struct err *e)
{
    static const char *const off[] = {"thresholding", "use_lu_lambdas", "use_flow_sigmas",
                                      "use_dynamic_shifting"};
    for (size_t i = 0; i < sizeof off / sizeof *off; i++) {
        bool on = false;
        int rc = json_get_bool(obj, off[i], &on, e);
        if (rc != 0)
            return rc;
        if (on)
            return err_set(e, ERR_UNSUPPORTED, "the scheduler's %s is not built in", off[i]);
    }
    const struct cJSON *betas = json_get(obj, "trained_betas");
    if (betas != NULL && json_type(betas) != JSON_NULL)
        return err_set(e, ERR_UNSUPPORTED, "the scheduler's trained_betas are not built in");
    const char *type = NULL;
    int rc = json_get_str(obj, "timestep_type", &type, e);
    if (rc == 0 && type != NULL && strcmp(type, "discrete") != 0)
        return err_set(e, ERR_UNSUPPORTED,
                       "the scheduler's timestep_type \"%.40s\" is not built in", type);
    return rc;
}

static int read_class(struct noise_config *c, const struct cJSON *obj, struct err *e)
{
    const char *name = NULL;
    int rc = json_get_str(obj, "_class_name", &name, e);
    if (rc != 0 || name == NULL)
        return rc;
    int n;
    const struct noise_name *names = noise_name_list(&n);
    for (int i = 0; c->scheduler == NOISE_DEFAULT && i < n; i++)
        if (names[i].class_name != NULL && strcmp(names[i].class_name, name) == 0)
            c->scheduler = names[i].scheduler;
    if (c->scheduler == NOISE_DEFAULT)
        return err_set(e, ERR_UNSUPPORTED, "the scheduler %.60s is not built in", name);
    if (c->scheduler == NOISE_DPMPP_2M && c->algorithm == NOISE_SDE_DPMSOLVERPP)
        c->scheduler = NOISE_DPMPP_2M_SDE;
    bool predicts_clean = true;
    if (c->scheduler == NOISE_UNIPC)
        rc = json_get_bool(obj, "predict_x0", &predicts_clean, e);
    if (rc == 0 && !predicts_clean)
        return err_set(e, ERR_UNSUPPORTED, "UniPC that predicts noise is not built in");
    const char *variance = NULL;
    if (rc == 0 && c->scheduler == NOISE_DDPM)
        rc = json_get_str(obj, "variance_type", &variance, e);
    if (rc == 0 && variance != NULL && strcmp(variance, "fixed_small") != 0)
        return err_set(e, ERR_UNSUPPORTED, "DDPM's variance_type \"%.40s\" is not built in",
                       variance);
    return rc;
}

static int read_words(struct noise_config *c, const struct cJSON *obj, struct err *e)
{
    static const char *const predictions[] = {"epsilon", "v_prediction", "sample", NULL};
    static const char *const schedules[] = {"linear", "scaled_linear", "squaredcos_cap_v2", NULL};
    static const char *const spacings[] = {"leading", "linspace", "trailing", NULL};
    static const char *const finals[] = {"zero", "sigma_min", NULL};
    static const char *const interpolations[] = {"linear", NULL};
    int prediction = 0, schedule = 0, spacing = 0, final = 0, interpolation = 0;
    int rc = get_word(obj, "prediction_type", predictions, &prediction, e);
    if (rc == 0)
        rc = get_word(obj, "beta_schedule", schedules, &schedule, e);
    if (rc == 0)
        rc = get_word(obj, "timestep_spacing", spacings, &spacing, e);
    if (rc == 0)
        rc = get_word(obj, "final_sigmas_type", finals, &final, e);
    if (rc == 0)
        rc = get_word(obj, "interpolation_type", interpolations, &interpolation, e);
    c->prediction = (enum noise_prediction)prediction;
    c->beta_schedule = (enum noise_betas)schedule;
    c->spacing = (enum noise_spacing)spacing;
    c->final_sigma_min = final == 0 ? NOISE_FLAG_UNSET : final == 2 ? NOISE_YES : NOISE_NO;
    return rc;
}

/* Two names of solvers have a meaning for one class each; the others take their default for them. */
static int read_solver(struct noise_config *c, const struct cJSON *obj, struct err *e)
{
    const char *type = NULL, *algorithm = NULL;
    int rc = json_get_str(obj, "solver_type", &type, e);
    if (rc == 0)
        rc = json_get_str(obj, "algorithm_type", &algorithm, e);
    if (rc != 0)
        return rc;
    if (type != NULL) {
        c->solver_heun = strcmp(type, "heun") == 0 ? NOISE_YES : NOISE_NO;
        c->solver_bh1 = strcmp(type, "bh1") == 0 ? NOISE_YES : NOISE_NO;
    }
    if (algorithm == NULL)
        return 0;
    if (strcmp(algorithm, "dpmsolver++") == 0 || strcmp(algorithm, "deis") == 0)
        c->algorithm = NOISE_DPMSOLVERPP;
    else if (strcmp(algorithm, "sde-dpmsolver++") == 0)
        c->algorithm = NOISE_SDE_DPMSOLVERPP;
    else
        return err_set(e, ERR_UNSUPPORTED,
                       "the scheduler's algorithm_type \"%.40s\" is not built in", algorithm);
    return 0;
}

static int read_numbers(struct noise_config *c, const struct cJSON *obj, struct err *e)
{
    const struct {
        const char *key;
        double *out;
        double limit;
    } numbers[] = {
        {"beta_start", &c->beta_start, 1},          {"beta_end", &c->beta_end, 1},
        {"sigma_min", &c->sigma_min, 1e6},          {"sigma_max", &c->sigma_max, 1e6},
        {"clip_sample_range", &c->clip_range, 1e6}, {"timestep_scaling", &c->timestep_scaling, 1e6},
    };
    const struct {
        const char *key;
        int *out;
    } ints[] = {
        {"num_train_timesteps", &c->n_train},
        {"steps_offset", &c->steps_offset},
        {"solver_order", &c->solver_order},
        {"original_inference_steps", &c->original_steps},
    };
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < sizeof numbers / sizeof *numbers; i++)
        rc = get_number(obj, numbers[i].key, numbers[i].out, numbers[i].limit, e);
    for (size_t i = 0; rc == 0 && i < sizeof ints / sizeof *ints; i++)
        rc = get_int(obj, ints[i].key, ints[i].out, e);
    c->has_steps_offset = json_type(json_get(obj, "steps_offset")) == JSON_NUMBER;
    /* -inf is its default; it comes as a string or as -Infinity. */
    const struct cJSON *lambda = json_get(obj, "lambda_min_clipped");
    if (rc == 0 && json_type(lambda) == JSON_NUMBER && fabs(json_num(lambda)) < 1e3)
        c->lambda_min_clipped = json_num(lambda);
    return rc;
}

static int read_flags(struct noise_config *c, const struct cJSON *obj, struct err *e)
{
    const struct {
        const char *key;
        enum noise_flag *out;
    } flags[] = {
        {"set_alpha_to_one", &c->set_alpha_to_one},   {"clip_sample", &c->clip_sample},
        {"rescale_betas_zero_snr", &c->zero_snr},     {"skip_prk_steps", &c->skip_prk_steps},
        {"lower_order_final", &c->lower_order_final}, {"euler_at_final", &c->euler_at_final},
    };
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < sizeof flags / sizeof *flags; i++)
        rc = get_flag(obj, flags[i].key, flags[i].out, e);
    static const struct {
        const char *key;
        enum noise_sigmas sigmas;
    } kinds[] = {{"use_karras_sigmas", NOISE_SIGMAS_KARRAS},
                 {"use_exponential_sigmas", NOISE_SIGMAS_EXPONENTIAL},
                 {"use_beta_sigmas", NOISE_SIGMAS_BETA}};
    for (size_t i = 0; rc == 0 && i < sizeof kinds / sizeof *kinds; i++) {
        bool on = false;
        rc = json_get_bool(obj, kinds[i].key, &on, e);
        if (on && c->sigmas != NOISE_SIGMAS_UNSET)
            return err_set(e, ERR_INVALID, "the scheduler has %s, and other sigmas", kinds[i].key);
        if (on)
            c->sigmas = kinds[i].sigmas;
    }
    return rc;
}

int noise_config_read(struct noise_config *out, const struct cJSON *obj, struct err *e)
{
    struct noise_config c = {0};
    if (json_type(obj) != JSON_OBJECT)
        return err_set(e, ERR_INVALID, "a scheduler_config.json is an object");
    int rc = refuse_unknown(obj, e);
    if (rc == 0)
        rc = read_words(&c, obj, e);
    if (rc == 0)
        rc = read_solver(&c, obj, e);
    if (rc == 0)
        rc = read_numbers(&c, obj, e);
    if (rc == 0)
        rc = read_flags(&c, obj, e);
    if (rc == 0)
        rc = read_class(&c, obj, e);
    if (rc == 0)
        *out = c;
    return rc;
}
