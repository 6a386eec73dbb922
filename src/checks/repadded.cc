#include "checks/repadded.h"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "mapping/layout.h"

namespace weighbridge {
namespace {

// `stored` with its first rows kept and zeros after them.
Layout Repad(const Shape& stored, const Shape& wanted) {
  const int64_t kept = std::min(stored[0], wanted[0]);
  Layout rows = Layout::Source(0, stored).Slice(0, 0, kept);
  if (kept == wanted[0]) return rows;
  Shape padding = wanted;
  padding[0] -= kept;
  return Layout::Concat(0, {std::move(rows), Layout::Zeros(std::move(padding))});
}

}  // namespace

Result<RepaddedParameters> RepaddedParameters::Create(const Model& stored,
                                                      const ParameterSource& source,
                                                      const Model& wanted) {
  std::map<std::string, const Parameter*> by_name;
  for (const Parameter& p : stored.parameters()) {
    by_name[stored.MegatronName(p, Dialect::kTe)] = &p;
  }
  RepaddedParameters out(source);
  for (const Parameter& p : wanted.parameters()) {
    const std::string name = wanted.MegatronName(p, Dialect::kTe);
    const auto it = by_name.find(name);
    const bool same = it != by_name.end() && it->second->shape.size() == p.shape.size() &&
                      std::equal(p.shape.begin() + (p.shape.empty() ? 0 : 1), p.shape.end(),
                                 it->second->shape.begin() + (p.shape.empty() ? 0 : 1));
    if (!same) {
      return Fail(ErrorKind::kInternal, "inventory",
                  fmt::format("'{}' is not the same parameter in both models", name));
    }
    out.stored_[&p] = it->second;
  }
  return out;
}

DType RepaddedParameters::StoredDType(const Parameter& p) const {
  return source_->StoredDType(*stored_.at(&p));
}

Result<ParameterBytes> RepaddedParameters::Open(const Parameter& p) const {
  WB_TRY(ParameterBytes bytes, source_->Open(*stored_.at(&p)));
  if (bytes.shape == p.shape) return bytes;
  WB_TRY(const Plan repad,
         CompileByTarget(Repad(bytes.shape, p.shape), BitsOf(bytes.sources.dtype) / 8));
  bytes.plan = Compose(repad, bytes.plan);
  bytes.shape = p.shape;
  return bytes;
}

}  // namespace weighbridge
