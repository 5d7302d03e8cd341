/* multipart/form-data (RFC 7578): the parts of a body that is in memory, found and not copied.
 * Thread: any; the parts point into the body. */
#ifndef API_MULTIPART_H
#define API_MULTIPART_H
#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"

#define MULTIPART_PARTS_MAX  64
#define MULTIPART_NAME_MAX   64   /* bytes of a field's name, its end included */
#define MULTIPART_HEADER_MAX 4096 /* bytes of all headers of a part */

struct multipart_limits {
    size_t max_field_bytes; /* of a part without a file name */
    size_t max_file_bytes;
};

struct multipart_part {
    char name[MULTIPART_NAME_MAX];
    bool is_file; /* it came with a file name */
    const char *data;
    size_t len;
};

struct multipart {
    int n;
    struct multipart_part parts[MULTIPART_PARTS_MAX];
};

/* Is this Content-Type a form with files? */
bool multipart_is(const char *content_type);
/* ERR_INVALID for a body that is not whole or not a form, ERR_TOOBIG over a limit. */
int multipart_parse(struct multipart *m, const char *content_type, const char *body, size_t n,
                    const struct multipart_limits *lim, struct err *e);
#endif
