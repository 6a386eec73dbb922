#include "formats/torch_dist/run_files.h"

#include <fmt/format.h>

#include <cctype>
#include <cstring>
#include <utility>
#include <vector>

#include "formats/torch_file/write.h"

namespace weighbridge {
namespace {

void PickleCommonState(pickle::Writer& pickle, const CommonState& state) {
  pickle.Dict(3).String("checkpoint_version").Float(state.checkpoint_version);
  pickle.String("iteration").Int(state.iteration).String("content_metadata").Dict(2);
  pickle.String("singleton_local_shards").Bool(state.singleton_local_shards);
  pickle.String("chained_optim_avoid_prefix").Bool(state.chained_optim_avoid_prefix);
}

// A dict of 0-d tensors.
class TensorDict {
 public:
  explicit TensorDict(size_t size) { pickle_.Dict(size); }

  template <typename T>
  void Add(std::string_view name, DType dtype, T value) {
    std::string& storage = storages_.emplace_back(sizeof(value), '\0');
    std::memcpy(storage.data(), &value, sizeof(value));
    pickle_.String(name);
    PickleTensor(pickle_, dtype, {}, fmt::format("{}", storages_.size() - 1));
  }

  std::string Save(std::string_view archive) && {
    return TorchSave(archive, std::move(pickle_).Finish(), storages_);
  }

 private:
  pickle::Writer pickle_{2};
  std::vector<std::string> storages_;
};

}  // namespace

TorchDistBytes CommonStateEntry(const CommonState& state, uint32_t writer) {
  pickle::Writer pickle(2);
  PickleCommonState(pickle.List(1), state);
  return {kCommonStateKey, TorchSave("archive", std::move(pickle).Finish()), writer};
}

std::string CommonPt(const CommonState& state) {
  pickle::Writer pickle(2);
  PickleCommonState(pickle, state);
  return TorchSave("common", std::move(pickle).Finish());
}

TorchDistBytes ExtraStateEntry(std::string key, bool none, uint32_t writer) {
  pickle::Writer pickle(2);
  pickle.List(1);
  std::vector<std::string> storages;
  if (none) {
    pickle.None();
  } else {
    PickleTensor(pickle, DType::kU8, {0}, "0");
    storages.emplace_back();
  }
  return {std::move(key), TorchSave("archive", std::move(pickle).Finish(), storages), writer};
}

std::string TrainStatePt(const TrainState& state) {
  TensorDict dict(8);
  dict.Add("step", DType::kI64, state.step);
  dict.Add("consumed_train_samples", DType::kI64, state.consumed_train_samples);
  dict.Add("skipped_train_samples", DType::kI64, state.skipped_train_samples);
  dict.Add("consumed_valid_samples", DType::kI64, state.consumed_valid_samples);
  dict.Add("floating_point_operations_so_far", DType::kF32, state.floating_point_operations_so_far);
  dict.Add("do_train", DType::kBool, state.do_train);
  dict.Add("do_valid", DType::kBool, state.do_valid);
  dict.Add("do_test", DType::kBool, state.do_test);
  return std::move(dict).Save("train_state");
}

std::string IterationFolder(int64_t iteration) { return fmt::format("iter_{:07}", iteration); }

std::string TrackedFolder(const std::string& text) {
  if (text == "release") return text;
  if (text.empty() || text.size() > 18) return "";
  for (char c : text) {
    if (!std::isdigit(static_cast<unsigned char>(c))) return "";
  }
  return IterationFolder(std::stoll(text));
}

}  // namespace weighbridge
