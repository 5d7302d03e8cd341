/* The vocabulary of a tokenizer: every token's text as the file has it, the bytes it stands for and
 * its type.  Copied out of the GGUF, so that nothing points into the mapping afterwards.
 * Thread: any once open. */
#ifndef ENGINE_TEXT_VOCAB_H
#define ENGINE_TEXT_VOCAB_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/map.h"

struct gguf;

enum {
    VOCAB_MAX_TOKENS = 1 << 20,
    VOCAB_MAX_TOKEN_BYTES = 1 << 16,
    VOCAB_MAX_MERGED_BYTES =
        512, /* longer tokens come from no merge (cost of building: bytes x this) */
};

enum token_type { /* the numbers of tokenizer.ggml.token_type */
                  TOKEN_NORMAL = 1,
                  TOKEN_UNKNOWN = 2,
                  TOKEN_CONTROL = 3,
                  TOKEN_USER = 4, /* text that is always one token */
                  TOKEN_UNUSED = 5,
                  TOKEN_BYTE = 6, /* "<0x41>" */
};

struct vocab_str {
    const char *data;
    size_t len;
};

struct vocab {
    size_t n;
    struct vocab_str *token; /* as in the file */
    struct vocab_str *piece; /* the bytes it stands for */
    uint8_t *type;           /* enum token_type */
    struct map by_token;     /* token text -> id; of equal texts the first */
    size_t max_piece;        /* bytes of the longest piece, at least 1 */
    char *token_bytes, *piece_bytes;
};

/* byte_level: pieces are decoded with the GPT-2 byte alphabet, else with SentencePiece's rules
 * (U+2581 is a space, "<0x41>" is a byte).  ERR_CORRUPT, ERR_NOMEM. */
int vocab_open(struct vocab *v, const struct gguf *g, bool byte_level, struct err *e);
void vocab_close(struct vocab *v);
int32_t vocab_find(const struct vocab *v, const char *s, size_t len); /* -1: none */

/* The GPT-2 alphabet: the code point (below 0x200) that a byte is written as. */
uint32_t vocab_byte_to_cp(unsigned char b);
/* The byte of "<0x00>" to "<0xFF>", -1 for any other text. */
int vocab_parse_byte(const char *s, size_t len);

/* Token ids as they are found, with the caller's maximum enforced on every push. */
struct token_list {
    int32_t *ids; /* from mem_try */
    size_t n, cap, max;
};
int token_list_push(struct token_list *l, int32_t id, struct err *e); /* ERR_TOOBIG, ERR_NOMEM */

/* *text and *len become valid UTF-8: they stay, or are a repaired copy in *copy, for free() (else NULL).
 * ERR_TOOBIG for more than max bytes, ERR_NOMEM. */
int vocab_repair_text(const char **text, size_t *len, size_t max, char **copy, struct err *e);
#endif
