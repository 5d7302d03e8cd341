/* What a model thinks before it answers, <think>...</think> in front of the answer, as its own text
 * (reasoning_content).  Some templates write the first tag themselves.
 * Thread: loop; think_grammar also on one worker during api_begin. */
#ifndef API_THINK_H
#define API_THINK_H
#include "base/buf.h"
#include "engine/text/grammar.h"

enum think_start {
    THINK_NOT,   /* the text is all answer */
    THINK_MAYBE, /* it may begin with the tag */
    THINK_OPEN,  /* it begins behind the tag */
};

/* How an answer begins after this prompt, of a template that speaks of the tags. */
enum think_start think_start(const char *prompt, size_t n);

struct think {
    enum { THINK_BEFORE, THINK_WITHIN, THINK_BEHIND, THINK_OVER } state;
    bool opened;     /* the first tag is there */
    bool begun;      /* a thought is out */
    bool counted;    /* n_tokens is final */
    int n_tokens;    /* of thoughts and their tags, once think_count was told of them */
    struct buf held; /* what may be a tag, and white space in front of one */
};
void think_init(struct think *t, enum think_start start);
void think_free(struct think *t);
/* More of the text: what is thought, and what is said. */
void think_push(struct think *t, const char *s, size_t n, struct buf *thought, struct buf *said);
void think_end(struct think *t, struct buf *thought, struct buf *said); /* no more comes */
/* After think_push, before think_end: n tokens have made the text so far. */
void think_count(struct think *t, int n);

/* Thoughts, and then the answer; with THINK_MAYBE the answer alone as well. */
grammar_sym think_grammar(struct grammar *g, enum think_start start, grammar_sym answer);
#endif
