/* UTF-8: checks, decoding, whole-character borders; NFC and the properties of characters (through
 * utf8proc).  Thread: any. */
#ifndef BASE_UTF8_H
#define BASE_UTF8_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

bool utf8_valid(const char *s, size_t n);
/* Decodes one character at s (n > 0): its length in bytes, code point in *cp.  On an invalid byte:
 * returns 1 and *cp = 0xFFFD. */
int utf8_decode(const char *s, size_t n, uint32_t *cp);
/* Where no character is at s: the bytes that one U+FFFD stands for, as in Unicode's chapter 3.9. */
int utf8_broken(const char *s, size_t n);
int utf8_encode(char out[4], uint32_t cp); /* bytes written; cp above U+10FFFF gives U+FFFD */
/* How many leading bytes of s are whole characters (or can never become one): what may be sent
 * now.  The rest, at most 3 bytes, is an unfinished character. */
size_t utf8_whole(const char *s, size_t n);
/* Length in bytes after replacing invalid sequences with U+FFFD; writes to out unless NULL. */
size_t utf8_repair(char *out, const char *s, size_t n);
/* NFC; result from malloc (caller frees), NULL when out of memory or the input is not UTF-8. */
char *utf8_nfc(const char *s, size_t n, size_t *out_len);
char *utf8_nfd(const char *s, size_t n, size_t *out_len); /* likewise */

/* One code point, in the classes of Python's str methods; any number is allowed. */
bool utf8_is_space(uint32_t cp);
bool utf8_is_cased(uint32_t cp);     /* Lu, Ll, Lt */
bool utf8_is_letter(uint32_t cp);    /* those and Lm, Lo */
bool utf8_is_digit(uint32_t cp);     /* Nd */
bool utf8_is_printable(uint32_t cp); /* what repr() leaves as it is */
bool utf8_is_mark(uint32_t cp);      /* Mn: accents that take no room */
bool utf8_is_punct(uint32_t cp);     /* P in all its kinds */
bool utf8_is_control(uint32_t cp);   /* Cc, Cf, Co */
uint32_t utf8_upper(uint32_t cp);    /* the simple mappings: one code point each */
uint32_t utf8_lower(uint32_t cp);
uint32_t utf8_title(uint32_t cp);
/* The number that n hex digits write, at most 8 of them; false where one is none. */
bool utf8_hex(const char *s, int n, uint32_t *out);
#endif
