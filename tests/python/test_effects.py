"""verify compares two configs by effect: fields of real run_config.yaml and config.json files, changed one at a time."""
import json
import pathlib
import re
import shutil

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
DATA = ROOT / "tests/testdata"
CLEAN = ["llama_tied", "llama_untied", "qwen2", "qwen3", "qwen3_lora", "qwen3_moe", "olmoe", "gpt_oss_ns", "deepseek_v3_nomtp",
         "glm4_moe", "exaone4", "qwen3_next"]
# Families whose toys differ by what the runtime does, whoever imports them.
BY_RUNTIME = {"gemma2": "norm-eps", "gemma3": "norm-eps", "gemma3_vl": "norm-eps", "nemotron_h": "ssm-parameters",
              "deepseek_v2": "router-formula", "ernie4_5_moe": "router-formula", "llama4_text": "norm-kind"}
IMPORTED = ["llama", "mistral", "phi3", "mixtral", "qwen2_5_vl", "qwen3_5_moe", "minimax_m2", "glm4_moe_lite", "kimi_k2",
            "exaone4", "smollm3", "helium", "nemotron", *BY_RUNTIME]
MISSING = object()


class Plain(str):
    """Text that stands in YAML as it is."""


def edit_yaml(file, fields):
    before, model, after = re.fullmatch(r"(?s)(.*?^model:\n)((?:[ ].*?\n)*)(\S.*)?", file.read_text(), re.M).groups()
    for field, value in fields.items():
        # A value may go on in deeper lines, or in a list at the key's own depth.
        model, count = re.subn(rf"(?m)^  {field}:.*\n(?:    .*\n|  - .*\n)*", "", model)
        assert count <= 1
        if value is not MISSING:
            model += f"  {field}: {value if isinstance(value, Plain) else json.dumps(value)}\n"
    file.write_text(before + model + (after or ""))


def edit_json(file, keys):
    config = json.loads(file.read_text())
    for key, value in keys.items():
        config.pop(key, None)
        if value is not MISSING:
            config[key] = value
    file.write_text(json.dumps(config))


@pytest.fixture
def judge(run, tmp_path):
    """judge(NAME, megatron={field: value}, hf={key: value}) -> (causes as {id: origin}, report) of L0."""

    def call(name, megatron=None, hf=None, options=()):
        sides = tmp_path / "hf", tmp_path / "megatron"
        for side in sides:
            shutil.rmtree(side, ignore_errors=True)
        shutil.copytree(DATA / "hf" / name, sides[0])
        shutil.copytree(DATA / "megatron" / name / "te_bf16", sides[1])
        edit_json(sides[0] / "config.json", hf or {})
        edit_yaml(sides[1] / "iter_0000000/run_config.yaml", megatron or {})
        return verify(run, *sides, *options)

    return call


def verify(run, hf, megatron, *options):
    result = run("verify", hf, megatron, "--level", "L0", "--json", "-", *options)
    assert result.returncode in (0, 1), result.stderr
    report = json.loads(result.stdout)
    assert (result.returncode == 0) == (not report["causes"])
    return {cause["id"]: cause["origin"] for cause in report["causes"]}, report


def test_a_value_of_another_kind_is_told_and_not_taken_for_equal(judge):
    causes, report = judge("llama_tied", hf={"rms_norm_eps": "1e-6"})
    (told,) = set(report["unproven"]) - set(judge("llama_tied")[1]["unproven"])
    assert 'rms_norm_eps is "1e-6" in config.json' in told and not causes
    assert list(judge("llama_tied", {"layernorm_epsilon": "1e-6"})[0]) == ["header-corrupt"]


@pytest.mark.parametrize(("field", "value"), [
    ("window_size", "4"), ("window_size", [4.0, 0.0]), ("window_size", {"x": 1}), ("rotary_percent", "0.5"),
    ("rotary_interleaved", "true"), ("share_embeddings_and_output_weights", "true"), ("seq_len_interpolation_factor", "2"),
    ("rope_scaling", "yes"), ("moe_layer_freq", "x"), ("moe_layer_freq", [1, "0", 1, 1]),
    ("moe_router_load_balancing_type", ["sinkhorn", 1])])
def test_a_value_of_another_kind_in_megatrons_config_is_told(judge, field, value):
    causes, report = judge("qwen3_moe", {field: value})
    told = set(report["unproven"]) - set(judge("qwen3_moe")[1]["unproven"])
    assert causes or any(text.startswith(f"{field} is ") and "no value of its kind" in text for text in told), told


@pytest.mark.parametrize(("field", "value"), [
    ("moe_router_load_balancing_type", ["aux_loss", "seq_aux_loss"]), ("layernorm_zero_centered_gamma", 0),
    ("moe_router_pre_softmax", 0), ("rotary_interleaved", None), ("qk_layernorm", 1), ("window_attn_skip_freq", 0)])
def test_what_megatron_core_takes_for_the_same_is_the_same(judge, field, value):
    causes, report = judge("qwen3_moe", {field: value})
    assert not causes and set(report["unproven"]) == set(judge("qwen3_moe")[1]["unproven"])


def test_one_is_true_in_megatrons_config(judge):
    assert judge("qwen3_moe", {"rotary_interleaved": 1})[0] == {"rope-interleaved": "config"}


@pytest.mark.parametrize(("table", "shown"), [
    ("yarn", "rope_scaling"), (["yarn", 8], "rope_scaling"), ({"type": True}, "type"), ({"rope_type": 5}, "rope_type"),
    ({"rope_type": "linear", "factor": -8.0}, "factor"), ({"rope_type": "linear", "factor": 0}, "factor")])
def test_a_rope_table_of_another_kind_is_told(judge, table, shown):
    report = judge("llama_tied", hf={"rope_scaling": table})[1]
    assert any(f"({shown} is " in text for text in report["unproven"]), report["unproven"]


@pytest.mark.parametrize("name", CLEAN)
def test_configs_that_mean_the_same_raise_no_alarm(judge, name):
    causes, report = judge(name)
    assert causes == {} and not any("by effect" in line for line in report["unproven"])
    assert report["details"]["runtime"].startswith("megatron-core 0.19")


@pytest.mark.parametrize(("name", "cause", "origin"), [
    ("gemma2", "norm-eps", "runtime"), ("nemotron_h", "ssm-parameters", "runtime"),
    ("ernie4_5_moe", "router-formula", "config"),
])
def test_defects_of_the_bridge_are_named_from_the_two_folders(judge, name, cause, origin):
    assert judge(name)[0] == {cause: origin}
    without = {} if origin == "runtime" else {cause: origin}
    assert judge(name, options=["--runtime", "none"])[0] == without


GELU = {"_target_": "torch.nn.functional.gelu", "_call_": False}


@pytest.mark.parametrize(("name", "fields", "causes"), [
    ("llama_untied", {"rotary_base": 500000.0}, ["rope-base"]),
    ("llama_untied", {"rotary_percent": 0.5}, ["rope-partial"]),
    ("llama_untied", {"rotary_interleaved": True}, ["rope-interleaved"]),
    ("llama_untied", {"seq_len_interpolation_factor": 4.0}, ["rope-scaling"]),
    ("llama_untied", {"rope_scaling": True, "rope_scaling_factor": 8.0}, ["rope-scaling"]),
    ("llama_untied", {"yarn_rotary_scaling_factor": 8.0}, ["rope-scaling"]),  # counts without YaRN too
    ("llama_untied", {"position_embedding_type": "none"}, ["layer-pattern"]),
    ("llama_untied", {"no_rope_freq": 2}, ["layer-pattern"]),
    ("llama_untied", {"layernorm_epsilon": 0.001}, ["norm-eps"]),
    ("llama_untied", {"normalization": "LayerNorm"}, ["norm-kind"]),
    ("llama_untied", {"qk_layernorm": True}, ["norm-kind"]),
    ("llama_untied", {"layernorm_zero_centered_gamma": True}, ["norm-convention"]),
    ("llama_untied", {"activation_func": GELU}, ["activation"]),
    ("llama_untied", {"gated_linear_unit": False}, ["activation"]),
    ("llama_untied", {"window_size": [15, 0]}, ["attention-window"]),
    ("llama_untied", {"softmax_scale": 0.125}, ["softmax-scale"]),
    ("llama_untied", {"softmax_type": "off-by-one"}, ["attention-sinks"]),
    ("llama_untied", {"share_embeddings_and_output_weights": True}, ["tie-mismatch"]),
    ("llama_untied", {"use_mup": True, "mup_embedding_mult": 12.0}, ["embedding-scale", "softmax-scale"]),
    ("llama_untied", {"normalization": MISSING}, ["config-lost"]),
    ("qwen2", {"layernorm_epsilon": MISSING}, ["config-lost"]),
    ("gpt_oss_ns", {"yarn_rotary_scaling_factor": 16.0}, ["rope-scaling"]),
    ("gpt_oss_ns", {"yarn_correction_range_round_to_int": True}, ["rope-scaling"]),
    ("gpt_oss_ns", {"yarn_mscale": 0.5, "yarn_mscale_all_dim": 1.0}, ["rope-scaling"]),
    ("gpt_oss_ns", {"window_size": [16, 0]}, ["attention-window"]),
    ("gpt_oss_ns", {"window_size": None}, ["attention-window"]),
    ("gpt_oss_ns", {"window_attn_skip_freq": [0, 1]}, ["layer-pattern"]),
    ("gpt_oss_ns", {"softmax_type": "vanilla"}, ["attention-sinks"]),
    ("gpt_oss_ns", {"activation_func_clamp_value": None}, ["activation"]),
    ("gpt_oss_ns", {"glu_linear_offset": 0.0}, ["activation"]),
    ("gpt_oss_ns", {"moe_router_pre_softmax": True}, ["router-formula"]),
    ("gpt_oss_ns", {"moe_router_topk": 3}, ["router-formula"]),
    ("gpt_oss_ns", {"moe_router_topk_scaling_factor": 2.0}, ["router-formula"]),
    ("gpt_oss_ns", {"moe_expert_capacity_factor": 1.0}, ["router-formula"]),
    ("gpt_oss_ns", {"moe_router_load_balancing_type": "sinkhorn"}, ["router-formula"]),
    ("gpt_oss_ns", {"num_moe_experts": 8}, ["size-mismatch"]),
    ("gpt_oss_ns", {"num_query_groups": 4}, ["head-geometry"]),
    ("deepseek_v3_nomtp", {"moe_router_topk_scaling_factor": None}, ["router-formula"]),
    ("deepseek_v3_nomtp", {"moe_router_num_groups": None, "moe_router_group_topk": None}, ["router-formula"]),
    ("deepseek_v3_nomtp", {"moe_router_score_function": "softmax"}, ["router-formula"]),
    ("deepseek_v3_nomtp", {"rotary_scaling_factor": 40.0, "mscale_all_dim": 1.0}, ["rope-scaling", "softmax-scale"]),
    ("deepseek_v3_nomtp", {"moe_layer_freq": [1, 1, 1]}, ["layer-pattern"]),
    ("deepseek_v3_nomtp", {"moe_shared_expert_intermediate_size": 64}, ["size-mismatch"]),
    ("deepseek_v3_nomtp", {"mtp_num_layers": 1}, ["mtp-missing"]),
    ("qwen3_next", {"linear_num_key_heads": 3}, ["ssm-parameters"]),
    ("qwen3_next", {"linear_attention_freq": [1, 0, 0]}, ["layer-pattern"]),
    ("qwen3_moe", {"moe_router_pre_softmax": True}, ["router-formula"]),
    ("gemma2", {"attn_logit_softcapping": 20.0}, ["logit-softcap", "norm-eps"]),
    ("gemma2", {"final_logit_softcapping": None}, ["logit-softcap", "norm-eps"]),
    ("gemma2", {"query_pre_attn_scalar": 256}, ["norm-eps", "softmax-scale"]),
    ("gemma2", {"_target_": "megatron.bridge.models.gpt_provider.GPTModelProvider"},
     ["embedding-scale", "layer-pattern", "logit-softcap", "norm-eps"]),
    # Fields that decide which parameters there are.
    ("qwen2", {"add_qkv_bias": False}, ["bias-missing"]),
    ("llama_untied", {"add_bias_linear": True}, ["bias-missing"]),
    ("qwen3_next", {"attention_output_gate": False}, ["head-geometry"]),
    ("qwen3_next", {"moe_shared_expert_gate": False}, ["shared-expert-missing"]),
    ("deepseek_v3_nomtp", {"q_lora_rank": None}, ["size-mismatch"]),
    ("nemotron_h", {"mamba_num_groups": 4}, ["ssm-parameters"]),
    ("nemotron_h", {"hybrid_layer_pattern": "M-M-"}, ["layer-pattern", "ssm-parameters"]),
    # | stands between pipeline stages, / in front of MTP layers; what is left is the pattern that the model has, or is not.
    ("nemotron_h", {"hybrid_layer_pattern": "M-|*-"}, ["ssm-parameters"]),
    ("nemotron_h", {"hybrid_layer_pattern": "M|-M|-/*-/*-"}, ["layer-pattern", "ssm-parameters"]),
    # Megatron-Core counts its layers there.
    ("nemotron_h", {"hybrid_layer_pattern": "M-*"}, ["layer-pattern", "ssm-parameters"]),
    ("nemotron_h", {"hybrid_layer_pattern": "M-*-M"}, ["layer-pattern", "ssm-parameters"]),
])
def test_a_field_that_changes_the_function_is_named_by_its_effect(judge, name, fields, causes):
    found, report = judge(name, megatron=fields)
    assert sorted(found) == causes
    for cause in report["causes"]:
        assert cause["where"] and cause["message"] and cause["proof"] == "structural"


@pytest.mark.parametrize(("name", "fields"), [
    ("llama_untied", {"rope_scaling_factor": 32.0}),             # without rope_scaling
    ("llama_untied", {"seq_len_interpolation_factor": 1.0}),
    ("llama_untied", {"rotary_scaling_factor": 40.0}),           # of MLA
    ("llama_untied", {"yarn_beta_fast": 64.0}),
    ("llama_untied", {"mup_embedding_mult": 12.0}),              # without use_mup
    ("llama_untied", {"softmax_scale": 0.25}),                   # 16 ** -0.5
    ("llama_untied", {"window_attn_skip_freq": 2}),              # without a window
    ("llama_untied", {"window_size": [127, 0]}),                 # as long as the positions
    ("llama_untied", {"no_rope_freq": [0, 0, 0, 0]}),
    ("llama_untied", {"moe_router_topk": 7}),                    # without experts
    ("llama_untied", {"moe_router_score_function": "sigmoid"}),
    ("llama_untied", {"mamba_head_dim": 128}),
    ("llama_untied", {"linear_key_head_dim": 7}),
    ("llama_untied", {"attention_dropout": 0.1}),
    ("llama_untied", {"apply_query_key_layer_scaling": True}),
    ("llama_untied", {"bias_activation_fusion": True}),
    ("llama_untied", {"layernorm_epsilon": MISSING}),            # the class has 1e-5 too
    ("llama_untied", {"kv_channels": None}),
    ("llama_untied", {"final_logit_softcapping": 30.0}),         # only Gemma 2's class reads it
    ("gpt_oss_ns", {"window_attn_skip_freq": [1, 0]}),           # 2, as a list
    ("gpt_oss_ns", {"moe_router_topk_scaling_factor": 1.0}),
    ("gpt_oss_ns", {"moe_router_num_groups": 1, "moe_router_group_topk": 1}),
    ("gpt_oss_ns", {"mrope_section": [1, 1, 2]}),
    ("deepseek_v3_nomtp", {"mscale": 0.7}),                      # the factor is 1
    ("deepseek_v3_nomtp", {"beta_fast": 64}),
    ("deepseek_v3_nomtp", {"rope_type": "rope"}),                # YaRN with factor 1
    ("deepseek_v3_nomtp", {"moe_router_pre_softmax": False}),    # sigmoid
    ("deepseek_v3_nomtp", {"softmax_scale": 0.5}),               # MLA computes its own
    ("deepseek_v3_nomtp", {"no_rope_freq": 2}),                  # MLA does not look
    ("deepseek_v3_nomtp", {"mtp_num_layers": 0}),
])
def test_a_field_without_effect_on_this_model_raises_no_alarm(judge, name, fields):
    assert judge(name, megatron=fields)[0] == {}


@pytest.mark.parametrize(("name", "keys", "causes"), [
    ("llama_untied", {"rms_norm_eps": MISSING}, {"config-lost": "config"}),
    ("llama_untied", {"hidden_act": "gelu"}, {"activation": "config"}),
    ("llama_untied", {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}},
     {"rope-scaling": "config"}),
    ("llama_untied", {"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}},
     {"rope-scaling": "config"}),
    ("llama_untied", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}}, {}),
    # Classes without a share of their own rotate whole heads, unless the kind of scaling asks for the share.
    ("llama_untied", {"partial_rotary_factor": 0.5}, {}),
    ("llama_untied", {"rope_parameters": {"rope_type": "linear", "factor": 1.0, "rope_theta": 10000.0, "partial_rotary_factor": 0.5}},
     {"rope-partial": "config"}),
    ("gemma2", {"attn_logit_softcapping": None, "final_logit_softcapping": None}, {"logit-softcap": "config", "norm-eps": "runtime"}),
    # The Bridge drops the windows of Qwen.
    ("qwen2", {"use_sliding_window": True, "sliding_window": 16, "layer_types": ["sliding_attention"] * 2},
     {"attention-window": "config"}),
    ("qwen2", {"sliding_window": 16}, {}),
    # The Bridge ignores EXAONE 4's windows and its layers without RoPE.
    ("exaone4", {"sliding_window": 16, "layer_types": ["sliding_attention", "sliding_attention", "full_attention"]},
     {"attention-window": "config", "layer-pattern": "config"}),
    ("gpt_oss_ns", {"hidden_act": "gelu"}, {}),  # its class computes the same whatever this says
    ("qwen3_moe", {"norm_topk_prob": False}, {"router-formula": "config"}),
    ("glm4_moe", {"norm_topk_prob": False}, {"router-formula": "runtime"}),
    ("deepseek_v3_nomtp", {"rope_interleave": False}, {"rope-interleaved": "runtime"}),
    ("gpt_oss_ns", {"rope_parameters": MISSING}, {"rope-scaling": "config"}),
])
def test_a_key_of_config_json_counts_as_its_class_reads_it(judge, name, keys, causes):
    assert judge(name, hf=keys)[0] == causes


# transformers divides the weight of a single expert by itself, a sigmoid router of Megatron-Core does not.
@pytest.mark.parametrize(("name", "keys", "fields", "causes", "without_runtime"), [
    ("glm4_moe", {}, {}, {"router-formula": "runtime"}, {}),
    ("deepseek_v3_nomtp", {}, {}, {"router-formula": "runtime"}, {}),
    ("glm4_moe", {"norm_topk_prob": False}, {}, {}, {}),
    ("qwen3_moe", {"norm_topk_prob": False}, {"moe_router_pre_softmax": True}, {}, {}),
    ("qwen3_moe", {}, {"moe_router_pre_softmax": True}, {"router-formula": "config"}, {"router-formula": "config"}),
])
def test_a_router_of_one_expert_counts_as_each_library_reads_it(judge, name, keys, fields, causes, without_runtime):
    changes = {"hf": {"num_experts_per_tok": 1, "n_group": 1, "topk_group": 1, **keys},
               "megatron": {"moe_router_topk": 1, "moe_router_num_groups": None, "moe_router_group_topk": None, **fields}}
    found, report = judge(name, **changes)
    assert found == causes
    if "runtime" in causes.values():
        assert "does not divide its weight by itself" in report["causes"][0]["message"]
    assert judge(name, **changes, options=["--runtime", "none"])[0] == without_runtime


@pytest.mark.parametrize("options", [[], ["--runtime", "none"]])
def test_a_softmax_over_one_expert_is_what_megatron_core_refuses(judge, options):
    one = {"hf": {"num_experts_per_tok": 1}, "megatron": {"moe_router_topk": 1}}
    causes, report = judge("qwen3_moe", **one, options=options)
    assert causes == {"router-formula": "config"}
    assert "TransformerConfig refuses moe_router_topk 1" in report["causes"][0]["message"]
    assert "moe_router_pre_softmax" in report["causes"][0]["hint"]
    # With sinkhorn it does not; that is told as what it is.
    one["megatron"]["moe_router_load_balancing_type"] = "sinkhorn"
    causes, report = judge("qwen3_moe", **one, options=options)
    assert causes == {"router-formula": "config"} and "refuses" not in report["causes"][0]["message"]


@pytest.mark.parametrize("name", ["qwen3_moe", "gpt_oss_ns"])
def test_a_correction_bias_beside_a_softmax_is_what_megatron_core_refuses(judge, name):
    causes, report = judge(name, megatron={"moe_router_enable_expert_bias": True})
    assert causes == {"router-formula": "config"} and len(report["causes"]) == 1
    assert "Megatron-Core does not build" in report["causes"][0]["message"]


# What the runtime makes of a wrong field is the field's: an epsilon of latents, groups of experts, a softmax without its bias.
@pytest.mark.parametrize(("name", "fields", "causes"), [
    ("deepseek_v3_nomtp", {"layernorm_epsilon": 1e-5}, ["norm-eps"]),
    ("deepseek_v3_nomtp", {"moe_router_topk": 3}, ["router-formula"]),
    ("deepseek_v3_nomtp", {"moe_router_score_function": "softmax"}, ["router-formula"]),
    ("llama_untied", {"add_qkv_bias": True}, ["bias-missing"]),
])
def test_a_wrong_field_is_one_cause_of_the_config(judge, name, fields, causes):
    found, report = judge(name, megatron=fields)
    assert [cause["id"] for cause in report["causes"]] == causes and set(found.values()) == {"config"}, report["causes"]


def test_biases_of_all_linear_layers_are_one_cause(judge):
    _, report = judge("llama_untied", megatron={"add_bias_linear": True}, hf={"attention_bias": MISSING, "mlp_bias": MISSING})
    assert [cause["id"] for cause in report["causes"]] == ["bias-missing"]


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_a_factor_of_rope_that_is_not_passed_on_is_named(judge, factor):
    """Megatron-LM once used 8 whatever it was told."""
    table = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
             "original_max_position_embeddings": 8192}
    causes, report = judge("llama_untied", megatron={"rope_scaling": True, "rope_scaling_factor": 8.0},
                           hf={"rope_parameters": table})
    assert causes == ({} if factor == 8 else {"rope-scaling": "config"})
    assert all("rope_scaling_factor" in cause["hint"] + cause["message"] for cause in report["causes"])


def test_llama3_rope_has_its_original_length_fixed_in_the_runtime(judge):
    table = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    fields = {"rope_scaling": True, "rope_scaling_factor": 8.0}
    for length, expected in ((8192, {}), (2048, {"rope-scaling": "runtime"})):
        hf = {"rope_parameters": {**table, "original_max_position_embeddings": length}}
        assert judge("llama_untied", megatron=fields, hf=hf)[0] == expected
        assert judge("llama_untied", megatron=fields, hf=hf, options=["--runtime", "none"])[0] == {}


def test_latent_norms_have_an_epsilon_of_their_own_in_transformers(judge):
    causes, report = judge("deepseek_v3_nomtp", megatron={"layernorm_epsilon": 1e-5}, hf={"rms_norm_eps": 1e-5})
    assert causes == {"norm-eps": "runtime"}
    assert "1e-06 by its class in transformers, 1e-05 by megatron-core" in report["causes"][0]["message"]


def test_a_fused_activation_is_another_function(judge):
    fields = {"bias_activation_fusion": True, "activation_func": GELU}
    hf = {"hidden_act": "gelu"}
    assert judge("llama_untied", megatron=fields, hf=hf)[0] == {"activation": "runtime"}
    assert judge("llama_untied", megatron=fields, hf={"hidden_act": "gelu_pytorch_tanh"})[0] == {}


def test_the_default_spec_makes_every_layer_a_mixture(judge):
    spec = {"_target_": "megatron.bridge.models.gpt_provider.default_layer_spec", "_call_": False}
    causes, report = judge("deepseek_v3_nomtp", megatron={"transformer_layer_spec": spec})
    assert causes == {"layer-pattern": "runtime"}
    assert report["causes"][0]["where"] == ["decoder.layers.0"]


# None does not round the range of YaRN's correction; the Bridge writes it where config.json does not say "truncate".
@pytest.mark.parametrize(("rounds", "says", "causes"), [
    (None, {}, {"rope-scaling": "config"}), (True, {}, {}), (None, {"truncate": False}, {}), (False, {"truncate": False}, {}),
])
def test_a_yarn_range_is_rounded_only_where_the_config_says_so(judge, rounds, says, causes):
    table = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64}
    fields = {"position_embedding_type": "yarn", "yarn_rotary_scaling_factor": 4.0, "yarn_original_max_position_embeddings": 64,
              "yarn_beta_fast": 32.0, "yarn_beta_slow": 1.0, "yarn_mscale": None, "yarn_mscale_all_dim": None,
              "yarn_correction_range_round_to_int": rounds}
    assert judge("llama_untied", megatron=fields, hf={"rope_parameters": {**table, **says}})[0] == causes


def test_import_says_what_a_yarn_table_leaves_to_transformers(run, imported_toy):
    sides = imported_toy("qwen2", 'rope_scaling={"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}')
    written = (sides[1] / "iter_0000000/run_config.yaml").read_text()
    for line in ("yarn_correction_range_round_to_int: true", "yarn_beta_fast: 32", "yarn_beta_slow: 1"):
        assert f"  {line}" in written
    assert verify(run, *sides)[0] == {}
    # The Bridge's own checkpoint is taken for what it is meant to be.
    edit_yaml(sides[1] / "iter_0000000/run_config.yaml", {"yarn_correction_range_round_to_int": None})
    result = run("export", sides[1], sides[0].parent / "back")
    assert result.returncode == 0, result.stderr


# With (5, 1) each sixth layer is without a window, of two as of twelve.
@pytest.mark.parametrize(("pattern", "full"), [([5, 1], []), ([1, 1], [1, 3]), ([2, 1], [2]), ([1, 2], [2]), ([0, 1], [0, 1, 2, 3])])
def test_windows_follow_the_pattern_of_gemma_3(run, imported_toy, pattern, full):
    sides = imported_toy("gemma3", "num_hidden_layers=4", "sliding_window_pattern=2", "rms_norm_eps=1e-05",
                         'layer_types=["sliding_attention", "full_attention", "sliding_attention", "full_attention"]')
    edit_yaml(sides[1] / "iter_0000000/run_config.yaml", {"interleaved_attn_pattern": pattern})
    causes, report = verify(run, *sides)
    wrong = {layer for layer in range(4) if (layer in full) != (layer in (1, 3))}
    assert set(causes) == ({"layer-pattern"} if wrong and len(full) < 4 else {"attention-window"} if wrong else set())
    if wrong:
        named = {int(layer) for where in report["causes"][0]["where"] for span in re.findall(r"layers\.([\d,-]+)", where)
                 for part in span.split(",") for layer in range(int(part.split("-")[0]), int(part.split("-")[-1]) + 1)}
        assert named == wrong


def test_an_infinity_that_transformers_wrote_as_a_tag_is_one(run, imported_toy):
    sides = imported_toy("falcon_h1", 'time_step_limit=[0.0, {"__float__": "Infinity"}]')
    assert verify(run, *sides, "--runtime", "none")[0] == {}


# A config that asks for other tensors, and the tensors that it gave, are one mistake.
@pytest.mark.parametrize(("family", "settings", "without", "cause"), [
    ("qwen3", ["attention_bias=true"], ["attention_bias=false"], "bias-missing"),
    ("qwen3_moe", ["mlp_only_layers=[0]"], ["mlp_only_layers=[]"], "layer-pattern"),
])
def test_tensors_that_a_wrong_config_left_out_are_one_cause(run, imported_toy, tmp_path, family, settings, without, cause):
    hf, megatron = imported_toy(family, *without)
    megatron = megatron.rename(tmp_path / "without")
    shutil.rmtree(hf)
    hf, _ = imported_toy(family, *settings)
    causes, report = verify(run, hf, megatron)
    assert causes == {cause: "config"} and len(report["causes"]) == 1, report["causes"]
    assert report["counts"]["failed"] > 0


def test_a_difference_names_layers_values_and_both_keys(judge):
    _, report = judge("gpt_oss_ns", megatron={"window_size": [16, 0]})
    cause, = report["causes"]
    assert cause["where"] == ["decoder.layers.0.self_attention.core_attention"]
    assert "16 by config.json (sliding_window" in cause["message"]
    assert "17 by run_config.yaml (window_size" in cause["message"] and "window_size" in cause["hint"]


def test_a_window_beyond_all_positions_is_a_note(judge):
    causes, report = judge("llama_untied", megatron={"window_size": [999, 0]})
    assert causes == {} and "no-effect" in {note["id"] for note in report["notes"]}


def test_other_positions_are_a_note(judge):
    causes, report = judge("deepseek_v3_nomtp", megatron={"seq_length": 4096})
    assert causes == {}
    note, = (note for note in report["notes"] if note["id"] == "positions-differ")
    assert "160" in note["message"] and "4096" in note["message"]


@pytest.mark.parametrize("family", IMPORTED)
def test_an_imported_toy_means_the_same(run, imported_toy, family):
    sides = imported_toy(family)
    assert verify(run, *sides, "--runtime", "none")[0] == {}
    causes = verify(run, *sides)[0]
    assert causes == ({BY_RUNTIME[family]: "runtime"} if family in BY_RUNTIME else {})


def test_minimax_rotates_every_channel_in_transformers(run, imported_toy):
    hf, megatron = imported_toy("minimax_m2")  # its config has rotary_dim = 6 of 12
    edit_yaml(megatron / "iter_0000000/run_config.yaml", {"rotary_percent": 0.5})
    assert verify(run, hf, megatron)[0] == {"rope-partial": "config"}


def test_sections_of_multimodal_rope(run, imported_toy):
    hf, megatron = imported_toy("qwen2_5_vl")
    edit_yaml(megatron / "iter_0000000/run_config.yaml", {"mrope_section": [16, 24, 24]})
    assert verify(run, hf, megatron)[0] == {"mrope-sections": "config"}


@pytest.fixture
def ministral(run, imported_toy):
    """ministral(KEYS of config.json, KEYS of its RoPE table) -> causes of L0 between a Ministral 3 whose config says so and
    the fields that the Bridge gives it, which reads its sizes and the base of RoPE, and has constants for the rest."""
    recorded = json.loads((DATA / "bridge_configs/ministral3.json").read_text())

    def call(keys, rope):
        agreeing = {"rms_norm_eps": 1e-5, "hidden_act": "silu", "rope_parameters": {
            **recorded["config"]["rope_parameters"], "factor": 16.0, "original_max_position_embeddings": 16384, "beta_fast": 32.0,
            "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0, "truncate": False, **rope}}
        config = {**recorded["config"], **agreeing, **keys}
        hf, megatron = imported_toy("ministral3", *(f"{key}={json.dumps(value)}" for key, value in config.items()))
        (megatron / "iter_0000000/run_config.yaml").write_text(json.dumps({"model": recorded["provider"]}))
        return verify(run, hf, megatron)[0]

    return call


@pytest.mark.parametrize(("keys", "rope", "causes"), [
    ({}, {}, []),
    ({}, {"truncate": True}, ["rope-scaling"]),
    ({}, {"factor": 8.0}, ["rope-scaling"]),
    ({}, {"original_max_position_embeddings": 8192}, ["rope-scaling"]),
    ({}, {"beta_fast": 64.0}, ["rope-scaling"]),
    ({}, {"beta_slow": 2.0}, ["rope-scaling"]),
    ({}, {"mscale_all_dim": 0.25}, ["rope-scaling"]),
    ({}, {"rope_type": "default"}, ["rope-scaling"]),
    ({"rms_norm_eps": 1e-6}, {}, ["norm-eps"]),
    ({"hidden_act": "gelu"}, {}, ["activation"]),
    ({"rms_norm_eps": 1e-6, "hidden_act": "gelu"}, {"factor": 8.0}, ["activation", "norm-eps", "rope-scaling"]),
])
def test_constants_that_the_bridge_has_for_ministral_3_are_named_where_the_config_says_otherwise(ministral, keys, rope, causes):
    assert ministral(keys, rope) == {cause: "config" for cause in causes}


@pytest.fixture
def exported(run, tmp_path):
    """exported(NAME, OPTION...) -> (causes, report) where config.json is the one that the Bridge writes without the source's."""

    def call(name, *options):
        hf = shutil.copytree(DATA / "hf" / name, tmp_path / "hf")
        shutil.copy(DATA / "bridge_configs/exported" / f"{name}.json", hf / "config.json")
        return verify(run, hf, DATA / "megatron" / name / "te_bf16", *options)

    return call


@pytest.mark.parametrize("name", ["glm4_moe", "llama_untied", "nemotron_h", "qwen3_moe"])
def test_keys_that_are_lost_with_the_source_and_that_the_class_has_too_are_no_alarm(exported, name):
    assert exported(name, "--runtime", "none")[0] == {}


@pytest.mark.parametrize(("name", "causes", "keys"), [
    ("ernie4_5_moe", {"config-lost", "size-mismatch"}, ["moe_k", "num_moe_experts"]),
    ("qwen3_next", {"ssm-parameters", "layer-pattern", "size-mismatch"}, ["linear_key_head_dim", "shared_expert_intermediate_size"]),
    ("gpt_oss_ns", {"attention-window", "bias-missing"}, ["sliding_window"]),
])
def test_keys_that_are_lost_with_the_source_are_named_by_what_the_class_has_instead(exported, name, causes, keys):
    found, report = exported(name)
    assert causes <= set(found)
    text = " ".join(cause["message"] for cause in report["causes"])
    assert [key for key in keys if key not in text] == []


def test_level_l1_judges_weights_alone(run):
    sides = DATA / "hf/gemma2", DATA / "megatron/gemma2/te_bf16"
    result = run("verify", *sides, "--level", "L1", "--json", "-")
    assert result.returncode == 0
    assert any("--level L1 judges weights alone" in line for line in json.loads(result.stdout)["unproven"])
    assert run("verify", *sides).returncode == 1


def test_a_family_without_a_description_is_said_to_be_unproven(run, imported_toy):
    hf, megatron = imported_toy("gemma4")
    file = megatron / "iter_0000000/run_config.yaml"
    file.write_text("model:\n  _target_: x.Provider\n  num_layers: 4\n")
    causes, report = verify(run, hf, megatron)
    assert causes == {} and any("what a config of family gemma4 computes" in line for line in report["unproven"])


def test_a_runtime_is_chosen_by_name_and_version(judge, run):
    assert judge("gemma2", options=["--runtime", "megatron-core==0.17"])[0] == {"norm-eps": "runtime"}
    sides = DATA / "hf/gemma2", DATA / "megatron/gemma2/te_bf16"
    for runtime in ("megatron", "megatron-core==", "megatron-core==x", "vllm==1"):
        result = run("verify", *sides, "--runtime", runtime)
        assert result.returncode == 2 and "megatron-core==0.19" in result.stderr
    result = run("verify", *sides, "--level", "L1", "--runtime", "megatron-core==0.19")
    assert result.returncode == 2 and "--level L1" in result.stderr


@pytest.mark.parametrize("fields", [
    {"rotary_base": -1.0}, {"rotary_base": "much"}, {"rotary_base": 1e400}, {"rotary_percent": 1e300}, {"kv_channels": 1 << 40},
    {"window_size": [1 << 62, 0]}, {"window_size": ["a"]}, {"moe_layer_freq": -1}, {"no_rope_freq": 0}, {"no_rope_freq": [1]},
    {"interleaved_attn_pattern": [1 << 62, 1]}, {"interleaved_attn_pattern": [0, 0]}, {"softmax_scale": "x"},
    {"hybrid_layer_pattern": "???"}, {"mup_output_mult": 0, "use_mup": True, "mup_width_mult": 0},
    {"moe_router_group_topk": 1 << 62, "moe_router_num_groups": 1 << 62}, {"rope_scaling": True, "rope_scaling_factor": 0},
    {"_target_": 7}, {"transformer_layer_spec": [1]}, {"activation_func": {"_target_": 3}}, {"seq_length": "long"},
])
def test_values_that_no_config_has_are_no_crash(judge, fields):
    for name in ("llama_untied", "deepseek_v3_nomtp"):
        judge(name, megatron=fields)


@pytest.mark.parametrize(("field", "value", "said"), [
    ("layernorm_epsilon", Plain(".nan"), "layernorm_epsilon is nan and has to be a finite number"),
    ("layernorm_epsilon", -1e-5, "at least 0"),
    ("layernorm_epsilon", "small", 'layernorm_epsilon is "small" and has to be a number'),
    ("rotary_base", Plain(".inf"), "rotary_base is inf and has to be a finite number"),
    ("rotary_base", 0, "rotary_base is 0 and has to be above 0"),
    ("rotary_base", -10000.0, "above 0"),
    ("softmax_scale", Plain(".nan"), "a finite number"),
    ("softmax_scale", 0.0, "above 0"),
    ("moe_router_topk", 0, "at least 1"),
    ("moe_router_topk", 5, "moe_router_topk is 5 and has to be at most 4, the number of experts"),
    ("moe_router_topk_scaling_factor", Plain("-.inf"), "a finite number"),
])
def test_a_number_by_which_nothing_can_be_computed_is_a_fault_of_the_config(judge, field, value, said):
    causes, report = judge("qwen3_moe", megatron={field: value})
    assert causes == {"header-corrupt": "config"}
    assert report["causes"][0]["where"] == [field] and said in report["causes"][0]["message"]
    assert report["causes"][0]["evidence"].endswith("run_config.yaml")
    # The rest was compared all the same.
    assert not any("by effect" in line for line in report["unproven"])


def test_a_window_that_is_absent_is_its_class_default_and_one_that_is_null_is_none(run, tmp_path):
    """EXAONE 4's class has a window of 4096 and a layer without RoPE in four where the keys are lost, as the Bridge's export loses them."""
    toy, megatron = tmp_path / "toy", tmp_path / "megatron"
    full = json.dumps(["full_attention"] * 4)
    assert run("toy", toy, "--family", "exaone4", "--set", "sliding_window=null", "--set", f"layer_types={full}").returncode == 0
    assert run("import", toy, megatron).returncode == 0
    assert run("verify", toy, megatron, "--runtime", "none").returncode == 0
    config = json.loads((toy / "config.json").read_text())
    assert config.pop("sliding_window") is None and config.pop("layer_types")
    (toy / "config.json").write_text(json.dumps(config))
    result = run("verify", toy, megatron, "--runtime", "none", "--json", tmp_path / "report.json")
    assert result.returncode == 1
    causes = {c["id"] for c in json.loads((tmp_path / "report.json").read_text())["causes"]}
    assert causes & {"config-lost", "layer-pattern"}, result.stdout


@pytest.mark.parametrize("eps", [{"__float__": "Infinity"}, {"__float__": "-Infinity"}, {"__float__": "NaN"}])
def test_a_number_without_end_is_not_equal_to_every_other(run, imported_toy, eps):
    hf, megatron = imported_toy("olmoe")
    config = json.loads((hf / "config.json").read_text())
    (hf / "config.json").write_text(json.dumps(config | {"rms_norm_eps": eps}))
    result = run("verify", hf, megatron, "--json", "-")
    assert result.returncode == 1 and "norm-eps" in result.stdout, result.stdout[-2000:]
