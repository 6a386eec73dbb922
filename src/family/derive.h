// A family used backwards: Hugging Face's config.json from the fields of Megatron-Core's config.
#pragma once

#include <nlohmann/json.hpp>

#include "base/result.h"
#include "family/spec.h"

namespace weighbridge {

// `fields`: Megatron-Core's names -> values; None is null, what is not recorded is absent. With
// `bridge` they are the fields of the Bridge's class, for which [bridge.fields] count before
// [config].
//
// Every rule of [config] is taken back as far as it can be: keys, dims and flags with one name,
// layer kinds by the inverse of their rule, the RoPE table by its factor. A key with several
// spellings gets the one that [toy] has. Texts and truth values of [toy] that nothing else sets are
// kept (they are the same for every model of the family), numbers of it are not; [hf_config] gives
// the rest. Whether the result means what `fields` say is for the caller to see: Model::Expand, and
// its fields compared.
//
// Errors: kInvalid for a value that no HF config gives.
Result<nlohmann::json> DeriveHfConfig(const FamilySpec& spec, const nlohmann::json& fields,
                                      bool bridge);

// A field that gives layers by their frequency (moe_layer_freq, window_attn_skip_freq,
// linear_attention_freq) as the list of 0 and 1 that Megatron-Core makes of it; another value as it
// is.
nlohmann::json ExpandLayerFrequency(const std::string& field, const nlohmann::json& value,
                                    int64_t layers);

}  // namespace weighbridge
