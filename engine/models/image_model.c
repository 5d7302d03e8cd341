/* A latent diffusion model: opened from its parts, which are checked against each other; and its units, each
 * a program and the inputs around it. */
#include "engine/models/image_model.h"

#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/json.h"
#include "engine/models/image_model_int.h"
#include "engine/noise.h"

#define DEFAULT_VAE_BYTES ((size_t)1 << 30)
#define MAX_GUIDANCE      100
#define ENLARGER_SCALE    0.08333f /* of its latents, whatever the file says: as in diffusers */
#define ENLARGER_LEVELS   350      /* where model_index.json has no max_noise_level */

enum { RGB = 3 }; /* channels of the picture that is enlarged; its noise has room in a latent */

/* ---- opening ---- */

struct opening {
    struct image_model *m;
    struct checkpoint *c;
    atomic_int *progress; /* per mille, or NULL */
    int from;             /* where the next part begins */
    struct err *e;
};

/* For a part that brings the progress up to `to` per mille. */
static struct nn_loader loader_of(struct opening *o, struct checkpoint *c,
                                  enum checkpoint_part part, int to)
{
    const int from = o->from;
    o->from = to;
    return (struct nn_loader){.c = c,
                              .part = part,
                              .store = &o->m->store,
                              .progress = o->progress,
                              .from = from,
                              .to = to,
                              .e = o->e};
}

static int open_tiny(struct opening *o, struct checkpoint *c, struct taesd **out)
{
    struct nn_loader l = loader_of(o, c, CHECKPOINT_VAE, 300);
    return taesd_open(out, &l, o->e);
}

static bool is_tiny(struct checkpoint *c)
{
    const struct cJSON *config = checkpoint_config(c, CHECKPOINT_VAE);
    const char *name = json_str(json_get(config, "_class_name"));
    return name != NULL && strcmp(name, "AutoencoderTiny") == 0;
}

static int open_vae(struct opening *o)
{
    struct image_model *m = o->m;
    if (!checkpoint_has(o->c, CHECKPOINT_VAE))
        return err_set(o->e, ERR_CORRUPT, "the model has no vae");
    int rc;
    if (is_tiny(o->c)) {
        rc = open_tiny(o, o->c, &m->tiny);
        m->preview = m->tiny;
    } else {
        struct nn_loader l = loader_of(o, o->c, CHECKPOINT_VAE, 290);
        rc = vae_open(&m->vae, &l, o->e);
    }
    return rc;
}

static int open_preview(struct opening *o, const char *path)
{
    if (path == NULL || o->m->preview != NULL)
        return 0;
    struct checkpoint *c;
    int rc = checkpoint_open(&c, path, NULL, o->e);
    if (rc != 0)
        return rc;
    if (!checkpoint_has(c, CHECKPOINT_VAE) || !is_tiny(c))
        rc = err_set(o->e, ERR_UNSUPPORTED, "the preview model is no AutoencoderTiny");
    else
        rc = open_tiny(o, c, &o->m->preview);
    checkpoint_close(c);
    return rc != 0 ? err_wrap(o->e, "preview %.100s", path) : 0;
}

static int open_safety(struct opening *o)
{
    if (!checkpoint_has(o->c, CHECKPOINT_SAFETY))
        return 0;
    struct nn_loader l = loader_of(o, o->c, CHECKPOINT_SAFETY, 400);
    int rc = safety_open(&o->m->safety, &l, o->e);
    return rc != 0 ? err_wrap(o->e, "safety_checker") : 0;
}

/* Errors begin with the name of the part; those of json_get_int and its kin name a key alone. */
static int named(const struct opening *o, enum checkpoint_part part, int rc)
{
    const char *name = checkpoint_part_name(part);
    const size_t n = strlen(name);
    if (rc != 0 && o->e != NULL && (strncmp(o->e->msg, name, n) != 0 || o->e->msg[n] != ':'))
        err_wrap(o->e, "%s", name);
    return rc;
}

static int open_parts(struct opening *o, const char *preview)
{
    struct image_model *m = o->m;
    static const enum checkpoint_part parts[] = {CHECKPOINT_TEXT_ENCODER,
                                                 CHECKPOINT_TEXT_ENCODER_2};
    for (int i = 0; i < IMAGE_MAX_ENCODERS; i++) {
        if (!checkpoint_has(o->c, parts[i]))
            continue;
        struct nn_loader l = loader_of(o, o->c, parts[i], 100 * (i + 1));
        int rc = named(o, parts[i], clip_open(&m->clip[m->info.n_encoders], &l, o->e));
        if (rc != 0)
            return rc;
        m->info.n_encoders++;
    }
    if (m->info.n_encoders == 0)
        return err_set(o->e, ERR_CORRUPT, "the model has no text encoder");
    int rc = named(o, CHECKPOINT_VAE, open_vae(o));
    if (rc == 0)
        rc = open_preview(o, preview);
    if (rc == 0)
        rc = open_safety(o);
    if (rc != 0)
        return rc;
    if (!checkpoint_has(o->c, CHECKPOINT_UNET))
        return err_set(o->e, ERR_UNSUPPORTED, "the model has no unet");
    struct nn_loader l = loader_of(o, o->c, CHECKPOINT_UNET, 1000);
    return named(o, CHECKPOINT_UNET, unet_open(&m->unet, &l, o->e));
}

/* ---- what it is ---- */

static const struct vae_info *vae_of(const struct image_model *m)
{
    return m->vae != NULL ? vae_info(m->vae) : taesd_info(m->tiny);
}

static int check_parts(struct image_model *m, struct err *e)
{
    const struct unet_config *u = &m->unet->c;
    struct image_info *info = &m->info;
    int context = 0, pooled = 0;
    for (int i = 0; i < info->n_encoders; i++) {
        info->text_dim[i] = clip_dim(m->clip[i]);
        context += info->text_dim[i];
        info->n_vocab[i] = clip_n_vocab(m->clip[i]);
        if (i == info->n_encoders - 1)
            pooled = clip_pooled_dim(m->clip[i]);
    }
    if (context != u->context_dim)
        return err_set(e, ERR_CORRUPT, "text of width %d for a unet that takes %d", context,
                       u->context_dim);
    if (u->pooled_dim > 0 && pooled != u->pooled_dim)
        return err_set(e, ERR_UNSUPPORTED, "pooled text of width %d for a unet that takes %d",
                       pooled, u->pooled_dim);
    const struct vae_info *v = vae_of(m);
    info->inpaint = u->in_channels == 2 * v->latent_channels + 1;
    info->enlarges =
        !info->inpaint && v->latent_channels >= RGB && u->in_channels == v->latent_channels + RGB;
    if (u->out_channels != v->latent_channels ||
        (u->in_channels != v->latent_channels && !info->inpaint && !info->enlarges))
        return err_set(e, ERR_UNSUPPORTED, "a unet of %d to %d channels with a latent of %d",
                       u->in_channels, u->out_channels, v->latent_channels);
    if (info->enlarges != (u->n_classes > 0))
        return err_set(e, ERR_UNSUPPORTED, "a unet of %d channels and %d classes", u->in_channels,
                       u->n_classes);
    if (info->enlarges && m->preview != m->tiny) { /* those that there are have another scale */
        taesd_close(m->preview);
        m->preview = NULL;
    }
    if (m->preview != NULL && (taesd_info(m->preview)->latent_channels != v->latent_channels ||
                               taesd_info(m->preview)->scale != v->scale))
        return err_set(e, ERR_UNSUPPORTED, "a preview model of another latent");
    info->context_dim = context;
    info->pooled_dim = u->pooled_dim;
    return 0;
}

/* Steps and guidance of the distilled kinds are told by their scheduler. */
static void choose_defaults(struct image_info *info, const struct cJSON *scheduler)
{
    const char *name = json_str(json_get(scheduler, "_class_name"));
    const char *spacing = json_str(json_get(scheduler, "timestep_spacing"));
    name = name != NULL ? name : "";
    info->default_steps = 30;
    info->default_guidance = info->pooled_dim > 0 ? 5.0f : 7.5f;
    if (strcmp(name, "LCMScheduler") == 0) {
        info->default_steps = 4;
        info->default_guidance = info->guidance_embedded ? 8.5f : 1;
    } else if (strcmp(name, "EulerAncestralDiscreteScheduler") == 0 && spacing != NULL &&
               strcmp(spacing, "trailing") == 0) { /* Turbo */
        info->default_steps = 1;
        info->default_guidance = 0;
    } else if (info->enlarges) {
        info->default_steps = 75;
        info->default_guidance = 9;
    }
}

/* What generation_config.json of the directory says instead, under the names of diffusers' calls. */
static int own_defaults(struct image_info *info, const struct checkpoint *c, struct err *e)
{
    static const char file[] = "generation_config.json";
    struct err fault = {0};
    struct cJSON *own = NULL;
    int64_t steps = info->default_steps;
    int rc = checkpoint_document(c, file, JSON_OBJECT, &own, &fault);
    if (rc == ERR_NOTFOUND)
        return 0;
    if (rc == 0)
        rc = json_get_int(own, "num_inference_steps", &steps, 1, NOISE_MAX_STEPS, &fault);
    if (rc == 0)
        rc =
            json_get_float(own, "guidance_scale", &info->default_guidance, 0, MAX_GUIDANCE, &fault);
    info->default_steps = (int)steps;
    json_free(own);
    return rc == 0 ? 0 : err_set(e, ERR_CORRUPT, "%s: %s", file, fault.msg);
}

/* The noise that the small picture may have. */
static int fill_levels(struct image_info *info, const struct checkpoint *c, int n_classes,
                       struct err *e)
{
    int64_t most = ENLARGER_LEVELS;
    int rc = json_get_int(checkpoint_index(c), "max_noise_level", &most, 0, INT32_MAX, e);
    info->max_level = (int)(most < n_classes ? most : n_classes - 1);
    info->latent_scale = ENLARGER_SCALE;
    return rc;
}

static int fill_info(struct image_model *m, struct checkpoint *c, struct err *e)
{
    const struct unet_config *u = &m->unet->c;
    const struct vae_info *v = vae_of(m);
    struct image_info *info = &m->info;
    const enum checkpoint_family family = checkpoint_family(c);
    int rc = 0;
    static const char *const names[] = {[CHECKPOINT_SD1] = "sd15",
                                        [CHECKPOINT_SD2] = "sd21",
                                        [CHECKPOINT_SDXL] = "sdxl",
                                        [CHECKPOINT_ALONE] = "sd"};
    info->family = names[family];
    info->in_channels = u->in_channels;
    info->latent_channels = v->latent_channels;
    info->scale = v->scale;
    info->multiple = v->scale * unet_multiple(u);
    info->latent_scale = v->scaling;
    info->default_width = info->default_height = u->sample_size * v->scale;
    info->guidance_embedded = u->guidance_dim > 0;
    info->has_encoder = v->has_encoder;
    info->encoder_exact = m->tiny != NULL;
    info->aesthetic = u->pooled_dim > 0 && u->n_time_ids < UNET_TIME_IDS;
    info->has_preview = m->preview != NULL;
    info->has_pairs = unet_pass_pairs(m->unet);
    info->has_safety = m->safety != NULL;
    info->weight_bytes = m->store.bytes;
    info->kv_row_bytes = m->unet->kv_floats * sizeof(float);

    const struct cJSON *scheduler = checkpoint_scheduler(c);
    const char *prediction = json_str(json_get(scheduler, "prediction_type"));
    prediction = prediction != NULL ? prediction : "epsilon";
    info->prediction = strcmp(prediction, "v_prediction") == 0 ? "v_prediction"
                       : strcmp(prediction, "sample") == 0     ? "sample"
                                                               : "epsilon";
    choose_defaults(info, scheduler);
    if (info->enlarges && (rc = fill_levels(info, c, u->n_classes, e)) != 0)
        return rc;
    const struct cJSON *zeros = json_get(checkpoint_index(c), "force_zeros_for_empty_prompt");
    info->zero_negative = u->pooled_dim > 0 && (json_type(zeros) != JSON_BOOL || json_bool(zeros));
    return own_defaults(info, c, e);
}

int image_model_open(struct image_model **out, struct checkpoint *c, struct backend *be,
                     const struct image_model_options *options, struct err *e)
{
    struct image_model *m = xcalloc(1, sizeof *m);
    m->be = m->store.be = be;
    m->adapters = m->store.keep_places = options->adapters;
    m->vae_bytes = options->vae_bytes > 0 ? options->vae_bytes : DEFAULT_VAE_BYTES;
    struct opening o = {.m = m, .c = c, .progress = options->progress, .e = e};
    int rc = open_parts(&o, options->preview);
    if (rc == 0)
        rc = check_parts(m, e);
    if (rc == 0)
        rc = fill_info(m, c, e);
    if (rc != 0) {
        image_model_close(m);
        return rc;
    }
    *out = m;
    return 0;
}

void image_model_close(struct image_model *m)
{
    if (m == NULL)
        return;
    for (int i = 0; i < IMAGE_MAX_ENCODERS; i++)
        clip_close(m->clip[i]);
    unet_close(m->unet);
    vae_close(m->vae);
    if (m->preview != m->tiny)
        taesd_close(m->preview);
    taesd_close(m->tiny);
    safety_close(m->safety);
    nn_store_free(&m->store);
    free(m);
}

const struct image_info *image_model_info(const struct image_model *m)
{
    return &m->info;
}

float *image_kv_memory(const struct image_model *m, int n_tokens, struct err *e)
{
    return m->be->alloc(m->be, (size_t)n_tokens * m->info.kv_row_bytes, e);
}

void image_kv_free(const struct image_model *m, float *kv)
{
    m->be->free(m->be, kv);
}

size_t image_residual_floats(const struct image_model *m, int h, int w)
{
    struct unet_places places;
    unet_places(&m->unet->c, &places);
    return unet_places_floats(&places, places.n, h, w);
}

/* ---- units ---- */

int image_run(struct image_unit *u, int64_t until_us, struct err *e)
{
    return u->run(u, until_us, e);
}

void image_restart(struct image_unit *u)
{
    u->restart(u);
}

void image_close(struct image_unit *u)
{
    if (u != NULL)
        u->close(u);
}

int image_no_host_memory(struct image_unit *u, struct err *e)
{
    image_close(u);
    return err_set(e, ERR_NOMEM, "no memory for what goes to the device");
}

/* ---- text ---- */

struct text_unit {
    struct image_text pub; /* first */
    struct image_model *m;
    struct program *p;
    int clip_skip;
    struct clip_pass pass[IMAGE_MAX_ENCODERS];
    struct tensor hidden; /* [IMAGE_TOKENS, context_dim] */
    struct nn_lora_sites sites;
    float *pooled; /* [IMAGE_TOKENS, pooled_dim] of the last encoder, for the host */
};

/* The hidden states that the UNet wants: SDXL's are those before the last layer, without the norm. */
static void record_text(struct program *p, void *arg)
{
    struct text_unit *u = arg;
    const struct image_model *m = u->m;
    const bool xl = m->info.pooled_dim > 0;
    if (m->adapters)
        nn_lora_begin(&u->sites, p, 1);
    for (int i = 0; i < m->info.n_encoders; i++) {
        const int layers = clip_n_layers(m->clip[i]) - u->clip_skip - (xl ? 1 : 0);
        u->pass[i] = clip_record(m->clip[i], p,
                                 (struct clip_want){.n_tokens = IMAGE_TOKENS,
                                                    .n_layers = layers > 1 ? layers : 1,
                                                    .final_norm = !xl,
                                                    .pooled = xl && i == m->info.n_encoders - 1,
                                                    .own = m->adapters});
    }
    u->hidden = u->pass[0].hidden;
    if (m->info.n_encoders == 1)
        return;
    u->hidden = PROGRAM_PINNED(p, IMAGE_TOKENS, m->info.context_dim);
    OP(program_backend(p), concat, .out = &u->hidden, .a = &u->pass[0].hidden,
       .b = &u->pass[1].hidden);
}

static int run_text(struct image_unit *unit, int64_t until_us, struct err *e)
{
    struct text_unit *u = (struct text_unit *)unit;
    const struct image_info *info = &u->m->info;
    if (program_position(u->p) == 0) {
        if (u->m->adapters)
            image_adapter_set(&u->sites, 0, u->pub.adapters, true);
        for (int i = 0; i < info->n_encoders; i++) {
            for (int k = 0; k < IMAGE_TOKENS; k++) {
                const int32_t id = u->pub.ids[i][k];
                if (id < 0 || id >= info->n_vocab[i])
                    return err_set(e, ERR_INVALID, "token %d is outside the vocabulary of %d", id,
                                   info->n_vocab[i]);
            }
        }
    }
    int rc = program_run(u->p, until_us, e);
    if (rc == 0 && info->pooled_dim > 0) {
        const int last = info->n_encoders - 1;
        int32_t ids[IMAGE_TOKENS]; /* as transformers sees them, which may go by the highest one */
        for (int k = 0; k < IMAGE_TOKENS; k++)
            ids[k] = u->pub.own_ids[last][k] ? u->pub.own_ids[last][k] : u->pub.ids[last][k];
        const int row = clip_pooled_row(u->m->clip[last], ids, IMAGE_TOKENS);
        u->pub.pooled = u->pooled + (size_t)row * (size_t)info->pooled_dim;
    }
    return rc;
}

static void restart_text(struct image_unit *unit)
{
    program_restart(((struct text_unit *)unit)->p);
}

static void close_text(struct image_unit *unit)
{
    program_close(((struct text_unit *)unit)->p);
    free(unit);
}

static int clamp_skip(const struct image_model *m, int clip_skip)
{
    const int most = clip_n_layers(m->clip[0]) - 1;
    return clip_skip < 0 ? 0 : clip_skip > most ? most : clip_skip;
}

int image_text_open(struct image_text **out, struct image_model *m, int clip_skip, struct err *e)
{
    struct text_unit *u = xcalloc(1, sizeof *u);
    u->m = m;
    u->clip_skip = clamp_skip(m, clip_skip);
    int rc = program_open(&u->p, m->be, record_text, u, e);
    if (rc != 0) {
        free(u);
        return rc;
    }
    u->pub.unit = (struct image_unit){.bytes = program_memory(u->p),
                                      .run = run_text,
                                      .restart = restart_text,
                                      .close = close_text};
    for (int i = 0; i < m->info.n_encoders; i++) {
        u->pub.ids[i] = u->pass[i].ids;
        u->pub.own[i] = u->pass[i].own;
    }
    u->pub.hidden = program_host(u->p, &u->hidden, PROGRAM_OUT);
    u->pooled = program_host(u->p, &u->pass[m->info.n_encoders - 1].pooled, PROGRAM_OUT);
    u->pub.pooled = u->pooled;
    *out = &u->pub;
    return u->pub.hidden != NULL && (u->pooled != NULL || m->info.pooled_dim == 0)
               ? 0
               : image_no_host_memory(&u->pub.unit, e);
}

size_t image_text_bytes(struct image_model *m, int clip_skip, struct err *e)
{
    struct text_unit u = {.m = m, .clip_skip = clamp_skip(m, clip_skip)};
    return program_bytes(m->be, record_text, &u, e);
}

/* ---- keys and values of a prompt ---- */

struct kv_unit {
    struct image_kv pub; /* first */
    struct image_model *m;
    struct program *p;
    struct tensor context, kv;
    struct nn_lora_sites sites;
};

static void record_kv(struct program *p, void *arg)
{
    struct kv_unit *u = arg;
    const int64_t n = u->pub.n_tokens;
    u->context = PROGRAM_PINNED(p, n, u->m->info.context_dim);
    u->kv = PROGRAM_PINNED(p, n * (int64_t)u->m->unet->kv_floats);
    if (u->m->adapters)
        nn_lora_begin(&u->sites, p, 1);
    unet_pass_record_kv(u->m->unet, p, &u->context, u->kv.data);
}

static int run_kv(struct image_unit *unit, int64_t until_us, struct err *e)
{
    struct kv_unit *u = (struct kv_unit *)unit;
    if (u->m->adapters && program_position(u->p) == 0)
        image_adapter_set(&u->sites, 0, u->pub.adapters, false);
    int rc = program_run(u->p, until_us, e);
    struct backend *be = u->m->be;
    if (rc == 0)
        be->copy(be, u->pub.kv, u->kv.data, (size_t)u->kv.dims[0] * sizeof(float));
    return rc;
}

static void restart_kv(struct image_unit *unit)
{
    program_restart(((struct kv_unit *)unit)->p);
}

static void close_kv(struct image_unit *unit)
{
    program_close(((struct kv_unit *)unit)->p);
    free(unit);
}

int image_check_tokens(int n_tokens, struct err *e)
{
    if (n_tokens < 1 || n_tokens > IMAGE_MAX_CONTEXT)
        return err_set(e, ERR_TOOBIG, "a prompt of %d tokens, at most %d are allowed", n_tokens,
                       IMAGE_MAX_CONTEXT);
    return 0;
}

int image_kv_open(struct image_kv **out, struct image_model *m, int n_tokens, struct err *e)
{
    int rc = image_check_tokens(n_tokens, e);
    if (rc != 0)
        return rc;
    struct kv_unit *u = xcalloc(1, sizeof *u);
    u->m = m;
    u->pub.n_tokens = n_tokens;
    rc = program_open(&u->p, m->be, record_kv, u, e);
    if (rc != 0) {
        free(u);
        return rc;
    }
    u->pub.unit = (struct image_unit){
        .bytes = program_memory(u->p), .run = run_kv, .restart = restart_kv, .close = close_kv};
    u->pub.context = program_host(u->p, &u->context, PROGRAM_IN);
    *out = &u->pub;
    return u->pub.context != NULL ? 0 : image_no_host_memory(&u->pub.unit, e);
}

size_t image_kv_bytes(struct image_model *m, int n_tokens, struct err *e)
{
    struct kv_unit u = {.m = m, .pub.n_tokens = n_tokens};
    return image_check_tokens(n_tokens, e) == 0 ? program_bytes(m->be, record_kv, &u, e) : 0;
}
