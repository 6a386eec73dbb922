#include "cli/help.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <string>
#include <vector>

#include "cli/options.h"

namespace weighbridge::cli {
namespace {

constexpr char kExitStatus[] =
    "Exit status: 0 parity holds or the work is done, 1 a checkpoint was found bad,\n"
    "             2 no judgement (usage, I/O, nothing compared), 130 interrupted.\n";

constexpr char kEnvironment[] =
    "Environment:\n"
    "  HF_HUB_CACHE, HF_HOME      where models named org/name are looked up\n"
    "  WEIGHBRIDGE_FAMILIES       folder of family files that come before the built-in ones\n"
    "  NO_COLOR, TERM=dumb        no colours\n"
    "  COLUMNS                    width of the tables\n";

// `text` in lines of at most 98 columns, later lines indented by `indent`; the text starts there
// too.
std::string Wrapped(const std::string& text, size_t indent) {
  constexpr size_t kWidth = 98;
  std::string out;
  size_t at = indent;
  size_t begin = 0;
  while (begin < text.size()) {
    size_t end = text.find_first_of(" \n", begin);
    if (end == std::string::npos) end = text.size();
    const size_t length = end - begin;
    if (at > indent && at + 1 + length > kWidth) {
      out += "\n" + std::string(indent, ' ');
      at = indent;
    } else if (at > indent) {
      out += ' ';
      ++at;
    }
    out.append(text, begin, length);
    at += length;
    begin = end + 1;
  }
  return out;
}

constexpr size_t kColumn = 30;

std::string Row(const std::string& left, const std::string& right) {
  if (right.empty()) return fmt::format("  {}\n", left);
  const std::string text = Wrapped(right, kColumn);
  if (left.size() + 4 > kColumn) return fmt::format("  {}\n{:{}}{}\n", left, "", kColumn, text);
  return fmt::format("  {:{}}{}\n", left, kColumn - 2, text);
}

std::string OptionRow(const CLI::Option& option, bool all) {
  std::string left = VisibleName(option);
  const bool takes_value = option.get_items_expected_max() != 0;
  const std::vector<std::string> choices = Choices(option);
  if (takes_value)
    left +=
        " " + (choices.empty() ? ValueName(option) : fmt::format("{}", fmt::join(choices, "|")));
  std::string right = option.get_description();
  if (option.get_required()) right += " (required)";
  if (all && takes_value && !option.get_default_str().empty()) {
    right += fmt::format(" [default: {}]", option.get_default_str());
  }
  if (all) {
    const std::vector<std::string> other = OtherNames(option);
    if (!other.empty()) right += fmt::format(" [also: {}]", fmt::join(other, ", "));
  }
  return Row(left, right);
}

std::vector<const CLI::Option*> OptionsOf(const CLI::App& app, const std::string& group) {
  return app.get_options([&group](const CLI::Option* option) {
    return option->get_group() == group && !option->get_positional();
  });
}

std::string OptionGroups(const CLI::App& app, bool all) {
  std::string out;
  for (const std::string& group : app.get_groups()) {
    const auto options = OptionsOf(app, group);
    if (group.empty() || options.empty()) continue;
    if (!all && group == "Output") {
      std::vector<std::string> names;
      for (const CLI::Option* option : options) names.push_back(ShortestName(*option));
      out +=
          "\n" + Wrapped(fmt::format("Output: {} (see --help)", fmt::join(names, " ")), 0) + "\n";
      continue;
    }
    out += fmt::format("\n{}:\n", group);
    for (const CLI::Option* option : options) out += OptionRow(*option, all);
  }
  return out;
}

std::string Positionals(const CLI::App& app, bool all) {
  const auto options = app.get_options([](const CLI::Option* option) {
    return option->get_positional() && !option->get_group().empty();
  });
  if (options.empty()) return "";
  std::string out = "\n";
  for (const CLI::Option* option : options) {
    std::string right = option->get_description();
    const std::vector<std::string> other = OtherNames(*option);
    if (all && !other.empty()) right += fmt::format(" [also: {}]", fmt::join(other, ", "));
    out += Row(option->get_name(true, false), right);
  }
  return out;
}

std::string Subcommands(const CLI::App& app) {
  const auto commands = app.get_subcommands(
      [](const CLI::App* sub) { return !sub->get_name().empty() && !sub->get_group().empty(); });
  if (commands.empty()) return "";
  std::string out = "\nCommands:\n";
  for (const CLI::App* command : commands) {
    out += Row(command->get_name(), command->get_description());
  }
  return out;
}

std::string FullName(const CLI::App& app) {
  return app.get_parent() == nullptr ? app.get_name()
                                     : FullName(*app.get_parent()) + " " + app.get_name();
}

std::string Usage(const CLI::App& app) {
  std::string line = "Usage: " + FullName(app);
  if (!app.get_subcommands([](const CLI::App*) { return true; }).empty()) line += " COMMAND";
  for (const CLI::Option* option :
       app.get_options([](const CLI::Option* o) { return o->get_positional(); })) {
    std::string name = option->get_name(true, false);
    if (option->get_expected_max() > 1) name += "...";
    line += option->get_required() ? " " + name : " [" + name + "]";
  }
  return line + " [options]\n";
}

class HelpFormatter : public CLI::FormatterBase {
 public:
  std::string make_help(const CLI::App* app, std::string, CLI::AppFormatMode mode) const override {
    const bool all = mode == CLI::AppFormatMode::All;
    std::string out = Wrapped(app->get_description(), 0) + "\n\n" + Usage(*app);
    out += Positionals(*app, all);
    if (!app->get_footer().empty()) out += "\n" + app->get_footer() + "\n";
    out += Subcommands(*app);
    out += OptionGroups(*app, all);
    if (all) out += std::string("\n") + kEnvironment;
    return out + "\n" + kExitStatus;
  }
};

}  // namespace

std::shared_ptr<CLI::FormatterBase> MakeHelpFormatter() {
  return std::make_shared<HelpFormatter>();
}

}  // namespace weighbridge::cli
