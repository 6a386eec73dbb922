"""Models that see, as Megatron Bridge itself writes them at TP 2: `verify` finds every value where it belongs, and `export`
gives the source back. Random models of transformers (test_transformers_models.py); the Bridge runs on CPU (bridge_cpu.py of
the oracle kit, which lies beside the project)."""
import json
import subprocess
import sys

import pytest
import torch

from conftest import ROOT
from test_transformers_models import SEEING, build

# What the Bridge 0.6.2 cannot convert with transformers 5.17, with the reason.
REFUSED = {
    "gemma4_vl": "it asks a config whose layers differ for the one head_dim",
    "step37": "it asks a config whose layers differ for the one num_attention_heads",
    "qwen2_audio": "it asks for language_model.model.layers, which transformers saves as language_model.model.model.layers, and "
                   "leaves what it does not find uninitialised",
    "qwen3_asr": "it asks the config for thinker_config, which transformers' class has not",
    "minimax_m3": "its layers need HybridEP, which is not there on CPU",
    "kimi_k25_vl": "AutoBridge does not know the class that transformers has",
    "qwen3_5_token_classification": "AutoBridge knows ForCausalLM and ForConditionalGeneration only",
}
# The Bridge gives every layer of Qwen3-VL experts, and GLM-4.5V one shared expert, whatever the config says.
CHANGED = {"qwen3_vl_moe": {"mlp_only_layers": []}, "glm4v_moe": {"n_shared_experts": 1}}


@pytest.fixture(scope="module")
def bridge_cpu():
    program = ROOT.parent / "shared" / "oracles" / "bridge_cpu.py"
    if not program.exists():
        pytest.skip("SKIPPED LOUDLY: the oracle kit (../shared/oracles) is not on this machine")
    return program


@pytest.mark.parametrize("name", [name for name in SEEING if name not in REFUSED])
def test_what_the_bridge_writes_is_what_the_family_says(weighbridge, bridge_cpu, tmp_path, name):
    torch.manual_seed(7)
    model = build(name, torch.bfloat16, **CHANGED.get(name, {}))
    if name == "glm4v_moe":
        model.config.text_config.use_qk_norm = False  # public configs have it, and the Bridge asks for it
    model.save_pretrained(tmp_path / "hf")
    made = subprocess.run([sys.executable, bridge_cpu, "convert", tmp_path / "hf", tmp_path / "megatron", "--tp", "2",
                           "--dtype", "bf16"], capture_output=True, text=True, check=False, timeout=300)
    assert made.returncode == 0, made.stdout[-1000:] + made.stderr[-3000:]
    report = tmp_path / "report.json"
    # Weights alone: the Bridge's configs differ (the sections of multimodal RoPE, for one).
    result = weighbridge("verify", tmp_path / "hf", tmp_path / "megatron", "--level", "L1", "--json", report)
    assert result.returncode == 0, result.stdout + result.stderr
    counts = json.loads(report.read_text())["counts"]
    assert counts["passed"] == counts["total"] > 50
    result = weighbridge("export", tmp_path / "megatron", tmp_path / "back", "--like", tmp_path / "hf")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "back/model.safetensors").read_bytes() == (tmp_path / "hf/model.safetensors").read_bytes()
