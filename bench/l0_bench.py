#!/usr/bin/env python3
"""Measures level L0 on a checkpoint of 1 T parameters and prints each figure beside its limit.

usage: l0_bench.py [--repeat N] [--program FILE] [--folder FOLDER]

The checkpoint is Kimi K2 in bf16, 2 TB that are holes (sparse_model.py, sparse_megatron.py): 69,975 tensors on the Hugging Face side,
46,874 chunks on the Megatron side.

  time    whole process, median of N: under 2 s
  memory  peak anonymous memory from the program's own report and as the system counts it: at most 128 MiB + 512 bytes
          per tensor

Exit status: 0 every figure is within its limit, 1 one is over, 2 nothing could be measured.
"""
import argparse
import json
import pathlib
import shutil
import statistics
import sys

from roundtrip_bench import MIB, ROOT, Table, machine, need_built, timed, watch_anonymous
from sparse_megatron import write_sparse_megatron
from sparse_model import KIMI_K2, write_sparse_model


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--program", type=pathlib.Path, default=ROOT / "build/release/src/weighbridge")
    parser.add_argument("--folder", type=pathlib.Path, default=ROOT / "build/bench", help="for models and results")
    arguments = parser.parse_args()
    program, folder = arguments.program, arguments.folder
    need_built("make bench", program)
    folder.mkdir(parents=True, exist_ok=True)
    here = machine(program, arguments.repeat)
    hf, megatron = folder / "sparse-1t", folder / "sparse-1t-megatron"
    write_sparse_model(hf, KIMI_K2)
    write_sparse_megatron(megatron, KIMI_K2)
    table, report = Table(), folder / "report-l0.json"
    for what, command in {"roundtrip": ["roundtrip", hf, "--ep", 8], "verify": ["verify", hf, megatron]}.items():
        command = [program, *command, "--level", "L0"]
        timed(command)
        table.add(f"{what} --level L0 of 1 T parameters", statistics.median(timed(command) for _ in range(arguments.repeat)),
                  2.0, "s", 2)
        seen = watch_anonymous([*command, "--json", report])
        document = json.loads(report.read_text())
        limit = (128 * MIB + 512 * document["counts"]["total"]) / MIB
        table.add(f"{what}: anonymous memory, its report", document["memory"]["peak_anonymous_bytes"] / MIB, limit, "MiB", 1)
        table.add(f"{what}: anonymous memory, seen from outside", seen / MIB, limit, "MiB", 1)
    for made in (hf, megatron):
        shutil.rmtree(made)
    over = [row["what"] for row in table.rows if not row["within"]]
    results = folder / "results-l0.json"
    results.write_text(json.dumps({"machine": here, "figures": table.rows}, indent=1) + "\n")
    print(f"{len(table.rows) - len(over)} of {len(table.rows)} figures are within their limits; {results}")
    sys.exit(1 if over else 0)


if __name__ == "__main__":
    main()
