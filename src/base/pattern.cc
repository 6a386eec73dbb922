#include "base/pattern.h"

#include <cstddef>
#include <utility>

namespace weighbridge {
namespace {

constexpr size_t kMaxLength = 1024;
constexpr int kMaxDepth = 64;

using Bytes = std::bitset<256>;

void AddRange(unsigned char first, unsigned char last, Bytes& bytes) {
  for (unsigned c = first; c <= last; ++c) bytes.set(c);
}

// `\d`, `\w`, `\s`, their opposites, and escaped punctuation.
std::optional<Bytes> Escaped(char c) {
  Bytes bytes;
  switch (c) {
    case 'd':
    case 'D':
      AddRange('0', '9', bytes);
      return c == 'd' ? bytes : ~bytes;
    case 'w':
    case 'W':
      AddRange('0', '9', bytes);
      AddRange('a', 'z', bytes);
      AddRange('A', 'Z', bytes);
      bytes.set('_');
      return c == 'w' ? bytes : ~bytes;
    case 's':
    case 'S':
      AddRange('\t', '\r', bytes);
      bytes.set(' ');
      return c == 's' ? bytes : ~bytes;
    default:
      break;
  }
  const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
  if (letter) return std::nullopt;
  bytes.set(static_cast<unsigned char>(c));
  return bytes;
}

}  // namespace

class Pattern::Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  std::optional<Steps> Run() {
    auto steps = Alternatives(0);
    if (!steps) return std::nullopt;
    if (at_ != text_.size()) return Broken();  // a ')' that nothing opened
    steps->push_back({Step::Kind::kAccept, {}, 1, 1});
    return steps;
  }

  // Of a text that Run() did not read.
  bool broken() const { return broken_; }

 private:
  std::nullopt_t Broken() {
    broken_ = true;
    return std::nullopt;
  }

  bool Take(char c) {
    if (at_ >= text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }

  static std::ptrdiff_t Size(const Steps& steps) {
    return static_cast<std::ptrdiff_t>(steps.size());
  }
  static Step Fork(std::ptrdiff_t next, std::ptrdiff_t other) {
    return {Step::Kind::kFork, {}, next, other};
  }
  static void Append(const Steps& more, Steps& steps) {
    steps.insert(steps.end(), more.begin(), more.end());
  }

  std::optional<Steps> Alternatives(int depth) {
    if (depth > kMaxDepth) return std::nullopt;
    auto left = Sequence(depth);
    while (left && Take('|')) {
      const auto right = Sequence(depth);
      if (!right) return std::nullopt;
      Steps both = {Fork(1, Size(*left) + 2)};
      Append(*left, both);
      both.push_back(Fork(Size(*right) + 1, Size(*right) + 1));
      Append(*right, both);
      left = std::move(both);
    }
    return left;
  }

  std::optional<Steps> Sequence(int depth) {
    Steps steps;
    while (at_ < text_.size() && text_[at_] != '|' && text_[at_] != ')') {
      // After a repeat a '+' is another kind of repeat in new versions of Python.
      const bool repeats_nothing = text_[at_] == '*' || (steps.empty() && IsRepeat(text_[at_]));
      if (repeats_nothing) return Broken();
      auto one = Atom(depth);
      if (!one) return std::nullopt;
      Append(Repeated(*std::move(one)), steps);
    }
    return steps;
  }

  static bool IsRepeat(char c) { return c == '*' || c == '+' || c == '?'; }

  Steps Repeated(Steps one) {
    const std::ptrdiff_t size = Size(one);
    Steps steps;
    if (Take('*')) {
      steps = {Fork(1, size + 2)};
      Append(one, steps);
      steps.push_back(Fork(-size - 1, -size - 1));
    } else if (Take('+')) {
      steps = std::move(one);
      steps.push_back(Fork(-size, 1));
    } else if (Take('?')) {
      steps = {Fork(1, size + 1)};
      Append(one, steps);
    } else {
      return one;
    }
    Take('?');  // a lazy repeat matches the same texts
    return steps;
  }

  std::optional<Steps> Atom(int depth) {
    const char c = text_[at_++];
    switch (c) {
      case '(':
        return Group(depth);
      case '[':
        return Class();
      case '^':
        return Steps{{Step::Kind::kBegin, {}, 1, 1}};
      case '$':
        return Steps{{Step::Kind::kEnd, {}, 1, 1}};
      case '.': {
        Bytes all;
        all.set().reset('\n');
        return One(all);
      }
      case '\\': {
        if (at_ >= text_.size()) return Broken();
        const auto bytes = Escaped(text_[at_++]);
        if (!bytes) return std::nullopt;
        return One(*bytes);
      }
      case '*':
      case '+':
      case '?':
      case '{':
        return std::nullopt;
      default:
        return One(Bytes().set(static_cast<unsigned char>(c)));
    }
  }

  static Steps One(const Bytes& bytes) { return {{Step::Kind::kByte, bytes, 1, 1}}; }

  std::optional<Steps> Group(int depth) {
    if (Take('?') && !Take(':')) return std::nullopt;
    auto inside = Alternatives(depth + 1);
    if (inside && !Take(')')) return Broken();
    return inside;
  }

  std::optional<Steps> Class() {
    Bytes bytes;
    const bool inverted = Take('^');
    bool first = true;
    while (at_ < text_.size() && (first || text_[at_] != ']')) {
      first = false;
      const char c = text_[at_++];
      if (c == '\\') {
        if (at_ >= text_.size()) return Broken();
        const auto escaped = Escaped(text_[at_++]);
        if (!escaped) return std::nullopt;
        bytes |= *escaped;
        continue;
      }
      char last = c;
      if (at_ + 1 < text_.size() && text_[at_] == '-' && text_[at_ + 1] != ']') {
        last = text_[at_ + 1];
        at_ += 2;
        if (last == '\\') return std::nullopt;
        if (last < c) return Broken();
      }
      AddRange(static_cast<unsigned char>(c), static_cast<unsigned char>(last), bytes);
    }
    if (!Take(']')) return Broken();
    return One(inverted ? ~bytes : bytes);
  }

  std::string_view text_;
  size_t at_ = 0;
  bool broken_ = false;
};

std::optional<Pattern> Pattern::Parse(std::string_view text) {
  if (text.size() > kMaxLength) return std::nullopt;
  auto steps = Parser(text).Run();
  if (!steps) return std::nullopt;
  Pattern pattern;
  pattern.steps_ = *std::move(steps);
  return pattern;
}

bool Pattern::IsBroken(std::string_view text) {
  if (text.size() > kMaxLength) return false;
  Parser parser(text);
  return !parser.Run() && parser.broken();
}

bool Pattern::MatchesStart(std::string_view text) const {
  std::vector<size_t> now = {0}, next;
  std::vector<size_t> seen(steps_.size(), 0);  // 1 + the position at which a step was entered
  for (size_t at = 0; !now.empty(); ++at) {
    next.clear();
    while (!now.empty()) {
      const size_t i = now.back();
      now.pop_back();
      if (std::exchange(seen[i], at + 1) == at + 1) continue;
      const Step& step = steps_[i];
      const auto to = [&](std::ptrdiff_t by) {
        return static_cast<size_t>(static_cast<std::ptrdiff_t>(i) + by);
      };
      switch (step.kind) {
        case Step::Kind::kAccept:
          return true;
        case Step::Kind::kByte:
          if (at < text.size() && step.bytes[static_cast<unsigned char>(text[at])]) {
            next.push_back(to(step.next));
          }
          break;
        case Step::Kind::kBegin:
          if (at == 0) now.push_back(to(step.next));
          break;
        case Step::Kind::kEnd:
          if (at == text.size()) now.push_back(to(step.next));
          break;
        case Step::Kind::kFork:
          now.push_back(to(step.next));
          now.push_back(to(step.other));
          break;
      }
    }
    std::swap(now, next);
  }
  return false;
}

}  // namespace weighbridge
