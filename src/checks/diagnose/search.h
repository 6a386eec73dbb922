// The search for the single mistake that turns one tensor, as it should be, into what was found:
// known rearrangements and value changes, alone and in pairs, on a sample of elements first and on
// every byte before it is named.
#pragma once

#include <atomic>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "checks/diagnose/rearrangements.h"
#include "checks/diagnose/value_changes.h"
#include "checks/parameter_source.h"
#include "checks/result.h"

namespace weighbridge {

// One tensor on both sides, of one shape.
struct TensorPair {
  ParameterBytes expected;  // from Hugging Face, after its op
  ParameterBytes actual;    // as Megatron holds it; no op

  DType dtype() const { return actual.sources.dtype; }
  int64_t numel() const { return Numel(actual.shape); }
};

// One thing that was done to the tensor.
struct Step {
  std::string cause;  // docs/causes.md
  std::string what;
};

struct Explanation {
  std::vector<Step> steps;  // in the order in which they were done
  Proof proof = Proof::kExact;
  int64_t left = 0;  // elements that differ all the same: flipped bits
  // An element that differs, and which element of the right tensor stands there.
  int64_t element = 0, source_element = 0;
};

// How far a hypothesis that does not hold comes.
struct Nearest {
  Step step;
  double share = 0;  // of the elements of a sample, in [0, 1]
};

struct SearchLimits {
  int threads = 1;
};

// The elements that a hypothesis is tried on: some that differ, in order, then some of all.
struct ElementSample {
  std::vector<int64_t> elements;
  std::vector<uint64_t> found;  // their bits
  int64_t mismatched = 0;       // of the whole tensor
  // The box of those that differ: rows are the first axis, columns all others.
  int64_t first_row = 0, last_row = 0, first_column = 0, last_column = 0;
};

// How the differing values of two tensors are related, on a sample of them.
struct ValueStatistics {
  int64_t seen = 0;
  int64_t not_finite = 0;  // found where the source is finite
  bool constant = false;   // what was found is one value
  double correlation = 0;  // Pearson's, of expected and found; 0 where one is constant
};

// One element of `bytes` after `op`, in `dtype`; nullopt for dtypes that no op knows.
std::optional<uint64_t> ReadElement(const ParameterBytes& bytes, Op op, DType dtype,
                                    int64_t element);

class TensorSearch {
 public:
  // Both must outlive it. `pair` has at least one element that differs.
  TensorSearch(const TensorPair& pair, const TensorForm& form, const ValueForm& values,
               SearchLimits limits);

  // Reads both sides once. Errors: those of GatherElements.
  Status TakeSample();
  const ElementSample& sample() const { return sample_; }

  // The plainest that holds, with `pairs` also two at once; nullopt when none does. After
  // TakeSample.
  std::optional<Explanation> Search(bool pairs);
  // The same of another tensor's values in this one's place, as they are or changed once more.
  std::optional<Explanation> SearchFrom(const ParameterBytes& other, bool changed);
  // A few isolated elements and nothing else differ. After TakeSample.
  std::optional<Explanation> BitFlips(bool any) const;
  ValueStatistics Statistics() const;
  // Both sides hold the same values, in whatever order. The first call reads both once more.
  bool SameValues();
  // Rank of the difference's matrix where it is far below what rounding gives, as an adapter's is.
  std::optional<int> LowRank() const;
  // How many elements the box of those that differ has.
  int64_t BoxElements() const;
  // Those that explain most, at most `count`, without the ones that explain nothing.
  std::vector<Nearest> NearestOf(size_t count);

 private:
  struct Candidate;
  struct Comparison;
  struct BlockFound {
    int64_t mismatched = 0;
    std::vector<int64_t> elements;
    int64_t first_column = 0, last_column = 0;
  };
  Status SampleBlock(size_t block, size_t each, BlockFound& found) const;
  Status CountBlock(const Comparison& comparison, size_t block,
                    std::atomic<int64_t>& differing) const;
  void FreeEdge(Candidate& candidate) const;
  bool MayBeFlips() const;
  int64_t Columns() const;  // of the first axis' rows
  void Generate();
  void Discover();
  void DiscoverShards();
  void DiscoverHeads();
  void DiscoverExperts();
  void DiscoverShift();
  std::vector<int64_t> MatchBlocks(int64_t blocks, int64_t rows) const;
  bool SameAt(int64_t found_element, int64_t expected_element) const;
  std::optional<uint64_t> Expected(int64_t element) const;
  // Whether `found` is what the candidate makes of this element of its source; but for a factor.
  bool GivesAt(const Candidate& candidate, int64_t element, uint64_t found) const;
  bool HaveSameSums() const;
  bool HoldsOnSample(const Candidate& candidate) const;
  std::optional<Explanation> Confirm(const Candidate& candidate);
  std::optional<Explanation> TryAll(const std::vector<Candidate>& candidates);
  Result<int64_t> CountDifferences(const Candidate& candidate, ScaleInterval* scale) const;

  const TensorPair& pair_;
  const TensorForm& form_;
  const ValueForm& values_;
  SearchLimits limits_;
  ElementSample sample_;
  std::vector<Rearrangement> moves_;
  std::vector<PointMap> maps_;  // of moves_
  size_t known_ = 0;            // of moves_, those that have a name; then what was read off
  std::vector<ValueChange> changes_;
  std::optional<bool> same_values_;
  int64_t shift_ = 0;  // of the rows of a vocabulary
};

}  // namespace weighbridge
