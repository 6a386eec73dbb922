#!/usr/bin/env python3
"""Measures how long the search for the mistake takes on a model of 1.24 B parameters, whole processes, page cache warm.

usage: diagnosis_bench.py [--repeat N] [--program FILE] [--folder FOLDER]

  every QKV concatenated   `verify` and `diagnose` of a checkpoint whose q, k and v stand whole instead of per query
                           group: the cause is named, within 5 s
  every tensor foreign     `verify` against a checkpoint with other random values, where no hypothesis holds and all
                           are tried: at most 1 s for each GB of tensors that differ
  memory                   peak anonymous memory of the report: at most 128 MiB + 1 KiB per tensor

Exit status: 0 every figure is within its limit, 1 one is over, 2 nothing could be measured.
"""
import argparse
import json
import mmap
import pathlib
import shutil
import statistics
import struct
import subprocess
import sys
import time

from roundtrip_bench import BIG, MIB, ROOT, Table, machine, make_toy, need_built, read_into_cache, run, stop


def concatenate_qkv(model):
    """Rows of q, k and v such that an import per query group writes [all q; all k; all v]."""
    groups = BIG["num_key_value_heads"]
    with (model / "model.safetensors").open("r+b") as file, mmap.mmap(file.fileno(), 0) as data:
        length, = struct.unpack("<Q", data[:8])
        header = json.loads(data[8:8 + length])
        for layer in range(BIG["num_hidden_layers"]):
            places = []
            for part in "qkv":
                begin, end = header[f"model.layers.{layer}.self_attn.{part}_proj.weight"]["data_offsets"]
                places.append((8 + length + begin, 8 + length + end))
            whole = b"".join(data[begin:end] for begin, end in places)
            shares = [(end - begin) // groups for begin, end in places]
            parts, at = [b"", b"", b""], 0
            for _ in range(groups):
                for i, share in enumerate(shares):
                    parts[i] += whole[at:at + share]
                    at += share
            for part, (begin, end) in zip(parts, places):
                data[begin:end] = part


def judge(command, report):
    """The seconds of a run that finds a fault, and its report."""
    start = time.perf_counter()
    result = subprocess.run([str(w) for w in [*command, "--json", report, "-q"]], capture_output=True, text=True,
                            check=False)
    seconds = time.perf_counter() - start
    if result.returncode != 1:
        stop(command, result.returncode, result.stdout + result.stderr)
    return seconds, json.loads(report.read_text())


def measure(what, command, report, repeat):
    runs = [judge(command, report) for _ in range(repeat)]
    seconds = [s for s, _ in runs]
    found = runs[-1][1]
    print(f"  {what}: {statistics.median(seconds):.2f} s, best {min(seconds):.2f} s, worst {max(seconds):.2f} s;"
          f" {', '.join(c['id'] for c in found['causes'])}")
    return statistics.median(seconds), found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--program", type=pathlib.Path, default=ROOT / "build/release/src/weighbridge")
    parser.add_argument("--folder", type=pathlib.Path, default=ROOT / "build/bench", help="for models and results")
    arguments = parser.parse_args()
    program, folder = arguments.program, arguments.folder
    need_built("make bench", program)
    folder.mkdir(parents=True, exist_ok=True)
    good = make_toy(program, folder / "llama-1b", BIG)
    wrong, megatron, report = folder / "wrong", folder / "megatron", folder / "diagnosis-report.json"
    shutil.rmtree(wrong, ignore_errors=True)
    shutil.copytree(good, wrong)
    concatenate_qkv(wrong)
    run([program, "import", wrong, megatron, "--overwrite", "-q"])
    shutil.rmtree(wrong)
    for file in (good / "model.safetensors", *megatron.glob("iter_*/*.distcp")):
        read_into_cache(file)
    here = machine(program, arguments.repeat)
    table = Table()
    for command in ("verify", "diagnose"):
        seconds, found = measure(f"{command}, every QKV concatenated", [program, command, good, megatron], report,
                                 arguments.repeat)
        if [c["id"] for c in found["causes"]] != ["qkv-concatenated"]:
            print(f"error: named {found['causes']}", file=sys.stderr)
            sys.exit(2)
        table.add(f"{command}, every QKV concatenated", seconds, 5.0, "s")
    options = [word for key, value in BIG.items() for word in ("--set", f"{key}={value}")]
    run([program, "toy", wrong, "--family", "llama", "--dtype", "bf16", "--seed", "2", *options])
    run([program, "import", wrong, megatron, "--overwrite", "-q"])
    shutil.rmtree(wrong)
    for file in megatron.glob("iter_*/*.distcp"):
        read_into_cache(file)
    seconds, found = measure("verify, every tensor foreign", [program, "verify", good, megatron], report,
                             arguments.repeat)
    table.add("every tensor foreign, per GB", seconds / (found["timing"]["bytes"] / 1e9), 1.0, "s")
    table.add("anonymous memory", found["memory"]["peak_anonymous_bytes"] / MIB, 128.0, "MiB", 1)
    (folder / "diagnosis.json").write_text(json.dumps({"machine": here, "figures": table.rows}, indent=1) + "\n")
    for old in (megatron, report):
        shutil.rmtree(old, ignore_errors=True) if old.is_dir() else old.unlink()
    return 1 if any(not row["within"] for row in table.rows) else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.SubprocessError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
