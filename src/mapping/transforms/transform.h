// A transform: how the elements of one or more HF tensors stand in one Megatron tensor. Each lives
// in a file of its own in this folder and has one row in all.cc.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "mapping/layout.h"

namespace weighbridge {

// What a transform may ask for.
struct TransformRequest {
  // The global Megatron shape of the parameter, before any split.
  Shape megatron_shape;
  // An integer option of the transform, else the family's dim of that name ("heads"). Error
  // kInvalid for an unknown name.
  std::function<Result<int64_t>(std::string_view)> dim;
  // A boolean option, false when absent ("transposed").
  std::function<bool(std::string_view)> flag;
  // For one expert out of a stacked tensor: its index and how many there are.
  int64_t expert = 0, experts = 1;
  // Rows of the vocabulary that HF has (pad_vocab).
  int64_t vocab = 0;
};

// One HF tensor that the transform reads, in the order of the family's `hf` list.
struct TransformSource {
  Shape shape;        // of the whole HF tensor
  int64_t begin = 0;  // first element that this parameter uses
  int64_t numel = 0;  // how many, contiguous from `begin`
  // Not contiguous but some columns of a matrix: stretches of `run` elements, `stride` > run apart.
  int64_t run = 0, stride = 0;

  SourceExtent extent() const { return {begin, numel, run, stride}; }
};

struct TransformPlan {
  std::vector<TransformSource> sources;
  Layout layout;  // numel() == Numel(megatron_shape); source i is sources[i], offsets in the whole
                  // tensor
};

struct Transform {
  std::string_view name;
  // Names of the options that a family may give.
  std::span<const std::string_view> options;
  // How many HF tensors it takes.
  int sources = 1;
  // Fails with kInvalid when the shape contradicts the dims.
  Result<TransformPlan> (*plan)(const TransformRequest& request);
};

// Every transform, sorted by name.
std::span<const Transform> AllTransforms();
// nullptr when there is none of that name.
const Transform* FindTransform(std::string_view name);

}  // namespace weighbridge
