#include "formats/pickle/write.h"

#include <bit>
#include <utility>

namespace weighbridge::pickle {
namespace {

constexpr size_t kBatch = 1000;  // items between MARK and APPENDS or SETITEMS
constexpr size_t kFrameHeader = 9;
constexpr size_t kFrameTarget = 64 << 10;
constexpr size_t kFrameMin = 4;  // a smaller frame is written without its header

// Bytes of a LONG1: two's complement, as few as keep the sign.
int LongBytes(int64_t value) {
  const uint64_t magnitude = static_cast<uint64_t>(value < 0 ? ~value : value);
  return (64 - std::countl_zero(magnitude)) / 8 + 1;
}

}  // namespace

Writer::Writer(int protocol) : protocol_(protocol) { out_ = {'\x80', static_cast<char>(protocol)}; }

void Writer::Put(uint8_t byte) { Put(std::string_view(reinterpret_cast<const char*>(&byte), 1)); }

void Writer::Put(std::string_view text) {
  if (protocol_ >= 4 && frame_ == std::string::npos) {
    frame_ = out_.size();
    out_.append(kFrameHeader, '\0');
  }
  out_ += text;
}

void Writer::PutLittleEndian(uint64_t value, int bytes) {
  for (int i = 0; i < bytes; ++i) Put(static_cast<uint8_t>(value >> (8 * i)));
}

void Writer::CloseFrame() {
  if (frame_ == std::string::npos) return;
  const uint64_t length = out_.size() - frame_ - kFrameHeader;
  if (length < kFrameMin) {
    out_.erase(frame_, kFrameHeader);
  } else {
    out_[frame_] = '\x95';
    for (int i = 0; i < 8; ++i) out_[frame_ + 1 + i] = static_cast<char>(length >> (8 * i));
  }
  frame_ = std::string::npos;
}

// Python asks before each value whether the frame is full.
void Writer::Boundary() {
  if (frame_ != std::string::npos && out_.size() - frame_ - kFrameHeader >= kFrameTarget) {
    CloseFrame();
  }
}

void Writer::Memoize() {
  const uint32_t memo = memo_count_++;
  if (protocol_ >= 4) return Put(0x94);
  Put(memo < 256 ? 'q' : 'r');
  PutLittleEndian(memo, memo < 256 ? 1 : 4);
}

void Writer::PutGet(uint32_t memo) {
  Put(memo < 256 ? 'h' : 'j');
  PutLittleEndian(memo, memo < 256 ? 1 : 4);
}

void Writer::PutString(std::string_view utf8) {
  Boundary();
  if (const auto seen = strings_.find(utf8); seen != strings_.end()) return PutGet(seen->second);
  const bool is_short = protocol_ >= 4 && utf8.size() < 256;
  Put(is_short ? 0x8c : 'X');
  PutLittleEndian(utf8.size(), is_short ? 1 : 4);
  Put(utf8);
  strings_.emplace(utf8, memo_count_);
  Memoize();
}

void Writer::PutGlobal(std::string_view module, std::string_view name) {
  Boundary();
  std::string full = std::string(module) + "\n" + std::string(name) + "\n";
  if (const auto seen = globals_.find(full); seen != globals_.end()) return PutGet(seen->second);
  if (protocol_ >= 4) {
    PutString(module);
    PutString(name);
    Put(0x93);
  } else {
    Put('c');
    Put(full);
  }
  globals_.emplace(std::move(full), memo_count_);
  Memoize();
}

// A list or dict of one item is filled by APPEND or SETITEM; all others in batches.
void Writer::BeginBatch() {
  if (open_.empty()) return;
  const Open& top = open_.back();
  if (top.kind == Kind::kList && top.size > 1 && top.given % kBatch == 0) Put('(');
  if (top.kind == Kind::kDict && top.size > 2 && top.given % (2 * kBatch) == 0) Put('(');
}

void Writer::EndBatch(const Open& open) {
  const bool last = open.given == open.size;
  if (open.kind == Kind::kList) {
    if (open.size == 1) return Put('a');
    if (last || open.given % kBatch == 0) Put('e');
  } else {
    if (open.size == 2) return last ? Put('s') : void();
    const bool full = open.given % (2 * kBatch) == 0;
    if (last || full) Put('u');
    if (last && full) Put("(u");  // Python looks for more items only after the batch
  }
}

void Writer::BeginValue() {
  BeginBatch();
  Boundary();
}

void Writer::Close(const Open& open) {
  switch (open.kind) {
    case Kind::kTuple:
      Put(open.size <= 3 ? static_cast<uint8_t>(0x84 + open.size) : 't');
      return Memoize();
    case Kind::kCall:
      Put('R');
      return Memoize();
    case Kind::kState:
      return Put('b');
    case Kind::kPersistent:
      return Put('Q');
    case Kind::kList:
    case Kind::kDict:
      return;  // memoized when they were opened
  }
}

void Writer::EndValue() {
  while (!open_.empty()) {
    Open& top = open_.back();
    ++top.given;
    if (top.kind == Kind::kList || top.kind == Kind::kDict) EndBatch(top);
    if (top.given < top.size) return;
    Close(top);
    open_.pop_back();
  }
}

Writer& Writer::Push(Kind kind, size_t size) {
  open_.push_back({kind, size});
  if (size > 0) return *this;
  open_.pop_back();
  EndValue();
  return *this;
}

Writer& Writer::None() {
  BeginValue();
  Put('N');
  EndValue();
  return *this;
}

Writer& Writer::Bool(bool value) {
  BeginValue();
  Put(value ? 0x88 : 0x89);
  EndValue();
  return *this;
}

Writer& Writer::Int(int64_t value) {
  BeginValue();
  const auto bits = static_cast<uint64_t>(value);
  if (value >= 0 && value < 0x100) {
    Put('K');
    PutLittleEndian(bits, 1);
  } else if (value >= 0 && value < 0x10000) {
    Put('M');
    PutLittleEndian(bits, 2);
  } else if (value >= INT32_MIN && value <= INT32_MAX) {
    Put('J');
    PutLittleEndian(bits, 4);
  } else {
    Put(0x8a);
    Put(static_cast<uint8_t>(LongBytes(value)));
    PutLittleEndian(bits, LongBytes(value));
  }
  EndValue();
  return *this;
}

Writer& Writer::Float(double value) {
  BeginValue();
  Put('G');
  const auto bits = std::bit_cast<uint64_t>(value);
  for (int i = 7; i >= 0; --i) Put(static_cast<uint8_t>(bits >> (8 * i)));
  EndValue();
  return *this;
}

Writer& Writer::String(std::string_view utf8) {
  BeginValue();
  PutString(utf8);
  EndValue();
  return *this;
}

Writer& Writer::Global(std::string_view module, std::string_view name) {
  BeginValue();
  PutGlobal(module, name);
  EndValue();
  return *this;
}

Writer& Writer::Again(uint32_t memo) {
  BeginValue();
  PutGet(memo);
  EndValue();
  return *this;
}

Writer& Writer::Tuple(size_t size) {
  BeginValue();
  if (size == 0) Put(')');
  if (size > 3) Put('(');
  return Push(Kind::kTuple, size);
}

Writer& Writer::List(size_t size) {
  BeginValue();
  Put(']');
  Memoize();
  return Push(Kind::kList, size);
}

Writer& Writer::Dict(size_t size) {
  BeginValue();
  Put('}');
  Memoize();
  return Push(Kind::kDict, 2 * size);
}

Writer& Writer::Call(std::string_view module, std::string_view name) {
  BeginValue();
  PutGlobal(module, name);
  return Push(Kind::kCall, 1);
}

Writer& Writer::Object(std::string_view module, std::string_view name) {
  BeginValue();
  PutGlobal(module, name);
  Boundary();
  Put(")\x81");
  Memoize();
  EndValue();
  return *this;
}

Writer& Writer::ObjectWithState(std::string_view module, std::string_view name) {
  BeginValue();
  PutGlobal(module, name);
  Boundary();
  Put(")\x81");
  Memoize();
  return Push(Kind::kState, 1);
}

Writer& Writer::PersistentId() {
  BeginValue();
  return Push(Kind::kPersistent, 1);
}

std::string Writer::Finish() && {
  Put('.');
  CloseFrame();
  return std::move(out_);
}

}  // namespace weighbridge::pickle
