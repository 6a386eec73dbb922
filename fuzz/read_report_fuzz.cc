#include <cstdint>
#include <string_view>

#include "report/html.h"
#include "report/json.h"
#include "report/junit.h"
#include "report/read_json.h"
#include "report/terminal.h"

// A report that can be read can be rendered in every form, and is read again from its own JSON.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using weighbridge::Sink;
  const auto report =
      weighbridge::ParseReport({reinterpret_cast<const char*>(data), size}, "report.json");
  if (!report) return report.error().what.empty() ? (__builtin_trap(), 0) : 0;
  const Sink drop = [](std::string_view) {};
  weighbridge::WriteTerminal(*report, {.verbose = 2, .columns = 80}, drop);
  weighbridge::WriteHtml(*report, drop);
  weighbridge::WriteJunit({*report}, drop);
  std::string json;
  weighbridge::WriteJson(*report, [&](std::string_view text) { json += text; });
  if (!weighbridge::ParseReport(json, "again.json")) __builtin_trap();
  return 0;
}
