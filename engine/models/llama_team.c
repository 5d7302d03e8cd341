/* LLaMA on several devices (Shoeybi et al. 2019, Megatron-LM): each has some heads and some columns of the
 * feed-forward, whose outputs are summed over the devices twice a layer.
 *
 * x is the same on all devices.  A share leaves what it adds in its own part of `parts`; the parts are
 * exchanged and every device adds them in the order of the shares, x itself in the first.  So all devices have
 * the same bits, whatever else is in the batch.
 *
 * Many rows are computed in two halves: while the parts of one are exchanged, the other one is computed.  The
 * rows of a sequence stand in ascending order, so the second half may need keys of the first, never the
 * other way round. */
#include <stdlib.h>

#include "base/arena.h"
#include "engine/models/llama_int.h"
#include "kernels/team.h"

enum { HALVES_FROM = 32 }; /* rows */

struct llama_team {
    struct text_model base; /* first */
    struct backend_team *team;
    struct llama *shares[TEAM_MAX];
};

/* One step: the rows of each lane, and whether its parts are on their way. */
struct step {
    struct llama_team *t;
    int n_lanes;
    struct llama_rows rows[TEAM_LANES];
    bool under_way[TEAM_LANES];
};

static void divide_rows(struct step *s, int64_t n)
{
    s->n_lanes = n >= HALVES_FROM ? TEAM_LANES : 1;
    for (int lane = 0; lane < s->n_lanes; lane++) {
        s->rows[lane].at = n * lane / s->n_lanes;
        s->rows[lane].n = n * (lane + 1) / s->n_lanes - s->rows[lane].at;
    }
}

static void send_parts(struct step *s, int lane)
{
    void *parts[TEAM_MAX];
    const struct llama_rows rows = s->rows[lane];
    for (int m = 0; m < s->t->team->n; m++)
        parts[m] = llama_part(s->t->shares[m], 0, rows).data;
    team_gather(s->t->team, lane, parts,
                (size_t)rows.n * (size_t)s->t->shares[0]->c.n_embd * sizeof(float));
    s->under_way[lane] = true;
}

/* x = part 0 + part 1 + ..., on every device. */
static void add_parts(struct step *s, int lane)
{
    const struct llama_rows rows = s->rows[lane];
    if (!s->under_way[lane])
        return;
    s->under_way[lane] = false;
    team_wait(s->t->team, lane);
    for (int m = 0; m < s->t->team->n; m++) {
        struct llama *share = s->t->shares[m];
        const int64_t n_embd = share->c.n_embd;
        struct tensor x = llama_tensor(share->x + rows.at * n_embd, rows.n, n_embd);
        struct tensor sum = llama_part(share, 0, rows);
        for (int k = 1; k < s->t->team->n; k++) {
            struct tensor part = llama_part(share, k, rows);
            OP(share->be, add, .out = &x, .a = &sum, .b = &part);
            sum = x;
        }
    }
}

static void embed(struct step *s, const struct text_batch *b)
{
    struct llama *first = s->t->shares[0];
    struct tensor x = llama_tensor(first->x, b->n_rows, first->c.n_embd);
    void *all[TEAM_MAX];
    OP(first->be, embed, .out = &x, .w = first->embd, .ids = b->ids, .there = b->ids_there);
    for (int m = 0; m < s->t->team->n; m++)
        all[m] = s->t->shares[m]->x;
    team_spread(s->t->team, 0, all, (size_t)b->n_rows * (size_t)first->c.n_embd * sizeof(float));
    team_wait(s->t->team, 0);
}

static void run_layer(struct step *s, int i, char *const *kv_base, const struct text_batch *b)
{
    bool more = true;
    for (int lane = 0; lane < s->n_lanes; lane++) {
        add_parts(s, lane);
        for (int m = 0; m < s->t->team->n; m++)
            more = llama_attention(s->t->shares[m], i, kv_base[m], b, s->rows[lane]);
        if (more)
            send_parts(s, lane);
    }
    for (int lane = 0; lane < s->n_lanes && more; lane++) {
        add_parts(s, lane);
        for (int m = 0; m < s->t->team->n; m++)
            llama_feed_forward(s->t->shares[m], i, s->rows[lane]);
        send_parts(s, lane);
    }
}

static int team_forward(struct text_model *base, char *kv_base, const struct text_batch *b,
                        struct err *e)
{
    struct llama_team *t = (struct llama_team *)base;
    struct llama *first = t->shares[0];
    char *pages[TEAM_MAX];
    int rc = llama_check_batch(first, b, e);
    for (int m = 0; m < t->team->n && rc == 0; m++) {
        pages[m] = team_twin(t->team, m, kv_base);
        if (pages[m] == NULL)
            rc = err_set(e, ERR_INVALID, "keys and values are not in memory of all devices");
    }
    if (rc != 0)
        return rc;
    struct step s = {.t = t};
    divide_rows(&s, b->n_rows);
    embed(&s, b);
    for (int i = 0; i < first->c.n_layers; i++)
        run_layer(&s, i, pages, b);
    for (int lane = 0; lane < s.n_lanes; lane++)
        add_parts(&s, lane);
    if (b->n_logits > 0)
        llama_logits(first, b);
    return b->choose != NULL ? 0 : first->be->sync(first->be, e); /* of all */
}

static void team_close(struct text_model *base)
{
    struct llama_team *t = (struct llama_team *)base;
    for (int m = 0; m < t->team->n; m++)
        if (t->shares[m] != NULL)
            llama_close(&t->shares[m]->base);
    free(t);
}

int llama_team_open(struct text_model **out, struct gguf *g, struct backend *be,
                    const struct model_options *o, struct err *e)
{
    struct llama_team *t = xcalloc(1, sizeof *t);
    int rc = 0;
    t->team = be->team;
    for (int m = 0; m < t->team->n && rc == 0; m++) {
        const struct llama_share share = {.rank = m, .n = t->team->n};
        rc = llama_open_share(&t->shares[m], g, t->team->members[m], o, share, e);
    }
    if (rc != 0) {
        team_close(&t->base);
        return rc;
    }
    t->base = t->shares[0]->base; /* sizes of the first, which has the most */
    t->base.forward = team_forward;
    t->base.close = team_close;
    *out = &t->base;
    return 0;
}
