// Which of our transforms the mapping classes of Megatron Bridge are, and what the hooks on weights
// of its own bridges do. Source: megatron-bridge 0.6.2, models/conversion/param_mapping.py,
// models/conversion/model_bridge.py and the families' own files. Code is known by the module that
// it stands in: a class of somebody else's is another one, whatever its name.
#pragma once

#include <span>
#include <string_view>

#include "mapping/ops.h"

namespace weighbridge {

enum class MappingCut { kAny, kColumn, kRow, kReplicated };

// How a class cuts a tensor whose parts (gate and up; z, x, B, C, dt) are each cut over ranks.
enum class Packing {
  kEven,   // as one part: every rank gets another mixture of the parts
  kParts,  // each part by itself; wrong for a tensor of one part
  kBoth,   // the transform knows
};

// What a class transposes.
enum class Transposing {
  kNever,
  kArgument,  // what its permute_dims say, in both directions
  kByShape,   // on import where the shape fits only then; on export by transpose_on_export
  kOwn,       // on import where the shape fits only then; on export always
};

struct MappingClass {
  std::string_view name;                         // within its module
  std::string_view module;                       // below megatron.bridge
  std::span<const std::string_view> transforms;  // of mapping/transforms that it does
  std::span<const std::string_view> roles;       // in the order of the transform's sources
  MappingCut cut = MappingCut::kAny;             // what it does to tensors of parallel ranks
  Packing packing = Packing::kBoth;
  Transposing transposing = Transposing::kNever;
  Op op = Op::kNone;
  bool interleaved = false;  // HF alternates gate and up
  bool squeezes = false;     // HF has a leading axis of extent 1
  // A mix-in: leaves the conversion to the class behind it.
  bool passes_on = false;
};

// `code`: module and name, "megatron.bridge.models.conversion.param_mapping.AutoMapping". nullptr:
// not known.
const MappingClass* FindMappingClass(std::string_view code);

// A method of a bridge of Megatron Bridge's own that stands between files and rules.
struct KnownHook {
  std::string_view code;     // below megatron.bridge, "models.llama.llama_bridge.LlamaBridge.f"
  std::string_view meaning;  // "keeps ...": a sentence without its subject
  // A transform that only the hook does, and no mapping class; empty: none.
  std::string_view transform;
};

// nullptr: not known.
const KnownHook* FindKnownHook(std::string_view code);

// Whether `transform` is done by a hook alone ("swap_halves").
bool NeedsHook(std::string_view transform);

}  // namespace weighbridge
