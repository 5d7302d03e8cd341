/* Image models' files that are wrong: pickles, shards outside the directory, parts that are not known,
 * tensors of other kinds.  What is right is in tests/golden/test_checkpoint.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/json.h"
#include "engine/checkpoint.h"
#include "engine/text/clip_bpe.h"
#include "tests/temp_dir.h"

/* ---- safetensors in the making ---- */

struct maker {
    struct buf header;
    uint64_t n_data;
};

static void begin(struct maker *m)
{
    buf_init(&m->header, 1 << 20);
    m->n_data = 0;
}

static void add_type(struct maker *m, const char *name, const char *type, int bytes,
                     const char *shape)
{
    uint64_t n = (uint64_t)bytes;
    for (const char *p = shape; *p != 0;) {
        n *= strtoull(p, (char **)&p, 10);
        p += *p == ',';
    }
    buf_printf(&m->header,
               "%c\"%s\":{\"dtype\":\"%s\",\"shape\":[%s],\"data_offsets\":[%llu,%llu]}",
               m->header.len == 0 ? '{' : ',', name, type, shape, (unsigned long long)m->n_data,
               (unsigned long long)(m->n_data + n));
    m->n_data += n;
}

static void add(struct maker *m, const char *name, const char *shape)
{
    add_type(m, name, "F32", 4, shape);
}

static void finish(struct maker *m, const char *file)
{
    struct buf b;
    buf_init(&b, 1 << 20);
    buf_adds(&m->header, m->header.len == 0 ? "{}" : "}");
    uint64_t n = m->header.len;
    buf_add(&b, &n, sizeof n);
    buf_add(&b, m->header.data, m->header.len);
    for (uint64_t i = 0; i < m->n_data; i++)
        buf_addc(&b, (char)(i % 4 == 3 ? 0x3F : i)); /* floats near 0.5 */
    temp_dir_put(file, b.data, b.len);
    buf_free(&b);
    buf_free(&m->header);
}

/* What every single file needs; one tensor can be left out. */
static void add_base(struct maker *m, const char *without)
{
    static const char *const all[][2] = {
        {"model.diffusion_model.input_blocks.0.0.weight", "4,4,3,3"},
        {"model.diffusion_model.input_blocks.1.0.in_layers.0.weight", "4"},
        {"model.diffusion_model.input_blocks.1.0.in_layers.2.weight", "4,4,3,3"},
        {"model.diffusion_model.input_blocks.1.1.transformer_blocks.0.norm1.weight", "4"},
        {"model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight", "4,2"},
        {"model.diffusion_model.out.2.weight", "4,4,3,3"},
        {"first_stage_model.decoder.up.0.block.0.conv1.weight", "4,4,3,3"},
        {"first_stage_model.decoder.conv_in.weight", "4,4,3,3"},
        {"first_stage_model.decoder.conv_out.weight", "3,4,3,3"},
        {"cond_stage_model.transformer.text_model.embeddings.token_embedding.weight", "9,2"},
    };
    begin(m);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (without == NULL || strstr(all[i][0], without) == NULL)
            add(m, all[i][0], all[i][1]);
}

static struct checkpoint *opened(const char *name, const struct checkpoint_options *o)
{
    struct checkpoint *c = NULL;
    struct err e;
    if (checkpoint_open(&c, temp_dir_path(name), o, &e) != 0)
        fail_msg("%s", e.msg);
    return c;
}

static void refused(const char *name, int code, const char *words)
{
    struct checkpoint *c = NULL;
    struct err e = {0};
    int rc = checkpoint_open(&c, temp_dir_path(name), NULL, &e);
    if (rc == 0)
        checkpoint_close(c);
    if (strstr(e.msg, words) == NULL)
        fail_msg("no \"%s\" in \"%s\"", words, e.msg);
    assert_int_equal(rc, code);
    assert_int_equal(e.code, code);
}

/* ---- single files ---- */

static void checkpoint_refuses_pickles(void **state)
{
    (void)state;
    temp_dir_put("model.ckpt", "PK\3\4aaaaaaaaaaaaaaaa", 20);
    refused("model.ckpt", ERR_UNSUPPORTED, "weights_only=True");
    temp_dir_put("model.pt", "\x80\2}q\0(X\1\0\0\0aq\1K\1u.", 18);
    refused("model.pt", ERR_UNSUPPORTED, "pickle");
    assert_false(checkpoint_is_image(temp_dir_path("model.pt")));
    temp_dir_put_text("model.txt", "hello, this is no model");
    refused("model.txt", ERR_CORRUPT, "model.txt: not a safetensors file");
    assert_false(checkpoint_is_image(temp_dir_path("model.txt")));
    temp_dir_put("empty", "", 0);
    refused("empty", ERR_CORRUPT, "not a safetensors file");
    refused("nothing", ERR_NOTFOUND, "cannot open");
}

static void checkpoint_refuses_single_files_that_lack_a_part(void **state)
{
    (void)state;
    struct maker m;
    add_base(&m, NULL);
    finish(&m, "good.safetensors");
    checkpoint_close(opened("good.safetensors", NULL));
    static const char *const cases[][2] = {
        {"input_blocks.0.0", "LDM names"},         {"decoder.up", "no VAE"},
        {"token_embedding", "no text_encoder"},    {"attn2", "without cross-attention"},
        {"in_layers.0", "same number of resnets"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        add_base(&m, cases[i][0]);
        finish(&m, "bad.safetensors");
        refused("bad.safetensors", ERR_UNSUPPORTED, cases[i][1]);
    }
    add_base(&m, NULL);
    add(&m, "model.diffusion_model.label_emb.0.0.weight", "4,8");
    finish(&m, "bad.safetensors");
    refused("bad.safetensors", ERR_UNSUPPORTED, "without the second text encoder");
    add_base(&m, NULL);
    add(&m, "conditioner.embedders.1.model.token_embedding.weight", "9,2");
    finish(&m, "bad.safetensors");
    refused("bad.safetensors", ERR_UNSUPPORTED, "a second text encoder, but not");
}

static void checkpoint_refuses_tensors_that_have_no_place(void **state)
{
    (void)state;
    struct maker m;
    static const char *const names[] = {
        "model.diffusion_model.input_blocks.1.2.weight",
        "model.diffusion_model.input_blocks.99.0.op.weight",
        "model.diffusion_model.input_blocks.99999999999999999999.0.op.weight",
        "model.diffusion_model.output_blocks.-1.0.in_layers.0.weight",
        "model.diffusion_model.middle_block.3.norm.weight",
        "model.diffusion_model.double_blocks.0.img_attn.qkv.weight",
        "first_stage_model.decoder.up.0.attn.0.q.weight",
        "first_stage_model.encoder.mid.block_3.conv1.weight",
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        add_base(&m, NULL);
        add(&m, names[i], "4");
        finish(&m, "bad.safetensors");
        refused("bad.safetensors", ERR_UNSUPPORTED, "has no place");
    }
    add_base(&m, NULL); /* the same tensor by two names */
    add(&m, "conditioner.embedders.0.transformer.embeddings.token_embedding.weight", "9,2");
    finish(&m, "bad.safetensors");
    refused("bad.safetensors", ERR_CORRUPT, "has two tensors");
    add_base(&m, NULL);
    add(&m, "cond_stage_model.model.transformer.resblocks.0.attn.in_proj_weight", "4,2");
    finish(&m, "bad.safetensors");
    refused("bad.safetensors", ERR_CORRUPT, "not q, k and v");
    add_base(&m, NULL);
    add(&m, "cond_stage_model.1.model.text_projection", "4");
    finish(&m, "bad.safetensors");
    refused("bad.safetensors", ERR_CORRUPT, "not a matrix");
    add_base(&m, NULL);
    add(&m, "first_stage_model.post_quant_conv.weight", "4,4,1,1,2");
    finish(&m, "bad.safetensors");
    refused("bad.safetensors", ERR_CORRUPT, "a shape that no weight has");
    add_base(&m, NULL);
    add(&m, "first_stage_model.post_quant_conv.weight", "4,0");
    finish(&m, "bad.safetensors");
    refused("bad.safetensors", ERR_CORRUPT, "a shape that no weight has");
    add_base(&m, NULL);
    add_type(&m, "first_stage_model.post_quant_conv.weight", "F64", 8, "4,4");
    finish(&m, "bad.safetensors");
    refused("bad.safetensors", ERR_UNSUPPORTED, "of type F64");
}

static const char *prediction(const struct checkpoint *c)
{
    return json_str(json_get(checkpoint_scheduler(c), "prediction_type"));
}

static void checkpoint_hears_markers_of_the_prediction(void **state)
{
    (void)state;
    struct maker m;
    add_base(&m, NULL);
    add(&m, "v_pred", "");
    add(&m, "ztsnr", "");
    finish(&m, "v.safetensors");
    struct checkpoint *c = opened("v.safetensors", NULL);
    assert_string_equal(prediction(c), "v_prediction");
    assert_true(json_bool(json_get(checkpoint_scheduler(c), "rescale_betas_zero_snr")));
    checkpoint_close(c);
    static const char *const yaml[][2] = {
        {"model:\n  params:\n    parameterization: \"eps\"\n", "epsilon"},
        {"parameterization: 'v'", "v_prediction"},
        {"parameterization: x0", "sample"},
        {"parameterization:", "v_prediction"},
        {"", "v_prediction"}};
    for (size_t i = 0; i < sizeof yaml / sizeof *yaml; i++) {
        temp_dir_put_text("v.yaml", yaml[i][0]);
        c = opened("v.safetensors", NULL);
        assert_string_equal(prediction(c), yaml[i][1]);
        checkpoint_close(c);
    }
    const struct checkpoint_options o = {.prediction = "epsilon"};
    c = opened("v.safetensors", &o);
    assert_string_equal(prediction(c), "epsilon");
    checkpoint_close(c);
}

static void checkpoint_refuses_models_of_other_noise(void **state)
{
    (void)state;
    struct maker m;
    static const char *const names[] = {"edm_mean", "edm_vpred.sigma_max"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        add_base(&m, NULL);
        add(&m, names[i], "");
        finish(&m, "bad.safetensors");
        refused("bad.safetensors", ERR_UNSUPPORTED, "EDM");
    }
}

static void checkpoint_finds_a_tokenizer_beside_a_file(void **state)
{
    (void)state;
    struct maker m;
    struct clip_bpe *t = NULL;
    struct err e;
    add_base(&m, NULL);
    finish(&m, "a.b.safetensors");
    struct checkpoint *c = opened("a.b.safetensors", NULL);
    assert_int_equal(checkpoint_tokenizer(c, 0, &t, &e), ERR_NOTFOUND);
    assert_non_null(strstr(e.msg, "merges.txt"));
    checkpoint_close(c);
    const struct checkpoint_options o = {.tokenizer = "tests/fixtures/clip_tokenizer"};
    c = opened("a.b.safetensors", &o);
    assert_int_equal(checkpoint_tokenizer(c, 0, &t, &e), 0);
    assert_int_equal(clip_bpe_info(t)->pad, clip_bpe_info(t)->eos);
    clip_bpe_close(t);
    assert_int_equal(checkpoint_tokenizer(c, 1, &t, &e), 0); /* OpenCLIP pads with "!" */
    assert_int_equal(clip_bpe_info(t)->pad, 0);
    clip_bpe_close(t);
    checkpoint_close(c);
    assert_int_equal(mkdir(temp_dir_path("tokenizer"), 0700), 0);
    c = opened("a.b.safetensors", NULL);
    assert_int_equal(checkpoint_tokenizer(c, 0, &t, &e), ERR_NOTFOUND);
    assert_non_null(strstr(e.msg, "/tokenizer has neither"));
    checkpoint_close(c);
    assert_int_equal(mkdir(temp_dir_path("a.b.tokenizer"), 0700), 0);
    c = opened("a.b.safetensors", NULL);
    assert_int_equal(checkpoint_tokenizer(c, 0, &t, &e), ERR_NOTFOUND);
    assert_non_null(strstr(e.msg, "/a.b.tokenizer has neither"));
    checkpoint_close(c);
}

/* ---- directories ---- */

#define INDEX                                            \
    "{\"_class_name\":\"StableDiffusionPipeline\","      \
    "\"unet\":[\"diffusers\",\"UNet2DConditionModel\"]," \
    "\"vae\":[\"diffusers\",\"AutoencoderKL\"],"         \
    "\"text_encoder\":[\"transformers\",\"CLIPTextModel\"]}"

static void make_dir(void)
{
    static const char *const parts[][2] = {{"m/unet", "diffusion_pytorch_model.safetensors"},
                                           {"m/vae", "diffusion_pytorch_model.safetensors"},
                                           {"m/text_encoder", "model.safetensors"}};
    char name[128];
    struct maker m;
    mkdir(temp_dir_path("m"), 0700);
    mkdir(temp_dir_path("m/scheduler"), 0700);
    for (size_t i = 0; i < 3; i++) {
        mkdir(temp_dir_path(parts[i][0]), 0700);
        snprintf(name, sizeof name, "%s/config.json", parts[i][0]);
        temp_dir_put_text(name, "{}");
        snprintf(name, sizeof name, "%s/%s", parts[i][0], parts[i][1]);
        begin(&m);
        add(&m, "a.weight", "2");
        finish(&m, name);
    }
    temp_dir_put_text("m/model_index.json", INDEX);
    temp_dir_put_text("m/scheduler/scheduler_config.json", "{\"lambda_min_clipped\": -Infinity}");
}

static void checkpoint_never_leaves_its_directory(void **state)
{
    (void)state;
    static const char index[] = "m/unet/diffusion_pytorch_model.safetensors.index.json";
    static const char *const shards[] = {"../../outside.safetensors", "/etc/passwd",  "..",
                                         "/tmp/x.safetensors",        ".safetensors", "x.bin"};
    struct maker m;
    make_dir();
    struct checkpoint *c = opened("m", NULL);
    struct clip_bpe *t;
    struct err e;
    assert_int_equal(checkpoint_tokenizer(c, 1, &t, &e), ERR_NOTFOUND);
    assert_non_null(strstr(e.msg, "into tokenizer_2/ in it"));
    checkpoint_close(c);
    unlink(temp_dir_path("m/unet/diffusion_pytorch_model.safetensors"));
    begin(&m);
    add(&m, "a.weight", "2");
    finish(&m, "outside.safetensors");
    for (size_t i = 0; i < sizeof shards / sizeof *shards; i++) {
        char text[200];
        snprintf(text, sizeof text, "{\"weight_map\":{\"a.weight\":\"%s\"}}", shards[i]);
        temp_dir_put_text(index, text);
        refused("m", ERR_CORRUPT, "is no .safetensors beside");
    }
    temp_dir_put_text(index, "{\"weight_map\":{\"a.weight\":\"gone.safetensors\"}}");
    refused("m", ERR_NOTFOUND, "cannot read");
    temp_dir_put_text(index, "{\"weight_map\":[]}");
    refused("m", ERR_CORRUPT, "no weight_map");
    temp_dir_put_text(index, "{\"weight_map\":{}}");
    refused("m", ERR_CORRUPT, "has no tensors");
    begin(&m);
    add(&m, "b.weight", "2");
    finish(&m, "m/unet/x.safetensors");
    temp_dir_put_text(index, "{\"weight_map\":{\"a.weight\":\"x.safetensors\"}}");
    refused("m", ERR_CORRUPT, "is not in its shard");
    temp_dir_put_text(index, "{\"weight_map\":{\"b.weight\":\"x.safetensors\"}}");
    checkpoint_close(opened("m", NULL));
}

static void checkpoint_refuses_directories_that_are_not_whole(void **state)
{
    (void)state;
    make_dir();
    temp_dir_put_text("m/model_index.json", "[]");
    refused("m", ERR_CORRUPT, "the document is not an object");
    temp_dir_put_text("m/model_index.json", "{\"_class_name\":\"FluxPipeline\"}");
    refused("m", ERR_UNSUPPORTED, "FluxPipeline without unet");
    temp_dir_put_text("m/model_index.json", "{\"unet\":[\"diffusers\",\"UNet3DConditionModel\"]}");
    refused("m", ERR_UNSUPPORTED, "UNet3DConditionModel; served are UNet2DConditionModel");
    temp_dir_put_text("m/model_index.json", "{\"unet\":[null,null]}");
    refused("m", ERR_UNSUPPORTED, "without unet");
    temp_dir_put_text("m/model_index.json", INDEX);
    temp_dir_put_text("m/unet/config.json", "{\"a\":");
    refused("m", ERR_CORRUPT, "config.json");
    unlink(temp_dir_path("m/unet/config.json"));
    refused("m", ERR_NOTFOUND, "config.json");
    temp_dir_put_text("m/unet/config.json", "{}");
    unlink(temp_dir_path("m/scheduler/scheduler_config.json"));
    refused("m", ERR_NOTFOUND, "scheduler_config.json");
    temp_dir_put_text("m/scheduler/scheduler_config.json", "{}");
    unlink(temp_dir_path("m/vae/diffusion_pytorch_model.safetensors"));
    refused("m", ERR_NOTFOUND, "has no diffusion_pytorch_model.safetensors");
    temp_dir_put_text("m/vae/diffusion_pytorch_model.bin", "PK");
    refused("m", ERR_UNSUPPORTED, "save_pretrained");
    unlink(temp_dir_path("m/vae/diffusion_pytorch_model.bin"));
    mkdir(temp_dir_path("none"), 0700);
    refused("none", ERR_NOTFOUND, "neither model_index.json");
}

static void checkpoint_reads_a_part_alone(void **state)
{
    (void)state;
    struct maker m;
    mkdir(temp_dir_path("taesd"), 0700);
    temp_dir_put_text("taesd/config.json", "{\"_class_name\":\"AutoencoderTiny\"}");
    begin(&m);
    add(&m, "decoder.layers.0.weight", "2,2,3,3");
    finish(&m, "taesd/diffusion_pytorch_model.safetensors");
    assert_true(checkpoint_is_image(temp_dir_path("taesd")));
    struct checkpoint *c = opened("taesd", NULL);
    assert_int_equal(checkpoint_family(c), CHECKPOINT_ALONE);
    assert_true(checkpoint_has(c, CHECKPOINT_VAE));
    assert_false(checkpoint_has(c, CHECKPOINT_UNET));
    assert_null(checkpoint_scheduler(c));
    assert_null(checkpoint_index(c));
    assert_null(checkpoint_find(c, CHECKPOINT_UNET, "a"));
    assert_int_equal(checkpoint_find(c, CHECKPOINT_VAE, "decoder.layers.0.weight")->ndim, 4);
    checkpoint_close(c);
    temp_dir_put_text("taesd/config.json", "{\"_class_name\":\"AutoencoderKLWan\"}");
    refused("taesd", ERR_UNSUPPORTED, "AutoencoderKLWan");
    temp_dir_put_text("taesd/config.json", "{\"architectures\":[\"Llama\"]}");
    refused("taesd", ERR_UNSUPPORTED, "not the part of an image model");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(checkpoint_refuses_pickles),
        cmocka_unit_test(checkpoint_refuses_single_files_that_lack_a_part),
        cmocka_unit_test(checkpoint_refuses_tensors_that_have_no_place),
        cmocka_unit_test(checkpoint_hears_markers_of_the_prediction),
        cmocka_unit_test(checkpoint_refuses_models_of_other_noise),
        cmocka_unit_test(checkpoint_finds_a_tokenizer_beside_a_file),
        cmocka_unit_test(checkpoint_never_leaves_its_directory),
        cmocka_unit_test(checkpoint_refuses_directories_that_are_not_whole),
        cmocka_unit_test(checkpoint_reads_a_part_alone),
    };
    return cmocka_run_group_tests(tests, temp_dir_make, temp_dir_remove);
}
