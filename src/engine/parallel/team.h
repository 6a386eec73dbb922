// The processes of a run on several ranks. Rank 0 leads: it runs the reference, compares, and tells
// the others what to compute; the others hold shards of the candidate and follow.
//
// Ranks are numbered as Megatron numbers them: pipeline stages outermost; inside a stage the
// tensor-parallel rank runs fastest for everything but experts, and for experts the
// expert-tensor-parallel rank, then the expert-parallel one (parallel_state.py, "tp-cp-ep-dp-pp").
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "engine/parallel/group.h"
#include "engine/parallel/place.h"

namespace weighbridge::engine {

struct TeamShape {
  int64_t tp = 1, pp = 1, ep = 1, etp = 1;
  bool sequence_parallel = false;

  // Ranks of a pipeline stage: the fewest that have all groups.
  int64_t width() const;
  int64_t size() const { return width() * pp; }
};

// What one rank sends another: a text and tensors, undefined ones included.
struct Message {
  nlohmann::json text;
  std::vector<at::Tensor> tensors;
};

// One process is a rank of at most one team. Not thread-safe. Throws c10::Error when a rank is
// lost.
class Team {
 public:
  // Opens the store by which the others find this process, the leader; gives its port.
  static int64_t Listen();
  // {"rank", "store": [host, port], "local": all ranks on this host, "tp", "pp", "ep", "etp",
  // "sequence_parallel", "device": "cpu|cuda", "device_index", "nccl": each has a device of its
  // own}. Returns when all ranks are there.
  static void Join(const nlohmann::json& request);
  // nullptr: this process has joined none.
  static Team* Current();
  static void Leave();
  ~Team();

  const TeamShape& shape() const { return shape_; }
  int64_t rank() const { return rank_; }
  bool leads() const { return rank_ == 0; }
  const Place& place() const { return place_; }
  // How a stage's groups move tensors: "gloo" or "nccl".
  const std::string& backend() const { return backend_; }
  at::Device device() const { return device_; }

  void Send(int64_t to, const Message& message);
  Message Receive(int64_t from);

 private:
  struct Links;
  Team(const nlohmann::json& request, std::unique_ptr<Links> links);
  Group MakeGroup(const std::string& name, const std::vector<int64_t>& ranks);
  void MakeGroups();
  void EndGroups();

  TeamShape shape_;
  int64_t rank_ = 0;
  bool local_ = true;
  at::Device device_ = at::kCPU;
  std::string backend_ = "gloo";
  std::unique_ptr<Links> links_;
  Place place_;
};

}  // namespace weighbridge::engine
