"""The verdicts of `compare`: the rule on long inputs, whose truth is taken of a sample, and in the checkpoint's own dtype."""
import json
import re

import pytest

from conftest import need_engine

need_engine()

LENGTH = 200  # more tokens than the truth is taken of
FAMILIES = ["llama", "gemma", "qwen3_moe", "deepseek_v3", "qwen3_next"]


def modules(report, status):
    return {row["megatron"]["name"] for row in report["results"] if row["status"] == status}


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_right_pair_passes_in_float32_and_in_the_dtype_of_the_checkpoint(compare, toy, family, dtype):
    result, report = compare(toy(family, dtype=dtype), "--seq-len", LENGTH)
    assert result.returncode == 0, result.stdout + result.stderr
    in_dtype = {d: [row for row in report["results"] if row["megatron"]["dtype"] == d] for d in ("fp32", dtype)}
    assert len(in_dtype["fp32"]) == len(in_dtype[dtype]) > 8
    assert max(row["noise"]["ratio"] for row in report["results"]) <= 2
    # Rounding to the dtype is there to be judged: its errors are of another size.
    errors = [max(row["noise"]["reference_error"] for row in rows) for rows in in_dtype.values()]
    assert errors[1] > 100 * errors[0]


def test_the_precision_verdict_is_left_out_when_it_is_not_wanted(compare, toy):
    _, report = compare(toy("llama", dtype="bf16"), "--seq-len", LENGTH, "--precision", "none")
    assert {row["megatron"]["dtype"] for row in report["results"]} == {"fp32"}


def test_what_rounds_otherwise_than_the_dtype_allows_fails_in_it_too(compare, toy):
    result, report = compare(toy("gemma2", dtype="bf16"), "--seq-len", LENGTH)
    assert result.returncode == 1
    failed = {row["megatron"]["dtype"] for row in report["results"] if row["status"] == "mismatch"}
    assert failed == {"fp32", "bf16"}
    assert [cause["id"] for cause in report["causes"]] == ["norm-eps"]


@pytest.fixture
def changed_model(weighbridge, toy, tmp_path):
    """changed_model(FAMILY, PATTERN, CHANGE) -> (HF, MEGATRON): the first tensor that matches is changed on HF's side."""

    def call(family, pattern, change):
        from safetensors.torch import load_file, save_file
        hf, megatron = toy(family), tmp_path / "megatron"
        assert weighbridge("import", hf, megatron).returncode == 0
        file, = hf.glob("*.safetensors")
        tensors = load_file(file)
        name = next(name for name in sorted(tensors) if re.search(pattern, name))
        change(tensors[name])
        save_file(tensors, file, metadata={"format": "pt"})
        return hf, megatron

    return call


def test_a_weight_that_few_tokens_see_is_found_among_all_tokens(compare, changed_model):
    """One expert of many: most sampled tokens do not visit it."""
    pair = changed_model("qwen3_moe", r"layers\.0\.mlp\.experts\.2\.down_proj", lambda w: w.mul_(1.0001))
    result, report = compare(*pair, "--seq-len", LENGTH)
    assert result.returncode == 1
    assert modules(report, "mismatch") == {"decoder.layers.0.mlp.experts"}


def test_one_wrong_element_of_a_matrix_is_found(compare, changed_model):
    def flip(w):
        w[3, 5] = -w[3, 5] + 0.01

    pair = changed_model("llama", r"layers\.0\.mlp\.up_proj", flip)
    result, report = compare(*pair, "--seq-len", LENGTH)
    assert result.returncode == 1
    assert modules(report, "mismatch") == {"decoder.layers.0.mlp"}
    # up is the second half of Megatron's matrix.
    rows = json.loads((pair[0] / "config.json").read_text())["intermediate_size"]
    assert f"linear_fc1.weight differs in 1 of {2 * rows * 48} elements, first at [{rows + 3}, 5]: " in (
        report["causes"][0]["evidence"]), report["causes"]


def test_a_row_of_the_output_layer_is_found_in_the_logits(compare, changed_model):
    pair = changed_model("llama", r"lm_head", lambda w: w[17].mul_(1.01))
    result, report = compare(*pair, "--seq-len", LENGTH)
    assert result.returncode == 1
    assert modules(report, "mismatch") == {"output_layer"}


def test_a_reference_with_values_that_are_no_numbers_shows_nothing(compare, changed_model):
    hf, _ = changed_model("llama", r"layers\.0\.mlp\.up_proj", lambda w: w.fill_(float("nan")))
    result, report = compare(hf, "--seq-len", LENGTH)
    assert result.returncode == 2 and report["error"]["id"] == "reference-broken"


def test_without_the_free_run_the_modules_are_the_same_and_no_tokens_are_shown(compare, toy):
    folder = toy("llama")
    _, whole = compare(folder, "--seq-len", LENGTH)
    result, report = compare(folder, "--seq-len", LENGTH, "--no-free-run")
    assert result.returncode == 0 and modules(report, "match") == modules(whole, "match")
    assert "next-tokens" in {note["id"] for note in whole["notes"]}
    assert "next-tokens" not in {note["id"] for note in report["notes"]}


def test_the_verdict_does_not_depend_on_the_number_of_threads(compare, toy):
    folder = toy("qwen3_moe")
    ratios = []
    for threads in (1, 2):
        _, report = compare(folder, "--seq-len", LENGTH, "--threads", threads)
        ratios.append({row["megatron"]["name"]: row["status"] for row in report["results"]})
    assert ratios[0] == ratios[1]


@pytest.mark.parametrize("tokens", [["1,2"], ["7", "9"], ["5"]])
@pytest.mark.parametrize("family", ["llama", "qwen3_moe"])
def test_a_right_pair_passes_on_few_tokens(compare, toy, family, tokens):
    result, _ = compare(toy(family, dtype="bf16"), *(word for row in tokens for word in ("--token-ids", row)))
    assert result.returncode == 0, result.stdout + result.stderr


def test_a_recording_of_the_reference_that_its_model_does_not_give_shows_nothing(compare, toy, tmp_path):
    import torch
    from safetensors.torch import load_file, save_file
    hf, recording = toy("llama"), tmp_path / "states.safetensors"
    compare(hf, "--seq-len", LENGTH, "--record", recording)
    result, _ = compare(hf, "--reference", recording)
    assert result.returncode == 0, result.stdout + result.stderr
    states = load_file(recording)
    for name in [name for name in states if name.startswith("hf_hidden")]:
        states[name] = states[name] * (1 + 0.001 * torch.randn_like(states[name]))
    save_file(states, recording)
    result, report = compare(hf, "--reference", recording)
    assert result.returncode == 2 and report["error"]["id"] == "reference-broken"


def test_lawful_flips_of_routes_are_no_fault_of_the_next_token(compare, toy):
    from safetensors.torch import load_file, save_file
    import torch
    folder = toy("qwen3_moe")
    file, = folder.glob("*.safetensors")
    tensors = load_file(file)
    torch.manual_seed(0)
    for name, w in tensors.items():
        if name.endswith("mlp.gate.weight"):  # experts 1, 2 and 3 score as good as equal
            w[2], w[3] = w[1] + 1e-6 * torch.randn_like(w[1]), w[1] + 1e-6 * torch.randn_like(w[1])
        elif ".experts." in name:
            w *= 4
    save_file(tensors, file, metadata={"format": "pt"})
    result, report = compare(folder, "--seq-len", 512)
    assert result.returncode == 0, result.stdout + result.stderr
    assert any("routes replayed" in note["message"] for note in report["notes"]), report["notes"]
