// Style and script of the HTML page.
#pragma once

namespace weighbridge {

extern const char kHtmlStyle[];
// Filters and sorts the table; without it the table is whole and in its own order.
extern const char kHtmlScript[];

}  // namespace weighbridge
