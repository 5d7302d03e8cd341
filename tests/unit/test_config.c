/* Configuration: which source wins, what is refused, how models are named, API keys. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "server/config.h"

enum { ARGS_MAX = 80 };

static char dir[64], path[96];
static struct config config;
static struct err err;

extern char **environ;

static int make_dir(void **state)
{
    (void)state;
    snprintf(dir, sizeof dir, "/tmp/duetto-config-XXXXXX");
    if (mkdtemp(dir) == NULL)
        return -1;
    snprintf(path, sizeof path, "%s/f.json", dir);
    return 0;
}

static int remove_dir(void **state)
{
    (void)state;
    unlink(path);
    return rmdir(dir);
}

/* No test sees the DUETTO_ variables of the shell or of another test. */
static int clean_environment(void **state)
{
    (void)state;
    for (char **v = environ; *v != NULL;) {
        char name[128];
        size_t n = strcspn(*v, "=");
        if (strncmp(*v, "DUETTO_", 7) != 0 || n >= sizeof name) {
            v++;
            continue;
        }
        memcpy(name, *v, n);
        name[n] = '\0';
        unsetenv(name);
        v = environ;
    }
    memset(&err, 0, sizeof err);
    return 0;
}

static int free_config(void **state)
{
    (void)state;
    config_free(&config);
    return 0;
}

static void write_file(const char *text)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
}

/* config_load of "duetto serve ..." with these words. */
static int load(const char *first, ...)
{
    const char *words[ARGS_MAX] = {"duetto", "serve"};
    int n = 2;
    va_list ap;
    va_start(ap, first);
    for (const char *w = first; w != NULL && n < ARGS_MAX; w = va_arg(ap, const char *))
        words[n++] = w;
    va_end(ap);
    config_free(&config);
    memset(&err, 0, sizeof err);
    return config_load(&config, n, (char **)(uintptr_t)words, 2, &err);
}
#define LOAD(...)          load(__VA_ARGS__, NULL)
#define REFUSED(part, ...) refused(load(__VA_ARGS__, NULL), part)

/* The configuration was refused with a message that contains `part`. */
static void refused(int rc, const char *part)
{
    assert_int_equal(rc, ERR_INVALID);
    if (strstr(err.msg, part) == NULL)
        fail_msg("\"%s\" is not in \"%s\"", part, err.msg);
}

static void config_has_defaults(void **state)
{
    (void)state;
    assert_int_equal(load(NULL), 0);
    assert_string_equal(config.host, "127.0.0.1");
    assert_int_equal(config.port, 8080);
    assert_string_equal(config.kv_type, "f16");
    assert_true(config.prefix_sharing);
    assert_false(config.strict);
    assert_int_equal(config.n_models, 0);
    assert_string_equal(config.tls_cert_file, "");
}

static void config_flag_beats_environment_beats_file(void **state)
{
    (void)state;
    write_file("{\"port\": 1001, \"threads\": 3, \"strict\": true, \"host\": \"::1\"}");
    assert_int_equal(LOAD("-c", path), 0);
    assert_int_equal(config.port, 1001);
    assert_int_equal(config.threads, 3);
    assert_true(config.strict);
    setenv("DUETTO_PORT", "1002", 1);
    setenv("DUETTO_STRICT", "off", 1);
    assert_int_equal(LOAD("-c", path), 0);
    assert_int_equal(config.port, 1002);
    assert_false(config.strict);
    assert_string_equal(config.host, "::1");
    assert_int_equal(LOAD("--port", "1003", "-c", path), 0);
    assert_int_equal(config.port, 1003);
    assert_int_equal(config.threads, 3);
}

static void config_flags_have_every_usual_form(void **state)
{
    (void)state;
    assert_int_equal(LOAD("--port=7", "--max-sequences", "9", "--n_ctx=64"), 0);
    assert_int_equal(config.port, 7);
    assert_int_equal(config.max_sequences, 9);
    assert_int_equal(config.n_ctx, 64);
    assert_int_equal(LOAD("--strict", "--port", "8"), 0);
    assert_true(config.strict);
    assert_int_equal(config.port, 8);
    assert_int_equal(LOAD("--prefix-sharing", "false", "--metrics_public=0", "--strict"), 0);
    assert_false(config.prefix_sharing);
    assert_false(config.metrics_public);
    assert_true(config.strict);
    assert_int_equal(LOAD("--cors_origins=https://a.example,https://b.example"), 0);
    assert_string_equal(config.cors_origins, "https://a.example,https://b.example");
    assert_int_equal(LOAD("--port", "1", "--port", "2"), 0);
    assert_int_equal(config.port, 2);
}

static void config_names_the_flag_it_refuses(void **state)
{
    (void)state;
    REFUSED("unknown option --prot", "--prot", "1");
    REFUSED("unknown option por", "por");
    REFUSED("unknown option --por=", "--por=1");
    REFUSED("unknown option -port", "-port", "1");
    REFUSED("--port needs a value", "--port");
    REFUSED("-m needs a value", "-m");
    REFUSED("port must be 0 to 65535", "--port", "65536");
    REFUSED("port must be 0 to 65535", "--port", "-1");
    REFUSED("port must be a whole number", "--port", "80x");
    REFUSED("port must be a whole number", "--port", "");
    REFUSED("port must be a whole number", "--port", "8.5");
    REFUSED("must be a whole number", "--port", "99999999999999999999");
    REFUSED("max_sequences must be 1 to", "--max_sequences=0");
    REFUSED("kv_type must be one of: f16 f32 q8_0", "--kv_type", "q4_0");
    REFUSED("kv_type must be one of", "--kv_type", "f16 f32");
    REFUSED("log_level must be one of", "--log_level=");
    REFUSED("strict must be true or false", "--strict", "maybe");
}

static void config_names_the_variable_it_refuses(void **state)
{
    (void)state;
    setenv("DUETTO_PORT", "http", 1);
    assert_int_equal(load(NULL), ERR_INVALID);
    assert_non_null(strstr(err.msg, "DUETTO_PORT"));
    setenv("DUETTO_PORT", "80", 1);
    setenv("DUETTO_LOG_FORMAT", "xml", 1);
    assert_int_equal(load(NULL), ERR_INVALID);
    assert_non_null(strstr(err.msg, "DUETTO_LOG_FORMAT"));
}

static void config_file_is_strict(void **state)
{
    (void)state;
    static const struct {
        const char *text, *part;
    } bad[] = {
        {"{\"prot\": 1}", "there is no option \"prot\""},
        {"{\"port\": \"80\"}", "port must be a whole number"},
        {"{\"port\": 80.5}", "port must be a whole number"},
        {"{\"port\": 65536}", "port must be 0 to 65535"},
        {"{\"port\": null}", "port must be a whole number"},
        {"{\"host\": 1}", "host must be a string"},
        {"{\"strict\": 1}", "strict must be true or false"},
        {"{\"kv_type\": \"f64\"}", "kv_type must be one of"},
        {"[1]", "must be a JSON object"},
        {"{\"port\": 1, \"port\": 2}", path},
        {"{\"port\": 1", path},
        {"", path},
        {"{\"models\": [\"a.gguf\"]}", "models must be an object of name: path"},
        {"{\"models\": {\"a\": 1}}", "the path of model a must be a string"},
        {"{\"models\": {\"a\": \"\"}}", "a model needs a name and a path"},
        {"{\"models\": {\"\": \"x.gguf\"}}", "a model needs a name and a path"},
        {"{\"models\": {\"a\": {}}}", "a model needs a name and a path"},
        {"{\"models\": {\"a\": {\"path\": 1}}}", "a model needs a name and a path"},
        {"{\"models\": {\"a\": {\"path\": \"x\", \"speed\": \"9\"}}}",
         "model a: there is no option \"speed\""},
        {"{\"models\": {\"a\": {\"path\": \"x\", \"tokenizer\": 1}}}",
         "tokenizer of model a must be a string"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        write_file(bad[i].text);
        REFUSED(bad[i].part, "-c", path);
        assert_non_null(strstr(err.msg, path));
    }
    assert_int_equal(LOAD("-c", "/nonexistent/duetto.json"), ERR_NOTFOUND);
}

static void config_models_are_named_after_their_files(void **state)
{
    (void)state;
    static const struct {
        const char *flag, *id, *path;
    } names[] = {
        {"/srv/Tiny-7B.Q4_1.gguf", "Tiny-7B.Q4_1", "/srv/Tiny-7B.Q4_1.gguf"},
        {"tiny.gguf", "tiny", "tiny.gguf"},
        {"a/b/model.safetensors", "model", "a/b/model.safetensors"},
        {"/srv/sd15/", "sd15", "/srv/sd15/"},
        {"/srv/sd15", "sd15", "/srv/sd15"},
        {".gguf", ".gguf", ".gguf"},
        {"chat=/srv/a=b.gguf", "chat", "/srv/a=b.gguf"},
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        assert_int_equal(LOAD("-m", names[i].flag), 0);
        assert_int_equal(config.n_models, 1);
        assert_string_equal(config.models[0].id, names[i].id);
        assert_string_equal(config.models[0].path, names[i].path);
    }
    assert_int_equal(LOAD("-m", "a.gguf", "--model", "b.gguf", "--model=c=d.gguf"), 0);
    assert_int_equal(config.n_models, 3);
    assert_string_equal(config.models[0].id, "a");
    assert_string_equal(config.models[1].id, "b");
    assert_string_equal(config.models[2].id, "c");
    assert_string_equal(config.models[2].path, "d.gguf");
}

static void config_model_names_are_checked(void **state)
{
    (void)state;
    REFUSED("two models are called a", "-m", "x/a.gguf", "-m", "y/a.gguf");
    REFUSED("a model needs a name and a path", "-m", "=x.gguf");
    REFUSED("a model needs a name and a path", "-m", "x=");
    REFUSED("a model needs a name and a path", "-m", "");
    REFUSED("a model needs a name and a path", "-m", "/");
    REFUSED("UTF-8 without control characters", "-m", "x/a\nb.gguf");
    REFUSED("UTF-8 without control characters", "-m", "a\xff=x.gguf");
    REFUSED("UTF-8 without control characters", "-m", "a\x7f=x.gguf");
    write_file("{\"models\": {\"a\\tb\": \"x.gguf\"}}");
    REFUSED("UTF-8 without control characters", "-c", path);
    assert_int_equal(LOAD("-m", "möwe=x/a\nb.gguf"), 0); /* of the path nothing is asked */
}

/* What an image model's file does not say; a path may have commas. */
static void config_models_have_options(void **state)
{
    (void)state;
    static const char *const flags[] = {
        "a=x,y.safetensors,prediction_type=v_prediction,tokenizer=clip,b",
        "a=x,y.safetensors,tokenizer=clip,b,prediction_type=v_prediction",
    };
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(LOAD("-m", flags[i]), 0);
        assert_string_equal(config.models[0].id, "a");
        assert_string_equal(config.models[0].path, "x,y.safetensors");
        assert_string_equal(config.models[0].tokenizer, "clip,b");
        assert_string_equal(config.models[0].prediction_type, "v_prediction");
    }
    write_file("{\"models\": {\"a\": {\"tokenizer\": \"t\", \"path\": \"p\"}, \"b\": \"q\"}}");
    assert_int_equal(LOAD("-c", path), 0);
    assert_int_equal(config.n_models, 2);
    assert_string_equal(config.models[0].path, "p");
    assert_string_equal(config.models[0].tokenizer, "t");
    assert_null(config.models[0].prediction_type);
    assert_null(config.models[1].tokenizer);
    assert_int_equal(LOAD("-m", "dir/sd.safetensors,tokenizer=a/clip"), 0);
    assert_string_equal(config.models[0].id, "sd");
    assert_string_equal(config.models[0].path, "dir/sd.safetensors");
    REFUSED("must be one of epsilon", "-m", "a=x,prediction_type=magic");
    REFUSED("a model needs a name and a path", "-m", "a=,tokenizer=clip");
}

static void config_takes_64_models_and_no_more(void **state)
{
    (void)state;
    char text[65 * 16 + 32] = "{\"models\": {";
    size_t n = strlen(text);
    for (int i = 0; i < CONFIG_MODELS_MAX; i++)
        n += (size_t)snprintf(text + n, sizeof text - n, "%s\"m%d\": \"x\"", i ? ", " : "", i);
    snprintf(text + n, sizeof text - n, "}}");
    write_file(text);
    assert_int_equal(LOAD("-c", path), 0);
    assert_int_equal(config.n_models, CONFIG_MODELS_MAX);
    snprintf(text + n, sizeof text - n, ", \"one\": \"x\"}}");
    write_file(text);
    REFUSED("at most 64 models", "-c", path);
}

static void config_model_flags_replace_the_files_list(void **state)
{
    (void)state;
    write_file("{\"models\": {\"one\": \"1.gguf\", \"two\": \"2.gguf\"}, \"port\": 5}");
    assert_int_equal(LOAD("-c", path), 0);
    assert_int_equal(config.n_models, 2);
    assert_string_equal(config.models[1].id, "two");
    assert_string_equal(config.models[1].path, "2.gguf");
    assert_int_equal(LOAD("-c", path, "-m", "two=other.gguf"), 0);
    assert_int_equal(config.n_models, 1);
    assert_string_equal(config.models[0].path, "other.gguf");
    assert_int_equal(config.port, 5);
}

static void config_tls_files_come_together(void **state)
{
    (void)state;
    REFUSED("come together", "--tls_cert_file", "c.pem");
    REFUSED("come together", "--tls_key_file", "k.pem");
    assert_int_equal(LOAD("--tls_cert_file", "c.pem", "--tls_key_file", "k.pem"), 0);
}

static void config_json_is_a_file_that_gives_the_same(void **state)
{
    (void)state;
    struct buf first, second;
    buf_init(&first, 1 << 16);
    buf_init(&second, 1 << 16);
    assert_int_equal(LOAD("--port=99", "--strict", "--cors_origins", "\"\\\n\xc3\xa9"), 0);
    config_json(&config, &first);
    write_file(buf_str(&first));
    assert_int_equal(LOAD("-c", path), 0);
    config_json(&config, &second);
    assert_string_equal(buf_str(&first), buf_str(&second));
    assert_int_equal(config.port, 99);
    buf_free(&first);
    buf_free(&second);
}

static void config_help_and_markdown_name_every_option(void **state)
{
    (void)state;
    static const char *const names[] = {
#define S(name, ...) #name,
#define I(name, ...) #name,
#define B(name, ...) #name,
        CONFIG_TABLE(S, I, B)
#undef S
#undef I
#undef B
    };
    struct buf help, table;
    buf_init(&help, 1 << 16);
    buf_init(&table, 1 << 16);
    config_help(&help);
    config_markdown(&table);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char word[64];
        snprintf(word, sizeof word, "--%s ", names[i]);
        assert_non_null(strstr(buf_str(&help), word));
        snprintf(word, sizeof word, "| `%s` |", names[i]);
        assert_non_null(strstr(buf_str(&table), word));
    }
    assert_false(help.failed);
    assert_false(table.failed);
    buf_free(&help);
    buf_free(&table);
}

static void config_keys_come_from_environment_and_file(void **state)
{
    (void)state;
    struct config_keys k = {.n = -1};
    assert_int_equal(load(NULL), 0);
    assert_int_equal(config_api_keys(&config, &k, &err), 0);
    assert_int_equal(k.n, 0);

    setenv("DUETTO_API_KEYS", "one,,two ,", 1);
    write_file("# who may call\nthree\r\n\n  \nfour \t safety=flag text_filter=flag\n");
    assert_int_equal(LOAD("--api_keys_file", path, "--text_filter", "words"), 0);
    assert_int_equal(config_api_keys(&config, &k, &err), 0);
    static const char *const want[] = {"one", "two", "three", "four"};
    assert_int_equal(k.n, 4);
    for (int i = 0; i < k.n; i++) {
        assert_string_equal(k.keys[i], want[i]);
        assert_string_equal(k.safety[i], i == 3 ? "flag" : "block");
        assert_string_equal(k.text_filter[i], i == 3 ? "flag" : "block");
    }
}

static void config_admin_keys_come_last(void **state)
{
    (void)state;
    struct config_keys k = {.n = -1};
    setenv("DUETTO_API_KEYS", "one", 1);
    setenv("DUETTO_ADMIN_KEYS", "root safety=flag", 1);
    write_file("toor\n");
    assert_int_equal(LOAD("--admin_keys_file", path), 0);
    assert_int_equal(config_api_keys(&config, &k, &err), 0);
    assert_int_equal(k.n, 3);
    assert_int_equal(k.n_api, 1);
    assert_string_equal(k.keys[1], "root");
    assert_string_equal(k.safety[1], "flag");
    assert_string_equal(k.keys[2], "toor");
    setenv("DUETTO_ADMIN_KEYS", " , ", 1);
    assert_int_equal(load(NULL), 0);
    assert_int_equal(config_api_keys(&config, &k, &err), ERR_INVALID);
    unsetenv("DUETTO_ADMIN_KEYS");
}

static void config_refuses_what_a_key_cannot_have(void **state)
{
    (void)state;
    struct config_keys k;
    static const char *const bad[] = {
        "key safety=off",      "key safety=",           "key safety",
        "key other",           "key safety=flag admin", "key text_filter=flag", /* there is none */
        "key text_filter=blur"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        write_file(bad[i]);
        assert_int_equal(LOAD("--api_keys_file", path), 0);
        assert_int_equal(config_api_keys(&config, &k, &err), ERR_INVALID);
        assert_non_null(strstr(err.msg, "API key 1"));
    }
    write_file("key safety=flag");
    assert_int_equal(LOAD("--api_keys_file", path, "--safety", "off"), 0);
    assert_int_equal(config_api_keys(&config, &k, &err), ERR_INVALID);
    assert_int_equal(LOAD("--safety_required", "true", "--safety", "off"), ERR_INVALID);
}

static void config_refuses_to_run_open_by_mistake(void **state)
{
    (void)state;
    struct config_keys k;
    write_file("# no key yet\n\n");
    assert_int_equal(LOAD("--api_keys_file", path), 0);
    assert_int_equal(config_api_keys(&config, &k, &err), ERR_INVALID);
    assert_non_null(strstr(err.msg, "no key"));
    assert_int_equal(LOAD("--api_keys_file", "/nonexistent/keys"), 0);
    assert_int_equal(config_api_keys(&config, &k, &err), ERR_NOTFOUND);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, clean_environment, free_config)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(config_has_defaults),
        TEST(config_flag_beats_environment_beats_file),
        TEST(config_flags_have_every_usual_form),
        TEST(config_names_the_flag_it_refuses),
        TEST(config_names_the_variable_it_refuses),
        TEST(config_file_is_strict),
        TEST(config_models_are_named_after_their_files),
        TEST(config_model_names_are_checked),
        TEST(config_models_have_options),
        TEST(config_takes_64_models_and_no_more),
        TEST(config_model_flags_replace_the_files_list),
        TEST(config_tls_files_come_together),
        TEST(config_json_is_a_file_that_gives_the_same),
        TEST(config_help_and_markdown_name_every_option),
        TEST(config_keys_come_from_environment_and_file),
        TEST(config_admin_keys_come_last),
        TEST(config_refuses_what_a_key_cannot_have),
        TEST(config_refuses_to_run_open_by_mistake),
    };
    return cmocka_run_group_tests_name("server/config", tests, make_dir, remove_dir);
}
