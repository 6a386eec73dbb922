// Errors are values. A function that can fail returns Result<T>; nothing throws across rooms.
#pragma once

#include <string>
#include <tl/expected.hpp>
#include <utility>

namespace weighbridge {

// What a failure means for the exit status: kCorrupt says that a checkpoint under judgement was
// found bad (1), every other kind that no judgement was reached (2).
enum class ErrorKind {
  kUsage,        // the command line, an option's value, a pattern
  kNotFound,     // a path, tensor or family that was asked for is not there
  kPermission,   // the operating system refuses
  kIo,           // read, write or memory failure, disk full
  kCorrupt,      // the content of a checkpoint contradicts its own format or index
  kUnsupported,  // valid, but outside of what this program knows
  kInvalid,      // a family file or a call with arguments that contradict each other
  kInternal,     // a bug in Weighbridge
};

// One failure, printed as `error: WHAT`, `  at: AT`, `  hint: HINT`.
struct Error {
  ErrorKind kind = ErrorKind::kInternal;
  // For kCorrupt one of docs/causes.md ("file-truncated"), else a short stable word ("usage").
  std::string id;
  std::string what;
  std::string at;    // FILE, FILE:OFFSET or a tensor; may be empty
  std::string hint;  // what the user can do; may be empty

  Error At(std::string where) && {
    at = std::move(where);
    return std::move(*this);
  }
  Error Hint(std::string text) && {
    hint = std::move(text);
    return std::move(*this);
  }
};

template <typename T>
using Result = tl::expected<T, Error>;
using Status = Result<void>;

inline tl::unexpected<Error> Fail(Error error) { return tl::unexpected<Error>(std::move(error)); }
inline tl::unexpected<Error> Fail(ErrorKind kind, std::string id, std::string what,
                                  std::string at = "", std::string hint = "") {
  return Fail(Error{kind, std::move(id), std::move(what), std::move(at), std::move(hint)});
}
inline tl::unexpected<Error> Corrupt(std::string id, std::string what, std::string at = "",
                                     std::string hint = "") {
  return Fail(ErrorKind::kCorrupt, std::move(id), std::move(what), std::move(at), std::move(hint));
}

#define WB_CONCAT_INNER(a, b) a##b
#define WB_CONCAT(a, b) WB_CONCAT_INNER(a, b)

// WB_TRY(auto x, Expression());  binds the value or returns the error from the calling function.
#define WB_TRY(declaration, expression) \
  WB_TRY_IMPL(WB_CONCAT(wb_result_, __LINE__), declaration, expression)
#define WB_TRY_IMPL(temporary, declaration, expression)                \
  auto temporary = (expression);                                       \
  if (!temporary) return tl::unexpected(std::move(temporary).error()); \
  declaration = std::move(*temporary)

// WB_RETURN_IF_ERROR(StatusExpression());
#define WB_RETURN_IF_ERROR(expression)                     \
  do {                                                     \
    if (auto wb_status = (expression); !wb_status)         \
      return tl::unexpected(std::move(wb_status).error()); \
  } while (false)

}  // namespace weighbridge
