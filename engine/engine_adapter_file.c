/* The directory of adapters. */
#include "engine/engine_adapter_file.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "engine/engine_int.h"

static const char *const inner_files[] = {"pytorch_lora_weights.safetensors",
                                          "learned_embeds.safetensors"};
#define SUFFIX ".safetensors"

static bool is_file(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISREG(st.st_mode);
}

bool engine_adapter_file_path(const struct engine *g, const char *name,
                              char path[ENGINE_ADAPTER_PATH_MAX])
{
    snprintf(path, ENGINE_ADAPTER_PATH_MAX, "%s/%s" SUFFIX, g->adapters.dir, name);
    if (is_file(path))
        return true;
    for (size_t i = 0; i < sizeof inner_files / sizeof *inner_files; i++) {
        snprintf(path, ENGINE_ADAPTER_PATH_MAX, "%s/%s/%s", g->adapters.dir, name, inner_files[i]);
        if (is_file(path))
            return true;
    }
    return false;
}

int engine_adapter_file_missing(const struct engine *g, const char *name, struct err *e)
{
    static const char *const pickles[] = {"pt", "bin", "ckpt", "pth"};
    char path[ENGINE_ADAPTER_PATH_MAX];
    for (size_t i = 0; i < sizeof pickles / sizeof *pickles; i++) {
        snprintf(path, sizeof path, "%s/%s.%s", g->adapters.dir, name, pickles[i]);
        if (is_file(path))
            return err_set(
                e, ERR_INVALID,
                "the adapter \"%.80s\" is a PyTorch pickle, which can run code when it is "
                "read and is refused: convert it to safetensors",
                name);
    }
    err_set(e, ERR_NOTFOUND, "there is no adapter \"%.80s\" here", name);
    return err_reason(e, "adapter_not_found");
}

void engine_adapter_file_hide(const struct engine *g, struct err *e)
{
    const size_t n = strlen(g->adapters.dir);
    char *at = strstr(e->msg, g->adapters.dir);
    if (at && at[n] == '/')
        memmove(at, at + n + 1, strlen(at + n + 1) + 1);
}

bool engine_adapter_file_name(const struct engine *g, const struct dirent *d,
                              char name[ENGINE_ADAPTER_NAME_MAX])
{
    char path[ENGINE_ADAPTER_PATH_MAX];
    const char *file = d->d_name;
    const size_t n = strlen(file), end = strlen(SUFFIX);
    const bool whole = n > end && strcmp(file + n - end, SUFFIX) == 0;
    if (file[0] == '.' || n - (whole ? end : 0) >= ENGINE_ADAPTER_NAME_MAX)
        return false;
    snprintf(name, ENGINE_ADAPTER_NAME_MAX, "%.*s", (int)(n - (whole ? end : 0)), file);
    if (d->d_type == DT_REG) /* nothing more to ask: a directory may have thousands of others */
        return whole && engine_adapter_name_ok(name);
    return engine_adapter_name_ok(name) && engine_adapter_file_path(g, name, path);
}
