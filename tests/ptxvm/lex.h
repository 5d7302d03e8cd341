/* Words, numbers and marks of PTX text. */
#ifndef TESTS_PTXVM_LEX_H
#define TESTS_PTXVM_LEX_H
#include <stddef.h>
#include <stdint.h>

enum lex_kind { LEX_END, LEX_WORD, LEX_INT, LEX_F32, LEX_F64, LEX_STRING, LEX_MARK, LEX_BAD };

struct lex_token {
    enum lex_kind kind;
    const char *at; /* in the text; a string without its quotes */
    size_t len;
    uint64_t bits; /* of a number */
    int line;
};

struct lex {
    const char *at, *end;
    int line;
    struct lex_token t; /* the current one */
};

void lex_start(struct lex *x, const char *text, size_t len); /* stands on the first token */
void lex_next(struct lex *x);
#endif
