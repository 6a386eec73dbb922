#!/usr/bin/env python3
"""Writes which HF tensors Megatron Bridge's registries give each Megatron parameter of a family.

  dump_bridge_names.py FAMILIES_JSON TESTDATA [FAMILY ...]

FAMILIES_JSON is a dump of the bridge's live registries (the oracle kit's reference/families.json). TESTDATA/bridge_names/
FAMILY.json holds sorted rows [Megatron name, [HF names]], numbers as *, variants of the checkpoint's storage included.
"""
import json
import os
import re
import sys

# family file -> name in the dump
FAMILIES = {
    "bailing_moe_v2": "BailingMoeV2", "deepseek_v4": "DeepSeekV4", "ernie4_5_moe": "Ernie45", "exaone4": "Exaone4",
    "exaone_moe": "ExaoneMoe", "falcon_h1": "FalconH1", "gemma4": "Gemma4", "glm4_moe": "GLM45",
    "glm4_moe_lite": "GLM47Flash", "glm_moe_dsa": "GLM5", "hy_v3": "HYV3", "kimi_k2": "KimiK2", "llada": "LLaDA15", "llama_nemotron": "LlamaNemotron",
    "mimo": "Mimo", "mimo_v2_flash": "MiMoV2Flash", "minimax_m2": "MiniMaxM2", "ministral3": "Ministral3",
    "nemotron_h": "NemotronH",
    "nemotron_labs_diffusion": "NemotronLabsDiffusion", "qwen3_5": "Qwen35", "qwen3_5_moe": "Qwen35MoE",
    "qwen3_next": "Qwen3Next", "sarvam_mla": "SarvamMLA", "sarvam_moe": "SarvamMoE", "step35": "Step35",
    "qwen2_5_vl": "Qwen25VL", "qwen3_vl": "Qwen3VL", "qwen3_vl_moe": "Qwen3VLMoE", "qwen3_5_vl": "Qwen35VL",
    "qwen3_5_vl_moe": "Qwen35VLMoE", "qwen3_5_token_classification": "Qwen35TokenClassification", "gemma3_vl": "Gemma3VL",
    "mistral3": "Ministral3", "glm4v_moe": "GLM45V", "gemma4_vl": "Gemma4VL", "exaone4_5": "Exaone45",
    "ernie4_5_vl_moe": "Ernie45VL",
    "kimi_k25_vl": "KimiK25VL", "kimi_k3": "KimiK3", "minimax_m3": "MiniMaxM3", "nemotron_nano_vl": "NemotronVL",
    "nemotron_omni": "NemotronOmni", "qwen2_5_omni": "Qwen25Omni", "qwen2_audio": "Qwen2Audio", "qwen3_asr": "Qwen3ASR",
    "qwen3_omni_moe": "Qwen3Omni", "step37": "Step37", "wan": "Wan", "flux": "Flux",
}
# The text model alone of what the bridge knows with a vision tower: without this beginning on both sides.
TEXT_OF = {"ministral3": "language_model."}


def stars(name):
    """Numbers as *: layers, experts."""
    name = re.sub(r"(?<=\.)[0-9]+(?=\.)", "*", name)
    return re.sub(r"(?<=\.(?:weight))[0-9]+$|(?<=\.(?:bias))[0-9]+$", "*", name)


def rows_of(family, prefix):
    mappings = list(family["mappings"])
    for variant in family["mapping_variants"] or []:
        mappings += variant["added"]
    rows = {}
    for mapping in mappings:
        hf = mapping["hf"]
        names = sorted(stars(name).removeprefix(prefix) for name in (hf.values() if isinstance(hf, dict) else [hf]))
        # Flux: the bridge's names of the two halves of one tensor.
        names = [re.sub(r"(?<=proj_out\.weight)_[12]$", "", name) for name in names]
        rows[json.dumps([stars(mapping["megatron"]).removeprefix(prefix), names])] = None
        for name in ("megatron_post", "megatron_res"):
            if name in (mapping.get("args") or {}):
                rows[json.dumps([stars(mapping["args"][name]), names])] = None
    return sorted(rows)


def main():
    with open(sys.argv[1]) as f:
        dump = json.load(f)
    known = {family["family"]: family for family in dump["families"]}
    for name in sys.argv[3:] or FAMILIES:
        family = known[FAMILIES[name]]
        folder = os.path.join(sys.argv[2], "bridge_names")
        os.makedirs(folder, exist_ok=True)
        head = {"family": name, "source": dump["source"], "architectures": family["hf_architectures"]}
        with open(os.path.join(folder, name + ".json"), "w") as f:
            f.write(json.dumps(head)[:-1] + ',\n "rows": [\n' + ",\n".join(rows_of(family, TEXT_OF.get(name, ""))) + "\n ]}\n")


if __name__ == "__main__":
    main()
