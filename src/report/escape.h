// Text made safe for markup.
#pragma once

#include <string>
#include <string_view>

namespace weighbridge {

// For element content and quoted attributes of XML and HTML: & < > " ' as entities, bytes that are
// not UTF-8 replaced, control characters (line feeds too) as visible escapes, U+FFFE and U+FFFF
// replaced.
std::string EscapeMarkup(std::string_view text);

}  // namespace weighbridge
