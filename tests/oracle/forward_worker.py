"""Runs what `weighbridge import` wrote with the real megatron-core on CPU, and records it: run by test_compare_live.py.

  forward_worker.py ORACLES JOBS.json RESULTS.json      ORACLES: the folder with bridge_cpu.py

JOBS is a list of {"name", "hf", "megatron", "out", "vocab", "mtp", "build", "overrides"}; `out` is written as docs/compare.md says of
recordings; "build": the Bridge makes the model from HF's folder, where no run_config.yaml says how; "overrides": fields of its provider. Results are a list of {"name", "error"}. A process of its own since it replaces parts of torch, and one for all jobs since importing the
Bridge takes most of the time.
"""
import json
import os
import pathlib
import sys
import traceback

from import_worker import start

LENGTH = 40
FIRST_SPECIAL = 380  # toys that see have their tokens of images from here on


def captured(modules, run):
    """The first output of each module while `run` runs."""
    found = []
    hooks = [module.register_forward_hook(
        lambda _module, _inputs, out: found.append((out[0] if isinstance(out, tuple) else out).detach().clone()))
        for module in modules]
    result = run()
    for hook in hooks:
        hook.remove()
    return found, result


def record(b, job):
    import torch  # noqa: PLC0415
    from megatron.bridge.training import model_load_save  # noqa: PLC0415
    from safetensors.torch import save_file  # noqa: PLC0415
    b.init_parallel()
    for name in [name for name in os.environ if name.startswith("NVTE_")]:
        del os.environ[name]  # Megatron leaves one model's choice of attention behind for the next
    if job["build"]:
        _, parts = b.build(job["hf"], torch.float32, overrides=job["overrides"])
    else:
        parts = model_load_save.load_megatron_model(str(pathlib.Path(job["megatron"], "iter_0000000")), use_cpu_init=True,
                                                    skip_temp_dist_context=True)
    top = b.unwrap(parts[0]).eval()
    model = b.language_model(parts[0]).eval()
    ids = torch.randint(3, FIRST_SPECIAL, (2, LENGTH), generator=torch.Generator().manual_seed(7))
    positions = torch.arange(LENGTH)[None].expand_as(ids)
    mask = torch.triu(torch.ones(LENGTH, LENGTH, dtype=torch.bool), 1)[None, None]

    def forward(**more):
        with torch.no_grad():
            if top is not model:
                return top(input_ids=ids, position_ids=positions, attention_mask=None, **more)
            return top(ids, positions, mask, **more)

    mtp = list(model.mtp.layers) if job["mtp"] else []
    layers = list(model.decoder.layers)
    states, logits = captured([*layers, *mtp], forward)
    logits = logits[0] if isinstance(logits, tuple) else logits
    out = {"input_ids": ids, "meg_logits": logits.float()[..., :job["vocab"]].contiguous()}
    for i, state in enumerate(states):
        name = f"meg_hidden_{i + 1}_sbh" if i < len(layers) else f"meg_mtp_{i - len(layers) + 1}_sbh"
        out[name] = state.float().contiguous()
    save_file(out, job["out"])


def main():
    b = start(sys.argv[1])
    from torch.distributed.checkpoint.api import CheckpointException  # noqa: PLC0415  not an Exception
    results = []
    for job in json.loads(pathlib.Path(sys.argv[2]).read_text(encoding="utf-8")):
        result = {"name": job["name"]}
        try:
            record(b, job)
        except (Exception, CheckpointException) as e:  # the other jobs still count
            result["error"] = f"{type(e).__name__}: {str(e)[:2000]}\n{traceback.format_exc()[-2000:]}"
        results.append(result)
    pathlib.Path(sys.argv[3]).write_text(json.dumps(results), encoding="utf-8")


if __name__ == "__main__":
    main()
