/* model_open on files that are not what they should be: other kinds of files, a model whose keys and
 * tensors contradict each other, one cut short anywhere, one with flipped bits.  All start from
 * tests/fixtures/tiny-llama.gguf.  Whatever still opens must also run. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/rng.h"
#include "engine/gguf.h"
#include "engine/model.h"
#include "tests/temp_dir.h"

#define TINY  "tests/fixtures/tiny-llama.gguf"
#define FLIPS 2000

enum { U32 = 4, I32 = 5, F32 = 6, BOOL = 7, MAX_ROWS = 8 };

static struct backend *be;
static char *tiny; /* the good file's bytes */
static size_t tiny_size, header_size;
static int fd = -1; /* the bad file */
static char path[64];

static int read_tiny(void **state)
{
    (void)state;
    struct err e = {0};
    struct gguf *g = NULL;
    if (gguf_open(&g, TINY, &e) != 0 || backend_open(&be, "cpu", 1, &e) != 0)
        return -1;
    const struct file *f = gguf_file(g);
    tiny_size = f->size;
    tiny = malloc(tiny_size);
    memcpy(tiny, f->data, tiny_size);
    header_size = tiny_size;
    for (int i = 0; i < gguf_n_tensors(g); i++) {
        size_t at = (size_t)((const char *)gguf_tensor_at(g, i)->data - f->data);
        header_size = at < header_size ? at : header_size;
    }
    gguf_close(g);
    fd = memfd_create("model", MFD_CLOEXEC);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    return fd < 0 ? -1 : 0;
}

static int forget_tiny(void **state)
{
    (void)state;
    be->close(be);
    free(tiny);
    return close(fd);
}

static void write_file(const void *p, size_t n)
{
    assert_int_equal(ftruncate(fd, (off_t)n), 0);
    assert_int_equal(pwrite(fd, p, n, 0), (ssize_t)n);
}

static int open_model(struct model **m, const char *file, struct err *e)
{
    const struct model_options o = {
        .max_rows = MAX_ROWS, .max_logits = MAX_ROWS, .kv_type = DTYPE_F16};
    memset(e, 0, sizeof *e);
    *m = NULL;
    return model_open(m, "tiny", file, be, &o, e);
}

static void run_a_little(struct model *m)
{
    const int n_vocab = model_card(m)->n_vocab;
    struct err e = {0};
    char *pool = be->alloc(be, model_page_bytes(m), &e);
    float *logits = calloc((size_t)n_vocab, sizeof *logits);
    assert_non_null(pool);
    assert_non_null(logits);
    int32_t ids[MAX_ROWS], pos[MAX_ROWS], last = MAX_ROWS - 1, page = 0;
    struct kv_row rows[MAX_ROWS];
    for (int i = 0; i < MAX_ROWS; i++) {
        ids[i] = i * 31 % n_vocab;
        pos[i] = i;
        rows[i] = (struct kv_row){.pages = &page, .pos = i};
    }
    const struct text_batch b = {.n_rows = MAX_ROWS,
                                 .ids = ids,
                                 .pos = pos,
                                 .rows = rows,
                                 .n_logits = 1,
                                 .logit_rows = &last,
                                 .logits = logits};
    assert_int_equal(model_forward(m, pool, &b, &e), 0);
    free(logits);
    be->free(be, pool);
}

/* The bad file as it stands: an error with a sentence, or a model that runs.  Returns the code. */
static int try_file(struct err *e)
{
    struct model *m;
    int rc = open_model(&m, path, e);
    if (rc != 0) {
        assert_true(rc < 0 && e->code == rc && e->msg[0] != 0);
        return rc;
    }
    run_a_little(m);
    model_close(m);
    return 0;
}

static void refused(int code, const char *words)
{
    struct err e;
    int rc = try_file(&e);
    if (rc != code || strstr(e.msg, words) == NULL)
        fail_msg("%d \"%s\" instead of %d with \"%s\"", rc, e.msg, code, words);
}

/* ---- good ---- */

static void model_card_tells_what_the_file_is(void **state)
{
    (void)state;
    struct model *m;
    struct err e;
    assert_int_equal(open_model(&m, TINY, &e), 0);
    const struct model_card *c = model_card(m);
    struct stat st;
    assert_int_equal(stat(TINY, &st), 0);
    assert_string_equal(c->id, "tiny");
    assert_string_equal(c->arch, "llama");
    assert_string_equal(c->source, "gguf");
    assert_string_equal(c->quant, "q8_0");
    assert_true(c->kind == MODEL_TEXT && c->created == (int64_t)st.st_mtime);
    assert_int_equal(c->n_vocab, 320);
    assert_int_equal(c->n_ctx_train, 512);
    assert_int_equal(c->n_ctx, 512);
    assert_int_equal(c->n_params,
                     2 * 320 * 64 + 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128) + 5 * 64);
    assert_true(c->weight_bytes > 100000 && c->weight_bytes < 200000);
    assert_non_null(strstr(c->chat_template, "<|im_start|>"));
    assert_int_equal(tokenizer_info(c->tokenizer)->n_vocab, 320);
    assert_int_equal(model_page_bytes(m), 2 * 2 * KV_PAGE_TOKENS * 2 * 16 * 2);
    run_a_little(m);
    model_close(m);
    model_close(NULL);
}

/* Every kind of model, and every type of weights that the fixtures have. */
static void model_says_dry_what_it_will_take(void **state)
{
    (void)state;
    static const char *const paths[] = {
        TINY,
        "tests/fixtures/llama_k_a.gguf",
        "tests/fixtures/llama_bf16.gguf",
        "tests/fixtures/sd_sdxl",
        "tests/fixtures/sd_sd15",
        "tests/fixtures/blip_vqa",
        "tests/fixtures/bert_tiny",
    };
    const struct model_options o = {
        .max_rows = 64, .max_logits = 1, .kv_type = DTYPE_F16, .no_warmup = true};
    struct backend *dry = backend_dry(be);
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
        struct model *m = NULL, *facts = NULL;
        struct err e = {0};
        if (model_open(&facts, "t", paths[i], dry, &o, &e) ||
            model_open(&m, "t", paths[i], be, &o, &e))
            fail_msg("%s: %s", paths[i], e.msg);
        const struct model_card *x = model_card(facts), *y = model_card(m);
        assert_int_equal(x->weight_bytes, y->weight_bytes);
        assert_int_equal(x->n_params, y->n_params);
        assert_int_equal(x->n_ctx, y->n_ctx);
        assert_true(x->weight_bytes > 0);
        model_close(facts);
        model_close(m);
    }
    dry->close(dry);
}

static void model_context_is_bounded_by_training(void **state)
{
    (void)state;
    struct model *m = NULL;
    struct err e = {0};
    struct model_options o = {.n_ctx = 100, .max_rows = 1, .max_logits = 1, .kv_type = DTYPE_F32};
    assert_int_equal(model_open(&m, "t", TINY, be, &o, &e), 0);
    assert_int_equal(model_card(m)->n_ctx, 100);
    assert_int_equal(model_page_bytes(m), 2 * 2 * KV_PAGE_TOKENS * 2 * 16 * 4);
    model_close(m);
    o.n_ctx = 513; /* with a warning */
    assert_int_equal(model_open(&m, "t", TINY, be, &o, &e), 0);
    assert_int_equal(model_card(m)->n_ctx, 512);
    model_close(m);
    o.n_ctx = 2048; /* 4 times, by YaRN from 128 and by linear scaling from 512 */
    assert_int_equal(model_open(&m, "t", "tests/fixtures/llama_linear.gguf", be, &o, &e), 0);
    assert_int_equal(model_card(m)->n_ctx_train, 2048);
    model_close(m);
    assert_int_equal(model_open(&m, "t", "tests/fixtures/llama_yarn.gguf", be, &o, &e), 0);
    assert_in_range(model_card(m)->n_ctx, 1, 2047);
    model_close(m);
}

static void model_opens_the_one_file_of_a_directory(void **state)
{
    (void)state;
    assert_int_equal(temp_dir_make(NULL), 0);
    struct model *m;
    struct err e;
    assert_int_equal(open_model(&m, temp_dir, &e), ERR_NOTFOUND);
    temp_dir_put_text("config.json", "{}");
    assert_int_equal(open_model(&m, temp_dir, &e), ERR_UNSUPPORTED);
    assert_non_null(strstr(e.msg, "transformers"));
    temp_dir_put("a.gguf", tiny, tiny_size);
    assert_int_equal(open_model(&m, temp_dir, &e), 0);
    model_close(m);
    temp_dir_put("b.gguf", tiny, tiny_size);
    assert_int_equal(open_model(&m, temp_dir, &e), ERR_INVALID);
    assert_non_null(strstr(e.msg, "2 GGUF files"));
    assert_int_equal(temp_dir_remove(NULL), 0);
    assert_int_equal(open_model(&m, temp_dir, &e), ERR_NOTFOUND);
}

/* ---- files of another kind ---- */

static void model_names_other_kinds_of_files(void **state)
{
    (void)state;
    write_file("", 0);
    refused(ERR_CORRUPT, "empty");
    write_file("PK\x03\x04rest", 8);
    refused(ERR_UNSUPPORTED, "pickle");
    write_file("\x80\x02}q\0", 5);
    refused(ERR_UNSUPPORTED, "to GGUF");
    write_file("\x10\0\0\0\0\0\0\0{\"a\":{}}        ", 24);
    refused(ERR_CORRUPT, "safetensors");
    write_file("tjgg\3\0\0\0", 8);
    refused(ERR_UNSUPPORTED, "before GGUF");
    write_file("version https://git-lfs.github.com/spec/v1\n", 43);
    refused(ERR_CORRUPT, "git lfs pull");
    write_file("<!DOCTYPE html><html>", 21);
    refused(ERR_CORRUPT, "web page");
    write_file("some text", 9);
    refused(ERR_UNSUPPORTED, "not a model file");
    write_file("GGUF", 4);
    refused(ERR_CORRUPT, "version");
    char *long_path = malloc(5001);
    memset(long_path, 'a', 5000);
    long_path[5000] = 0;
    struct model *m;
    struct err e;
    assert_int_equal(open_model(&m, long_path, &e), ERR_INVALID);
    free(long_path);
}

/* ---- keys that contradict the tensors ---- */

/* Where the bytes stand in the good file. */
static size_t offset_of(const char *bytes)
{
    const char *at = memmem(tiny, header_size, bytes, strlen(bytes));
    assert_non_null(at);
    return (size_t)(at - tiny);
}

/* The good file with n bytes at the offset replaced. */
static void write_changed(size_t offset, const void *p, size_t n)
{
    write_file(tiny, tiny_size);
    assert_int_equal(pwrite(fd, p, n, (off_t)offset), (ssize_t)n);
}

/* A key's four-byte value, and its type. */
static void write_value(const char *key, uint32_t type, const void *v)
{
    char both[8];
    memcpy(both, &type, 4);
    memcpy(both + 4, v, 4);
    write_changed(offset_of(key) + strlen(key), both, sizeof both);
}

static void refused_int(const char *key, int32_t v, int code, const char *words)
{
    write_value(key, U32, &v);
    refused(code, words);
}

static void model_keys_are_held_against_tensors(void **state)
{
    (void)state;
    refused_int("llama.block_count", 0, ERR_CORRUPT, "block_count is 0");
    refused_int("llama.block_count", -1, ERR_CORRUPT, "block_count is 4294967295");
    refused_int("llama.block_count", 3, ERR_CORRUPT, "blk.2.attn_norm.weight is missing");
    refused_int("llama.block_count", 1, ERR_UNSUPPORTED, "blk.1.");
    refused_int("llama.embedding_length", 128, ERR_CORRUPT, "expected shape [320, 128], found");
    refused_int("llama.feed_forward_length", 96, ERR_CORRUPT,
                "blk.0.ffn_gate.weight: expected shape [96, 64], found [128, 64]");
    refused_int("llama.attention.head_count", 8, ERR_CORRUPT, "attn_q.weight");
    refused_int("llama.attention.head_count", 3, ERR_CORRUPT, "multiple");
    refused_int("llama.attention.head_count", 1, ERR_CORRUPT, "head_count_kv is 2");
    refused_int("llama.attention.head_count", 0, ERR_CORRUPT, "head_count is 0");
    refused_int("llama.attention.head_count_kv", 4, ERR_CORRUPT, "attn_k.weight");
    refused_int("llama.attention.head_count_kv", 0, ERR_CORRUPT, "head_count_kv is 0");
    refused_int("llama.attention.key_length", 32, ERR_UNSUPPORTED, "heads of 32");
    refused_int("llama.attention.key_length", 12, ERR_UNSUPPORTED, "heads of 12");
    refused_int("llama.attention.value_length", 8, ERR_UNSUPPORTED, "and 8 (values)");
    refused_int("llama.rope.dimension_count", 15, ERR_CORRUPT, "not even");
    refused_int("llama.rope.dimension_count", 18, ERR_CORRUPT, "dimension_count is 18");
    refused_int("llama.context_length", 0, ERR_CORRUPT, "context_length is 0");
    refused_int("llama.context_length", INT32_MAX, ERR_CORRUPT, "context_length is 2147483647");
    refused_int("llama.vocab_size", 319, ERR_CORRUPT, "has 320 rows");
    const float wrong[] = {0, -1, 1e30f, 0.0f / 0.0f};
    for (int i = 0; i < 4; i++) {
        write_value("llama.attention.layer_norm_rms_epsilon", F32, &wrong[i]);
        refused(ERR_CORRUPT, "layer_norm_rms_epsilon");
        write_value("llama.rope.freq_base", F32, &wrong[i]);
        refused(ERR_CORRUPT, "freq_base");
    }
}

/* CVE-2024-8063: values of another type */
static void model_keys_of_another_type_are_named(void **state)
{
    (void)state;
    static const char *const keys[] = {"llama.block_count",
                                       "llama.embedding_length",
                                       "llama.feed_forward_length",
                                       "llama.attention.head_count",
                                       "llama.attention.head_count_kv",
                                       "llama.context_length",
                                       "llama.rope.dimension_count",
                                       "llama.vocab_size"};
    const float two = 2;
    const int32_t one = 1;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        write_value(keys[i], F32, &two);
        refused(ERR_CORRUPT, keys[i]);
    }
    write_value("llama.rope.freq_base", U32, &one);
    refused(ERR_CORRUPT, "llama.rope.freq_base is of type u32");
    write_value("llama.attention.layer_norm_rms_epsilon", I32, &one);
    refused(ERR_CORRUPT, "is of type i32");
}

static void model_keys_that_are_missing_are_named(void **state)
{
    (void)state;
    static const char *const keys[] = {
        "llama.block_count",         "llama.embedding_length",
        "llama.feed_forward_length", "llama.attention.head_count",
        "llama.context_length",      "llama.attention.layer_norm_rms_epsilon"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        write_changed(offset_of(keys[i]), "X", 1);
        refused(ERR_CORRUPT, keys[i]);
    }
    write_changed(offset_of("general.architecture"), "X", 1);
    refused(ERR_CORRUPT, "general.architecture is missing");
    size_t arch = offset_of("general.architecture") + strlen("general.architecture") + 4 + 8;
    write_changed(arch, "qw\033en", 5);
    refused(ERR_UNSUPPORTED, "the architecture \"qw?en\" is not built in");
    write_changed(offset_of("token_embd.weight"), "X", 1);
    refused(ERR_CORRUPT, "token_embd.weight is missing");
    write_changed(offset_of("blk.1.ffn_up.weight"), "X", 1);
    refused(ERR_CORRUPT, "blk.1.ffn_up.weight is missing");
    size_t output = offset_of("output_norm.weight"); /* then comes output.weight */
    output = (size_t)((char *)memmem(tiny + output, header_size - output, "output.w", 8) - tiny);
    write_changed(output, "X", 1); /* so it is tied, and has a tensor too many */
    refused(ERR_UNSUPPORTED, "Xutput.weight has no place");
}

/* ---- damage ---- */

static void model_cut_short_anywhere_is_refused(void **state)
{
    (void)state;
    struct err e;
    write_file(tiny, tiny_size);
    assert_int_equal(try_file(&e), 0);
    int n = 0;
    for (size_t at = tiny_size - 1; at > 0; n++) {
        assert_int_equal(ftruncate(fd, (off_t)at), 0);
        int rc = try_file(&e);
        assert_true(rc == ERR_CORRUPT || rc == ERR_UNSUPPORTED);
        if (at > header_size)
            assert_non_null(strstr(e.msg, "incomplete download"));
        size_t step = at > header_size + 4096 ? 4096 : at > 64 ? 64 : 1;
        at -= step < at ? step : at;
    }
    assert_true(n > 100);
}

static void model_with_flipped_bits_is_refused_or_runs(void **state)
{
    (void)state;
    struct err e;
    int n_opened = 0;
    for (uint64_t i = 0; i < FLIPS; i++) {
        uint32_t r[4];
        rng_philox(42, 0, i, r);
        write_file(tiny, tiny_size);
        for (uint32_t k = 0; k <= r[3] % 3; k++) { /* one to three bits */
            size_t at = r[k] % (uint32_t)header_size;
            char c = (char)(tiny[at] ^ 1 << (r[k] >> 24 & 7));
            assert_int_equal(pwrite(fd, &c, 1, (off_t)at), 1);
        }
        n_opened += try_file(&e) == 0;
    }
    print_message("    %d of %d files with flipped bits open\n", n_opened, FLIPS);
    assert_true(n_opened > 0 && n_opened < FLIPS);
}

/* Weights are numbers: any bits are a model, and it runs. */
static void model_with_any_weights_runs(void **state)
{
    (void)state;
    char *bytes = malloc(tiny_size);
    for (int pattern = 0; pattern < 4; pattern++) {
        memcpy(bytes, tiny, tiny_size);
        for (size_t i = header_size; i < tiny_size; i++) {
            uint32_t r[4];
            rng_philox(7, 1, i, r);
            bytes[i] = pattern == 3 ? (char)r[0] : "\0\x7f\xff"[pattern];
        }
        struct err e;
        write_file(bytes, tiny_size);
        assert_int_equal(try_file(&e), 0);
    }
    free(bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(model_card_tells_what_the_file_is),
        cmocka_unit_test(model_says_dry_what_it_will_take),
        cmocka_unit_test(model_context_is_bounded_by_training),
        cmocka_unit_test(model_opens_the_one_file_of_a_directory),
        cmocka_unit_test(model_names_other_kinds_of_files),
        cmocka_unit_test(model_keys_are_held_against_tensors),
        cmocka_unit_test(model_keys_of_another_type_are_named),
        cmocka_unit_test(model_keys_that_are_missing_are_named),
        cmocka_unit_test(model_cut_short_anywhere_is_refused),
        cmocka_unit_test(model_with_flipped_bits_is_refused_or_runs),
        cmocka_unit_test(model_with_any_weights_runs),
    };
    return cmocka_run_group_tests_name("engine/model", tests, read_tiny, forget_tiny);
}
