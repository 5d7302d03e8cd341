/* Single files of models whose weights come from a formula, because they are too large to be checked in: a manifest
 * (tools/make_single_golden.py) to a .safetensors in a new folder below TMPDIR.
 *
 * A line of it is "NAME DIMS SHIFT OFFSET"; value j of line i is OFFSET + k / 2^SHIFT, where k is the highest 11 bits of
 * splitmix64(i 2^32 + j), less 1024. */
#ifndef TESTS_GOLDEN_SEEDED_H
#define TESTS_GOLDEN_SEEDED_H
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SEEDED_LINES_MAX = 2048 };
struct seeded {
    char folder[64], path[96];
};

static float seeded_value(uint64_t number, uint64_t j, int shift, int offset)
{
    uint64_t z = (j + (number << 32) + 1) * 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    z ^= z >> 31;
    return (float)(offset + ldexp((double)(z >> 53) - 1024, -shift));
}

struct seeded_line {
    char name[256], dims[64];
    int shift, offset;
    uint64_t n; /* values */
};

static int seeded_read(const char *manifest, struct seeded_line *lines)
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

static void seeded_open(struct seeded *s, const char *manifest)
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

static void seeded_close(const struct seeded *s)
{
    unlink(s->path);
    rmdir(s->folder);
}
#endif
