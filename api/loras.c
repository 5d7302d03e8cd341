/* Lists of LoRAs in JSON. */
#include "api/loras.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SCALE_MAX = 100 };

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
