/* Names of LoRA files, from the end (the role) to the beginning (the part of the model). */
#include "engine/lora_name.h"

#include <stdio.h>
#include <string.h>

struct word {
    const char *text;
    int value;
};

/* ---- what it is ---- */

/* Ends of names.  PEFT may put an adapter's name between lora_A and weight. */
static const struct word roles[] = {
    {".lora_down.weight", LORA_DOWN},
    {".lora_up.weight", LORA_UP},
    {".lora_mid.weight", LORA_MID},
    {".lora_A.weight", LORA_DOWN},
    {".lora_B.weight", LORA_UP},
    {".lora.down.weight", LORA_DOWN},
    {".lora.up.weight", LORA_UP},
    {".lora_linear_layer.down.weight", LORA_DOWN},
    {".lora_linear_layer.up.weight", LORA_UP},
    {"_lora.down.weight", LORA_DOWN},
    {"_lora.up.weight", LORA_UP},
    {".alpha", LORA_ALPHA},
};

static const struct {
    const char *part, *method;
} foreign[] = {
    {".dora_scale", "DoRA"},
    {"lora_magnitude_vector", "DoRA"},
    {".hada_", "LoHa"},
    {".lokr_", "LoKr"},
    {".oft_", "OFT"},
    {".diff", "full differences of weights (LyCORIS full)"},
    {".w_norm", "trained norms"},
    {".b_norm", "trained norms"},
    {".on_input", "IA3"},
    {".lora_B.bias", "a bias beside a LoRA"},
    {".lora_up.bias", "a bias beside a LoRA"},
    {"bundle_emb.", "embeddings within a LoRA file"},
};

/* Where the end `tail` of s begins, or NULL. */
static const char *tail_of(const char *s, const char *tail)
{
    const size_t n = strlen(s), m = strlen(tail);
    return n >= m && strcmp(s + n - m, tail) == 0 ? s + n - m : NULL;
}

/* ".lora_A.NAME.weight" */
static const char *peft_tail(const char *s, const char *word)
{
    const char *at = strstr(s, word);
    const char *end = tail_of(s, ".weight");
    if (at == NULL || end == NULL || end <= at + strlen(word))
        return NULL;
    return memchr(at + strlen(word), '.', (size_t)(end - at) - strlen(word)) == NULL ? at : NULL;
}

/* Where the role begins in the name, or NULL. */
static const char *role_of(const char *tensor, enum lora_role *role)
{
    for (size_t i = 0; i < sizeof roles / sizeof *roles; i++) {
        const char *at = tail_of(tensor, roles[i].text);
        *role = (enum lora_role)roles[i].value;
        if (at != NULL)
            return at;
    }
    const char *at = peft_tail(tensor, ".lora_A.");
    *role = at != NULL ? LORA_DOWN : LORA_UP;
    return at != NULL ? at : peft_tail(tensor, ".lora_B.");
}

static const char *foreign_method(const char *tensor)
{
    for (size_t i = 0; i < sizeof foreign / sizeof *foreign; i++)
        if (strstr(tensor, foreign[i].part) != NULL)
            return foreign[i].method;
    return NULL;
}

bool lora_name_is(const char *tensor)
{
    enum lora_role role;
    return role_of(tensor, &role) != NULL || foreign_method(tensor) != NULL;
}

/* ---- where it belongs ---- */

static const struct word prefixes[] = {
    {"lora_unet_", LORA_UNET},
    {"lora_te1_", LORA_TEXT},
    {"lora_te2_", LORA_TEXT_2},
    {"lora_te_", LORA_TEXT},
    {"lycoris_", LORA_UNET},
    {"unet.", LORA_UNET},
    {"text_encoder_2.", LORA_TEXT_2},
    {"text_encoder.", LORA_TEXT},
    {"te1.", LORA_TEXT},
    {"te2.", LORA_TEXT_2},
    {"model.diffusion_model.", LORA_UNET},
    {"diffusion_model.", LORA_UNET},
    {"text_model.", LORA_TEXT}, /* which belongs to the layer's name: see below */
};

/* The beginning that says which part it is; without any it is the UNet. */
static const char *without_prefix(const char *s, enum lora_where *where)
{
    *where = LORA_UNET;
    if (strncmp(s, "base_model.model.", 17) == 0)
        s += 17;
    for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++) {
        const size_t n = strlen(prefixes[i].text);
        if (strncmp(s, prefixes[i].text, n) != 0)
            continue;
        *where = (enum lora_where)prefixes[i].value;
        return strcmp(prefixes[i].text, "text_model.") == 0 ? s : s + n;
    }
    return s;
}

bool lora_name_flatten(char *out, size_t size, const char *name)
{
    const size_t n = strlen(name);
    if (n + 1 > size)
        return false;
    for (size_t i = 0; i <= n; i++)
        out[i] = name[i] == '.' ? '_' : name[i];
    return true;
}

/* Removes the first `word` of s. */
static void cut_out(char *s, const char *word)
{
    char *at = strstr(s, word);
    if (at != NULL)
        memmove(at, at + strlen(word), strlen(at + strlen(word)) + 1);
}

/* The end `from` of s becomes `to`. */
static void change_tail(char *s, size_t size, const char *from, const char *to)
{
    const char *at = tail_of(s, from);
    if (at != NULL && strlen(s) - strlen(from) + strlen(to) < size)
        snprintf(s + (at - s), size - (size_t)(at - s), "%s", to);
}

static void modernise(struct lora_name *n)
{
    cut_out(n->layer, "_processor");
    if (n->where == LORA_UNET) {
        change_tail(n->layer, sizeof n->layer, "_to_out", "_to_out_0");
        return;
    }
    if (strncmp(n->layer, "encoder_", 8) == 0 && strlen(n->layer) + 12 <= sizeof n->layer) {
        memmove(n->layer + 11, n->layer, strlen(n->layer) + 1); /* transformers 5 leaves it out */
        memcpy(n->layer, "text_model_", 11);
    }
    change_tail(n->layer, sizeof n->layer, "_to_q", "_q_proj");
    change_tail(n->layer, sizeof n->layer, "_to_k", "_k_proj");
    change_tail(n->layer, sizeof n->layer, "_to_v", "_v_proj");
    change_tail(n->layer, sizeof n->layer, "_to_out", "_out_proj");
}

int lora_name_read(struct lora_name *out, const char *tensor, struct err *e)
{
    char flat[LORA_NAME_MAX];
    const char *method = foreign_method(tensor);
    if (method != NULL)
        return err_set(e, ERR_UNSUPPORTED, "%.120s: %s is not built in, only LoRA and LoCon",
                       tensor, method);
    const char *role = role_of(tensor, &out->role);
    if (role == NULL || role - tensor >= LORA_NAME_MAX)
        return err_set(e, ERR_CORRUPT, "the tensor %.120s is no part of a LoRA", tensor);
    memcpy(flat, tensor, (size_t)(role - tensor));
    flat[role - tensor] = 0;
    const char *layer = without_prefix(flat, &out->where);
    if (!lora_name_flatten(out->layer, sizeof out->layer, layer) || out->layer[0] == 0)
        return err_set(e, ERR_CORRUPT, "the tensor %.120s names no layer", tensor);
    modernise(out);
    return 0;
}

/* ---- latent-diffusion's names ---- */

static const struct {
    const char *ours, *theirs;
} tails[] = {
    {"conv1", "in_layers_2"},
    {"time_emb_proj", "emb_layers_1"},
    {"conv2", "out_layers_3"},
    {"conv_shortcut", "skip_connection"},
};

static const struct {
    const char *ours, *theirs;
} whole[] = {
    {"conv_in", "input_blocks_0_0"},
    {"conv_out", "out_2"},
    {"time_embedding.linear_1", "time_embed_0"},
    {"time_embedding.linear_2", "time_embed_2"},
    {"add_embedding.linear_1", "label_emb_0_0"},
    {"add_embedding.linear_2", "label_emb_0_2"},
};

static bool put(char *out, size_t size, const char *begin, const char *rest)
{
    for (size_t i = 0; i < sizeof tails / sizeof *tails; i++)
        if (strcmp(rest, tails[i].ours) == 0)
            rest = tails[i].theirs;
    char name[LORA_NAME_MAX];
    const int n = snprintf(name, sizeof name, "%s%s", begin, rest);
    return n > 0 && n < (int)sizeof name && lora_name_flatten(out, size, name);
}

bool lora_name_ldm(char *out, size_t size, const char *layer, int n_resnets, bool up_has_attention)
{
    char begin[64];
    int block, i, at = 0;
    for (size_t k = 0; k < sizeof whole / sizeof *whole; k++)
        if (strcmp(layer, whole[k].ours) == 0)
            return put(out, size, whole[k].theirs, "");
    if (sscanf(layer, "down_blocks.%2d.resnets.%2d.%n", &block, &i, &at) == 2 && at > 0)
        snprintf(begin, sizeof begin, "input_blocks_%d_0_", 1 + block * (n_resnets + 1) + i);
    else if (sscanf(layer, "down_blocks.%2d.attentions.%2d.%n", &block, &i, &at) == 2 && at > 0)
        snprintf(begin, sizeof begin, "input_blocks_%d_1_", 1 + block * (n_resnets + 1) + i);
    else if (sscanf(layer, "down_blocks.%2d.downsamplers.0.con%n", &block, &at) == 1 && at > 0)
        return snprintf(begin, sizeof begin, "input_blocks_%d_0_op",
                        (block + 1) * (n_resnets + 1)) > 0 &&
               put(out, size, begin, "");
    else if (sscanf(layer, "mid_block.resnets.%2d.%n", &i, &at) == 1 && at > 0)
        snprintf(begin, sizeof begin, "middle_block_%d_", 2 * i);
    else if (sscanf(layer, "mid_block.attentions.%2d.%n", &i, &at) == 1 && at > 0)
        snprintf(begin, sizeof begin, "middle_block_%d_", 1 + 2 * i);
    else if (sscanf(layer, "up_blocks.%2d.resnets.%2d.%n", &block, &i, &at) == 2 && at > 0)
        snprintf(begin, sizeof begin, "output_blocks_%d_0_", block * (n_resnets + 1) + i);
    else if (sscanf(layer, "up_blocks.%2d.attentions.%2d.%n", &block, &i, &at) == 2 && at > 0)
        snprintf(begin, sizeof begin, "output_blocks_%d_1_", block * (n_resnets + 1) + i);
    else if (sscanf(layer, "up_blocks.%2d.upsamplers.0.con%n", &block, &at) == 1 && at > 0)
        return snprintf(begin, sizeof begin, "output_blocks_%d_%d_conv",
                        block * (n_resnets + 1) + n_resnets, up_has_attention ? 2 : 1) > 0 &&
               put(out, size, begin, "");
    else
        return false;
    return put(out, size, begin, layer + at);
}
