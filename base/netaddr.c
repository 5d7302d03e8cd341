/* What is public follows IANA's registries of special-purpose addresses: of IPv4 all but the ranges
 * listed here, of IPv6 only 2000::/3 and of that again all but those listed. */
#include "base/netaddr.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

enum { V4_BITS = 96 }; /* of ::ffff:0:0 */

static const char *const not_public_v4[] = {
    "0.0.0.0/8",       /* this network, unspecified */
    "10.0.0.0/8",      /* private */
    "100.64.0.0/10",   /* shared, behind a provider's NAT */
    "127.0.0.0/8",     /* loopback */
    "168.63.129.16",   /* a cloud's host, seen from its guests */
    "169.254.0.0/16",  /* link-local; clouds answer about themselves there */
    "172.16.0.0/12",   /* private */
    "192.0.0.0/24",    /* protocol assignments */
    "192.0.2.0/24",    /* examples */
    "192.88.99.0/24",  /* 6to4 relays */
    "192.168.0.0/16",  /* private */
    "198.18.0.0/15",   /* measurements */
    "198.51.100.0/24", /* examples */
    "203.0.113.0/24",  /* examples */
    "224.0.0.0/4",     /* groups */
    "240.0.0.0/4",     /* reserved, broadcast */
};
static const char *const not_public_v6[] = {
    "2001::/23",     /* protocol assignments, Teredo, ORCHID */
    "2001:db8::/32", /* examples */
    "2002::/16",     /* 6to4: an IPv4 address within */
    "3fff::/20",     /* examples */
};

static const struct netaddr_net all_v4 = {{{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0}},
                                          V4_BITS};
static const struct netaddr_net unicast_v6 = {{{0x20}}, 3};

static void from_v4(struct netaddr *out, const void *four)
{
    *out = all_v4.first;
    memcpy(out->b + 12, four, 4);
}

bool netaddr_of(struct netaddr *out, const struct sockaddr *sa)
{
    if (sa->sa_family == AF_INET) {
        struct sockaddr_in v4;
        memcpy(&v4, sa, sizeof v4);
        from_v4(out, &v4.sin_addr);
        return true;
    }
    if (sa->sa_family != AF_INET6)
        return false;
    struct sockaddr_in6 v6;
    memcpy(&v6, sa, sizeof v6);
    memcpy(out->b, &v6.sin6_addr, 16);
    return true;
}

/* Decimal digits up to max; -1: something else. */
static int whole(const char *s, int max)
{
    int v = 0;
    if (*s == '\0' || strlen(s) > 3)
        return -1;
    for (; *s != '\0'; s++) {
        if (*s < '0' || *s > '9')
            return -1;
        v = 10 * v + (*s - '0');
    }
    return v <= max ? v : -1;
}

bool netaddr_net_parse(struct netaddr_net *out, const char *text, size_t n)
{
    char s[INET6_ADDRSTRLEN + 4];
    uint8_t b[16];
    if (n >= sizeof s || memchr(text, '\0', n) != NULL)
        return false;
    memcpy(s, text, n);
    s[n] = '\0';
    char *slash = strchr(s, '/');
    if (slash != NULL)
        *slash++ = '\0';
    const bool v4 = inet_pton(AF_INET, s, b) == 1;
    if (!v4 && inet_pton(AF_INET6, s, b) != 1)
        return false;
    const int max = v4 ? 32 : 128, bits = slash != NULL ? whole(slash, max) : max;
    if (bits < 0)
        return false;
    if (v4)
        from_v4(&out->first, b);
    else
        memcpy(out->first.b, b, sizeof b);
    out->bits = bits + (v4 ? V4_BITS : 0);
    return true;
}

bool netaddr_in(const struct netaddr *a, const struct netaddr_net *net)
{
    const int bytes = net->bits / 8, rest = net->bits % 8;
    const int mask = 0xff00 >> rest & 0xff;
    return memcmp(a->b, net->first.b, (size_t)bytes) == 0 &&
           (rest == 0 || ((a->b[bytes] ^ net->first.b[bytes]) & mask) == 0);
}

static bool in_any(const struct netaddr *a, const char *const *nets, size_t n)
{
    struct netaddr_net net;
    for (size_t i = 0; i < n; i++)
        if (!netaddr_net_parse(&net, nets[i], strlen(nets[i])) || netaddr_in(a, &net))
            return true;
    return false;
}

bool netaddr_is_public(const struct netaddr *a)
{
    if (netaddr_in(a, &all_v4))
        return !in_any(a, not_public_v4, sizeof not_public_v4 / sizeof *not_public_v4);
    return netaddr_in(a, &unicast_v6) &&
           !in_any(a, not_public_v6, sizeof not_public_v6 / sizeof *not_public_v6);
}
