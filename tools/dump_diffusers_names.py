#!/usr/bin/env python3
"""Writes what `diffusers` saves for each family of diffusion transformers, as tools/dump_hf_names.py does for transformers.

  dump_diffusers_names.py TESTDATA [FAMILY ...]

diffusers has one spelling of a config: FAMILY_VARIANT.v4.json and .v5.json are the same.
"""
import json
import math
import os
import sys
import tempfile

import diffusers
import torch
import xxhash

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from dump_hf_names import header, write  # noqa: E402

WAN = dict(patch_size=(1, 2, 2), num_attention_heads=6, attention_head_dim=14, in_channels=16, out_channels=16,
           text_dim=40, freq_dim=32, ffn_dim=88, num_layers=3, rope_max_seq_len=64)
FLUX = dict(in_channels=16, num_layers=2, num_single_layers=3, attention_head_dim=12, num_attention_heads=6,
            joint_attention_dim=40, pooled_projection_dim=20, axes_dims_rope=(4, 4, 4))
# class, tiny variants, full-size public models
FAMILIES = {
    "flux": ("FluxTransformer2DModel", {
        "guidance": dict(guidance_embeds=True),
        "plain": dict(guidance_embeds=False, patch_size=2, out_channels=20),
    }, {
        "FLUX.1-dev": dict(guidance_embeds=True),
    }),
    "wan": ("WanTransformer3DModel", {
        "plain": {},
        "other_patch": dict(patch_size=(2, 4, 4), out_channels=20),
        "no_cross_norm": dict(cross_attn_norm=False),
    }, {
        "Wan2.1-T2V-1.3B": dict(num_attention_heads=12, attention_head_dim=128, ffn_dim=8960, num_layers=30),
        "Wan2.1-T2V-14B": dict(num_attention_heads=40, attention_head_dim=128, ffn_dim=13824, num_layers=40),
    }),
}
TINY = {"flux": FLUX, "wan": WAN}


def tiny(cls, values):
    with tempfile.TemporaryDirectory() as folder:
        cls(**values).to(torch.bfloat16).save_pretrained(folder)
        os.rename(os.path.join(folder, "diffusion_pytorch_model.safetensors"), os.path.join(folder, "model.safetensors"))
        with open(os.path.join(folder, "config.json")) as f:
            config = json.load(f)
        return {key: value for key, value in config.items() if key != "_name_or_path"}, header(folder)


def saved_shapes(config):
    """{name: shape} of what the model of a config.json saves; it has no storage."""
    with torch.device("meta"):
        model = getattr(diffusers, config["_class_name"]).from_config(config)
    return {name: list(tensor.shape) for name, tensor in model.state_dict().items()}


def full_size(cls, values):
    with torch.device("meta"):
        model = cls(**values)
    config = {"_class_name": cls.__name__, **{key: value for key, value in model.config.items() if not key.startswith("_")}}
    shapes = saved_shapes(config)
    lines = sorted(f"{name} {shape}" for name, shape in shapes.items())
    return {"config": config, "tensors": len(lines), "parameters": sum(math.prod(shape) for shape in shapes.values()),
            "xxh3_128": xxhash.xxh3_128_hexdigest("\n".join(lines).encode())}


def dump(out, family):
    name, variants, models = FAMILIES[family]
    cls = getattr(diffusers, name)
    blocks = []
    for variant, changes in variants.items():
        config, tensors = tiny(cls, {**TINY[family], **changes})
        for version in ("v4", "v5"):
            write(os.path.join(out, "family_configs", f"{family}_{variant}.{version}.json"), json.dumps(config, indent=2))
        rows = ",\n".join("      " + json.dumps(row) for row in tensors)
        blocks.append(f'    "{variant}": [\n{rows}\n    ]')
    full = ",\n".join(f'    "{model}": ' + json.dumps(full_size(cls, values)) for model, values in models.items())
    write(os.path.join(out, "hf_names", family + ".json"),
          f'{{\n  "family": "{family}",\n  "diffusers": "{diffusers.__version__}",\n'
          '  "variants": {\n' + ",\n".join(blocks) + '\n  },\n  "models": {\n' + full + "\n  }\n}")


def main():
    for family in sys.argv[2:] or list(FAMILIES):
        dump(sys.argv[1], family)
        print(family, flush=True)


if __name__ == "__main__":
    main()
