#include "report/escape.h"

#include "base/strings.h"

namespace weighbridge {

std::string EscapeMarkup(std::string_view text) {
  const std::string printable = ToPrintable(text);
  std::string out;
  out.reserve(printable.size());
  for (size_t i = 0; i < printable.size(); ++i) {
    const std::string_view rest = std::string_view(printable).substr(i, 3);
    if (rest == "\xef\xbf\xbe" || rest == "\xef\xbf\xbf") {
      out += "\xef\xbf\xbd";
      i += 2;
      continue;
    }
    switch (printable[i]) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        out += printable[i];
    }
  }
  return out;
}

}  // namespace weighbridge
