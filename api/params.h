/* The fields that chat, completions and captions share: one table of name, type and range.  It does the
 * parsing, decides what is unknown, and becomes the schemas of /openapi.json.
 * Thread: loop, or one worker during api_begin. */
#ifndef API_PARAMS_H
#define API_PARAMS_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "engine/job.h"

struct cJSON;

enum param_kind {
    PARAM_BOOL,
    PARAM_INT,     /* int64_t in [min, max] */
    PARAM_NUM,     /* float in [min, max] */
    PARAM_STR,     /* checked to be a string; not kept */
    PARAM_TEXT,    /* const char *, borrowed from the body */
    PARAM_CHOICE,  /* int: which of the words in schema, separated by spaces */
    PARAM_OTHER,   /* has its own code; schema says what it looks like */
    PARAM_IGNORED, /* accepted and without effect, whatever it holds */
    PARAM_REFUSED, /* 400 unless null, false, "" or empty: ignoring it would change the answer */
};
enum {
    PARAM_CHAT = 1,
    PARAM_COMPLETIONS = 2,
    PARAM_BOTH = 3,
    PARAM_GENERATE = 4, /* images/generations, api/image_params.c */
    PARAM_EDIT = 8,
    PARAM_VARY = 16,
    PARAM_FROM = PARAM_EDIT | PARAM_VARY, /* a picture that came with the request */
    PARAM_IMAGES = PARAM_GENERATE | PARAM_FROM,
    PARAM_CAPTIONS = 32,
    PARAM_UPSCALE = 64,  /* images/upscale */
    PARAM_ENLARGE = 128, /* the same route with a model that takes a prompt */
    PARAM_PICTURES = PARAM_IMAGES | PARAM_UPSCALE | PARAM_ENLARGE,
    PARAM_DRAWN = PARAM_IMAGES | PARAM_ENLARGE, /* by a diffusion model */
    PARAM_RESPONSES = 256,                      /* with PARAM_CHAT: means the same in both */
    PARAM_MESSAGES = 512,                       /* also */
    PARAM_TALK = PARAM_CHAT | PARAM_RESPONSES | PARAM_MESSAGES,
    PARAM_TEXTS = PARAM_COMPLETIONS | PARAM_TALK,
    PARAM_ALL = PARAM_BOTH | PARAM_CAPTIONS,
    PARAM_ANY = PARAM_CAPTIONS | PARAM_TEXTS,
};

struct param {
    const char *name;
    enum param_kind kind;
    unsigned where;
    double min, max;
    size_t offset;      /* in struct params, or struct image_params */
    const char *schema; /* JSON Schema of PARAM_OTHER; the words of PARAM_CHOICE */
    const char *help;
};
extern const struct param params_table[];
extern const int params_n;

/* What a request asked for, with defaults for what it did not. */
struct params {
    bool stream, include_usage, timings, timings_alias, echo, ignore_eos, include_stop;
    bool chat_logprobs, cache_prompt, skip_special, add_special;
    bool add_generation_prompt, continue_final;
    int64_t n, best_of, max_tokens, top_k, top_logprobs, logprobs,
        repeat_last_n; /* -1: not given */
    int64_t seed;
    bool has_seed;
    const char *prompt; /* of a caption; borrowed, NULL: none */
    int64_t num_beams;
    float length_penalty;
    int mode;               /* enum caption_mode, -1: not given */
    int reasoning;          /* 0: thoughts stay in the text, -1: not given */
    bool include_reasoning; /* they are told */
    int truncation;         /* of a response's conversation: 1 auto */
    float temperature, top_p, min_p, typical_p;
    float presence_penalty, frequency_penalty, repetition_penalty;
};

struct params_limits {
    int max_choices; /* of n */
    int max_stop_bytes;
    size_t max_grammar_bytes;
    int n_vocab; /* 0: ids of logit_bias have no upper bound */
    bool strict;
};

/* The row with this server's limit for counts of choices or pictures, where that is less than the table's. */
struct param params_limited(const struct param *row, int most);

/* One field of body into the struct at p that the row's offset belongs to. */
int params_row(const struct cJSON *body, const struct param *row, void *p, struct err *e);
/* ERR_INVALID (unknown_parameter) for a field that no row of the table allows in `where`. */
int params_check_unknown(const struct cJSON *body, unsigned where, const struct param *table, int n,
                         struct err *e);

/* Reads the shared fields of body into *p and the matching ones of spec (not model, prompts and
 * max_tokens); strings and lists are copied to the arena. */
int params_parse(const struct cJSON *body, unsigned where, const struct params_limits *lim,
                 struct arena *arena, struct params *p, struct text_spec *spec, struct err *e);
#endif
