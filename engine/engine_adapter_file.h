/* Names of adapters and their files in the engine's directory (engine/adapters.h).
 * Thread: any. */
#ifndef ENGINE_ENGINE_ADAPTER_FILE_H
#define ENGINE_ENGINE_ADAPTER_FILE_H
#include <dirent.h>

#include "engine/adapters.h"

enum { ENGINE_ADAPTER_PATH_MAX = 4096 };

/* The name's file; false: there is none. */
bool engine_adapter_file_path(const struct engine *g, const char *name,
                              char path[ENGINE_ADAPTER_PATH_MAX]);
/* There is no file that is read; perhaps one that is not: the error that says so. */
int engine_adapter_file_missing(const struct engine *g, const char *name, struct err *e);
/* Where the server keeps its files is not for clients. */
void engine_adapter_file_hide(const struct engine *g, struct err *e);
/* The adapter's name of a directory entry; false: it is none. */
bool engine_adapter_file_name(const struct engine *g, const struct dirent *d,
                              char name[ENGINE_ADAPTER_NAME_MAX]);
#endif
