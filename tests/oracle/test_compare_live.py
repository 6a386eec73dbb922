"""`compare` against megatron-core itself: toys that `import` wrote are loaded and run by the real library on CPU (with a stand-in
for Transformer Engine, as in test_import.py), and what it computed is the candidate. Of families that have no recorded run, and
of MTP layers. One process runs all of them: importing the Bridge takes most of the time."""
import json
import subprocess
import sys

import pytest

from conftest import ROOT, need_engine
from test_import import oracles  # noqa: F401

need_engine()

# Families of which live megatron-core computes what our Hugging Face side does; "FAMILY+KEY=VALUE" sets a key of the toy.
# (Megatron's mixer beside attention norms after the gate only, and the Bridge takes its size from expand.)
FALCON = "falcon_h1+mamba_d_ssm=96+mamba_n_heads=8+mamba_d_head=12+mamba_norm_before_gate=false"
ONE = "+num_experts_per_tok=1+n_group=1+topk_group=1"
THINKER = "qwen3_omni_moe+mlp_only_layers=[]"  # the Bridge gives each layer experts
# As many tokens as its indexers choose keys of; the Bridge asks for a key that transformers' class has not.
CHOSEN = "glm_moe_dsa+index_topk=40+indexer_rope_interleave=true"
CLEAN = ["bailing_moe_v2", "bailing_moe_v2" + ONE, "dots1", "exaone_moe", FALCON, "glm4_moe_lite", CHOSEN, "hy_v3", "kimi_k2",
         "minimax_m2", "minimax_m3", "persimmon", "qwen2_5_omni", THINKER]
# Their providers want a dispatcher of tokens that no CPU has.
ON_THE_CPU = {"moe_token_dispatcher_type": "alltoall", "moe_flex_dispatcher_backend": None, "moe_shared_expert_overlap": False}
# What megatron-core computes otherwise: the cause and its origin, the layers in which it shows.
OTHERWISE = {"llama4_text": ("norm-kind", "runtime", {1, 3}),
             "glm4_moe" + ONE: ("router-formula", "runtime", {1, 2, 3}),
             # The Bridge reads the base of a thinker's RoPE where transformers 5 has none, and not how its router normalizes.
             "qwen2_5_omni+rope_parameters.rope_theta=500000": ("rope-base", "runtime", {0, 1, 2, 3}),
             THINKER + "+norm_topk_prob=false": ("router-formula", "config", {0, 1, 2, 3})}
# With MTP layers, as many as the last character says.
MTP = ["deepseek_v3+num_nextn_predict_layers=2", "glm4_moe+num_nextn_predict_layers=1", "mimo+num_nextn_predict_layers=1"]


@pytest.fixture(scope="module")
def live(weighbridge, oracles, tmp_path_factory):  # noqa: F811
    """{name: ([the Hugging Face folder, Megatron's], the recording)}"""
    root, found, jobs = tmp_path_factory.mktemp("live"), {}, []
    for name in [*CLEAN, *OTHERWISE, *MTP]:
        family, *options = name.split("+")
        hf, megatron, recording = (root / f"{len(jobs)}.{end}" for end in ("hf", "meg", "safetensors"))
        for result in (weighbridge("toy", hf, "--family", family, "--dtype", "fp32",
                                   *[word for option in options for word in ("--set", option)]),
                       weighbridge("import", hf, megatron)):
            assert result.returncode == 0, result.stderr
        described = bool(list(megatron.glob("iter_*/run_config.yaml")))
        jobs.append({"name": name, "hf": str(hf), "megatron": str(megatron), "out": str(recording), "vocab": 386,
                     "mtp": name in MTP, "build": not described,
                     "overrides": ON_THE_CPU if name in [CHOSEN, "minimax_m3"] else {}})
        found[name] = ([hf, megatron], recording)
    (root / "jobs.json").write_text(json.dumps(jobs))
    worker = subprocess.run([sys.executable, ROOT / "tests/oracle/forward_worker.py", oracles, root / "jobs.json",
                             root / "results.json"], capture_output=True, text=True, check=False, timeout=600)
    assert worker.returncode == 0, worker.stderr[-4000:]
    failed = {result["name"]: result["error"] for result in json.loads((root / "results.json").read_text())
              if "error" in result}
    assert not failed, "\n".join(f"{name}: {error}" for name, error in failed.items())
    return found


@pytest.mark.parametrize("name", CLEAN + MTP)
def test_what_live_megatron_core_computes_is_what_transformers_does(compare, live, name):  # noqa: F811
    models, recording = live[name]
    result, report = compare(*models, "--candidate", recording)
    assert result.returncode == 0, result.stdout + result.stderr
    judged = {row["megatron"]["name"] for row in report["results"]}
    assert {"decoder.layers.0", "output_layer"} <= judged
    assert sum(row.startswith("mtp.layers.") for row in judged) == (int(name[-1]) if name in MTP else 0)


@pytest.mark.parametrize("name", OTHERWISE)
def test_what_live_megatron_core_computes_otherwise_is_found_at_its_layers(compare, live, name):  # noqa: F811
    cause, origin, layers = OTHERWISE[name]
    models, recording = live[name]
    result, report = compare(*models, "--candidate", recording)
    assert result.returncode == 1
    assert [(found["id"], found["origin"]) for found in report["causes"]] == [(cause, origin)]
    failed = {row["megatron"]["name"] for row in report["results"] if row["status"] == "mismatch"}
    assert failed == {f"decoder.layers.{layer}" for layer in layers}
