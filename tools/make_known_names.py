#!/usr/bin/env python3
"""Writes the in-memory parameter names of Megatron models: one file per family, FAMILY.json.

  make_known_names.py OUT [--oracles DIR] [FAMILY ...]

Builds a tiny model of each family from its Hugging Face config through Megatron Bridge (those that the Bridge of this version
does not know, with Megatron-Core's GPTModel alone: Mixtral from fields written here, the others from what `weighbridge families
expand` says that the Megatron config must hold), without weights, at TP 1 and at TP 2, and notes what differs. Runs in the oracle
environment. `shape` is at TP 1; `cut` is the axis whose extent changes at TP 2 (expert-tensor-parallel
2 as well, where the model can); `tensor_model_parallel` and `partition_dim` are the attributes that the
parameter carries at TP 2; `allreduce` is the attribute at EP 2 (false: only the experts' own data-parallel group reduces
it; at EP 1 it is true of every parameter).
"""
import argparse
import copy
import functools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from make_known_answers import innermost, join_group, leave_group, persistent_tensors, versions, write_json  # noqa: E402

DTYPES = {"torch.bfloat16": "bf16", "torch.float32": "fp32"}


def gemma1():
    import transformers as T
    from make_hf import BASE
    return T.GemmaConfig(**{**BASE, "head_dim": 32, "tie_word_embeddings": True})


def deepseek_v2_lite():
    """DeepSeek V2 whose queries are not compressed."""
    import make_hf
    config = make_hf.AWKWARD["deepseek_v2"]()
    config.q_lora_rank = None
    return config


def mixtral():
    """The fields of a MixtralConfig that decide the parameters, in Megatron's names."""
    import torch.nn.functional as F
    from megatron.bridge.models.gpt_provider import GPTModelProvider
    return GPTModelProvider(num_layers=2, hidden_size=64, num_attention_heads=4, num_query_groups=2,
                            ffn_hidden_size=32, moe_ffn_hidden_size=32, num_moe_experts=4, moe_router_topk=2, vocab_size=384,
                            normalization="RMSNorm", gated_linear_unit=True, activation_func=F.silu,
                            add_bias_linear=False, add_qkv_bias=False, position_embedding_type="rope",
                            share_embeddings_and_output_weights=False, moe_grouped_gemm=True, seq_length=128,
                            moe_token_dispatcher_type="alltoall")


# Families beyond the Bridge: the variant of testdata/family_configs that is built.
OWN = {"arcee": "plain", "cwm": "window", "deepseek_v32": "q_lora", "dots1": "window", "ernie4_5": "tied", "glm": "plain",
       "glm4": "plain", "helium": "plain", "jais2": "plain", "llama4_text": "interleaved", "ministral": "window",
       "olmo2": "mha", "olmo3": "window", "persimmon": "norm", "phi3": "gqa", "qwen2_moe": "mlp_only", "seed_oss": "plain",
       "smollm3": "tied", "solar_open": "plain", "stablelm": "bias", "starcoder2": "tied", "youtu": "tied",
       "internlm3": None}
TESTDATA = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tests", "testdata", "family_configs")


def own_fields(family):
    """What the Megatron config of a family beyond the Bridge must hold; notes the config for the tests that compare."""
    known = os.path.join(TESTDATA, f"known_{family}.json")
    program = os.environ["WEIGHBRIDGE_PROGRAM"]
    if int(os.environ["RANK"]) == 0 and not os.path.exists(known):
        if OWN[family]:
            shutil.copy(os.path.join(TESTDATA, f"{family}_{OWN[family]}.v4.json"), known)
        else:
            with tempfile.TemporaryDirectory() as folder:
                subprocess.run([program, "toy", folder + "/toy", "--family", family], check=True, capture_output=True)
                shutil.copy(folder + "/toy/config.json", known)
    for _ in range(100):
        if os.path.exists(known) and os.path.getsize(known):
            break
        time.sleep(0.1)
    expanded = subprocess.run([program, "families", "expand", family, "--config", known, "--json"], check=True,
                              capture_output=True, text=True).stdout
    return {name: None if value == "none" else value for name, value in json.loads(expanded)["config"].items()}


def post_norm_spec(config, norms_before, wide_qk_norm):
    """GPTModel's layer with the norms after attention and MLP that the Bridge has for EXAONE 4 and Gemma."""
    from megatron.bridge.models.exaone.exaone4.exaone4_provider import exaone4_layer_spec
    from megatron.bridge.models.gpt_provider import default_layer_spec
    from megatron.bridge.models.olmoe.olmoe_provider import OLMoESelfAttention
    layer, after = default_layer_spec(config), exaone4_layer_spec(config).submodules
    attention, mlp = layer.submodules.self_attention, layer.submodules.mlp
    attention.submodules.linear_proj = after.self_attention.submodules.linear_proj
    if not norms_before:
        attention.submodules.linear_qkv = after.self_attention.submodules.linear_qkv
    layer.submodules.mlp = after.mlp if not norms_before else spec_of_mlp(mlp, after.mlp)
    if wide_qk_norm:
        attention.module = OLMoESelfAttention
    return layer


def spec_of_mlp(mlp, after):
    mlp = copy.deepcopy(mlp)
    mlp_submodules = mlp.keywords["submodules"] if isinstance(mlp, functools.partial) else mlp.submodules
    mlp_submodules.linear_fc2 = after.submodules.linear_fc2
    return mlp


def own_spec(family, fields):
    """The function that gives the modules of a layer, as [bridge.layer_spec] of the family names it, or the comment in it does."""
    from megatron.bridge.models.gpt_provider import default_layer_spec
    from megatron.core.models.gpt import experimental_attention_variant_module_specs as variants
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_decoder_block_spec
    if family in ("olmo2", "olmo3"):
        return functools.partial(post_norm_spec, norms_before=False, wide_qk_norm=True)
    if family == "glm4":
        return functools.partial(post_norm_spec, norms_before=True, wide_qk_norm=False)
    if fields.get("experimental_attention_variant"):
        return variants.get_transformer_block_with_experimental_attention_variant_spec
    if fields.get("qk_l2_norm") is not None or fields.get("multi_latent_attention") or isinstance(
            fields.get("moe_layer_freq"), list):
        return functools.partial(get_gpt_decoder_block_spec, use_transformer_engine=True)
    return default_layer_spec


def own(family):
    import torch.nn.functional as F
    from megatron.bridge.models.gpt_provider import GPTModelProvider
    from megatron.bridge.models.mla_provider import MLAModelProvider
    from megatron.core.activations import fast_gelu, squared_relu
    fields = own_fields(family)
    fields["activation_func"] = {"silu": F.silu, "gelu": F.gelu, "fast_gelu": fast_gelu,
                                 "squared_relu": squared_relu}[fields["activation_func"]]
    if fields.get("num_moe_experts"):
        fields.update(moe_grouped_gemm=True, moe_token_dispatcher_type="alltoall")
    provider = MLAModelProvider if fields.get("multi_latent_attention") else GPTModelProvider
    return provider(**fields, make_vocab_size_divisible_by=2, transformer_layer_spec=own_spec(family, fields))


# family -> (table of make_hf, entry) or a function that gives a config or a provider
FAMILIES = {"llama": ("BASIC", "llama_untied"), "mistral": ("BASIC", "mistral"), "qwen2": ("BASIC", "qwen2"),
            "qwen3": ("BASIC", "qwen3"), "qwen3_moe": ("BASIC", "qwen3_moe"), "mixtral": mixtral,
            "olmoe": ("AWKWARD", "olmoe"), "gemma": gemma1, "gemma2": ("BASIC", "gemma2"),
            "gemma3": ("AWKWARD", "gemma3"), "nemotron": ("BASIC", "nemotron"),
            "deepseek_v2": ("AWKWARD", "deepseek_v2"), "deepseek_v2_lite": deepseek_v2_lite,
            "deepseek_v3": ("BASIC", "deepseek_v3"),
            "gpt_oss": ("BASIC", "gpt_oss_ns")}
FAMILIES.update({family: functools.partial(own, family) for family in OWN})
MOE = ("qwen2_moe", "llama4_text", "dots1", "solar_open", "deepseek_v32", "qwen3_moe", "mixtral", "olmoe", "deepseek_v2", "deepseek_v2_lite", "deepseek_v3", "gpt_oss")


def variants(family):
    """(label, spec, grouped experts)"""
    if family not in MOE:
        return [("te", "te", True), ("local", "local", True)]
    return [("te", "te", True), ("te_sequential", "te", False), ("local", "local", True),
            ("local_sequential", "local", False)]


def provider_of(family):
    import make_hf
    import transformers
    from megatron.bridge import AutoBridge
    entry = FAMILIES[family]
    config = getattr(make_hf, entry[0])[entry[1]]() if isinstance(entry, tuple) else entry()
    if not isinstance(config, transformers.PretrainedConfig):
        return config
    name = transformers.AutoModelForCausalLM._model_mapping[type(config)]
    config.architectures = [(name[0] if isinstance(name, tuple) else name).__name__]
    return AutoBridge.from_hf_config(config).to_megatron_provider(load_weights=False)


def use_local_spec(provider):
    """Replaces the provider's Transformer Engine spec by Megatron's own, as a user of the same spec function would."""
    from megatron.bridge.models.gpt_provider import default_layer_spec, local_layer_spec
    spec = provider.transformer_layer_spec
    if getattr(spec, "func", None) is post_norm_spec:
        raise NotImplementedError("the norms after are Transformer Engine modules; there is no local spec")
    if isinstance(spec, functools.partial):
        provider.transformer_layer_spec = functools.partial(spec.func, **{**spec.keywords, "use_transformer_engine": False})
    elif spec is default_layer_spec:
        provider.transformer_layer_spec = local_layer_spec
    elif spec.__name__ == "olmoe_layer_spec":
        module = spec(provider).submodules.self_attention.module

        def olmoe_local(config):
            layer = local_layer_spec(config)
            layer.submodules.self_attention.module = module
            return layer
        provider.transformer_layer_spec = olmoe_local
    else:
        raise NotImplementedError(f"{spec.__name__} names Transformer Engine modules only; there is no local spec")


def build(bridge_cpu, store, family, spec, grouped, tp, ep=1):
    """(name, tensor, is parameter) of this rank; `store` is a folder for the processes to meet in."""
    import torch
    from megatron.core import parallel_state as ps
    etp = 1 if family == "gpt_oss" else tp
    join_group(int(os.environ["RANK"]), 2, os.path.join(store, f"{family}.{spec}.{grouped}.{tp}.{ep}"))
    ps.initialize_model_parallel(tensor_model_parallel_size=tp, expert_model_parallel_size=ep,
                                 expert_tensor_parallel_size=etp)
    try:
        for name in [k for k in os.environ if k.startswith("NVTE_")]:
            del os.environ[name]
        provider = provider_of(family)
        provider.tensor_model_parallel_size, provider.expert_tensor_parallel_size = tp, etp
        # Sparse attention asks for sequence parallelism, which moves no parameter.
        provider.expert_model_parallel_size, provider.sequence_parallel = ep, family == "deepseek_v32" and tp > 1
        for name in bridge_cpu.FUSIONS:
            if hasattr(provider, name):
                setattr(provider, name, False)
        provider.attention_dropout = provider.hidden_dropout = 0.0
        provider.params_dtype = provider.pipeline_dtype = provider.autocast_dtype = torch.bfloat16
        provider.bf16, provider.fp16 = True, False
        if not grouped:
            provider.moe_grouped_gemm = False
        if spec == "local":
            use_local_spec(provider)
        provider.finalize()
        part = provider.provide_distributed_model(wrap_with_ddp=False, use_cpu_initialization=True)[0]
        model = bridge_cpu.unwrap(part)
        parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
        return [(name, tensor, name in parameters) for name, tensor in persistent_tensors(model)]
    finally:
        leave_group()


def describe(one, two, experts_cut, label):
    """Rows of one variant out of the TP 1, the TP 2 and the EP 2 model (None for dense families)."""
    assert [n for n, _, _ in one] == [n for n, _, _ in two], "TP 2 has other names"
    reduced = {name: getattr(tensor, "allreduce", True) for name, tensor, _ in experts_cut or two}
    rows = []
    for (name, full, is_parameter), (_, cut, _) in zip(one, two):
        axes = [i for i, (a, b) in enumerate(zip(full.shape, cut.shape)) if a != b]
        rows.append({"spec": label, "name": name, "kind": "parameter" if is_parameter else "buffer",
                     "shape": list(full.shape), "dtype": DTYPES[str(full.dtype)], "cut": axes[0] if axes else None,
                     "tensor_model_parallel": bool(getattr(cut, "tensor_model_parallel", False)),
                     "partition_dim": getattr(cut, "partition_dim", -1), "allreduce": reduced[first_rank_name(name, reduced)]})
    return rows


def first_rank_name(name, names):
    """`name`, or for an expert that another rank holds at EP 2 the name of expert 0."""
    if name in names:
        return name
    return re.sub(r"(\.experts\.linear_fc[12]\.(?:weight|bias)|\.local_experts\.)\d+", r"\g<1>0", name)


def worker(rank, families, out, oracles, store):
    sys.path.insert(0, oracles)
    import bridge_cpu
    bridge_cpu.patch_cuda()
    bridge_cpu.redirect_cuda_tensors()
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank), OMP_NUM_THREADS="1")
    for family in families:
        rows, refused = [], {}
        for label, spec, grouped in variants(family):
            try:
                one, two = (build(bridge_cpu, store, family, spec, grouped, tp) for tp in (1, 2))
                experts_cut = build(bridge_cpu, store, family, spec, grouped, 1, 2) if family in MOE else None
                rows += describe(one, two, experts_cut, label)
            except Exception as e:
                refused[label] = f"{type(e).__name__}: {str(e)[:400]} ({innermost(e)})"
        if rank == 0:
            through = "megatron-core GPTModel, no bridge" if family == "mixtral" or family in OWN else "bridge"
            write_json(os.path.join(out, family + ".json"),
                       {"family": family, **versions(), "built_through": through, "refused": refused}, "tensors", rows)
            print(family, len(rows), json.dumps(refused), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "shared", "oracles")
    parser.add_argument("--oracles", default=default, help="folder with bridge_cpu.py and make_hf.py")
    parser.add_argument("out")
    parser.add_argument("families", nargs="*")
    args = parser.parse_args()
    oracles = os.path.abspath(args.oracles)
    import torch
    with tempfile.TemporaryDirectory() as store:
        torch.multiprocessing.spawn(worker, (args.families or list(FAMILIES), args.out, oracles, store), 2)


if __name__ == "__main__":
    main()
