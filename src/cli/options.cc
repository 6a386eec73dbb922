#include "cli/options.h"

#include <string_view>

namespace weighbridge::cli {

std::string VisibleName(const CLI::Option& option) {
  std::string text;
  for (const std::string& name : option.get_snames()) text += (text.empty() ? "-" : ",-") + name;
  if (!option.get_lnames().empty()) {
    text += (text.empty() ? "--" : ",--") + option.get_lnames().front();
  }
  return text.empty() ? option.get_name(true, false) : text;
}

std::string ShortestName(const CLI::Option& option) {
  if (!option.get_snames().empty()) return "-" + option.get_snames().front();
  if (!option.get_lnames().empty()) return "--" + option.get_lnames().front();
  return option.get_name(true, false);
}

std::vector<std::string> OtherNames(const CLI::Option& option) {
  std::vector<std::string> names;
  const auto& all = option.get_lnames();
  for (size_t i = option.get_positional() ? 0 : 1; i < all.size(); ++i)
    names.push_back("--" + all[i]);
  return names;
}

std::vector<std::string> AllNames(const CLI::Option& option) {
  std::vector<std::string> names;
  for (const std::string& name : option.get_snames()) names.push_back("-" + name);
  for (const std::string& name : option.get_lnames()) names.push_back("--" + name);
  return names;
}

std::vector<std::string> Choices(const CLI::Option& option) {
  // CLI::IsMember describes itself as "{a,b,c}" in the type's name.
  const std::string type = option.get_type_name();
  const size_t open = type.find('{');
  const size_t close = type.rfind('}');
  std::vector<std::string> choices;
  if (open == std::string::npos || close == std::string::npos || close < open) return choices;
  for (const std::string& choice :
       CLI::detail::split(type.substr(open + 1, close - open - 1), ',')) {
    if (!choice.empty()) choices.push_back(choice);
  }
  return choices;
}

std::string ValueName(const CLI::Option& option) {
  // The type's own name, then the descriptions of the checks: "TEXT:FILE", "N:POSITIVE".
  const std::string type = option.get_type_name();
  const std::string name = type.substr(0, type.find_first_of(": "));
  const auto has = [&](std::string_view part) { return type.find(part) != std::string::npos; };
  if (has("DIR")) return "DIR";
  if (has("FILE") || has("PATH(")) return "FILE";
  if (name == "UINT" || name == "INT") return "N";
  if (name == "FLOAT") return "X";
  return name.empty() ? "TEXT" : name;
}

const CLI::App& SelectedCommand(const CLI::App& app) {
  const CLI::App* selected = &app;
  while (true) {
    const auto parsed = selected->get_subcommands();
    if (parsed.empty()) return *selected;
    selected = parsed.front();
  }
}

std::vector<std::string> CommandNames(const CLI::App& app) {
  std::vector<std::string> names;
  const auto commands = app.get_subcommands(
      [](const CLI::App* sub) { return !sub->get_name().empty() && !sub->get_group().empty(); });
  for (const CLI::App* command : commands) names.push_back(command->get_name());
  return names;
}

}  // namespace weighbridge::cli
