/* step_cache: an object or a short text to the job's spec. */
#include "api/image_cache.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { INTERVAL_MAX = 100, BRANCH_MAX = 200, THRESHOLD_MAX = 10 };

static const char *const names[] = {
    [STEP_CACHE_NONE] = "off",
    [STEP_CACHE_DEEPCACHE] = "deepcache",
    [STEP_CACHE_FIRST_BLOCK] = "first_block",
};
static const struct step_cache_spec defaults[] = {
    [STEP_CACHE_NONE] = {.kind = STEP_CACHE_NONE},
    [STEP_CACHE_DEEPCACHE] = {.kind = STEP_CACHE_DEEPCACHE, .interval = 3},
    [STEP_CACHE_FIRST_BLOCK] = {.kind = STEP_CACHE_FIRST_BLOCK, .threshold = 0.1f},
};

static int bad(struct err *e, const char *what)
{
    err_set(e, ERR_INVALID, "%s", what);
    return err_param(e, "step_cache");
}

static int check_threshold(const struct step_cache_spec *s, struct err *e)
{
    if (s->kind != STEP_CACHE_FIRST_BLOCK || s->threshold > 0)
        return 0;
    return bad(e, "step_cache: threshold must be above 0, and 10 at most");
}

/* ---- as text ---- */

static bool find_kind(const char *name, size_t len, struct step_cache_spec *to)
{
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strlen(names[i]) == len && memcmp(names[i], name, len) == 0) {
            *to = defaults[i];
            return true;
        }
    }
    return false;
}

int image_cache_text(const char *text, struct step_cache_spec *to, struct err *e)
{
    const char *const usage =
        "step_cache must be off, deepcache:INTERVAL:BRANCH (2 to 100, 0 to 200) or "
        "first_block:THRESHOLD (above 0, and 10 at most)";
    const size_t len = strcspn(text, ":");
    struct step_cache_spec s = defaults[STEP_CACHE_NONE];
    char rest;
    if (*text != '\0' && !find_kind(text, len, &s))
        return bad(e, usage);
    const char *more = text + len;
    bool good = *more == '\0';
    if (!good && strlen(more) < 16 && s.kind == STEP_CACHE_DEEPCACHE)
        good = sscanf(more, ":%3d%c", &s.interval, &rest) == 1 ||
               sscanf(more, ":%3d:%3d%c", &s.interval, &s.branch, &rest) == 2;
    else if (!good && strlen(more) < 16 && s.kind == STEP_CACHE_FIRST_BLOCK)
        good = sscanf(more, ":%f%c", &s.threshold, &rest) == 1 && s.threshold <= THRESHOLD_MAX;
    if (good && s.kind == STEP_CACHE_DEEPCACHE)
        good = s.interval >= 2 && s.interval <= INTERVAL_MAX && s.branch >= 0 &&
               s.branch <= BRANCH_MAX;
    if (!good || check_threshold(&s, NULL) != 0)
        return bad(e, usage);
    *to = s;
    return 0;
}

/* ---- as an object ---- */

/* Members that the kind has; NULL ends them. */
static const char *const members[][4] = {
    [STEP_CACHE_NONE] = {"type", NULL},
    [STEP_CACHE_DEEPCACHE] = {"type", "interval", "branch", NULL},
    [STEP_CACHE_FIRST_BLOCK] = {"type", "threshold", NULL},
};

static int check_members(const struct cJSON *v, enum step_cache_kind kind, struct err *e)
{
    for (const struct cJSON *m = json_first(v); m != NULL; m = json_next(m)) {
        int i = 0;
        while (members[kind][i] != NULL && strcmp(members[kind][i], json_key(m)) != 0)
            i++;
        if (members[kind][i] == NULL) {
            err_set(e, ERR_INVALID, "step_cache of type %s has no member '%.40s'", names[kind],
                    json_key(m));
            return err_param(e, "step_cache");
        }
    }
    return 0;
}

static int parse_object(const struct cJSON *v, struct step_cache_spec *to, struct err *e)
{
    struct step_cache_spec s;
    const char *type = json_str(json_get(v, "type"));
    if (type == NULL || !find_kind(type, strlen(type), &s)) {
        err_set(e, ERR_INVALID, "step_cache.type must be deepcache, first_block or off");
        return err_param(e, "step_cache.type");
    }
    int rc = check_members(v, s.kind, e);
    if (rc != 0)
        return rc;
    int64_t interval = s.interval, branch = s.branch;
    if ((rc = json_get_int(v, "interval", &interval, 2, INTERVAL_MAX, e)) != 0 ||
        (rc = json_get_int(v, "branch", &branch, 0, BRANCH_MAX, e)) != 0 ||
        (rc = json_get_float(v, "threshold", &s.threshold, 0, THRESHOLD_MAX, e)) != 0) {
        char member[64];
        snprintf(member, sizeof member, "%s", e->param);
        return err_param(e, "step_cache.%s", member);
    }
    s.interval = (int)interval;
    s.branch = (int)branch;
    if ((rc = check_threshold(&s, e)) != 0)
        return rc;
    *to = s;
    return 0;
}

int image_cache_parse(const struct cJSON *body, struct step_cache_spec *to, struct err *e)
{
    const struct cJSON *v = json_get(body, "step_cache");
    switch (json_type(v)) {
    case JSON_NULL:
        return 0;
    case JSON_OBJECT:
        return parse_object(v, to, e);
    case JSON_STRING:
        return image_cache_text(json_str(v), to, e);
    case JSON_BOOL:
        if (!json_bool(v)) {
            *to = defaults[STEP_CACHE_NONE];
            return 0;
        }
        break;
    default:
        break;
    }
    return bad(e, "step_cache must be an object with a type, a text like deepcache:3, or false");
}

void image_cache_put(const struct step_cache_spec *s, struct buf *out)
{
    if (s->kind == STEP_CACHE_DEEPCACHE)
        buf_printf(out, ", Step cache: deepcache:%d:%d", s->interval, s->branch);
    else if (s->kind == STEP_CACHE_FIRST_BLOCK)
        buf_printf(out, ", Step cache: first_block:%g", (double)s->threshold);
}
