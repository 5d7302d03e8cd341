/* A directory of a test's own under /tmp, with files in it: cmocka's setup and teardown, and what lies between.
 * A fuzzer opens it once, and has it in memory (TEMP_DIR_PARENT), which is ten times as fast.
 * Thread: one at a time. */
#ifndef TESTS_TEMP_DIR_H
#define TESTS_TEMP_DIR_H
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef TEMP_DIR_PARENT
#define TEMP_DIR_PARENT "/tmp"
#endif

static char temp_dir[64];

static inline int temp_dir_make(void **state)
{
    (void)state;
    snprintf(temp_dir, sizeof temp_dir, TEMP_DIR_PARENT "/duetto-test-XXXXXX");
    return mkdtemp(temp_dir) == NULL;
}

static inline int temp_dir_remove_one(const char *path, const struct stat *st, int flag,
                                      struct FTW *ftw)
{
    (void)st, (void)flag, (void)ftw;
    return remove(path);
}

/* With all that is in it. */
static inline int temp_dir_remove(void **state)
{
    (void)state;
    return nftw(temp_dir, temp_dir_remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

static inline void temp_dir_at_exit(void)
{
    (void)temp_dir_remove(NULL);
}

/* For the whole process. */
static inline void temp_dir_open(void)
{
    if (temp_dir_make(NULL) != 0 || atexit(temp_dir_at_exit) != 0)
        abort();
}

/* Empties it. */
static inline void temp_dir_clear(void)
{
    if (temp_dir_remove(NULL) != 0 || mkdir(temp_dir, 0700) != 0)
        abort();
}

/* Valid until the next call but three. */
static inline const char *temp_dir_path(const char *name)
{
    static char paths[4][512];
    static unsigned next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", temp_dir, name);
    return path;
}

/* A file with these bytes, in place of one that is there. */
static inline void temp_dir_put(const char *name, const void *data, size_t n)
{
    FILE *f = fopen(temp_dir_path(name), "wb");
    if (f == NULL || fwrite(data, 1, n, f) != n || fclose(f) != 0)
        abort();
}

static inline void temp_dir_put_text(const char *name, const char *text)
{
    temp_dir_put(name, text, strlen(text));
}
#endif
