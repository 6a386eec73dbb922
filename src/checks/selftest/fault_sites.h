// Where in a model which fault can be injected (docs/causes.md), and the injection itself.
#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "checks/selftest/held_checkpoint.h"
#include "checks/selftest/tensor_faults.h"
#include "family/model.h"

namespace weighbridge {

// Which layer's (expert's) tensors stand in which one's place.
struct Displacement {
  std::string_view cause;
  std::string what;
  std::map<int64_t, int64_t> source_of;
};

// A fault that is not one tensor's: tensors in each other's place, missing ones, another config.
class FaultSites;
struct ModelFault {
  std::string_view cause;
  // What was done, in words; nullopt where the model has no place for it.
  std::optional<std::string> (*inject)(const FaultSites& sites, HeldCheckpoint& checkpoint,
                                       Random& random);
};

class FaultSites {
 public:
  // Both must outlive it.
  FaultSites(const Model& model, const HeldCheckpoint& clean);

  const Model& model() const { return model_; }
  const Parameter& parameter(size_t i) const { return model_.parameters()[i]; }

  // Those that have a place in this model, sorted.
  std::vector<std::string_view> Causes() const;
  // Does `cause` to a checkpoint at a random place, to one tensor or to all of one rule. What was
  // done; nullopt: nothing can be done, for example because an earlier fault took the tensor away.
  std::optional<std::string> Inject(std::string_view cause, HeldCheckpoint& checkpoint,
                                    Random& random) const;
  // Whether a fault of `cause` gives exactly the bytes that turned `before` into `after`: then the
  // two are one fault under two names. Only faults without random values are tried.
  bool CanGive(std::string_view cause, const HeldCheckpoint& before,
               const HeldCheckpoint& after) const;

  // -- for the faults across tensors (model_faults.cc) --

  std::vector<size_t> Where(const std::function<bool(const Parameter&)>& accepts) const;
  std::vector<Displacement> LayerDisplacements(const StackRule* stack) const;
  static std::vector<Displacement> ExpertDisplacements(int64_t experts);
  // Stacks in which layers can stand in each other's place.
  std::vector<const StackRule*> MovableStacks() const;
  // Puts the tensors of other layers (`experts`: experts of the same layer) in the place of those
  // of `indexes`. False: nothing was there to be moved.
  bool Displace(const Displacement& displacement, const std::vector<size_t>& indexes, bool experts,
                const HeldCheckpoint& before, HeldCheckpoint& after) const;
  const LabelledRows& rows(size_t i) const { return *rows_[i]; }

 private:
  std::vector<TensorFlaw> FaultsOf(size_t i) const;
  std::optional<std::string> InjectTensorFault(std::string_view cause, HeldCheckpoint& checkpoint,
                                               Random& random) const;
  bool TensorFaultGives(std::string_view cause, const std::vector<size_t>& changed,
                        const HeldCheckpoint& before, const HeldCheckpoint& after) const;
  bool DisplacementGives(std::string_view cause, const std::vector<size_t>& changed,
                         const HeldCheckpoint& before, const HeldCheckpoint& after) const;

  const Model& model_;
  const HeldCheckpoint& clean_;
  std::vector<std::shared_ptr<const LabelledRows>> rows_;
  // Cause -> rule -> parameters with a fault of one tensor.
  std::map<std::string_view, std::map<int, std::vector<size_t>>> sites_;
};

// Every fault across tensors, and those of the config.
const std::vector<ModelFault>& ModelFaults();
// Of the config: they change HeldCheckpoint::config_fields().
const std::vector<ModelFault>& ConfigFaults();

// Whether two causes differ only in what is not in either checkpoint (the adapter): such are never
// told apart by bytes.
bool SameEvidence(std::string_view a, std::string_view b);

}  // namespace weighbridge
