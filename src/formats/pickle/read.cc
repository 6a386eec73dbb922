#include "formats/pickle/read.h"

#include <utility>

#include "formats/pickle/graph.h"
#include "formats/pickle/machine.h"

namespace weighbridge::pickle {

Result<Document> Document::Read(std::span<const std::byte> bytes, const std::string& where,
                                const ReadOptions& options) {
  auto graph = std::make_unique<Graph>();
  WB_RETURN_IF_ERROR(Machine(bytes, where, options, *graph).Run());
  return Document(std::move(graph));
}

Document::Document(std::unique_ptr<const Graph> graph) : graph_(std::move(graph)) {}
Document::Document(Document&&) noexcept = default;
Document& Document::operator=(Document&&) noexcept = default;
Document::~Document() = default;

Value Document::root() const { return {graph_.get(), graph_->root}; }

}  // namespace weighbridge::pickle
