/* Network addresses: which belong to the public internet, and networks that somebody wrote down.
 * Both families are 16 bytes: IPv4 as ::ffff:a.b.c.d.  Thread: any. */
#ifndef BASE_NETADDR_H
#define BASE_NETADDR_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct sockaddr;

struct netaddr {
    uint8_t b[16]; /* most significant first */
};
struct netaddr_net {
    struct netaddr first;
    int bits; /* 0 ... 128 that count */
};

/* false: neither IPv4 nor IPv6. */
bool netaddr_of(struct netaddr *out, const struct sockaddr *sa);
/* "10.0.0.0/8", "fd00::/8", or one address alone; n bytes of text.  false: it is no network. */
bool netaddr_net_parse(struct netaddr_net *out, const char *text, size_t n);
bool netaddr_in(const struct netaddr *a, const struct netaddr_net *net);
/* A host somewhere on the internet: nothing private, shared, local, reserved, for groups or for examples,
 * and no IPv6 address that stands for an IPv4 one behind a gateway. */
bool netaddr_is_public(const struct netaddr *a);
#endif
