/* A GET /health over a plain socket, three seconds at most. */
#include "server/healthcheck.h"

#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#define TIMEOUT_S 3

static int ask(int fd, char *answer, size_t max)
{
    static const char request[] =
        "GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    if (send(fd, request, sizeof(request) - 1, MSG_NOSIGNAL) != (ssize_t)sizeof(request) - 1)
        return ERR_IO;
    size_t len = 0;
    ssize_t n;
    while (len + 1 < max && (n = recv(fd, answer + len, max - len - 1, 0)) > 0)
        len += (size_t)n;
    answer[len] = '\0';
    return len ? 0 : ERR_IO;
}

int healthcheck_run(const struct config *c, struct err *e)
{
    const char *host = c->host;
    if (!strcmp(host, "0.0.0.0"))
        host = "127.0.0.1";
    else if (!strcmp(host, "::"))
        host = "::1";
    char service[16], answer[1024] = "";
    snprintf(service, sizeof(service), "%d", (int)c->port);
    struct addrinfo *list, hints = {.ai_socktype = SOCK_STREAM};
    if (getaddrinfo(host, service, &hints, &list))
        return err_set(e, ERR_IO, "host %s is unknown", host);
    int fd = socket(list->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct timeval limit = {.tv_sec = TIMEOUT_S};
    int rc = 0;
    if (fd >= 0) {
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
    }
    if (fd < 0 || connect(fd, list->ai_addr, list->ai_addrlen))
        rc = err_set(e, ERR_UNAVAILABLE, "nothing listens on %s port %s", host, service);
    else if (!*c->tls_cert_file && ask(fd, answer, sizeof(answer)))
        rc = err_set(e, ERR_UNAVAILABLE, "no answer within %d s", TIMEOUT_S);
    else if (!*c->tls_cert_file && strncmp(answer, "HTTP/1.1 200", 12)) {
        const char *body = strstr(answer, "\r\n\r\n");
        rc = err_set(e, ERR_UNAVAILABLE, "unhealthy: %.200s", body ? body + 4 : answer);
    }
    if (fd >= 0)
        close(fd);
    freeaddrinfo(list);
    return rc;
}
