#!/usr/bin/env python3
"""Checkpoints as earlier versions of Megatron-Core write them (tools/make_old_versions.sh runs this).

  make_old_versions.py dump ORACLES HF_DIR OUT.safetensors
      in the environment of Megatron Bridge: its own import of a Hugging Face model, as the parameters have it in memory
  make_old_versions.py save ORACLES IN.safetensors MEGATRON_DIR [--spec te|local] [--numbered] [--optimizer]
      in an environment with an earlier megatron-core: loads these strictly into that version's GPTModel and saves it
      as Megatron-LM does, torch_dist with `args` in the common state

Nothing of Weighbridge takes part. Names in memory are the same in all versions, so the real modules move the weights.
"""
import argparse
import json
import os
import pathlib
import sys
import warnings

warnings.filterwarnings("ignore")
ITERATION = 100
# Fields of Megatron-Core's TransformerConfig; the values are the Bridge's.
FIELDS = ("num_layers", "hidden_size", "ffn_hidden_size", "num_attention_heads", "num_query_groups", "kv_channels",
          "layernorm_epsilon", "normalization", "gated_linear_unit", "add_bias_linear", "add_qkv_bias", "qk_layernorm",
          "num_moe_experts", "moe_ffn_hidden_size", "moe_router_topk", "moe_router_score_function",
          "moe_router_pre_softmax", "moe_router_enable_expert_bias", "moe_router_num_groups", "moe_router_group_topk",
          "moe_router_topk_scaling_factor", "moe_shared_expert_intermediate_size", "moe_layer_freq",
          "multi_latent_attention", "q_lora_rank", "kv_lora_rank", "qk_head_dim", "qk_pos_emb_head_dim", "v_head_dim",
          "rotary_base", "rotary_percent", "rotary_scaling_factor", "mscale", "mscale_all_dim")
OTHERS = ("vocab_size", "seq_length", "share_embeddings_and_output_weights", "position_embedding_type")


def dump(oracles, hf, out):
    sys.path.insert(0, oracles)
    import bridge_cpu
    import torch
    from safetensors.torch import save_file
    bridge_cpu.patch_cuda()
    bridge_cpu.redirect_cuda_tensors()
    bridge_cpu.init_parallel()
    _, parts = bridge_cpu.build(hf, torch.bfloat16)
    model = bridge_cpu.unwrap(parts[0])
    config = {name: getattr(model.config, name, None) for name in FIELDS + OTHERS}
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()
               if isinstance(tensor, torch.Tensor) and "_extra_state" not in name}
    save_file(tensors, out, metadata={"config": json.dumps(config)})


def patch_old_versions(torch, oracles):
    """What the oracle kit does for 0.19, where these versions need more."""
    sys.path.insert(0, str(pathlib.Path(oracles) / "te_standin"))
    sys.path.insert(0, oracles)
    import bridge_cpu
    bridge_cpu.patch_cuda()
    bridge_cpu.redirect_cuda_tensors()
    bridge_cpu.init_parallel()
    return bridge_cpu


def transformer_config(values):
    import dataclasses
    import torch
    from megatron.core.transformer import MLATransformerConfig, TransformerConfig
    kind = MLATransformerConfig if values["multi_latent_attention"] else TransformerConfig
    known = {field.name for field in dataclasses.fields(kind)}
    given = {name: values[name] for name in FIELDS if name in known and values[name] is not None}
    given |= {"activation_func": torch.nn.functional.silu, "bf16": True, "params_dtype": torch.bfloat16,
              "use_cpu_initialization": True, "attention_dropout": 0.0, "hidden_dropout": 0.0,
              "moe_grouped_gemm": bool(values["num_moe_experts"]), "moe_token_dispatcher_type": "alltoall",
              "persist_layer_norm": False, "bias_dropout_fusion": False, "perform_initialization": False,
              "gradient_accumulation_fusion": False}
    return kind(**{name: value for name, value in given.items() if name in known})


def layer_spec(config, values, spec):
    from megatron.core.models.gpt import gpt_layer_specs as specs
    if isinstance(config.moe_layer_freq, list):
        return specs.get_gpt_decoder_block_spec(config, use_transformer_engine=spec == "te")
    common = {"num_experts": config.num_moe_experts, "qk_layernorm": config.qk_layernorm,
              "multi_latent_attention": bool(values["multi_latent_attention"])}
    if spec == "local":
        config.moe_grouped_gemm = False
        return specs.get_gpt_layer_local_spec(**common)
    return specs.get_gpt_layer_with_transformer_engine_spec(moe_grouped_gemm=bool(config.num_moe_experts), **common)


def megatron_lm_arguments(values):
    """The arguments that Megatron-LM would have been started with for this model."""
    names = dict(values)
    for name in ("layernorm_epsilon", "num_moe_experts", "gated_linear_unit", "share_embeddings_and_output_weights"):
        names.pop(name)
    groups = values["num_query_groups"] != values["num_attention_heads"]
    vocab = names.pop("vocab_size")
    return argparse.Namespace(
        **names, norm_epsilon=values["layernorm_epsilon"], num_experts=values["num_moe_experts"], swiglu=True,
        squared_relu=False, openai_gelu=False, quick_geglu=False, apply_layernorm_1p=False,
        group_query_attention=groups, max_position_embeddings=values["seq_length"],
        untie_embeddings_and_output_weights=not values["share_embeddings_and_output_weights"],
        padded_vocab_size=vocab, vocab_size=None, make_vocab_size_divisible_by=128, use_rope_scaling=False,
        tensor_model_parallel_size=1, pipeline_model_parallel_size=1, expert_model_parallel_size=1,
        expert_tensor_parallel_size=1, attention_dropout=0.0, hidden_dropout=0.0, init_method_std=0.02)


def save(oracles, source, target, spec, numbered, optimizer):
    import torch
    kit = patch_old_versions(torch, oracles)
    from megatron.core import __version__, dist_checkpointing
    from megatron.core.dist_checkpointing.serialization import get_default_save_sharded_strategy
    from megatron.core.models.gpt import GPTModel
    from safetensors import safe_open
    with safe_open(source, "pt") as file:
        values = json.loads(file.metadata()["config"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    config = transformer_config(values)
    model = GPTModel(config=config, transformer_layer_spec=layer_spec(config, values, spec),
                     vocab_size=values["vocab_size"], max_sequence_length=values["seq_length"],
                     share_embeddings_and_output_weights=values["share_embeddings_and_output_weights"],
                     position_embedding_type=values["position_embedding_type"],
                     rotary_base=values["rotary_base"]).bfloat16()
    own = {name: tensor for name, tensor in model.state_dict().items()
           if isinstance(tensor, torch.Tensor) and "_extra_state" not in name}
    if spec == "local":
        tensors = local_names(tensors, own)
    assert own.keys() == tensors.keys(), sorted(own.keys() ^ tensors.keys())
    with torch.no_grad():
        for name, tensor in own.items():
            assert tensor.shape == tensors[name].shape, name
            # The router's correction is float32 in memory, which .bfloat16() above does not know.
            if tensor.dtype == tensors[name].dtype:
                tensor.copy_(tensors[name])
            else:
                owner, _, leaf = name.rpartition(".")
                setattr(model.get_submodule(owner), leaf, tensors[name])
    folder = pathlib.Path(target) / f"iter_{ITERATION:07}"
    folder.mkdir(parents=True)
    # Of versions that know both: layers with numbers in their keys, or stacked.
    metadata = {"non_homogeneous_layers": True} if numbered else None
    state = model.sharded_state_dict(metadata=metadata)
    if optimizer:
        state |= optimizer_states(torch, state)
    state |= {"args": megatron_lm_arguments(values), "checkpoint_version": 3.0, "iteration": ITERATION}
    dist_checkpointing.save(state, str(folder), get_default_save_sharded_strategy("torch_dist"))
    (pathlib.Path(target) / "latest_checkpointed_iteration.txt").write_text(str(ITERATION))
    replace_path(folder)
    print(__version__, torch.__version__, target, len(own), "parameters")
    del kit


def optimizer_states(torch, state):
    """Entries as the distributed optimizer saves them: float32, flattened."""
    import dataclasses
    from megatron.core.dist_checkpointing import ShardedTensor
    out = {}
    for sharded in [value for value in state.values() if isinstance(value, ShardedTensor)]:
        flat = torch.zeros(sharded.data.numel(), dtype=torch.float32)
        key = f"optimizer.state.exp_avg.{sharded.key}"
        out[f"{key}.{len(out)}"] = dataclasses.replace(sharded, key=key, data=flat, dtype=torch.float32,
                                                       flattened_range=slice(0, flat.numel()))
    return out


def local_names(tensors, own):
    """The same values under the names that the local spec has: its norms and experts are modules of their own."""
    out = {}
    for name, tensor in tensors.items():
        new = name.replace("self_attention.linear_qkv.layer_norm_weight", "input_layernorm.weight")
        new = new.replace("mlp.linear_fc1.layer_norm_weight", "pre_mlp_layernorm.weight")
        head, dot, expert = new.rpartition(".weight")
        if ".experts.linear_fc" in new and dot and expert.isdigit():
            new = head.replace(".experts.", f".experts.local_experts.{expert}.") + ".weight"
        out[new] = tensor
    return out


def replace_path(folder):
    """The path of this machine goes out of .metadata, by pickling it again with the same structure."""
    import pickle
    file = folder / ".metadata"
    metadata = pickle.loads(file.read_bytes())
    if getattr(metadata, "storage_meta", None) is not None:
        metadata.storage_meta.checkpoint_id = f"/checkpoints/{folder.name}"
    file.write_bytes(pickle.dumps(metadata))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, source in (("dump", "hf"), ("save", "source")):
        command = commands.add_parser(name)
        command.add_argument("oracles")
        command.add_argument(source)
        command.add_argument("target")
    command.add_argument("--spec", choices=("te", "local"), default="te")
    command.add_argument("--numbered", action="store_true", help="layer numbers in the keys")
    command.add_argument("--optimizer", action="store_true", help="with states as the distributed optimizer has them")
    args = parser.parse_args()
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
    if args.command == "dump":
        dump(args.oracles, args.hf, args.target)
    else:
        save(args.oracles, args.source, args.target, args.spec, args.numbered, args.optimizer)


if __name__ == "__main__":
    main()
