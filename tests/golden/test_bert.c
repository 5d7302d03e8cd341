/* BERT's vectors against transformers (tools/make_bert_golden.py): a tiny random model, and all-MiniLM-L6-v2 where
 * it was fetched; and the same bits for a text alone and among others. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "engine/model.h"
#include "engine/models/bert.h"
#include "tests/golden/device.h"
#include "tests/temp_dir.h"

#define TINY   "tests/fixtures/bert_tiny"
#define MINILM "models/cache/all-MiniLM-L6-v2"
#define BOUND  1e-3 /* relative */

enum { MAX_TEXTS = 16, MAX_IDS = 512, MAX_DIM = 1024, MAX_ROWS = 1024 };

static struct backend *be;
static struct cJSON *golden;

static int setup(void **state)
{
    (void)state;
    struct buf text;
    struct err e;
    buf_init(&text, 1 << 20);
    int rc = backend_open(&be, golden_device(), 2, &e);
    if (rc == 0)
        rc = file_read(&text, TINY "/golden.json", &e);
    if (rc == 0)
        rc = json_parse(&golden, buf_str(&text), text.len, &json_limits_default, &e);
    buf_free(&text);
    return rc;
}

static int teardown(void **state)
{
    (void)state;
    json_free(golden);
    be->close(be);
    return 0;
}

/* The text's ids in the model's frame; how many. */
static int encode(const struct model_card *card, const char *text, int32_t *ids)
{
    struct err e;
    int32_t *found;
    size_t n;
    if (tokenizer_encode(card->tokenizer, text, strlen(text), 0, &found, &n, MAX_IDS - 2, &e) != 0)
        fail_msg("%s", e.msg);
    ids[0] = tokenizer_info(card->tokenizer)->bos;
    memcpy(ids + 1, found, n * sizeof *ids);
    ids[n + 1] = tokenizer_info(card->tokenizer)->eos;
    free(found);
    return (int)n + 2;
}

static void expect_vector(const float *got, const struct cJSON *want, int dim)
{
    double error = 0, norm = 0;
    assert_int_equal(json_size(want), dim);
    int i = 0;
    for (const struct cJSON *v = json_first(want); v != NULL; v = json_next(v), i++) {
        error += pow((double)got[i] - json_num(v), 2);
        norm += pow(json_num(v), 2);
    }
    assert_true(sqrt(error) <= BOUND * sqrt(norm));
}

static void check(const char *path, const char *name)
{
    const struct model_options o = {.max_rows = MAX_ROWS};
    struct model *m;
    struct err e;
    if (model_open(&m, name, path, be, &o, &e) != 0)
        fail_msg("%s: %s", path, e.msg);
    struct bert *bert = model_bert(m);
    const int dim = bert_info(bert)->dim;
    static int32_t ids[MAX_TEXTS * MAX_IDS], n_ids[MAX_TEXTS];
    static float alone[MAX_TEXTS * MAX_DIM], together[MAX_TEXTS * MAX_DIM];
    const struct cJSON *text = json_first(json_get(golden, "texts"));
    const struct cJSON *want = json_first(json_get(golden, name));
    int n = 0, at = 0;
    for (; text != NULL && n < MAX_TEXTS; text = json_next(text), want = json_next(want), n++) {
        n_ids[n] = encode(model_card(m), json_str(text), ids + at);
        const struct bert_batch b = {
            .n_texts = 1, .n_ids = &n_ids[n], .ids = ids + at, .vectors = alone + n * dim};
        assert_int_equal(bert_run(bert, &b, &e), 0);
        expect_vector(alone + n * dim, want, dim);
        at += n_ids[n];
    }
    assert_true(n > 3);
    const struct bert_batch all = {.n_texts = n, .n_ids = n_ids, .ids = ids, .vectors = together};
    assert_int_equal(bert_run(bert, &all, &e), 0);
    assert_memory_equal(together, alone, (size_t)n * (size_t)dim * sizeof *alone);
    model_close(m);
}

static void bert_gives_the_vectors_of_transformers(void **state)
{
    (void)state;
    check(TINY, "tiny");
}

static void minilm_gives_the_vectors_of_transformers(void **state)
{
    (void)state;
    if (access(MINILM, F_OK) != 0)
        skip();
    check(MINILM, "minilm");
}

/* ---- what the directory says about the vector ---- */

static int bert_temp_dir(void **state)
{
    static const char *const names[] = {"config.json", "model.safetensors"};
    char from[512], cwd[256];
    if (temp_dir_make(state) != 0 || getcwd(cwd, sizeof cwd) == NULL)
        return 1;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(from, sizeof from, "%s/" TINY "/%s", cwd, names[i]);
        if (symlink(from, temp_dir_path(names[i])) != 0)
            return 1;
    }
    return mkdir(temp_dir_path("1_Pooling"), 0700);
}

#define MODULE(name) "{\"type\": \"sentence_transformers.modules." name "\"}"

static void bert_makes_the_vector_that_the_directory_wants(void **state)
{
    (void)state;
    static const char plain[] = "[" MODULE("Transformer") ", " MODULE("Pooling") "]";
    static const char normal[] =
        "[" MODULE("Transformer") ", " MODULE("Pooling") ", " MODULE("Normalize") "]";
    static const char dense[] =
        "[" MODULE("Transformer") ", " MODULE("Pooling") ", " MODULE("Dense") "]";
    static const struct {
        const char *pooling, *modules;
        bool mean, normalized;
        const char *refused; /* in the message */
    } cases[] = {
        {"{\"pooling_mode\": \"mean\", \"include_prompt\": true}", normal, true, true, NULL},
        {"{\"pooling_mode\": \"cls\"}", plain, false, false, NULL},
        {"{\"pooling_mode_cls_token\": true, \"pooling_mode_mean_tokens\": false}", normal, false,
         true, NULL},
        {"{\"word_embedding_dimension\": 32}", plain, true, false, NULL},
        {"{\"pooling_mode\": \"max\"}", normal, false, false, "(max)"},
        {"{\"pooling_mode\": [\"mean\", \"max\"]}", normal, false, false, "an array"},
        {"{\"pooling_mode_mean_tokens\": true, \"pooling_mode_max_tokens\": true}", normal, false,
         false, "several"},
        {"{\"pooling_mode\": \"mean\"}", dense, false, false, "Dense"},
        {"{\"pooling_mode\": 3}", normal, false, false, "1_Pooling/config.json"},
        {"{", normal, false, false, "1_Pooling/config.json"},
        {"{}", "[{}", false, false, "modules.json"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct err e = {0};
        struct checkpoint *c;
        struct bert *m;
        temp_dir_put("1_Pooling/config.json", cases[i].pooling, strlen(cases[i].pooling));
        temp_dir_put("modules.json", cases[i].modules, strlen(cases[i].modules));
        assert_int_equal(checkpoint_open(&c, temp_dir, NULL, &e), 0);
        int rc = bert_open(&m, c, be, &(const struct bert_options){.max_rows = MAX_ROWS}, &e);
        if ((rc == 0) != (cases[i].refused == NULL) ||
            (rc != 0 && strstr(e.msg, cases[i].refused) == NULL))
            fail_msg("%s, %s: \"%s\"", cases[i].pooling, cases[i].modules, e.msg);
        if (rc == 0) {
            assert_int_equal(bert_info(m)->mean, cases[i].mean);
            assert_int_equal(bert_info(m)->normalized, cases[i].normalized);
            bert_close(m);
        }
        checkpoint_close(c);
    }
}

/* The tiny model's file with a tensor of one number more, the last. */
static void put_weights(const char *more)
{
    struct buf old, new;
    struct err e = {0};
    uint64_t n_header;
    char entry[160];
    buf_init(&old, 1 << 20);
    buf_init(&new, 1 << 20);
    if (file_read(&old, TINY "/model.safetensors", &e) != 0)
        fail_msg("%s", e.msg);
    memcpy(&n_header, old.data, sizeof n_header);
    const char *header = old.data + sizeof n_header, *data = header + n_header;
    const size_t n_data = old.len - sizeof n_header - n_header;
    snprintf(entry, sizeof entry,
             "{\"%s\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[%zu,%zu]},", more, n_data,
             n_data + sizeof(float));
    const uint64_t n_new = strlen(entry) + n_header - 1; /* in place of the bracket */
    buf_add(&new, &n_new, sizeof n_new);
    buf_adds(&new, entry);
    buf_add(&new, header + 1, n_header - 1);
    buf_add(&new, data, n_data);
    buf_add(&new, &(const float){1}, sizeof(float));
    assert_int_equal(unlink(temp_dir_path("model.safetensors")), 0);
    temp_dir_put("model.safetensors", new.data, new.len);
    buf_free(&old);
    buf_free(&new);
}

static void bert_leaves_out_what_it_was_trained_with(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        bool opens;
    } cases[] = {{"cls.predictions.bias", true}, {"cls.other.bias", false}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct err e = {0};
        struct checkpoint *c;
        struct bert *m;
        put_weights(cases[i].name);
        assert_int_equal(checkpoint_open(&c, temp_dir, NULL, &e), 0);
        int rc = bert_open(&m, c, be, &(const struct bert_options){.max_rows = MAX_ROWS}, &e);
        if ((rc == 0) != cases[i].opens)
            fail_msg("%s: \"%s\"", cases[i].name, e.msg);
        if (rc == 0)
            bert_close(m);
        checkpoint_close(c);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bert_gives_the_vectors_of_transformers),
        cmocka_unit_test(minilm_gives_the_vectors_of_transformers),
        cmocka_unit_test_setup_teardown(bert_makes_the_vector_that_the_directory_wants,
                                        bert_temp_dir, temp_dir_remove),
        cmocka_unit_test_setup_teardown(bert_leaves_out_what_it_was_trained_with, bert_temp_dir,
                                        temp_dir_remove),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
