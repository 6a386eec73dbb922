"""Failures of real converters, as the files that they leave (docs/failure-modes.md); those of values and layouts are in
test_diagnose.py, those of configs in test_effects.py."""
import json
import re
import shutil

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from test_effects import DATA, edit_json, edit_yaml


def edit_tensors(folder, edit):
    """Puts what `edit` makes of {name: tensor} in the place of a Hugging Face folder's tensors."""
    file = folder / "model.safetensors"
    save_file({name: np.ascontiguousarray(x) for name, x in edit(load_file(file)).items()}, file, metadata={"format": "pt"})


def causes_of(run, *command):
    result = run(*command, "--json", "-")
    report = json.loads(result.stdout)
    assert result.returncode == (1 if report["causes"] else 0), result.stderr
    return {cause["id"]: cause for cause in report["causes"]}


def renamed(pattern, replacement):
    return lambda tensors: {re.sub(pattern, replacement, name): x for name, x in tensors.items()}


def wrapped_by_peft(tensors):
    """As a model is saved whose adapter was not merged."""
    out = {}
    for name, x in tensors.items():
        module = name.removesuffix(".weight")
        if not module.endswith("_proj"):
            out[name] = x
            continue
        out |= {f"{module}.base_layer.weight": x, f"{module}.lora_A.default.weight": x[:2],
                f"{module}.lora_B.default.weight": x[:, :2]}
    return out


def without(pattern):
    return lambda tensors: {name: x for name, x in tensors.items() if not re.search(pattern, name)}


@pytest.mark.parametrize("family,edit,causes,where", [
    ("qwen3_moe", renamed(r"experts\.(\d+)\.(\w+)\.weight", r"experts.\2.weight\1"), {"expert-missing", "tensor-extra"},
     "mlp.experts.gate_proj.weight0"),
    ("llama", wrapped_by_peft, {"tensor-missing", "tensor-extra"}, "_proj.base_layer.weight"),
    ("qwen3_moe", without(r"experts\.[23]\."), {"expert-missing"}, "mlp.experts.2.gate_proj.weight"),
    ("llama", without(r"layers\.[23]\."), {"layer-missing"}, "model.layers.2.input_layernorm.weight"),
    ("llama", without(""), {"layer-missing", "tensor-missing", "tie-mismatch"}, "model.embed_tokens.weight"),
], ids=["names of experts mangled", "names of an adapter", "the experts of one rank", "layers beyond the reference's index",
        "no weights at all"])
def test_an_export_under_wrong_names_or_with_holes_never_passes(run, imported_toy, family, edit, causes, where):
    hf, megatron = imported_toy(family)
    edit_tensors(hf, edit)
    for command in (["verify", hf, megatron], ["roundtrip", hf]):
        found = causes_of(run, *command)
        assert set(found) == causes
        assert any(where in place for cause in found.values() for place in cause["where"])


def test_experts_that_were_not_gathered_over_expert_tensor_parallel_ranks_have_the_wrong_shape(run, imported_toy):
    hf, megatron = imported_toy("qwen3_moe")
    edit_tensors(hf, lambda tensors: {name: x[:len(x) // 2] if re.search(r"experts.*(gate|up)_proj", name) else x
                                      for name, x in tensors.items()})
    cause, = causes_of(run, "verify", hf, megatron).values()
    assert cause["id"] == "shape-mismatch"
    assert "model.layers.0.mlp.experts.0.gate_proj.weight: [20, 48], expected [40, 48]" in cause["where"]


@pytest.mark.parametrize("family,key,value,cause,field,expected", [
    ("llama", "num_key_value_heads", 6, "head-geometry", "num_query_groups", "k_proj.weight: [24, 48], expected [72, 48]"),
    ("qwen2_5_vl", "text_config", {"intermediate_size": 96}, "size-mismatch", "ffn_hidden_size",
     "mlp.gate_proj.weight: [88, 48], expected [96, 48]"),
])
def test_a_config_json_that_contradicts_its_own_tensors(run, imported_toy, family, key, value, cause, field, expected):
    hf, megatron = imported_toy(family)
    file = hf / "config.json"
    edit_json(file, {key: {**json.loads(file.read_text())[key], **value} if isinstance(value, dict) else value})
    found = causes_of(run, "verify", hf, megatron)
    assert set(found) == {"shape-mismatch", cause} and found[cause]["where"] == [field]
    for places in (found["shape-mismatch"]["where"], causes_of(run, "roundtrip", hf)["shape-mismatch"]["where"]):
        assert any(expected in place for place in places)
    assert run("import", hf, megatron, "--overwrite").returncode == 1


def test_sizes_beside_a_text_config_are_not_those_of_the_text_model(run, imported_toy):
    hf, megatron = imported_toy("qwen2_5_vl")
    edit_json(hf / "config.json", {"hidden_size": 52, "intermediate_size": 96, "num_hidden_layers": 3})
    assert causes_of(run, "verify", hf, megatron) == {} == causes_of(run, "roundtrip", hf)


@pytest.mark.parametrize("weights", ["kept", "dropped"])
def test_an_override_of_mtp_that_ended_in_the_exported_config(run, imported_toy, weights):
    hf, megatron = imported_toy("deepseek_v3", "num_nextn_predict_layers=1")
    assert causes_of(run, "verify", hf, megatron) == {}
    edit_json(hf / "config.json", {"num_nextn_predict_layers": 0})
    if weights == "dropped":
        edit_tensors(hf, without(r"layers\.4\."))
    found = causes_of(run, "verify", hf, megatron)
    assert set(found) == {"mtp-missing"} | ({"layer-missing"} if weights == "kept" else set())
    assert "0 by config.json (num_nextn_predict_layers), 1 by run_config.yaml (mtp_num_layers)" in found["mtp-missing"]["message"]


@pytest.fixture
def converted(run, project, tmp_path):
    """converted(HF, FAMILY, TEXT) -> what a converter makes of HF whose family file goes on with TEXT."""

    def call(hf, family, text):
        file = tmp_path / "wrong.toml"
        file.write_text((project / f"families/{family}.toml").read_text() + text)
        result = run("import", hf, tmp_path / "wrong", "--family", file)
        assert result.returncode == 0, result.stderr
        return tmp_path / "wrong"

    return call


RENAMED_MODULE = """
[remove]
params = ["mlp.linear_fc2.weight"]
[[param]]
stack = "decoder"
megatron = "mlp.fc2.weight"
hf = "mlp.down_proj.weight"
shape = ["hidden", "ffn"]
"""


def test_what_a_load_that_is_not_strict_would_leave_fresh_is_missing_before_it(run, imported_toy, converted):
    hf, _ = imported_toy("llama")
    found = causes_of(run, "verify", hf, converted(hf, "llama", RENAMED_MODULE))
    assert set(found) == {"tensor-missing", "tensor-extra"}
    assert found["tensor-missing"]["where"] == [f"decoder.layers.{i}.mlp.linear_fc2.weight" for i in range(4)]


QUERY_NORM = """
[[param]]
stack = "decoder"
megatron = "self_attention.linear_q_proj.layer_norm_weight"
hf = "self_attn.query_norm.weight"
shape = ["hidden"]
"""


@pytest.mark.parametrize("input_norm,causes", [
    ("mapped", {"tensor-extra"}), ("unmapped", {"tensor-extra", "uninitialized"})])
def test_a_second_norm_of_mla_without_a_query_rank(run, imported_toy, converted, tmp_path, input_norm, causes):
    """Transformer Engine fuses a norm into linear_q_proj; the input norm is there beside it, mapped or not."""
    hf, _ = imported_toy("deepseek_v3", "q_lora_rank=null")
    source = shutil.copytree(hf, tmp_path / "source")
    ones = np.ones(48, ml_dtypes.bfloat16)

    def edit(tensors):
        for i in range(4):
            norm = f"model.layers.{i}.input_layernorm.weight"
            tensors[f"model.layers.{i}.self_attn.query_norm.weight"] = tensors[norm]
            if input_norm == "unmapped":
                tensors[norm] = ones
        return tensors
    edit_tensors(source, edit)
    found = causes_of(run, "verify", hf, converted(source, "deepseek_v3", QUERY_NORM), "--level", "L1")
    assert set(found) == causes
    assert found["tensor-extra"]["where"] == [f"decoder.layers.{i}.self_attention.linear_q_proj.layer_norm_weight" for i in range(4)]
    if input_norm == "unmapped":
        assert found["uninitialized"]["where"] == ["decoder.layers.*.input_layernorm.weight"]


@pytest.mark.parametrize("layout", [
    {"_target_": "megatron.core.transformer.pipeline_parallel_layer_layout.PipelineParallelLayerLayout", "_call_": True},
    "<megatron.core.transformer.pipeline_parallel_layer_layout.PipelineParallelLayerLayout object at 0x7f8e5c1d2b50>",
])
def test_a_pipeline_layout_that_was_saved_as_a_stub_is_not_needed(run, tmp_path, layout):
    hf = DATA / "hf/llama_tied"
    megatron = shutil.copytree(DATA / "megatron/llama_tied/pp2_fp32", tmp_path / "megatron")
    edit_yaml(megatron / "iter_0000000/run_config.yaml", {"pipeline_model_parallel_layout": layout})
    assert causes_of(run, "verify", DATA / "hf_fp32/llama_tied", megatron) == {}
    result = run("export", megatron, tmp_path / "out")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "out/model.safetensors").read_bytes() == (DATA / "hf_fp32/llama_tied/model.safetensors").read_bytes()


GROUPS, HEADS_OF_RANKS = 2, ("num_attention_heads=8", "vocab_size=384")


def rank_folder(megatron, number):
    return megatron / f"iter_0000000/mp_rank_{number}"


@pytest.mark.parametrize("form", ["torch", "torch_dist"])
def test_key_heads_that_were_repeated_for_more_ranks_than_there_are_heads(run, imported_toy, tmp_path, form):
    """2 key heads on 4 ranks: a converter gave each rank a head of its own."""
    hf, _ = imported_toy("llama", *HEADS_OF_RANKS)
    repeated = shutil.copytree(hf, tmp_path / "repeated")
    edit_tensors(repeated, lambda tensors: {
        name: np.repeat(x.reshape(GROUPS, -1, x.shape[1]), 2, 0).reshape(-1, x.shape[1]) if re.search("[kv]_proj", name) else x
        for name, x in tensors.items()})
    edit_json(repeated / "config.json", {"num_key_value_heads": 2 * GROUPS})
    assert run("import", repeated, tmp_path / "wrong", "--format", form, "--tp", "4").returncode == 0
    found = causes_of(run, "verify", hf, tmp_path / "wrong")
    assert set(found) == {"shape-mismatch", "head-geometry"}
    assert {f"decoder.layers.{i}.self_attention.linear_qkv.weight" for i in range(4)} == set(found["shape-mismatch"]["where"])
    if form == "torch":
        assert "mp_rank_00" in found["shape-mismatch"]["message"] and "[48, 48], expected bf16 [36, 48]" in found["shape-mismatch"]["message"]


def test_a_rank_that_forgot_expert_tensor_parallelism(run, imported_toy, tmp_path):
    hf, cut = imported_toy("qwen3_moe", "vocab_size=384", by=["--format", "torch", "--tp", "2", "--etp", "2"])
    assert causes_of(run, "verify", hf, cut) == {}
    assert run("import", hf, tmp_path / "whole", "--format", "torch", "--tp", "2").returncode == 0
    shutil.copytree(rank_folder(tmp_path / "whole", "01"), rank_folder(cut, "01"), dirs_exist_ok=True)
    cause, = causes_of(run, "verify", hf, cut).values()
    assert cause["id"] == "shape-mismatch"
    assert "mp_rank_01 holds 'decoder.layers.0.mlp.experts.linear_fc1.weight0' as bf16 [80, 48], expected bf16 [40, 48]" in cause["message"]


def test_copies_of_the_embedding_that_drift_apart_on_the_stage_of_mtp(run, imported_toy):
    hf, megatron = imported_toy("deepseek_v3", "num_nextn_predict_layers=1", "vocab_size=384",
                                by=["--format", "torch", "--pp", "2"])
    assert causes_of(run, "verify", hf, megatron) == {}
    file = rank_folder(megatron, "00_001") / "model_optim_rng.pt"
    content = bytearray(file.read_bytes())
    content[content.index(load_file(hf / "model.safetensors")["model.embed_tokens.weight"].tobytes()) + 9] ^= 1
    file.write_bytes(content)
    cause, = causes_of(run, "verify", hf, megatron).values()
    assert cause["id"] == "replica-drift" and cause["where"] == ["embedding.word_embeddings.weight"]
    assert "mp_rank_00_000 and mp_rank_00_001" in cause["message"]
