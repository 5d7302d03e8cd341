/* Drafts from the text itself; draft.h has the design. */
#include "engine/draft.h"

#include <math.h>
#include <stdlib.h>

enum {
    MATCH_MIN = 2,      /* tokens that must be alike */
    MATCH_MAX = 8,      /* and that are looked at */
    LOOK_BACK = 1 << 14 /* tokens that are searched */
};

static const float RIGHT_FIRST = 0.5F, RIGHT_RATE = 0.15F;
static const float COST_RATE = 0.2F, COST_FORGOTTEN = 0.002F; /* of what a measured step says */
static const float GAIN_MIN = 0.03F;

void draft_begin(struct draft *d)
{
    d->n = 0;
    d->right = RIGHT_FIRST;
}

/* How many tokens before ids[a] and ids[b], a < b, and those two, are alike. */
static int alike(const int32_t *ids, int a, int b)
{
    int n = 0;
    while (n < MATCH_MAX && n <= a && ids[a - n] == ids[b - n])
        n++;
    return n;
}

void draft_find(struct draft *d, const int32_t *ids, int n_ids, int most)
{
    const int last = n_ids - 1, first = last > LOOK_BACK ? last - LOOK_BACK : 0;
    int best = -1, length = MATCH_MIN - 1;
    for (int i = last - 1; i >= first && length < MATCH_MAX; i--) {
        const int n = ids[i] == ids[last] ? alike(ids, i, last) : 0;
        if (n > length) {
            length = n;
            best = i;
        }
    }
    d->n = 0;
    if (best < 0)
        return;
    most = most < DRAFT_MAX ? most : DRAFT_MAX;
    for (int at = best + 1; d->n < most; at++, d->n++) /* past the end it goes on as it began */
        d->ids[d->n] = at < n_ids ? ids[at] : d->ids[at - n_ids];
}

/* ---- a text that is followed ---- */

void draft_guide_begin(struct draft_guide *g, const int32_t *ids, int n, int n_prompt)
{
    *g = (struct draft_guide){.ids = ids, .n = n, .n_seen = n_prompt};
}

/* The last tokens, none of which was found yet, in the text: where most of them stand in a row, and of several such
 * places the one that is nearest to where the answer left the text, rather behind it. */
static void guide_search(struct draft_guide *g, const int32_t *ids)
{
    const int last = g->n_seen - 1, most = g->n_lost < MATCH_MAX ? g->n_lost : MATCH_MAX;
    int best = -1, length = MATCH_MIN - 1;
    for (int i = 0; i < g->n && most > length; i++) {
        int k = 0;
        while (k < most && k <= i && g->ids[i - k] == ids[last - k])
            k++;
        const bool nearer = k == length && best >= 0 && abs(i - g->at) <= abs(best - g->at);
        if (k > length || nearer) {
            length = k;
            best = i;
        }
    }
    if (best < 0)
        return;
    g->at = best + 1;
    g->n_right += length;
    g->n_lost = 0;
}

void draft_guide_follow(struct draft_guide *g, const int32_t *ids, int n_ids)
{
    while (g->n > 0 && g->n_seen < n_ids) {
        const int32_t id = ids[g->n_seen++];
        if (g->n_lost == 0 && g->at < g->n && g->ids[g->at] == id) {
            g->at++;
            g->n_right++;
            continue;
        }
        g->n_lost++;
        guide_search(g, ids);
    }
}

bool draft_guide_find(struct draft *d, const struct draft_guide *g, int most)
{
    if (g->n_lost > 0 || g->at >= g->n)
        return false;
    most = most < DRAFT_MAX ? most : DRAFT_MAX;
    for (d->n = 0; d->n < most && g->at + d->n < g->n; d->n++)
        d->ids[d->n] = g->ids[g->at + d->n];
    return true;
}

/* ---- which drafts get rows ---- */

/* What a step of so many rows costs beside others, as long as none was measured: reading the weights is worth some
 * rows more. */
static float assumed(int n_rows)
{
    return 4 + (float)n_rows;
}

static float cost(const struct draft_costs *c, int n_rows)
{
    const float row = c->row > 0 ? c->row : 1;
    return c->us[n_rows] > 0 ? c->us[n_rows] : row * assumed(n_rows);
}

void draft_measured(struct draft_costs *c, int n_rows, double us)
{
    if (n_rows < 1 || n_rows > DRAFT_ROWS || !(us > 0))
        return;
    const float row = (float)us / assumed(n_rows);
    c->row += (c->row > 0 ? COST_RATE : 1) * (row - c->row);
    /* Something else may have taken the machine: no step says more than that it cost twice as much. */
    const float was = cost(c, n_rows), is = (float)us;
    c->us[n_rows] = was + COST_RATE * ((is < 2 * was ? is : 2 * was) - was);
    for (int n = 1; n <= DRAFT_ROWS; n++)
        c->us[n] += COST_FORGOTTEN * (c->us[n] > 0 ? c->row * assumed(n) - c->us[n] : 0);
}

/* A draft while rows are given out. */
struct share {
    float next;   /* how likely its next token is right, and all before it */
    float tokens; /* that its sequence will make, on average */
    int n_rows;
};

/* The draft whose next row makes its sequence faster by the largest part; -1: all have their rows. */
static int neediest(struct draft *const *d, const struct share *s, int n)
{
    int best = -1;
    float most = 0;
    for (int i = 0; i < n; i++) {
        const float gain = s[i].n_rows < d[i]->n ? s[i].next / s[i].tokens : 0;
        if (gain > most) {
            best = i;
            most = gain;
        }
    }
    return best;
}

void draft_share(struct draft *const *d, int n, const struct draft_costs *c, int room, int *n_rows)
{
    struct share s[DRAFT_ROWS];
    for (int i = 0; i < n; i++)
        n_rows[i] = 0;
    if (n > DRAFT_ROWS)
        return;
    for (int i = 0; i < n; i++)
        s[i] = (struct share){.next = d[i]->right, .tokens = 1};
    room = room < DRAFT_ROWS - n ? room : DRAFT_ROWS - n;
    /* What counts is the mean of how much faster each sequence becomes, as a logarithm: so rows of one draft, which
     * the others wait for, must be worth that. */
    float faster = 0, best = GAIN_MIN;
    for (int k = 1, i; k <= room && (i = neediest(d, s, n)) >= 0; k++) {
        faster += logf(1 + s[i].next / s[i].tokens) / (float)n;
        s[i].tokens += s[i].next;
        s[i].next *= d[i]->right;
        s[i].n_rows++;
        const float gain = faster - logf(cost(c, n + k) / cost(c, n));
        if (gain <= best)
            continue;
        best = gain;
        for (int m = 0; m < n; m++)
            n_rows[m] = s[m].n_rows;
    }
}

bool draft_check(struct draft *d, int k, int32_t id)
{
    const bool right = d->ids[k] == id;
    d->right += RIGHT_RATE * ((right ? 1.0F : 0.0F) - d->right);
    return right;
}
