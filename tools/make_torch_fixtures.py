#!/usr/bin/env python3
"""Writes tests/testdata/torch: files of torch.save, each with what torch itself loads from it, as JSON beside it.

    python tools/make_torch_fixtures.py tests/testdata/torch [CHECKPOINT]

Needs torch (the fixtures were written by 2.11.0). CHECKPOINT, a folder of Megatron's torch_dist format, is where .metadata and
the first entries of a .distcp are taken from; without it these stay as they are.

Per tensor: dtype, shape, strides (of the tensor that was saved), contiguous, and the bytes of its contiguous copy in hex.
"""
import collections
import io
import json
import pickle
import sys
import zipfile
from pathlib import Path

import torch

F8 = ["float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"]
DTYPES = ["float32", "float64", "float16", "bfloat16", "uint8", "int8", "int16", "int32", "int64", "bool", "complex64",
          "uint16", "uint32", "uint64", *F8]


def values(shape, dtype=torch.float32, seed=0):
    numel = 1
    for extent in shape:
        numel *= extent
    generator = torch.Generator().manual_seed(seed)
    raw = torch.randint(0, 100, (numel,), generator=generator)
    return raw.reshape(shape).to(dtype)


def hexed(tensor):
    flat = tensor.detach().resolve_conj().resolve_neg().contiguous().reshape(-1)
    return bytes(flat.view(torch.uint8).tolist()).hex() if flat.numel() else ""


def describe(tensor):
    return {"dtype": str(tensor.dtype).removeprefix("torch."), "shape": list(tensor.shape),
            "strides": list(tensor.stride()), "contiguous": tensor.is_contiguous(), "hex": hexed(tensor)}


def describe_all(root):
    return {name: describe(value) for name, value in root.items() if isinstance(value, torch.Tensor)}


def dtypes():
    return {name: values((2, 3), getattr(torch, name), seed) for seed, name in enumerate(DTYPES)}


def shapes():
    return {"scalar": torch.tensor(2.5), "one": torch.ones(1), "empty": torch.zeros(0), "empty_2d": torch.zeros(3, 0, 2),
            "four": values((2, 1, 3, 2)), "ones": values((1, 1, 1))}


def views():
    base = values((6, 8))
    flat = values((24,), torch.bfloat16, 1)
    shared = values((4, 4), torch.int32, 2)
    return {"base": base, "rows": base[2:5], "row": base[3], "last": base[5, 7], "columns": base[:, 2:5], "transposed": base.t(),
            "every_second": base[::2], "expanded": torch.tensor([3.0]).expand(4, 3), "permuted": values((2, 3, 4)).permute(2, 0, 1),
            "diagonal": base.diagonal(), "tail": flat[16:], "reshaped": flat.view(4, 6), "empty_view": base[6:], "tied.a": shared,
            "tied.b": shared, "one_row_any_stride": base[:1, :], "transposed_vector": values((1, 5)).t()}


def parameters():
    state = torch.nn.Parameter(values((2, 2)))
    state.tensor_model_parallel = True
    attributed = values((3,))
    attributed.note = "kept"
    frozen = torch.nn.Parameter(values((2,)), requires_grad=False)
    return {"parameter": torch.nn.Parameter(values((2, 3))), "frozen": frozen, "with_state": state, "attributed": attributed,
            "buffer": torch.nn.Buffer(values((2,)))}


def module_state_dict():
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    return module.state_dict()  # an OrderedDict with _metadata


def refused():
    """Tensors that are read as an error; the text is part of it."""
    sparse = torch.eye(3).to_sparse()
    quantized = torch.quantize_per_tensor(torch.ones(2), 0.5, 0, torch.qint8)
    return {"sparse": (sparse, "_rebuild_sparse_tensor"), "meta": (torch.empty(2, 2, device="meta"), "_rebuild_meta_tensor"),
            "quantized": (quantized, "_rebuild_qtensor"), "complex128": (torch.zeros(2, dtype=torch.complex128), "ComplexDoubleStorage"),
            "complex32": (torch.zeros(2, dtype=torch.complex32), "torch.complex32"), "conjugate": (values((2,), torch.complex64).conj(), "conjugate"),
            "bits8": (torch.zeros(2, dtype=torch.uint8).view(torch.bits8), "torch.bits8"),
            "negative": (values((2,), torch.complex64).conj().imag, "negative view")}


def save(path, root, expected=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(root, path, **options)
    loaded = torch.load(path, weights_only=False)
    expected = describe_all(loaded) if expected is None else expected
    path.with_suffix(path.suffix + ".json").write_text(json.dumps(expected, indent=1) + "\n")


def save_shards(folder):
    """As transformers did with safe_serialization=False."""
    shards = {"pytorch_model-00001-of-00002.bin": {"embed.weight": values((5, 4), torch.bfloat16), "norm.weight": values((4,))},
              "pytorch_model-00002-of-00002.bin": {"head.weight": values((5, 4), torch.bfloat16, 7)}}
    everything, weight_map = {}, {}
    for name, tensors in shards.items():
        save(folder / name, collections.OrderedDict(tensors))
        everything.update(describe_all(tensors))
        weight_map.update({key: name for key in tensors})
    total = sum(t.numel() * t.element_size() for tensors in shards.values() for t in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")
    (folder / "expected.json").write_text(json.dumps(everything, indent=1) + "\n")
    for name in shards:
        (folder / f"{name}.json").unlink()


def save_all(out):
    save(out / "dtypes.pt", dtypes())
    save(out / "shapes.pt", shapes())
    save(out / "views.pt", views())
    save(out / "parameters.pt", parameters())
    save(out / "state_dict.bin", module_state_dict())
    save(out / "small.pt", {"a": values((2, 3)), "b": values((4,), torch.bfloat16)})
    for protocol in (3, 4, 5):
        save(out / f"protocol_{protocol}.pt", {"a": values((2, 3)), "e": values((2,), torch.float8_e4m3fn)}, pickle_protocol=protocol)
    torch.serialization.set_crc32_options(False)
    save(out / "no_crc.pt", {"a": values((2, 3))})
    torch.serialization.set_crc32_options(True)
    for key in ("state_dict", "model"):
        inner = {"x.weight": values((2, 2))}
        save(out / f"nested_{key}.pt", {key: inner, "epoch": 3, "optimizer": {"lr": 0.1}}, describe_all(inner))
    save(out / "not_a_state_dict.pt", [values((2,))], {})
    save(out / "not_flat.pt", {"a": values((2,)), "step": 5}, {})
    torch.save({"a": values((2,))}, out / "before_1_6.pt", _use_new_zipfile_serialization=False)
    tensors = refused()
    for name, (tensor, text) in tensors.items():
        torch.save({"t": tensor}, out / "refused" / f"{name}.pt")
    (out / "refused" / "expected.json").write_text(json.dumps({name: text for name, (_, text) in tensors.items()}, indent=1) + "\n")
    save_shards(out / "sharded")


# ---------------------------------------------------------------- of a torch_dist checkpoint

def describe_metadata(metadata):
    """The entries of a torch.distributed.checkpoint Metadata, as torch's own classes hold them."""
    tensors, others = {}, []
    for key, entry in metadata.state_dict_metadata.items():
        if hasattr(entry, "chunks"):
            tensors[key] = {"dtype": str(entry.properties.dtype), "size": list(entry.size),
                            "chunks": [[list(c.offsets), list(c.sizes)] for c in entry.chunks]}
        else:
            others.append(key)
    storage = [[index.fqn, None if index.offset is None else list(index.offset), info.relative_path, info.offset, info.length]
               for index, info in metadata.storage_data.items()]
    return {"tensors": tensors, "others": others, "storage": storage}


def copy_distributed(checkpoint, out):
    out.mkdir(parents=True, exist_ok=True)
    content = (checkpoint / ".metadata").read_bytes()
    (out / "metadata.pkl").write_bytes(content)
    metadata = pickle.loads(content)
    described = describe_metadata(metadata)
    (out / "metadata.json").write_text(json.dumps(described, indent=None) + "\n")
    wanted = {}
    for fqn, offset, path, begin, length in described["storage"]:
        kind = "tensor" if fqn in described["tensors"] else "bytes"
        if length <= 6000 and len([k for k in wanted.values() if k["kind"] == kind]) < 3:
            entry = (checkpoint / path).read_bytes()[begin:begin + length]
            loaded = torch.load(io.BytesIO(entry), weights_only=False)
            tensor = describe(loaded) if isinstance(loaded, torch.Tensor) else None
            name = f"entry_{len(wanted)}.zip"
            (out / name).write_bytes(entry)
            wanted[name] = {"kind": kind, "fqn": fqn, "offset": offset, "root": tensor}
    (out / "entries.json").write_text(json.dumps(wanted, indent=1) + "\n")


def main(arguments):
    out = Path(arguments[0])
    (out / "refused").mkdir(parents=True, exist_ok=True)
    save_all(out)
    if len(arguments) > 1:
        copy_distributed(Path(arguments[1]), out / "dist")
    for path in out.rglob("*.pt"):
        assert path.name == "before_1_6.pt" or zipfile.is_zipfile(path), path


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    main(sys.argv[1:])
