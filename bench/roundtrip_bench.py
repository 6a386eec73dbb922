#!/usr/bin/env python3
"""Measures `weighbridge roundtrip` on this machine and prints each figure beside its limit.

usage: roundtrip_bench.py [--repeat N] [--program FILE] [--folder FOLDER] [--skip-sparse]

  time    whole process, page cache warm (the file was read, not just written), median of N, beside one
          thread's memcpy of the same bytes (bench/memcpy_baseline.cc) in the same run: at most 1.0 times its time
  memory  peak anonymous memory from the program's own report and, independently, as the system counts it:
          at most 128 MiB + 1 KiB per tensor; also for a 40 GB model whose files are holes
  start   whole process of `--version` and of a round trip of a tiny model: under 20 ms

Exit status: 0 every figure is within its limit, 1 one is over, 2 nothing could be measured.
"""
import argparse
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import threading
import time

from sparse_model import write_sparse_model

ROOT = pathlib.Path(__file__).resolve().parents[1]
MIB = 1 << 20
# The shape of Llama-3.2-1B.
BIG = {"hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8,
       "head_dim": 64, "intermediate_size": 8192, "vocab_size": 128256, "tie_word_embeddings": "true"}
TINY = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": 16, "intermediate_size": 128, "vocab_size": 384, "tie_word_embeddings": "true"}


def need_built(hint, *files):
    for needed in files:
        if not needed.exists():
            print(f"error: not built\n  at: {needed}\n  hint: {hint}", file=sys.stderr)
            sys.exit(2)


def machine(program, repeat):
    """What the figures are of; printed as their head line."""
    def first(path, key):
        for line in pathlib.Path(path).read_text().splitlines():
            if line.startswith(key):
                return line.split(":", 1)[1].strip()
        return "unknown"

    memory_gb = int(first("/proc/meminfo", "MemTotal").split()[0]) / 1e6
    here = {"cpu": first("/proc/cpuinfo", "model name"), "cores": len(os.sched_getaffinity(0)),
            "memory_gb": round(memory_gb, 1), "kernel": platform.release()}
    print(f"{run([program, '--version']).stdout.strip()} on {here['cpu']}, {here['cores']} cores,"
          f" {here['memory_gb']} GB, Linux {here['kernel']}; medians of {repeat}")
    return here


def stop(command, status, output):
    """Without a clean run there is no figure."""
    print(f"{output}error: exit status {status} of: {' '.join(map(str, command))}", file=sys.stderr)
    sys.exit(2)


def run(command):
    """Runs `command`; its output is shown only when it fails."""
    result = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    if result.returncode != 0:
        stop(command, result.returncode, result.stdout + result.stderr)
    return result


def timed(command):
    start = time.perf_counter()
    run(command)
    return time.perf_counter() - start


def watch_anonymous(command):
    """Runs `command` and returns the largest RssAnon that the system showed, in bytes (every 5 ms)."""
    peak = 0
    process = subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                               text=True)

    def poll():
        nonlocal peak
        while process.poll() is None:
            try:
                status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
            except OSError:
                return
            for line in status.splitlines():
                if line.startswith("RssAnon:"):
                    peak = max(peak, int(line.split()[1]) * 1024)
            time.sleep(0.005)

    watcher = threading.Thread(target=poll)
    watcher.start()
    _, errors = process.communicate()
    watcher.join()
    if process.returncode != 0:
        stop(command, process.returncode, errors)
    return peak


class Table:
    """The figures, printed as they come and kept for the JSON file."""

    def __init__(self):
        self.rows = []

    def add(self, what, value, limit, unit, digits=3):
        within = value <= limit
        self.rows.append({"what": what, "value": value, "limit": limit, "unit": unit, "within": within})
        print(f"  {what:<52} {value:>10.{digits}f} {unit:<4} limit {limit:>9.{digits}f} {unit:<4}"
              f" {'PASS' if within else 'over'}", flush=True)


def make_toy(program, folder, dims):
    if not (folder / "config.json").exists():
        options = [word for key, value in dims.items() for word in ("--set", f"{key}={value}")]
        run([program, "toy", folder, "--family", "llama", "--dtype", "bf16", "--seed", "1", *options])
    return folder


def demo_model():
    """The model of `make demo` where it is there and has this shape: it is the same one."""
    folder = ROOT / "build/demo/model"
    shape = folder.with_name("model.shape")
    wanted = "-".join(str(BIG[key]) for key in ("hidden_size", "num_hidden_layers", "num_attention_heads",
                                                "num_key_value_heads", "intermediate_size", "vocab_size"))
    return folder if shape.exists() and shape.read_text().strip() == wanted else None


def read_into_cache(file):
    """As the file of a user is there: by reading it. What was just written may lie in smaller pages, which
    cost any reader that maps it, the memcpy's preparation included, up to twice the time."""
    with file.open("rb") as f:
        os.fsync(f.fileno())
        os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        while f.read(8 * MIB):
            pass


def measure_time(table, program, baseline, model, repeat):
    files = sorted(model.glob("*.safetensors"))
    for file in files:
        read_into_cache(file)
    commands = {"TP 1": [program, "roundtrip", model, "--tp", "1"],
                "TP 2 x PP 2": [program, "roundtrip", model, "--tp", "2", "--pp", "2"]}
    copies, trips = [], {name: [] for name in commands}
    for _ in range(repeat):  # taken in turns, so that a noisy moment hits all alike
        baseline_run = json.loads(run([baseline, "1", *files]).stdout)
        copies += baseline_run["seconds"]
        for name, command in commands.items():
            trips[name].append(timed(command))
    size, copy = baseline_run["bytes"], statistics.median(copies)
    print(f"  memcpy of {size / 1e9:.2f} GB by one thread: {copy:.3f} s ({size / copy / 1e9:.1f} GB/s),"
          f" best {min(copies):.3f} s, worst {max(copies):.3f} s")
    for name, seconds in trips.items():
        print(f"  roundtrip {name}: {statistics.median(seconds):.3f} s, best {min(seconds):.3f} s,"
              f" worst {max(seconds):.3f} s")
        table.add(f"roundtrip {name}, whole process / memcpy", statistics.median(seconds) / copy, 1.0, "x")
    return {"bytes": size, "memcpy_s": copies, "roundtrip_s": trips}


def measure_memory(table, program, model, label, report, pp="2"):
    command = [program, "roundtrip", model, "--tp", "2", "--pp", pp, "--json", report]
    start = time.perf_counter()
    seen = watch_anonymous(command)
    seconds = time.perf_counter() - start
    document = json.loads(report.read_text())
    tensors = document["counts"]["total"]
    limit = (128 * MIB + 1024 * tensors) / MIB
    table.add(f"{label}: anonymous memory, its report", document["memory"]["peak_anonymous_bytes"] / MIB, limit,
              "MiB", 1)
    table.add(f"{label}: anonymous memory, seen from outside", seen / MIB, limit, "MiB", 1)
    return {"tensors": tensors, "bytes": document["timing"]["bytes"], "seconds": seconds}


def measure_start(table, program, tiny, repeat):
    for what, command in {"start: --version": [program, "--version"],
                          "start: roundtrip of a tiny model": [program, "roundtrip", tiny, "--tp", "2"]}.items():
        timed(command)
        table.add(what, statistics.median(timed(command) for _ in range(max(20, repeat))) * 1000, 20.0, "ms", 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--program", type=pathlib.Path, default=ROOT / "build/release/src/weighbridge")
    parser.add_argument("--baseline", type=pathlib.Path, default=ROOT / "build/release/bench/memcpy_baseline")
    parser.add_argument("--folder", type=pathlib.Path, default=ROOT / "build/bench", help="for models and results")
    parser.add_argument("--skip-sparse", action="store_true", help="leave the 40 GB model of holes out")
    arguments = parser.parse_args()
    program, folder = arguments.program, arguments.folder
    need_built("make bench", program, arguments.baseline)
    folder.mkdir(parents=True, exist_ok=True)

    here = machine(program, arguments.repeat)
    table = Table()
    model = make_toy(program, demo_model() or folder / "llama-1b", BIG)
    details = {"time": measure_time(table, program, arguments.baseline, model, arguments.repeat)}
    details["memory"] = measure_memory(table, program, model, "1 B model", folder / "report.json")
    measure_start(table, program, make_toy(program, folder / "tiny", TINY), arguments.repeat)
    if not arguments.skip_sparse:
        sparse = write_sparse_model(folder / "sparse-40gb")
        details["sparse"] = measure_memory(table, program, sparse, "40 GB of holes",
                                           folder / "report-sparse.json", pp="3")
        print(f"  40 GB of holes: {details['sparse']['bytes'] / 1e9:.1f} GB in {details['sparse']['seconds']:.1f} s")

    over = [row["what"] for row in table.rows if not row["within"]]
    results = folder / "results.json"
    results.write_text(json.dumps({"machine": here, "figures": table.rows, "details": details}, indent=1) + "\n")
    print(f"{len(table.rows) - len(over)} of {len(table.rows)} figures are within their limits; {results}")
    sys.exit(1 if over else 0)


if __name__ == "__main__":
    main()
