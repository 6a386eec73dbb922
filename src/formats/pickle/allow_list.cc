// The names that a pickle may hold. Nothing here is ever looked up or called; the list exists so
// that a file that would run code under Python is refused by name instead of being read past.
#include <algorithm>
#include <span>
#include <string_view>
#include <unordered_set>

#include "formats/pickle/read.h"

namespace weighbridge::pickle {
namespace {

// torch.save, for tensors (torch/_utils.py, torch/_tensor.py, torch/storage.py).
constexpr std::string_view kTensors[] = {
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_tensor_v3",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_parameter_with_state",
    "torch._utils._rebuild_sparse_tensor",
    "torch._utils._rebuild_nested_tensor",
    "torch._utils._rebuild_qtensor",
    "torch._utils._rebuild_meta_tensor_no_storage",
    "torch._utils._rebuild_wrapper_subclass",
    "torch._utils._rebuild_device_tensor_from_cpu_tensor",
    "torch._utils._rebuild_device_tensor_from_numpy",
    "torch._tensor._rebuild_from_type",
    "torch._tensor._rebuild_from_type_v2",
    "torch.Tensor",
    "torch.nn.parameter.Parameter",
    "torch.nn.parameter.Buffer",
    "torch.Size",
    "torch.device",
    "torch.serialization._get_layout",
    "torch.per_tensor_affine",
    "torch.per_channel_affine",
    "torch.per_channel_affine_float_qparams",
    // A plain pickle of a tensor, as in argparse.Namespace objects that Megatron keeps.
    "torch.storage._load_from_bytes",
    "torch.storage.TypedStorage",
    "torch.storage.UntypedStorage",
};

// torch.save: what a persistent id names (torch/storage.py, _dtype_to_storage_type_map); older
// versions write the class of the device, torch.cuda.FloatStorage.
constexpr std::string_view kStorages[] = {
    "ByteStorage",     "CharStorage",    "ShortStorage",        "IntStorage",
    "LongStorage",     "HalfStorage",    "BFloat16Storage",     "FloatStorage",
    "DoubleStorage",   "BoolStorage",    "ComplexFloatStorage", "ComplexDoubleStorage",
    "QInt8Storage",    "QUInt8Storage",  "QInt32Storage",       "QUInt4x2Storage",
    "QUInt2x4Storage", "UntypedStorage",
};

// Everything that has a torch dtype in it: .metadata, args, tensors of rebuild v3.
constexpr std::string_view kDTypes[] = {
    "uint8",          "uint16",
    "uint32",         "uint64",
    "int8",           "int16",
    "int32",          "int64",
    "float16",        "bfloat16",
    "float32",        "float64",
    "bool",           "complex32",
    "complex64",      "complex128",
    "float8_e4m3fn",  "float8_e4m3fnuz",
    "float8_e5m2",    "float8_e5m2fnuz",
    "float8_e8m0fnu", "float4_e2m1fn_x2",
    "qint8",          "quint8",
    "qint32",         "quint4x2",
    "quint2x4",       "bits8",
    "bits16",         "bits1x8",
    "bits2x4",        "bits4x2",
    "uint1",          "uint2",
    "uint3",          "uint4",
    "uint5",          "uint6",
    "uint7",          "int1",
    "int2",           "int3",
    "int4",           "int5",
    "int6",           "int7",
};

// torch.distributed.checkpoint: the file .metadata.
constexpr std::string_view kDistributed[] = {
    "torch.distributed.checkpoint.metadata.Metadata",
    "torch.distributed.checkpoint.metadata.MetadataIndex",
    "torch.distributed.checkpoint.metadata.TensorStorageMetadata",
    "torch.distributed.checkpoint.metadata.TensorProperties",
    "torch.distributed.checkpoint.metadata.ChunkStorageMetadata",
    "torch.distributed.checkpoint.metadata.BytesStorageMetadata",
    "torch.distributed.checkpoint.metadata.StorageMeta",
    "torch.distributed.checkpoint.metadata._MEM_FORMAT_ENCODING",
    "torch.distributed.checkpoint.filesystem._StorageInfo",
    // Plans of the save, which megatron-core 0.12 and 0.15 keep beside the inventory.
    "torch.distributed.checkpoint.planner.SavePlan",
    "torch.distributed.checkpoint.planner.WriteItem",
    "torch.distributed.checkpoint.planner.WriteItemType",
    "torch.distributed.checkpoint.planner.TensorWriteData",
    "torch.distributed.checkpoint.planner.BytesIOWriteData",
    "megatron.core.dist_checkpointing.strategies.torch.MCoreSavePlan",
    // megatron-core 0.13 to 0.16: Metadata with shapes of flattened optimizer tensors.
    "megatron.core.dist_checkpointing.strategies.torch.MCoreMetadata",
    // Before torch 2.3.
    "torch.distributed._shard.sharded_tensor.metadata.TensorProperties",
    "torch.distributed._shard.sharded_tensor.metadata.MEM_FORMAT_ENCODING",
};

// Python's own types, in the `args` of Megatron, in state dicts (OrderedDict, _io.BytesIO for
// _extra_state) and in what protocols below 3 and 4 lack an opcode for (bytes, sets).
constexpr std::string_view kPython[] = {
    "collections.OrderedDict",
    "collections.defaultdict",
    "collections.Counter",
    "collections.deque",
    "argparse.Namespace",
    "types.SimpleNamespace",
    "builtins.object",
    "builtins.bool",
    "builtins.int",
    "builtins.float",
    "builtins.complex",
    "builtins.str",
    "builtins.bytes",
    "builtins.bytearray",
    "builtins.list",
    "builtins.tuple",
    "builtins.set",
    "builtins.frozenset",
    "builtins.dict",
    "builtins.range",
    "builtins.slice",
    "copyreg._reconstructor",
    "_codecs.encode",
    "_io.BytesIO",
    "io.BytesIO",
    "datetime.datetime",
    "datetime.date",
    "datetime.timedelta",
    "datetime.timezone",
    "pathlib.Path",
    "pathlib.PosixPath",
    "pathlib.PurePosixPath",
    "pathlib.WindowsPath",
    "pathlib.PureWindowsPath",
    "pathlib._local.Path",
    "pathlib._local.PosixPath",
    "pathlib._local.PurePosixPath",
    "pathlib._local.WindowsPath",
    "pathlib._local.PureWindowsPath",
};

// numpy: scalars in args, the state of its random generator in Megatron's rng_state.
constexpr std::string_view kNumpy[] = {
    "numpy.ndarray",
    "numpy.dtype",
    "numpy.core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy.core.numeric._frombuffer",
    "numpy._core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
    "numpy._core.numeric._frombuffer",
};

// Modules that hold nothing but enums and plain records, in `args` and common state. One identifier
// may follow.
constexpr std::string_view kModules[] = {
    // Megatron-Core, and Megatron-LM before and after the split of its model folder.
    "megatron.core.enums.",
    "megatron.core.transformer.enums.",
    "megatron.core.rerun_state_machine.",
    "megatron.legacy.model.enums.",
    "megatron.model.enums.",
    // args.pipeline_model_parallel_layout.
    "megatron.core.transformer.pipeline_parallel_layer_layout.",
    // signal.Signals and its members: Megatron's args.exit_signal.
    "signal.SIG",
};

using Names = std::unordered_set<std::string_view>;

Names ExactNames() {
  Names names = {"signal.Signals"};
  for (const std::span<const std::string_view> group :
       {std::span<const std::string_view>(kTensors),
        std::span<const std::string_view>(kDistributed), std::span<const std::string_view>(kPython),
        std::span<const std::string_view>(kNumpy)}) {
    names.insert(group.begin(), group.end());
  }
  return names;
}

template <size_t N>
bool Contains(const std::string_view (&names)[N], std::string_view name) {
  return std::find(std::begin(names), std::end(names), name) != std::end(names);
}

bool IsIdentifier(std::string_view name) {
  return !name.empty() && std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
  });
}

}  // namespace

bool TorchGlobals(std::string_view global) {
  static const Names& names = *new Names(ExactNames());
  if (names.contains(global)) return true;
  for (const std::string_view prefix : kModules) {
    if (global.starts_with(prefix)) return IsIdentifier(global.substr(prefix.size()));
  }
  if (!global.starts_with("torch.")) return false;
  std::string_view name = global.substr(6);
  if (Contains(kDTypes, name)) return true;
  if (name.starts_with("cuda.")) name.remove_prefix(5);
  return Contains(kStorages, name);
}

}  // namespace weighbridge::pickle
