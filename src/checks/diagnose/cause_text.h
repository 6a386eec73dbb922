// What a cause means and where it comes from, in the words that a report shows (docs/causes.md).
#pragma once

#include <string_view>

namespace weighbridge {

struct CauseText {
  std::string_view id;
  std::string_view message;  // what the tensors show
  std::string_view rule;     // which rule of a bridge's mapping registry, or which step, makes it
  std::string_view fix;
};

// Of the causes that a search of weights can name; that of `unexplained` for all others.
const CauseText& TextOf(std::string_view cause);

}  // namespace weighbridge
