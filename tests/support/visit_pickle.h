// A walk over what a pickle describes that ends for every pickle. For tests and fuzz targets.
#pragma once

#include <cstddef>
#include <vector>

#include "formats/pickle/read.h"

namespace weighbridge::testing {

// Every value that can be reached, each once; returns how many. What a hostile pickle may describe
// without bound is not followed twice.
inline size_t VisitAll(const pickle::Value& root) {
  std::vector<bool> seen;
  std::vector<pickle::Value> open;
  size_t count = 0;
  const auto visit = [&](const pickle::Value& value) {
    if (value.id() >= seen.size()) seen.resize(value.id() + 1, false);
    if (seen[value.id()]) return;
    seen[value.id()] = true;
    open.push_back(value);
  };
  visit(root);
  while (!open.empty()) {
    const pickle::Value value = open.back();
    open.pop_back();
    ++count;
    for (size_t i = 0; i < value.size(); ++i) {
      visit(value[i]);
      const auto [key, entry] = value.entry(i);
      visit(key);
      visit(entry);
    }
    visit(value.arguments());
    visit(value.state());
    (void)value.text();
    (void)value.Attribute("x");
  }
  return count;
}

}  // namespace weighbridge::testing
