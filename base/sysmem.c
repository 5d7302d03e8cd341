/* Free memory, as /proc and /sys tell it.  A cgroup may use what its limit leaves, and so may every group around it;
 * the files that it has cached count as use there, and are given up as soon as memory is wanted. */
#include "base/sysmem.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

enum { PATH_MAX_BYTES = 4096, UNKNOWN = -1 };

struct hierarchy {
    const char *root,
        *mark; /* where it is mounted; what a line of /proc/self/cgroup has before the path */
    const char *limit, *usage;
    const char *cached[2]; /* in memory.stat: files that are cached, of the group and those in it */
};

static const struct hierarchy hierarchies[] = {
    {"/sys/fs/cgroup", "0::", "memory.max", "memory.current", {"inactive_file ", "active_file "}},
    {"/sys/fs/cgroup/memory",
     ":memory:",
     "memory.limit_in_bytes",
     "memory.usage_in_bytes",
     {"total_inactive_file ", "total_active_file "}},
};

/* The number behind key in the line that starts with it, "" for a bare number; UNKNOWN where there is none, as for
 * "max". */
static int64_t read_number(const char *folder, const char *name, const char *key)
{
    char path[PATH_MAX_BYTES + 64], line[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "re");
    int64_t v = UNKNOWN;
    const size_t n = strlen(key);
    while (f && v < 0 && fgets(line, sizeof line, f)) {
        char *end;
        if (strncmp(line, key, n) != 0)
            continue;
        const long long x = strtoll(line + n, &end, 10);
        if (end != line + n && x >= 0)
            v = x;
    }
    if (f)
        fclose(f);
    return v;
}

static int64_t group_free(const struct hierarchy *h, const char *folder)
{
    const int64_t max = read_number(folder, h->limit, "");
    int64_t used = read_number(folder, h->usage, "");
    if (max < 0 || used < 0)
        return UNKNOWN;
    for (int i = 0; i < 2; i++) {
        const int64_t cached = read_number(folder, "memory.stat", h->cached[i]);
        used -= cached > 0 ? cached : 0;
    }
    used = used > 0 ? used : 0;
    return max > used ? max - used : 0;
}

/* The path of our group in /proc/self/cgroup: "0::/a/b", "4:memory:/a/b". */
static bool find_group(const char *root, const char *mark, char *path, size_t size)
{
    char line[PATH_MAX_BYTES], file[PATH_MAX_BYTES];
    bool found = false;
    snprintf(file, sizeof file, "%s/proc/self/cgroup", root);
    FILE *f = fopen(file, "re");
    while (f && !found && fgets(line, sizeof line, f)) {
        const char *at = strstr(line, mark);
        if (!at)
            continue;
        line[strcspn(line, "\n")] = '\0';
        found = snprintf(path, size, "%s", at + strlen(mark)) < (int)size;
    }
    if (f)
        fclose(f);
    return found;
}

/* The least of our group and those around it, or UNKNOWN.  In a container the path may be the host's; then only the
 * mount's root is there, and it is the container's own. */
static int64_t hierarchy_free(const char *root, const struct hierarchy *h)
{
    char group[PATH_MAX_BYTES / 2], path[PATH_MAX_BYTES];
    if (!find_group(root, h->mark, group, sizeof group))
        group[0] = '\0';
    const int n = snprintf(path, sizeof path, "%s%s", root, h->root);
    snprintf(path + n, sizeof path - (size_t)n, "%s", group);
    int64_t least = UNKNOWN;
    for (;;) {
        const int64_t bytes = group_free(h, path);
        if (bytes >= 0 && (least < 0 || bytes < least))
            least = bytes;
        char *slash = strrchr(path, '/');
        if (!slash || slash < path + n)
            return least;
        *slash = '\0';
    }
}

static int64_t address_space_free(const char *root)
{
    struct rlimit limit;
    char folder[PATH_MAX_BYTES];
    if (getrlimit(RLIMIT_AS, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY ||
        limit.rlim_cur > INT64_MAX)
        return UNKNOWN;
    snprintf(folder, sizeof folder, "%s/proc/self", root);
    const int64_t pages = read_number(folder, "statm", "");
    const int64_t used = pages > 0 ? pages * sysconf(_SC_PAGESIZE) : 0;
    return (int64_t)limit.rlim_cur > used ? (int64_t)limit.rlim_cur - used : 0;
}

size_t sysmem_free(const char *root)
{
    char folder[PATH_MAX_BYTES];
    snprintf(folder, sizeof folder, "%s/proc", root);
    const int64_t kib = read_number(folder, "meminfo", "MemAvailable:");
    int64_t least = kib > 0 ? kib * 1024 : (int64_t)1 << 30;
    const int64_t bounds[] = {hierarchy_free(root, &hierarchies[0]),
                              hierarchy_free(root, &hierarchies[1]), address_space_free(root)};
    for (size_t i = 0; i < sizeof bounds / sizeof *bounds; i++) {
        if (bounds[i] >= 0 && bounds[i] < least)
            least = bounds[i];
    }
    return (size_t)least;
}
