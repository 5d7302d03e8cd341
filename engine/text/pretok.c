/* A pre-tokeniser is a list of regular expressions.  The first cuts the text into its matches and
 * what lies between them, the second cuts each of those pieces, and so on (Hugging Face's "Split,
 * Isolated" in sequence).  An expression sees its piece alone: look-arounds end at the piece's
 * ends.
 *
 * The expressions are those of the models' tokenizer.json as llama.cpp and the models' authors quote
 * them; the files themselves were not at hand.  tests/golden checks that PCRE2 reads them as Hugging
 * Face's library does, for 19 of the kinds.  Which kinds normalise (PRETOK_NFC) is from memory.
 *
 * \s and \S are rewritten to Unicode's White_Space, because PCRE2's \s also takes U+180E; \p{Han}
 * alone would mean the script extensions, which take punctuation, so it is \p{sc:Han}.  "Digits" and
 * "Punctuation" of tokenizer.json are written as the expressions they stand for.
 *
 * Expressions that scan to the end of a run of spaces and may then fail would be quadratic in the
 * run ("\s+$"); those are written so that they only start at the run's beginning. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "engine/text/pretok.h"

#include <pcre2.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"

enum {
    MAX_LEVELS = 6,
    BLOCK_BYTES = 4096, /* what is matched at a time once a limit was hit */
    MATCH_LIMIT = 20 * 1000 * 1000,
    HEAP_LIMIT_KIB = 64 * 1024,
    JIT_STACK_MIN = 32 * 1024,
    JIT_STACK_MAX = 4 * 1024 * 1024,
};

struct pretok_kind {
    int flags;
    const char *regex[MAX_LEVELS];
};

/* ---- the expressions ---- */

#define CONTRACTION "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define UPPER       "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER       "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define UPPER_K     "(?:(?!\\p{sc:Han})" UPPER ")" /* Kimi's classes leave out Han */
#define LOWER_K     "(?:(?!\\p{sc:Han})" LOWER ")"
#define SPACES      "\\s+(?!\\S)|\\s+"

/* GPT-2: "Language Models are Unsupervised Multitask Learners", encoder.py; ByteLevel in HF. */
#define GPT2 "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|" SPACES
/* GPT-4's (cl100k) with the number rule given. */
#define GPT4(number)                                     \
    CONTRACTION "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" number \
                "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|" SPACES
/* GPT-4o's (o200k): words break before a capital. */
#define GPT4O(suffix, number, slash)                                                              \
    "[^\\r\\n\\p{L}\\p{N}]?" UPPER "*" LOWER "+" suffix "|[^\\r\\n\\p{L}\\p{N}]?" UPPER "+" LOWER \
    "*" suffix "|" number "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n" slash "]*|\\s*[\\r\\n]+|" SPACES
#define CJK_KANA "[\\x{4E00}-\\x{9FA5}\\x{3040}-\\x{309F}\\x{30A0}-\\x{30FF}]+"
#define DEEPSEEK_V3                                          \
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|" \
    "[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|" SPACES
/* DeepSeek's list of letters that have case. */
#define DEEPSEEK_CASED                                                                          \
    "A-Za-z\\x{B5}\\x{C0}-\\x{D6}\\x{D8}-\\x{F6}\\x{F8}-\\x{1BA}\\x{1BC}-\\x{1BF}"              \
    "\\x{1C4}-\\x{293}\\x{295}-\\x{2AF}\\x{370}-\\x{373}\\x{376}\\x{377}\\x{37B}-\\x{37D}"      \
    "\\x{37F}\\x{386}\\x{388}-\\x{38A}\\x{38C}\\x{38E}-\\x{3A1}\\x{3A3}-\\x{3F5}"               \
    "\\x{3F7}-\\x{481}\\x{48A}-\\x{52F}\\x{531}-\\x{556}\\x{10A0}-\\x{10C5}\\x{13A0}-\\x{13F5}" \
    "\\x{13F8}-\\x{13FD}\\x{1C90}-\\x{1CBA}\\x{1CBD}-\\x{1CBF}\\x{1D00}-\\x{1D2B}"              \
    "\\x{1D6B}-\\x{1D77}\\x{1D79}-\\x{1D9A}\\x{1E00}-\\x{1F15}\\x{1F18}-\\x{1F1D}"              \
    "\\x{1F20}-\\x{1F45}\\x{1F48}-\\x{1F4D}\\x{1F50}-\\x{1F57}\\x{1F59}\\x{1F5B}\\x{1F5D}"      \
    "\\x{1F5F}-\\x{1F7D}\\x{1F80}-\\x{1FB4}\\x{1FB6}-\\x{1FBC}\\x{1FBE}\\x{1FC2}-\\x{1FC4}"     \
    "\\x{1FC6}-\\x{1FCC}\\x{1FD0}-\\x{1FD3}\\x{1FD6}-\\x{1FDB}\\x{1FE0}-\\x{1FEC}"              \
    "\\x{1FF2}-\\x{1FF4}\\x{1FF6}-\\x{1FFC}\\x{2102}\\x{2107}\\x{210A}-\\x{2113}\\x{2115}"      \
    "\\x{2119}-\\x{211D}\\x{2124}\\x{2126}\\x{2128}\\x{212A}-\\x{212D}\\x{212F}-\\x{2134}"      \
    "\\x{2139}\\x{213C}-\\x{213F}\\x{2145}-\\x{2149}\\x{214E}\\x{2183}\\x{2184}"                \
    "\\x{2C00}-\\x{2C7B}\\x{2C7E}-\\x{2CE4}\\x{2CEB}-\\x{2CEE}\\x{2CF2}\\x{2CF3}"               \
    "\\x{A640}-\\x{A66D}\\x{A680}-\\x{A69B}\\x{A722}-\\x{A76F}\\x{A771}-\\x{A787}"              \
    "\\x{A78B}-\\x{A78E}\\x{AB70}-\\x{ABBF}\\x{FB00}-\\x{FB06}\\x{FB13}-\\x{FB17}"              \
    "\\x{FF21}-\\x{FF3A}\\x{FF41}-\\x{FF5A}\\x{10400}-\\x{1044F}\\x{104B0}-\\x{104D3}"          \
    "\\x{104D8}-\\x{104FB}\\x{10C80}-\\x{10CB2}\\x{10CC0}-\\x{10CF2}\\x{118A0}-\\x{118DF}"      \
    "\\x{1E900}-\\x{1E943}"
#define DEEPSEEK_CJK "[\\x{4E00}-\\x{9FA5}\\x{800}-\\x{4E00}\\x{AC00}-\\x{D7FF}]+"
#define BLOOM        " ?[^(\\s|.,!?\\x{2026}\\x{3002}\\x{FF0C}\\x{3001}\\x{964}\\x{6D4}\\x{60C})]+"

static const struct pretok_kind kind_default = {
    0, {"[\\p{P}$+<=>^~|]+", GPT2, "\\p{N}+", "[0-9][0-9][0-9]"}};
static const struct pretok_kind kind_gpt2 = {0, {GPT2}};
static const struct pretok_kind kind_gpt2_nfc = {PRETOK_NFC, {GPT2}};
static const struct pretok_kind kind_digits = {0, {"\\p{N}", GPT2}};
static const struct pretok_kind kind_digits_nfc = {PRETOK_NFC, {"\\p{N}", GPT2}};
static const struct pretok_kind kind_falcon = {0, {"[\\p{P}$+<=>^~|`]+", GPT2, "[0-9][0-9][0-9]"}};
static const struct pretok_kind kind_llama3 = {PRETOK_WHOLE_WORDS | PRETOK_BOS,
                                               {GPT4("\\p{N}{1,3}")}};
static const struct pretok_kind kind_gpt4 = {0, {GPT4("\\p{N}{1,3}")}};
static const struct pretok_kind kind_qwen2 = {PRETOK_NFC, {GPT4("\\p{N}")}};
static const struct pretok_kind kind_gpt4_digit = {0, {GPT4("\\p{N}")}};
static const struct pretok_kind kind_qwen35 = {
    PRETOK_NFC,
    {CONTRACTION "|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| ?[^\\s\\p{L}\\p{M}\\p{N}]+"
                 "[\\r\\n]*|\\s*[\\r\\n]+|" SPACES}};
static const struct pretok_kind kind_laguna = {0, {"[^\\n]+|[\\n]+", GPT4("\\p{N}")}};
static const struct pretok_kind kind_minicpm5 = {PRETOK_WHOLE_WORDS,
                                                 {"\\p{N}{1,3}", GPT4("\\p{N}+")}};
static const struct pretok_kind kind_deepseek_llm = {
    0,
    {"[\\r\\n]", "\\s?[" DEEPSEEK_CASED "]+",
     "\\s?[!-/:-~\\x{FF01}-\\x{FF0F}\\x{FF1A}-\\x{FF5E}\\x{2018}-\\x{201F}\\x{3000}-\\x{3002}]+",
     "(?<!\\s)\\s++\\z", DEEPSEEK_CJK, "\\p{N}"}};
static const struct pretok_kind kind_deepseek_coder = {
    0, {"[\\r\\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", DEEPSEEK_CJK, "\\p{N}"}};
static const struct pretok_kind kind_deepseek_v3 = {0, {"\\p{N}{1,3}", CJK_KANA, DEEPSEEK_V3}};
static const struct pretok_kind kind_youtu = {
    PRETOK_WHOLE_WORDS,
    {"[\\x{AC00}-\\x{D7A3}\\x{3131}-\\x{318E}]+|[\\x{FF01}\\x{2026}\\x{201C}\\x{201D}\\x{2018}"
     "\\x{2019}\\x{2014}\\x{FF1A}\\x{FF1B}\\x{FF0C}\\x{3001}-\\x{303F}\\x{FE30}-\\x{FE4F}]+|"
     "[\\x{3105}-\\x{312F}]+|" CJK_KANA,
     GPT4O(CONTRACTION "?", "\\p{N}", "/")}};
static const struct pretok_kind kind_tekken = {PRETOK_WHOLE_WORDS | PRETOK_BOS,
                                               {GPT4O("", "\\p{N}", "/")}};
static const struct pretok_kind kind_gpt4o = {0, {GPT4O(CONTRACTION "?", "\\p{N}{1,3}", "/")}};
static const struct pretok_kind kind_kimi = {
    0,
    {"\\p{sc:Han}+|[^\\r\\n\\p{L}\\p{N}]?" UPPER_K "*" LOWER_K "+" CONTRACTION
     "?|[^\\r\\n\\p{L}\\p{N}]?" UPPER_K "+" LOWER_K "*" CONTRACTION
     "?|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|" SPACES}};
static const struct pretok_kind kind_bailing = {
    0,
    {"'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*|"
     "\\s*[\\r\\n]|" SPACES}};
static const struct pretok_kind kind_seed_coder = {
    0,
    {CONTRACTION "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1}| ?[^\\s\\p{L}\\p{N}\\r\\n]+|"
                 "\\s*[\\r\\n]+|" SPACES}};
static const struct pretok_kind kind_bloom = {0, {BLOOM}};
/* CLIP's own words, then GPT-2's within them: it parts "<|endoftext|>" again. */
static const struct pretok_kind kind_clip = {
    0,
    {"<\\|startoftext\\|>|<\\|endoftext\\|>|'s|'t|'re|'ve|'m|'ll|'d|\\p{L}+|\\p{N}|"
     "[^\\s\\p{L}\\p{N}]+",
     GPT2}};
static const struct pretok_kind kind_viking = {0, {BLOOM, "\\p{N}"}};

static const struct {
    const char *name;
    const struct pretok_kind *kind;
} names[] = {
    {"default", &kind_default},
    {"gpt-2", &kind_gpt2},
    {"phi-2", &kind_gpt2},
    {"jais", &kind_gpt2},
    {"gigachat", &kind_gpt2},
    {"a.x-4.0", &kind_gpt2},
    {"mellum", &kind_gpt2},
    {"exaone4", &kind_gpt2},
    {"trillion", &kind_gpt2},
    {"granite-docling", &kind_gpt2},
    {"modern-bert", &kind_gpt2},
    {"mpt", &kind_gpt2_nfc},
    {"olmo", &kind_gpt2_nfc},
    {"smollm", &kind_digits},
    {"starcoder", &kind_digits},
    {"refact", &kind_digits},
    {"codeshell", &kind_digits},
    {"exaone", &kind_digits},
    {"minerva-7b", &kind_digits},
    {"mellum2", &kind_digits},
    {"command-r", &kind_digits_nfc},
    {"falcon", &kind_falcon},
    {"llama-bpe", &kind_llama3},
    {"llama3", &kind_llama3},
    {"llama-v3", &kind_llama3},
    {"falcon3", &kind_llama3},
    {"falcon-h1", &kind_llama3},
    {"pixtral", &kind_llama3},
    {"midm-2.0", &kind_llama3},
    {"lfm2", &kind_llama3},
    {"dbrx", &kind_gpt4},
    {"smaug-bpe", &kind_gpt4},
    {"glm4", &kind_gpt4},
    {"chatglm-bpe", &kind_gpt4},
    {"qwen2", &kind_qwen2},
    {"deepseek-r1-qwen", &kind_qwen2},
    {"megrez", &kind_gpt4_digit},
    {"kormo", &kind_gpt4_digit},
    {"stablelm2", &kind_gpt4_digit},
    {"hunyuan", &kind_gpt4_digit},
    {"grok-2", &kind_gpt4_digit},
    {"solar-open", &kind_gpt4_digit},
    {"qwen35", &kind_qwen35},
    {"laguna", &kind_laguna},
    {"minicpm5", &kind_minicpm5},
    {"deepseek-llm", &kind_deepseek_llm},
    {"deepseek-coder", &kind_deepseek_coder},
    {"deepseek-v3", &kind_deepseek_v3},
    {"hunyuan-dense", &kind_deepseek_v3},
    {"joyai-llm", &kind_deepseek_v3},
    {"youtu", &kind_youtu},
    {"tekken", &kind_tekken},
    {"gpt-4o", &kind_gpt4o},
    {"llama4", &kind_gpt4o},
    {"kanana2", &kind_gpt4o},
    {"minimax-m2", &kind_gpt4o},
    {"kimi-k2", &kind_kimi},
    {"bailingmoe", &kind_bailing},
    {"bailingmoe2", &kind_bailing},
    {"llada-moe", &kind_bailing},
    {"seed-coder", &kind_seed_coder},
    {"bloom", &kind_bloom},
    {"gpt3-finnish", &kind_bloom},
    {"poro-chat", &kind_bloom},
    {"viking", &kind_viking},
    {"clip", &kind_clip},
};
enum { N_NAMES = sizeof names / sizeof *names };

/* ---- compiling ---- */

struct pretok {
    const char *name;
    int flags;
    int n_levels;
    pcre2_code *code[MAX_LEVELS];
};

struct pretok_work {
    pcre2_match_context *context;
    pcre2_jit_stack *jit_stack;
    pcre2_match_data *match[MAX_LEVELS];
};

/* \s and \S as Unicode has them; everything else as it is.  NULL: out of memory. */
static char *rewrite_spaces(const char *regex)
{
    static const char white[] = "\\p{White_Space}";
    size_t len = strlen(regex);
    char *out = mem_try(len + 1, sizeof white), *to = out;
    for (size_t i = 0; out && i < len; i++) {
        if (regex[i] == '\\' && (regex[i + 1] == 's' || regex[i + 1] == 'S')) {
            memcpy(to, white, sizeof white - 1);
            to[1] = regex[i + 1] == 's' ? 'p' : 'P';
            to += sizeof white - 1;
            i++;
        } else {
            if (regex[i] == '\\')
                *to++ = regex[i++];
            *to++ = regex[i];
        }
    }
    return out;
}

static int compile(pcre2_code **out, const char *regex, const char *name, struct err *e)
{
    char *rewritten = rewrite_spaces(regex);
    if (!rewritten)
        return err_set(e, ERR_NOMEM, "no memory for the pre-tokeniser %s", name);
    int code;
    size_t at;
    *out = pcre2_compile((PCRE2_SPTR)rewritten, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP, &code,
                         &at, NULL);
    free(rewritten);
    if (!*out)
        return err_set(e, code == PCRE2_ERROR_NOMEMORY ? ERR_NOMEM : ERR_UNSUPPORTED,
                       "the pre-tokeniser %s does not compile (PCRE2 error %d at %zu)", name, code,
                       at);
    (void)pcre2_jit_compile(*out, PCRE2_JIT_COMPLETE); /* without it, it is only slower */
    return 0;
}

int pretok_open(struct pretok **out, const char *name, size_t len, struct err *e)
{
    size_t i = 0;
    while (len && i < N_NAMES &&
           (strlen(names[i].name) != len || memcmp(names[i].name, name, len) != 0))
        i++;
    if (i == N_NAMES)
        return err_set(e, ERR_UNSUPPORTED, "the pre-tokeniser \"%.*s\" is not built in",
                       len < 64 ? (int)len : 64, name);
    struct pretok *p = xcalloc(1, sizeof *p);
    p->name = names[i].name;
    p->flags = names[i].kind->flags;
    for (int l = 0; l < MAX_LEVELS && names[i].kind->regex[l]; l++) {
        int rc = compile(&p->code[l], names[i].kind->regex[l], p->name, e);
        if (rc) {
            pretok_close(p);
            return rc;
        }
        p->n_levels++;
    }
    *out = p;
    return 0;
}

void pretok_close(struct pretok *p)
{
    if (!p)
        return;
    for (int l = 0; l < p->n_levels; l++)
        pcre2_code_free(p->code[l]);
    free(p);
}

const char *pretok_name(const struct pretok *p)
{
    return p->name;
}

int pretok_flags(const struct pretok *p)
{
    return p->flags;
}

const char *pretok_name_at(size_t i)
{
    return i < N_NAMES ? names[i].name : NULL;
}

/* ---- matching ---- */

struct pretok_work *pretok_work_new(const struct pretok *p)
{
    struct pretok_work *w = xcalloc(1, sizeof *w);
    w->context = pcre2_match_context_create(NULL);
    if (!w->context)
        goto fail;
    for (int l = 0; l < p->n_levels; l++) {
        /* Only the bounds of the whole match are read. */
        w->match[l] = pcre2_match_data_create(1, NULL);
        if (!w->match[l])
            goto fail;
    }
    pcre2_set_match_limit(w->context, MATCH_LIMIT);
    pcre2_set_heap_limit(w->context, HEAP_LIMIT_KIB);
    w->jit_stack = pcre2_jit_stack_create(JIT_STACK_MIN, JIT_STACK_MAX, NULL);
    if (w->jit_stack) /* else PCRE2 uses 32 KiB of the thread's */
        pcre2_jit_stack_assign(w->context, NULL, w->jit_stack);
    return w;
fail:
    pretok_work_free(w);
    return NULL;
}

void pretok_work_free(struct pretok_work *w)
{
    if (!w)
        return;
    for (int l = 0; l < MAX_LEVELS; l++)
        pcre2_match_data_free(w->match[l]);
    pcre2_jit_stack_free(w->jit_stack);
    pcre2_match_context_free(w->context);
    free(w);
}

struct split {
    const struct pretok *p;
    struct pretok_work *w;
    pretok_fn *fn;
    void *arg;
};

/* The end of a block that starts at `at`: a character's border. */
static size_t block_end(const char *text, size_t at, size_t len)
{
    if (len - at <= BLOCK_BYTES)
        return len;
    size_t end = at + BLOCK_BYTES;
    while (end > at + 1 && ((unsigned char)text[end] & 0xC0) == 0x80)
        end--;
    return end;
}

static int split_level(const struct split *s, int level, const char *text, size_t len)
{
    if (len == 0)
        return 0;
    if (level == s->p->n_levels)
        return s->fn(s->arg, text, len);
    size_t done = 0, at = 0; /* text before `done` is passed on; matching goes on at `at` */
    size_t end = len;        /* of the text that matching sees: len, or a block's end */
    bool in_blocks = false;
    while (done < len) {
        int n = at < end ? pcre2_match(s->p->code[level], (PCRE2_SPTR)text, end, at,
                                       PCRE2_NO_UTF_CHECK, s->w->match[level], s->w->context)
                         : PCRE2_ERROR_NOMATCH;
        if (n < 0 && n != PCRE2_ERROR_NOMATCH && !in_blocks) {
            in_blocks = true; /* a limit was hit: smaller pieces from here on */
            end = block_end(text, done, len);
            at = done;
            continue;
        }
        size_t from = end, to = end; /* of the match; without one, the rest is one piece */
        if (n >= 0) {
            const size_t *v = pcre2_get_ovector_pointer(s->w->match[level]);
            from = v[0];
            to = v[1];
            if (to <= from) { /* no expression here matches nothing; never loop on it */
                at = end;
                continue;
            }
        }
        int rc = from > done ? split_level(s, level + 1, text + done, from - done) : 0;
        if (!rc && to > from)
            rc = split_level(s, level + 1, text + from, to - from);
        if (rc)
            return rc;
        done = at = to;
        if (done == end && end < len)
            end = block_end(text, done, len);
    }
    return 0;
}

int pretok_split(const struct pretok *p, struct pretok_work *w, const char *text, size_t len,
                 pretok_fn *fn, void *arg)
{
    return split_level(&(struct split){p, w, fn, arg}, 0, text, len);
}
