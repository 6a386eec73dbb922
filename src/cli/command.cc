#include "cli/command.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "cli/call.h"

namespace weighbridge::cli {

CLI::Validator FiniteFrom(double min, double max) {
  return {[min, max](std::string& text) -> std::string {
            double value = 0;
            const bool number = CLI::detail::lexical_cast(text, value);
            if (number && value >= min && value <= max) return "";
            if (max == std::numeric_limits<double>::max()) {
              return fmt::format("'{}' is not a number of at least {}", text, min);
            }
            return fmt::format("'{}' is not a number from {} to {}", text, min, max);
          },
          ""};
}

void AddOutputOptions(CLI::App& command, Context& context) {
  OutputOptions& o = context.output;
  command.add_flag("-q,--quiet", o.quiet, "print nothing but errors")->group("Output");
  command.add_flag("-v,--verbose", o.verbose, "print every row; -vv adds details")->group("Output");
  command.add_option("--color", o.color, "auto, always or never")
      ->check(CLI::IsMember({"auto", "always", "never"}))
      ->capture_default_str()
      ->group("Output");
  command.add_option("--top", o.top, "failed rows shown, worst first; 0: all")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str()
      ->group("Output");
  command.add_option("--json", o.json, "write the report as JSON to FILE, - for stdout")
      ->type_name("FILE")
      ->group("Output");
  command.add_option("--html", o.html, "write one self-contained HTML page to FILE")
      ->type_name("FILE")
      ->group("Output");
  command.add_option("--junit", o.junit, "write JUnit XML to FILE")
      ->type_name("FILE")
      ->group("Output");
  command.add_option("--card", o.card, "write a verification card (YAML) to FILE")
      ->type_name("FILE")
      ->group("Output");
}

int PrintError(const Error& error) {
  if (CallResult* call = CurrentCall()) {
    call->errors.push_back(error);
  } else {
    fmt::print(stderr, "error: {}\n", error.what);
    if (!error.at.empty()) fmt::print(stderr, "  at: {}\n", error.at);
    if (!error.hint.empty()) fmt::print(stderr, "  hint: {}\n", error.hint);
  }
  return error.kind == ErrorKind::kCorrupt ? 1 : 2;
}

bool UseColor(const OutputOptions& options) {
  if (options.color == "always") return true;
  if (options.color == "never") return false;
  const char* no_color = std::getenv("NO_COLOR");
  const char* term = std::getenv("TERM");
  if (no_color != nullptr && *no_color != '\0') return false;
  if (term == nullptr || std::string_view(term) == "dumb") return false;
  return ::isatty(STDOUT_FILENO) != 0;
}

void AddExamples(CLI::App& command, const std::vector<std::string>& lines) {
  std::string text = "Examples:";
  for (const std::string& line : lines) text += "\n  " + line;
  command.footer(text);
}

std::vector<std::string> NormalizeArguments(const std::vector<std::string>& argv) {
  std::vector<std::string> out;
  bool options_ended = false;
  for (size_t i = 1; i < argv.size(); ++i) {
    std::string a = argv[i];
    if (a == "--") options_ended = true;
    if (!options_ended && a.starts_with("--")) {
      for (size_t k = 2; k < a.size() && a[k] != '='; ++k) {
        if (a[k] == '_') a[k] = '-';
      }
    }
    out.push_back(std::move(a));
  }
  return out;
}

}  // namespace weighbridge::cli
