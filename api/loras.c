/* Lists of LoRAs, in JSON and within prompts. */
#include "api/loras.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SCALE_MAX = 100, ITEM_MAX = 256 };

static int bad(struct err *e, const char *what)
{
    err_set(e, ERR_INVALID, "%s", what);
    return err_param(e, "loras");
}

/* One more; the list has room for all from the first on. */
static int add(struct image_spec *s, struct arena *a, const struct lora_ref *ref, struct err *e)
{
    if (s->n_loras == JOB_LORAS_MAX) {
        err_set(e, ERR_INVALID, "more than %d LoRAs", JOB_LORAS_MAX);
        return err_param(e, "loras");
    }
    struct lora_ref *list = arena_array(a, JOB_LORAS_MAX, sizeof *list);
    const char *name = arena_strdup(a, ref->name);
    if (list == NULL || name == NULL)
        return err_set(e, ERR_TOOBIG, "the request needs more memory than allowed");
    for (int i = 0; i < s->n_loras; i++)
        list[i] = s->loras[i];
    list[s->n_loras] = *ref;
    list[s->n_loras++].name = name;
    s->loras = list;
    return 0;
}

/* ---- JSON ---- */

static int parse_item(const struct cJSON *v, struct arena *a, struct image_spec *s, struct err *e)
{
    struct lora_ref ref = {.name = json_str(v), .scale = 1, .text_scale = NAN};
    if (json_type(v) == JSON_OBJECT) {
        int rc = json_get_str(v, "name", &ref.name, e);
        if (rc == 0)
            rc = json_get_float(v, "scale", &ref.scale, -SCALE_MAX, SCALE_MAX, e);
        if (rc == 0)
            rc = json_get_float(v, "text_scale", &ref.text_scale, -SCALE_MAX, SCALE_MAX, e);
        if (rc != 0)
            return err_param(e, "loras[%d].%s", s->n_loras, e != NULL ? e->param : "");
    }
    if (ref.name == NULL || ref.name[0] == '\0')
        return bad(e, "an entry of loras must be a name or {\"name\": ..., \"scale\": ...}");
    if (isnan(ref.text_scale))
        ref.text_scale = ref.scale;
    return add(s, a, &ref, e);
}

static int parse_list(const struct cJSON *v, struct arena *a, struct image_spec *s, struct err *e)
{
    int rc = 0;
    if (json_type(v) != JSON_ARRAY)
        return bad(e, "loras must be a list of {\"name\": ..., \"scale\": ...}");
    for (const struct cJSON *item = json_first(v); item != NULL && rc == 0; item = json_next(item))
        rc = parse_item(item, a, s, e);
    return rc;
}

int loras_parse(const struct cJSON *body, struct arena *a, struct image_spec *s, struct err *e)
{
    const struct cJSON *v = json_get(body, "loras");
    const char *text = json_str(v);
    if (json_type(v) == JSON_NULL)
        return 0;
    if (text == NULL)
        return parse_list(v, a, s, e);
    struct cJSON *doc = NULL;
    if (json_parse(&doc, text, strlen(text), &json_limits_default, NULL) != 0)
        return bad(e, "loras must be a list of {\"name\": ..., \"scale\": ...}, as JSON");
    int rc = parse_list(doc, a, s, e);
    json_free(doc);
    return rc;
}

/* ---- prompts ---- */

/* A number that ends at ':' or at the end of text. */
static bool number(const char *s, float *to)
{
    char *end;
    const float v = strtof(s, &end);
    if (end == s || (*end != '\0' && *end != ':') || !(v >= -SCALE_MAX && v <= SCALE_MAX))
        return false;
    *to = v;
    return true;
}

/* "x:0.8", "x:0.5:1", "x:te=0.5:unet=1": what stands between "<lora:" and ">". */
static bool parse_tag(char *text, struct lora_ref *ref)
{
    int n_plain = 0;
    bool ok = true, has_unet = false;
    *ref = (struct lora_ref){.name = text, .scale = 1, .text_scale = 1};
    for (char *at = strchr(text, ':'); at != NULL && ok; at = strchr(at, ':')) {
        *at++ = '\0';
        if (strncmp(at, "te=", 3) == 0) {
            ok = number(at + 3, &ref->text_scale);
        } else if (strncmp(at, "unet=", 5) == 0) {
            ok = number(at + 5, &ref->scale);
            has_unet = true;
        } else if (strncmp(at, "dyn=", 4) == 0) {
            ok = false; /* a rank to cut down to */
        } else {
            ok = n_plain < 2 && number(at, n_plain == 0 ? &ref->text_scale : &ref->scale);
            has_unet = has_unet || n_plain == 1;
            n_plain++;
        }
    }
    if (!has_unet)
        ref->scale = ref->text_scale;
    return ok && text[0] != '\0';
}

int loras_from_prompt(const char *prompt, struct arena *a, struct image_spec *s, const char **out,
                      struct err *e)
{
    static const char begin[] = "<lora:";
    const size_t n = strlen(prompt);
    char *text = arena_alloc(a, n + 1), item[ITEM_MAX];
    if (text == NULL)
        return err_set(e, ERR_TOOBIG, "the request needs more memory than allowed");
    size_t n_text = 0;
    for (const char *at = prompt; *at != '\0';) {
        const char *end = strncmp(at, begin, sizeof begin - 1) == 0 ? strchr(at, '>') : NULL;
        if (end == NULL) {
            text[n_text++] = *at++;
            continue;
        }
        const size_t len = (size_t)(end - at) - (sizeof begin - 1);
        struct lora_ref ref;
        if (len >= sizeof item)
            return bad(e, "a <lora:NAME:SCALE> of the prompt is too long");
        memcpy(item, at + sizeof begin - 1, len);
        item[len] = '\0';
        if (!parse_tag(item, &ref)) {
            err_set(e, ERR_INVALID, "the prompt has <lora:%.80s>, which is not <lora:NAME:SCALE>",
                    item);
            return err_param(e, "prompt");
        }
        int rc = add(s, a, &ref, e);
        if (rc != 0)
            return rc;
        at = end + 1;
    }
    text[n_text] = '\0';
    *out = text;
    return 0;
}

void loras_describe(const struct image_spec *s, struct buf *out)
{
    for (int i = 0; i < s->n_loras; i++)
        buf_printf(out, "%s%s %g", i == 0 ? ", Loras: " : "; ", s->loras[i].name,
                   (double)s->loras[i].scale);
}
