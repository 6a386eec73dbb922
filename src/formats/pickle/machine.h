// The stack machine that reads a pickle into a Graph. Private to this folder.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/result.h"
#include "formats/pickle/graph.h"
#include "formats/pickle/read.h"

namespace weighbridge::pickle {

class Machine {
 public:
  Machine(std::span<const std::byte> input, const std::string& where, const ReadOptions& options,
          Graph& graph)
      : input_(reinterpret_cast<const char*>(input.data()), input.size()),
        where_(where),
        options_(options),
        graph_(graph) {}

  // Reads to STOP and sets the graph's root.
  Status Run();

 private:
  // One opcode each; `opcode` has been consumed. machine.cc
  Status Step(char opcode);
  Status Finish();

  // Arguments in the input. machine_input.cc
  Result<std::string_view> Take(uint64_t size);
  Result<uint64_t> TakeUnsigned(int bytes);           // little-endian
  Result<std::string_view> TakeCounted(int bytes);    // a length of so many bytes, then the content
  Result<std::string_view> TakeLine();                // without its line feed
  Result<int64_t> TakeDecimal(std::string_view end);  // a line; `end` may stand behind the digits

  // Scalars. machine_scalars.cc
  Status PushInteger(int64_t value);
  Status PushTextInteger();  // INT, with its spelling of booleans
  Status PushLong(int length_bytes);
  Status PushBinaryFloat();
  Status PushTextFloat();
  Status PushUtf8(int length_bytes);
  Status PushOldString(std::string_view text);
  Status PushQuotedString();
  Status PushRawUnicode();
  Status PushText(Kind kind, std::string_view text);

  // Containers. machine_containers.cc
  Status PushContainer(Kind kind);
  Status PushTuple(size_t size);
  Status PushTupleToMark();
  Status PushListToMark(Kind kind);
  Status Append(size_t from);  // stack[from..] to what lies below
  Status SetItems(size_t from);
  Status AddItems();
  Result<std::vector<Index>*> ListToFill(Index target, Kind kind, Filling filling);

  // Names, objects. machine_objects.cc
  Status PushGlobal(std::string_view module, std::string_view name);
  Status PushTextGlobal();
  Status PushStackGlobal();
  Status PushPersistent(Index id);
  Status Reduce();
  Index ReconstructedClass(Index callee, Index arguments) const;
  Status NewObject(bool with_keywords);
  Status Instance();      // INST
  Status ObjectToMark();  // OBJ
  Status Build();
  Status PushObject(Index callee, Index arguments);

  // Stack and memo. machine.cc
  Status Push(Index index);
  Result<Index> Pop();
  Result<Index> Top() const;
  Result<size_t> PopMark();  // where the values above the mark begin
  Status PushMark();
  Status DropTop();
  Status Remember(uint64_t key);
  Status Recall(uint64_t key);
  size_t floor() const { return marks_.empty() ? 0 : marks_.back(); }
  Result<Index> Add(Node node);
  Result<Index> AddTuple(std::span<const Index> items);
  Status PushNode(Node node);

  tl::unexpected<Error> Invalid(std::string what) const;
  tl::unexpected<Error> Refused(std::string what, std::string hint = "") const;
  tl::unexpected<Error> Truncated() const;

  std::string_view input_;
  const std::string& where_;
  const ReadOptions& options_;
  Graph& graph_;
  size_t position_ = 0;
  size_t opcode_at_ = 0;
  std::vector<Index> stack_;
  std::vector<size_t> marks_;
  std::vector<Index> memo_;
  uint64_t remembered_ = 0;  // entries of the memo, which MEMOIZE counts
  std::unordered_map<std::string, Index> globals_;
};

// "a dict", "a list": for messages.
std::string_view Describe(Kind kind);

}  // namespace weighbridge::pickle
