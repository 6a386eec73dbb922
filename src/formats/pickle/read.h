// Reads a pickle (protocols 0 to 5) into inert values. Nothing of it is ever executed. Time and
// memory are bounded by the size of the input, whatever the input says.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"
#include "formats/pickle/value.h"

namespace weighbridge::pickle {

struct ReadOptions {
  // Whether "module.name" may occur at all; a pickle that names anything else is refused. Python
  // 2's
  // __builtin__ and copy_reg are asked for as builtins and copyreg. Null: nothing is allowed.
  bool (*allowed)(std::string_view global) = nullptr;
  // Upper limits. A pickle that goes beyond is refused.
  size_t max_nodes = 64u << 20;
  size_t max_depth = 1000;  // of nested containers, as MARKs
};

// The globals that torch checkpoints need: torch's dtypes, storages, Size and rebuild functions,
// torch.distributed.checkpoint's metadata, collections.OrderedDict, argparse.Namespace and a few
// more (allow_list.cc says who writes each).
bool TorchGlobals(std::string_view global);

class Document {
 public:
  // `bytes` must outlive the Document: strings are not copied. `where` begins the place in errors
  // ("FILE:OFFSET"). Errors: kCorrupt "header-corrupt" (truncated, malformed, unknown opcode),
  // kCorrupt "pickle-refused" (well-formed, but a global that is not allowed, a call of something
  // that is no plain class or function, an integer beyond 64 bits, too large, too deep).
  static Result<Document> Read(std::span<const std::byte> bytes, const std::string& where,
                               const ReadOptions& options);
  Document(Document&&) noexcept;
  Document& operator=(Document&&) noexcept;
  ~Document();

  Value root() const;

 private:
  explicit Document(std::unique_ptr<const Graph> graph);
  std::unique_ptr<const Graph> graph_;  // stays where it is when the Document is moved
};

}  // namespace weighbridge::pickle
