"""`compare` on a real pretrained model, SmolLM2-135M (30 layers, its embedding tied): what real activations, which reach tens of
thousands, hide behind their own noise. A change of 0.01 % of the RoPE table, of the softmax scale and of the activation, and
twice the epsilon, are each found in float32 at their modules. The model is made once, from a Python package that carries it."""
import json
import os
import pathlib
import re
import subprocess
import sys

import forward_faults
import pytest

from conftest import ROOT, need_engine
from test_compare_faults import CORE, ROTARY, causes_of, change_activation, failed_modules, ids_of, load, record

need_engine()

CACHE = pathlib.Path(os.environ.get("WEIGHBRIDGE_CACHE", pathlib.Path.home() / ".cache/weighbridge"))
LENGTH, LAYERS = 96, range(30)
NORMS = ["decoder.layers.{}.input_layernorm", "decoder.layers.{}.pre_mlp_layernorm"]


@pytest.fixture(scope="module")
def smollm2():
    folder = CACHE / "smollm2-135m"
    if not folder.is_dir():
        made = subprocess.run([sys.executable, ROOT / "tools/smollm2.py", folder, "--cache", CACHE / "smollm2"],
                              capture_output=True, text=True, check=False)
        if made.returncode != 0 and not list((CACHE / "smollm2").glob("*.gguf")):
            pytest.skip(f"SKIPPED LOUDLY: the package with SmolLM2-135M cannot be had: {made.stderr[-300:]}")
        assert made.returncode == 0, made.stderr[-4000:]
    return folder


@pytest.fixture(scope="module")
def pair(smollm2, weighbridge, tmp_path_factory):
    """(Hugging Face folder, what `import` made of it)"""
    megatron = tmp_path_factory.mktemp("smollm2") / "megatron"
    result = weighbridge("import", smollm2, megatron)
    assert result.returncode == 0, result.stderr
    return smollm2, megatron


@pytest.fixture
def changed(pair, compare):
    """changed(FIELDS) -> (CompletedProcess, report) with these fields in Megatron's config."""
    file = next(pair[1].glob("iter_*/run_config.yaml"))
    right = file.read_text()

    def call(fields):
        forward_faults.change_fields(file, fields)
        return compare(*pair, "--seq-len", LENGTH, "--precision", "none")

    yield call
    file.write_text(right)


def modules_of(names):
    return {re.sub(r"^decoder\.layers\.\d+\.", "", name) for name in names}


def test_a_right_pair_meets_the_function_rule_in_every_module(compare, pair):
    result, report = compare(*pair, "--seq-len", LENGTH)
    assert result.returncode == 0, result.stdout + result.stderr
    assert {row["megatron"]["dtype"] for row in report["results"]} == {"fp32", "bf16"}
    assert len({row["megatron"]["name"] for row in report["results"]}) > 8 * len(LAYERS)
    worst = max(report["results"], key=lambda row: row["noise"]["ratio"])
    print(worst["megatron"], worst["noise"])


# What each change has to be found at, and nowhere else.
CHANGES = {
    "rope-base": (lambda config: {"rotary_base": config["rope_parameters"]["rope_theta"] * 1.0001}, [f"decoder.layers.{{}}.{ROTARY}"]),
    "softmax-scale": (lambda config: {"softmax_scale": 64 ** -0.5 * 1.0001}, [f"decoder.layers.{{}}.{CORE}"]),
    "norm-eps": (lambda config: {"layernorm_epsilon": config["rms_norm_eps"] * 2}, [*NORMS, "decoder.final_layernorm"]),
}


@pytest.mark.parametrize("cause", CHANGES)
def test_a_small_change_of_the_config_is_found_at_its_module_and_no_other(pair, changed, cause):
    change, modules = CHANGES[cause]
    result, report = changed(change(json.loads((pair[0] / "config.json").read_text())))
    assert result.returncode == 1, result.stdout + result.stderr
    assert [(found["id"], found["origin"]) for found in report["causes"]] == [(cause, "config")]
    ratios = sorted(row["noise"]["ratio"] for row in report["results"] if row["status"] == "mismatch")
    print(cause, f"ratios {ratios[0]:.3g} to {ratios[-1]:.3g}")
    expected, failed = {name.format(layer) for name in modules for layer in LAYERS}, failed_modules(report)
    if cause == "norm-eps":  # beside states that have grown large it is less than their rounding
        assert {name.format(0) for name in NORMS} <= failed <= expected
    else:
        assert failed == expected


def test_a_recording_that_lacks_states_raises_no_alarm(compare, pair, tmp_path):
    """What 30 layers add to the error of the states in between is no fault of the next layer, nor of the output layer."""
    from safetensors.torch import load_file, save_file
    states = load_file(record(load(pair[0]), tmp_path / "run.safetensors", ids_of(pair[0])))
    without_one = {name: state for name, state in states.items() if name != "meg_hidden_5_sbh"}
    logits = {name: state for name, state in states.items() if name in ("input_ids", "meg_logits")}
    for kept, judged in (without_one, 29), (logits, 1):
        save_file(kept, tmp_path / "kept.safetensors")
        result, report = compare(*pair, "--candidate", tmp_path / "kept.safetensors")
        worst = max(report["results"], key=lambda row: row["noise"]["ratio"])
        print(worst["megatron"]["name"], worst["noise"]["ratio"])
        assert result.returncode == 0, report["causes"]
        # The embedding is one row more.
        assert report["counts"]["total"] == judged + ("meg_hidden_0_sbh" in kept)


def test_a_recorded_run_with_a_slightly_other_activation_is_named_with_its_factor(compare, pair, tmp_path):
    model = load(pair[0])
    right = record(model, tmp_path / "right.safetensors", ids_of(pair[0]))
    result, report = compare(*pair, "--candidate", right)
    assert result.returncode == 0, report["causes"]
    change_activation(model)  # x sigmoid(1.0001 x)
    wrong = record(model, tmp_path / "wrong.safetensors", ids_of(pair[0]))
    result, report = compare(*pair, "--candidate", wrong)
    assert result.returncode == 1, result.stdout
    assert list(causes_of(report)) == ["activation"], report["causes"]
    assert modules_of(causes_of(report)["activation"]) == {"mlp"}
    assert re.search(r"times ([\d.]+)", report["causes"][0]["message"])[1] == "1.0001", report["causes"][0]
