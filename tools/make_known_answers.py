#!/usr/bin/env python3
"""Writes known answers: what the real Megatron Bridge and Megatron-Core hold for a model, tensor by tensor.

  make_known_answers.py ranks      HF_ROOT OUT [--only NAME/GRID ...]   OUT/NAME/GRID.json and OUT/refused.json
  make_known_answers.py torch_dist GOLDENS OUT [NAME ...]               OUT/NAME/torch_dist.json
  make_known_answers.py list                                            names and grids

HF_ROOT holds NAME/config.json, NAME/model.safetensors (bf16). `--oracles DIR` names the folder with bridge_cpu.py
(default: ../shared/oracles beside the checkout), whose environment has to run this script.

One line per tensor. XXH3-128 is of the contiguous little-endian bytes, as xxhash's xxh3_128_hexdigest prints it
(canonical, most significant byte first). `name` is the module's own name on its rank, with local layer and expert
numbers; `global_name` has the global ones, taken from the module itself (layer_number, local_expert_indices) and
compared with what the Bridge says. A tensor that no HF tensor initialises has hash null.
"""
import argparse
import datetime
import glob
import importlib.metadata
import json
import os
import re
import sys
import time
import traceback

DTYPES = {"torch.bfloat16": "bf16", "torch.float32": "fp32", "torch.float16": "fp16", "torch.int64": "i64",
          "torch.uint8": "u8", "torch.int32": "i32", "torch.bool": "bool"}


def grid(tp=1, pp=1, vpp=1, ep=1, etp=None, first=None, last=None, layout=None, embedding=False, loss=False, pad=None):
    """`etp` None is Megatron's default, the tensor-parallel size; it is written out in the result. `pad` asks for a
    vocabulary padded to a multiple of pad * tp (should_pad_vocab, make_vocab_size_divisible_by)."""
    out = dict(tp=tp, pp=pp, vpp=vpp, ep=ep, etp=tp if etp is None else etp, first_stage_layers=first,
               last_stage_layers=last, pp_layout=layout)
    if embedding or loss:
        out.update(account_for_embedding=embedding, account_for_loss=loss)
    if pad:
        out.update(make_vocab_size_divisible_by=pad)
    return out


DENSE = {"tp1": grid(), "tp2": grid(tp=2), "tp4": grid(tp=4), "pp2": grid(pp=2), "tp2_pp2": grid(tp=2, pp=2)}
MOE = {**DENSE, "tp2_etp1": grid(tp=2, etp=1), "etp2": grid(etp=2), "ep2": grid(ep=2, etp=1),
       "tp2_ep2": grid(tp=2, ep=2, etp=1), "ep2_etp2": grid(ep=2, etp=2), "tp2_ep2_etp2": grid(tp=2, ep=2, etp=2)}
THREE = {"tp2_pp2_first1": grid(tp=2, pp=2, first=1), "pp2_first1": grid(pp=2, first=1),
         "pp2_last1": grid(pp=2, last=1), "pp3": grid(pp=3)}
FOUR = {"pp2_first1": grid(pp=2, first=1), "pp2_last1": grid(pp=2, last=1), "pp3": grid(pp=3),
        "pp3_first2": grid(pp=3, first=2), "pp3_last2": grid(pp=3, last=2), "pp3_first1_last1": grid(pp=3, first=1, last=1),
        "pp3_embedding_loss": grid(pp=3, embedding=True, loss=True), "pp2_vpp2": grid(pp=2, vpp=2),
        "pp2_vpp3_embedding_loss": grid(pp=2, vpp=3, embedding=True, loss=True), "pp4": grid(pp=4),
        "pp2_layout": grid(pp=2, layout="Et|tttL"), "pp3_layout": grid(pp=3, layout="Et|tt|tL"),
        "pp2_vpp2_layout": grid(pp=2, vpp=2, layout="Et|tt||tL"),
        "pp2_vpp3_layout": grid(pp=2, vpp=3, layout="E|(t|)*4L"), "tp2_pp2_vpp2": grid(tp=2, pp=2, vpp=2)}
# Megatron's own layer spec instead of Transformer Engine's: other names, the same cuts.
LOCAL = {"tp2_local": grid(tp=2), "pp2_local": grid(pp=2)}
PLAN = {
    "llama_untied": {**DENSE, **FOUR, **LOCAL},
    "llama_tied": {**DENSE, "pp2_vpp2_layout": grid(pp=2, vpp=2, layout="E|t|t|L")},
    "qwen2": {**DENSE, **LOCAL}, "qwen3": {**DENSE, **LOCAL}, "gemma2": DENSE,
    "qwen3_lora": {**DENSE, "tp3": grid(tp=3), **THREE},
    "qwen3_moe": {**MOE, **LOCAL, "tp2_pp2_ep2": grid(tp=2, pp=2, ep=2, etp=1), "ep2_local": grid(ep=2, etp=1)},
    "gpt_oss_ns": {**MOE, "tp4_etp1": grid(tp=4, etp=1), "tp2_pp2_etp1": grid(tp=2, pp=2, etp=1)},
    "olmoe": {**MOE, **THREE, "tp3_etp1": grid(tp=3, etp=1), "tp3_etp1_padded": grid(tp=3, etp=1, pad=2),
              "tp2_padded": grid(tp=2, pad=128)},
    "deepseek_v3_nomtp": {**MOE, **THREE, "pp2_layout_loss_alone": grid(pp=2, layout="Ettt|L")},
    "deepseek_v3": {**MOE, **THREE, "pp2_layout_mtp": grid(pp=2, layout="Ett|tmL"),
                    "pp2_layout_mtp_alone": grid(pp=2, layout="Ettt|mL"),
                    "pp3_layout_mtp": grid(pp=3, layout="Ett|tm|L")},
}


def world_size(g):
    """Ranks needed: both grids, TP x PP and ETP x EP x PP, have to fit."""
    import math
    return g["pp"] * math.lcm(g["tp"], g["ep"] * g["etp"])


def versions():
    return {"megatron_core": importlib.metadata.version("megatron-core"),
            "bridge": importlib.metadata.version("megatron-bridge")}


def write_json(path, head, key, rows):
    """`head` on one line, then one line per row, so that a diff shows which tensor changed."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    dump = lambda value: json.dumps(value, separators=(",", ":"))
    with open(path, "w") as f:
        f.write(dump(head)[:-1] + f',"{key}":[\n' + ",\n".join(map(dump, rows)) + "\n]}\n")


def digest(tensor):
    import torch
    import xxhash
    raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return xxhash.xxh3_128_hexdigest(raw.tobytes())


# ----------------------------------------------------------------------------------------------------------------------
# What a rank holds in memory

def persistent_tensors(model):
    """(name, tensor) of all parameters, ties included, and of the buffers that a state dict would hold."""
    yield from model.named_parameters(remove_duplicate=False)
    for prefix, module in model.named_modules():
        for name, buffer in module.named_buffers(recurse=False):
            if buffer is not None and name not in module._non_persistent_buffers_set:
                yield f"{prefix}.{name}" if prefix else name, buffer


def global_name(model, name):
    """`name` with the global layer number (TransformerLayer.layer_number) and global expert number."""
    match = re.match(r"(decoder\.layers\.|mtp\.layers\.)(\d+)((?:\.mtp_model_layer)?)(\..*)", name)
    if match:
        layer = model.get_submodule(match[1] + match[2] + match[3])
        if match[1] == "decoder.layers.":
            name = f"{match[1]}{layer.layer_number - 1}{match[4]}"
        indices = getattr(getattr(layer, "mlp", None), "local_expert_indices", None)
        if indices:
            name = re.sub(r"(\.experts\.linear_fc[12]\.(?:weight|bias))(\d+)$",
                          lambda m: m[1] + str(indices[int(m[2])]), name)
            name = re.sub(r"(\.local_experts\.)(\d+)\.", lambda m: f"{m[1]}{indices[int(m[2])]}.", name)
    return name


def uninitialised(name):
    """True for the MTP layers: the HF folders carry no weights for them, so that their values are random."""
    return name.startswith("mtp.")


def spec_of(grid_name):
    return "local" if grid_name.endswith("_local") else "te"


def build_parts(bridge_cpu, hf, g, spec):
    import torch
    from megatron.bridge.models.gpt_provider import local_layer_spec
    overrides = {"expert_tensor_parallel_size": g["etp"]}
    if spec == "local":
        overrides["transformer_layer_spec"] = local_layer_spec
    if g["vpp"] > 1:
        overrides["virtual_pipeline_model_parallel_size"] = g["vpp"]
    for key, field in (("first_stage_layers", "num_layers_in_first_pipeline_stage"),
                       ("last_stage_layers", "num_layers_in_last_pipeline_stage"),
                       ("pp_layout", "pipeline_model_parallel_layout"),
                       ("account_for_embedding", "account_for_embedding_in_pipeline_split"),
                       ("account_for_loss", "account_for_loss_in_pipeline_split"),
                       ("make_vocab_size_divisible_by", "make_vocab_size_divisible_by")):
        if g.get(key):
            overrides[field] = g[key]
    if g.get("make_vocab_size_divisible_by"):
        overrides["should_pad_vocab"] = True
    return bridge_cpu.build(hf, torch.bfloat16, g["tp"], g["pp"], g["ep"], overrides=overrides)[1]


def rank_rows(bridge_cpu, parts):
    from megatron.bridge.models.conversion.model_bridge import _megatron_local_name_to_global
    from megatron.core import parallel_state as ps
    rows = []
    for vpp, part in enumerate(parts):
        model = bridge_cpu.unwrap(part)
        rank = {"tp": ps.get_tensor_model_parallel_rank(), "pp": ps.get_pipeline_model_parallel_rank(), "vpp": vpp,
                "ep": ps.get_expert_model_parallel_rank(), "etp": ps.get_expert_tensor_parallel_rank()}
        for name, tensor in persistent_tensors(model):
            full = global_name(model, name)
            bridge_says = _megatron_local_name_to_global(parts, model.config, name, vpp)
            if bridge_says != full:
                raise AssertionError(f"{name}: module says {full}, the Bridge says {bridge_says}")
            rows.append({"name": name, "global_name": full, "rank": rank, "shape": list(tensor.shape),
                         "dtype": DTYPES[str(tensor.dtype)], "xxh3": None if uninitialised(name) else digest(tensor)})
    return rows


def merge_ranks(per_rank):
    """All ranks' rows in rank order; a data-parallel copy must equal the first and is left out."""
    seen, rows = {}, []
    for row in (row for rows_of_rank in per_rank for row in rows_of_rank):
        key = (row["name"], tuple(row["rank"].values()))
        if key not in seen:
            seen[key] = row
            rows.append(row)
        elif seen[key]["xxh3"] != row["xxh3"]:
            raise AssertionError(f"data-parallel copies differ: {key}")
    return rows


def join_grid(g):
    from megatron.core import parallel_state as ps
    ps.initialize_model_parallel(
        tensor_model_parallel_size=g["tp"], pipeline_model_parallel_size=g["pp"],
        virtual_pipeline_model_parallel_size=g["vpp"] if g["vpp"] > 1 else None,
        expert_model_parallel_size=g["ep"], expert_tensor_parallel_size=g["etp"])


def run_task(bridge_cpu, task, out):
    import torch.distributed as dist
    name, grid_name, hf, g = task
    join_grid(g)
    parts = build_parts(bridge_cpu, hf, g, spec_of(grid_name))
    gathered = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, rank_rows(bridge_cpu, parts))
    if dist.get_rank() == 0:
        rows = merge_ranks(gathered)
        write_json(os.path.join(out, name, grid_name + ".json"),
                   {"source": "hf_bf16", **versions(), "grid": g, "spec": spec_of(grid_name)}, "tensors", rows)
        print(f"{name}/{grid_name}: {len(rows)} tensors", flush=True)


def write_whole(path, value):
    """The file appears with all of its content or not at all: another process polls for it."""
    with open(f"{path}.{os.getpid()}", "w") as f:
        json.dump(value, f)
    os.replace(f"{path}.{os.getpid()}", path)


def wait_for_all(state, task_number, world):
    """True when every rank has noted a failure of this task, so that none waits in a collective."""
    for _ in range(200):
        if all(os.path.exists(os.path.join(state, f"error{task_number}.{rank}")) for rank in range(world)):
            return True
        time.sleep(0.1)
    return False


def worker(rank, world, tasks, out, oracles, state, run):
    """Does `tasks` in turn by run(bridge_cpu, task, out) and notes each as done or failed in the folder `state`. A failure of some ranks only ends
    all, since the others would wait for them."""
    sys.path.insert(0, oracles)
    import bridge_cpu
    bridge_cpu.patch_cuda()
    bridge_cpu.redirect_cuda_tensors()
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK=str(rank), OMP_NUM_THREADS="1")
    for i, task in enumerate(tasks):
        join_group(rank, world, os.path.join(state, f"store{i}"))
        try:
            run(bridge_cpu, task, out)
            if rank == 0:
                write_whole(os.path.join(state, f"done{i}"), True)
        except BaseException as e:
            write_whole(os.path.join(state, f"error{i}.{rank}"), {
                "error": f"{type(e).__name__}: {str(e)[:600]}", "where": innermost(e),
                "trace": traceback.format_exc()[-3000:]})
            if not wait_for_all(state, i, world):
                os._exit(1)
        leave_group()


def join_group(rank, world, store):
    """`store`: a path that no group has used before."""
    import torch.distributed as dist
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world,
                            timeout=datetime.timedelta(seconds=60))


def leave_group():
    """Megatron alone forgets its groups without ending them: their gloo threads would pile up from model to model."""
    import torch.distributed as dist
    from megatron.core import parallel_state as ps
    ps.destroy_model_parallel()
    dist.destroy_process_group()


def innermost(error):
    frame = traceback.extract_tb(error.__traceback__)[-1]
    file = re.sub(r".*/site-packages/", "", frame.filename)
    file = os.path.basename(file) if os.path.isabs(file) else file
    return f"{file}:{frame.lineno} {frame.name}"


def run_pool(world, tasks, out, oracles, run):
    """Yields (task, error dict) for the tasks that the libraries refuse; starts anew where a pool has died."""
    import tempfile
    import torch
    while tasks:
        with tempfile.TemporaryDirectory() as state:
            try:
                torch.multiprocessing.spawn(worker, (world, tasks, out, oracles, state, run), world)
            except torch.multiprocessing.ProcessExitedException:
                pass
            reached = -1
            for i, task in enumerate(tasks):
                errors = [json.load(open(path)) for path in sorted(glob.glob(os.path.join(state, f"error{i}.?")))]
                if errors:
                    yield task, next((e for e in errors if "gloo" not in e["error"]), errors[0])
                elif not os.path.exists(os.path.join(state, f"done{i}")):
                    break
                reached = i
            if reached < 0:
                raise RuntimeError(f"the processes died before they finished {tasks[0][:2]}")
            tasks = tasks[reached + 1:]


def command_ranks(args):
    tasks = [(name, grid_name, os.path.join(args.source, name), g) for name, grids in PLAN.items()
             for grid_name, g in grids.items()
             if not args.only or name in args.only or f"{name}/{grid_name}" in args.only]
    refused_path = os.path.join(args.out, "refused.json")
    refused = {}
    if os.path.exists(refused_path):
        refused = {(r["name"], r["grid_name"]): r for r in json.load(open(refused_path))["refused"]}
    for task in tasks:
        refused.pop(task[:2], None)
    for world in sorted({world_size(t[3]) for t in tasks}):
        for task, error in run_pool(world, [t for t in tasks if world_size(t[3]) == world], args.out, args.oracles,
                                    run_task):
            print(f"{task[0]}/{task[1]}: REFUSED {error['error']} ({error['where']})\n{error['trace']}", flush=True)
            refused[task[:2]] = {"name": task[0], "grid_name": task[1], "grid": task[3],
                                 "spec": spec_of(task[1]), "error": error["error"], "where": error["where"]}
    write_json(refused_path, {"source": "hf_bf16", **versions()}, "refused",
               [refused[k] for k in sorted(refused)])


# ----------------------------------------------------------------------------------------------------------------------
# What a torch_dist checkpoint holds

def command_torch_dist(args):
    import torch
    import torch.distributed.checkpoint as dcp
    for name in args.names or sorted(PLAN):
        folders = [os.path.join(args.source, name, f) for f in ("meg_te_bf16", "meg_te_fp32")]
        folder = next(f for f in folders if os.path.isdir(f))
        iteration = sorted(glob.glob(os.path.join(folder, "iter_*")))[-1]
        metadata = dcp.FileSystemReader(iteration).read_metadata().state_dict_metadata
        state = {key: torch.empty(m.size, dtype=m.properties.dtype) for key, m in metadata.items() if hasattr(m, "size")}
        dcp.load(state, checkpoint_id=iteration, no_dist=True)
        rows = [{"key": key, "shape": list(t.shape), "dtype": DTYPES[str(t.dtype)],
                 "xxh3": None if uninitialised(key) else digest(t)} for key, t in sorted(state.items())]
        write_json(os.path.join(args.out, name, "torch_dist.json"),
                   {"source": os.path.basename(folder), **versions(), "torch": torch.__version__.split("+")[0],
                    "spec": "te", "byte_keys": sum(not hasattr(m, "size") for m in metadata.values())}, "tensors", rows)
        print(f"{name}: {len(rows)} tensors of {os.path.basename(folder)}", flush=True)


def command_list(args):
    for name, grids in PLAN.items():
        print(name, *grids)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "shared", "oracles")
    parser.add_argument("--oracles", default=default, help="folder with bridge_cpu.py")
    commands = parser.add_subparsers(dest="command", required=True)
    p = commands.add_parser("ranks")
    p.add_argument("source")
    p.add_argument("out")
    p.add_argument("--only", nargs="*", default=[], help="NAME or NAME/GRID")
    p.set_defaults(run=command_ranks)
    p = commands.add_parser("torch_dist")
    p.add_argument("source")
    p.add_argument("out")
    p.add_argument("names", nargs="*")
    p.set_defaults(run=command_torch_dist)
    commands.add_parser("list").set_defaults(run=command_list)
    args = parser.parse_args()
    args.oracles = os.path.abspath(args.oracles)
    args.run(args)


if __name__ == "__main__":
    main()
