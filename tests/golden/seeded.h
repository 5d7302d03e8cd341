/* Single files of models whose weights come from a formula, because they are too large to be checked in: a manifest
 * (tools/make_single_golden.py) to a .safetensors in a new folder below TMPDIR.
 *
 * A line of it is "NAME DIMS SHIFT OFFSET"; value j of line i is OFFSET + k / 2^SHIFT, where k is the highest 11 bits of
 * splitmix64(i 2^32 + j), less 1024.
 *
 * Or the head of a file of any kind and a list (tools/make_files_golden.py) to that file.  A line of it is
 * "TYPE N SHIFT OFFSET", the tensors in the file's order, and k the highest 8 bits, less 128; k >> 2 where OFFSET is 1.
 * Q8_0 has k as its codes, Q4_0 k >> 4. */
#ifndef TESTS_GOLDEN_SEEDED_H
#define TESTS_GOLDEN_SEEDED_H
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "kernels/quant.h"

enum { SEEDED_LINES_MAX = 2048 };
struct seeded {
    char folder[64], path[96];
};

static inline uint64_t seeded_bits(uint64_t number, uint64_t j)
{
    uint64_t z = (j + (number << 32) + 1) * 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

static inline float seeded_value(uint64_t number, uint64_t j, int shift, int offset)
{
    return (float)(offset + ldexp((double)(seeded_bits(number, j) >> 53) - 1024, -shift));
}

struct seeded_line {
    char name[256], dims[64];
    int shift, offset;
    uint64_t n; /* values */
};

static inline int seeded_read(const char *manifest, struct seeded_line *lines)
{
    FILE *f = fopen(manifest, "r");
    int n = 0;
    assert_non_null(f);
    while (n < SEEDED_LINES_MAX && fscanf(f, "%255s %63s %d %d", lines[n].name, lines[n].dims,
                                          &lines[n].shift, &lines[n].offset) == 4) {
        lines[n].n = 1;
        for (const char *at = lines[n].dims; at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL)
            lines[n].n *= strtoull(at, NULL, 10);
        n++;
    }
    fclose(f);
    return n;
}

static inline void seeded_open(struct seeded *s, const char *manifest)
{
    struct seeded_line *lines = calloc(SEEDED_LINES_MAX, sizeof *lines);
    const int n = seeded_read(manifest, lines);
    char *header = calloc((size_t)n, 512);
    size_t len = 0;
    uint64_t at = 0;
    for (int i = 0; i < n; i++) {
        const uint64_t end = at + lines[i].n * sizeof(float);
        len += (size_t)sprintf(
            header + len,
            "%s\"%s\":{\"dtype\":\"F32\",\"shape\":[%s],\"data_offsets\":[%llu,%llu]}",
            i > 0 ? "," : "{", lines[i].name, lines[i].dims, (unsigned long long)at,
            (unsigned long long)end);
        at = end;
    }
    header[len++] = '}';
    const char *tmp = getenv("TMPDIR");
    snprintf(s->folder, sizeof s->folder, "%.40s/seeded.XXXXXX", tmp ? tmp : "/tmp");
    assert_non_null(mkdtemp(s->folder));
    snprintf(s->path, sizeof s->path, "%s/model.safetensors", s->folder);
    FILE *f = fopen(s->path, "w");
    assert_non_null(f);
    const uint64_t header_bytes = len;
    fwrite(&header_bytes, sizeof header_bytes, 1, f);
    fwrite(header, 1, len, f);
    for (int i = 0; i < n; i++) {
        for (uint64_t j = 0; j < lines[i].n; j++) {
            const float v = seeded_value((uint64_t)i, j, lines[i].shift, lines[i].offset);
            fwrite(&v, sizeof v, 1, f);
        }
    }
    assert_int_equal(fclose(f), 0);
    free(header);
    free(lines);
}

static inline void seeded_close(const struct seeded *s)
{
    unlink(s->path);
    rmdir(s->folder);
}

/* ---- behind a head ---- */

enum { SEEDED_BLOCK = 32, SEEDED_ALIGN = 32 /* of a GGUF's tensors */ };

static inline int seeded_code(uint64_t number, uint64_t j)
{
    return (int)(seeded_bits(number, j) >> 56) - 128;
}

/* 32 values from the j-th on; returns bytes. */
static inline size_t seeded_block(unsigned char *to, enum dtype type, uint64_t number, uint64_t j,
                                  const int shift_offset[2])
{
    const float unit = ldexpf(1, -shift_offset[0]);
    float v[SEEDED_BLOCK];
    if (type == DTYPE_Q8_0 || type == DTYPE_Q4_0) { /* the codes themselves, behind their scale */
        const uint16_t scale = f32_to_f16(unit);
        memcpy(to, &scale, sizeof scale);
        for (int k = 0; k < SEEDED_BLOCK / 2; k++) {
            const int low = seeded_code(number, j + (uint64_t)k);
            const int high = seeded_code(number, j + (uint64_t)k + SEEDED_BLOCK / 2);
            to[2 + k] = (unsigned char)low;
            if (type == DTYPE_Q8_0)
                to[2 + k + SEEDED_BLOCK / 2] = (unsigned char)high;
            else
                to[2 + k] = (unsigned char)((low + 128) / 16 | (high + 128) / 16 << 4);
        }
        return dtype_bytes(type, SEEDED_BLOCK);
    }
    for (int k = 0; k < SEEDED_BLOCK; k++) {
        const float code = (float)seeded_code(number, j + (uint64_t)k);
        v[k] = shift_offset[1] ? 1 + floorf(code / 4) * unit : code * unit;
    }
    assert_true(quant_pack(type, to, v, SEEDED_BLOCK));
    return dtype_bytes(type, SEEDED_BLOCK);
}

static inline enum dtype seeded_type(const char *name)
{
    static const enum dtype types[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16, DTYPE_Q8_0, DTYPE_Q4_0};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (strcasecmp(dtype_name(types[i]), name) == 0)
            return types[i];
    fail_msg("no type %s", name);
    return DTYPE_F32;
}

/* The file at path: head, its bytes up to the data, and what the list says of these. */
static inline void seeded_fill(const char *path, const char *head, const char *list)
{
    unsigned char block[SEEDED_BLOCK * sizeof(float)];
    FILE *in = fopen(head, "r"), *lines = fopen(list, "r"), *out = fopen(path, "w");
    const bool aligned = strstr(path, ".gguf") != NULL;
    assert_true(in != NULL && lines != NULL && out != NULL);
    for (int c = fgetc(in); c != EOF; c = fgetc(in))
        fputc(c, out);
    char name[8];
    long n;
    int how[2];
    for (uint64_t t = 0; fscanf(lines, "%7s %ld %d %d", name, &n, how, how + 1) == 4; t++) {
        const enum dtype type = seeded_type(name);
        size_t bytes = 0;
        for (long j = 0; j < n; j += SEEDED_BLOCK) {
            const long some = n - j < SEEDED_BLOCK ? n - j : SEEDED_BLOCK;
            const size_t size = seeded_block(block, type, t, (uint64_t)j, how);
            bytes += fwrite(block, 1, size * (size_t)some / SEEDED_BLOCK, out);
        }
        for (; aligned && bytes % SEEDED_ALIGN != 0; bytes++)
            fputc(0, out);
    }
    assert_int_equal(fclose(in) | fclose(lines) | fclose(out), 0);
}
#endif
