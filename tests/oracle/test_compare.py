"""`compare`: our two models against transformers, and against what megatron-core computed (recordings)."""
import json
import shutil

import pytest

from conftest import find_program

ENGINE = find_program().parent / "libweighbridge_engine.so"
if not ENGINE.exists():
    pytest.skip("SKIPPED LOUDLY: the engine is not built (`make engine`): compare is not tested", allow_module_level=True)

LENGTH = 48
# Families whose toy differs from transformers' model in nothing but rounding, on both sides.
CLEAN = ["llama", "qwen2", "qwen3", "mistral", "gemma", "mixtral", "qwen3_moe", "olmoe", "gpt_oss", "deepseek_v3"]
# Megatron's classes build the norms after attention and MLP with an epsilon of their own.
POST_NORM_EPS = ["gemma2", "gemma3"]


@pytest.fixture
def compare(weighbridge, tmp_path):
    """compare(ARGUMENT...) -> (CompletedProcess, the JSON report)."""

    def call(*arguments):
        report = tmp_path / "compare.json"
        report.unlink(missing_ok=True)
        result = weighbridge("compare", *arguments, "--json", report)
        assert report.exists(), result.stdout + result.stderr
        return result, json.loads(report.read_text())

    return call


@pytest.fixture
def toy(weighbridge, tmp_path):
    """toy(FAMILY, OPTION...) -> folder of a random float32 model."""

    def call(family, *options):
        folder = tmp_path / family
        shutil.rmtree(folder, ignore_errors=True)
        result = weighbridge("toy", folder, "--family", family, "--dtype", "fp32", *options)
        assert result.returncode == 0, result.stderr
        return folder

    return call


def exact_norms(model):
    """RMSNorm of transformers computes in float32 whatever it is given; the truth has to be float64."""
    import types

    import torch

    def forward(self, x, *_):
        eps = getattr(self, "variance_epsilon", getattr(self, "eps", None))
        y = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)
        return y * (1 + self.weight) if type(self).__name__.startswith("Gemma") else y * self.weight

    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = types.MethodType(forward, module)
    return model


def states_of(folder, ids, dtype):
    """Every hidden state and the logits, as transformers computes them."""
    import torch
    import transformers
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval().to(dtype)
    if dtype == torch.float64:
        exact_norms(model)
    with torch.no_grad():
        out = model(ids, output_hidden_states=True, use_cache=False)
    return [*out.hidden_states, out.logits]


def ratio(ours, theirs, truth):
    """The function rule: RMS of our error by that of transformers' own, which is at least one ULP."""
    import math

    import torch
    rms = truth.pow(2).mean().sqrt().item()
    error = (ours.double() - truth).pow(2).mean().sqrt().item()
    floor = (theirs.double() - truth).pow(2).mean().sqrt().item()
    assert math.isfinite(error) and ours.shape == truth.shape and ours.dtype == torch.float32
    return error / max(floor, 2.0 ** (math.floor(math.log2(rms)) - 23))


@pytest.mark.parametrize("family", CLEAN + POST_NORM_EPS)
def test_every_hidden_state_is_that_of_transformers(compare, toy, tmp_path, family):
    import torch
    from safetensors.torch import load_file
    folder = toy(family)
    _, report = compare(folder, "--seq-len", LENGTH, "--record", tmp_path / "states.safetensors")
    assert report["level"] == "L2" and report["counts"]["total"] > 8
    recorded = load_file(tmp_path / "states.safetensors")
    ids = recorded["input_ids"]
    theirs, truth = states_of(folder, ids, torch.float32), states_of(folder, ids, torch.float64)
    layers = len(truth) - 2
    ours = [recorded[f"hf_hidden_{i}"] for i in range(layers + 1)] + [recorded["hf_logits"]]
    ratios = [ratio(*states) for states in zip(ours, theirs, truth, strict=True)]
    print(family, " ".join(f"{r:.2f}" for r in ratios))
    assert max(ratios) <= 2, ratios


@pytest.mark.parametrize("family", CLEAN)
def test_both_sides_of_a_right_model_meet_the_function_rule(compare, toy, family):
    result, report = compare(toy(family), "--seq-len", LENGTH)
    assert result.returncode == 0, result.stdout + result.stderr
    assert report["verdict"] == "pass" and not report["causes"]
    worst = max(report["results"], key=lambda row: row["noise"]["ratio"])
    print(family, worst["megatron"]["name"], worst["noise"])
    assert worst["noise"]["ratio"] <= 2


@pytest.mark.parametrize("family", POST_NORM_EPS)
def test_an_epsilon_that_the_runtime_chooses_is_found_at_its_norms(compare, toy, family):
    folder = toy(family)
    result, report = compare(folder, "--seq-len", LENGTH)
    assert result.returncode == 1
    assert [(cause["id"], cause["origin"]) for cause in report["causes"]] == [("norm-eps", "runtime")]
    failed = {row["megatron"]["name"].split(".", 3)[3] for row in report["results"] if row["status"] == "mismatch"}
    assert failed == {"self_attention.linear_proj.post_layernorm", "mlp.linear_fc2.post_layernorm"}
    result, report = compare(folder, "--seq-len", LENGTH, "--runtime", "none")
    assert result.returncode == 0, result.stdout + result.stderr
