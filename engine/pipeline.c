/* Turns, passes and memory of an image model; pipeline.h has the design. */
#include "engine/pipeline.h"

#include <string.h>

#include "base/clock.h"
#include "base/image.h"
#include "engine/enlarge.h"
#include "engine/finite.h"
#include "engine/pipeline_steer.h"
#include "engine/pipeline_unet.h"
#include "engine/turns.h"

/* ---- memory ---- */

static size_t max_size(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* Pixels from the stage before to the task's own size. */
static struct pass_key resize_key(const struct image_task *it)
{
    return (struct pass_key){PASS_RESIZE, it->given_h << 16 | it->given_w,
                             it->spec.height << 16 | it->spec.width, 0};
}

/* Is this the stage whose pictures the safety checker must see?  What is only enlarged afterwards shows the same. */
static bool safety_checks(const struct image_task *it)
{
    for (const struct stage *s = it->stage.next; s; s = s->next) {
        if (s->makes)
            return false;
    }
    return it->d->info->has_safety;
}

/* The largest pass that the task needs with so many rows in the UNet; 0 with *e filled. */
static size_t largest_pass(struct pipeline *p, const struct image_task *it, int rows, struct err *e)
{
    int h = it->shape.h, w = it->shape.w, n_tokens = it->prompts[0].n_chunks * IMAGE_TOKENS;
    struct pass_key keys[9 + PIPELINE_UNET_KEYS];
    int n = 0;
    keys[n++] = (struct pass_key){PASS_TEXT, it->prompts[0].clip_skip, 0, 0};
    if (it->guided)
        keys[n++] = (struct pass_key){PASS_TEXT, it->prompts[1].clip_skip, 0, 0};
    keys[n++] = (struct pass_key){PASS_KV, n_tokens, 0, 0};
    n += pipeline_unet_keys(it, rows, keys + n);
    if (pipeline_stage_decodes(it))
        keys[n++] = (struct pass_key){PASS_DECODE, h, w, 0};
    if (it->spec.init || it->given_h > 0)
        keys[n++] = (struct pass_key){PASS_ENCODE, h, w, 0};
    if (it->given_h > 0)
        keys[n++] = resize_key(it);
    if (it->spec.partial_images > 0 && p->d->info->has_preview)
        keys[n++] = (struct pass_key){PASS_PREVIEW, h, w, 0};
    if (safety_checks(it))
        keys[n++] = (struct pass_key){PASS_SAFETY, 0, 0, 0};
    size_t most = 0;
    for (int i = 0; i < n; i++) {
        size_t bytes = pass_bytes(p, keys[i], e);
        if (bytes == 0)
            return 0;
        most = max_size(most, bytes);
    }
    return it->spec.n_controls > 0 ? pipeline_steer_largest(p, it, rows, most, e) : most;
}

static size_t all_prompts_bytes(const struct pipeline *p, const struct image_task *it)
{
    size_t bytes = prompts_bytes(&p->prompts, &it->prompts[0]);
    if (it->guided && !prompts_equal(&p->prompts, &it->prompts[0], &it->prompts[1]))
        bytes += prompts_bytes(&p->prompts, &it->prompts[1]);
    return bytes;
}

int pipeline_need_parts(struct pipeline *p, const struct image_task *it, bool shared,
                        struct stage_need *need, struct err *e)
{
    struct err why = {0};
    need->pass = largest_pass(p, it, 1, &why);
    need->own = it->state_bytes + (shared ? 0 : all_prompts_bytes(p, it));
    if (need->pass > 0)
        return 0;
    if (e)
        *e = why;
    return why.code;
}

size_t pipeline_need(struct pipeline *p, const struct image_task *it, struct err *e)
{
    struct stage_need need;
    return pipeline_need_parts(p, it, false, &need, e) ? 0 : need.own + need.pass;
}

/* What hold_bytes must be for the tasks that run. */
static void shrink_hold(struct pipeline *p)
{
    size_t need = p->run.active ? p->current->unit->bytes : 0;
    for (const struct image_task *it = p->tasks; it; it = it->next)
        need = max_size(need, it->unit_bytes);
    if (need >= p->hold_bytes)
        return;
    cache_unhold(p->cache, p->hold_bytes - need); /* first: what is put away needs room */
    p->hold_bytes = need;
    if (p->current && p->current->unit->bytes > need)
        pass_put_away(p);
}

static int want_rows(const struct pipeline *p, const struct image_task *it)
{
    int rows = it->spec.n * picture_n_rows(it);
    for (const struct image_task *o = p->tasks; o; o = o->next) {
        if (pipeline_unet_same(o, it))
            rows += (o->spec.n - o->n_done) * picture_n_rows(o);
    }
    int max = p->o.max_rows < PIPELINE_ROWS_MAX ? p->o.max_rows : PIPELINE_ROWS_MAX;
    return rows < max ? rows : max;
}

/* Holds all that the task needs with so many rows; false when that does not fit now. */
static bool hold_all(struct pipeline *p, struct image_task *it, int rows, struct err *e)
{
    size_t pass = largest_pass(p, it, rows, e);
    if (pass == 0)
        return false;
    struct prompts_entry *found[2] = {NULL, NULL};
    size_t bytes = it->state_bytes;
    int n = it->guided && !prompts_equal(&p->prompts, &it->prompts[0], &it->prompts[1]) ? 2 : 1;
    for (int i = 0; i < n; i++) {
        found[i] = prompts_find(&p->prompts, &it->prompts[i]);
        if (!found[i] || found[i]->n_users == 0)
            bytes += prompts_bytes(&p->prompts, &it->prompts[i]);
        if (found[i] && found[i]->n_users == 0)
            cache_unkeep(p->cache, &found[i]->item); /* so that the hold does not evict it */
    }
    size_t more = pass > p->hold_bytes ? pass - p->hold_bytes : 0;
    if (!cache_hold(p->cache, bytes + more)) {
        for (int i = 0; i < n; i++) {
            if (found[i] && found[i]->n_users == 0)
                cache_keep(p->cache, &found[i]->item);
        }
        return false;
    }
    p->hold_bytes += more;
    it->unit_bytes = pass;
    return true;
}

/* Memory that was held, but that the system has not got. */
static void give_up(struct pipeline *p, struct image_task *it)
{
    err_set(&it->refused, ERR_NOMEM, "no memory for a picture of %dx%d", it->spec.width,
            it->spec.height);
    bool same = it->guided && prompts_equal(&p->prompts, &it->prompts[0], &it->prompts[1]);
    for (int i = 0; i < picture_n_sides(it); i++) {
        struct prompts_entry *en = prompts_find(&p->prompts, &it->prompts[i]);
        if (it->entries[i]) {
            prompts_leave(it->entries[i]);
        } else if (!(same && i == 1) && (!en || en->n_users == 0)) {
            cache_unhold(p->cache, prompts_bytes(&p->prompts, &it->prompts[i]));
            if (en)
                cache_keep(p->cache, &en->item);
        }
    }
    cache_unhold(p->cache, it->state_bytes);
    it->entries[0] = it->entries[1] = NULL;
    it->unit_bytes = 0;
    shrink_hold(p);
}

/* true: it->refused says why. */
static bool never_fits(struct pipeline *p, struct image_task *it)
{
    struct cache_stats s;
    cache_stats(p->cache, &s);
    size_t need = pipeline_need(p, it, &it->refused);
    if (need == 0)
        return true;
    if (need <= s.budget_bytes - s.aside_bytes)
        return false;
    err_set(&it->refused, ERR_TOOBIG,
            "%d pictures of %dx%d need %.1f MiB beside the weights, and the memory budget is "
            "%.1f MiB",
            it->spec.n, it->spec.width, it->spec.height, (double)need / 1048576,
            (double)(s.budget_bytes - s.aside_bytes) / 1048576);
    err_reason(&it->refused, "memory_exceeded");
    return true;
}

int pipeline_place(struct pipeline *p, struct image_task *it)
{
    if (!it->checked && never_fits(p, it))
        return 1;
    it->checked = true;
    const int n = it->spec.n, max = p->o.max_pictures;
    if (!it->stage.later && p->n_pictures > 0 &&
        (turns_places(p->tasks, it) + n > max || p->n_pictures + n > 2 * max))
        return -1; /* a later stage comes in with the first */
    int rows = want_rows(p, it);
    while (!hold_all(p, it, rows, &it->refused)) {
        if (it->refused.code)
            return 1;
        if (rows == 1)
            return 0;
        rows /= 2;
    }
    it->entries[0] = prompts_use(&p->prompts, &it->prompts[0]);
    it->entries[1] =
        it->guided && it->entries[0] ? prompts_use(&p->prompts, &it->prompts[1]) : NULL;
    if (!it->entries[0] || (it->guided && !it->entries[1]) || !picture_task_alloc(it)) {
        give_up(p, it);
        return 1;
    }
    struct image_task **at = &p->tasks;
    while (*at)
        at = &(*at)->next;
    *at = it;
    it->next = NULL;
    if (it->stage.later)
        return 1; /* its pictures come when they are given */
    for (int i = 0; i < it->spec.n; i++)
        turns_add(&p->head, &it->pictures[i]);
    p->n_pictures += it->spec.n;
    return 1;
}

void pipeline_join(struct pipeline *p, struct picture *pic)
{
    turns_add(&p->head, pic);
}

/* ---- leaving ---- */

/* The pass that runs is for nobody any more. */
static void drop_run(struct pipeline *p)
{
    if (!p->run.active)
        return;
    image_restart(p->current->unit);
    p->run.active = false;
    if (p->run.entry)
        prompts_leave(p->run.entry);
    p->run.entry = NULL;
    p->run.task = NULL;
    p->run.n_rows = 0;
}

/* Rows that left a pass of the UNet read what a row that stays has: theirs may be freed. */
static void leave_rows(struct pipeline *p)
{
    enum pass_kind kind = p->current->key.kind;
    int stays = -1;
    for (int i = 0; i < p->run.n_rows; i++)
        stays = p->run.rows[i].picture ? i : stays;
    if (stays < 0 || (kind != PASS_UNET && kind != PASS_STEERED))
        return;
    struct image_unet *u = (struct image_unet *)p->current->unit;
    for (int i = 0; i < p->run.n_rows; i++) {
        if (!p->run.rows[i].picture)
            image_unet_leave(u, image_unet_row(u, i), image_unet_row(u, stays));
    }
}

/* The task's part in the pass that runs. */
static void leave_run(struct pipeline *p, const struct image_task *it)
{
    if (!p->run.active)
        return;
    int n_left = 0;
    for (int i = 0; i < p->run.n_rows; i++) {
        if (p->run.rows[i].picture && p->run.rows[i].picture->task == it) {
            p->run.rows[i].picture = NULL;
            pipeline_steer_drop(p, i);
        }
        n_left += p->run.rows[i].picture != NULL;
    }
    bool lonely = p->run.entry  ? p->run.entry->n_users == 1 /* the run itself */
                  : p->run.task ? p->run.task == it
                                : n_left == 0;
    if (lonely)
        drop_run(p);
    else
        leave_rows(p);
}

void pipeline_leave(struct pipeline *p, struct image_task *it)
{
    struct image_task **at = &p->tasks;
    while (*at && *at != it)
        at = &(*at)->next;
    if (!*at)
        return; /* never placed */
    *at = it->next;
    for (int i = 0; i < it->spec.n; i++)
        turns_remove(&p->head, &it->pictures[i]);
    p->n_pictures -= it->stage.later ? 0 : it->spec.n;
    for (int i = 0; i < 2; i++) {
        if (it->entries[i])
            prompts_leave(it->entries[i]);
        it->entries[i] = NULL;
    }
    leave_run(p, it);
    cache_unhold(p->cache, it->state_bytes);
    shrink_hold(p);
}

bool pipeline_has_work(const struct pipeline *p)
{
    return p->head != NULL;
}

/* ---- what runs next ---- */

/* The prompt of the task that is not computed yet, or NULL. */
static struct prompts_entry *missing_prompt(const struct image_task *it)
{
    for (int i = 0; i < 2; i++) {
        if (it->entries[i] && !it->entries[i]->ready)
            return it->entries[i];
    }
    return NULL;
}

/* Tokens that have a vector of their own keep a place with the id 0. */
static void fill_ids(const struct diffusion *d, struct image_text *u, int encoder,
                     const int32_t *ids)
{
    for (int i = 0; i < IMAGE_TOKENS; i++) {
        const bool own = ids[i] >= DIFFUSION_OWN_IDS;
        u->ids[encoder][i] = own ? 0 : ids[i];
        if (u->own[encoder])
            u->own[encoder][i] = own ? diffusion_vector(d, encoder, ids[i]) : NULL;
        u->own_ids[encoder][i] = own ? ids[i] : 0;
    }
}

static int begin_prompt(struct pipeline *p, struct prompts_entry *en, struct err *e)
{
    const struct image_info *info = p->d->info;
    bool text = en->chunks_done < en->prompt.n_chunks;
    struct pass_key key = text ? (struct pass_key){PASS_TEXT, en->prompt.clip_skip, 0, 0}
                               : (struct pass_key){PASS_KV, en->n_tokens, 0, 0};
    int rc = pass_make_current(p, key, e);
    if (rc)
        return rc;
    if (text) {
        struct image_text *u = (struct image_text *)p->current->unit;
        size_t at = (size_t)en->chunks_done * IMAGE_TOKENS;
        for (int i = 0; i < info->n_encoders; i++)
            fill_ids(p->d, u, i, en->prompt.ids[i] + at);
        u->adapters = &en->prompt.adapters;
    } else {
        struct image_kv *u = (struct image_kv *)p->current->unit;
        memcpy(u->context, en->context,
               (size_t)en->n_tokens * (size_t)info->context_dim * sizeof(float));
        u->kv = en->kv;
        u->adapters = &en->prompt.adapters;
    }
    en->n_users++;
    p->run.entry = en;
    return 0;
}

static int begin_encode(struct pipeline *p, struct image_task *it, int which, struct err *e)
{
    int rc = pass_make_current(p, (struct pass_key){PASS_ENCODE, it->shape.h, it->shape.w, 0}, e);
    if (rc)
        return rc;
    picture_encoder_input(it, which, ((struct image_vae *)p->current->unit)->picture);
    p->run.task = it;
    p->run.which = which;
    return 0;
}

/* A picture of a later stage: what it was given in its own size, then as moments. */
static int begin_given(struct pipeline *p, struct picture *pic, struct err *e)
{
    struct image_task *it = pic->task;
    int rc;
    if (pic->resized) {
        rc = pass_make_current(p, (struct pass_key){PASS_ENCODE, it->shape.h, it->shape.w, 0}, e);
        if (rc == 0)
            picture_own_input(pic, ((struct image_vae *)p->current->unit)->picture);
    } else if ((rc = pass_make_current(p, resize_key(it), e)) == 0) {
        struct enlarge_unit *u = (struct enlarge_unit *)p->current->unit;
        u->in = pic->pixels;
        u->out = pic->init;
    }
    p->run.task = it;
    p->run.which = -1;
    p->run.rows[0].picture = pic;
    return rc;
}

/* Decoder, or preview. */
static int begin_decode(struct pipeline *p, struct picture *pic, enum pass_kind kind, struct err *e)
{
    const struct image_task *it = pic->task;
    int rc = pass_make_current(p, (struct pass_key){kind, it->shape.h, it->shape.w, 0}, e);
    if (rc)
        return rc;
    memcpy(((struct image_vae *)p->current->unit)->latent,
           kind == PASS_PREVIEW ? pic->clean : pic->latent, pic->state.n * sizeof(float));
    p->run.rows[0].picture = pic;
    p->run.n_rows = 1;
    return 0;
}

/* The safety checker's look at the picture that was decoded. */
static int begin_safety(struct pipeline *p, struct picture *pic, struct err *e)
{
    const struct event *ev = pic->held;
    const struct image im = {ev->width, ev->height, 3, (uint8_t *)(uintptr_t)ev->rgb};
    int rc = pass_make_current(p, (struct pass_key){PASS_SAFETY, 0, 0, 0}, e);
    if (rc == 0)
        rc = image_safety_look((struct image_safety *)p->current->unit, &im, e);
    if (rc)
        return rc;
    p->run.rows[0].picture = pic;
    p->run.n_rows = 1;
    return 0;
}

/* What this picture needs next, as a pass.  1: begun; 0: it needs none now. */
static int begin_for(struct pipeline *p, struct picture *pic, struct err *e)
{
    struct image_task *it = pic->task;
    struct prompts_entry *en = missing_prompt(it);
    int rc = 0;
    if (en)
        return (rc = begin_prompt(p, en, e)) ? rc : 1;
    for (int i = 0; i < picture_n_moments(it); i++) {
        if (!it->encoded[i])
            return (rc = begin_encode(p, it, i, e)) ? rc : 1;
    }
    if ((rc = pipeline_steer_look(p, it, e)) != 0)
        return rc;
    if (pic->moments && !pic->encoded)
        return (rc = begin_given(p, pic, e)) ? rc : 1;
    if (!pic->begun)
        picture_begin(pic);
    if (pic->held)
        rc = begin_safety(p, pic, e);
    else if (pic->preview_due && p->d->info->has_preview)
        rc = begin_decode(p, pic, PASS_PREVIEW, e);
    else if (picture_is_denoised(pic))
        rc = begin_decode(p, pic, PASS_DECODE, e);
    else
        rc = pipeline_unet_begin(p, pic, e);
    return rc ? rc : 1;
}

/* Begins the pass of the picture whose turn it is.  1: begun, 0: nothing to do, < 0: its task must go. */
static int begin_next(struct pipeline *p, struct image_task **failed, struct err *e)
{
    if (!p->head)
        return 0;
    p->run.entry = NULL;
    p->run.task = NULL;
    p->run.n_rows = 0;
    p->run.us = 0;
    *failed = p->head->task;
    int rc = begin_for(p, p->head, e);
    if (rc < 0)
        return rc;
    *failed = NULL;
    p->run.active = true;
    return 1;
}

/* ---- what a pass gives ---- */

/* The picture is out.  The task, if that was its last one. */
static struct image_task *end_picture(struct pipeline *p, struct picture *pic)
{
    struct image_task *it = pic->task;
    turns_remove(&p->head, pic);
    p->n_images++;
    return ++it->n_done == it->spec.n && !it->stage.next ? it : NULL;
}

/* The decoder's picture.  The task, if that was its last one or it fails. */
static struct image_task *end_decode(struct pipeline *p)
{
    struct picture *pic = p->run.rows[0].picture;
    const float *rgb = ((struct image_vae *)p->current->unit)->picture;
    if (!pic)
        return NULL;
    if (p->current->key.kind == PASS_PREVIEW) {
        picture_emit(pic, rgb, true);
        pic->preview_due = false;
        return NULL;
    }
    struct image_task *it = pic->task;
    if (!picture_is_finite(pic, rgb)) {
        turns_remove(&p->head, pic);
        finite_error("a picture", &it->refused);
        return it;
    }
    const bool check = safety_checks(it);
    if (!check && it->stage.next) {
        pipeline_stage_give(p, pic, rgb);
        return NULL;
    }
    if (!(check ? picture_hold(pic, rgb) : picture_emit(pic, rgb, false))) {
        turns_remove(&p->head, pic);
        err_set(&it->refused, ERR_NOMEM, "no memory for a picture of %dx%d", it->spec.width,
                it->spec.height);
        return it;
    }
    return check ? NULL : end_picture(p, pic); /* its turn again */
}

static struct image_task *end_safety(struct pipeline *p)
{
    struct picture *pic = p->run.rows[0].picture;
    struct safety_result said = {0};
    if (!pic)
        return NULL;
    image_safety_judge((const struct image_safety *)p->current->unit, &said);
    picture_release(pic, &said);
    p->n_flagged += said.flagged;
    return end_picture(p, pic);
}

static void end_prompt(const struct pipeline *p, struct prompts_entry *en)
{
    const struct image_text *u = (const struct image_text *)p->current->unit;
    if (p->current->key.kind == PASS_TEXT)
        prompts_add(en, u->hidden, u->pooled);
    else
        en->ready = true;
    prompts_leave(en);
}

static void end_encode(const struct pipeline *p, struct image_task *it)
{
    const struct image_vae *u = (const struct image_vae *)p->current->unit;
    if (p->run.which < 0) {
        struct picture *pic = p->run.rows[0].picture;
        if (pic->resized)
            memcpy(pic->moments, u->moments, 2 * pic->state.n * sizeof(float));
        pic->encoded = pic->resized;
        pic->resized = true;
        return;
    }
    memcpy(it->moments[p->run.which], u->moments, 2 * it->pictures[0].state.n * sizeof(float));
    it->encoded[p->run.which] = true;
}

static struct image_task *end_pass(struct pipeline *p)
{
    struct image_task *ended = NULL;
    enum pass_kind kind = p->current->key.kind;
    if (p->run.entry)
        end_prompt(p, p->run.entry);
    else if (kind == PASS_HINT || kind == PASS_CONTROL)
        pipeline_steer_end(p);
    else if (p->run.task)
        end_encode(p, p->run.task);
    else if (kind == PASS_UNET || kind == PASS_STEERED)
        pipeline_unet_end(p);
    else if (p->current->key.kind == PASS_SAFETY)
        ended = end_safety(p);
    else
        ended = end_decode(p);
    p->run.entry = NULL;
    p->run.task = NULL;
    p->run.active = false;
    shrink_hold(p);
    return ended;
}

/* Of those for whom the pass runs, the first; NULL: they have all left. */
static struct image_task *task_of_run(const struct pipeline *p)
{
    for (int i = 0; i < p->run.n_rows; i++)
        if (p->run.rows[i].picture)
            return p->run.rows[i].picture->task;
    for (struct image_task *it = p->run.entry ? p->tasks : NULL; it; it = it->next)
        if (it->entries[0] == p->run.entry || it->entries[1] == p->run.entry)
            return it;
    return p->run.task;
}

int pipeline_run(struct pipeline *p, int64_t until_us, struct image_task **ended, struct err *e)
{
    *ended = NULL;
    if (!p->run.active) {
        struct err why = {0};
        int rc = begin_next(p, ended, &why);
        if (rc < 0)
            (*ended)->refused = why;
        if (rc <= 0)
            return 0;
    }
    int64_t start = clock_us();
    struct err why = {0};
    int rc = image_run(p->current->unit, until_us, &why);
    p->run.us += clock_us() - start;
    if (rc == ERR_DEVICE) {
        if (e)
            *e = why;
        return rc;
    }
    if (rc < 0) { /* no memory: one task gives way, the others try again */
        *ended = task_of_run(p);
        if (*ended)
            (*ended)->refused = why;
        drop_run(p);
    }
    if (rc == 0)
        *ended = end_pass(p);
    return 0;
}

/* ---- open, close ---- */

void pipeline_init(struct pipeline *p, const struct diffusion *d, struct cache *c,
                   const struct pipeline_options *o)
{
    *p = (struct pipeline){.d = d, .cache = c, .o = *o};
    prompts_init(&p->prompts, c, d);
}

void pipeline_fini(struct pipeline *p)
{
    pass_put_away(p);
    for (int i = 0; i < PIPELINE_PASSES_MAX; i++) {
        if (!p->passes[i].unit)
            continue;
        cache_unkeep(p->cache, &p->passes[i].item);
        pass_close(&p->passes[i]);
    }
    prompts_fini(&p->prompts);
}
