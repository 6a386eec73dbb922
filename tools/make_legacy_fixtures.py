#!/usr/bin/env python3
"""Writes checkpoints of Megatron's legacy `torch` format with Megatron's own save_checkpoint.

  make_legacy_fixtures.py HF_ROOT OUT NAME/GRID ...      OUT/NAME/GRID, a folder with the tracker file

HF_ROOT holds NAME/config.json, NAME/model.safetensors (bf16). The Bridge loads it into the modules of every rank of
GRID (a grid of make_known_answers.py, whose environment this needs); megatron.training.checkpointing, which the
Bridge's wheel of Megatron-LM brings, saves them with ckpt_format torch. `args` are what Megatron-LM's own parser gives
for an empty command line, with the model's sizes and the grid filled in. The state of an optimizer over the norms and
that of the random number generators are in the files, so that readers have something to pass over.
"""
import argparse
import os
import random
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import make_known_answers as known

def arguments(model, g, folder):
    """The Namespace that a run of Megatron-LM would have."""
    import torch
    from megatron.training import arguments as megatron_arguments
    sys.argv = ["pretrain_gpt.py"]
    args = megatron_arguments.parse_args(ignore_unknown_args=True)
    config = model.config
    for field in vars(args):  # most are arguments of the same name
        value = getattr(config, field, None)
        if value is not None and isinstance(value, (bool, int, float, str, list)):
            setattr(args, field, value)
    for field in ("virtual_pipeline_model_parallel_size", "mtp_num_layers"):
        setattr(args, field, getattr(config, field))
    args.num_experts = config.num_moe_experts
    args.decoder_first_pipeline_num_layers = config.num_layers_in_first_pipeline_stage
    args.decoder_last_pipeline_num_layers = config.num_layers_in_last_pipeline_stage
    args.pipeline_model_parallel_layout = g["pp_layout"]
    args.untie_embeddings_and_output_weights = not model.share_embeddings_and_output_weights
    args.group_query_attention = config.num_query_groups != config.num_attention_heads
    args.swiglu = config.gated_linear_unit
    args.position_embedding_type = "rope"
    args.padded_vocab_size = model.vocab_size
    args.params_dtype = torch.bfloat16
    args.bf16 = True
    args.max_position_embeddings = args.seq_length = model.max_sequence_length
    args.ckpt_format, args.use_dist_ckpt, args.save = "torch", False, folder
    args.iteration = 0
    return args


def optimizer_of(parts):
    """A real optimizer over the few small tensors of the model, after one step."""
    import torch
    norms = [p for part in parts for name, p in part.named_parameters() if "norm" in name and p.dim() == 1]
    optimizer = torch.optim.AdamW(norms[:2], lr=0.0, weight_decay=0.0)
    for p in norms[:2]:
        p.grad = torch.ones_like(p)
    optimizer.step()
    optimizer.is_stub_optimizer = False
    return optimizer


def save(bridge_cpu, task, out):
    import numpy
    import torch
    from megatron.core import rerun_state_machine, tensor_parallel
    from megatron.training import checkpointing, global_vars
    name, grid_name, hf, g = task
    known.join_grid(g)
    parts = [bridge_cpu.unwrap(part) for part in known.build_parts(bridge_cpu, hf, g, known.spec_of(grid_name))]
    os.makedirs(out, exist_ok=True)
    os.chdir(out)  # args.save is in the files
    args = arguments(parts[0], g, os.path.join(name, grid_name))
    global_vars.set_args(args)
    rerun_state_machine.initialize_rerun_state_machine()
    random.seed(1), numpy.random.seed(1), torch.manual_seed(1)
    checkpointing.save_checkpoint(3, parts, optimizer_of(parts), None, num_floating_point_operations_so_far=0)
    global_vars.unset_global_variables()
    rerun_state_machine.destroy_rerun_state_machine()


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
        name, grid_name = text.split("/")
        tasks.append((name, grid_name, os.path.abspath(os.path.join(args.source, name)), known.PLAN[name][grid_name]))
    failed = 0
    for world in sorted({known.world_size(t[3]) for t in tasks}):
        these = [t for t in tasks if known.world_size(t[3]) == world]
        for task, error in known.run_pool(world, these, os.path.abspath(args.out), os.path.abspath(args.oracles), save):
            print(f"{task[0]}/{task[1]}: {error['error']} ({error['where']})\n{error['trace']}", file=sys.stderr)
            failed += 1
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
