#!/usr/bin/env python3
"""Measures `weighbridge import`, `export` and `verify` on this machine and prints each figure beside its limit.

usage: conversion_bench.py [--repeat N] [--program FILE] [--folder FOLDER] [--no-peer]

  import, export  whole process, page cache warm, data synced and read back as usual, beside `cp` of the same
                  bytes followed by `sync`, in turns: at most 1.3 times its time (medians)
  verify          whole process, page cache warm, beside one thread's memcpy of the HF bytes: at most 1.0 times
  memory          peak anonymous memory as the system counts it: at most 128 MiB + 1 KiB per tensor
  peer            the same three by Megatron Bridge on CPU, once each, where the oracle environment (tools/oracle_setup.sh)
                  and ../shared/oracles are there: whole processes on the same model; the factor is what it takes
                  longer, and has no limit here

Exit status: 0 every figure is within its limit, 1 one is over, 2 nothing could be measured.
"""
import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import time

from roundtrip_bench import (BIG, MIB, ROOT, Table, demo_model, machine, make_toy, need_built, read_into_cache, run,
                             timed, watch_anonymous)


def copy_and_sync(source, target):
    start = time.perf_counter()
    run(["cp", source, target])
    run(["sync"])
    seconds = time.perf_counter() - start
    target.unlink()
    return seconds


def peer_model(model, folder):
    """The model with a tokenizer beside it, which the Bridge asks for when it exports."""
    folder.mkdir(exist_ok=True)
    for file in ("model.safetensors", "config.json"):
        (folder / file).unlink(missing_ok=True)
        (folder / file).symlink_to((model / file).resolve())
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(ROOT / "tests/testdata/hf/llama_tied" / file, folder / file)
    return folder


def measure_peer(model, folder, ours):
    """Runs Megatron Bridge beside us; {what: [its seconds, its MiB, factor]}, empty where it is not installed."""
    cache = pathlib.Path(os.environ.get("WEIGHBRIDGE_CACHE", pathlib.Path.home() / ".cache/weighbridge"))
    python, oracles = cache / "oracle/bin/python", ROOT.parent / "shared/oracles"
    if not python.exists() or not (oracles / "bridge_cpu.py").exists():
        print("  Megatron Bridge is not installed here (tools/oracle_setup.sh): it was not measured")
        return {}
    source, megatron, out = peer_model(model, folder / "peer-model"), folder / "peer-megatron", folder / "peer-hf"
    figures = {}
    for what, more in (("import", []), ("export", [out]), ("verify", [])):
        for old in [megatron] * (what == "import") + more:
            shutil.rmtree(old, ignore_errors=True)
        read_into_cache(model / "model.safetensors")
        start = time.perf_counter()
        result = run([python, ROOT / "bench/bridge_peer.py", oracles, what, source, megatron, *more])
        seconds, memory = time.perf_counter() - start, int(result.stdout.split()[-1])
        figures[what] = [seconds, memory, seconds / ours[what]]
        print(f"  {what}: Megatron Bridge {seconds:.1f} s, {memory} MiB resident; weighbridge {ours[what]:.2f} s:"
              f" {seconds / ours[what]:.0f} x")
    for old in (megatron, out, source):
        shutil.rmtree(old, ignore_errors=True)
    return figures


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--program", type=pathlib.Path, default=ROOT / "build/release/src/weighbridge")
    parser.add_argument("--baseline", type=pathlib.Path, default=ROOT / "build/release/bench/memcpy_baseline")
    parser.add_argument("--folder", type=pathlib.Path, default=ROOT / "build/bench", help="for models and results")
    parser.add_argument("--no-peer", action="store_true", help="leave Megatron Bridge out, which takes minutes")
    arguments = parser.parse_args()
    program, folder = arguments.program, arguments.folder
    need_built("make bench", program, arguments.baseline)
    folder.mkdir(parents=True, exist_ok=True)
    model = make_toy(program, demo_model() or folder / "llama-1b", BIG)
    weights = model / "model.safetensors"
    megatron, back = folder / "megatron", folder / "back"
    commands = {"import": [program, "import", model, megatron, "--overwrite"],
                "export": [program, "export", megatron, back, "--like", model, "--overwrite"]}
    here = machine(program, arguments.repeat)
    for old in (megatron, back):
        shutil.rmtree(old, ignore_errors=True)
    read_into_cache(weights)
    copies, seconds = [], {name: [] for name in commands}
    for _ in range(arguments.repeat):  # in turns, so that a noisy moment hits all alike
        copies.append(copy_and_sync(weights, folder / "copy"))
        for (name, command), target in zip(commands.items(), (megatron, back)):
            shutil.rmtree(target, ignore_errors=True)
            seconds[name].append(timed(command))
    copy = statistics.median(copies)
    print(f"  cp and sync of {weights.stat().st_size / 1e9:.2f} GB: {copy:.2f} s, best {min(copies):.2f} s,"
          f" worst {max(copies):.2f} s")
    table = Table()
    for name, times in seconds.items():
        print(f"  {name}: {statistics.median(times):.2f} s, best {min(times):.2f} s, worst {max(times):.2f} s")
        table.add(f"{name}, whole process / cp and sync", statistics.median(times) / copy, 1.3, "x")
    if (back / "model.safetensors").read_bytes() != weights.read_bytes():
        print("error: the export is not the source", file=sys.stderr)
        sys.exit(2)
    for file in (weights, *megatron.glob("iter_*/*.distcp")):
        read_into_cache(file)
    verify = [program, "verify", model, megatron]
    judged, memcpys = [], []
    for _ in range(arguments.repeat):
        memcpys += json.loads(run([arguments.baseline, "1", weights]).stdout)["seconds"]
        judged.append(timed(verify))
    memcpy = statistics.median(memcpys)
    print(f"  memcpy by one thread: {memcpy:.3f} s; verify: {statistics.median(judged):.3f} s")
    table.add("verify, whole process / memcpy", statistics.median(judged) / memcpy, 1.0, "x")
    for name, command in {**commands, "verify": verify}.items():
        table.add(f"{name}: anonymous memory, seen from outside", watch_anonymous(command) / MIB, 128.0, "MiB", 1)
    medians = {name: statistics.median(times) for name, times in {**seconds, "verify": judged}.items()}
    peer = {} if arguments.no_peer else measure_peer(model, folder, medians)
    results = {"machine": here, "figures": table.rows, "peer": peer,
               "details": {"cp": copies, **seconds, "memcpy": memcpys, "verify": judged}}
    (folder / "conversion.json").write_text(json.dumps(results, indent=1) + "\n")
    for old in (megatron, back):
        shutil.rmtree(old, ignore_errors=True)
    return 1 if any(not row["within"] for row in table.rows) else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.SubprocessError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
