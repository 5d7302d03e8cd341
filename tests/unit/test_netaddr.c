/* Which addresses are public, at both ends of every range that is not, and networks as text. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <arpa/inet.h>
#include <cmocka.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "base/netaddr.h"

static struct netaddr address(const char *text)
{
    struct sockaddr_in v4 = {.sin_family = AF_INET};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6};
    struct netaddr a = {0};
    if (inet_pton(AF_INET, text, &v4.sin_addr) == 1) {
        assert_true(netaddr_of(&a, (struct sockaddr *)&v4));
    } else {
        assert_int_equal(inet_pton(AF_INET6, text, &v6.sin6_addr), 1);
        assert_true(netaddr_of(&a, (struct sockaddr *)&v6));
    }
    return a;
}

static bool is_public(const char *text)
{
    const struct netaddr a = address(text);
    return netaddr_is_public(&a);
}

static void netaddr_public_hosts_are_public(void **state)
{
    (void)state;
    static const char *const some[] = {
        "1.0.0.0",         "1.1.1.1",        "8.8.8.8",        "9.255.255.255",
        "11.0.0.0",        "100.63.255.255", "100.128.0.0",    "126.255.255.255",
        "128.0.0.0",       "168.63.129.15",  "168.63.129.17",  "169.253.255.255",
        "169.255.0.0",     "172.15.255.255", "172.32.0.0",     "191.255.255.255",
        "192.0.1.0",       "192.0.3.0",      "192.88.98.255",  "192.88.100.0",
        "192.167.255.255", "192.169.0.0",    "198.17.255.255", "198.20.0.0",
        "198.51.99.255",   "198.51.101.0",   "203.0.112.255",  "203.0.114.0",
        "223.255.255.255", "2000::1",        "2001:200::1",    "2001:4860:4860::8888",
        "2001:db7::1",     "2001:db9::1",    "2001:ffff::1",   "2003::1",
        "2606:4700::1111", "3ffe:ffff::1",   "3fff:1000::1",   "::ffff:8.8.8.8",
    };
    for (size_t i = 0; i < sizeof some / sizeof *some; i++)
        if (!is_public(some[i]))
            fail_msg("%s is public", some[i]);
}

static void netaddr_everything_else_is_not(void **state)
{
    (void)state;
    static const char *const some[] = {
        /* IPv4: first and last of each range */
        "0.0.0.0",
        "0.255.255.255",
        "10.0.0.0",
        "10.255.255.255",
        "100.64.0.0",
        "100.100.100.200",
        "100.127.255.255",
        "127.0.0.0",
        "127.0.0.1",
        "127.255.255.255",
        "168.63.129.16",
        "169.254.0.0",
        "169.254.169.254",
        "169.254.255.255",
        "172.16.0.0",
        "172.31.255.255",
        "192.0.0.0",
        "192.0.0.192",
        "192.0.0.255",
        "192.0.2.0",
        "192.0.2.255",
        "192.88.99.0",
        "192.88.99.255",
        "192.168.0.0",
        "192.168.255.255",
        "198.18.0.0",
        "198.19.255.255",
        "198.51.100.0",
        "198.51.100.255",
        "203.0.113.0",
        "203.0.113.255",
        "224.0.0.0",
        "239.255.255.255",
        "240.0.0.0",
        "255.255.255.255",
        /* IPv6 */
        "::",
        "::1",
        "::2",
        "1fff:ffff::1",
        "4000::",
        "ffff::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::ffff:169.254.169.254", /* mapped */
        "::7f00:1",
        "::8.8.8.8", /* compatible */
        "64:ff9b::8.8.8.8",
        "64:ff9b::7f00:1",
        "64:ff9b:1::1", /* NAT64 */
        "100::1",
        "100:0:0:1::1", /* discard */
        "2001::1",
        "2001:0:4136:e378::1",
        "2001:10::1",
        "2001:20::1", /* Teredo, ORCHID */
        "2001:1ff:ffff::1",
        "2001:db8::",
        "2001:db8:ffff::1",
        "2002::",
        "2002:7f00:1::1",
        "2002:808:808::1",
        "2002:ffff::1", /* 6to4 */
        "3fff::",
        "3fff:fff::1",
        "5f00::1",
        "fc00::",
        "fd00:ec2::254",
        "fdff:ffff::1",
        "fe80::1",
        "febf::1", /* local */
        "fec0::1",
        "feff::1",
        "ff00::",
        "ff02::1",
        "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
    };
    for (size_t i = 0; i < sizeof some / sizeof *some; i++)
        if (is_public(some[i]))
            fail_msg("%s is not public", some[i]);
}

static void netaddr_knows_two_families(void **state)
{
    (void)state;
    struct sockaddr_un local = {.sun_family = AF_UNIX};
    struct netaddr a;
    assert_false(netaddr_of(&a, (struct sockaddr *)&local));
}

static bool in(const char *a, const char *net)
{
    struct netaddr_net n;
    const struct netaddr x = address(a);
    if (!netaddr_net_parse(&n, net, strlen(net)))
        fail_msg("%s is a network", net);
    return netaddr_in(&x, &n);
}

static void netaddr_networks_have_their_addresses(void **state)
{
    (void)state;
    assert_true(in("10.1.2.3", "10.0.0.0/8"));
    assert_false(in("11.0.0.0", "10.0.0.0/8"));
    assert_true(in("10.1.2.3", "10.1.2.3"));
    assert_false(in("10.1.2.4", "10.1.2.3"));
    assert_true(in("10.1.2.3", "10.1.2.2/31"));
    assert_false(in("10.1.2.4", "10.1.2.2/31"));
    assert_true(in("::ffff:10.1.2.3", "10.0.0.0/8"));
    assert_true(in("200.1.1.1", "0.0.0.0/0"));
    assert_false(in("::1", "0.0.0.0/0"));
    assert_true(in("fd12::1", "fd00::/8"));
    assert_false(in("fc12::1", "fd00::/8"));
    assert_true(in("::1", "::1"));
    assert_true(in("127.0.0.1", "::/0"));
    assert_true(in("2001:db8::8000", "2001:db8::8000/113"));
    assert_false(in("2001:db8::7fff", "2001:db8::8000/113"));
}

static void netaddr_refuses_what_is_no_network(void **state)
{
    (void)state;
    static const char *const some[] = {
        "",
        "/",
        "/8",
        "10",
        "10.0.0",
        "10.0.0.0/",
        "10.0.0.0/33",
        "10.0.0.0/-1",
        "10.0.0.0/8/8",
        "10.0.0.0/ 8",
        "010.0.0.0/8x",
        "::/129",
        "::/1000",
        ":::",
        "example.org",
        "[::1]",
        "::1%lo",
        "0000:0000:0000:0000:0000:0000:0000:0000:0000:0000:0000:0000/128",
    };
    struct netaddr_net n;
    for (size_t i = 0; i < sizeof some / sizeof *some; i++)
        if (netaddr_net_parse(&n, some[i], strlen(some[i])))
            fail_msg("'%s' is no network", some[i]);
    assert_false(netaddr_net_parse(&n, "10.0.0.0\0/8", 11));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(netaddr_public_hosts_are_public),
        cmocka_unit_test(netaddr_everything_else_is_not),
        cmocka_unit_test(netaddr_knows_two_families),
        cmocka_unit_test(netaddr_networks_have_their_addresses),
        cmocka_unit_test(netaddr_refuses_what_is_no_network),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
