/* How much memory the system would give this process: what is free, less what cgroups and RLIMIT_AS forbid.
 * Thread: any. */
#ifndef BASE_SYSMEM_H
#define BASE_SYSMEM_H
#include <stddef.h>

/* Bytes that are free now.  root: in front of /proc and /sys, "" but for tests. */
size_t sysmem_free(const char *root);
#endif
