"""Models that `transformers` itself writes with save_pretrained make the round trip on every grid that fits them."""
import copy
import json
import pathlib

import pytest
import torch
import transformers
from safetensors import safe_open

# All sizes differ, so that a transposed, swapped or mis-split tensor cannot fit by accident.
SIZES = {"vocab_size": 386, "hidden_size": 56, "num_hidden_layers": 3, "num_attention_heads": 6,
         "num_key_value_heads": 2, "intermediate_size": 88, "max_position_embeddings": 160, "bos_token_id": 1,
         "eos_token_id": 2, "pad_token_id": 0, "tie_word_embeddings": False}
MLA = {"q_lora_rank": 36, "kv_lora_rank": 28, "qk_rope_head_dim": 8, "qk_nope_head_dim": 14, "v_head_dim": 18,
       "num_key_value_heads": 6}
GLM = {"moe_intermediate_size": 40, "n_routed_experts": 4, "n_shared_experts": 2, "num_experts_per_tok": 2,
       "first_k_dense_replace": 1, "n_group": 2, "topk_group": 1, "num_nextn_predict_layers": 0}
DELTA_NET = {"head_dim": 16, "linear_conv_kernel_dim": 4, "linear_key_head_dim": 10, "linear_value_head_dim": 14,
             "linear_num_key_heads": 2, "linear_num_value_heads": 6,
             "layer_types": ["linear_attention", "linear_attention", "full_attention"]}
SHARED_GATE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
               "shared_expert_intermediate_size": 40}
SSF = ["sliding_attention", "sliding_attention", "full_attention"]
EXPERTS = {"num_experts_per_tok": 2, "intermediate_size": 40}
CONFIGS = {
    "llama": ("LlamaConfig", {"hidden_size": 48, "head_dim": 12}),
    "llama_tied": ("LlamaConfig", {"hidden_size": 48, "head_dim": 12, "tie_word_embeddings": True}),
    "qwen2": ("Qwen2Config", {"hidden_size": 48}),
    "qwen3": ("Qwen3Config", {"head_dim": 12}),
    "mixtral": ("MixtralConfig", {"head_dim": 12, "num_local_experts": 4, **EXPERTS}),
    "gemma2": ("Gemma2Config", {"hidden_size": 48, "head_dim": 12, "query_pre_attn_scalar": 12, "sliding_window": 16,
                                "tie_word_embeddings": True}),
    "deepseek_v3": ("DeepseekV3Config", {
        "q_lora_rank": 36, "kv_lora_rank": 28, "qk_rope_head_dim": 8, "qk_nope_head_dim": 14, "v_head_dim": 18,
        "num_key_value_heads": 6, "moe_intermediate_size": 32, "n_routed_experts": 4, "n_shared_experts": 1,
        "num_experts_per_tok": 2, "first_k_dense_replace": 1, "n_group": 2, "topk_group": 1,
        "num_nextn_predict_layers": 0}),
    "gpt_oss": ("GptOssConfig", {"head_dim": 12, "num_local_experts": 4, "sliding_window": 16, **EXPERTS}),
    "glm4_moe": ("Glm4MoeConfig", {**GLM, "attention_bias": True, "use_qk_norm": True, "head_dim": 12}),
    "glm4_moe_lite": ("Glm4MoeLiteConfig", {**GLM, **MLA}),
    "glm_moe_dsa": ("GlmMoeDsaConfig", {**GLM, **MLA, "index_topk": 16, "index_head_dim": 16, "index_n_heads": 2}),
    "ernie4_5_moe": ("Ernie4_5_MoeConfig", {
        "head_dim": 12, "moe_intermediate_size": 40, "moe_num_experts": 4, "moe_k": 2, "moe_num_shared_experts": 2,
        "moe_layer_start_index": 1, "tie_word_embeddings": True}),
    "exaone4": ("Exaone4Config", {
        "head_dim": 12, "sliding_window": 16, "sliding_window_pattern": "LLG",
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"]}),
    "exaone_moe": ("ExaoneMoeConfig", {
        "hidden_size": 48, "moe_intermediate_size": 40, "num_experts": 4, "num_experts_per_tok": 2,
        "num_shared_experts": 1, "sliding_window": 16, "sliding_window_pattern": "LLG",
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
        "mlp_layer_types": ["dense", "sparse", "sparse"]}),
    "nemotron_h": ("NemotronHConfig", {
        "head_dim": 12, "num_hidden_layers": None, "layers_block_type": ["mamba", "mlp", "attention", "moe", "mamba", "mlp"],
        "mamba_num_heads": 8, "mamba_head_dim": 10, "n_groups": 2, "ssm_state_size": 18, "conv_kernel": 4,
        "chunk_size": 8, "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 40,
        "moe_shared_expert_intermediate_size": 72}),
    "qwen3_next": ("Qwen3NextConfig", {**DELTA_NET, **SHARED_GATE}),
    "qwen3_5": ("Qwen3_5TextConfig", {**DELTA_NET}),
    "qwen3_5_moe": ("Qwen3_5MoeTextConfig", {**DELTA_NET, **SHARED_GATE}),
    "falcon_h1": ("FalconH1Config", {
        "head_dim": 12, "mamba_d_ssm": 80, "mamba_n_heads": 8, "mamba_d_head": 10, "mamba_n_groups": 2,
        "mamba_d_state": 18, "mamba_d_conv": 4, "mamba_chunk_size": 8, "mamba_rms_norm": True}),
    "minimax_m2": ("MiniMaxM2Config", {"head_dim": 12, "num_local_experts": 4, "rotary_dim": 6, **EXPERTS}),
    "mimo_v2_flash": ("MiMoV2FlashConfig", {
        "head_dim": 12, "v_head_dim": 8, "swa_head_dim": 12, "swa_v_head_dim": 8, "swa_num_attention_heads": 6,
        "num_attention_heads": 8, "swa_num_key_value_heads": 4, "n_routed_experts": 4, "num_experts_per_tok": 2,
        "moe_intermediate_size": 40, "n_group": 1, "topk_group": 1, "sliding_window": 16,
        "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
        "mlp_layer_types": ["dense", "sparse", "sparse"]}),
    "hy_v3": ("HYV3Config", {
        "head_dim": 12, "moe_intermediate_size": 40, "num_experts": 4, "num_experts_per_tok": 2,
        "num_shared_experts": 2, "first_k_dense_replace": 1, "num_nextn_predict_layers": 0}),
    "ministral3": ("Ministral3Config", {"head_dim": 12}),
    "gemma4": ("Gemma4TextConfig", {
        "head_dim": 12, "global_head_dim": 16, "hidden_size_per_layer_input": 10, "vocab_size_per_layer_input": 386,
        "num_kv_shared_layers": 1, "sliding_window": 16, "tie_word_embeddings": True,
        "layer_types": ["sliding_attention", "full_attention", "full_attention"]}),
    # Families beyond Megatron Bridge.
    "qwen2_moe": ("Qwen2MoeConfig", {"hidden_size": 48, **SHARED_GATE, "mlp_only_layers": [1]}),
    "llama4_text": ("Llama4TextConfig", {
        "head_dim": 12, "intermediate_size": 40, "intermediate_size_mlp": 88, "num_local_experts": 4,
        "interleave_moe_layer_step": 2, "no_rope_layers": [1, 0, 1]}),
    "glm": ("GlmConfig", {"head_dim": 12}),
    "glm4": ("Glm4Config", {"head_dim": 12}),
    "phi3": ("Phi3Config", {"hidden_size": 48}),
    "starcoder2": ("Starcoder2Config", {"hidden_size": 48, "tie_word_embeddings": True}),
    "dots1": ("Dots1Config", {**GLM, "head_dim": 12, "sliding_window": 16, "layer_types": SSF}),
    "solar_open": ("SolarOpenConfig", {**GLM, "head_dim": 12}),
    "deepseek_v32": ("DeepseekV32Config", {**GLM, **MLA, "index_topk": 16, "index_head_dim": 16, "index_n_heads": 2}),
    "youtu": ("YoutuConfig", {**MLA, "tie_word_embeddings": True}),
    "seed_oss": ("SeedOssConfig", {"head_dim": 12}),
    "smollm3": ("SmolLM3Config", {"hidden_size": 48, "no_rope_layers": [1, 0, 1], "tie_word_embeddings": True}),
    "stablelm": ("StableLmConfig", {"hidden_size": 48, "use_qkv_bias": True}),
    "persimmon": ("PersimmonConfig", {"hidden_size": 48, "num_key_value_heads": None}),
    "jais2": ("Jais2Config", {"hidden_size": 48, "head_dim": 12}),
    "arcee": ("ArceeConfig", {"hidden_size": 48, "head_dim": 12, "attention_bias": True, "mlp_bias": True}),
    "helium": ("HeliumConfig", {"hidden_size": 48, "head_dim": 8}),
    "ernie4_5": ("Ernie4_5Config", {"head_dim": 12, "use_bias": True}),
    "ministral": ("MinistralConfig", {"head_dim": 12, "sliding_window": 16, "layer_types": SSF}),
    "cwm": ("CwmConfig", {"hidden_size": 48, "head_dim": 12, "sliding_window": 16, "layer_types": SSF}),
    "olmo2": ("Olmo2Config", {"hidden_size": 48, "num_key_value_heads": 6}),
    "olmo3": ("Olmo3Config", {"hidden_size": 48, "sliding_window": 16, "layer_types": SSF}),
}
CONFIGS.update({
    "mistral": ("MistralConfig", {"head_dim": 12, "sliding_window": 16}),
    "gemma": ("GemmaConfig", {"hidden_size": 48, "head_dim": 12, "tie_word_embeddings": True}),
    "gemma3": ("Gemma3TextConfig", {
        "hidden_size": 48, "head_dim": 12, "query_pre_attn_scalar": 12, "sliding_window": 16, "tie_word_embeddings": True,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"]}),
    "nemotron": ("NemotronConfig", {"head_dim": 12}),
    "qwen3_moe": ("Qwen3MoeConfig", {"head_dim": 12, "num_experts": 4, "moe_intermediate_size": 32,
                                     "mlp_only_layers": [1], "num_experts_per_tok": 2}),
    "olmoe": ("OlmoeConfig", {"hidden_size": 48, "num_key_value_heads": 6, "num_experts": 4, **EXPERTS}),
    "deepseek_v2": ("DeepseekV2Config", {
        **MLA, "hidden_size": 48, "moe_intermediate_size": 32, "n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2,
        "first_k_dense_replace": 1}),
})
QWEN2_5_VISION = {"depth": 2, "hidden_size": 40, "num_heads": 4, "intermediate_size": 68, "out_hidden_size": 56,
                  "patch_size": 6, "fullatt_block_indexes": [1], "window_size": 24}
QWEN3_VISION = {"depth": 5, "hidden_size": 40, "num_heads": 4, "intermediate_size": 68, "out_hidden_size": 56,
                "patch_size": 6, "num_position_embeddings": 36}
DEEPSTACK = {**QWEN3_VISION, "deepstack_visual_indexes": [1, 3]}
SIGLIP = {"hidden_size": 40, "intermediate_size": 68, "num_hidden_layers": 5, "num_attention_heads": 4, "image_size": 24,
          "patch_size": 6}
EXAONE4 = {"head_dim": 12, "sliding_window": 16,
           "layer_types": ["sliding_attention", "sliding_attention", "full_attention"]}
GEMMA4 = {**CONFIGS["gemma4"][1]}
# Models that also see: class, text model, vision tower, what stands beside them.
SEEING = {
    "qwen2_5_vl": ("Qwen2_5_VLForConditionalGeneration", {"hidden_size": 48}, {**QWEN2_5_VISION, "out_hidden_size": 48}, {}),
    "qwen3_vl": ("Qwen3VLForConditionalGeneration", {"head_dim": 12}, DEEPSTACK, {}),
    "qwen3_vl_moe": ("Qwen3VLMoeForConditionalGeneration", {
        "head_dim": 12, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 40,
        "mlp_only_layers": [1]}, DEEPSTACK, {}),
    "qwen3_5_vl": ("Qwen3_5ForConditionalGeneration", DELTA_NET, QWEN3_VISION, {}),
    "qwen3_5_vl_moe": ("Qwen3_5MoeForConditionalGeneration", {**DELTA_NET, **SHARED_GATE}, QWEN3_VISION, {}),
    "qwen3_5_token_classification": ("Qwen3_5ForTokenClassification", DELTA_NET, QWEN3_VISION, {}),
    "gemma3_vl": ("Gemma3ForConditionalGeneration", {
        "hidden_size": 48, "head_dim": 12, "query_pre_attn_scalar": 12, "sliding_window": 16}, {**SIGLIP, "vision_use_head": False}, {"tie_word_embeddings": True}),
    "mistral3": ("Mistral3ForConditionalGeneration", {"model_type": "ministral3", "head_dim": 12}, {
        "model_type": "pixtral", "head_dim": 10, **SIGLIP}, {"image_token_index": 380}),
    "glm4v_moe": ("Glm4vMoeForConditionalGeneration", {**GLM, "attention_bias": True, "head_dim": 12}, {
        **SIGLIP, "depth": 5, "num_heads": 4, "out_hidden_size": 56}, {}),
    "gemma4_vl": ("Gemma4ForConditionalGeneration", GEMMA4, {
        **SIGLIP, "num_key_value_heads": 4, "head_dim": 10, "position_embedding_size": 64, "standardize": True,
        "use_clipped_linears": True}, {"tie_word_embeddings": True, "audio_config": {
            "hidden_size": 36, "num_hidden_layers": 2, "num_attention_heads": 3, "subsampling_conv_channels": [12, 6],
            "output_proj_dims": 44}}),
    "exaone4_5": ("Exaone4_5_ForConditionalGeneration", EXAONE4, {**QWEN2_5_VISION, "num_key_value_heads": 2}, {}),
    "ernie4_5_vl_moe": ("Ernie4_5_VLMoeForConditionalGeneration", {
        "head_dim": 12, "moe_intermediate_size": [40, 24], "moe_num_experts": 4, "moe_k": 2, "moe_num_shared_experts": 2,
        "mlp_layer_types": ["dense", "sparse", "sparse"],
        "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0, "mrope_section": [2, 2, 2]}}, {
            "depth": 5, "hidden_size": 40, "num_heads": 4, "intermediate_size": 68, "patch_size": 6},
        {"tie_word_embeddings": True}),
}
AUDIO = {"num_mel_bins": 20, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 68, "d_model": 40}
QWEN3_AUDIO = {**AUDIO, "downsample_hidden_size": 24, "output_dim": 56}
CLIP = {"hidden_size": 40, "intermediate_size": 68, "num_hidden_layers": 2, "num_attention_heads": 4, "patch_size": 6}
SEEING.update({
    "qwen2_audio": ("Qwen2AudioForConditionalGeneration", {"model_type": "qwen2", "hidden_size": 48}, None, {
        "audio_config": {**AUDIO, "max_source_positions": 50}, "audio_token_index": 380}),
    "qwen2_5_omni": ("Qwen2_5OmniForConditionalGeneration", {"hidden_size": 48}, {**QWEN2_5_VISION, "out_hidden_size": 48}, {
        "audio_config": {**AUDIO, "max_source_positions": 50, "output_dim": 48}}),
    "qwen3_omni_moe": ("Qwen3OmniMoeForConditionalGeneration", {
        "head_dim": 12, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 40}, DEEPSTACK, {
            "audio_config": QWEN3_AUDIO}),
    "qwen3_asr": ("Qwen3ASRForConditionalGeneration", {"model_type": "qwen3", "head_dim": 12}, None, {
        "audio_config": QWEN3_AUDIO, "tie_word_embeddings": True}),
    "minimax_m3": ("MiniMaxM3SparseForConditionalGeneration", {
        "head_dim": 12, "rotary_dim": 6, "dense_intermediate_size": 88, "shared_intermediate_size": 72, **EXPERTS,
        "num_local_experts": 4, "index_n_heads": 2, "index_head_dim": 10,
        "layer_types": ["full_attention", "minimax_m3_sparse", "minimax_m3_sparse"],
        "mlp_layer_types": ["dense", "sparse", "sparse"]}, {**CLIP, "image_size": 24}, {}),
    "kimi_k25_vl": ("Kimi_K25ForConditionalGeneration", {**GLM, **MLA, "model_type": "deepseek_v3"}, {
        **CLIP, "pos_emb_height": 5, "pos_emb_width": 7}, {"projection_hidden_size": 40}),
    "step37": ("Step3p7ForConditionalGeneration", {
        "head_dim": 12, "num_attention_groups": 2, "moe_num_experts": 4, "moe_top_k": 2, "moe_intermediate_size": 40,
        "share_expert_dim": 72, "sliding_window": 16, "moe_layers_enum": "1,2",
        "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
        "attention_other_setting": {"attention_type": "sliding_attention", "num_attention_heads": 8,
                                    "num_attention_groups": 2, "head_dim": 12}}, {
            "width": 24, "layers": 2, "heads": 4, "image_size": 24, "patch_size": 6}, {}),
})
THINKERS = ["qwen2_5_omni", "qwen3_omni_moe"]
NAMES = [*CONFIGS, *SEEING]
MIXTURES = ["mixtral", "qwen3_moe", "olmoe", "deepseek_v2", "deepseek_v3", "gpt_oss", "glm4_moe", "glm4_moe_lite", "ernie4_5_moe",
            "exaone_moe", "nemotron_h", "qwen3_next", "qwen3_5_moe", "minimax_m2", "hy_v3", "qwen3_vl_moe", "qwen3_5_vl_moe",
            "glm4v_moe", "ernie4_5_vl_moe", "qwen3_omni_moe", "minimax_m3", "kimi_k25_vl", "step37", "qwen2_moe", "llama4_text",
            "dots1", "solar_open", "deepseek_v32"]
ROOT = pathlib.Path(__file__).resolve().parents[2]
OF_DIFFUSERS = ["flux", "wan"]  # test_diffusers.py
# [--tp, --pp]; three layers and a pair of key/value heads fit each of them.
GRIDS = [(1, 1), (2, 1), (1, 3), (2, 3)]


def build(name, dtype, **changed):
    """A random model; `changed` are keys of a seeing model's text config."""
    if name in CONFIGS:
        config_class, changes = CONFIGS[name]
        config = getattr(transformers, config_class)(**{**SIZES, **changes})
        return transformers.AutoModelForCausalLM.from_config(config, dtype=dtype)
    architecture, text, vision, outside = SEEING[name]
    cls = getattr(transformers, architecture)
    tied = outside.get("tie_word_embeddings", False)
    values = {"image_token_id": 380, "video_token_id": 381, "tie_word_embeddings": tied, "vision_config": vision,
              "text_config": {**SIZES, **text, **changed, "tie_word_embeddings": tied}, **outside}
    if name in THINKERS:
        values = {"thinker_config": values, "enable_audio_output": False}
    return cls(cls.config_class.from_dict(copy.deepcopy(values))).to(dtype)


@pytest.fixture(scope="module")
def save_model(tmp_path_factory):
    """save_model(NAME, DTYPE, **options of save_pretrained) -> a folder; each is written once."""
    made = {}

    def save(name, dtype=torch.bfloat16, **options):
        key = (name, dtype, *options.items())
        if key not in made:
            torch.manual_seed(7)
            model = build(name, dtype)
            with torch.no_grad():
                for tensor in model.state_dict().values():
                    if tensor.is_floating_point():
                        tensor.add_(torch.randn_like(tensor) * 0.05)
            made[key] = tmp_path_factory.mktemp(name)
            model.save_pretrained(made[key], **options)
        return made[key]

    return save


def names_of(folder):
    """The names of all tensors in the folder's files, read by the safetensors package."""
    names = []
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as tensors:
            names += tensors.keys()
    return sorted(names)


def assert_every_tensor_came_back(folder, result, report):
    assert result.returncode == 0, result.stdout + result.stderr
    assert report["verdict"] == "pass"
    assert report["causes"] == []
    counts = report["counts"]
    assert counts["failed"] == counts["skipped"] == 0
    assert counts["total"] == counts["passed"] == len(report["results"])
    assert sorted(hf["name"] for row in report["results"] for hf in row["hf"]) == names_of(folder)


def test_every_family_that_transformers_knows_is_here():
    """The others have a reason in without_transformers.json; their toys make the round trip (tests/checks/toy_test.cc)."""
    without = json.loads((ROOT / "tests/testdata/without_transformers.json").read_text())
    families = {path.stem for path in (ROOT / "families").glob("*.toml") if not path.stem.startswith("base_")}
    assert {name.removesuffix("_tied") for name in NAMES} == families - set(without) - set(OF_DIFFUSERS)


@pytest.mark.parametrize(("tp", "pp"), GRIDS)
@pytest.mark.parametrize("name", NAMES)
def test_bf16_model_comes_back_bit_for_bit(save_model, roundtrip, name, tp, pp):
    folder = save_model(name)
    assert_every_tensor_came_back(folder, *roundtrip(folder, "--tp", tp, "--pp", pp))


@pytest.mark.parametrize("name", NAMES)
def test_float32_model_comes_back_bit_for_bit(save_model, roundtrip, name):
    folder = save_model(name, torch.float32)
    assert_every_tensor_came_back(folder, *roundtrip(folder, "--tp", 2, "--pp", 3))


@pytest.mark.parametrize("name", NAMES)
def test_sharded_model_comes_back_bit_for_bit(save_model, roundtrip, name):
    folder = save_model(name, max_shard_size="100KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    assert (folder / "model.safetensors.index.json").exists()
    assert_every_tensor_came_back(folder, *roundtrip(folder, "--tp", 2, "--pp", 1))


@pytest.mark.parametrize(("ep", "etp"), [(2, 1), (1, 2), (2, 2)])
@pytest.mark.parametrize("name", MIXTURES)
def test_experts_come_back_from_their_own_grid(save_model, roundtrip, name, ep, etp):
    folder = save_model(name)
    result, report = roundtrip(folder, "--tp", 2, "--ep", ep, "--etp", etp)
    assert_every_tensor_came_back(folder, result, report)


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_tensor_is_a_fault(save_model, roundtrip, tmp_path, name):
    from safetensors.torch import load_file, save_file
    folder = save_model(name)
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_bytes((folder / "config.json").read_bytes())
    tensors = load_file(folder / "model.safetensors")
    lost = max(name for name in tensors if name.endswith((".o_proj.weight", ".dense.weight")))
    del tensors[lost]
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    result, report = roundtrip(broken, "--tp", 1)
    assert result.returncode == 1, result.stdout + result.stderr
    assert report["verdict"] == "fail"
    assert lost in result.stdout
