"""Loads what `weighbridge import` wrote with the real Bridge and megatron-core on CPU: run by test_import.py.

  import_worker.py ORACLES JOBS.json RESULTS.json      ORACLES: the folder with bridge_cpu.py

JOBS is a list of {"name", "hf", "megatron", "out", "tp", "pp", "ep", "dialect", "dtype"}, all of one number of
processes; "overrides" are fields of the provider, "only_bridge" leaves megatron-core's own loading out, "only_load"
also the export. Results are a list of {"name", ...what was found}, or {"name", "error"}. It is a process of its own
since it replaces parts of torch, and one for all jobs since importing the Bridge takes most of the time.
"""
import contextlib
import json
import math
import os
import pathlib
import sys
import traceback


def world(job):
    return job["pp"] * math.lcm(job["tp"], job["ep"])


def start(oracles):
    sys.path.insert(0, oracles)
    import bridge_cpu  # noqa: PLC0415
    bridge_cpu.patch_cuda()
    bridge_cpu.redirect_cuda_tensors()
    without_fused_kernels(bridge_cpu.FUSIONS)
    return bridge_cpu


def without_fused_kernels(fusions):
    """The provider's defaults ask for kernels that no CPU has; no weight depends on them."""
    from megatron.bridge.training import model_load_save  # noqa: PLC0415
    original = model_load_save.load_model_config

    def load_model_config(path):
        config, arguments = original(path)
        for name in fusions:
            if hasattr(config, name):
                setattr(config, name, False)
        return config, arguments

    model_load_save.load_model_config = load_model_config


def tensors_of(parts):
    """{(part, name): copy} of what a model's parts hold, buffers included, `_extra_state` left out."""
    import torch  # noqa: PLC0415
    return {(i, name): value.detach().clone() for i, part in enumerate(parts)
            for name, value in part.state_dict().items()
            if isinstance(value, torch.Tensor) and not name.endswith("_extra_state")}


def local_overrides(hf):
    from megatron.bridge.models.gpt_provider import local_layer_spec  # noqa: PLC0415
    overrides = {"transformer_layer_spec": local_layer_spec, "transformer_impl": "local", "moe_grouped_gemm": False}
    with open(os.path.join(hf, "config.json"), encoding="utf-8") as file:
        if "kv_lora_rank" in json.load(file):
            from functools import partial  # noqa: PLC0415
            from megatron.core.models.gpt.gpt_layer_specs import get_gpt_decoder_block_spec  # noqa: PLC0415
            overrides["transformer_layer_spec"] = partial(get_gpt_decoder_block_spec, use_transformer_engine=False)
    return overrides


def load_into_imported(b, job):
    """A model that the Bridge itself made and filled is emptied, and filled from our checkpoint with nothing missing
    and nothing left over. Returns the number of tensors, and the names of those that are not what they were."""
    import torch  # noqa: PLC0415
    from megatron.bridge.training.checkpointing import _generate_model_state_dict  # noqa: PLC0415
    from megatron.core import dist_checkpointing  # noqa: PLC0415
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[job["dtype"]]
    overrides = local_overrides(job["hf"]) if job["dialect"] == "local" else {}
    overrides |= job.get("overrides", {})
    _, parts = b.build(job["hf"], dtype, job["tp"], job["pp"], job["ep"], overrides=overrides)
    parts = [b.unwrap(part) for part in parts]
    expected = tensors_of(parts)
    with torch.no_grad():
        for part in parts:
            for tensor in [*part.parameters(), *part.buffers()]:
                tensor.fill_(0 if tensor.dtype == torch.bool else 7)
    folder = str(pathlib.Path(job["megatron"], "iter_0000000"))
    common = dist_checkpointing.load_common_state_dict(folder)
    metadata = dist_checkpointing.load_content_metadata(preloaded_state_dict=common)
    sharded = _generate_model_state_dict(parts, {"metadata": metadata})
    state = dist_checkpointing.load(sharded, folder, strict="raise_all")
    for i, part in enumerate(parts):
        left = part.load_state_dict(state["model" if len(parts) == 1 else f"model{i}"], strict=False)
        assert not left.unexpected_keys, left
        # megatron-core's own TEDotProductAttention saves none and finds none again.
        assert all(key.endswith("core_attention._extra_state") for key in left.missing_keys), left
    found = tensors_of(parts)
    assert found.keys() == expected.keys()
    return len(found), [name for (i, name), value in found.items() if not b.same_bytes(value, expected[i, name])]


@contextlib.contextmanager
def strict_loading():
    """The Bridge prints which weights are missing or left over, and goes on; here that is an error."""
    import torch  # noqa: PLC0415
    original = torch.nn.Module.load_state_dict

    def load_state_dict(module, state, strict=True, assign=False):
        left = original(module, state, strict=False, assign=assign)
        assert not [key for key in left.missing_keys + left.unexpected_keys if not key.endswith("_extra_state")], left
        return left

    torch.nn.Module.load_state_dict = load_state_dict
    try:
        yield
    finally:
        torch.nn.Module.load_state_dict = original


def bridge_loads_and_exports(b, job):
    """run_config.yaml alone says how the model is built; the Bridge's export of it is the source again."""
    from megatron.bridge import AutoBridge  # noqa: PLC0415
    from megatron.bridge.training.utils.checkpoint_utils import get_hf_model_id_from_checkpoint  # noqa: PLC0415
    bridge = AutoBridge.from_hf_pretrained(job["hf"])
    for name in [k for k in os.environ if k.startswith("NVTE_")]:
        del os.environ[name]
    with strict_loading():
        parts = bridge.load_megatron_model(job["megatron"], wrap_with_ddp=False)
    bridge.save_hf_pretrained(parts, job["out"])
    return get_hf_model_id_from_checkpoint(job["megatron"]), b.compare_hf(job["hf"], job["out"])


def bridge_loads(job):
    """As bridge_loads_and_exports, where the Bridge has no rule for the way back."""
    from megatron.bridge.training import model_load_save  # noqa: PLC0415
    with strict_loading():
        parts = model_load_save.load_megatron_model(str(pathlib.Path(job["megatron"], "iter_0000000")),
                                                    use_cpu_init=True, skip_temp_dist_context=True)
    tensors = {name: tensor for part in parts for name, tensor in part.named_parameters()}
    short = {name.removeprefix("module.").removeprefix("module."): tensor for name, tensor in tensors.items()}
    return {"dense": [name for name in short if name.endswith("mlp.linear_fc1.weight")],
            "nan": [name for name, tensor in short.items() if not tensor.isfinite().all()]}


def run(b, job):
    from megatron.core import parallel_state  # noqa: PLC0415
    from torch.distributed.checkpoint.api import CheckpointException  # noqa: PLC0415  not an Exception
    if parallel_state.is_initialized():
        parallel_state.destroy_model_parallel()
    b.init_parallel(tp=job["tp"], pp=job["pp"], ep=job["ep"])
    result = {"name": job["name"]}
    try:
        if job.get("only_load"):
            return result | bridge_loads(job)
        if not job.get("only_bridge"):
            result["tensors"], result["different"] = load_into_imported(b, job)
        if world(job) == 1:
            result["hf_model_id"], result["export"] = bridge_loads_and_exports(b, job)
    except (Exception, CheckpointException) as e:  # the other jobs still count
        result["error"] = f"{type(e).__name__}: {str(e)[:2000]}"
        result["traceback"] = traceback.format_exc()[-3000:]
    return result


def work(rank, size, port, arguments):
    b = start(arguments[0])
    jobs = json.loads(pathlib.Path(arguments[1]).read_text(encoding="utf-8"))
    b.init_parallel(rank, size, port, jobs[0]["tp"], jobs[0]["pp"], jobs[0]["ep"])
    results = []
    for job in jobs:
        results.append(run(b, job))
        if size > 1 and "error" in results[-1]:
            break  # the other process may wait in a collective: nothing after this can be trusted
    target = pathlib.Path(f"{arguments[2]}.{rank}")
    target.write_text(json.dumps(results), encoding="utf-8")
    if size > 1:
        os._exit(0)


def main():
    jobs = json.loads(pathlib.Path(sys.argv[2]).read_text(encoding="utf-8"))
    sizes = {world(job) for job in jobs}
    assert len(sizes) == 1, sizes
    size = sizes.pop()
    port = start(sys.argv[1]).free_port()
    if size == 1:
        work(0, 1, port, sys.argv[1:])
        return
    import torch  # noqa: PLC0415
    torch.multiprocessing.spawn(work, (size, port, sys.argv[1:]), nprocs=size)


if __name__ == "__main__":
    main()
