"""Loads files of Megatron's legacy `torch` format with Megatron's own load_checkpoint: run by test_legacy.py.

  legacy_worker.py ORACLES TOOLS JOBS.json OUT      ORACLES: the folder with bridge_cpu.py, TOOLS: ours

JOBS is a list of [NAME, GRID, HF folder, grid, Megatron folder], all of one number of processes. The model that the
Bridge made of the HF folder is emptied and filled from the Megatron folder, strictly; OUT/NAME.GRID.RANK.json then says
how many tensors a rank has and which are not what they were.
"""
import json
import os
import sys

sys.path.insert(0, sys.argv[2] if len(sys.argv) > 2 else os.environ["WEIGHBRIDGE_TOOLS"])
import make_known_answers as known
import make_legacy_fixtures as legacy


def tensors_of(parts):
    import torch
    return {(i, name): value.detach().clone() for i, part in enumerate(parts)
            for name, value in part.state_dict().items()
            if isinstance(value, torch.Tensor) and not name.endswith("_extra_state")}


def only_strictly(part):
    """load_checkpoint tries again with strict=False where a strict load fails; here that is an error."""
    original = part.load_state_dict

    def load_state_dict(state, strict=True):
        if strict:
            return original(state, strict=True)
        raise AssertionError(str(original(state, strict=False)))

    part.load_state_dict = load_state_dict


def load(bridge_cpu, task, out):
    import torch
    import torch.distributed as dist
    from megatron.core import num_microbatches_calculator
    from megatron.training import checkpointing, global_vars
    name, grid_name, hf, g, folder = task
    known.join_grid(g)
    parts = [bridge_cpu.unwrap(part) for part in known.build_parts(bridge_cpu, hf, g, known.spec_of(grid_name))]
    expected = tensors_of(parts)
    with torch.no_grad():
        for part in parts:
            for tensor in [*part.parameters(), *part.buffers()]:
                tensor.fill_(0 if tensor.dtype == torch.bool else 7)
    args = legacy.arguments(parts[0], g, None)
    args.load, args.no_load_optim, args.no_load_rng = folder, True, True
    global_vars.set_args(args)
    checkpointing._CHECKPOINT_VERSION = None
    if num_microbatches_calculator._GLOBAL_NUM_MICROBATCHES_CALCULATOR is None:
        num_microbatches_calculator.init_num_microbatches_calculator(0, None, 1, 1, 1)
    for part in parts:
        only_strictly(part)
    checkpointing.load_checkpoint(parts, None, None, strict=True)
    global_vars.unset_global_variables()
    found = tensors_of(parts)
    different = [key for key in expected if not bridge_cpu.same_bytes(found[key], expected[key])]
    known.write_whole(os.path.join(out, f"{name}.{grid_name}.{dist.get_rank()}.json"),
                      {"tensors": len(found), "different": [key[1] for key in different]})


def main():
    oracles, tools, jobs, out = sys.argv[1:]
    os.environ["WEIGHBRIDGE_TOOLS"] = tools
    tasks = [tuple(job) for job in json.load(open(jobs))]
    for task, error in known.run_pool(known.world_size(tasks[0][3]), tasks, out, oracles, load):
        known.write_whole(os.path.join(out, f"{task[0]}.{task[1]}.error.json"), error)


if __name__ == "__main__":
    main()
