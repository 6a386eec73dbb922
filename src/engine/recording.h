// Activations that were captured elsewhere, as a side of a comparison.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "engine/describe.h"
#include "engine/stage_weights.h"
#include "family/model.h"
#include "formats/checkpoint.h"

namespace weighbridge {

// A safetensors file with `input_ids` and, of transformers, `hf_hidden_I` [b, s, h] (I = 0 the
// embedding, the last one after the final norm) and `hf_logits`, of Megatron `meg_hidden_I_sbh`
// [s, b, h] (I the layer, counted from 1, whose output it is), `meg_mtp_I_sbh` (what leaves MTP
// layer I), `meg_final_sbh` (after the final norm) and `meg_logits`. All but `input_ids` may lack.
class Recording {
 public:
  // Errors: kInvalid "recording" when it is none, is cut, or is of another model or length: a file
  // of activations is no checkpoint under judgement; kNotFound, kPermission, kIo.
  static Result<Recording> Open(const std::string& path, const Model& model, bool of_hf);

  const std::vector<std::vector<int64_t>>& token_ids() const { return ids_; }
  // Appends what it has of the stage as "SIDE.recorded.PART": "in", "out", "final", "logits". An
  // output comes only with the state that it was computed from: layer 0 may do without, since both
  // libraries look the embedding up.
  void Add(StageId stage, const std::string& side, StageTensors& out) const;
  bool sequence_first() const { return !of_hf_; }
  // What cannot be judged since it was not recorded; "": nothing.
  std::string Lacking() const;

 private:
  Status ReadIds(const std::string& path);
  Status CheckStates(const std::string& path, const Model& model) const;
  std::string Hidden(int64_t i) const;
  std::string Logits() const { return of_hf_ ? "hf_logits" : "meg_logits"; }
  bool Has(const std::string& name) const { return file_->Find(name) != nullptr; }
  // Whether what leaves layer `layer` can be judged.
  bool IsJudged(int64_t layer) const;

  std::shared_ptr<const Checkpoint> file_;
  std::vector<std::vector<int64_t>> ids_;
  int64_t layers_ = 0;
  bool of_hf_ = true;
};

}  // namespace weighbridge
