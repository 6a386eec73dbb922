#include "formats/pickle/machine.h"

#include <fmt/format.h>

#include <limits>

namespace weighbridge::pickle {
namespace {

constexpr Index kNotRemembered = std::numeric_limits<Index>::max();
constexpr int kNewestProtocol = 5;

}  // namespace

std::string_view Describe(Kind kind) {
  switch (kind) {
    case Kind::kNone:
      return "None";
    case Kind::kBool:
      return "a bool";
    case Kind::kInt:
      return "an integer";
    case Kind::kFloat:
      return "a float";
    case Kind::kString:
      return "a string";
    case Kind::kBytes:
      return "bytes";
    case Kind::kList:
      return "a list";
    case Kind::kTuple:
      return "a tuple";
    case Kind::kSet:
      return "a set";
    case Kind::kDict:
      return "a dict";
    case Kind::kGlobal:
      return "a class or function";
    case Kind::kObject:
      return "an object";
    case Kind::kPersistent:
      return "a persistent id";
  }
  return "";
}

Status Machine::Run() {
  while (true) {
    if (position_ >= input_.size()) return Truncated();
    opcode_at_ = position_;
    const char opcode = input_[position_++];
    if (opcode == '.') return Finish();
    WB_RETURN_IF_ERROR(Step(opcode));
  }
}

Status Machine::Finish() {
  if (!marks_.empty() || stack_.size() != 1) {
    return Invalid(fmt::format("STOP with {} values on the stack instead of one", stack_.size()));
  }
  if (position_ != input_.size()) {
    return Invalid(fmt::format("{} bytes behind STOP", input_.size() - position_));
  }
  graph_.root = stack_[0];
  return {};
}

Status Machine::Step(char opcode) {
  switch (static_cast<unsigned char>(opcode)) {
    case 0x80: {  // PROTO
      WB_TRY(const uint64_t protocol, TakeUnsigned(1));
      if (protocol <= kNewestProtocol) return {};
      return Invalid(
          fmt::format("protocol {} is not known, the newest is {}", protocol, kNewestProtocol));
    }
    case 0x95: {  // FRAME
      WB_TRY(const uint64_t size, TakeUnsigned(8));
      if (size > input_.size() - position_) return Truncated();
      return {};
    }
    case '(':
      return PushMark();
    case '0':
      return DropTop();
    case '1': {  // POP_MARK
      WB_TRY(const size_t from, PopMark());
      stack_.resize(from);
      return {};
    }
    case '2': {  // DUP
      WB_TRY(const Index top, Top());
      return Push(top);
    }

    // The memo.
    case 'p': {
      WB_TRY(const int64_t key, TakeDecimal(""));
      return Remember(static_cast<uint64_t>(key));
    }
    case 'q': {
      WB_TRY(const uint64_t key, TakeUnsigned(1));
      return Remember(key);
    }
    case 'r': {
      WB_TRY(const uint64_t key, TakeUnsigned(4));
      return Remember(key);
    }
    case 0x94:  // MEMOIZE
      return Remember(remembered_);
    case 'g': {
      WB_TRY(const int64_t key, TakeDecimal(""));
      return Recall(static_cast<uint64_t>(key));
    }
    case 'h': {
      WB_TRY(const uint64_t key, TakeUnsigned(1));
      return Recall(key);
    }
    case 'j': {
      WB_TRY(const uint64_t key, TakeUnsigned(4));
      return Recall(key);
    }

    // Scalars.
    case 'N':
      return Push(Graph::kNone);
    case 0x88:
      return Push(Graph::kTrue);
    case 0x89:
      return Push(Graph::kFalse);
    case 'I':
      return PushTextInteger();
    case 'L': {
      WB_TRY(const int64_t value, TakeDecimal("L"));
      return PushInteger(value);
    }
    case 'J': {
      WB_TRY(const uint64_t value, TakeUnsigned(4));
      return PushInteger(static_cast<int32_t>(static_cast<uint32_t>(value)));
    }
    case 'K': {
      WB_TRY(const uint64_t value, TakeUnsigned(1));
      return Push(Graph::kSmallIntegers + static_cast<Index>(value));
    }
    case 'M': {
      WB_TRY(const uint64_t value, TakeUnsigned(2));
      return PushInteger(static_cast<int64_t>(value));
    }
    case 0x8a:
      return PushLong(1);
    case 0x8b:
      return PushLong(4);
    case 'F':
      return PushTextFloat();
    case 'G':
      return PushBinaryFloat();
    case 'S':
      return PushQuotedString();
    case 'T': {
      WB_TRY(const auto text, TakeCounted(4));
      return PushOldString(text);
    }
    case 'U': {
      WB_TRY(const auto text, TakeCounted(1));
      return PushOldString(text);
    }
    case 'V':
      return PushRawUnicode();
    case 0x8c:
      return PushUtf8(1);
    case 'X':
      return PushUtf8(4);
    case 0x8d:
      return PushUtf8(8);
    case 'C': {
      WB_TRY(const auto text, TakeCounted(1));
      return PushText(Kind::kBytes, text);
    }
    case 'B': {
      WB_TRY(const auto text, TakeCounted(4));
      return PushText(Kind::kBytes, text);
    }
    case 0x8e:    // BINBYTES8
    case 0x96: {  // BYTEARRAY8
      WB_TRY(const auto text, TakeCounted(8));
      return PushText(Kind::kBytes, text);
    }

    // Containers.
    case ')':
      return Push(Graph::kEmptyTuple);
    case 0x85:
      return PushTuple(1);
    case 0x86:
      return PushTuple(2);
    case 0x87:
      return PushTuple(3);
    case 't':
      return PushTupleToMark();
    case ']':
      return PushContainer(Kind::kList);
    case 'l':
      return PushListToMark(Kind::kList);
    case 'a':
      return Append(stack_.size() - 1);
    case 'e': {
      WB_TRY(const size_t from, PopMark());
      return Append(from);
    }
    case '}':
      return PushContainer(Kind::kDict);
    case 'd':
      return PushListToMark(Kind::kDict);
    case 's':
      return SetItems(stack_.size() - 2);
    case 'u': {
      WB_TRY(const size_t from, PopMark());
      return SetItems(from);
    }
    case 0x8f:
      return PushContainer(Kind::kSet);
    case 0x90:
      return AddItems();
    case 0x91:
      return PushListToMark(Kind::kSet);

    // Names and objects.
    case 'c':
      return PushTextGlobal();
    case 0x93:
      return PushStackGlobal();
    case 'R':
      return Reduce();
    case 0x81:
      return NewObject(false);
    case 0x92:
      return NewObject(true);
    case 'i':
      return Instance();
    case 'o':
      return ObjectToMark();
    case 'b':
      return Build();
    case 'P': {
      WB_TRY(const auto text, TakeLine());
      WB_RETURN_IF_ERROR(PushOldString(text));
      WB_TRY(const Index id, Pop());
      return PushPersistent(id);
    }
    case 'Q': {
      WB_TRY(const Index id, Pop());
      return PushPersistent(id);
    }

    case 0x82:
    case 0x83:
    case 0x84:
      return Refused("an EXT opcode: it names a class by a number that only its writer knows");
    case 0x97:
    case 0x98:
      return Refused("a buffer outside of the pickle");
    default:
      return Invalid(fmt::format("0x{:02x} is no opcode", static_cast<unsigned char>(opcode)));
  }
}

Status Machine::Push(Index index) {
  stack_.push_back(index);
  return {};
}

Result<Index> Machine::Pop() {
  WB_TRY(const Index top, Top());
  stack_.pop_back();
  return top;
}

Result<Index> Machine::Top() const {
  if (stack_.size() <= floor()) return Invalid("an opcode takes a value from an empty stack");
  return stack_.back();
}

Status Machine::PushMark() {
  if (marks_.size() >= options_.max_depth) {
    return Refused(fmt::format("nested deeper than {} levels", options_.max_depth));
  }
  marks_.push_back(stack_.size());
  return {};
}

Result<size_t> Machine::PopMark() {
  if (marks_.empty()) return Invalid("an opcode looks for a MARK, and there is none");
  const size_t from = marks_.back();
  marks_.pop_back();
  return from;
}

Status Machine::DropTop() {
  if (!marks_.empty() && stack_.size() == marks_.back()) {
    marks_.pop_back();
    return {};
  }
  WB_TRY(const Index dropped, Pop());
  (void)dropped;
  return {};
}

Status Machine::Remember(uint64_t key) {
  WB_TRY(const Index top, Top());
  // A writer numbers from 0, and each PUT is at least a byte.
  if (key >= input_.size()) {
    return Refused(fmt::format("memo entry {} in a pickle of {} bytes", key, input_.size()));
  }
  if (key >= memo_.size()) memo_.resize(key + 1, kNotRemembered);
  if (memo_[key] == kNotRemembered) ++remembered_;
  memo_[key] = top;
  return {};
}

Status Machine::Recall(uint64_t key) {
  if (key >= memo_.size() || memo_[key] == kNotRemembered) {
    return Invalid(fmt::format("memo entry {} is read before it is written", key));
  }
  return Push(memo_[key]);
}

Result<Index> Machine::Add(Node node) {
  if (graph_.nodes.size() >= options_.max_nodes) {
    return Refused(fmt::format("more than {} values", options_.max_nodes));
  }
  graph_.nodes.push_back(node);
  return static_cast<Index>(graph_.nodes.size() - 1);
}

Status Machine::PushNode(Node node) {
  WB_TRY(const Index index, Add(node));
  return Push(index);
}

tl::unexpected<Error> Machine::Invalid(std::string what) const {
  return Corrupt("header-corrupt", "the pickle is not valid: " + what,
                 fmt::format("{}:{}", where_, opcode_at_));
}

tl::unexpected<Error> Machine::Refused(std::string what, std::string hint) const {
  return Corrupt("pickle-refused", "the pickle is refused: " + what,
                 fmt::format("{}:{}", where_, opcode_at_), std::move(hint));
}

tl::unexpected<Error> Machine::Truncated() const {
  return Invalid(fmt::format("its {} bytes end before the value is complete", input_.size()));
}

}  // namespace weighbridge::pickle
