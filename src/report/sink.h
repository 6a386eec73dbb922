// Where a rendering goes: called with consecutive pieces of text. Renderers write row by row, so a
// report of 100,000 rows is never held as one text.
#pragma once

#include <functional>
#include <string>
#include <string_view>

namespace weighbridge {

using Sink = std::function<void(std::string_view)>;

// Runs `render` with a sink that collects everything; for tests and for small reports.
template <typename Render>
std::string RenderToString(const Render& render) {
  std::string text;
  render(Sink([&text](std::string_view piece) { text.append(piece); }));
  return text;
}

}  // namespace weighbridge
