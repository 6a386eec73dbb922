#!/usr/bin/env python3
"""Writes the torch_dist checkpoint of sparse_model.py's Kimi K2: a real .metadata, and data that are one hole.

usage: sparse_megatron.py FOLDER

Each expert is a chunk of its own, as Megatron-Core saves them. The entries have no content, so the folder is for level L0 alone.
"""
import math
import pathlib
import pickle
import shutil
import sys
import types

from sparse_model import KIMI_K2


class Named:
    """Pickled as the name of something in a module."""

    def __init__(self, module, name):
        self.module, self.name = module, name

    def __reduce__(self):
        return self.name

    def __call__(self):
        """Only pickle asks: it wants what it is told to call to be callable."""


def fake(module, name, **members):
    """A class that is pickled as `module`.`name` with its attributes, as the original is."""
    found = type(name, (), {"__module__": module, **members})
    setattr(modules(module), name, found)
    return found


def modules(path):
    """sys.modules[path], made where it is not there, so that torch need not be installed."""
    for i in range(1, path.count(".") + 2):
        name = ".".join(path.split(".")[:i])
        sys.modules.setdefault(name, types.ModuleType(name))
    return sys.modules[path]


class Size(tuple):
    def __reduce__(self):
        return SIZE, (tuple(self),)


def constant(module, name):
    value = Named(module, name)
    value.__module__ = module
    setattr(modules(module), name, value)
    return value


METADATA = "torch.distributed.checkpoint.metadata"
SIZE = constant("torch", "Size")
BF16, FP32 = constant("torch", "bfloat16"), constant("torch", "float32")
LAYOUT, FORMAT = constant("torch.serialization", "_get_layout"), constant(METADATA, "_MEM_FORMAT_ENCODING")


class Call:
    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


Metadata, Index = fake(METADATA, "Metadata"), fake(METADATA, "MetadataIndex")
Tensor, Chunk = fake(METADATA, "TensorStorageMetadata"), fake(METADATA, "ChunkStorageMetadata")
StorageInfo = fake("torch.distributed.checkpoint.filesystem", "_StorageInfo")
Properties = fake(METADATA, "TensorProperties", __getstate__=lambda self: self.state)


def make(kind, **attributes):
    value = kind()
    vars(value).update(attributes)
    return value


def properties(dtype):
    layout = Call(LAYOUT, "torch.strided")
    return make(Properties, state=(dtype, layout, False, Call(FORMAT, 0), False))


def parameters(config):
    """{key: (shape, dtype)} of the whole model; experts have the axis of experts in front."""
    hidden, heads, moe_ffn = config["hidden_size"], config["num_attention_heads"], config["moe_intermediate_size"]
    experts, shared = config["n_routed_experts"], config["n_shared_experts"] * moe_ffn
    query, latent, rope = config["q_lora_rank"], config["kv_lora_rank"], config["qk_rope_head_dim"]
    nope, value, ffn = config["qk_nope_head_dim"], config["v_head_dim"], config["intermediate_size"]
    attention = {
        "input_layernorm.weight": [hidden], "self_attention.linear_q_down_proj.weight": [query, hidden],
        "self_attention.linear_q_up_proj.layer_norm_weight": [query],
        "self_attention.linear_q_up_proj.weight": [heads * (nope + rope), query],
        "self_attention.linear_kv_down_proj.weight": [latent + rope, hidden],
        "self_attention.linear_kv_up_proj.layer_norm_weight": [latent],
        "self_attention.linear_kv_up_proj.weight": [heads * (nope + value), latent],
        "self_attention.linear_proj.weight": [hidden, heads * value]}
    dense = {"mlp.linear_fc1.layer_norm_weight": [hidden], "mlp.linear_fc1.weight": [2 * ffn, hidden],
             "mlp.linear_fc2.weight": [hidden, ffn]}
    moe = {"pre_mlp_layernorm.weight": [hidden], "mlp.router.weight": [experts, hidden],
           "mlp.router.expert_bias": [experts], "mlp.experts.experts.linear_fc1.weight": [experts, 2 * moe_ffn, hidden],
           "mlp.experts.experts.linear_fc2.weight": [experts, hidden, moe_ffn],
           "mlp.shared_experts.linear_fc1.weight": [2 * shared, hidden],
           "mlp.shared_experts.linear_fc2.weight": [hidden, shared]}
    ends = [config["vocab_size"], hidden]
    found = {"embedding.word_embeddings.weight": ends}
    for layer in range(config["num_hidden_layers"]):
        for name, shape in {**attention, **(dense if layer < config["first_k_dense_replace"] else moe)}.items():
            found[f"decoder.layers.{layer}.{name}"] = shape
    found |= {"decoder.final_layernorm.weight": [hidden], "output_layer.weight": ends}
    return {key: (shape, FP32 if key.endswith("expert_bias") else BF16) for key, shape in found.items()}


def boxes(key, shape):
    """(offsets, sizes) of the chunks."""
    if ".experts.experts." not in key:
        return [([0] * len(shape), shape)]
    return [([expert, 0, 0], [1, *shape[1:]]) for expert in range(shape[0])]


def write_sparse_megatron(folder, config=None):
    """The checkpoint's folder; written anew each time."""
    config = config or KIMI_K2
    shutil.rmtree(folder, ignore_errors=True)
    iteration = folder / "iter_0000000"
    iteration.mkdir(parents=True)
    tensors, storage, end = {}, {}, 0
    for key, (shape, dtype) in parameters(config).items():
        chunks = boxes(key, shape)
        tensors[key] = make(Tensor, properties=properties(dtype), size=Size(shape),
                            chunks=[make(Chunk, offsets=Size(at), sizes=Size(sizes)) for at, sizes in chunks])
        for at, sizes in chunks:
            # Some 1300 bytes of an entry are around its data.
            length = (4 if dtype is FP32 else 2) * math.prod(sizes) + 1300
            index = make(Index, fqn=key, offset=Size(at), index=None)
            storage[id(index)] = (index, make(StorageInfo, relative_path="__0_0.distcp", offset=end, length=length))
            end += length
    metadata = make(Metadata, state_dict_metadata=tensors, planner_data=None, storage_data=dict(storage.values()),
                    storage_meta=None, version="1.0.0")
    (iteration / ".metadata").write_bytes(pickle.dumps(metadata, protocol=4))
    (iteration / "metadata.json").write_text('{"sharded_backend": "torch_dist", "sharded_backend_version": 1}')
    with (iteration / "__0_0.distcp").open("wb") as data:
        data.truncate(end)
    (folder / "latest_checkpointed_iteration.txt").write_text("0")
    return folder


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    print(write_sparse_megatron(pathlib.Path(sys.argv[1])))
