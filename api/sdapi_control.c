/* ControlNet units of stable-diffusion-webui's extension (alwayson_scripts.controlnet.args) as the field "control". */
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "api/sdapi.h"

bool sdapi_control_is(const char *script)
{
    return strcasecmp(script, "controlnet") == 0;
}

static int bad_unit(int i, const char *field, const char *why, struct err *e)
{
    err_set(e, ERR_UNSUPPORTED, "ControlNet unit %d: %s %s", i, field, why);
    return err_param(e, "alwayson_scripts.controlnet");
}

/* "name [hash]" */
static void put_model(struct json_writer *w, const char *name)
{
    const char *hash = strstr(name, " [");
    size_t n = strlen(name);
    if (hash != NULL && name[n - 1] == ']')
        n = (size_t)(hash - name);
    json_put_strn(w, "model", name, n);
}

/* The unit's preprocessor, with its thresholds, under our name. */
static int put_module(struct json_writer *w, const struct cJSON *unit, int i, struct err *e)
{
    static const struct {
        const char *theirs, *ours, *a, *b;
        bool whole; /* the thresholds are whole numbers */
    } all[] = {
        {"none", "none", NULL, NULL, false},
        {"canny", "canny", "low_threshold", "high_threshold", true},
        {"blur_gaussian", "blur", "sigma", NULL, false},
        {"tile_resample", "tile", "factor", NULL, true},
        {"inpaint", "inpaint", NULL, NULL, false},
        {"inpaint_only", "inpaint", NULL, NULL, false},
        {"inpaint_global_harmonious", "inpaint", NULL, NULL, false},
    };
    const char *name = "none";
    const struct cJSON *limits[2] = {json_get(unit, "threshold_a"), json_get(unit, "threshold_b")};
    int err = json_get_str(unit, "module", &name, e);
    if (err != 0)
        return err;
    for (size_t k = 0; k < sizeof all / sizeof *all; k++) {
        if (strcasecmp(all[k].theirs, name) != 0)
            continue;
        json_put_str(w, "preprocessor", all[k].ours);
        const char *fields[2] = {all[k].a, all[k].b};
        for (int t = 0; t < 2; t++) {
            const double v = json_num(limits[t]);
            if (fields[t] == NULL || !(v > 0)) /* -1: the usual */
                continue;
            if (all[k].whole)
                json_put_int(w, fields[t], (int64_t)(v < 1e6 ? v : 1e6));
            else
                json_put_num(w, fields[t], v);
        }
        return 0;
    }
    return bad_unit(i, "module", "is none, canny, blur_gaussian, tile_resample or inpaint_only", e);
}

/* 2, or in words: what the network says counts more than the prompt. */
static int put_mode(struct json_writer *w, const struct cJSON *unit, int i, struct err *e)
{
    static const char *const words[] = {"Balanced", "My prompt is more important",
                                        "ControlNet is more important"};
    const struct cJSON *v = json_get(unit, "control_mode");
    int mode = (int)(json_num(v) >= 0 && json_num(v) <= 2 ? json_num(v) : 3);
    for (int k = 0; json_str(v) != NULL && k < 3; k++)
        mode = strcasecmp(json_str(v), words[k]) == 0 ? k : k == 0 ? 3 : mode;
    if (mode == 1 || mode > 2)
        return bad_unit(i, "control_mode", "is 0 (balanced) or 2 (ControlNet is more important)",
                        e);
    if (mode == 2)
        json_put_bool(w, "guess_mode", true);
    return 0;
}

/* A string, or {"image", "mask"}. */
static void put_picture(struct json_writer *w, const struct cJSON *unit)
{
    const struct cJSON *v = json_get(unit, "image"), *mask = json_get(unit, "mask");
    if (json_type(v) == JSON_NULL)
        v = json_get(unit, "input_image");
    if (json_type(v) == JSON_OBJECT) {
        mask = json_type(mask) == JSON_NULL ? json_get(v, "mask") : mask;
        v = json_get(v, "image");
    }
    if (json_str(v) != NULL && json_str(v)[0] != '\0')
        json_put_str(w, "image", json_str(v));
    if (json_str(mask) != NULL && json_str(mask)[0] != '\0')
        json_put_str(w, "mask", json_str(mask));
}

static int put_unit(struct json_writer *w, const struct cJSON *unit, int i, struct err *e)
{
    const char *model = NULL;
    float weight = 1, start = 0, end = 1;
    int err = json_get_str(unit, "model", &model, e);
    if (err == 0)
        err = json_get_float(unit, "weight", &weight, 0, 10, e);
    if (err == 0)
        err = json_get_float(unit, "guidance_start", &start, 0, 1, e);
    if (err == 0)
        err = json_get_float(unit, "guidance_end", &end, 0, 1, e);
    if (err == 0 && (model == NULL || model[0] == '\0' || strcmp(model, "None") == 0))
        return bad_unit(i, "model", "is missing", e);
    if (err != 0)
        return err_param(e, "alwayson_scripts.controlnet");
    json_open(w, NULL, '{');
    put_model(w, model);
    put_picture(w, unit);
    json_put_num(w, "scale", (double)weight);
    json_put_num(w, "start", (double)start);
    json_put_num(w, "end", (double)end);
    err = put_module(w, unit, i, e);
    if (err == 0)
        err = put_mode(w, unit, i, e);
    json_close(w, '}');
    return err;
}

int sdapi_control_put(const struct cJSON *body, struct json_writer *w, struct err *e)
{
    const struct cJSON *args = NULL, *unit;
    int n = 0, i = 0, err = 0;
    for (const struct cJSON *s = json_first(json_get(body, "alwayson_scripts")); s != NULL;
         s = json_next(s))
        if (sdapi_control_is(json_key(s)))
            args = json_get(s, "args");
    for (unit = json_first(args); err == 0 && unit != NULL; unit = json_next(unit), i++) {
        bool enabled = true;
        if (json_type(unit) != JSON_OBJECT)
            return bad_unit(i, "the unit", "must be an object", e);
        err = json_get_bool(unit, "enabled", &enabled, e);
        if (err != 0 || !enabled)
            continue;
        if (n++ == 0)
            json_open(w, "control", '[');
        err = put_unit(w, unit, i, e);
    }
    if (n > 0)
        json_close(w, ']');
    return err;
}
