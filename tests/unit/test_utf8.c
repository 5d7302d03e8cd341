/* UTF-8: every kind of invalid sequence, character borders in streams, NFC. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"

static bool valid(const char *s)
{
    return utf8_valid(s, strlen(s));
}

static void utf8_valid_accepts_the_borders_of_each_length(void **state)
{
    (void)state;
    static const char *const good[] = {
        "",
        "\x01",
        "\x7F",
        "\xC2\x80",
        "\xDF\xBF",
        "\xE0\xA0\x80",
        "\xED\x9F\xBF",
        "\xEE\x80\x80",
        "\xEF\xBF\xBF",
        "\xF0\x90\x80\x80",
        "\xF4\x8F\xBF\xBF",
        "a\xC3\xA9z\xE2\x82\xAC\xF0\x9F\x98\x80",
    };
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        assert_true(valid(good[i]));
    assert_true(utf8_valid("\0", 1));
}

static void utf8_valid_refuses_every_malformed_sequence(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "\x80",                     /* continuation alone */
        "\xBF",                     /* */
        "\xC0\x80",                 /* overlong NUL */
        "\xC1\xBF",                 /* overlong, two bytes */
        "\xE0\x80\x80",             /* overlong, three bytes */
        "\xE0\x9F\xBF",             /* */
        "\xF0\x80\x80\x80",         /* overlong, four bytes */
        "\xF0\x8F\xBF\xBF",         /* */
        "\xED\xA0\x80",             /* surrogates */
        "\xED\xBF\xBF",             /* */
        "\xED\xA0\xBD\xED\xB8\x80", /* a pair of them (CESU-8) */
        "\xF4\x90\x80\x80",         /* above U+10FFFF */
        "\xF5\x80\x80\x80",         /* */
        "\xF8\x88\x80\x80\x80",     /* five bytes */
        "\xFE",                     /* never */
        "\xFF",                     /* */
        "\xC3",                     /* cut off */
        "\xE2\x82",                 /* */
        "\xF0\x9F\x98",             /* */
        "\xC3\x28",                 /* wrong second byte */
        "\xE2\x28\xA1",             /* */
        "\xE2\x82\x28",             /* wrong third byte */
        "\xF0\x9F\x98\x28",         /* wrong fourth byte */
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_false(valid(bad[i]));
}

static void utf8_encode_and_decode_agree_on_every_code_point(void **state)
{
    (void)state;
    for (uint32_t cp = 0; cp <= 0x10FFFF; cp++) {
        char s[4];
        uint32_t back = 0;
        int len = utf8_encode(s, cp);
        bool surrogate = cp >= 0xD800 && cp <= 0xDFFF;
        int want = cp < 0x80 ? 1 : cp < 0x800 ? 2 : cp < 0x10000 ? 3 : 4;
        if (len != want || utf8_decode(s, (size_t)len, &back) != len ||
            back != (surrogate ? 0xFFFD : cp))
            fail_msg("U+%04X", (unsigned)cp);
    }
    char s[4];
    assert_int_equal(utf8_encode(s, 0x110000), 3);
    assert_memory_equal(s, "\xEF\xBF\xBD", 3);
}

static void utf8_decode_steps_over_one_invalid_byte(void **state)
{
    (void)state;
    uint32_t cp = 0;
    assert_int_equal(utf8_decode("\xE2\x82", 2, &cp), 1);
    assert_int_equal(cp, 0xFFFD);
    assert_int_equal(utf8_decode("\xFFz", 2, &cp), 1);
    assert_int_equal(cp, 0xFFFD);
    assert_int_equal(utf8_decode("\xEF\xBF\xBD", 3, &cp), 3); /* the real U+FFFD */
    assert_int_equal(cp, 0xFFFD);
}

static void utf8_whole_holds_back_unfinished_characters_only(void **state)
{
    (void)state;
    static const struct {
        const char *s;
        size_t whole;
    } cases[] = {
        {"", 0},
        {"abc", 3},
        {"a\xC3", 1},
        {"a\xC3\xA9", 3},
        {"a\xE2", 1},
        {"a\xE2\x82", 1},
        {"a\xE2\x82\xAC", 4},
        {"a\xF0\x9F\x98", 1},
        {"a\xF0\x9F\x98\x80", 5},
        {"a\x80", 2},             /* can never become a character */
        {"a\xFF", 2},             /* */
        {"a\xC0", 2},             /* */
        {"a\xE0\x80", 3},         /* overlong whatever follows */
        {"a\xED\xA0", 3},         /* a surrogate whatever follows */
        {"a\xF4\x90", 3},         /* too high whatever follows */
        {"a\xF0\x9F\x98\xF0", 4}, /* the first is broken, the second open */
        {"\x80\x80\x80\x80", 4},  /* */
        {"\xE2\x82\xAC\x80", 4},  /* */
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_int_equal(utf8_whole(cases[i].s, strlen(cases[i].s)), cases[i].whole);
}

static void repairs_to(const char *s, const char *want)
{
    char out[64] = {0};
    size_t n = utf8_repair(NULL, s, strlen(s));
    assert_int_equal(n, strlen(want));
    assert_int_equal(utf8_repair(out, s, strlen(s)), n);
    assert_string_equal(out, want);
}

#define FFFD "\xEF\xBF\xBD"

/* Unicode 15, table 3-8 and its neighbours: one U+FFFD for each maximal subpart. */
static void utf8_repair_replaces_maximal_subparts(void **state)
{
    (void)state;
    repairs_to("a\xC3\xA9", "a\xC3\xA9");
    repairs_to("\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41", FFFD FFFD FFFD FFFD FFFD FFFD FFFD FFFD "A");
    repairs_to("\xED\xA0\x80\xED\xBF\xBF\xED\xAF\x41", FFFD FFFD FFFD FFFD FFFD FFFD FFFD FFFD "A");
    repairs_to("\xF4\x91\x92\x93\xFF\x41\x80\xBF\x42", FFFD FFFD FFFD FFFD FFFD "A" FFFD FFFD "B");
    repairs_to("\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41", FFFD FFFD FFFD FFFD "A");
    repairs_to("\xF0\x9F\x98", FFFD);
}

static void nfc_is(const char *s, const char *want)
{
    size_t n = 0;
    char *out = utf8_nfc(s, strlen(s), &n);
    assert_non_null(out);
    assert_int_equal(n, strlen(want));
    assert_memory_equal(out, want, n);
    free(out);
}

static void utf8_nfc_composes_and_reorders(void **state)
{
    (void)state;
    nfc_is("", "");
    nfc_is("abc", "abc");
    nfc_is("e\xCC\x81", "\xC3\xA9");
    nfc_is("\xE2\x84\xAB", "\xC3\x85");                             /* Angstrom sign */
    nfc_is("\xE1\x84\x80\xE1\x85\xA1", "\xEA\xB0\x80");             /* Hangul */
    nfc_is("q\xCC\x87\xCC\xA3", "q\xCC\xA3\xCC\x87");               /* by combining class */
    nfc_is("\xEF\xAC\x81", "\xEF\xAC\x81");                         /* fi: NFC, not NFKC */
    nfc_is("\xE0\xA4\x95\xE0\xA4\xBC", "\xE0\xA4\x95\xE0\xA4\xBC"); /* composition exclusion */
}

static void utf8_nfc_keeps_nul_and_refuses_invalid_input(void **state)
{
    (void)state;
    size_t n = 0;
    char *out = utf8_nfc("a\0e\xCC\x81", 5, &n);
    assert_non_null(out);
    assert_int_equal(n, 4);
    assert_memory_equal(out, "a\0\xC3\xA9", 4);
    free(out);
    assert_null(utf8_nfc("\xFF", 1, &n));
    assert_null(utf8_nfc("\xED\xA0\x80", 3, &n));
}

static void utf8_nfd_takes_characters_apart(void **state)
{
    (void)state;
    size_t n = 0;
    char *out = utf8_nfd("\xC3\xA9\xEA\xB0\x80", 5, &n);
    assert_non_null(out);
    assert_int_equal(n, 9);
    assert_memory_equal(out, "e\xCC\x81\xE1\x84\x80\xE1\x85\xA1", 9);
    free(out);
    assert_null(utf8_nfd("\xFF", 1, &n));
}

static void utf8_knows_marks_punctuation_and_controls(void **state)
{
    (void)state;
    assert_true(utf8_is_mark(0x301) && !utf8_is_mark(0x903) && !utf8_is_mark('a'));
    assert_true(utf8_is_punct('!') && utf8_is_punct('_') && utf8_is_punct(0x3002));
    assert_false(utf8_is_punct('$') || utf8_is_punct('a') || utf8_is_punct(UINT32_MAX));
    assert_true(utf8_is_control(0) && utf8_is_control(0x200B) && utf8_is_control(0xE000));
    assert_false(utf8_is_control(' ') || utf8_is_control(0x378) || utf8_is_control(0x2028));
}

static void utf8_knows_the_classes_of_characters(void **state)
{
    (void)state;
    static const struct {
        uint32_t cp;
        bool space, cased, letter, digit, printable;
    } cases[] = {
        {'a', 0, 1, 1, 0, 1},      {'Z', 0, 1, 1, 0, 1},        {'7', 0, 0, 0, 1, 1},
        {' ', 1, 0, 0, 0, 1},      {'\n', 1, 0, 0, 0, 0},       {0x1C, 1, 0, 0, 0, 0},
        {0xA0, 1, 0, 0, 0, 0},     {0xDF, 0, 1, 1, 0, 1},       {0x1C5, 0, 1, 1, 0, 1},
        {0x2B0, 0, 0, 1, 0, 1},    {0x4E2D, 0, 0, 1, 0, 1},     {0x663, 0, 0, 0, 1, 1},
        {0xB2, 0, 0, 0, 0, 1},     {0x200B, 0, 0, 0, 0, 0},     {0x3000, 1, 0, 0, 0, 0},
        {0xE000, 0, 0, 0, 0, 0},   {0xD800, 0, 0, 0, 0, 0},     {0x1F600, 0, 0, 0, 0, 1},
        {0, 0, 0, 0, 0, 0},        {0x378, 0, 0, 0, 0, 0},      {0x10FFFF, 0, 0, 0, 0, 0},
        {0x110000, 0, 0, 0, 0, 0}, {UINT32_MAX, 0, 0, 0, 0, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint32_t cp = cases[i].cp;
        assert_int_equal(utf8_is_space(cp), cases[i].space);
        assert_int_equal(utf8_is_cased(cp), cases[i].cased);
        assert_int_equal(utf8_is_letter(cp), cases[i].letter);
        assert_int_equal(utf8_is_digit(cp), cases[i].digit);
        assert_int_equal(utf8_is_printable(cp), cases[i].printable);
    }
}

static void utf8_maps_upper_lower_and_title_case(void **state)
{
    (void)state;
    static const uint32_t cases[][4] = {
        /* character, upper, lower, title */
        {'a', 'A', 'a', 'A'},
        {'A', 'A', 'a', 'A'},
        {'1', '1', '1', '1'},
        {0xE9, 0xC9, 0xE9, 0xC9},
        {0x1C6, 0x1C4, 0x1C6, 0x1C5}, /* dz with caron: title case of its own */
        {0x3C2, 0x3A3, 0x3C2, 0x3A3}, /* final sigma */
        {0x10428, 0x10400, 0x10428, 0x10400},
        {0x4E2D, 0x4E2D, 0x4E2D, 0x4E2D},
        {0x110000, 0x110000, 0x110000, 0x110000},
        {UINT32_MAX, UINT32_MAX, UINT32_MAX, UINT32_MAX},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_int_equal(utf8_upper(cases[i][0]), cases[i][1]);
        assert_int_equal(utf8_lower(cases[i][0]), cases[i][2]);
        assert_int_equal(utf8_title(cases[i][0]), cases[i][3]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(utf8_valid_accepts_the_borders_of_each_length),
        cmocka_unit_test(utf8_valid_refuses_every_malformed_sequence),
        cmocka_unit_test(utf8_encode_and_decode_agree_on_every_code_point),
        cmocka_unit_test(utf8_decode_steps_over_one_invalid_byte),
        cmocka_unit_test(utf8_whole_holds_back_unfinished_characters_only),
        cmocka_unit_test(utf8_repair_replaces_maximal_subparts),
        cmocka_unit_test(utf8_nfc_composes_and_reorders),
        cmocka_unit_test(utf8_nfc_keeps_nul_and_refuses_invalid_input),
        cmocka_unit_test(utf8_nfd_takes_characters_apart),
        cmocka_unit_test(utf8_knows_marks_punctuation_and_controls),
        cmocka_unit_test(utf8_knows_the_classes_of_characters),
        cmocka_unit_test(utf8_maps_upper_lower_and_title_case),
    };
    return cmocka_run_group_tests_name("base/utf8", tests, NULL, NULL);
}
