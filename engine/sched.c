/* Admission and batches; sched.h says by which rules. */
#include "engine/sched.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"

enum { DEBT_MAX_US = 100000 };
/* Fewer prompt rows are computed for more each, and say little about what a row costs. */
enum { CHUNK_MIN_ROWS = 32 };

static int min_int(int a, int b)
{
    return a < b ? a : b;
}

int sched_max_logits(const struct sched_options *o)
{
    return o->max_sequences + SCHED_MORE_LOGITS;
}

int sched_length(int n_ctx, int n_prompt, int max_tokens)
{
    if (n_prompt > n_ctx || (n_prompt == n_ctx && max_tokens > 0))
        return 0;
    return n_prompt + min_int(max_tokens, n_ctx - n_prompt);
}

int sched_init(struct sched *s, struct cache *cache, const struct sched_options *o,
               struct sched_model *models, int n_models, struct err *e)
{
    memset(s, 0, sizeof *s);
    s->o = *o;
    s->cache = cache;
    s->models = models;
    s->n_models = n_models;
    s->tail = &s->head;
    int n_ctx = 1;
    int n_pages = 1;
    for (int i = 0; i < n_models; i++) {
        const int n_beams = models[i].n_beams > 1 ? models[i].n_beams : 1;
        const int n = cache_pages_for(models[i].n_ctx) * n_beams;
        n_ctx = models[i].n_ctx > n_ctx ? models[i].n_ctx : n_ctx;
        n_pages = n > n_pages ? n : n_pages;
    }
    size_t n_seqs = (size_t)o->max_sequences, n_rows = (size_t)o->max_rows;
    s->slots = mem_try(n_seqs, sizeof *s->slots);
    s->order = mem_try(n_seqs, sizeof(struct seq *));
    s->drafts = mem_try(n_seqs, sizeof(struct draft *));
    s->n_drafts = mem_try(n_seqs, sizeof *s->n_drafts);
    s->plan.parts = mem_try(n_seqs, sizeof *s->plan.parts);
    s->ids = mem_try(n_rows, sizeof *s->ids);
    s->pos = mem_try(n_rows, sizeof *s->pos);
    s->rows = mem_try(n_rows, sizeof *s->rows);
    s->views = mem_try(n_rows, sizeof *s->views);
    s->logit_rows = mem_try((size_t)sched_max_logits(o), sizeof *s->logit_rows);
    bool ok = s->slots && s->order && s->drafts && s->n_drafts && s->plan.parts && s->ids &&
              s->pos && s->rows && s->views && s->logit_rows;
    for (size_t i = 0; ok && i < n_seqs; i++) {
        s->slots[i].ids = mem_try((size_t)n_ctx, sizeof(int32_t));
        s->slots[i].kv.pages = mem_try((size_t)n_pages, sizeof(int32_t));
        ok = s->slots[i].ids && s->slots[i].kv.pages;
    }
    if (ok)
        return 0;
    sched_fini(s);
    return err_set(e, ERR_NOMEM, "no memory for %d sequences of %d tokens", o->max_sequences,
                   n_ctx);
}

void sched_fini(struct sched *s)
{
    for (int i = 0; s->slots && i < s->o.max_sequences; i++) {
        free(s->slots[i].ids);
        free(s->slots[i].kv.pages);
    }
    free(s->slots);
    free(s->order);
    free(s->drafts);
    free(s->n_drafts);
    free(s->plan.parts);
    free(s->ids);
    free(s->pos);
    free(s->rows);
    free(s->views);
    free(s->logit_rows);
    memset(s, 0, sizeof *s);
}

/* --- the queue --- */

void sched_add(struct sched *s, struct task *t)
{
    struct task **at = s->tail;
    if (t->due_us != 0) {
        at = &s->head;
        while (*at && ((*at)->model != t->model || (*at)->due_us <= t->due_us))
            at = &(*at)->next;
    }
    t->next = *at;
    t->queued = true;
    *at = t;
    if (!t->next)
        s->tail = &t->next;
}

void sched_remove(struct sched *s, struct task *t)
{
    for (struct task **at = &s->head; *at; at = &(*at)->next) {
        if (*at != t)
            continue;
        *at = t->next;
        if (s->tail == &t->next)
            s->tail = at;
        t->next = NULL;
        t->queued = false;
        return;
    }
}

static struct seq *free_slot(struct sched *s)
{
    for (int i = 0; i < s->o.max_sequences; i++) {
        if (!s->slots[i].task)
            return &s->slots[i];
    }
    return NULL;
}

/* The pages of a choice, and with the first one what was seen of its picture: both or nothing. */
static bool reserve(struct sched *s, struct seq *q, struct task *t, int n_match, int n_pages)
{
    const struct text_spec *spec = &t->job->text;
    const int32_t *ids = spec->prompts[t->next_choice / spec->n];
    struct task_look *look = t->look;
    bool hold = look && !look->held;
    if (hold && !cache_hold(s->cache, look->bytes))
        return false;
    if (!cache_reserve(s->models[t->model].pool, &q->kv, ids, n_match, n_pages)) {
        if (hold)
            cache_unhold(s->cache, look->bytes);
        return false;
    }
    if (hold)
        look->held = true;
    return true;
}

/* The task's next choice into slot q; false when the budget does not allow it now. */
static bool place(struct sched *s, struct seq *q, struct task *t)
{
    if (t->blocked_version == cache_version(s->cache) + 1)
        return false; /* nothing was given back since it did not fit */
    const struct text_spec *spec = &t->job->text;
    const struct sched_model *m = &s->models[t->model];
    int prompt = t->next_choice / spec->n, n_prompt = spec->n_prompt[prompt];
    int n_end = sched_length(m->n_ctx, n_prompt, spec->max_tokens);
    /* The last token made is never computed upon; without tokens to make only an echo computes. */
    int n_positions = n_end > n_prompt ? n_end - 1 : spec->echo_logprobs ? n_prompt : 0;
    /* What follows from a picture is of no use to those of another. */
    bool share = s->o.share && !spec->no_cache && !t->look;
    q->kv.share = share;
    /* The prompt's last token is always computed: its logits choose the first new one. */
    int n_match = spec->echo_logprobs || n_positions == 0 ? 0 : n_prompt - 1;
    const int n_beams = spec->n_beams > 1 ? spec->n_beams : 1;
    if (!reserve(s, q, t, n_match, cache_pages_for(n_positions) * n_beams)) {
        t->blocked_version = cache_version(s->cache) + 1;
        return false;
    }
    t->blocked_version = 0;
    memcpy(q->ids, spec->prompts[prompt], (size_t)n_prompt * sizeof *q->ids);
    q->task = t;
    q->choice = t->next_choice++;
    q->order = s->n_admitted++;
    q->n_prompt = q->n_ids = n_prompt;
    q->n_end = n_end;
    draft_begin(&q->draft);
    draft_guide_begin(&q->guide, spec->prediction, spec->n_prediction, n_prompt);
    q->n_cached = q->n_done = q->kv.n_shared * KV_PAGE_TOKENS;
    q->admitted_us = clock_us();
    q->first_token_us = 0;
    if (t->admitted_us == 0)
        t->admitted_us = q->admitted_us;
    t->n_running++;
    s->order[s->n_running++] = q;
    return true;
}

/* A job of another kind: all of it at once. */
static int place_other(struct sched *s, struct task *t)
{
    const struct sched_other *other = s->models[t->model].other;
    if (t->blocked_version == cache_version(s->cache) + 1)
        return 0;
    t->blocked_version = 0;
    int rc = other->place(other->ctx, t);
    if (rc == 0)
        t->blocked_version = cache_version(s->cache) + 1;
    return rc;
}

/* Does the task, or one choice of it, start now?  -1: it waits, but not for memory. */
static int place_any(struct sched *s, struct seq *q, struct task *t)
{
    if (s->models[t->model].other)
        return place_other(s, t);
    return q ? place(s, q, t) : -1;
}

/* The task was placed: out of the queue, or to its end when it has more choices. */
static void take_turn(struct sched *s, struct task *t)
{
    sched_remove(s, t);
    t->n_bypassed = 0;
    if (!s->models[t->model].other && t->next_choice < t->n_choices)
        sched_add(s, t);
}

/* Is a model that it needs not loaded, or about to go? */
static bool is_closed(const struct sched *s, const struct task *t)
{
    bool closed = s->models[t->model].closed;
    for (int i = 0; i < t->n_also && !closed; i++)
        closed = s->models[t->also[i]].closed;
    return closed;
}

struct seq *sched_admit(struct sched *s, struct task **other)
{
    struct seq *q = free_slot(s);
    struct task *blocked = NULL;
    int n_seen = 0;
    if (other)
        *other = NULL;
    for (struct task *t = s->head; t && n_seen < SCHED_BYPASS_MAX; t = t->next) {
        if (is_closed(s, t))
            continue;
        n_seen++;
        int rc = place_any(s, q, t);
        if (rc < 0)
            continue;
        if (rc > 0) {
            bool is_other = s->models[t->model].other != NULL;
            if (blocked)
                blocked->n_bypassed++;
            take_turn(s, t);
            if (is_other && other)
                *other = t;
            return is_other ? NULL : q;
        }
        blocked = blocked ? blocked : t;
        if (t->n_bypassed >= SCHED_BYPASS_MAX)
            return NULL;
    }
    return NULL;
}

void sched_leave(struct sched *s, struct seq *q)
{
    cache_release(&q->kv);
    q->task->n_running--;
    q->task = NULL;
    int i = 0;
    while (i < s->n_running && s->order[i] != q)
        i++;
    s->n_running--;
    for (; i < s->n_running; i++)
        s->order[i] = s->order[i + 1];
}

/* --- the next step --- */

static bool waits_for_look(const struct seq *q)
{
    return q->task->look && !q->task->look->ready;
}

/* Rows. */
static bool has_work(const struct seq *q)
{
    return q->n_done < q->n_ids && !waits_for_look(q);
}

static bool model_has_work(const struct sched *s, int model)
{
    const struct sched_other *other = s->models[model].other;
    if (other)
        return other->has_work(other->ctx);
    for (int k = 0; k < s->n_running; k++) {
        if (s->order[k]->task->model == model &&
            (has_work(s->order[k]) || waits_for_look(s->order[k])))
            return true;
    }
    return false;
}

bool sched_decodes_only(const struct sched *s, int model)
{
    for (int i = 0; i < s->n_models; i++)
        if (i != model && model_has_work(s, i))
            return false;
    for (int k = 0; k < s->n_running; k++) {
        const struct seq *q = s->order[k];
        if (q->task->model != model || q->n_done < q->n_prompt - 1 || waits_for_look(q))
            return false;
    }
    return s->head == NULL;
}

/* The picture that the model looks at now, if it is its turn; else NULL. */
static struct task *next_look(struct sched *s, int model)
{
    struct sched_model *m = &s->models[model];
    struct task *found = NULL;
    bool rows = false;
    for (int k = 0; k < s->n_running; k++) {
        const struct seq *q = s->order[k];
        if (q->task->model != model)
            continue;
        rows = rows || has_work(q);
        if (!found && waits_for_look(q))
            found = q->task;
    }
    m->looked = found && !(rows && m->looked);
    return m->looked ? found : NULL;
}

/* Which models have work; one that begins to have some starts level with the others. */
static int find_busy(struct sched *s)
{
    int n_busy = 0;
    double level = -1; /* the least time among models that were busy before */
    for (int i = 0; i < s->n_models; i++) {
        if (s->models[i].busy && (level < 0 || s->models[i].spent_us < level))
            level = s->models[i].spent_us;
    }
    for (int i = 0; i < s->n_models; i++) {
        struct sched_model *m = &s->models[i];
        bool work = model_has_work(s, i);
        n_busy += work;
        if (work && !m->busy && level >= 0) {
            if (m->spent_us > level + DEBT_MAX_US) /* of a time when the others had nothing to do */
                m->spent_us = level + DEBT_MAX_US;
            if (m->spent_us < level)
                m->spent_us = level;
        }
        m->busy = work;
    }
    return n_busy;
}

/* The busy model that has had least of the device; text_only: among text models.  -1: none. */
static int least_spent(const struct sched *s, bool text_only)
{
    int best = -1;
    for (int i = 0; i < s->n_models; i++) {
        const struct sched_model *m = &s->models[i];
        if (!m->busy || (text_only && m->other))
            continue;
        if (best < 0 || m->spent_us < s->models[best].spent_us)
            best = i;
    }
    return best;
}

/* The model whose turn it is into the plan; false when none has work. */
static bool pick_model(struct sched *s, struct sched_plan *p)
{
    p->alone = find_busy(s) == 1;
    p->model = least_spent(s, false);
    p->n_alike = 1;
    if (p->model < 0 || !s->models[p->model].other)
        return p->model >= 0;
    int text = least_spent(s, true);
    if (text >= 0 && s->last_model != p->model && s->models[s->last_model].other) {
        p->model = text;
        return true;
    }
    p->n_alike = 0;
    for (int i = 0; i < s->n_models; i++)
        p->n_alike += s->models[i].busy && s->models[i].other;
    return true;
}

/* Does an older sequence compute the page that q needs next?  Then q waits and adopts it. */
static bool has_twin(const struct sched *s, const struct seq *q)
{
    int page = q->n_done / KV_PAGE_TOKENS, end = (page + 1) * KV_PAGE_TOKENS;
    if (!q->kv.share || q->n_done % KV_PAGE_TOKENS != 0 || end > q->n_prompt - 1 ||
        q->task->job->text.echo_logprobs)
        return false;
    for (int i = 0; i < s->n_running && s->order[i] != q; i++) {
        const struct seq *o = s->order[i];
        if (o->task->model != q->task->model || !o->kv.share || o->kv.n_shared != page ||
            q->kv.n_shared != page || o->n_prompt < end)
            continue;
        if (page > 0 && o->kv.pages[page - 1] != q->kv.pages[page - 1])
            continue;
        size_t at = (size_t)page * KV_PAGE_TOKENS;
        if (memcmp(o->ids + at, q->ids + at, KV_PAGE_TOKENS * sizeof *q->ids) == 0)
            return true;
    }
    return false;
}

/* Pages that others have computed since. */
static void adopt(struct seq *q)
{
    if (q->task->job->text.echo_logprobs)
        return;
    while (q->n_done == q->kv.n_shared * KV_PAGE_TOKENS &&
           q->n_done + KV_PAGE_TOKENS <= q->n_prompt - 1 &&
           cache_adopt(&q->kv, q->ids + q->n_done)) {
        q->n_done += KV_PAGE_TOKENS;
        q->n_cached += KV_PAGE_TOKENS;
    }
}

/* More prompt rows that a part could use now; echo_left: logit rows that are left for echoes. */
static int wanted(const struct sched_part *part, int echo_left)
{
    const struct seq *q = part->seq;
    int n = q->n_prompt - q->n_done - part->n_rows;
    if (q->task->job->text.echo_logprobs) /* its first row's logits are its own */
        n = min_int(n, echo_left + (part->n_rows == 0));
    return n;
}

/* Up to n rows more for a part; returns how many. */
static int give_rows(struct sched_part *part, int n, int *echo_left)
{
    n = min_int(n, wanted(part, *echo_left));
    if (n > 0 && part->seq->task->job->text.echo_logprobs)
        *echo_left -= n - (part->n_rows == 0);
    part->n_rows += n;
    return n;
}

/* The part that needs the fewest rows to be done with its prompt, the oldest of equals; NULL: nobody wants more. */
static struct sched_part *nearest_end(struct sched_plan *p, int from, int echo_left)
{
    struct sched_part *best = NULL;
    int least = 0;
    for (int i = from; i < p->n_parts; i++) {
        struct sched_part *part = &p->parts[i];
        const int rest = part->seq->n_prompt - part->seq->n_done - part->n_rows;
        if (wanted(part, echo_left) > 0 && (!best || rest < least)) {
            best = part;
            least = rest;
        }
    }
    return best;
}

/* Prompt rows of a step in which n_decode sequences decode. */
static int prompt_room(const struct sched *s, int model, int n_decode)
{
    const int room = s->o.max_rows - n_decode;
    const double row_us = s->models[model].row_us, rows = s->o.chunk_us / (row_us > 0 ? row_us : 1);
    int chunk = s->o.prefill_chunk;
    if (n_decode == 0)
        return room;
    if (s->o.chunk_us > 0 && row_us > 0 && rows < chunk)
        chunk = rows < CHUNK_MIN_ROWS ? min_int(CHUNK_MIN_ROWS, chunk) : (int)rows;
    return min_int(room, chunk);
}

/* Gives out `room` prompt rows among parts [from, n_parts).  A prompt in few pieces costs less than one in many,
 * and those that end soonest need the fewest steps until they answer. */
static void share_rows(struct sched_plan *p, int from, int room)
{
    int echo_left = SCHED_MORE_LOGITS;
    if (from < p->n_parts)
        room -= give_rows(&p->parts[from], (room + 1) / 2, &echo_left);
    for (struct sched_part *part; room > 0 && (part = nearest_end(p, from, echo_left)) != NULL;)
        room -= give_rows(part, room, &echo_left);
}

void sched_draft(const struct sched *s, struct seq *q)
{
    /* The last token that it may make is never computed upon. */
    const int most = min_int(s->o.draft_tokens, q->n_end - 1 - q->n_ids);
    draft_guide_follow(&q->guide, q->ids, q->n_ids);
    if (!draft_guide_find(&q->draft, &q->guide, most))
        draft_find(&q->draft, q->ids, q->n_ids, most);
}

/* s->drafts [n] share the rows that are left in a step of these n sequences. */
static void share_drafts(struct sched *s, int model, int n)
{
    const int room = min_int(s->o.max_rows - n, SCHED_MORE_LOGITS);
    draft_share(s->drafts, n, &s->models[model].costs, room, s->n_drafts);
}

bool sched_drafts(struct sched *s, int model)
{
    int n = 0, n_rows = 0;
    for (int i = 0; i < s->n_running; i++)
        if (s->order[i]->task->model == model)
            s->drafts[n++] = &s->order[i]->draft;
    share_drafts(s, model, n);
    for (int i = 0; i < n; i++)
        n_rows += s->n_drafts[i];
    return n_rows > 0;
}

/* Rows for what may follow, of the plan's sequences, which all decode. */
static void add_drafts(struct sched *s, struct sched_plan *p)
{
    for (int i = 0; i < p->n_parts; i++) {
        struct seq *q = p->parts[i].seq;
        sched_draft(s, q);
        s->drafts[i] = &q->draft;
    }
    share_drafts(s, p->model, p->n_parts);
    for (int i = 0; i < p->n_parts; i++) {
        struct seq *q = p->parts[i].seq;
        const int n = s->n_drafts[i];
        memcpy(q->ids + q->n_ids, q->draft.ids, (size_t)n * sizeof *q->ids);
        p->parts[i].n_draft = n;
        p->parts[i].n_rows += n;
    }
}

/* Writes a part's rows into the batch. */
static void add_rows(struct sched *s, struct sched_part *part)
{
    struct text_batch *b = &s->plan.batch;
    struct seq *q = part->seq;
    cache_take(&q->kv, cache_pages_for(q->n_done + part->n_rows));
    bool echo = q->task->job->text.echo_logprobs;
    part->first_logit = b->n_logits;
    part->n_logits = 0;
    for (int i = 0; i < part->n_rows; i++) {
        int at = q->n_done + i, row = b->n_rows++;
        s->ids[row] = q->ids[at];
        s->pos[row] = at;
        s->views[row] = q->task->look ? &q->task->look->blip.view : NULL;
        s->rows[row] = (struct kv_row){.pages = q->kv.pages, .pos = at};
        /* An echo wants every prompt row but the last, whose successor is not a prompt token. */
        bool last = at >= q->n_ids - 1;
        if (last ? q->n_end > q->n_ids : echo) {
            s->logit_rows[b->n_logits++] = row;
            part->n_logits++;
        }
    }
}

const struct sched_plan *sched_next(struct sched *s)
{
    struct sched_plan *p = &s->plan;
    if (!pick_model(s, p))
        return NULL;
    p->n_parts = 0;
    p->look = NULL;
    if (s->models[p->model].other || (p->look = next_look(s, p->model)) != NULL)
        return p;
    for (int i = 0; i < s->n_running; i++) {
        struct seq *q = s->order[i];
        if (q->task->model == p->model && q->n_done >= q->n_prompt && has_work(q))
            p->parts[p->n_parts++] = (struct sched_part){.seq = q, .n_rows = 1};
        q->draft.n = 0;
    }
    int n_decode = p->n_parts;
    for (int i = 0; i < s->n_running; i++) {
        struct seq *q = s->order[i];
        if (q->task->model != p->model || q->n_done >= q->n_prompt || waits_for_look(q))
            continue;
        adopt(q);
        if (!has_twin(s, q))
            p->parts[p->n_parts++] = (struct sched_part){.seq = q};
    }
    p->decodes = p->n_parts == n_decode;
    if (p->decodes && s->o.draft_tokens > 0)
        add_drafts(s, p);
    share_rows(p, n_decode, prompt_room(s, p->model, n_decode));
    p->batch = (struct text_batch){.ids = s->ids,
                                   .pos = s->pos,
                                   .rows = s->rows,
                                   .views = s->views,
                                   .logit_rows = s->logit_rows};
    int kept = 0;
    for (int i = 0; i < p->n_parts; i++) {
        if (p->parts[i].n_rows == 0)
            continue;
        p->parts[kept] = p->parts[i];
        add_rows(s, &p->parts[kept++]);
    }
    p->n_parts = kept;
    return kept > 0 ? p : NULL;
}

/* n more positions are computed. */
static void advance(struct seq *q, int n)
{
    q->n_done += n;
    while (q->kv.share && (q->kv.n_shared + 1) * KV_PAGE_TOKENS <= q->n_done)
        cache_commit(&q->kv, q->ids + (size_t)q->kv.n_shared * KV_PAGE_TOKENS);
}

/* Something else may have taken the machine: no step says more than that rows cost twice as much. */
static void measure_rows(struct sched_model *m, int n_rows, double cost_us)
{
    if (n_rows < CHUNK_MIN_ROWS || !(cost_us > 0))
        return;
    const double was = m->row_us, is = cost_us / n_rows;
    m->row_us = was > 0 ? was + 0.25 * ((is < 2 * was ? is : 2 * was) - was) : is;
}

void sched_done(struct sched *s, const struct sched_plan *plan, double cost_us)
{
    struct sched_model *m = &s->models[plan->model];
    if (plan->decodes)
        draft_measured(&m->costs, plan->batch.n_rows, cost_us);
    else
        measure_rows(m, plan->batch.n_rows, cost_us);
    cost_us *= plan->n_alike;
    m->spent_us += m->weight > 0 ? cost_us / m->weight : cost_us;
    s->last_model = plan->model;
    for (int i = 0; i < plan->n_parts; i++) {
        struct seq *q = plan->parts[i].seq;
        advance(q, plan->parts[i].n_rows - plan->parts[i].n_draft);
    }
}

void sched_accept(struct seq *q)
{
    advance(q, 1);
}
