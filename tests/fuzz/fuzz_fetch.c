/* A list of hosts and networks (the first line) and a URL: refused with a sentence, or of http or https without
 * a user.  Nothing is asked. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/fetch.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool ok)
{
    if (!ok)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *line_end = memchr(data, '\n', size);
    if (line_end == NULL || memchr(data, '\0', size) != NULL)
        return 0;
    const size_t n_list = (size_t)(line_end - data), n_url = size - n_list - 1;
    char *list = calloc(n_list + 1, 1), *url = calloc(n_url + 1, 1);
    memcpy(list, data, n_list);
    memcpy(url, line_end + 1, n_url);
    const struct fetch_options o = {.public_hosts = n_list % 2, .allow = list, .ports = "80,443"};
    struct fetch *f = NULL;
    struct err e = {0};
    int rc = fetch_open(&f, &o, &e);
    check(rc == 0 || (rc == ERR_INVALID && e.msg[0] != '\0'));
    if (rc == 0) {
        rc = fetch_check(f, url, &e);
        check(rc == 0 || (rc == ERR_INVALID && e.msg[0] != '\0'));
        const char *host = strstr(url, "://");
        check(rc != 0 ||
              (strncasecmp(url, "http", 4) == 0 && host != NULL &&
               memchr(host + 3, '@', strcspn(host + 3, "/?#")) == NULL && strlen(url) == n_url));
    }
    fetch_close(f);
    free(list);
    free(url);
    return 0;
}
