#include "checks/mapping_classes.h"

#include <algorithm>
#include <array>

namespace weighbridge {
namespace {

using Name = std::string_view;

constexpr std::array<Name, 3> kCopy = {"identity", "pad_vocab", "rows"};
constexpr std::array<Name, 5> kWhole = {"identity", "pad_vocab", "rows", "columns", "swap_halves"};
constexpr std::array<Name, 3> kQkv = {"qkv", "qkv_gated", "qkv_unequal"};
constexpr std::array<Name, 1> kQkvConcat = {"qkv_concat"};
constexpr std::array<Name, 1> kQkvHeadGate = {"qkv_head_gate"};
constexpr std::array<Name, 2> kQkvGemma4 = {"qkv", "qkv_keys_as_values"};
constexpr std::array<Name, 1> kQkvUnequal = {"qkv_unequal"};
constexpr std::array<Name, 1> kKv = {"kv"};
constexpr std::array<Name, 2> kGated = {"gated_mlp", "expert_gate_up"};
constexpr std::array<Name, 2> kExpertGated = {"expert_gated_mlp", "expert_gate_up"};
constexpr std::array<Name, 1> kExpert = {"expert"};
constexpr std::array<Name, 1> kGdn = {"gdn_in_proj"};
constexpr std::array<Name, 1> kGdnFlat = {"gdn_in_proj_flat"};
constexpr std::array<Name, 1> kColumns = {"columns"};
constexpr std::array<Name, 3> kRoleQkv = {"q", "k", "v"};
constexpr std::array<Name, 4> kRoleQkvg = {"q", "k", "v", "g"};
constexpr std::array<Name, 2> kRoleKv = {"k", "v"};
constexpr std::array<Name, 2> kRoleGated = {"gate", "up"};
constexpr std::array<Name, 2> kRoleGdn = {"qkvz", "ba"};
constexpr std::array<Name, 4> kRoleGdnFlat = {"qkv", "z", "b", "a"};

constexpr std::array<MappingClass, 32> kClasses = {{
    {"AutoMapping", kWhole, {}},
    {"DirectMapping", kWhole, {}},
    {"ReplicatedMapping", kWhole, {}, MappingCut::kReplicated},
    {"ColumnParallelMapping", kCopy, {}, MappingCut::kColumn},
    {"RowParallelMapping", kWhole, {}, MappingCut::kRow},
    {"SplitRowParallelMapping", kColumns, {}, MappingCut::kRow},
    {"QKVMapping", kQkv, kRoleQkv},
    {"QKVGMapping", kQkvHeadGate, kRoleQkvg},
    {"MiMoV2FlashQKVMapping", kQkvUnequal, kRoleQkv},
    {"_Gemma4QKVMapping", kQkvGemma4, kRoleQkv},
    {"_Gemma4DenseQKVMapping", kQkvGemma4, kRoleQkv},
    {"ConcatenatedQKVMapping", kQkvConcat, {}},
    {"KVMapping", kKv, kRoleKv},
    {"GatedMLPMapping", kGated, kRoleGated},
    {"_LooseGatedMLPMapping", kGated, kRoleGated},
    {"_OffsetGatedMLPMapping", kGated, kRoleGated},
    {"_PPSafeGatedMLPMapping", kGated, kRoleGated},
    {"StackedExpertGatedMLPMapping", kGated, kRoleGated},
    {"FusedExpertMapping", kExpert, {}, MappingCut::kAny, Op::kNone, true},
    {"GPTOSSMLPDownProjMapping", kExpert, {}, MappingCut::kAny, Op::kNone, true},
    {"StackedExpertAutoMapping", kExpert, {}},
    {"FusedGatedExpertMapping", kExpertGated, {}, MappingCut::kAny, Op::kNone, true},
    {"GPTOSSMLPGateUpProjMapping", kExpertGated, {}, MappingCut::kAny, Op::kNone, true},
    {"ChunkedMapping", kCopy, {}},
    {"MambaInProjMapping", kCopy, {}},
    {"_OffsetRowParallelMapping", kCopy, {}, MappingCut::kRow},
    {"_PPSafeReplicatedMapping", kCopy, {}, MappingCut::kReplicated},
    {"_PPSafeAutoMapping", kCopy, {}},
    {"_FullDimQKNormMapping", kCopy, {}},
    {"GDNLinearMapping", kGdn, kRoleGdn},
    {"GDNLinearMappingSeparate", kGdnFlat, kRoleGdnFlat},
    {"RMSNorm2ZeroCenteredRMSNormMapping", kCopy, {}, MappingCut::kAny, Op::kSubOne},
}};

}  // namespace

const MappingClass* FindMappingClass(std::string_view name) {
  const auto* found = std::find_if(kClasses.begin(), kClasses.end(),
                                   [&](const MappingClass& c) { return c.name == name; });
  return found == kClasses.end() ? nullptr : found;
}

}  // namespace weighbridge
