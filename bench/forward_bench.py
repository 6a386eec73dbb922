#!/usr/bin/env python3
"""Measures `weighbridge compare` of a model of 1.24 B parameters on 512 tokens, in float32 on the CPU, beside one forward
pass of transformers (SDPA, float32, the same tokens' number) in the same run.

usage: forward_bench.py [--repeat N] [--program FILE] [--folder FOLDER] [--python FILE]

  each pass   whole command, less what certifies the reference (its truth in float64, and the verdict in the checkpoint's
              dtype), divided by the full passes that it makes: at most 1.15 x the forward of transformers, which is
              the mean of one right before the command and one right after it, in a process that stays. A machine
              whose speed drifts so meets both alike; the figure is the median of the repeats' ratios
  memory      peak anonymous memory of the report: at most the embedding, the output layer and three layers in float32

Needs `make engine` and, for transformers, the environment of `make test-oracle`.
Exit status: 0 every figure is within its limit, 1 one is over, 2 nothing could be measured.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

from roundtrip_bench import BIG, MIB, ROOT, Table, machine, make_toy, need_built, read_into_cache, run

TOKENS = 512
PASSES = 3  # transformers' model; Megatron's on its inputs; Megatron's on its own states
# A forward for each line that it is sent; answers with the seconds.
FORWARD = """
import sys, time, torch, transformers
model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32, attn_implementation="sdpa").eval()
ids = torch.randint(0, model.config.vocab_size, (1, int(sys.argv[2])))
with torch.inference_mode():
    model(ids, use_cache=False)
    for _ in sys.stdin:
        start = time.perf_counter()
        model(ids, use_cache=False)
        print(time.perf_counter() - start, flush=True)
"""


def default_python():
    cache = os.environ.get("WEIGHBRIDGE_CACHE") or pathlib.Path.home() / ".cache/weighbridge"
    return pathlib.Path(cache) / "oracle/bin/python"


class Peer:
    """A process of transformers that holds the model."""

    def __init__(self, python, model):
        quiet = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "TRANSFORMERS_VERBOSITY": "error", "PYTHONWARNINGS": "ignore"}
        self.process = subprocess.Popen([python, "-c", FORWARD, model, str(TOKENS)], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True, env=os.environ | quiet)
        self.seconds = []

    def forward(self):
        """The seconds of one forward pass."""
        print(file=self.process.stdin, flush=True)
        self.seconds.append(float(self.process.stdout.readline()))
        return self.seconds[-1]

    def end(self):
        self.process.stdin.close()
        self.process.wait()


def layer_bytes():
    """Of a layer, and of the embedding, in float32."""
    hidden, inner = BIG["hidden_size"], BIG["intermediate_size"]
    heads = (2 * BIG["num_attention_heads"] + 2 * BIG["num_key_value_heads"]) * BIG["head_dim"]
    return 4 * hidden * (heads + 3 * inner), 4 * hidden * BIG["vocab_size"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--program", type=pathlib.Path, default=ROOT / "build/release/src/weighbridge")
    parser.add_argument("--folder", type=pathlib.Path, default=ROOT / "build/bench", help="for models and results")
    parser.add_argument("--python", type=pathlib.Path, default=default_python(), help="one that has transformers")
    arguments = parser.parse_args()
    program, folder = arguments.program, arguments.folder
    need_built("make engine; make test-oracle installs transformers", program,
               program.with_name("libweighbridge_engine.so"), arguments.python)
    folder.mkdir(parents=True, exist_ok=True)
    model, report = make_toy(program, folder / "llama-1b", BIG), folder / "forward-report.json"
    for file in model.glob("*.safetensors"):
        read_into_cache(file)
    here = machine(program, arguments.repeat)
    table = Table()
    peer = Peer(arguments.python, model)
    ratios, whole = [], []
    before = peer.forward()
    for _ in range(arguments.repeat):
        start = time.perf_counter()
        run([program, "compare", model, "--seq-len", TOKENS, "--json", report, "-q"])
        whole.append(time.perf_counter() - start)
        after = peer.forward()
        found = json.loads(report.read_text())
        spent = {name: float(seconds) for name, seconds in
                 (part.split() for part in found["details"]["seconds"].split(", "))}
        each = (whole[-1] - spent["truth"] - spent.get("narrow", 0)) / PASSES
        ratios.append(each / ((before + after) / 2))
        before = after
    peer.end()
    print(f"  transformers, one forward: {statistics.median(peer.seconds):.2f} s,"
          f" best {min(peer.seconds):.2f} s, worst {max(peer.seconds):.2f} s")
    print(f"  compare: {statistics.median(whole):.2f} s, best {min(whole):.2f} s, worst {max(whole):.2f} s; in the last:"
          f" {', '.join(f'{name} {seconds:.2f} s' for name, seconds in spent.items())}")
    print(f"  ratios: {', '.join(f'{ratio:.3f}' for ratio in ratios)}")
    table.add("compare, each pass / transformers' forward", statistics.median(ratios), 1.15, "x")
    layer, embedding = layer_bytes()
    table.add("compare, anonymous memory", found["memory"]["peak_anonymous_bytes"] / MIB,
              (2 * embedding + 3 * layer) / MIB, "MiB", 1)
    (folder / "forward.json").write_text(json.dumps({"machine": here, "figures": table.rows}, indent=1) + "\n")
    report.unlink()
    return 1 if any(not row["within"] for row in table.rows) else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (subprocess.SubprocessError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
