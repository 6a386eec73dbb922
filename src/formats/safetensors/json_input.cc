#include "formats/safetensors/json_input.h"

namespace weighbridge {

JsonInput::JsonInput(std::span<const std::byte> text, std::span<const std::byte> mapping) {
  const auto* chars = reinterpret_cast<const char*>(text.data());
  const auto behind =
      static_cast<size_t>(mapping.data() + mapping.size() - text.data()) - text.size();
  if (behind >= simdjson::SIMDJSON_PADDING) {
    view_ = simdjson::padded_string_view(chars, text.size(), text.size() + behind);
  } else {
    copy_ = simdjson::padded_string(chars, text.size());
    view_ = copy_;
  }
}

std::string DescribeJsonError(simdjson::error_code code) {
  switch (code) {
    case simdjson::UTF8_ERROR:
      return "the JSON is not valid UTF-8";
    case simdjson::UNCLOSED_STRING:
      return "the JSON ends inside of a string";
    case simdjson::UNESCAPED_CHARS:
      return "the JSON has a control character inside of a string";
    case simdjson::STRING_ERROR:
      return "the JSON has a string with an invalid escape";
    case simdjson::INCOMPLETE_ARRAY_OR_OBJECT:
      return "the JSON ends before its last bracket is closed";
    case simdjson::TAPE_ERROR:
      return "the JSON has a comma, colon or bracket that is missing or misplaced";
    case simdjson::TRAILING_CONTENT:
      return "the JSON is followed by something else";
    case simdjson::EMPTY:
      return "the JSON is empty";
    case simdjson::NUMBER_ERROR:
    case simdjson::BIGINT_ERROR:
      return "the JSON has a number that is not a non-negative integer below 2^64";
    case simdjson::INCORRECT_TYPE:
      return "the JSON has a value of the wrong type";
    default:
      return std::string("the JSON cannot be read: ") + simdjson::error_message(code);
  }
}

}  // namespace weighbridge
