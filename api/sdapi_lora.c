/* LoRAs within a prompt, as stable-diffusion-webui has them: <lora:name:0.8>, <lora:name:text:unet>, and
 * <lora:name:te=0.5:unet=1>; and the lists of what there is. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/sdapi.h"
#include "engine/replicas.h"

enum { TAG_MAX = 160 };

/* One tag's inside: "name:0.8:te=1". */
struct tag {
    char name[ENGINE_ADAPTER_NAME_MAX];
    double text, unet;
};

static int bad_tag(const char *tag, struct err *e)
{
    err_set(e, ERR_INVALID, "<lora:%.60s> must be <lora:name:scale>", tag);
    return err_param(e, "prompt");
}

static bool read_number(const char *s, double *out)
{
    char *end = NULL;
    *out = strtod(s, &end);
    return end != s && *end == '\0' && *out >= -100 && *out <= 100;
}

/* text is changed. */
static int read_tag(char *text, struct tag *t, struct err *e)
{
    char shown[TAG_MAX];
    char *rest = NULL, *name;
    bool has_unet = false;
    snprintf(shown, sizeof shown, "%s", text);
    *t = (struct tag){.text = 1, .unet = 1};
    name = strtok_r(text, ":", &rest);
    if (name == NULL || strlen(name) >= sizeof t->name)
        return bad_tag(shown, e);
    snprintf(t->name, sizeof t->name, "%s", name);
    int at = 0;
    for (char *s = strtok_r(NULL, ":", &rest); s != NULL; s = strtok_r(NULL, ":", &rest)) {
        double *to = at == 0 ? &t->text : &t->unet;
        if (strncmp(s, "te=", 3) == 0) {
            to = &t->text;
            s += 3;
        } else if (strncmp(s, "unet=", 5) == 0) {
            to = &t->unet;
            s += 5;
        } else if (++at > 2) {
            return bad_tag(shown, e);
        }
        has_unet = has_unet || to == &t->unet;
        if (!read_number(s, to))
            return bad_tag(shown, e);
    }
    if (!has_unet)
        t->unet = t->text; /* one number is for both */
    return 0;
}

/* Bytes of the tag at s, up to its '>' or where it is broken off, at most max: nothing behind is looked at. */
static size_t tag_len(const char *s, size_t max)
{
    size_t n = 0;
    while (n < max && s[n] != '>' && s[n] != '\n' && s[n] != '\0')
        n++;
    return n;
}

int sdapi_lora_take(const char *prompt, struct buf *text, struct json_writer *list, struct err *e)
{
    int n = 0;
    for (const char *s = prompt;;) {
        const size_t before = strcspn(s, "<");
        buf_add(text, s, before);
        s += before;
        if (*s == '\0')
            break;
        if (strncmp(s, "<hypernet:", 10) == 0) {
            err_set(e, ERR_UNSUPPORTED, "hypernetworks are not supported");
            return err_param(e, "prompt");
        }
        const bool is_lora = strncmp(s, "<lora:", 6) == 0 || strncmp(s, "<lyco:", 6) == 0;
        const size_t len = is_lora ? tag_len(s + 6, TAG_MAX) : 0;
        char inside[TAG_MAX];
        struct tag t;
        if (len == sizeof inside)
            return bad_tag("...", e);
        if (!is_lora || s[6 + len] != '>') {
            buf_addc(text, *s++);
            continue;
        }
        memcpy(inside, s + 6, len);
        inside[len] = '\0';
        s += 6 + len + 1;
        int err = read_tag(inside, &t, e);
        if (err != 0)
            return err;
        json_open(list, NULL, '{');
        json_put_str(list, "name", t.name);
        json_put_num(list, "scale", t.unet);
        json_put_num(list, "text_scale", t.text);
        json_close(list, '}');
        n++;
    }
    while (text->len > 0 && text->data[text->len - 1] == ' ' && n > 0)
        text->data[--text->len] = '\0';
    return n;
}

void sdapi_lora_put(const struct image_spec *s, struct buf *out)
{
    for (int i = 0; i < s->n_loras; i++)
        buf_printf(out, " <lora:%s:%g>", s->loras[i].name, (double)s->loras[i].scale);
}

/* ---- lists ---- */

static void put_lora(struct json_writer *w, const struct engine_adapter *a)
{
    json_open(w, NULL, '{');
    json_put_str(w, "name", a->name);
    json_put_str(w, "alias", a->name);
    json_put_str(w, "path", a->name);
    json_open(w, "metadata", '{');
    json_close(w, '}');
    json_close(w, '}');
}

static void put_embedding(struct json_writer *w, const struct engine_adapter *a)
{
    json_open(w, a->name, '{');
    json_put_null(w, "step");
    json_put_null(w, "sd_checkpoint");
    json_put_str(w, "sd_checkpoint_name", a->model);
    json_put_int(w, "vectors", a->n_vectors);
    json_close(w, '}');
}

void sdapi_lora_list(struct api_call *c, bool embeddings)
{
    struct engine_adapter *list = NULL;
    struct json_writer w;
    int n = 0;
    if (replicas_adapter_list(c->priv->api->o.engine, &list, &n, NULL) != 0)
        n = 0; /* no directory for them: none */
    json_begin(&w, &c->out);
    json_open(&w, NULL, embeddings ? '{' : '[');
    if (embeddings)
        json_open(&w, "loaded", '{');
    for (int i = 0; i < n; i++) {
        if (embeddings && list[i].loaded && list[i].embedding)
            put_embedding(&w, &list[i]);
        else if (!embeddings && !(list[i].loaded && list[i].embedding))
            put_lora(&w, &list[i]);
    }
    if (embeddings) {
        json_close(&w, '}');
        json_open(&w, "skipped", '{');
        json_close(&w, '}');
    }
    json_close(&w, embeddings ? '}' : ']');
    free(list);
}
