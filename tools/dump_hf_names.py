#!/usr/bin/env python3
"""Writes what `transformers` saves for each family: the ground truth of the HF side of families/*.toml.

  dump_hf_names.py TESTDATA [FAMILY ...]
  dump_hf_names.py TESTDATA --known ORACLES

TESTDATA/family_configs/FAMILY_VARIANT.v4.json is a config as a hub has it (version 4 keys), .v5.json the config.json
that this version of transformers writes for the same model. TESTDATA/hf_names/FAMILY.json holds, for each variant, the
names, shapes and dtypes in the header of the safetensors file that save_pretrained writes (a bf16 model), and for
full-size public models the number of tensors, the number of parameters and the XXH3-128 of the sorted lines
"name [d0, d1]". transformers has no MTP layers for DeepSeek-V3 and drops them, so the configs here have none.
With --known TESTDATA/family_configs/known_FAMILY.json is written instead: the configs behind the Megatron names of
testdata/known/names (tools/make_known_names.py), from make_hf.py in the folder ORACLES.
"""
import copy
import json
import math
import os
import struct
import sys
import tempfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch  # noqa: E402
import transformers  # noqa: E402
import xxhash  # noqa: E402
from transformers.core_model_loading import revert_weight_conversion  # noqa: E402

ODD = dict(vocab_size=386, hidden_size=48, num_hidden_layers=3, num_attention_heads=6, num_key_value_heads=2,
           intermediate_size=88, max_position_embeddings=160, tie_word_embeddings=False)
MOE = dict(intermediate_size=40, num_experts_per_tok=2)
LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=8192)
GPT_OSS_YARN = dict(rope_type="yarn", factor=32.0, beta_fast=32.0, beta_slow=1.0, truncate=False,
                    original_max_position_embeddings=4096)
YARN = dict(type="yarn", factor=40, beta_fast=32, beta_slow=1, mscale=0.707, mscale_all_dim=0.707,
            original_max_position_embeddings=4096)
MLA = dict(q_lora_rank=36, kv_lora_rank=28, qk_rope_head_dim=8, qk_nope_head_dim=14, v_head_dim=18,
           num_key_value_heads=6, moe_intermediate_size=40, n_routed_experts=4, n_shared_experts=2,
           num_experts_per_tok=2, first_k_dense_replace=1, n_group=2, topk_group=1, routed_scaling_factor=2.5)
V3 = dict(scoring_func="sigmoid", topk_method="noaux_tc", norm_topk_prob=True, num_nextn_predict_layers=0)

GLM = dict(moe_intermediate_size=40, n_routed_experts=4, n_shared_experts=2, num_experts_per_tok=2, head_dim=12,
           first_k_dense_replace=1, n_group=2, topk_group=1, routed_scaling_factor=2.5, partial_rotary_factor=0.5,
           num_nextn_predict_layers=0)
ERNIE = dict(moe_intermediate_size=40, moe_num_experts=4, moe_k=2, moe_num_shared_experts=2, moe_layer_start_index=1,
             moe_layer_end_index=-1, moe_layer_interval=1, head_dim=12, rope_theta=500000.0)
NEMOTRON_H = dict(num_hidden_layers=4, head_dim=12, mamba_num_heads=8, mamba_head_dim=10, n_groups=2,
                  ssm_state_size=18, conv_kernel=4, chunk_size=8, mlp_hidden_act="relu2", use_conv_bias=True, n_routed_experts=4,
                  num_experts_per_tok=2, moe_intermediate_size=40, moe_shared_expert_intermediate_size=72,
                  n_shared_experts=1, n_group=1, topk_group=1, routed_scaling_factor=2.5, norm_topk_prob=True)
DELTA_NET = dict(head_dim=16, linear_conv_kernel_dim=4, linear_key_head_dim=10, linear_value_head_dim=14,
                 linear_num_key_heads=2, linear_num_value_heads=6, partial_rotary_factor=0.25,
                 layer_types=["linear_attention", "linear_attention", "full_attention"])
QWEN3_NEXT_MOE = dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32,
                      shared_expert_intermediate_size=40, norm_topk_prob=True)
LLLG = ["sliding_attention"] * 3 + ["full_attention"]
GEMMA4 = dict(num_hidden_layers=4, head_dim=12, global_head_dim=16, hidden_size_per_layer_input=10,
              vocab_size_per_layer_input=386, tie_word_embeddings=True, sliding_window=16,
              layer_types=["sliding_attention", "full_attention"] * 2)
FALCON_H1 = dict(head_dim=12, mamba_d_ssm=80, mamba_n_heads=8, mamba_d_head=10, mamba_n_groups=2, mamba_d_state=18,
                 mamba_d_conv=4, mamba_chunk_size=8)

TOKENS = dict(image_token_id=380, video_token_id=381, vision_start_token_id=382, vision_end_token_id=383)
QWEN2_5_VISION = dict(depth=2, hidden_size=40, hidden_act="silu", num_heads=4, intermediate_size=68, out_hidden_size=48,
                      patch_size=6, fullatt_block_indexes=[1], window_size=24, spatial_merge_size=2,
                      temporal_patch_size=2, in_channels=3)
QWEN3_VISION = dict(depth=5, hidden_size=40, num_heads=4, intermediate_size=68, out_hidden_size=48, patch_size=6,
                    num_position_embeddings=36, spatial_merge_size=2, temporal_patch_size=2, in_channels=3)
DEEPSTACK = dict(**QWEN3_VISION, deepstack_visual_indexes=[1, 3])
MROPE = dict(rope_type="default", rope_theta=1000000.0, mrope_section=[1, 1, 2])
QWEN3_VL = dict(head_dim=12, attention_bias=False, rope_parameters=MROPE)
SIGLIP = dict(model_type="siglip_vision_model", hidden_size=40, intermediate_size=68, num_hidden_layers=5,
              num_attention_heads=4, image_size=24, patch_size=6, num_channels=3, vision_use_head=False)
GEMMA3 = dict(head_dim=12, query_pre_attn_scalar=14, sliding_window=16, tie_word_embeddings=True,
              layer_types=["sliding_attention", "full_attention", "sliding_attention"])
GEMMA3_TOKENS = dict(mm_tokens_per_image=4, boi_token_index=380, eoi_token_index=381, image_token_index=382)
PIXTRAL = dict(model_type="pixtral", hidden_size=40, intermediate_size=68, num_hidden_layers=5, num_attention_heads=4,
               head_dim=10, image_size=24, patch_size=6, num_channels=3)
GLM_VISION = dict(depth=5, hidden_size=40, num_heads=4, intermediate_size=68, out_hidden_size=48, patch_size=6,
                  image_size=24, spatial_merge_size=2, temporal_patch_size=2, in_channels=3)
GEMMA4_VISION = dict(hidden_size=40, intermediate_size=68, num_hidden_layers=5, num_attention_heads=4,
                     num_key_value_heads=4, head_dim=10, patch_size=6, position_embedding_size=64)
GEMMA4_AUDIO = dict(hidden_size=36, num_hidden_layers=2, num_attention_heads=3, subsampling_conv_channels=[12, 6],
                    output_proj_dims=44)
GEMMA4_VL = dict(tie_word_embeddings=True, image_token_id=380, video_token_id=381, audio_token_id=382,
                 text_config=dict(**GEMMA4, num_kv_shared_layers=1))
EXAONE4 = dict(head_dim=12, sliding_window=16,
               layer_types=["sliding_attention", "sliding_attention", "full_attention"])
ERNIE_VL = dict(head_dim=12, moe_intermediate_size=[40, 24], moe_num_experts=4, moe_k=2, moe_num_shared_experts=2,
                mlp_layer_types=["dense", "sparse", "sparse"], tie_word_embeddings=True,
                rope_parameters=dict(rope_type="default", rope_theta=500000.0, mrope_section=[2, 2, 2]))
ERNIE_VISION = dict(depth=5, hidden_size=40, num_heads=4, intermediate_size=68, patch_size=6, spatial_merge_size=2,
                    temporal_merge_size=2, in_channels=3)

QWEN2_AUDIO = dict(num_mel_bins=20, encoder_layers=2, encoder_attention_heads=4, encoder_ffn_dim=68, d_model=40,
                   max_source_positions=50)
QWEN3_AUDIO = dict(num_mel_bins=20, encoder_layers=2, encoder_attention_heads=4, encoder_ffn_dim=68, d_model=40,
                   downsample_hidden_size=24, output_dim=48)
CLIP = dict(num_hidden_layers=2, hidden_size=40, intermediate_size=68, num_attention_heads=4, image_size=24, patch_size=6)
MINIMAX_M3 = dict(head_dim=12, rotary_dim=6, intermediate_size=40, dense_intermediate_size=88,
                  shared_intermediate_size=72, num_local_experts=4, num_experts_per_tok=2, index_n_heads=2,
                  index_head_dim=10, layer_types=["full_attention", "minimax_m3_sparse", "minimax_m3_sparse"],
                  mlp_layer_types=["dense", "sparse", "sparse"])
KIMI_VISION = dict(num_hidden_layers=2, hidden_size=40, intermediate_size=68, num_attention_heads=4, patch_size=6,
                   pos_emb_height=5, pos_emb_width=7)
STEP = dict(head_dim=12, num_attention_groups=2, moe_num_experts=4, moe_top_k=2, moe_intermediate_size=40,
            share_expert_dim=72, sliding_window=16, moe_layers_enum="1,2", moe_router_scaling_factor=3.0,
            layer_types=["full_attention", "sliding_attention", "sliding_attention"],
            attention_other_setting=dict(attention_type="sliding_attention", num_attention_heads=8,
                                         num_attention_groups=2, head_dim=12))
STEP_VISION = dict(width=24, layers=2, heads=4, image_size=24, patch_size=6)
OURS_MOE = dict(moe_intermediate_size=40, n_routed_experts=4, n_shared_experts=2, num_experts_per_tok=2, head_dim=12,
                n_group=2, topk_group=1, routed_scaling_factor=2.5, norm_topk_prob=True)
SSF = ["sliding_attention", "sliding_attention", "full_attention"]
DSA = dict(index_topk=16, index_head_dim=16, index_n_heads=2, norm_topk_prob=True, num_nextn_predict_layers=0)
NO_ROPE = dict(no_rope_layers=[1, 0, 1], no_rope_layer_interval=2)
GLM_DENSE = dict(head_dim=12, attention_bias=True, partial_rotary_factor=0.5, pad_token_id=0)

YOUTU = dict(q_lora_rank=36, kv_lora_rank=28, qk_rope_head_dim=8, qk_nope_head_dim=14, v_head_dim=18,
             num_key_value_heads=6, initializer_range=0.02)

# architecture, tiny variants, full-size public models
FAMILIES = {
    "llama": ("LlamaForCausalLM", {
        "mha": dict(num_key_value_heads=6),
        "gqa": {},
        "tied": dict(tie_word_embeddings=True),
        "bias": dict(attention_bias=True, mlp_bias=True),
        "head_dim": dict(head_dim=12, num_key_value_heads=1),
        "llama3_rope": dict(rope_theta=500000.0, rope_scaling=LLAMA3),
        "linear_rope": dict(rope_scaling=dict(type="linear", factor=2.0)),
    }, {
        "Llama-2-7b": dict(vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32,
                           num_attention_heads=32, num_key_value_heads=32, max_position_embeddings=4096),
        "Llama-3.1-8B": dict(vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32,
                             num_attention_heads=32, num_key_value_heads=8, rope_theta=500000.0, rope_scaling=LLAMA3,
                             max_position_embeddings=131072, rms_norm_eps=1e-5),
        "Llama-3.1-405B": dict(vocab_size=128256, hidden_size=16384, intermediate_size=53248, num_hidden_layers=126,
                               num_attention_heads=128, num_key_value_heads=8, rope_theta=500000.0,
                               rope_scaling=LLAMA3, max_position_embeddings=131072, rms_norm_eps=1e-5),
    }),
    "mistral": ("MistralForCausalLM", {
        "window": dict(sliding_window=16),
        "head_dim": dict(head_dim=12, sliding_window=None),
    }, {
        "Mistral-7B-v0.1": dict(vocab_size=32000, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32,
                                num_attention_heads=32, num_key_value_heads=8, sliding_window=4096, rms_norm_eps=1e-5,
                                max_position_embeddings=32768, rope_theta=10000.0),
    }),
    "qwen2": ("Qwen2ForCausalLM", {
        "untied": dict(use_sliding_window=False),
        "tied": dict(tie_word_embeddings=True),
        "window": dict(use_sliding_window=True, sliding_window=16, max_window_layers=1),
    }, {
        "Qwen2.5-7B": dict(vocab_size=152064, hidden_size=3584, intermediate_size=18944, num_hidden_layers=28,
                           num_attention_heads=28, num_key_value_heads=4, rope_theta=1000000.0, rms_norm_eps=1e-6,
                           use_sliding_window=False, sliding_window=131072, max_window_layers=28,
                           max_position_embeddings=131072),
    }),
    "qwen3": ("Qwen3ForCausalLM", {
        "untied": dict(head_dim=12),
        "tied": dict(head_dim=12, tie_word_embeddings=True),
        "bias": dict(head_dim=12, attention_bias=True),
    }, {
        "Qwen3-8B": dict(vocab_size=151936, hidden_size=4096, intermediate_size=12288, num_hidden_layers=36,
                         num_attention_heads=32, num_key_value_heads=8, head_dim=128, rope_theta=1000000,
                         max_position_embeddings=40960, rms_norm_eps=1e-6, max_window_layers=36, attention_bias=False),
    }),
    "qwen3_moe": ("Qwen3MoeForCausalLM", {
        "every_layer": dict(**MOE, head_dim=12, num_experts=4, moe_intermediate_size=32, norm_topk_prob=True),
        "sparse_step": dict(**MOE, head_dim=12, num_experts=4, moe_intermediate_size=32, decoder_sparse_step=2),
        "mlp_only": dict(**MOE, head_dim=12, num_experts=4, moe_intermediate_size=32, mlp_only_layers=[1],
                         attention_bias=True),
    }, {
        "Qwen3-30B-A3B": dict(vocab_size=151936, hidden_size=2048, intermediate_size=6144, num_hidden_layers=48,
                              num_attention_heads=32, num_key_value_heads=4, head_dim=128, moe_intermediate_size=768,
                              num_experts=128, num_experts_per_tok=8, norm_topk_prob=True, decoder_sparse_step=1,
                              mlp_only_layers=[], rope_theta=1000000.0, max_position_embeddings=40960),
        "Qwen3-235B-A22B": dict(vocab_size=151936, hidden_size=4096, intermediate_size=12288, num_hidden_layers=94,
                                num_attention_heads=64, num_key_value_heads=4, head_dim=128,
                                moe_intermediate_size=1536, num_experts=128, num_experts_per_tok=8, norm_topk_prob=True,
                                decoder_sparse_step=1, mlp_only_layers=[], rope_theta=1000000.0,
                                max_position_embeddings=40960),
    }),
    "mixtral": ("MixtralForCausalLM", {"plain": dict(**MOE, num_local_experts=4, sliding_window=None)}, {
        "Mixtral-8x7B": dict(vocab_size=32000, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32,
                             num_attention_heads=32, num_key_value_heads=8, num_local_experts=8, num_experts_per_tok=2,
                             rope_theta=1000000.0, max_position_embeddings=32768, sliding_window=None),
        "Mixtral-8x22B": dict(vocab_size=32768, hidden_size=6144, intermediate_size=16384, num_hidden_layers=56,
                              num_attention_heads=48, num_key_value_heads=8, num_local_experts=8, num_experts_per_tok=2,
                              rope_theta=1000000.0, max_position_embeddings=65536, sliding_window=None),
    }),
    "olmoe": ("OlmoeForCausalLM", {
        "mha": dict(**MOE, num_experts=4, num_key_value_heads=6),
        "gqa": dict(**MOE, num_experts=4),
    }, {
        "OLMoE-1B-7B": dict(vocab_size=50304, hidden_size=2048, intermediate_size=1024, num_hidden_layers=16,
                            num_attention_heads=16, num_key_value_heads=16, num_experts=64, num_experts_per_tok=8,
                            norm_topk_prob=False, max_position_embeddings=4096, rope_theta=10000.0),
    }),
    "gemma": ("GemmaForCausalLM", {
        "tied": dict(head_dim=12, tie_word_embeddings=True, hidden_act="gelu"),
        "mqa": dict(head_dim=12, num_key_value_heads=1, tie_word_embeddings=True, hidden_act="gelu_pytorch_tanh"),
    }, {
        "gemma-7b": dict(vocab_size=256000, hidden_size=3072, intermediate_size=24576, num_hidden_layers=28,
                         num_attention_heads=16, num_key_value_heads=16, head_dim=256, max_position_embeddings=8192),
    }),
    "gemma2": ("Gemma2ForCausalLM", {
        "tied": dict(head_dim=12, tie_word_embeddings=True, query_pre_attn_scalar=14, sliding_window=16),
    }, {
        "gemma-2-9b": dict(vocab_size=256000, hidden_size=3584, intermediate_size=14336, num_hidden_layers=42,
                           num_attention_heads=16, num_key_value_heads=8, head_dim=256, query_pre_attn_scalar=256,
                           sliding_window=4096, max_position_embeddings=8192),
    }),
    "gemma3": ("Gemma3ForCausalLM", {
        "tied": dict(head_dim=12, tie_word_embeddings=True, query_pre_attn_scalar=14, sliding_window=16,
                     num_hidden_layers=7, rope_theta=1000000.0, rope_local_base_freq=10000.0,
                     rope_scaling=dict(rope_type="linear", factor=8.0)),
        "period": dict(head_dim=12, tie_word_embeddings=True, query_pre_attn_scalar=14, sliding_window=16,
                       sliding_window_pattern=2),
    }, {
        "gemma-3-27b (text)": dict(vocab_size=262208, hidden_size=5376, intermediate_size=21504, num_hidden_layers=62,
                                   num_attention_heads=32, num_key_value_heads=16, head_dim=128, sliding_window=1024,
                                   query_pre_attn_scalar=168, sliding_window_pattern=6, rope_theta=1000000.0,
                                   rope_scaling=dict(rope_type="linear", factor=8.0)),
    }),
    "nemotron": ("NemotronForCausalLM", {
        "plain": dict(head_dim=12, hidden_act="relu2", norm_eps=1e-5, partial_rotary_factor=0.5),
        "bias": dict(hidden_act="relu2", attention_bias=True, mlp_bias=True),
    }, {
        "Nemotron-4-340B": dict(vocab_size=256000, hidden_size=18432, intermediate_size=73728, num_hidden_layers=96,
                                num_attention_heads=96, num_key_value_heads=8, head_dim=192, hidden_act="relu2",
                                norm_eps=1e-5, partial_rotary_factor=0.5, max_position_embeddings=4096),
    }),
    "deepseek_v2": ("DeepseekV2ForCausalLM", {
        "q_lora": dict(**MLA, topk_method="group_limited_greedy"),
        "lite": dict(**{**MLA, "q_lora_rank": None, "n_group": 1}, topk_method="greedy", rope_scaling=YARN),
    }, {
        "DeepSeek-V2-Lite": dict(vocab_size=102400, hidden_size=2048, intermediate_size=10944, num_hidden_layers=27,
                                 num_attention_heads=16, num_key_value_heads=16, q_lora_rank=None, kv_lora_rank=512,
                                 qk_rope_head_dim=64, qk_nope_head_dim=128, v_head_dim=128, moe_intermediate_size=1408,
                                 n_routed_experts=64, n_shared_experts=2, num_experts_per_tok=6, n_group=1,
                                 topk_group=1, first_k_dense_replace=1, routed_scaling_factor=1.0,
                                 topk_method="greedy", rope_scaling=YARN, max_position_embeddings=163840),
    }),
    "deepseek_v3": ("DeepseekV3ForCausalLM", {
        "q_lora": dict(**MLA, **V3),
        "no_q_lora": dict(**{**MLA, "q_lora_rank": None, "n_shared_experts": 1, "first_k_dense_replace": 0}, **V3),
    }, {
        "DeepSeek-V3": dict(vocab_size=129280, hidden_size=7168, intermediate_size=18432, num_hidden_layers=61,
                            num_attention_heads=128, num_key_value_heads=128, q_lora_rank=1536, kv_lora_rank=512,
                            qk_rope_head_dim=64, qk_nope_head_dim=128, v_head_dim=128, moe_intermediate_size=2048,
                            n_routed_experts=256, n_shared_experts=1, num_experts_per_tok=8, n_group=8, topk_group=4,
                            first_k_dense_replace=3, routed_scaling_factor=2.5, **V3, max_position_embeddings=163840,
                            rope_scaling={**YARN, "mscale": 1.0, "mscale_all_dim": 1.0}),
        # Its config.json names DeepSeek-V3's architecture.
        "Kimi-K2": dict(vocab_size=163840, hidden_size=7168, intermediate_size=18432, num_hidden_layers=61,
                        num_attention_heads=64, num_key_value_heads=64, q_lora_rank=1536, kv_lora_rank=512,
                        qk_rope_head_dim=64, qk_nope_head_dim=128, v_head_dim=128, moe_intermediate_size=2048,
                        n_routed_experts=384, n_shared_experts=1, num_experts_per_tok=8, n_group=1, topk_group=1,
                        first_k_dense_replace=1, routed_scaling_factor=2.827, **V3, rope_theta=50000.0,
                        max_position_embeddings=131072,
                        rope_scaling={**YARN, "factor": 32, "beta_fast": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0}),
    }),
    "gpt_oss": ("GptOssForCausalLM", {
        "bias": dict(**MOE, head_dim=12, num_local_experts=4, sliding_window=16, rope_scaling=GPT_OSS_YARN,
                     rope_theta=150000),
        "no_bias": dict(**MOE, head_dim=12, num_local_experts=4, sliding_window=16, attention_bias=False,
                        rope_scaling=GPT_OSS_YARN, rope_theta=150000),
    }, {
        "gpt-oss-20b": dict(vocab_size=201088, hidden_size=2880, intermediate_size=2880, num_hidden_layers=24,
                            num_attention_heads=64, num_key_value_heads=8, head_dim=64, num_local_experts=32,
                            num_experts_per_tok=4, sliding_window=128, rope_theta=150000,
                            max_position_embeddings=131072,
                            rope_scaling=GPT_OSS_YARN),
        "gpt-oss-120b": dict(vocab_size=201088, hidden_size=2880, intermediate_size=2880, num_hidden_layers=36,
                             num_attention_heads=64, num_key_value_heads=8, head_dim=64, num_local_experts=128,
                             num_experts_per_tok=4, sliding_window=128, rope_theta=150000,
                             max_position_embeddings=131072,
                             rope_scaling=GPT_OSS_YARN),
    }),
    "glm4_moe": ("Glm4MoeForCausalLM", {
        "bias_and_norm": dict(**GLM, use_qk_norm=True, attention_bias=True),
        "plain": dict(**GLM, use_qk_norm=False, attention_bias=False),
    }, {
        "GLM-4.5": dict(vocab_size=151552, hidden_size=5120, intermediate_size=12288, num_hidden_layers=92,
                        num_attention_heads=96, num_key_value_heads=8, head_dim=128, moe_intermediate_size=1536,
                        n_routed_experts=160, n_shared_experts=1, num_experts_per_tok=8, first_k_dense_replace=3,
                        use_qk_norm=True, attention_bias=True, num_nextn_predict_layers=0, rope_theta=1000000,
                        partial_rotary_factor=0.5, max_position_embeddings=131072, rms_norm_eps=1e-5),
    }),
    "ernie4_5_moe": ("Ernie4_5_MoeForCausalLM", {
        "tied": dict(**ERNIE, tie_word_embeddings=True),
        "untied": dict(**ERNIE),
    }, {
        "ERNIE-4.5-21B-A3B": dict(vocab_size=103424, hidden_size=2560, intermediate_size=12288, num_hidden_layers=28,
                                  num_attention_heads=20, num_key_value_heads=4, moe_intermediate_size=1536,
                                  moe_num_experts=64, moe_k=6, moe_num_shared_experts=2, moe_layer_start_index=1,
                                  moe_layer_end_index=27, moe_layer_interval=1, tie_word_embeddings=True,
                                  rope_theta=500000, max_position_embeddings=131072, rms_norm_eps=1e-5),
    }),
    "exaone4": ("Exaone4ForCausalLM", {
        "full": dict(head_dim=12, layer_types=["full_attention"] * 3, sliding_window=None, sliding_window_pattern=4, tie_word_embeddings=True),
        "window": dict(head_dim=12, num_hidden_layers=4, sliding_window=16, sliding_window_pattern="LLLG",
                       layer_types=LLLG),
    }, {
        "EXAONE-4.0-32B": dict(vocab_size=102400, hidden_size=5120, intermediate_size=27392, num_hidden_layers=64,
                               num_attention_heads=40, num_key_value_heads=8, head_dim=128, sliding_window=4096,
                               sliding_window_pattern="LLLG", layer_types=LLLG * 16, rope_theta=1000000, max_position_embeddings=131072),
    }),
    "exaone_moe": ("ExaoneMoeForCausalLM", {
        "plain": dict(moe_intermediate_size=40, num_experts=4, num_experts_per_tok=2, num_shared_experts=1,
                      first_k_dense_replace=1, head_dim=8, sliding_window=16, sliding_window_pattern="LLLG",
                      layer_types=["sliding_attention", "sliding_attention", "full_attention"],
                      mlp_layer_types=["dense", "sparse", "sparse"]),
    }, {}),
    "nemotron_h": ("NemotronHForCausalLM", {
        "mamba_mlp_attention": dict(**NEMOTRON_H, hybrid_override_pattern="M-*-"),
        "experts": dict(**NEMOTRON_H, hybrid_override_pattern="ME*E"),
        "latent": dict(**NEMOTRON_H, hybrid_override_pattern="ME*E", moe_latent_size=20),
    }, {
        "Nemotron-H-56B": dict(
            vocab_size=131072, hidden_size=8192, intermediate_size=32768, num_hidden_layers=118,
            hybrid_override_pattern="M-M-M-M*-" + "M-M-M-M-M*-" * 9 + "M-M-M-M-M-",
            num_attention_heads=64, num_key_value_heads=8, head_dim=128, mamba_num_heads=256, mamba_head_dim=64,
            n_groups=8, ssm_state_size=256, conv_kernel=4, chunk_size=256, use_bias=False, use_conv_bias=True,
            mlp_bias=False, attention_bias=False, tie_word_embeddings=False, max_position_embeddings=8192),
    }),
    "qwen3_next": ("Qwen3NextForCausalLM", {
        "every_layer": dict(**DELTA_NET, **QWEN3_NEXT_MOE),
        "mlp_only": dict(**DELTA_NET, **QWEN3_NEXT_MOE, mlp_only_layers=[1]),
    }, {
        "Qwen3-Next-80B-A3B": dict(vocab_size=151936, hidden_size=2048, intermediate_size=5120, num_hidden_layers=48,
                                   num_attention_heads=16, num_key_value_heads=2, head_dim=256, num_experts=512,
                                   num_experts_per_tok=10, moe_intermediate_size=512,
                                   shared_expert_intermediate_size=512, linear_conv_kernel_dim=4,
                                   linear_key_head_dim=128, linear_num_key_heads=16, linear_num_value_heads=32,
                                   linear_value_head_dim=128, full_attention_interval=4, decoder_sparse_step=1,
                                   rope_theta=10000000, partial_rotary_factor=0.25, max_position_embeddings=262144),
    }),
    "qwen3_5": ("Qwen3_5ForCausalLM", {
        "untied": dict(**DELTA_NET),
        "tied": dict(**DELTA_NET, tie_word_embeddings=True),
    }, {}),
    "qwen3_5_moe": ("Qwen3_5MoeForCausalLM", {"plain": dict(**DELTA_NET, **QWEN3_NEXT_MOE)}, {}),
    "falcon_h1": ("FalconH1ForCausalLM", {
        "norm": dict(**FALCON_H1, mamba_rms_norm=True, projectors_bias=False),
        "plain": dict(**FALCON_H1, mamba_rms_norm=False, projectors_bias=False, tie_word_embeddings=True),
    }, {}),
    "glm4_moe_lite": ("Glm4MoeLiteForCausalLM", {
        "q_lora": dict(**MLA, num_nextn_predict_layers=0),
    }, {
        "GLM-4.7-Flash": dict(vocab_size=154880, hidden_size=2048, intermediate_size=10240, num_hidden_layers=47,
                              num_attention_heads=20, num_key_value_heads=20, moe_intermediate_size=1536,
                              n_routed_experts=64, n_shared_experts=1, num_experts_per_tok=4, q_lora_rank=768,
                              kv_lora_rank=512, qk_nope_head_dim=192, qk_rope_head_dim=64, v_head_dim=256,
                              n_group=1, topk_group=1, first_k_dense_replace=1, routed_scaling_factor=1.8,
                              num_nextn_predict_layers=0, rope_theta=1000000, max_position_embeddings=202752),
    }),
    "glm_moe_dsa": ("GlmMoeDsaForCausalLM", {
        "q_lora": dict(**MLA, num_nextn_predict_layers=0, index_topk=16, index_head_dim=16, index_n_heads=2),
    }, {}),
    "minimax_m2": ("MiniMaxM2ForCausalLM", {
        "plain": dict(head_dim=12, intermediate_size=40, num_local_experts=4, num_experts_per_tok=2, rotary_dim=6),
    }, {
        "MiniMax-M2": dict(vocab_size=200064, hidden_size=3072, intermediate_size=1536, num_hidden_layers=62,
                           num_attention_heads=48, num_key_value_heads=8, head_dim=128, num_local_experts=256,
                           num_experts_per_tok=8, rotary_dim=64, rope_theta=5000000, max_position_embeddings=196608),
    }),
    "mimo_v2_flash": ("MiMoV2FlashForCausalLM", {
        "mixed": dict(num_key_value_heads=1, head_dim=12, v_head_dim=8, swa_head_dim=12, swa_v_head_dim=8, swa_num_attention_heads=6,
                      swa_num_key_value_heads=2, hybrid_layer_pattern=[0, 1, 1], moe_layer_freq=[0, 1, 1],
                      n_routed_experts=4, num_experts_per_tok=2, moe_intermediate_size=40, n_group=1, topk_group=1,
                      sliding_window=16, sliding_window_size=16, partial_rotary_factor=0.334,
                      layer_types=["full_attention", "sliding_attention", "sliding_attention"],
                      mlp_layer_types=["dense", "sparse", "sparse"]),
    }, {}),
    "hy_v3": ("HYV3ForCausalLM", {
        "plain": dict(head_dim=12, moe_intermediate_size=40, num_experts=4, num_experts_per_tok=2,
                      num_shared_experts=2, first_k_dense_replace=1, num_nextn_predict_layers=0, qk_norm=True),
    }, {}),
    "gemma4": ("Gemma4ForCausalLM", {
        "own_keys": dict(**GEMMA4, num_kv_shared_layers=0),
        "shared_keys": dict(**GEMMA4, num_kv_shared_layers=1, use_double_wide_mlp=True),
        "experts": dict(GEMMA4, hidden_size_per_layer_input=0, num_kv_shared_layers=0, enable_moe_block=True, num_experts=4,
                        top_k_experts=2, moe_intermediate_size=40, attention_k_eq_v=True, num_global_key_value_heads=1),
    }, {}),
    "ministral3": ("Ministral3ForCausalLM", {
        "yarn": dict(head_dim=12, rope_parameters=dict(
            rope_type="yarn", rope_theta=1000000.0, factor=16.0, beta_fast=32.0, beta_slow=1.0, mscale=1.0,
            mscale_all_dim=1.0, original_max_position_embeddings=16384)),
    }, {}),
    "qwen2_5_vl": ("Qwen2_5_VLForConditionalGeneration", {
        "flat": dict(rope_parameters=MROPE, vision_config=QWEN2_5_VISION, **TOKENS),
        "nested": dict(text_config=dict(rope_parameters=MROPE), vision_config=QWEN2_5_VISION, **TOKENS),
        "tied": dict(text_config=dict(rope_parameters=MROPE), vision_config=QWEN2_5_VISION, tie_word_embeddings=True, **TOKENS),
    }, {
        "Qwen2.5-VL-7B": dict(vocab_size=152064, hidden_size=3584, intermediate_size=18944, num_hidden_layers=28,
                              num_attention_heads=28, num_key_value_heads=4, max_position_embeddings=128000,
                              rope_theta=1000000.0, rms_norm_eps=1e-6, use_sliding_window=False, sliding_window=32768,
                              max_window_layers=28, tie_word_embeddings=False,
                              rope_scaling=dict(type="mrope", mrope_section=[16, 24, 24]),
                              vision_config=dict(depth=32, hidden_act="silu", hidden_size=1280, intermediate_size=3420,
                                                 num_heads=16, in_chans=3, out_hidden_size=3584, patch_size=14,
                                                 spatial_merge_size=2, spatial_patch_size=14, window_size=112,
                                                 fullatt_block_indexes=[7, 15, 23, 31], tokens_per_second=2,
                                                 temporal_patch_size=2)),
        "Qwen2.5-VL-72B": dict(vocab_size=152064, hidden_size=8192, intermediate_size=29568, num_hidden_layers=80,
                               num_attention_heads=64, num_key_value_heads=8, max_position_embeddings=128000,
                               rope_theta=1000000.0, rms_norm_eps=1e-6, tie_word_embeddings=False,
                               rope_scaling=dict(type="mrope", mrope_section=[16, 24, 24]),
                               vision_config=dict(depth=32, hidden_act="silu", hidden_size=1280,
                                                  intermediate_size=3456, num_heads=16, in_chans=3,
                                                  out_hidden_size=8192, patch_size=14, spatial_merge_size=2,
                                                  window_size=112, fullatt_block_indexes=[7, 15, 23, 31],
                                                  temporal_patch_size=2)),
    }),
    "qwen3_vl": ("Qwen3VLForConditionalGeneration", {
        "untied": dict(text_config=QWEN3_VL, vision_config=DEEPSTACK, **TOKENS),
        "tied": dict(text_config=QWEN3_VL, vision_config=DEEPSTACK, tie_word_embeddings=True, **TOKENS),
    }, {
        "Qwen3-VL-8B": dict(tie_word_embeddings=False, text_config=dict(
            vocab_size=151936, hidden_size=4096, intermediate_size=12288, num_hidden_layers=36, num_attention_heads=32,
            num_key_value_heads=8, head_dim=128, max_position_embeddings=262144, rope_theta=5000000,
            rope_scaling=dict(rope_type="default", mrope_interleaved=True, mrope_section=[24, 20, 20])),
            vision_config=dict(depth=27, hidden_size=1152, intermediate_size=4304, num_heads=16, in_channels=3,
                               patch_size=16, spatial_merge_size=2, temporal_patch_size=2, out_hidden_size=4096,
                               num_position_embeddings=2304, deepstack_visual_indexes=[8, 16, 24])),
    }),
    "qwen3_vl_moe": ("Qwen3VLMoeForConditionalGeneration", {
        "mlp_only": dict(text_config=dict(**QWEN3_VL, moe_intermediate_size=40, num_experts=4, num_experts_per_tok=2,
                                          decoder_sparse_step=1, mlp_only_layers=[1]),
                         vision_config=DEEPSTACK, **TOKENS),
    }, {
        "Qwen3-VL-235B-A22B": dict(tie_word_embeddings=False, text_config=dict(
            vocab_size=151936, hidden_size=4096, intermediate_size=12288, num_hidden_layers=94, num_attention_heads=64,
            num_key_value_heads=4, head_dim=128, max_position_embeddings=262144, moe_intermediate_size=1536,
            num_experts=128, num_experts_per_tok=8, norm_topk_prob=True, decoder_sparse_step=1, mlp_only_layers=[],
            rope_theta=5000000, rope_scaling=dict(rope_type="default", mrope_section=[24, 20, 20])),
            vision_config=dict(depth=27, hidden_size=1152, intermediate_size=4304, num_heads=16, in_channels=3,
                               patch_size=16, spatial_merge_size=2, temporal_patch_size=2, out_hidden_size=4096,
                               num_position_embeddings=2304, deepstack_visual_indexes=[8, 16, 24])),
    }),
    "qwen3_5_vl": ("Qwen3_5ForConditionalGeneration", {
        "untied": dict(text_config=DELTA_NET, vision_config=QWEN3_VISION, **TOKENS),
        "tied": dict(text_config=DELTA_NET, vision_config=QWEN3_VISION, tie_word_embeddings=True, **TOKENS),
    }, {}),
    "qwen3_5_vl_moe": ("Qwen3_5MoeForConditionalGeneration", {
        "plain": dict(text_config=dict(**DELTA_NET, **QWEN3_NEXT_MOE), vision_config=QWEN3_VISION, **TOKENS),
    }, {}),
    "qwen3_5_token_classification": ("Qwen3_5ForTokenClassification", {
        "two": dict(text_config=DELTA_NET, vision_config=QWEN3_VISION, **TOKENS),
        "three": dict(text_config=DELTA_NET, vision_config=QWEN3_VISION, **TOKENS,
                      id2label={"0": "A", "1": "B", "2": "C"}, label2id={"A": 0, "B": 1, "C": 2}),
    }, {}),
    "gemma3_vl": ("Gemma3ForConditionalGeneration", {
        "plain": dict(text_config=GEMMA3, vision_config=SIGLIP, tie_word_embeddings=True, **GEMMA3_TOKENS),
    }, {
        "gemma-3-27b": dict(mm_tokens_per_image=256, text_config=dict(
            hidden_size=5376, intermediate_size=21504, num_hidden_layers=62, num_attention_heads=32,
            num_key_value_heads=16, head_dim=128, query_pre_attn_scalar=168, sliding_window=1024,
            rope_scaling=dict(factor=8.0, rope_type="linear")),
            vision_config=dict(hidden_size=1152, image_size=896, intermediate_size=4304, num_attention_heads=16,
                               num_hidden_layers=27, patch_size=14, vision_use_head=False)),
    }),
    "mistral3": ("Mistral3ForConditionalGeneration", {
        "ministral3": dict(text_config=dict(model_type="ministral3", head_dim=12, rope_parameters=dict(
            rope_type="yarn", rope_theta=1000000.0, factor=16.0, beta_fast=32.0, beta_slow=1.0, mscale=1.0,
            mscale_all_dim=1.0, original_max_position_embeddings=16384)), vision_config=PIXTRAL, image_token_index=380),
        "mistral": dict(text_config=dict(model_type="mistral", head_dim=12, rms_norm_eps=1e-6, sliding_window=None),
                        vision_config=PIXTRAL, image_token_index=380, multimodal_projector_bias=True,
                        vision_feature_layer=[-1, -2]),
    }, {
        "Mistral-Small-3.1-24B": dict(image_token_index=10, tie_word_embeddings=False, text_config=dict(
            model_type="mistral", vocab_size=131072, hidden_size=5120, intermediate_size=32768, num_hidden_layers=40,
            num_attention_heads=32, num_key_value_heads=8, head_dim=128, max_position_embeddings=131072,
            rope_theta=1000000000.0, rms_norm_eps=1e-5, sliding_window=None, tie_word_embeddings=False),
            vision_config=dict(model_type="pixtral", head_dim=64, hidden_size=1024, image_size=1540,
                               intermediate_size=4096, num_attention_heads=16, num_channels=3, num_hidden_layers=24,
                               patch_size=14)),
    }),
    "glm4v_moe": ("Glm4vMoeForConditionalGeneration", {
        "plain": dict(text_config=dict(**GLM, attention_bias=True), vision_config=GLM_VISION, image_token_id=380,
                      video_token_id=381),
        "bias": dict(text_config=dict(**GLM, attention_bias=False), image_token_id=380, video_token_id=381,
                     vision_config=dict(**GLM_VISION, attention_bias=True)),
    }, {
        "GLM-4.5V": dict(tie_word_embeddings=False, text_config=dict(
            vocab_size=151552, hidden_size=4096, intermediate_size=10944, num_hidden_layers=46, num_attention_heads=96,
            num_key_value_heads=8, head_dim=128, max_position_embeddings=65536, attention_bias=True,
            moe_intermediate_size=1408, n_routed_experts=128, n_shared_experts=1, num_experts_per_tok=8, n_group=1,
            topk_group=1, first_k_dense_replace=1, norm_topk_prob=True, routed_scaling_factor=1.0, use_qk_norm=False,
            partial_rotary_factor=0.5, rope_theta=10000.0, rope_scaling=dict(rope_type="default",
                                                                            mrope_section=[8, 12, 12])),
            vision_config=dict(depth=24, hidden_size=1536, num_heads=12, in_channels=3, image_size=336, patch_size=14,
                               intermediate_size=10944, out_hidden_size=4096, spatial_merge_size=2,
                               temporal_patch_size=2, attention_bias=False)),
    }),
    "gemma4_vl": ("Gemma4ForConditionalGeneration", {
        "vision": dict(**GEMMA4_VL, vision_config=GEMMA4_VISION),
        "text": dict(**GEMMA4_VL, vision_config=None),
        "audio": dict(**GEMMA4_VL, vision_config=dict(**GEMMA4_VISION, use_clipped_linears=True, standardize=True),
                      audio_config=GEMMA4_AUDIO),
    }, {}),
    "exaone4_5": ("Exaone4_5_ForConditionalGeneration", {
        "plain": dict(text_config=EXAONE4, vision_config=dict(**QWEN2_5_VISION, num_key_value_heads=2),
                      image_token_id=380, video_token_id=381),
    }, {}),
    "ernie4_5_vl_moe": ("Ernie4_5_VLMoeForConditionalGeneration", {
        "plain": dict(text_config=ERNIE_VL, vision_config=ERNIE_VISION, tie_word_embeddings=True, image_token_id=380,
                      video_token_id=381),
    }, {}),
    "qwen2_audio": ("Qwen2AudioForConditionalGeneration", {
        "plain": dict(text_config=dict(model_type="qwen2"), audio_config=QWEN2_AUDIO, audio_token_index=380),
    }, {}),
    "qwen2_5_omni": ("Qwen2_5OmniForConditionalGeneration", {
        "thinker": dict(enable_audio_output=False, thinker_config=dict(
            text_config={}, vision_config=QWEN2_5_VISION, audio_config=dict(QWEN2_AUDIO, output_dim=48))),
    }, {}),
    "qwen3_omni_moe": ("Qwen3OmniMoeForConditionalGeneration", {
        "thinker": dict(enable_audio_output=False, thinker_config=dict(
            text_config=dict(head_dim=12, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=40,
                             decoder_sparse_step=1, mlp_only_layers=[], rope_parameters=MROPE),
            vision_config=dict(QWEN3_VISION, depth=3, deepstack_visual_indexes=[1]),
            audio_config=QWEN3_AUDIO)),
    }, {}),
    "qwen3_asr": ("Qwen3ASRForConditionalGeneration", {
        "tied": dict(text_config=dict(model_type="qwen3", head_dim=12, rope_theta=5000000.0), audio_config=QWEN3_AUDIO,
                     tie_word_embeddings=True),
    }, {}),
    "minimax_m3": ("MiniMaxM3SparseForConditionalGeneration", {
        "sparse": dict(text_config=MINIMAX_M3, vision_config=CLIP),
    }, {}),
    "kimi_k25_vl": ("Kimi_K25ForConditionalGeneration", {
        "plain": dict(text_config=dict(**MLA, **V3, model_type="deepseek_v3"), vision_config=KIMI_VISION,
                      projection_hidden_size=40),
    }, {}),
    "step37": ("Step3p7ForConditionalGeneration", {
        "published": dict(text_config=STEP, vision_config=STEP_VISION),
    }, {}),
    "qwen2_moe": ("Qwen2MoeForCausalLM", {
        "every_layer": dict(**QWEN3_NEXT_MOE),
        "mlp_only": dict(**{**QWEN3_NEXT_MOE, "norm_topk_prob": False}, mlp_only_layers=[1], decoder_sparse_step=1),
        "no_bias": dict(**QWEN3_NEXT_MOE, qkv_bias=False, tie_word_embeddings=True),
    }, {
        "Qwen1.5-MoE-A2.7B": dict(vocab_size=151936, hidden_size=2048, intermediate_size=5632, num_hidden_layers=24,
                                  num_attention_heads=16, num_key_value_heads=16, moe_intermediate_size=1408,
                                  shared_expert_intermediate_size=5632, num_experts=60, num_experts_per_tok=4,
                                  norm_topk_prob=False, decoder_sparse_step=1, rope_theta=1000000.0,
                                  max_position_embeddings=8192, use_sliding_window=False),
        "Qwen2-57B-A14B": dict(vocab_size=151936, hidden_size=3584, intermediate_size=18944, num_hidden_layers=28,
                               num_attention_heads=28, num_key_value_heads=4, moe_intermediate_size=2560,
                               shared_expert_intermediate_size=20480, num_experts=64, num_experts_per_tok=8,
                               norm_topk_prob=False, decoder_sparse_step=1, rope_theta=1000000.0,
                               max_position_embeddings=131072, use_sliding_window=False),
    }),
    "llama4_text": ("Llama4ForCausalLM", {
        "every_layer": dict(head_dim=12, intermediate_size=40, intermediate_size_mlp=88, num_local_experts=4,
                            num_experts_per_tok=1, interleave_moe_layer_step=1, **NO_ROPE),
        "interleaved": dict(head_dim=12, intermediate_size=40, intermediate_size_mlp=88, num_local_experts=4,
                            num_experts_per_tok=1, interleave_moe_layer_step=2, use_qk_norm=False, **NO_ROPE),
    }, {
        "Llama-4-Scout-17B-16E (text)": dict(
            vocab_size=202048, hidden_size=5120, intermediate_size=8192, intermediate_size_mlp=16384, num_hidden_layers=48,
            num_attention_heads=40, num_key_value_heads=8, head_dim=128, num_local_experts=16, num_experts_per_tok=1,
            interleave_moe_layer_step=1, use_qk_norm=True, rope_theta=500000.0, max_position_embeddings=10485760,
            attention_chunk_size=8192, rms_norm_eps=1e-5),
        "Llama-4-Maverick-17B-128E (text)": dict(
            vocab_size=202048, hidden_size=5120, intermediate_size=8192, intermediate_size_mlp=16384, num_hidden_layers=48,
            num_attention_heads=40, num_key_value_heads=8, head_dim=128, num_local_experts=128, num_experts_per_tok=1,
            interleave_moe_layer_step=2, use_qk_norm=False, rope_theta=500000.0, max_position_embeddings=1048576,
            attention_chunk_size=8192, rms_norm_eps=1e-5),
    }),
    "glm": ("GlmForCausalLM", {"plain": dict(**GLM_DENSE), "no_bias": dict(**{**GLM_DENSE, "attention_bias": False})}, {
        "glm-4-9b": dict(vocab_size=151552, hidden_size=4096, intermediate_size=13696, num_hidden_layers=40,
                         num_attention_heads=32, num_key_value_heads=2, head_dim=128, attention_bias=True,
                         max_position_embeddings=131072, partial_rotary_factor=0.5, rms_norm_eps=1.5625e-07),
    }),
    "glm4": ("Glm4ForCausalLM", {"plain": dict(**GLM_DENSE)}, {
        "GLM-4-32B-0414": dict(vocab_size=151552, hidden_size=6144, intermediate_size=23040, num_hidden_layers=61,
                               num_attention_heads=48, num_key_value_heads=2, head_dim=128, attention_bias=False,
                               max_position_embeddings=32768, partial_rotary_factor=0.5, rms_norm_eps=1e-05),
    }),
    "phi3": ("Phi3ForCausalLM", {
        "gqa": dict(pad_token_id=0, sliding_window=16),
        "mha": dict(pad_token_id=0, num_key_value_heads=6, tie_word_embeddings=True, sliding_window=None),
    }, {
        "Phi-3-medium-4k": dict(vocab_size=32064, hidden_size=5120, intermediate_size=17920, num_hidden_layers=40,
                                num_attention_heads=40, num_key_value_heads=10, sliding_window=2047,
                                max_position_embeddings=4096, rms_norm_eps=1e-05, pad_token_id=32000),
    }),
    "starcoder2": ("Starcoder2ForCausalLM", {
        "tied": dict(tie_word_embeddings=True, sliding_window=16, norm_epsilon=1e-5, bos_token_id=1, eos_token_id=2),
        "no_bias": dict(use_bias=False, sliding_window=None, bos_token_id=1, eos_token_id=2),
    }, {
        "starcoder2-15b": dict(vocab_size=49152, hidden_size=6144, intermediate_size=24576, num_hidden_layers=40,
                               num_attention_heads=48, num_key_value_heads=4, sliding_window=4096, use_bias=True,
                               tie_word_embeddings=False, rope_theta=100000, max_position_embeddings=16384,
                               bos_token_id=0, eos_token_id=0),
    }),
    "dots1": ("Dots1ForCausalLM", {
        "window": dict(**OURS_MOE, first_k_dense_replace=1, layer_types=SSF, sliding_window=16),
        "plain": dict(**OURS_MOE, first_k_dense_replace=0, attention_bias=True, max_window_layers=3, sliding_window=None),
    }, {
        "dots.llm1": dict(vocab_size=152064, hidden_size=4096, intermediate_size=10944, num_hidden_layers=62,
                          num_attention_heads=32, num_key_value_heads=32, moe_intermediate_size=1408, n_routed_experts=128,
                          n_shared_experts=2, num_experts_per_tok=6, n_group=1, topk_group=1, first_k_dense_replace=1,
                          routed_scaling_factor=2.5, norm_topk_prob=True, rope_theta=10000000, sliding_window=None,
                          max_window_layers=62, max_position_embeddings=32768, rms_norm_eps=1e-5),
    }),
    "solar_open": ("SolarOpenForCausalLM", {"plain": dict(**OURS_MOE)}, {
        "Solar-Open-100B": dict(vocab_size=196608, hidden_size=4096, num_hidden_layers=48, num_attention_heads=64,
                                num_key_value_heads=8, head_dim=128, moe_intermediate_size=1280, n_routed_experts=128,
                                n_shared_experts=1, num_experts_per_tok=8, norm_topk_prob=True, n_group=1, topk_group=1,
                                routed_scaling_factor=1.0, rope_theta=1000000, max_position_embeddings=131072),
    }),
    "deepseek_v32": ("DeepseekV32ForCausalLM", {"q_lora": dict(**MLA, **DSA)}, {
        "DeepSeek-V3.2": dict(vocab_size=129280, hidden_size=7168, intermediate_size=18432, num_hidden_layers=61,
                              num_attention_heads=128, num_key_value_heads=128, q_lora_rank=1536, kv_lora_rank=512,
                              qk_rope_head_dim=64, qk_nope_head_dim=128, v_head_dim=128, moe_intermediate_size=2048,
                              n_routed_experts=256, n_shared_experts=1, num_experts_per_tok=8, n_group=8, topk_group=4,
                              first_k_dense_replace=3, routed_scaling_factor=2.5, norm_topk_prob=True, index_topk=2048,
                              index_head_dim=128, index_n_heads=64, num_nextn_predict_layers=0,
                              max_position_embeddings=163840, rope_scaling={**YARN, "mscale": 1.0, "mscale_all_dim": 1.0}),
    }),
    "youtu": ("YoutuForCausalLM", {
        "tied": dict(**YOUTU, tie_word_embeddings=True),
        "no_q_lora": dict(**{**YOUTU, "q_lora_rank": None}),
    }, {
        "Youtu-LLM-2B": dict(vocab_size=128256, hidden_size=2048, intermediate_size=6144, num_hidden_layers=32,
                             num_attention_heads=16, num_key_value_heads=16, q_lora_rank=1536, kv_lora_rank=512,
                             qk_rope_head_dim=64, qk_nope_head_dim=128, v_head_dim=128, tie_word_embeddings=True,
                             initializer_range=0.02,
                             rope_theta=1600000, max_position_embeddings=131072),
    }),
    "seed_oss": ("SeedOssForCausalLM", {
        "plain": dict(head_dim=12),
        "all_biases": dict(head_dim=12, attention_out_bias=True, mlp_bias=True, attention_dropout=0.0,
                           residual_dropout=0.0),
    }, {
        "Seed-OSS-36B": dict(vocab_size=155136, hidden_size=5120, intermediate_size=27648, num_hidden_layers=64,
                             num_attention_heads=80, num_key_value_heads=8, head_dim=128, attention_bias=True,
                             attention_out_bias=False, mlp_bias=False, rope_theta=10000000.0,
                             max_position_embeddings=524288),
    }),
    "smollm3": ("SmolLM3ForCausalLM", {
        "tied": dict(**NO_ROPE, tie_word_embeddings=True, pad_token_id=0, rope_theta=2000000.0),
        "untied": dict(**NO_ROPE, pad_token_id=0, rope_theta=2000000.0),
    }, {
        "SmolLM3-3B": dict(vocab_size=128256, hidden_size=2048, intermediate_size=11008, num_hidden_layers=36,
                           num_attention_heads=16, num_key_value_heads=4, tie_word_embeddings=True,
                           no_rope_layers=[1, 1, 1, 0] * 9, no_rope_layer_interval=4, rope_theta=5000000.0,
                           max_position_embeddings=65536),
    }),
    "stablelm": ("StableLmForCausalLM", {
        "plain": dict(num_key_value_heads=6),
        "bias": dict(use_qkv_bias=True, partial_rotary_factor=0.5, tie_word_embeddings=True),
    }, {
        "stablelm-2-1_6b": dict(vocab_size=100352, hidden_size=2048, intermediate_size=5632, num_hidden_layers=24,
                                num_attention_heads=32, num_key_value_heads=32, use_qkv_bias=True,
                                partial_rotary_factor=0.25, layer_norm_eps=1e-5, max_position_embeddings=4096),
    }),
    "persimmon": ("PersimmonForCausalLM", {
        "norm": dict(num_key_value_heads=6),
        "plain": dict(num_key_value_heads=6, qk_layernorm=False, tie_word_embeddings=True),
    }, {
        "persimmon-8b": dict(vocab_size=262144, hidden_size=4096, intermediate_size=16384, num_hidden_layers=36,
                             num_attention_heads=64, max_position_embeddings=16384, rope_theta=25000.0,
                             partial_rotary_factor=0.5, qk_layernorm=True),
    }),
    "jais2": ("Jais2ForCausalLM", {
        "plain": dict(head_dim=12, eos_token_id=2),
        "no_bias": dict(head_dim=12, eos_token_id=2, attention_bias=False, mlp_bias=False),
    }, {
        "Jais-2-8B": dict(vocab_size=150272, hidden_size=3328, intermediate_size=26624, num_hidden_layers=32,
                          num_attention_heads=26, num_key_value_heads=26, head_dim=128, rope_theta=500000.0,
                          max_position_embeddings=8192),
    }),
    "arcee": ("ArceeForCausalLM", {
        "plain": dict(head_dim=12, bos_token_id=1, eos_token_id=2),
        "bias": dict(head_dim=12, bos_token_id=1, eos_token_id=2, attention_bias=True, mlp_bias=True,
                     tie_word_embeddings=True),
    }, {
        "AFM-4.5B": dict(vocab_size=128256, hidden_size=2560, intermediate_size=18432, num_hidden_layers=36,
                         num_attention_heads=20, num_key_value_heads=4, head_dim=128, rms_norm_eps=1e-05,
                         max_position_embeddings=65536,
                         rope_scaling=dict(rope_type="yarn", factor=20.0, beta_fast=128.0, beta_slow=1.0, mscale=1.0,
                                           original_max_position_embeddings=4096)),
    }),
    "helium": ("HeliumForCausalLM", {
        "plain": dict(head_dim=8, pad_token_id=0),
        "bias": dict(head_dim=8, pad_token_id=0, attention_bias=True, mlp_bias=True, tie_word_embeddings=True),
    }, {
        "helium-1-2b": dict(vocab_size=64000, hidden_size=2048, intermediate_size=8192, num_hidden_layers=28,
                            num_attention_heads=16, num_key_value_heads=8, head_dim=128, rope_theta=20000.0,
                            rms_norm_eps=1e-08, max_position_embeddings=4096, tie_word_embeddings=False),
    }),
    "ernie4_5": ("Ernie4_5ForCausalLM", {
        "tied": dict(head_dim=12, tie_word_embeddings=True),
        "bias": dict(head_dim=12, use_bias=True),
    }, {
        "ERNIE-4.5-0.3B": dict(vocab_size=103424, hidden_size=1024, intermediate_size=3072, num_hidden_layers=18,
                               num_attention_heads=16, num_key_value_heads=2, head_dim=128, tie_word_embeddings=True,
                               rope_theta=500000.0, rms_norm_eps=1e-5, max_position_embeddings=131072),
    }),
    "ministral": ("MinistralForCausalLM", {"window": dict(head_dim=12, sliding_window=16, layer_types=SSF)}, {
        "Ministral-8B-2410": dict(vocab_size=131072, hidden_size=4096, intermediate_size=12288, num_hidden_layers=36,
                                  num_attention_heads=32, num_key_value_heads=8, head_dim=128, sliding_window=32768,
                                  layer_types=(["full_attention"] + ["sliding_attention"] * 3) * 9,
                                  rope_theta=100000000.0, rms_norm_eps=1e-5, max_position_embeddings=131072),
    }),
    "cwm": ("CwmForCausalLM", {
        "window": dict(head_dim=12, bos_token_id=1, eos_token_id=2, sliding_window=16, layer_types=SSF,
                       rope_theta=1000000.0, rope_scaling=LLAMA3),
    }, {
        "cwm": dict(vocab_size=128256, hidden_size=6144, intermediate_size=21504, num_hidden_layers=64,
                    num_attention_heads=48, num_key_value_heads=8, head_dim=128, sliding_window=8192,
                    layer_types=(["full_attention"] + ["sliding_attention"] * 3) * 16, rope_theta=1000000.0,
                    rope_scaling={**LLAMA3, "factor": 16.0}, rms_norm_eps=1e-5, max_position_embeddings=131072),
    }),
    "olmo2": ("Olmo2ForCausalLM", {
        "mha": dict(num_key_value_heads=6, eos_token_id=2),
        "gqa": dict(tie_word_embeddings=True, eos_token_id=2),
    }, {
        "OLMo-2-1124-7B": dict(vocab_size=100352, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32,
                               num_attention_heads=32, num_key_value_heads=32, rope_theta=500000, rms_norm_eps=1e-06,
                               max_position_embeddings=4096, eos_token_id=100257),
        "OLMo-2-0325-32B": dict(vocab_size=100352, hidden_size=5120, intermediate_size=27648, num_hidden_layers=64,
                                num_attention_heads=40, num_key_value_heads=8, rope_theta=500000, rms_norm_eps=1e-06,
                                max_position_embeddings=4096, eos_token_id=100257),
    }),
    "olmo3": ("Olmo3ForCausalLM", {
        "window": dict(num_key_value_heads=6, eos_token_id=2, sliding_window=16, layer_types=SSF, rope_theta=500000.0),
    }, {
        "Olmo-3-32B": dict(vocab_size=100278, hidden_size=5120, intermediate_size=27648, num_hidden_layers=64,
                           num_attention_heads=40, num_key_value_heads=8, sliding_window=4096,
                           layer_types=(["sliding_attention"] * 3 + ["full_attention"]) * 16, rope_theta=500000.0,
                           rms_norm_eps=1e-06, max_position_embeddings=8192, eos_token_id=100257),
    }),
}


def header(folder):
    """[name, shape, dtype] of every tensor in the one safetensors file of a folder."""
    with open(os.path.join(folder, "model.safetensors"), "rb") as f:
        table = json.loads(f.read(struct.unpack("<Q", f.read(8))[0]))
    table.pop("__metadata__", None)
    return [[name, entry["shape"], entry["dtype"].lower()] for name, entry in sorted(table.items())]


def public_config(architecture, values):
    """A config.json as it stands on a hub, in the keys of transformers 4."""
    model_type = getattr(transformers, architecture).config_class.model_type
    return {"architectures": [architecture], "model_type": model_type, **values}


def odd_config(architecture, changes):
    """The config of a tiny variant: odd sizes, in the table of the text model where there is one."""
    if "thinker_config" in changes:
        thinker = changes["thinker_config"]
        thinker = {**thinker, "text_config": {**ODD, **thinker["text_config"]}}
        return public_config(architecture, {**changes, "thinker_config": thinker})
    if "text_config" not in changes:
        return public_config(architecture, {**ODD, **changes})
    text = {**ODD, **changes["text_config"]}
    tied = changes.get("tie_word_embeddings", False)
    return public_config(architecture, {**changes, "tie_word_embeddings": tied, "text_config": text})


def load_config(architecture, raw):
    # from_dict edits what it is given.
    return getattr(transformers, architecture).config_class.from_dict(copy.deepcopy(raw))


def tiny(architecture, raw):
    """(config.json of this version, tensors) of a saved bf16 model; a load decides what stays float32."""
    cls = getattr(transformers, architecture)
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        cls(load_config(architecture, raw)).save_pretrained(first)
        if architecture == "Qwen2_5OmniForConditionalGeneration":
            torch.save({}, os.path.join(first, "spk_dict.pt"))  # the voices, which it asks for
        cls.from_pretrained(first, dtype=torch.bfloat16).save_pretrained(second)
        with open(os.path.join(second, "config.json")) as f:
            return json.load(f), header(second)


def saved_shapes(architecture, raw):
    """{name: shape} of what the model saves; it has no storage."""
    with torch.device("meta"):
        model = getattr(transformers, architecture)(load_config(architecture, raw))
    state = dict(model.state_dict())
    if getattr(model.config, "tie_word_embeddings", False):
        for name in model._tied_weights_keys:
            del state[name]
    return {name: list(tensor.shape) for name, tensor in revert_weight_conversion(model, state).items()}


def full_size(architecture, raw):
    """The same of a full-size model: counts and a hash."""
    shapes = saved_shapes(architecture, raw)
    lines = sorted(f"{name} {shape}" for name, shape in shapes.items())
    return {"tensors": len(lines), "parameters": sum(math.prod(shape) for shape in shapes.values()),
            "xxh3_128": xxhash.xxh3_128_hexdigest("\n".join(lines).encode())}


def write(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as f:
        f.write(text + "\n")


def dump(out, family):
    architecture, variants, models = FAMILIES[family]
    blocks = []
    for variant, changes in variants.items():
        raw = odd_config(architecture, changes)
        saved, tensors = tiny(architecture, raw)
        for version, config in (("v4", raw), ("v5", saved)):
            write(os.path.join(out, "family_configs", f"{family}_{variant}.{version}.json"),
                  json.dumps(config, indent=2))
        rows = ",\n".join("      " + json.dumps(row) for row in tensors)
        blocks.append(f'    "{variant}": [\n{rows}\n    ]')
    full = ",\n".join(f'    "{name}": ' + json.dumps({"config": public_config(architecture, values),
                                                      **full_size(architecture, public_config(architecture, values))})
                      for name, values in models.items())
    write(os.path.join(out, "hf_names", family + ".json"),
          f'{{\n  "family": "{family}",\n  "transformers": "{transformers.__version__}",\n'
          '  "variants": {\n' + ",\n".join(blocks) + '\n  },\n  "models": {\n' + full + "\n  }\n}")


# family -> table and entry of make_hf.py
KNOWN = {"llama": ("BASIC", "llama_untied"), "mistral": ("BASIC", "mistral"), "qwen2": ("BASIC", "qwen2"),
         "qwen3": ("BASIC", "qwen3"), "qwen3_moe": ("BASIC", "qwen3_moe"), "olmoe": ("AWKWARD", "olmoe"),
         "gemma2": ("BASIC", "gemma2"), "gemma3": ("AWKWARD", "gemma3"), "nemotron": ("BASIC", "nemotron"),
         "deepseek_v2": ("AWKWARD", "deepseek_v2"), "deepseek_v3": ("BASIC", "deepseek_v3"),
         "gpt_oss": ("BASIC", "gpt_oss_ns")}


def known_configs(out, oracles):
    """The configs of make_known_names.py; Gemma 1 and Mixtral are not in make_hf.py's tables."""
    sys.path.insert(0, oracles)
    import make_hf
    configs = {family: getattr(make_hf, table)[entry]() for family, (table, entry) in KNOWN.items()}
    configs["gemma"] = transformers.GemmaConfig(**{**make_hf.BASE, "head_dim": 32, "tie_word_embeddings": True})
    configs["mixtral"] = transformers.MixtralConfig(**{**make_hf.BASE, "intermediate_size": 32,
                                                       "num_local_experts": 4})
    for family, config in configs.items():
        config.architectures = [FAMILIES[family][0]]
        write(os.path.join(out, "family_configs", f"known_{family}.json"), config.to_json_string().strip())


def main():
    if sys.argv[2:3] == ["--known"]:
        known_configs(sys.argv[1], sys.argv[3])
        return
    out, families = sys.argv[1], sys.argv[2:] or list(FAMILIES)
    for family in families:
        dump(out, family)
        print(family, flush=True)


if __name__ == "__main__":
    main()
