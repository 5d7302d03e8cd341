/* Configuration: file < environment < flag, all from one table (config.h). */
#include "server/config.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/utf8.h"

#define FILE_BYTES_MAX (1 << 20)

enum option_kind { OPT_STR, OPT_INT, OPT_BOOL };

struct option {
    const char *name;
    enum option_kind kind;
    size_t offset; /* in struct config */
    const char *text, *choices;
    int64_t number, min, max;
    const char *help;
};

/* clang-format off */
static const struct option options[] = {
#define S(name, value, choices, help) \
    {#name, OPT_STR, offsetof(struct config, name), value, choices, 0, 0, 0, help},
#define I(name, value, min, max, help) \
    {#name, OPT_INT, offsetof(struct config, name), NULL, NULL, value, min, max, help},
#define B(name, value, help) \
    {#name, OPT_BOOL, offsetof(struct config, name), NULL, NULL, value, 0, 1, help},
    CONFIG_TABLE(S, I, B)
#undef S
#undef I
#undef B
};
/* clang-format on */
#define N_OPTIONS (sizeof(options) / sizeof(options[0]))

static void *slot(struct config *c, const struct option *o)
{
    return (char *)c + o->offset;
}

static const void *slot_const(const struct config *c, const struct option *o)
{
    return (const char *)c + o->offset;
}

static bool is_choice(const char *choices, const char *s)
{
    size_t n = strlen(s);
    for (const char *p = choices; *p;) {
        size_t word = strcspn(p, " ");
        if (word == n && !memcmp(p, s, n))
            return true;
        p += word;
        p += strspn(p, " ");
    }
    return false;
}

static int set_str(struct config *c, const struct option *o, const char *s, const char *from,
                   struct err *e)
{
    if (o->choices && !is_choice(o->choices, s))
        return err_set(e, ERR_INVALID, "%s: %s must be one of: %s", from, o->name, o->choices);
    char *copy = arena_strdup(&c->arena, s);
    if (!copy)
        return err_set(e, ERR_TOOBIG, "%s: %s is too long", from, o->name);
    *(const char **)slot(c, o) = copy;
    return 0;
}

static int set_int(struct config *c, const struct option *o, int64_t v, const char *from,
                   struct err *e)
{
    if (v < o->min || v > o->max)
        return err_set(e, ERR_INVALID, "%s: %s must be %lld to %lld", from, o->name,
                       (long long)o->min, (long long)o->max);
    *(int64_t *)slot(c, o) = v;
    return 0;
}

/* A value as text: from a flag or the environment. */
static int set_text(struct config *c, const struct option *o, const char *s, const char *from,
                    struct err *e)
{
    if (o->kind == OPT_STR)
        return set_str(c, o, s, from, e);
    if (o->kind == OPT_INT) {
        char *end;
        errno = 0;
        long long v = strtoll(s, &end, 10);
        if (errno || end == s || *end)
            return err_set(e, ERR_INVALID, "%s: %s must be a whole number", from, o->name);
        return set_int(c, o, v, from, e);
    }
    bool on = is_choice("1 true yes on", s);
    if (!on && !is_choice("0 false no off", s))
        return err_set(e, ERR_INVALID, "%s: %s must be true or false", from, o->name);
    *(bool *)slot(c, o) = on;
    return 0;
}

/* What -m and the file may say of a model besides its path. */
static const struct {
    const char *name;
    size_t offset;
    const char *choices; /* NULL: any */
} model_options[] = {
    {"tokenizer", offsetof(struct config_model, tokenizer), NULL},
    {"prediction_type", offsetof(struct config_model, prediction_type),
     "epsilon v_prediction sample"},
};
enum { N_MODEL_OPTIONS = sizeof(model_options) / sizeof(model_options[0]) };

static int set_model_option(struct config *c, struct config_model *m, const char *name, size_t len,
                            const char *value, const char *from, struct err *e)
{
    for (size_t i = 0; i < N_MODEL_OPTIONS; i++) {
        if (strlen(model_options[i].name) != len || memcmp(model_options[i].name, name, len) != 0)
            continue;
        const char *choices = model_options[i].choices;
        if (choices && !is_choice(choices, value))
            return err_set(e, ERR_INVALID, "%s: %s of model %s must be one of %s", from,
                           model_options[i].name, m->id, choices);
        char *copy = arena_strdup(&c->arena, value);
        if (!copy)
            return err_set(e, ERR_TOOBIG, "%s: %s of model %s is too long", from,
                           model_options[i].name, m->id);
        *(const char **)((char *)m + model_options[i].offset) = copy;
        return 0;
    }
    return err_set(e, ERR_INVALID, "%s: model %s: there is no option \"%.*s\"", from, m->id,
                   (int)(len < 60 ? len : 60), name);
}

/* The last ",option=" of a path, where a name is one of ours; or NULL.  A path may have commas. */
static char *last_option(char *path, size_t *name_len)
{
    for (char *at = path + strlen(path); at-- > path;) {
        if (*at != ',')
            continue;
        for (size_t i = 0; i < N_MODEL_OPTIONS; i++) {
            size_t n = strlen(model_options[i].name);
            if (strncmp(at + 1, model_options[i].name, n) == 0 && at[1 + n] == '=') {
                *name_len = n;
                return at;
            }
        }
    }
    return NULL;
}

/* Names stand in JSON, in metrics and on terminals. */
static bool is_name(const char *id, size_t len)
{
    bool ok = utf8_valid(id, len);
    for (size_t i = 0; i < len; i++)
        ok = ok && (unsigned char)id[i] >= 0x20 && id[i] != 0x7f;
    return ok;
}

int config_add_model(struct config *c, const char *id, size_t id_len, const char *path,
                     const char *from, struct err *e)
{
    if (c->n_models == CONFIG_MODELS_MAX)
        return err_set(e, ERR_INVALID, "%s: at most %d models", from, CONFIG_MODELS_MAX);
    if (!*path || !id_len)
        return err_set(e, ERR_INVALID, "%s: a model needs a name and a path", from);
    if (!is_name(id, id_len))
        return err_set(e, ERR_INVALID,
                       "%s: the name of a model must be UTF-8 without control characters (%s)",
                       from, path);
    struct config_model *m = &c->models[c->n_models];
    *m = (struct config_model){.id = arena_strndup(&c->arena, id, id_len)};
    m->path = arena_strdup(&c->arena, path);
    if (!m->id || !m->path)
        return err_set(e, ERR_TOOBIG, "%s: the model's path is too long", from);
    for (int i = 0; i < c->n_models; i++)
        if (!strcmp(c->models[i].id, m->id))
            return err_set(e, ERR_INVALID, "%s: two models are called %s", from, m->id);
    c->n_models++;
    return 0;
}

/* "[NAME=]PATH"; without a name the file's own, less its ending. */
static int add_named_model(struct config *c, const char *arg, struct err *e)
{
    const char *eq = strchr(arg, '=');
    if (eq)
        return config_add_model(c, arg, (size_t)(eq - arg), eq + 1, "-m", e);
    size_t len = strlen(arg);
    while (len > 1 && arg[len - 1] == '/')
        len--;
    size_t start = len;
    while (start > 0 && arg[start - 1] != '/')
        start--;
    size_t id_len = len - start;
    static const char *const endings[] = {".gguf", ".safetensors"};
    for (size_t i = 0; i < 2; i++) {
        size_t n = strlen(endings[i]);
        if (id_len > n && !memcmp(arg + len - n, endings[i], n))
            id_len -= n;
    }
    return config_add_model(c, arg + start, id_len, arg, "-m", e);
}

/* "[NAME=]PATH[,option=value]..." */
static int add_model_flag(struct config *c, const char *arg, struct err *e)
{
    struct {
        const char *name, *value;
        size_t len;
    } found[N_MODEL_OPTIONS];
    char *text = arena_strdup(&c->arena, arg), *at;
    size_t len;
    int n = 0;
    if (!text)
        return err_set(e, ERR_TOOBIG, "-m: the model's path is too long");
    for (; n < N_MODEL_OPTIONS && (at = last_option(text, &len)) != NULL; n++) {
        found[n].name = at + 1;
        found[n].len = len;
        found[n].value = at + len + 2;
        *at = '\0';
    }
    int rc = add_named_model(c, text, e);
    for (int i = 0; i < n && rc == 0; i++)
        rc = set_model_option(c, &c->models[c->n_models - 1], found[i].name, found[i].len,
                              found[i].value, "-m", e);
    return rc;
}

/* {"path": ..., option: ...} */
static int file_model(struct config *c, const struct cJSON *obj, const char *from, struct err *e)
{
    const char *id = json_key(obj), *path = json_str(json_get(obj, "path"));
    int rc = config_add_model(c, id, strlen(id), path ? path : "", from, e);
    for (const struct cJSON *v = json_first(obj); v && rc == 0; v = json_next(v)) {
        const char *key = json_key(v);
        if (strcmp(key, "path") == 0)
            continue;
        if (!json_str(v))
            return err_set(e, ERR_INVALID, "%s: %s of model %s must be a string", from, key, id);
        rc = set_model_option(c, &c->models[c->n_models - 1], key, strlen(key), json_str(v), from,
                              e);
    }
    return rc;
}

static int file_models(struct config *c, const struct cJSON *v, const char *from, struct err *e)
{
    if (json_type(v) != JSON_OBJECT)
        return err_set(e, ERR_INVALID, "%s: models must be an object of name: path", from);
    for (const struct cJSON *m = json_first(v); m; m = json_next(m)) {
        bool object = json_type(m) == JSON_OBJECT;
        if (!json_str(m) && !object)
            return err_set(e, ERR_INVALID,
                           "%s: the path of model %s must be a string, or an object with a path",
                           from, json_key(m));
        int rc = object
                     ? file_model(c, m, from, e)
                     : config_add_model(c, json_key(m), strlen(json_key(m)), json_str(m), from, e);
        if (rc)
            return rc;
    }
    return 0;
}

static int file_value(struct config *c, const struct option *o, const struct cJSON *v,
                      const char *from, struct err *e)
{
    if (o->kind == OPT_STR && json_str(v))
        return set_str(c, o, json_str(v), from, e);
    if (o->kind == OPT_INT && json_is_int(v))
        return set_int(c, o, (int64_t)json_num(v), from, e);
    if (o->kind == OPT_BOOL && json_type(v) == JSON_BOOL) {
        *(bool *)slot(c, o) = json_bool(v);
        return 0;
    }
    static const char *const want[] = {"a string", "a whole number", "true or false"};
    return err_set(e, ERR_INVALID, "%s: %s must be %s", from, o->name, want[o->kind]);
}

static const struct option *find(const char *name, size_t len)
{
    for (size_t i = 0; i < N_OPTIONS; i++) {
        const char *n = options[i].name;
        size_t k = 0;
        for (; k < len && n[k]; k++)
            if (n[k] != (name[k] == '-' ? '_' : name[k]))
                break;
        if (k == len && !n[k])
            return &options[i];
    }
    return NULL;
}

static int load_file(struct config *c, const char *path, struct err *e)
{
    struct buf text;
    struct cJSON *doc = NULL;
    buf_init(&text, FILE_BYTES_MAX);
    int rc = file_read(&text, path, e);
    if (!rc) {
        rc = json_parse(&doc, buf_str(&text), text.len, &json_limits_default, e);
        if (rc)
            err_wrap(e, "%s", path);
    }
    if (!rc && json_type(doc) != JSON_OBJECT)
        rc = err_set(e, ERR_INVALID, "%s: the configuration must be a JSON object", path);
    for (const struct cJSON *v = rc ? NULL : json_first(doc); v && !rc; v = json_next(v)) {
        const char *key = json_key(v);
        const struct option *o = find(key, strlen(key));
        if (!strcmp(key, "models"))
            rc = file_models(c, v, path, e);
        else if (o)
            rc = file_value(c, o, v, path, e);
        else
            rc = err_set(e, ERR_INVALID, "%s: there is no option \"%s\"", path, key);
    }
    json_free(doc);
    buf_free(&text);
    return rc;
}

static int load_environment(struct config *c, struct err *e)
{
    for (size_t i = 0; i < N_OPTIONS; i++) {
        char name[64] = "DUETTO_";
        size_t n = strlen(name);
        for (const char *p = options[i].name; *p && n + 1 < sizeof(name); p++)
            name[n++] = (char)(*p >= 'a' && *p <= 'z' ? *p - 'a' + 'A' : *p);
        const char *v = getenv(name); /* NOLINT(concurrency-mt-unsafe): before any thread */
        if (!v)
            continue;
        int rc = set_text(c, &options[i], v, name, e);
        if (rc)
            return rc;
    }
    return 0;
}

struct flag {
    const char *name, *value;
    bool is_file, is_model;
    const struct option *option; /* neither of them */
};

/* The flag at argv[*i], and its value, which may be the next argument. */
static int read_flag(struct flag *f, int argc, char **argv, int *i, struct err *e)
{
    const char *a = argv[*i];
    const char *eq = strncmp(a, "--", 2) ? NULL : strchr(a, '=');
    size_t len = eq ? (size_t)(eq - a) : strlen(a);
    *f = (struct flag){.name = a, .value = eq ? eq + 1 : NULL};
    f->is_file = !strcmp(a, "-c") || (len == 8 && !strncmp(a, "--config", 8));
    f->is_model = !strcmp(a, "-m") || (len == 7 && !strncmp(a, "--model", 7));
    f->option = strncmp(a, "--", 2) ? NULL : find(a + 2, len - 2);
    if (!f->is_file && !f->is_model && !f->option)
        return err_set(e, ERR_INVALID, "unknown option %s (duetto --help lists them)", a);
    bool next_is_flag = *i + 1 >= argc || argv[*i + 1][0] == '-';
    if (!f->value && f->option && f->option->kind == OPT_BOOL && next_is_flag)
        f->value = "true";
    if (f->value)
        return 0;
    if (++*i == argc)
        return err_set(e, ERR_INVALID, "%s needs a value", a);
    f->value = argv[*i];
    return 0;
}

/* One pass over the flags: models (and nothing else) may be repeated.  Without c, just finds -c. */
static int load_flags(struct config *c, int argc, char **argv, int first, const char **file,
                      struct err *e)
{
    bool models_cleared = false;
    for (int i = first; i < argc; i++) {
        struct flag f;
        int rc = read_flag(&f, argc, argv, &i, e);
        if (rc)
            return rc;
        if (f.is_file) {
            *file = f.value;
        } else if (c && f.is_model) {
            if (!models_cleared)
                c->n_models = 0; /* flags replace the file's list */
            models_cleared = true;
            rc = add_model_flag(c, f.value, e);
        } else if (c) {
            rc = set_text(c, f.option, f.value, f.name, e);
        }
        if (rc)
            return rc;
    }
    return 0;
}

static void defaults(struct config *c)
{
    *c = (struct config){0};
    arena_init(&c->arena, 4 << 20);
    for (size_t i = 0; i < N_OPTIONS; i++) {
        const struct option *o = &options[i];
        if (o->kind == OPT_STR)
            *(const char **)slot(c, o) = o->text;
        else if (o->kind == OPT_INT)
            *(int64_t *)slot(c, o) = o->number;
        else
            *(bool *)slot(c, o) = o->number != 0;
    }
}

int config_load(struct config *c, int argc, char **argv, int first, struct err *e)
{
    defaults(c);
    const char *file = NULL;
    int rc = load_flags(NULL, argc, argv, first, &file, e);
    if (!rc && file)
        rc = load_file(c, file, e);
    if (!rc)
        rc = load_environment(c, e);
    if (!rc)
        rc = load_flags(c, argc, argv, first, &file, e);
    if (!rc && !*c->tls_cert_file != !*c->tls_key_file)
        rc = err_set(e, ERR_INVALID, "tls_cert_file and tls_key_file come together");
    if (!rc && c->safety_required && !strcmp(c->safety, "off"))
        rc = err_set(e, ERR_INVALID, "safety_required and safety off exclude each other");
    return rc;
}

void config_free(struct config *c)
{
    arena_free(&c->arena);
}

static void default_text(const struct option *o, struct buf *out)
{
    if (o->kind == OPT_STR)
        buf_printf(out, "%s", *o->text ? o->text : "none");
    else if (o->kind == OPT_INT)
        buf_printf(out, "%lld", (long long)o->number);
    else
        buf_adds(out, o->number ? "true" : "false");
}

void config_help(struct buf *out)
{
    for (size_t i = 0; i < N_OPTIONS; i++) {
        const struct option *o = &options[i];
        static const char *const kinds[] = {" TEXT", " N", ""};
        char flag[48];
        snprintf(flag, sizeof(flag), "--%s%s", o->name, kinds[o->kind]);
        buf_printf(out, "  %-32s %s (", flag, o->help);
        default_text(o, out);
        buf_adds(out, ")\n");
    }
}

void config_json(const struct config *c, struct buf *out)
{
    struct json_writer w;
    buf_adds(out, "{\n");
    for (size_t i = 0; i < N_OPTIONS; i++) {
        const struct option *o = &options[i];
        struct buf one;
        buf_init(&one, 8192);
        json_begin(&w, &one);
        if (o->kind == OPT_STR)
            json_put_str(&w, NULL, *(const char *const *)slot_const(c, o));
        else if (o->kind == OPT_INT)
            json_put_int(&w, NULL, *(const int64_t *)slot_const(c, o));
        else
            json_put_bool(&w, NULL, *(const bool *)slot_const(c, o));
        buf_printf(out, "  \"%s\": %s%s\n", o->name, buf_str(&one), i + 1 < N_OPTIONS ? "," : "");
        buf_free(&one);
    }
    buf_adds(out, "}\n");
}

void config_markdown(struct buf *out)
{
    buf_adds(out, "| option | default | range | meaning |\n| --- | --- | --- | --- |\n");
    for (size_t i = 0; i < N_OPTIONS; i++) {
        const struct option *o = &options[i];
        buf_printf(out, "| `%s` | ", o->name);
        default_text(o, out);
        if (o->kind == OPT_INT)
            buf_printf(out, " | %lld to %lld", (long long)o->min, (long long)o->max);
        else
            buf_printf(out, " | %s",
                       o->kind == OPT_BOOL ? "true, false"
                       : o->choices        ? o->choices
                                           : "text");
        buf_printf(out, " | %s |\n", o->help);
    }
}

enum { MAX_KEYS = 1024 };

/* "NAME=VALUE": which of these values, a NULL behind the last; NULL: none of them. */
static const char *key_setting(const char *word, const char *name, const char *const *values)
{
    const size_t n = strlen(name);
    if (strncmp(word, name, n) != 0 || word[n] != '=')
        return NULL;
    while (*values && strcmp(word + n + 1, *values) != 0)
        values++;
    return *values;
}

/* "safety=flag text_filter=flag", what stands behind a key. */
static int read_key_settings(const struct config *c, struct config_keys *k, char *words,
                             struct err *e)
{
    char *rest = NULL;
    for (char *w = strtok_r(words, " \t", &rest); w; w = strtok_r(NULL, " \t", &rest)) {
        static const char *const pictures[] = {"block", "blur", "flag", NULL};
        static const char *const texts[] = {"block", "flag", NULL};
        const char *safety = key_setting(w, "safety", pictures);
        const char *filter = key_setting(w, "text_filter", texts);
        if (!safety && !filter)
            return err_set(e, ERR_INVALID,
                           "API key %d: \"%.40s\" behind it is not safety=block, blur or flag, nor "
                           "text_filter=block or flag",
                           k->n + 1, w);
        if (safety && !strcmp(c->safety, "off"))
            return err_set(e, ERR_INVALID, "API key %d has %s, but safety is off", k->n + 1, w);
        if (filter && !*c->text_filter)
            return err_set(e, ERR_INVALID, "API key %d has %s, but there is no text_filter",
                           k->n + 1, w);
        k->safety[k->n] = safety ? safety : k->safety[k->n];
        k->text_filter[k->n] = filter ? filter : k->text_filter[k->n];
    }
    return 0;
}

/* Splits s at any of seps and appends the non-empty trimmed parts. */
static int split_keys(struct config *c, const char *s, const char *seps, struct config_keys *k,
                      struct err *e)
{
    while (*s) {
        s += strspn(s, " \t");
        size_t len = strcspn(s, seps), end = len;
        while (end && (s[end - 1] == ' ' || s[end - 1] == '\r' || s[end - 1] == '\t'))
            end--;
        if (end && *s != '#') {
            if (k->n == MAX_KEYS)
                return err_set(e, ERR_TOOBIG, "at most %d API keys", MAX_KEYS);
            char *key = arena_strndup(&c->arena, s, end);
            if (!key)
                return err_set(e, ERR_TOOBIG, "an API key is too long");
            size_t n = strcspn(key, " \t");
            bool more = key[n] != '\0';
            key[n] = '\0';
            k->keys[k->n] = key;
            k->safety[k->n] = c->safety;
            k->text_filter[k->n] = c->text_filter_action;
            int rc = more ? read_key_settings(c, k, key + n + 1, e) : 0;
            if (rc)
                return rc;
            k->n++;
        }
        s += len + (s[len] != '\0');
    }
    return 0;
}

/* Keys that the environment and a file have; meant to guard the server, so neither may be empty. */
static int read_keys(struct config *c, const char *variable, const char *path,
                     struct config_keys *k, struct err *e)
{
    const int before = k->n;
    const char *env = getenv(variable); /* NOLINT(concurrency-mt-unsafe): at start */
    int rc = env ? split_keys(c, env, ",", k, e) : 0;
    if (!rc && env && *env && k->n == before)
        rc = err_set(e, ERR_INVALID, "%s has no key in it", variable);
    if (rc || !*path)
        return rc;
    struct buf text;
    buf_init(&text, FILE_BYTES_MAX);
    rc = file_read(&text, path, e);
    if (!rc)
        rc = split_keys(c, buf_str(&text), "\n", k, e);
    if (!rc && k->n == before)
        rc = err_set(e, ERR_INVALID, "%s: no key in it", path);
    buf_free(&text);
    return rc;
}

int config_api_keys(struct config *c, struct config_keys *k, struct err *e)
{
    k->n = 0;
    k->keys = arena_array(&c->arena, MAX_KEYS, sizeof(*k->keys));
    k->safety = arena_array(&c->arena, MAX_KEYS, sizeof(*k->safety));
    k->text_filter = arena_array(&c->arena, MAX_KEYS, sizeof(*k->text_filter));
    int rc = read_keys(c, "DUETTO_API_KEYS", c->api_keys_file, k, e);
    k->n_api = k->n;
    if (!rc)
        rc = read_keys(c, "DUETTO_ADMIN_KEYS", c->admin_keys_file, k, e);
    return rc;
}
