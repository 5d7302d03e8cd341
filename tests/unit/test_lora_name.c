/* Names of tensors in LoRA files: every writer's way to the same layer, and what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "engine/lora_name.h"

static void reads(const char *tensor, enum lora_where where, enum lora_role role, const char *layer)
{
    struct lora_name n;
    struct err e = {0};
    if (lora_name_read(&n, tensor, &e) != 0)
        fail_msg("%s: %s", tensor, e.msg);
    assert_true(lora_name_is(tensor));
    assert_int_equal(n.where, where);
    assert_int_equal(n.role, role);
    assert_string_equal(n.layer, layer);
}

static void lora_name_reads_every_writers_names(void **state)
{
    (void)state;
    const char q[] = "down_blocks_0_attentions_1_transformer_blocks_0_attn1_to_q";
    const char out[] = "mid_block_attentions_0_transformer_blocks_0_attn2_to_out_0";
    const char text[] = "text_model_encoder_layers_3_self_attn_q_proj";
    reads("lora_unet_down_blocks_0_attentions_1_transformer_blocks_0_attn1_to_q.lora_down.weight",
          LORA_UNET, LORA_DOWN, q);
    reads("lora_unet_down_blocks_0_attentions_1_transformer_blocks_0_attn1_to_q.alpha", LORA_UNET,
          LORA_ALPHA, q);
    reads("unet.down_blocks.0.attentions.1.transformer_blocks.0.attn1.to_q.lora_A.weight",
          LORA_UNET, LORA_DOWN, q);
    reads("base_model.model.unet.down_blocks.0.attentions.1.transformer_blocks.0.attn1.to_q.lora_B."
          "default.weight",
          LORA_UNET, LORA_UP, q);
    reads("unet.down_blocks.0.attentions.1.transformer_blocks.0.attn1.to_q.lora.up.weight",
          LORA_UNET, LORA_UP, q);
    reads("down_blocks.0.attentions.1.transformer_blocks.0.attn1.processor.to_q_lora.up.weight",
          LORA_UNET, LORA_UP, q);
    reads("mid_block.attentions.0.transformer_blocks.0.attn2.processor.to_out_lora.down.weight",
          LORA_UNET, LORA_DOWN, out);
    reads("unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_out.0.lora_A.weight",
          LORA_UNET, LORA_DOWN, out);
    reads("lora_unet_up_blocks_1_resnets_0_conv1.lora_mid.weight", LORA_UNET, LORA_MID,
          "up_blocks_1_resnets_0_conv1");
    reads("lora_te_text_model_encoder_layers_3_self_attn_q_proj.lora_up.weight", LORA_TEXT, LORA_UP,
          text);
    reads("lora_te1_text_model_encoder_layers_3_self_attn_q_proj.lora_up.weight", LORA_TEXT,
          LORA_UP, text);
    reads("lora_te2_text_model_encoder_layers_3_self_attn_q_proj.alpha", LORA_TEXT_2, LORA_ALPHA,
          text);
    reads("text_encoder.text_model.encoder.layers.3.self_attn.q_proj.lora_linear_layer.down.weight",
          LORA_TEXT, LORA_DOWN, text);
    reads("text_encoder.text_model.encoder.layers.3.self_attn.to_q_lora.down.weight", LORA_TEXT,
          LORA_DOWN, text);
    reads("text_encoder_2.encoder.layers.3.self_attn.q_proj.lora_B.weight", LORA_TEXT_2, LORA_UP,
          text);
}

static void refuses(const char *tensor, int code, const char *word)
{
    struct lora_name n;
    struct err e = {0};
    assert_int_equal(lora_name_read(&n, tensor, &e), code);
    if (strstr(e.msg, word) == NULL)
        fail_msg("no \"%s\" in \"%s\"", word, e.msg);
}

static void lora_name_refuses_other_methods_by_name(void **state)
{
    (void)state;
    refuses("lora_unet_mid_block_x.hada_w1_a", ERR_UNSUPPORTED, "LoHa");
    refuses("lora_unet_mid_block_x.lokr_w2", ERR_UNSUPPORTED, "LoKr");
    refuses("lora_unet_mid_block_x.dora_scale", ERR_UNSUPPORTED, "DoRA");
    refuses("unet.x.to_q.lora_magnitude_vector.default.weight", ERR_UNSUPPORTED, "DoRA");
    refuses("lora_unet_mid_block_x.oft_blocks", ERR_UNSUPPORTED, "OFT");
    refuses("lora_unet_mid_block_x.diff_b", ERR_UNSUPPORTED, "full");
    refuses("unet.x.to_q.lora_B.bias", ERR_UNSUPPORTED, "bias");
    refuses("unet.x.to_q.weight", ERR_CORRUPT, "no part of a LoRA");
    refuses("lora_unet_.alpha", ERR_CORRUPT, "names no layer");
    refuses("", ERR_CORRUPT, "no part");
    char name[2 * LORA_NAME_MAX];
    memset(name, 'a', sizeof name);
    strncpy(name + sizeof name - 7, ".alpha", 7);
    refuses(name, ERR_CORRUPT, "no part of a LoRA");
    assert_false(lora_name_is("emb_params"));
    assert_false(lora_name_is("clip_l"));
}

static void turns(const char *layer, bool attention, const char *ldm)
{
    char out[LORA_NAME_MAX];
    assert_true(lora_name_ldm(out, sizeof out, layer, 2, attention));
    assert_string_equal(out, ldm);
}

static void lora_name_knows_latent_diffusions_blocks(void **state)
{
    (void)state;
    char out[LORA_NAME_MAX];
    turns("down_blocks.0.resnets.0.conv1", false, "input_blocks_1_0_in_layers_2");
    turns("down_blocks.1.attentions.1.transformer_blocks.3.attn2.to_k", false,
          "input_blocks_5_1_transformer_blocks_3_attn2_to_k");
    turns("down_blocks.1.downsamplers.0.conv", false, "input_blocks_6_0_op");
    turns("mid_block.resnets.1.conv_shortcut", false, "middle_block_2_skip_connection");
    turns("mid_block.attentions.0.proj_in", false, "middle_block_1_proj_in");
    turns("up_blocks.0.resnets.2.time_emb_proj", false, "output_blocks_2_0_emb_layers_1");
    turns("up_blocks.1.attentions.0.proj_out", false, "output_blocks_3_1_proj_out");
    turns("up_blocks.0.upsamplers.0.conv", true, "output_blocks_2_2_conv");
    turns("up_blocks.0.upsamplers.0.conv", false, "output_blocks_2_1_conv");
    turns("conv_in", false, "input_blocks_0_0");
    turns("add_embedding.linear_2", false, "label_emb_0_2");
    assert_false(lora_name_ldm(out, sizeof out, "text_projection", 2, false));
    assert_false(lora_name_ldm(out, 8, "conv_in", 2, false));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lora_name_reads_every_writers_names),
        cmocka_unit_test(lora_name_refuses_other_methods_by_name),
        cmocka_unit_test(lora_name_knows_latent_diffusions_blocks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
