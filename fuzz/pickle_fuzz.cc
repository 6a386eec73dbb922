// Any bytes are a graph of inert values or an error. What is accepted is no larger than the input
// justifies, every value of it can be read, and it names nothing that is not allowed.
#include <cstdint>
#include <cstdlib>
#include <span>

#include "../tests/support/visit_pickle.h"
#include "formats/pickle/read.h"

namespace {

void Require(bool condition) {
  if (!condition) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  const auto document = weighbridge::pickle::Document::Read(
      bytes, "fuzz", {.allowed = weighbridge::pickle::TorchGlobals});
  if (!document) {
    const weighbridge::Error& error = document.error();
    Require(error.kind == weighbridge::ErrorKind::kCorrupt);
    Require(error.id == "header-corrupt" || error.id == "pickle-refused");
    Require(error.what.size() < 600);
    return 0;
  }
  // The constants, and at most two values per opcode (INST: arguments and object).
  constexpr size_t kConstants = 300;
  Require(weighbridge::testing::VisitAll(document->root()) <= 2 * size + kConstants);
  return 0;
}
