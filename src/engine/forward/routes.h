// Experts that both sides choose, and whether a difference is a fault.
#pragma once

#include <ATen/ATen.h>

#include <nlohmann/json.hpp>
#include <span>

namespace weighbridge::engine {

struct Routes {
  at::Tensor counted;  // [tokens], true: the weights of this token are compared
  nlohmann::json figures;
};

// Each side is {weights [b, s, experts], scores}. Tokens whose choice differs where the truth's
// scores are as good as tied are not counted: their error is no error of a module.
Routes CompareRoutes(std::span<const at::Tensor> candidate, std::span<const at::Tensor> reference,
                     std::span<const at::Tensor> truth);

}  // namespace weighbridge::engine
