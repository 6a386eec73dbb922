#!/usr/bin/env python3
"""Writes what Megatron Bridge makes of configs by itself: tests/testdata/bridge_configs.

usage: make_bridge_configs.py OUT [--oracles DIR]

  exported/NAME.json   the config.json that the Bridge writes of tests/testdata/hf/NAME where it has no source to copy it from
  ministral3.json      the fields of its provider of a Ministral 3, with the config that it was made from: values that its
                       class holds as constants are other ones there
Runs in the environment of the oracle kit.
"""
import argparse
import dataclasses
import json
import os
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
EXPORTED = ["ernie4_5_moe", "exaone4", "glm4_moe", "gpt_oss_ns", "llama_untied", "nemotron_h", "qwen3_moe", "qwen3_next"]
MINISTRAL = {
    "hidden_size": 48, "intermediate_size": 88, "num_hidden_layers": 4, "num_attention_heads": 6, "num_key_value_heads": 2,
    "head_dim": 64, "vocab_size": 386, "max_position_embeddings": 16384, "rms_norm_eps": 1e-6, "hidden_act": "gelu",
    "rope_parameters": {"rope_type": "yarn", "rope_theta": 500000.0, "factor": 8.0, "beta_fast": 64.0, "beta_slow": 2.0,
                        "original_max_position_embeddings": 8192, "mscale": 0.5, "mscale_all_dim": 0.25},
}


def provider_of(bridge):
    return bridge.to_megatron_provider(load_weights=False)


def exported(folder):
    from megatron.bridge import AutoBridge
    bridge = AutoBridge.from_hf_pretrained(folder)
    return type(bridge._model_bridge).megatron_to_hf_config(provider_of(bridge))


def plain(value):
    """As run_config.yaml has it."""
    if callable(value):
        return {"_target_": f"{value.__module__}.{value.__qualname__}", "_call_": False}
    return value


def ministral():
    from megatron.bridge import AutoBridge
    from transformers import Ministral3Config, Mistral3Config
    config = Mistral3Config(text_config=Ministral3Config(**MINISTRAL).to_dict(),
                            architectures=["Mistral3ForConditionalGeneration"])
    provider = provider_of(AutoBridge.from_hf_config(config))
    fields = {field.name: plain(getattr(provider, field.name)) for field in dataclasses.fields(provider)}
    kept = {name: value for name, value in fields.items()
            if value is None or isinstance(value, (bool, int, float, str, dict)) and name != "hf_config"}
    return {"config": MINISTRAL, "provider": {"_target_": f"{type(provider).__module__}.{type(provider).__qualname__}", **kept}}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--oracles", type=pathlib.Path, default=ROOT.parent / "shared/oracles")
    arguments = parser.parse_args()
    sys.path.insert(0, os.fspath(arguments.oracles))
    import bridge_cpu
    bridge_cpu.patch_cuda()
    bridge_cpu.redirect_cuda_tensors()
    (arguments.out / "exported").mkdir(parents=True, exist_ok=True)
    files = {f"exported/{name}.json": exported(ROOT / "tests/testdata/hf" / name) for name in EXPORTED}
    files["ministral3.json"] = ministral()
    for name, content in files.items():
        (arguments.out / name).write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
