#!/usr/bin/env python3
"""Measures `weighbridge compare` of a model of 1.24 B parameters on 512 tokens, in float32 on the CPU, beside one forward
pass of transformers (SDPA, float32, the same tokens' number) in the same run; with `--device cuda`, of 8 B parameters
(16 GB) in their bfloat16 on a GPU, beside a process that loads the model with transformers and runs it once.

usage: forward_bench.py [--device cpu|cuda] [--repeat N] [--program FILE] [--folder FOLDER] [--python FILE]

  each pass   (CPU) whole command, less what certifies the reference (its truth in float64, and the verdict in the
              checkpoint's dtype), divided by the full passes that it makes: at most 1.15 x the forward of transformers,
              which is the mean of one right before the command and one right after it, in a process that stays. A
              machine whose speed drifts so meets both alike; the figure is the median of the repeats' ratios
  memory      (CPU) peak anonymous memory of the report: at most the embedding, the output layer and three layers in
              float32
  process     (GPU) whole command with both verdicts, divided by the mean of the whole processes of transformers right
              before and right after it: at most 1.0; the median of the repeats' ratios

Needs `make engine` and, for transformers, the environment of `make test-oracle`; on a GPU any Python that has both torch
and transformers (`--python`, and WEIGHBRIDGE_TORCH with the folder of that torch).
Exit status: 0 every figure is within its limit, 1 one is over, 2 nothing could be measured.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys

from roundtrip_bench import BIG, MIB, ROOT, Table, machine, make_toy, need_built, read_into_cache, run, timed

TOKENS = 512
PASSES = 3  # transformers' model; Megatron's on its inputs; Megatron's on its own states
# The shape of Llama-3.1-8B.
LARGE = {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
         "head_dim": 128, "intermediate_size": 14336, "vocab_size": 128256, "tie_word_embeddings": "false"}
QUIET = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "TRANSFORMERS_VERBOSITY": "error", "PYTHONWARNINGS": "ignore"}
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

# Loads the model into the GPU and runs it once.
LOAD_AND_RUN = """
import sys, torch, transformers
model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.bfloat16, device_map="cuda",
                                                          attn_implementation="sdpa").eval()
ids = torch.randint(0, model.config.vocab_size, (1, int(sys.argv[2])), device="cuda")
with torch.inference_mode():
    print(float(model(ids, use_cache=False).logits.float().abs().max()))
"""


def default_python():
    cache = os.environ.get("WEIGHBRIDGE_CACHE") or pathlib.Path.home() / ".cache/weighbridge"
    return pathlib.Path(cache) / "oracle/bin/python"


class Peer:
    """A process of transformers that holds the model."""

    def __init__(self, python, model):
        self.process = subprocess.Popen([python, "-c", FORWARD, model, str(TOKENS)], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True, env=os.environ | QUIET)
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


def seconds_of(report):
    """What `compare` says of its own time, by part."""
    return {name: float(seconds) for name, seconds in
            (part.split() for part in json.loads(report.read_text())["details"]["seconds"].split(", "))}


def spread(seconds):
    return f"{statistics.median(seconds):.2f} s, best {min(seconds):.2f} s, worst {max(seconds):.2f} s"


def show(whole, report, ratios):
    parts = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in seconds_of(report).items())
    print(f"  compare: {spread(whole)}; in the last: {parts}")
    print(f"  ratios: {', '.join(f'{ratio:.3f}' for ratio in ratios)}")


def measure_passes(arguments, report, table):
    """On the CPU: each pass beside transformers' forward, and the memory."""
    model = make_toy(arguments.program, arguments.folder / "llama-1b", BIG)
    for file in model.glob("*.safetensors"):
        read_into_cache(file)
    peer = Peer(arguments.python, model)
    ratios, whole = [], []
    before = peer.forward()
    for _ in range(arguments.repeat):
        whole.append(timed([arguments.program, "compare", model, "--seq-len", TOKENS, "--json", report, "-q"]))
        after = peer.forward()
        spent = seconds_of(report)
        each = (whole[-1] - spent["truth"] - spent.get("narrow", 0)) / PASSES
        ratios.append(each / ((before + after) / 2))
        before = after
    peer.end()
    print(f"  transformers, one forward: {spread(peer.seconds)}")
    show(whole, report, ratios)
    table.add("compare, each pass / transformers' forward", statistics.median(ratios), 1.15, "x")
    layer, embedding = layer_bytes()
    table.add("compare, anonymous memory", json.loads(report.read_text())["memory"]["peak_anonymous_bytes"] / MIB,
              (2 * embedding + 3 * layer) / MIB, "MiB", 1)


def measure_processes(arguments, report, table):
    """On a GPU: the whole command beside a process of transformers."""
    model = make_toy(arguments.program, arguments.folder / "llama-8b", LARGE)
    for file in model.glob("*.safetensors"):
        read_into_cache(file)
    os.environ.update(QUIET)
    peer = [arguments.python, "-c", LOAD_AND_RUN, model, TOKENS]
    run(peer)  # compiles what Python imports, and fills the cache
    theirs, whole, ratios = [timed(peer)], [], []
    for _ in range(arguments.repeat):
        whole.append(timed([arguments.program, "compare", model, "--device", "cuda", "--seq-len", TOKENS, "--json",
                            report, "-q"]))
        theirs.append(timed(peer))
        ratios.append(whole[-1] / ((theirs[-2] + theirs[-1]) / 2))
    print(f"  transformers, whole process: {spread(theirs)}")
    show(whole, report, ratios)
    table.add("compare, whole process / transformers' process", statistics.median(ratios), 1.0, "x")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--program", type=pathlib.Path, default=ROOT / "build/release/src/weighbridge")
    parser.add_argument("--folder", type=pathlib.Path, default=ROOT / "build/bench", help="for models and results")
    parser.add_argument("--python", type=pathlib.Path, default=default_python(), help="one that has transformers")
    arguments = parser.parse_args()
    need_built("make engine; make test-oracle installs transformers", arguments.program,
               arguments.program.with_name("libweighbridge_engine.so"), arguments.python)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    report = arguments.folder / "forward-report.json"
    here = machine(arguments.program, arguments.repeat)
    table = Table()
    {"cpu": measure_passes, "cuda": measure_processes}[arguments.device](arguments, report, table)
    result = arguments.folder / ("forward.json" if arguments.device == "cpu" else "forward-cuda.json")
    result.write_text(json.dumps({"machine": here, "figures": table.rows}, indent=1) + "\n")
    report.unlink()
    return 1 if any(not row["within"] for row in table.rows) else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (subprocess.SubprocessError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
