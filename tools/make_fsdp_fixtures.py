#!/usr/bin/env python3
"""Writes checkpoints of Megatron-FSDP (ckpt_format fsdp_dtensor) on CPU, with Megatron's own functions.

  make_fsdp_fixtures.py HF_ROOT OUT NAME[:EP] ...      OUT/NAME, by two data-parallel processes

The Bridge loads HF_ROOT/NAME into the modules, FullyShardedDataParallel of megatron-core shards them, and what
megatron.training.checkpointing makes of the state dict is saved as save_checkpoint saves it. Environment as for
make_known_answers.py.
"""
import argparse
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import make_known_answers as known
import make_legacy_fixtures as legacy

WORLD = 2


def save(bridge_cpu, task, out):
    import torch.distributed.checkpoint as dcp
    import torch.distributed as dist
    from megatron.core.distributed import DistributedDataParallelConfig
    from megatron.core.distributed.fsdp.mcore_fsdp_adapter import FullyShardedDataParallel
    from megatron.training import checkpointing
    name, _, hf, g = task
    known.join_grid(g)
    part = bridge_cpu.unwrap(known.build_parts(bridge_cpu, hf, g, "te")[0])
    os.makedirs(out, exist_ok=True)
    os.chdir(out)  # the path is in .metadata
    args = legacy.arguments(part, g, name)
    args.ckpt_format, args.no_save_optim, args.no_save_rng = "fsdp_dtensor", True, True
    sharding = DistributedDataParallelConfig(use_megatron_fsdp=True, use_distributed_optimizer=True,
                                             data_parallel_sharding_strategy="optim_grads_params")
    model = FullyShardedDataParallel(part.config, sharding, part)
    state = checkpointing.generate_state_dict(args, [model], None, None, None, iteration=3)
    state = checkpointing.preprocess_fsdp_dtensor_state_dict(args, state, model)
    folder = os.path.join(name, "iter_0000003")
    dcp.save(state_dict=state, storage_writer=dcp.FileSystemWriter(folder))
    if dist.get_rank() == 0:
        with open(os.path.join(name, "latest_checkpointed_iteration.txt"), "w") as f:
            f.write("3")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "shared", "oracles")
    parser.add_argument("--oracles", default=default, help="folder with bridge_cpu.py")
    parser.add_argument("source")
    parser.add_argument("out")
    parser.add_argument("names", nargs="+")
    args = parser.parse_args()
    tasks = []
    for text in args.names:
        name, _, ep = text.partition(":")
        tasks.append((name, "fsdp", os.path.abspath(os.path.join(args.source, name)), known.grid(ep=int(ep or 1), etp=1)))
    failed = 0
    for task, error in known.run_pool(WORLD, tasks, os.path.abspath(args.out), os.path.abspath(args.oracles), save):
        print(f"{task[0]}: {error['error']} ({error['where']})\n{error['trace']}", file=sys.stderr)
        failed += 1
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
