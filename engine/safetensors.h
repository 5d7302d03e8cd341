/* safetensors files over mmap (huggingface.co/docs/safetensors): u64 length, a JSON header, data.
 * Every name, type, shape and range is checked at open; what the getters return can be used without
 * further checks.  Thread: any once open. */
#ifndef ENGINE_SAFETENSORS_H
#define ENGINE_SAFETENSORS_H
#include <stdint.h>

#include "base/err.h"
#include "base/file.h"
#include "kernels/tensor.h"

enum {
    SAFETENSORS_MAX_DIMS = 8,
    SAFETENSORS_MAX_HEADER = 16 << 20, /* bytes */
    SAFETENSORS_MAX_TENSORS = 1 << 15,
};

struct safetensors; /* owns the mapping */

/* ERR_NOTFOUND, ERR_IO, ERR_CORRUPT for a file that contradicts itself (truncated, overlaps, gaps,
 * shapes that do not fit their bytes ...), ERR_UNSUPPORTED for an element type nobody knows. */
int safetensors_open(struct safetensors **out, const char *path, struct err *e);
void safetensors_close(struct safetensors *s); /* NULL is allowed */
struct file *safetensors_file(struct safetensors *s);

struct safetensors_tensor {
    const char *name;
    const char *type_name; /* "F16", as in the file */
    enum dtype type; /* F32, F16, BF16, I32; DTYPE_N for the types that nothing computes with */
    int ndim;        /* 0 for a scalar */
    int64_t dims[SAFETENSORS_MAX_DIMS]; /* PyTorch order: [n_out, n_in]; may be 0 */
    const void *data;                   /* within the mapping, not aligned for certain */
    size_t bytes;                       /* 0 where a dimension is */
};
int safetensors_n_tensors(const struct safetensors *s);
/* In the order of their data. */
const struct safetensors_tensor *safetensors_tensor_at(const struct safetensors *s, int i);
const struct safetensors_tensor *safetensors_find(const struct safetensors *s, const char *name);
/* A string of the header's "__metadata__", or NULL. */
const char *safetensors_metadata(const struct safetensors *s, const char *key);
#endif
