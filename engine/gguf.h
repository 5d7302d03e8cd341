/* GGUF v2 and v3 files over mmap (ggml docs/gguf.md).  Every count, offset, type and size is checked
 * at open; what the getters return can be used without further checks.
 * Thread: any once open. */
#ifndef ENGINE_GGUF_H
#define ENGINE_GGUF_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/file.h"
#include "kernels/tensor.h"

struct gguf; /* owns the mapping */

int gguf_open(struct gguf **out, const char *path, struct err *e); /* ERR_CORRUPT, ERR_IO ... */
void gguf_close(struct gguf *g);
struct file *gguf_file(struct gguf *g);
/* map_hash of all that stands before the weights: vocabulary, template, shapes. */
uint64_t gguf_digest(const struct gguf *g);

struct gguf_tensor {
    const char *name;
    enum dtype type;
    int ndim;
    int64_t dims[4];  /* PyTorch order: [n_out, n_in]; GGUF stores the reverse */
    const void *data; /* within the mapping, not aligned for certain */
    size_t bytes;
};
int gguf_n_tensors(const struct gguf *g);
const struct gguf_tensor *gguf_tensor_at(const struct gguf *g, int i);
const struct gguf_tensor *gguf_tensor_find(const struct gguf *g, const char *name); /* or NULL */

/* Scalars: absent leaves *v alone and returns 0; a value of another kind is ERR_CORRUPT naming the
 * key.  Integers of every width are accepted when the value fits and lies in [min, max]. */
int gguf_get_int(const struct gguf *g, const char *key, int64_t *v, int64_t min, int64_t max,
                 struct err *e);
int gguf_get_float(const struct gguf *g, const char *key, float *v, struct err *e); /* finite */
int gguf_get_bool(const struct gguf *g, const char *key, bool *v, struct err *e);
/* Not NUL-terminated in the file: pointer and length into the mapping; strings may hold any bytes. */
struct gguf_str {
    const char *data;
    size_t len;
};
int gguf_get_str(const struct gguf *g, const char *key, struct gguf_str *v, struct err *e);

/* Arrays.  Absent: n = 0. */
struct gguf_arr {
    uint32_t type; /* GGUF value type of the elements */
    size_t n;
    const char *data;            /* fixed-size elements only, unaligned */
    const struct gguf_str *strs; /* string elements only */
};
int gguf_get_strs(const struct gguf *g, const char *key, struct gguf_arr *v, struct err *e);
/* Element types as asked (any int width / f32), else ERR_CORRUPT; read with the accessors. */
int gguf_get_ints(const struct gguf *g, const char *key, struct gguf_arr *v, struct err *e);
int gguf_get_floats(const struct gguf *g, const char *key, struct gguf_arr *v, struct err *e);
int64_t gguf_arr_int(const struct gguf_arr *a, size_t i);
float gguf_arr_float(const struct gguf_arr *a, size_t i);
bool gguf_has(const struct gguf *g, const char *key);
#endif
