#include "cli/usage.h"

#include <fmt/format.h>

#include <string>
#include <vector>

#include "base/strings.h"
#include "cli/options.h"

namespace weighbridge::cli {
namespace {

std::string FullName(const CLI::App& app) {
  return app.get_parent() == nullptr ? app.get_name()
                                     : FullName(*app.get_parent()) + " " + app.get_name();
}

std::string SeeHelp(const CLI::App& command) {
  return fmt::format("see `{} --help`", FullName(command));
}

Error Usage(std::string what, const std::string& near, const CLI::App& command) {
  const std::string hint =
      near.empty() ? SeeHelp(command) : fmt::format("{}; {}", near, SeeHelp(command));
  return {ErrorKind::kUsage, "usage", std::move(what), "", hint};
}

std::vector<std::string> OptionNames(const CLI::App& command) {
  std::vector<std::string> names;
  for (const CLI::Option* option : command.get_options([](const CLI::Option*) { return true; })) {
    for (const std::string& name : AllNames(*option)) names.push_back(name);
  }
  return names;
}

// Where an option that this command does not know does exist.
std::string OtherCommandWith(const CLI::App& root, const std::string& name) {
  for (const CLI::App* sub : root.get_subcommands([](const CLI::App*) { return true; })) {
    if (sub->get_option_no_throw(name) != nullptr) {
      return fmt::format("`{}` has this option", FullName(*sub));
    }
  }
  return "";
}

Error UnknownOption(const CLI::App& root, const CLI::App& command, const std::string& argument) {
  const std::string name = argument.substr(0, argument.find('='));
  std::string near = DidYouMean(name, OptionNames(command));
  if (near.empty()) near = OtherCommandWith(root, name);
  return Usage(fmt::format("unknown option '{}'", ToPrintable(name)), near, command);
}

Error UnexpectedArgument(const CLI::App& root, const CLI::App& command,
                         const std::string& argument) {
  if (argument.size() > 1 && argument[0] == '-') return UnknownOption(root, command, argument);
  const std::vector<std::string> commands = CommandNames(command);
  if (!commands.empty()) {
    return Usage(fmt::format("unknown command '{}'", ToPrintable(argument)),
                 DidYouMean(argument, commands), command);
  }
  return Usage(fmt::format("unexpected argument '{}'", ToPrintable(argument)), "", command);
}

// The option whose check refused a value of its own, for the near name.
Error BadValue(const CLI::App& command, const CLI::ParseError& failure) {
  const std::string message = failure.what();
  for (const CLI::Option* option : command.get_options([](const CLI::Option*) { return true; })) {
    const std::vector<std::string> choices = Choices(*option);
    if (choices.empty() || option->count() == 0) continue;
    if (!message.starts_with(option->get_name() + ":")) continue;
    for (const std::string& value : option->results()) {
      if (std::find(choices.begin(), choices.end(), value) != choices.end()) continue;
      std::string list;
      for (const std::string& choice : choices) list += (list.empty() ? "" : ", ") + choice;
      return Usage(fmt::format("{} cannot be '{}', expected one of: {}", ShortestName(*option),
                               ToPrintable(value), list),
                   DidYouMean(value, choices), command);
    }
  }
  // CLI11 writes the largest float64 out, all of its 309 digits.
  const size_t range = message.find(" not in range ");
  if (range != std::string::npos &&
      message.find(" to 17976931348623", range) != std::string::npos) {
    return Usage(ToPrintable(message.substr(0, range)) + " is too small", "", command);
  }
  return Usage(ToPrintable(message), "", command);
}

// An option that is missing, by the name that the usage line shows: MODEL, not --hf-model-id.
Error Missing(const CLI::App& command, const CLI::ParseError& failure) {
  const std::string message = failure.what();
  for (const CLI::Option* option : command.get_options([](const CLI::Option*) { return true; })) {
    if (option->get_positional() && message.starts_with(option->get_name() + " ")) {
      return Usage(fmt::format("{} is required", option->get_name(true, false)), "", command);
    }
  }
  return Usage(ToPrintable(message), "", command);
}

}  // namespace

Error ExplainUsage(const CLI::App& app, const CLI::ParseError& failure) {
  const CLI::App& command = SelectedCommand(app);
  const bool leftover = dynamic_cast<const CLI::ExtrasError*>(&failure) != nullptr ||
                        dynamic_cast<const CLI::RequiredError*>(&failure) != nullptr;
  if (leftover) {
    for (const std::string& argument : app.remaining(true)) {
      if (argument != "--") return UnexpectedArgument(app, command, argument);
    }
  }
  if (dynamic_cast<const CLI::RequiredError*>(&failure) != nullptr &&
      !CommandNames(command).empty()) {
    return Usage("a command is missing", "", command);
  }
  if (dynamic_cast<const CLI::RequiredError*>(&failure) != nullptr) {
    return Missing(command, failure);
  }
  if (dynamic_cast<const CLI::ValidationError*>(&failure) != nullptr) {
    return BadValue(command, failure);
  }
  return Usage(ToPrintable(failure.what()), "", command);
}

}  // namespace weighbridge::cli
