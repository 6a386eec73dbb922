#include "family/expression.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>

namespace weighbridge {
namespace {

constexpr int kMaxDepth = 64;

bool IsWordChar(char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_'; }

class Parser {
 public:
  Parser(std::string_view text, const NameLookup& lookup) : text_(text), lookup_(lookup) {}

  Result<int64_t> Parse() {
    WB_TRY(const int64_t value, Or(0));
    SkipSpace();
    if (at_ != text_.size()) return Error("something follows the expression");
    return value;
  }

 private:
  tl::unexpected<weighbridge::Error> Error(std::string what) const {
    return Fail(ErrorKind::kInvalid, "expression", std::move(what),
                fmt::format("column {} of '{}'", at_ + 1, text_));
  }

  // A byte that may be a part of a UTF-8 sequence.
  static std::string Shown(char c) {
    const auto byte = static_cast<unsigned char>(c);
    return byte >= 0x20 && byte < 0x7F ? fmt::format("'{}'", c)
                                       : fmt::format("byte 0x{:02X}", byte);
  }

  void SkipSpace() {
    while (at_ < text_.size() && std::isspace(static_cast<unsigned char>(text_[at_]))) ++at_;
  }

  bool Take(std::string_view token) {
    SkipSpace();
    if (!text_.substr(at_).starts_with(token)) return false;
    const size_t end = at_ + token.size();
    if (IsWordChar(token.back()) && end < text_.size() && IsWordChar(text_[end])) return false;
    at_ = end;
    return true;
  }

  Result<int64_t> Or(int depth) {
    if (depth > kMaxDepth) return Error("the expression is nested too deeply");
    WB_TRY(int64_t value, And(depth));
    while (Take("or")) {
      WB_TRY(const int64_t right, And(depth));
      value = value != 0 || right != 0;
    }
    return value;
  }

  Result<int64_t> And(int depth) {
    WB_TRY(int64_t value, Not(depth));
    while (Take("and")) {
      WB_TRY(const int64_t right, Not(depth));
      value = value != 0 && right != 0;
    }
    return value;
  }

  Result<int64_t> Not(int depth) {
    if (Take("not")) {
      if (depth > kMaxDepth) return Error("the expression is nested too deeply");
      WB_TRY(const int64_t value, Not(depth + 1));
      return value == 0 ? 1 : 0;
    }
    return Comparison(depth);
  }

  Result<int64_t> Comparison(int depth) {
    WB_TRY(const int64_t left, Sum(depth));
    for (std::string_view op : {"==", "!=", "<=", ">=", "<", ">"}) {
      if (!Take(op)) continue;
      WB_TRY(const int64_t right, Sum(depth));
      if (op == "==") return left == right;
      if (op == "!=") return left != right;
      if (op == "<=") return left <= right;
      if (op == ">=") return left >= right;
      return op == "<" ? left < right : left > right;
    }
    return left;
  }

  Result<int64_t> Sum(int depth) {
    WB_TRY(int64_t value, Product(depth));
    for (;;) {
      const bool plus = Take("+");
      if (!plus && !Take("-")) return value;
      WB_TRY(const int64_t right, Product(depth));
      const bool overflow = plus ? __builtin_add_overflow(value, right, &value)
                                 : __builtin_sub_overflow(value, right, &value);
      if (overflow) return Error("integer overflow");
    }
  }

  Result<int64_t> Product(int depth) {
    WB_TRY(int64_t value, Factor(depth));
    for (;;) {
      if (Take("*")) {
        WB_TRY(const int64_t right, Factor(depth));
        if (__builtin_mul_overflow(value, right, &value)) return Error("integer overflow");
      } else if (Take("/") || Take("%")) {
        const char op = text_[at_ - 1];
        WB_TRY(const int64_t right, Factor(depth));
        if (right <= 0) return Error("division by a number that is not positive");
        if (op == '/' && value % right != 0) {
          return Error(fmt::format("{} is not divisible by {}", value, right));
        }
        value = op == '/' ? value / right : value % right;
      } else {
        return value;
      }
    }
  }

  Result<int64_t> Factor(int depth) {
    SkipSpace();
    if (Take("(")) {
      WB_TRY(const int64_t value, Or(depth + 1));
      if (!Take(")")) return Error("')' is missing");
      return value;
    }
    if (at_ >= text_.size()) return Error("the expression ends early");
    const size_t begin = at_;
    if (std::isdigit(static_cast<unsigned char>(text_[at_]))) {
      int64_t value = 0;
      while (at_ < text_.size() && std::isdigit(static_cast<unsigned char>(text_[at_]))) {
        if (__builtin_mul_overflow(value, 10, &value) ||
            __builtin_add_overflow(value, text_[at_] - '0', &value)) {
          return Error("integer overflow");
        }
        ++at_;
      }
      return value;
    }
    if (!IsWordChar(text_[at_])) return Error(fmt::format("unexpected {}", Shown(text_[at_])));
    while (at_ < text_.size() && IsWordChar(text_[at_])) ++at_;
    const std::string_view word = text_.substr(begin, at_ - begin);
    if (word == "true") return 1;
    if (word == "false") return 0;
    return lookup_(word);
  }

  std::string_view text_;
  const NameLookup& lookup_;
  size_t at_ = 0;
};

}  // namespace

Result<int64_t> Evaluate(std::string_view expression, const NameLookup& lookup) {
  if (expression.size() > 4096) {
    return Fail(ErrorKind::kInvalid, "expression", "the expression is longer than 4096 characters");
  }
  return Parser(expression, lookup).Parse();
}

std::set<std::string> NamesIn(std::string_view expression) {
  static constexpr std::array<std::string_view, 5> kWords = {"and", "or", "not", "true", "false"};
  std::set<std::string> names;
  for (size_t at = 0; at < expression.size();) {
    size_t end = at;
    while (end < expression.size() && IsWordChar(expression[end])) ++end;
    const std::string_view word = expression.substr(at, end - at);
    const bool name = !word.empty() && std::isdigit(static_cast<unsigned char>(word[0])) == 0;
    if (name && std::find(kWords.begin(), kWords.end(), word) == kWords.end()) names.emplace(word);
    at = std::max(end, at + 1);
  }
  return names;
}

Result<std::string> Substitute(std::string_view text, const NameLookup& lookup) {
  std::string out;
  size_t at = 0;
  while (at < text.size()) {
    const size_t open = text.find('{', at);
    out += text.substr(at, open - at);
    if (open == std::string_view::npos) break;
    const size_t close = text.find('}', open);
    if (close == std::string_view::npos) {
      return Fail(ErrorKind::kInvalid, "expression", "'}' is missing", std::string(text));
    }
    WB_TRY(const int64_t value, Evaluate(text.substr(open + 1, close - open - 1), lookup));
    out += fmt::format("{}", value);
    at = close + 1;
  }
  return out;
}

}  // namespace weighbridge
