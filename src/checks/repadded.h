// A source of parameters whose vocabulary is padded to another number of rows than is wanted.
#pragma once

#include <map>

#include "base/result.h"
#include "checks/parameter_source.h"
#include "family/model.h"

namespace weighbridge {

// Gives the parameters of `wanted` from a source of the parameters of `stored`, the same model with
// another padded vocabulary: rows of zeros are added, rows of padding are left out. Everything must
// outlive it. Immutable; may be used from any thread.
class RepaddedParameters final : public ParameterSource {
 public:
  // kInternal when the two models do not have the same parameters.
  static Result<RepaddedParameters> Create(const Model& stored, const ParameterSource& source,
                                           const Model& wanted);
  DType StoredDType(const Parameter& p) const override;
  Result<ParameterBytes> Open(const Parameter& p) const override;
  // The parameter of `stored` that `p` of `wanted` is.
  const Parameter& Stored(const Parameter& p) const { return *stored_.at(&p); }

 private:
  explicit RepaddedParameters(const ParameterSource& source) : source_(&source) {}

  const ParameterSource* source_;
  std::map<const Parameter*, const Parameter*> stored_;  // of the wanted ones
};

}  // namespace weighbridge
