/* A Content-Type (the first line) and a body of any bytes: an error, or parts that lie within the body and
 * are not larger than allowed. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "api/multipart.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool ok)
{
    if (!ok)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct multipart m;
    const struct multipart_limits limits = {64, 1024};
    char type[200];
    const uint8_t *line_end = memchr(data, '\n', size);
    size_t n_type = line_end != NULL ? (size_t)(line_end - data) : 0;
    if (line_end == NULL || n_type >= sizeof type)
        return 0;
    memcpy(type, data, n_type);
    type[n_type] = '\0';
    const char *body = (const char *)line_end + 1;
    size_t n = size - n_type - 1;
    struct err e = {0};
    int rc = multipart_parse(&m, type, body, n, &limits, &e);
    check(rc == 0 || (rc == e.code && e.msg[0] != '\0'));
    check(m.n >= 0 && m.n <= MULTIPART_PARTS_MAX);
    for (int i = 0; rc == 0 && i < m.n; i++) {
        const struct multipart_part *p = &m.parts[i];
        check(p->data >= body && p->data + p->len <= body + n);
        check(p->len <= (p->is_file ? limits.max_file_bytes : limits.max_field_bytes));
        check(p->name[0] != '\0' && strlen(p->name) < sizeof p->name);
    }
    return 0;
}
