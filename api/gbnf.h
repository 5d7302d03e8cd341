/* Grammars as llama.cpp writes them (GBNF): name ::= "text" [a-z] other (a | b)* c{2,3} # a remark
 * Rules may be used before they are written; the text of the answer is what root makes.
 * Thread: loop, or one worker during api_begin. */
#ifndef API_GBNF_H
#define API_GBNF_H
#include "base/err.h"
#include "engine/text/grammar.h"

/* root's symbol into *out.  ERR_INVALID with the line for what cannot be read, rules that are missing or
 * written twice, and those that begin with themselves; ERR_UNSUPPORTED for tokens as symbols.  param: the
 * request's field, for errors. */
int gbnf_compile(grammar_sym *out, struct grammar *g, struct arena *a, const char *text,
                 const char *param, struct err *e);
#endif
