"""The golden checkpoints give what their expected.json says, in both dtypes."""
import json

import pytest

# The families of this version; qwen2_5_vl follows with its own.
FOLDERS = ["llama_tied", "llama_untied", "qwen2", "qwen3", "qwen3_lora", "qwen3_moe", "olmoe", "gemma2", "gpt_oss_ns",
           "deepseek_v3", "deepseek_v3_nomtp", "glm4_moe", "ernie4_5_moe", "exaone4", "nemotron_h", "qwen3_next"]


@pytest.mark.parametrize("folder", FOLDERS)
def test_roundtrip_says_what_was_recorded(goldens, roundtrip, folder):
    expected = json.loads((goldens / "expected.json").read_text())[folder]["roundtrip"]
    if isinstance(expected, int):
        expected = {"exit": expected, "causes": []}
    models = sorted((goldens / folder).glob("hf_*"))
    assert models, f"no Hugging Face folder in {folder}"
    for model in models:
        result, report = roundtrip(model, "--tp", 1)
        assert result.returncode == expected["exit"], f"{model.name}: {result.stdout}{result.stderr}"
        assert [cause["id"] for cause in report["causes"]] == expected["causes"], model.name


def test_missing_mtp_layer_is_accepted_with_consent(goldens, roundtrip):
    for model in sorted((goldens / "deepseek_v3").glob("hf_*")):
        result, report = roundtrip(model, "--tp", 1, "--without-mtp")
        assert result.returncode == 0, result.stdout + result.stderr
        assert report["causes"] == []
