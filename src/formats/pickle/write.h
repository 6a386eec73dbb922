// Writes a pickle with the opcodes that Python's own pickler (_pickle.c of CPython 3.8 to 3.13)
// chooses: protocol 2, which torch.save uses, and protocol 4, which .metadata has. One difference:
// equal strings and globals are always shared, where Python shares only the same object.
//
// Values are given in order, depth first. A container is opened with its size and closes itself
// after that many values:
//   Dict(1).String("step").Tuple(2).Int(1).None()      {"step": (1, None)}
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace weighbridge::pickle {

class Writer {
 public:
  explicit Writer(int protocol);

  Writer& None();
  Writer& Bool(bool value);
  Writer& Int(int64_t value);
  Writer& Float(double value);
  Writer& String(std::string_view utf8);  // below 4 GiB
  Writer& Global(std::string_view module, std::string_view name);

  Writer& Tuple(size_t size);
  Writer& List(size_t size);
  Writer& Dict(size_t size);  // `size` times a key, then its value

  // The object that a call gives (REDUCE); the next value is the tuple of arguments.
  Writer& Call(std::string_view module, std::string_view name);
  // An instance made without arguments (NEWOBJ), of a class without state ...
  Writer& Object(std::string_view module, std::string_view name);
  // ... or with it: the next value is the state (BUILD).
  Writer& ObjectWithState(std::string_view module, std::string_view name);
  // What the reader resolves itself (BINPERSID); the next value is the id.
  Writer& PersistentId();

  // The number of the value that was completed last, and that value once more. Only for strings,
  // globals, tuples that are not empty, lists, dicts and calls.
  uint32_t LastMemo() const { return memo_count_ - 1; }
  Writer& Again(uint32_t memo);

  // The pickle. One value, complete, must have been given.
  std::string Finish() &&;

 private:
  enum class Kind : uint8_t { kTuple, kList, kDict, kCall, kState, kPersistent };
  struct Open {
    Kind kind;
    size_t size;  // in values: keys count
    size_t given = 0;
  };
  struct Hash {
    using is_transparent = void;
    size_t operator()(std::string_view text) const { return std::hash<std::string_view>{}(text); }
  };
  using Memo = std::unordered_map<std::string, uint32_t, Hash, std::equal_to<>>;

  void BeginValue();
  void EndValue();
  void Close(const Open& open);
  void BeginBatch();
  void EndBatch(const Open& open);
  Writer& Push(Kind kind, size_t size);
  void Boundary();
  void CloseFrame();
  void Put(uint8_t byte);
  void Put(std::string_view text);
  void PutLittleEndian(uint64_t value, int bytes);
  void PutString(std::string_view utf8);
  void PutGlobal(std::string_view module, std::string_view name);
  void PutGet(uint32_t memo);
  void Memoize();

  int protocol_;
  std::string out_;
  size_t frame_ = std::string::npos;  // where the open frame's header stands
  std::vector<Open> open_;
  Memo strings_, globals_;
  uint32_t memo_count_ = 0;
};

}  // namespace weighbridge::pickle
