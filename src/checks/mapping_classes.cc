#include "checks/mapping_classes.h"

#include <algorithm>
#include <array>

namespace weighbridge {
namespace {

using Name = std::string_view;

constexpr Name kPackage = "megatron.bridge.";
constexpr Name kCommon = "models.conversion.param_mapping";
constexpr Name kErnie = "models.ernie.ernie_45_bridge";
constexpr Name kErnieVl = "models.ernie_vl.ernie45_vl_bridge";
constexpr Name kGemma4 = "models.gemma.gemma4_bridge";
constexpr Name kGptOss = "models.gpt_oss.gpt_oss_bridge";
constexpr Name kStep35 = "models.stepfun.step35_bridge";

constexpr std::array<Name, 2> kCopy = {"identity", "pad_vocab"};
constexpr std::array<Name, 3> kRows = {"identity", "pad_vocab", "rows"};
constexpr std::array<Name, 5> kWhole = {"identity", "pad_vocab", "rows", "columns", "swap_halves"};
constexpr std::array<Name, 3> kQkv = {"qkv", "qkv_gated", "qkv_unequal"};
constexpr std::array<Name, 1> kQkvConcat = {"qkv_concat"};
constexpr std::array<Name, 1> kQkvHeadGate = {"qkv_head_gate"};
constexpr std::array<Name, 2> kQkvGemma4 = {"qkv", "qkv_keys_as_values"};
constexpr std::array<Name, 1> kQkvUnequal = {"qkv_unequal"};
constexpr std::array<Name, 1> kKv = {"kv"};
constexpr std::array<Name, 1> kGated = {"gated_mlp"};
constexpr std::array<Name, 1> kStackedGated = {"expert_gate_up"};
constexpr std::array<Name, 1> kExpertGated = {"expert_gated_mlp"};
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

constexpr auto kEven = Packing::kEven;
constexpr auto kParts = Packing::kParts;
constexpr auto kArgument = Transposing::kArgument;

constexpr std::array kClasses = {
    MappingClass{.name = "AutoMapping",
                 .module = kCommon,
                 .transforms = kWhole,
                 .packing = kEven,
                 .transposing = kArgument},
    MappingClass{.name = "DirectMapping", .module = kCommon, .transforms = kWhole},
    MappingClass{.name = "ReplicatedMapping",
                 .module = kCommon,
                 .transforms = kWhole,
                 .cut = MappingCut::kReplicated},
    MappingClass{.name = "ColumnParallelMapping",
                 .module = kCommon,
                 .transforms = kRows,
                 .cut = MappingCut::kColumn,
                 .packing = kEven},
    MappingClass{.name = "RowParallelMapping",
                 .module = kCommon,
                 .transforms = kWhole,
                 .cut = MappingCut::kRow},
    MappingClass{.name = "SplitRowParallelMapping",
                 .module = "diffusion.conversion.flux.flux_bridge",
                 .transforms = kColumns,
                 .cut = MappingCut::kRow},
    MappingClass{.name = "RMSNorm2ZeroCenteredRMSNormMapping",
                 .module = kCommon,
                 .transforms = kCopy,
                 .packing = kEven,
                 .transposing = kArgument,
                 .op = Op::kSubOne},
    // -- attention --
    MappingClass{.name = "QKVMapping", .module = kCommon, .transforms = kQkv, .roles = kRoleQkv},
    MappingClass{
        .name = "QKVGMapping", .module = kCommon, .transforms = kQkvHeadGate, .roles = kRoleQkvg},
    MappingClass{.name = "MiMoV2FlashQKVMapping",
                 .module = "models.mimo_v2_flash.mimo_v2_flash_bridge",
                 .transforms = kQkvUnequal,
                 .roles = kRoleQkv},
    MappingClass{.name = "_Gemma4QKVMapping",
                 .module = kGemma4,
                 .transforms = kQkvGemma4,
                 .roles = kRoleQkv},
    MappingClass{.name = "_Gemma4DenseQKVMapping",
                 .module = kGemma4,
                 .transforms = kQkvGemma4,
                 .roles = kRoleQkv},
    MappingClass{.name = "ConcatenatedQKVMapping", .module = kCommon, .transforms = kQkvConcat},
    MappingClass{.name = "KVMapping", .module = kCommon, .transforms = kKv, .roles = kRoleKv},
    MappingClass{.name = "_FullDimQKNormMapping",
                 .module = "models.minimax_m2.minimax_m2_bridge",
                 .transforms = kCopy},
    // -- MLPs and experts --
    MappingClass{
        .name = "GatedMLPMapping", .module = kCommon, .transforms = kGated, .roles = kRoleGated},
    MappingClass{.name = "_LooseGatedMLPMapping",
                 .module = kCommon,
                 .transforms = kGated,
                 .roles = kRoleGated},
    MappingClass{.name = "_OffsetGatedMLPMapping",
                 .module = kErnieVl,
                 .transforms = kGated,
                 .roles = kRoleGated},
    MappingClass{.name = "_OffsetRowParallelMapping",
                 .module = kErnieVl,
                 .transforms = kRows,
                 .cut = MappingCut::kRow},
    MappingClass{.name = "StackedExpertGatedMLPMapping",
                 .module = kStep35,
                 .transforms = kStackedGated,
                 .roles = kRoleGated},
    MappingClass{.name = "StackedExpertAutoMapping",
                 .module = kStep35,
                 .transforms = kExpert,
                 .transposing = kArgument},
    MappingClass{.name = "FusedExpertMapping",
                 .module = kCommon,
                 .transforms = kExpert,
                 .transposing = kArgument},
    MappingClass{.name = "FusedGatedExpertMapping",
                 .module = kCommon,
                 .transforms = kExpertGated,
                 .transposing = Transposing::kByShape},
    MappingClass{.name = "GPTOSSMLPDownProjMapping",
                 .module = kGptOss,
                 .transforms = kExpert,
                 .transposing = Transposing::kOwn},
    MappingClass{.name = "GPTOSSMLPGateUpProjMapping",
                 .module = kGptOss,
                 .transforms = kExpertGated,
                 .transposing = Transposing::kOwn,
                 .interleaved = true},
    // -- mixers --
    MappingClass{
        .name = "ChunkedMapping", .module = kCommon, .transforms = kRows, .packing = kParts},
    MappingClass{
        .name = "GDNConv1dMapping", .module = kCommon, .transforms = kRows, .packing = kParts},
    MappingClass{
        .name = "MambaConv1dMapping", .module = kCommon, .transforms = kRows, .packing = kParts},
    MappingClass{
        .name = "MambaInProjMapping", .module = kCommon, .transforms = kRows, .packing = kParts},
    MappingClass{
        .name = "GDNLinearMapping", .module = kCommon, .transforms = kGdn, .roles = kRoleGdn},
    MappingClass{.name = "GDNLinearMappingSeparate",
                 .module = kCommon,
                 .transforms = kGdnFlat,
                 .roles = kRoleGdnFlat},
    // -- ERNIE's --
    MappingClass{.name = "_PPSafeMixin", .module = kErnie, .passes_on = true},
    MappingClass{.name = "_SqueezeBiasMapping",
                 .module = kErnie,
                 .transforms = kCopy,
                 .cut = MappingCut::kReplicated,
                 .squeezes = true},
};

constexpr Name kDequantizes = "dequantizes what is stored in few bits, and leaves other weights";
constexpr Name kKeepsFrequencies = "writes the rotation's frequencies as the source has them";

constexpr std::array kHooks = {
    KnownHook{"models.llama.llama_bridge.LlamaBridge.maybe_modify_converted_hf_weight",
              kKeepsFrequencies, ""},
    KnownHook{"models.deepseek.deepseek_v3_bridge.DeepSeekV3Bridge.maybe_modify_loaded_hf_weight",
              kDequantizes, ""},
    KnownHook{
        "models.deepseek.deepseek_v3_bridge.DeepSeekV3Bridge.maybe_modify_converted_hf_weight",
        kKeepsFrequencies, ""},
    KnownHook{"models.deepseek.deepseek_v4_bridge.DeepSeekV4Bridge.maybe_modify_loaded_hf_weight",
              kDequantizes, ""},
    KnownHook{
        "models.deepseek.deepseek_v4_bridge.DeepSeekV4Bridge.maybe_modify_converted_hf_weight",
        "quantizes anew what the source has in few bits", ""},
    KnownHook{"models.glm.glm47_flash_bridge.GLM47FlashBridge.maybe_modify_converted_hf_weight",
              "writes the copies of embedding and head that MTP layers have", ""},
    KnownHook{"models.stepfun.step35_bridge.Step35Bridge.maybe_modify_converted_hf_weight",
              "writes the copies of the head that MTP layers have", ""},
    KnownHook{"models.gpt_oss.gpt_oss_bridge.GPTOSSBridge.maybe_modify_loaded_hf_weight",
              "dequantizes MXFP4, and lays the experts' down projection as Megatron has it", ""},
    KnownHook{"models.ministral3.ministral3_bridge.Ministral3Bridge.maybe_modify_loaded_hf_weight",
              kDequantizes, ""},
    KnownHook{"models.minimax_m2.minimax_m2_bridge.MiniMaxM2Bridge.maybe_modify_loaded_hf_weight",
              kDequantizes, ""},
    KnownHook{"models.mimo_v2_flash.mimo_v2_flash_bridge.MiMoV2FlashBridge."
              "maybe_modify_loaded_hf_weight",
              kDequantizes, ""},
    KnownHook{"models.kimi_vl.kimi_k25_vl_bridge.KimiK25VLBridge.maybe_modify_loaded_hf_weight",
              kDequantizes, ""},
    KnownHook{"models.kimi_vl.kimi_k25_vl_bridge.KimiK25VLBridge.maybe_modify_converted_hf_weight",
              "quantizes the experts anew", ""},
    KnownHook{"models.kimi_vl.kimi_k25_vl_bridge.KimiK25VLBridge.build_conversion_tasks",
              "names quantized experts as rules do", ""},
    KnownHook{"models.gemma.gemma4_bridge.Gemma4Bridge.maybe_modify_loaded_hf_weight",
              "makes the keys and values that layers share", ""},
    KnownHook{"models.gemma.gemma4_bridge.Gemma4Bridge.maybe_modify_converted_hf_weight",
              "leaves the keys and values out that layers share", ""},
    KnownHook{"models.mimo.mimo_bridge.MimoBridge.maybe_modify_loaded_hf_weight",
              "exchanges the halves of the MTP layers' input projection", "swap_halves"},
    KnownHook{"models.mimo.mimo_bridge.MimoBridge.maybe_modify_converted_hf_weight",
              "exchanges the halves of the MTP layers' input projection", "swap_halves"},
    KnownHook{"models.ernie_vl.ernie45_vl_bridge.Ernie45VLBridge.stream_weights_megatron_to_hf",
              "begins with an empty buffer of biases", ""},
};

// `code` without the package's name; empty: of another package.
Name WithinPackage(Name code) {
  return code.starts_with(kPackage) ? code.substr(kPackage.size()) : Name();
}

}  // namespace

const MappingClass* FindMappingClass(std::string_view code) {
  const Name within = WithinPackage(code);
  const auto* found = std::find_if(kClasses.begin(), kClasses.end(), [&](const MappingClass& c) {
    return within.size() == c.module.size() + 1 + c.name.size() && within.starts_with(c.module) &&
           within.ends_with(c.name) && within[c.module.size()] == '.';
  });
  return found == kClasses.end() ? nullptr : found;
}

const KnownHook* FindKnownHook(std::string_view code) {
  const Name within = WithinPackage(code);
  const auto* found = std::find_if(kHooks.begin(), kHooks.end(),
                                   [&](const KnownHook& h) { return h.code == within; });
  return found == kHooks.end() ? nullptr : found;
}

bool NeedsHook(std::string_view transform) {
  if (transform.empty()) return false;
  return std::any_of(kHooks.begin(), kHooks.end(),
                     [&](const KnownHook& h) { return h.transform == transform; });
}

}  // namespace weighbridge
