/* Single files of super-resolution networks, brought to the names of today: RRDBNet (ESRGAN, Wang et al. 2018)
 * under any of its three namings, and SRVGGNetCompact (Real-ESRGAN).
 *
 *   conv_first  body.0.rdb1.conv1        conv_body   conv_up1  conv_hr  conv_last     BasicSR's, as here
 *   conv_first  RRDB_trunk.0.RDB1.conv1  trunk_conv  upconv1   HRconv   conv_last
 *   model.0     model.1.sub.0.RDB1.conv1.0  model.1.sub.23  model.3  model.8  model.10
 *
 * The last one numbers the layers of a sequence, in which the convolutions behind the body are those that
 * enlarge, conv_hr and conv_last.  Training scripts put all names behind "params_ema." or "params.". */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "engine/checkpoint_impl.h"

enum { LAYERS_MAX = 64 };

static const char *const wraps[] = {"", "params_ema.", "params.", "module."};
enum { N_WRAPS = sizeof wraps / sizeof *wraps };

struct esrgan {
    size_t n_wrap;         /* bytes of the prefix */
    bool compact;          /* SRVGGNetCompact */
    bool tail[LAYERS_MAX]; /* model.N is a convolution behind the body */
    int n_tail, last;      /* convolutions there; number of the last one */
};

static bool has(const struct checkpoint_file *f, const char *wrap, const char *name)
{
    char full[64];
    struct checkpoint_raw t;
    snprintf(full, sizeof full, "%s%s", wrap, name);
    return checkpoint_raw_find(f, full, &t);
}

/* Which of wraps, or -1: no such network. */
static int find_wrap(const struct checkpoint_file *f, bool *compact)
{
    for (int i = 0; i < N_WRAPS; i++) {
        *compact = has(f, wraps[i], "body.0.weight") && !has(f, wraps[i], "conv_first.weight");
        if (*compact || has(f, wraps[i], "conv_first.weight") ||
            (has(f, wraps[i], "model.0.weight") &&
             has(f, wraps[i], "model.1.sub.0.RDB1.conv1.0.weight")))
            return i;
    }
    return -1;
}

bool checkpoint_esrgan_is(const struct checkpoint_file *f)
{
    bool compact;
    return find_wrap(f, &compact) >= 0;
}

static bool take(const char **s, const char *word)
{
    size_t n = strlen(word);
    if (strncmp(*s, word, n) != 0)
        return false;
    *s += n;
    return true;
}

/* "12." */
static bool take_int(const char **s, int *v)
{
    char *end;
    if (**s < '0' || **s > '9')
        return false;
    long n = strtol(*s, &end, 10);
    if (*end != '.' || n > 9999)
        return false;
    *v = (int)n;
    *s = end + 1;
    return true;
}

/* "RDB1.conv2.0.weight" and "RDB1.conv2.weight", behind the number of the block. */
static bool put_block(char *out, size_t size, int block, const char *s)
{
    int rdb, conv;
    if (!take(&s, "RDB") || !take_int(&s, &rdb) || !take(&s, "conv") || !take_int(&s, &conv))
        return false;
    take(&s, "0.");
    snprintf(out, size, "body.%d.rdb%d.conv%d.%s", block, rdb, conv, s);
    return true;
}

/* "3.weight" of the sequence, behind "model.". */
static bool put_layer(const struct esrgan *g, char *out, size_t size, const char *s)
{
    int layer, block, n_before = 0;
    if (take(&s, "1.sub.")) {
        if (!take_int(&s, &block))
            return false;
        if (put_block(out, size, block, s))
            return true;
        snprintf(out, size, "conv_body.%s", s);
        return true;
    }
    if (!take_int(&s, &layer) || layer >= LAYERS_MAX)
        return false;
    for (int i = 2; i < layer; i++)
        n_before += g->tail[i];
    if (layer == 0)
        snprintf(out, size, "conv_first.%s", s);
    else if (layer == g->last)
        snprintf(out, size, "conv_last.%s", s);
    else if (n_before == g->n_tail - 2)
        snprintf(out, size, "conv_hr.%s", s);
    else
        snprintf(out, size, "conv_up%d.%s", n_before + 1, s);
    return true;
}

static bool rename_tensor(const struct esrgan *g, const char *s, char *out, size_t size)
{
    int block;
    if (g->compact) {
        snprintf(out, size, "%s", s);
        return true;
    }
    if (take(&s, "model."))
        return put_layer(g, out, size, s);
    if (take(&s, "RRDB_trunk."))
        return take_int(&s, &block) && put_block(out, size, block, s);
    if (take(&s, "trunk_conv."))
        snprintf(out, size, "conv_body.%s", s);
    else if (take(&s, "upconv"))
        snprintf(out, size, "conv_up%s", s);
    else if (take(&s, "HRconv."))
        snprintf(out, size, "conv_hr.%s", s);
    else
        snprintf(out, size, "%s", s);
    return true;
}

/* Which layers of the sequence are convolutions behind the body. */
static void look_at(struct esrgan *g, const char *s)
{
    int layer;
    if (!take(&s, "model.") || !take_int(&s, &layer) || layer < 2 || layer >= LAYERS_MAX ||
        strcmp(s, "weight") != 0)
        return;
    g->tail[layer] = true;
    g->n_tail++;
    g->last = layer > g->last ? layer : g->last;
}

int checkpoint_esrgan_open(struct checkpoint *c, struct err *e)
{
    const struct checkpoint_file *f = &c->files[0];
    struct esrgan g = {.n_wrap = 0};
    struct json_writer w;
    struct buf text;
    int wrap = find_wrap(f, &g.compact), rc = 0;
    g.n_wrap = strlen(wraps[wrap >= 0 ? wrap : 0]);
    c->family = CHECKPOINT_ALONE;
    for (int i = 0; i < checkpoint_n_raw(f); i++) {
        const char *name = checkpoint_raw_at(f, i).name;
        if (strncmp(name, wraps[wrap], g.n_wrap) == 0)
            look_at(&g, name + g.n_wrap);
    }
    for (int i = 0; rc == 0 && i < checkpoint_n_raw(f); i++) {
        struct checkpoint_raw t = checkpoint_raw_at(f, i);
        char name[CHECKPOINT_MAX_NAME + 64];
        if (strncmp(t.name, wraps[wrap], g.n_wrap) != 0)
            continue; /* "params." beside "params_ema.": the weights before they were averaged */
        if (!rename_tensor(&g, t.name + g.n_wrap, name, sizeof name))
            rc = err_set(e, ERR_UNSUPPORTED, "tensor \"%s\" has no place in ESRGAN",
                         err_shown_str(t.name).text);
        else
            rc = checkpoint_add(c, CHECKPOINT_MODEL, name, &t, e);
    }
    if (rc != 0)
        return rc;
    buf_init(&text, 256);
    json_begin(&w, &text);
    json_open(&w, NULL, '{');
    json_put_str(&w, "_class_name", g.compact ? "SRVGGNetCompact" : "RRDBNet");
    json_close(&w, '}');
    rc = checkpoint_json_text(&c->parts[CHECKPOINT_MODEL].config, &text, e);
    buf_free(&text);
    return rc;
}
