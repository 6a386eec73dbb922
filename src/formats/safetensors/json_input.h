// JSON text in the form that simdjson reads: followed by SIMDJSON_PADDING readable bytes.
#pragma once

#include <simdjson.h>

#include <cstddef>
#include <span>
#include <string>

namespace weighbridge {

class JsonInput {
 public:
  // `text` is a part of `mapping` and must outlive this object; it is copied only when fewer than
  // SIMDJSON_PADDING bytes of `mapping` follow it.
  JsonInput(std::span<const std::byte> text, std::span<const std::byte> mapping);

  simdjson::padded_string_view view() const { return view_; }

 private:
  simdjson::padded_string copy_;
  simdjson::padded_string_view view_;
};

// What a simdjson error means, in the words of our messages ("not valid UTF-8", "a comma or brace
// is missing or misplaced", ...).
std::string DescribeJsonError(simdjson::error_code code);

}  // namespace weighbridge
