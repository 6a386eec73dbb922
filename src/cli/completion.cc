#include "cli/completion.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <vector>

#include "cli/command.h"
#include "cli/options.h"

namespace weighbridge::cli {
namespace {

enum class Value { kNone, kChoice, kFile, kOther };

struct OptionModel {
  std::vector<std::string> names;    // every spelling; empty for a positional
  std::vector<std::string> offered;  // those that help shows: "-v", "--verbose"
  std::string description;
  Value value = Value::kNone;
  std::vector<std::string> choices;
};

struct CommandModel {
  std::string path;  // "weighbridge families show"
  std::string name, description;
  std::vector<OptionModel> options;
  OptionModel positional;  // value kNone: there is none
  std::vector<CommandModel> subcommands;
};

OptionModel ModelOf(const CLI::Option& option) {
  OptionModel model;
  model.names = AllNames(option);
  const std::vector<std::string> other = OtherNames(option);
  for (const std::string& name : model.names) {
    if (std::find(other.begin(), other.end(), name) == other.end()) model.offered.push_back(name);
  }
  model.description = option.get_description();
  model.choices = Choices(option);
  const std::string value = ValueName(option);
  if (!model.choices.empty()) {
    model.value = Value::kChoice;
  } else if (option.get_items_expected_max() == 0) {
    model.value = Value::kNone;
  } else {
    const bool path = value == "FILE" || value == "DIR" || value == "TEXT";
    model.value = path ? Value::kFile : Value::kOther;
  }
  return model;
}

CommandModel ModelOf(const CLI::App& app, const std::string& parent) {
  CommandModel model;
  model.name = app.get_name();
  model.path = parent.empty() ? model.name : parent + " " + model.name;
  model.description = app.get_description();
  for (const CLI::Option* option : app.get_options([](const CLI::Option*) { return true; })) {
    if (option->get_group().empty()) continue;
    OptionModel o = ModelOf(*option);
    if (option->get_positional() && model.positional.value == Value::kNone) model.positional = o;
    if (!o.names.empty()) model.options.push_back(std::move(o));
  }
  for (const CLI::App* sub : app.get_subcommands([](const CLI::App*) { return true; })) {
    if (sub->get_name().empty() || sub->get_group().empty()) continue;
    model.subcommands.push_back(ModelOf(*sub, model.path));
  }
  return model;
}

std::vector<const CommandModel*> Flattened(const CommandModel& root) {
  std::vector<const CommandModel*> all = {&root};
  for (const CommandModel& sub : root.subcommands) {
    for (const CommandModel* command : Flattened(sub)) all.push_back(command);
  }
  return all;
}

std::string Quoted(const std::string& text) {
  std::string out = "'";
  for (const char c : text) out += c == '\'' ? "'\\''" : std::string(1, c);
  return out + "'";
}

// The first line of a description.
std::string Brief(const std::string& text) { return text.substr(0, text.find('\n')); }

// `case` patterns of every command below the root, which is how the scripts find the command.
std::string PathPatterns(const std::vector<const CommandModel*>& commands, const char* join) {
  std::vector<std::string> patterns;
  for (size_t i = 1; i < commands.size(); ++i) patterns.push_back(Quoted(commands[i]->path));
  return fmt::format("{}", fmt::join(patterns, join));
}

std::vector<std::string> SubcommandNames(const CommandModel& command) {
  std::vector<std::string> names;
  for (const CommandModel& sub : command.subcommands) names.push_back(sub.name);
  return names;
}

// Patterns "PATH OPTION" of one option.
std::string OptionPatterns(const CommandModel& command, const OptionModel& option) {
  std::vector<std::string> patterns;
  for (const std::string& name : option.names)
    patterns.push_back(Quoted(command.path + " " + name));
  return fmt::format("{}", fmt::join(patterns, "|"));
}

// ---- bash

std::string BashValue(const OptionModel& option) {
  switch (option.value) {
    case Value::kChoice:
      return fmt::format("_weighbridge_words {}",
                         Quoted(fmt::format("{}", fmt::join(option.choices, " "))));
    case Value::kFile:
      return "_weighbridge_files";
    default:
      return ":";
  }
}

std::string Bash(const std::vector<const CommandModel*>& commands) {
  std::string values, words, rest;
  for (const CommandModel* command : commands) {
    std::vector<std::string> names;
    for (const OptionModel& option : command->options) {
      names.insert(names.end(), option.offered.begin(), option.offered.end());
      if (option.value == Value::kNone) continue;
      values += fmt::format("    {}) {}; return ;;\n", OptionPatterns(*command, option),
                            BashValue(option));
    }
    words += fmt::format("      {}) _weighbridge_words {} ;;\n", Quoted(command->path),
                         Quoted(fmt::format("{}", fmt::join(names, " "))));
    const std::string others =
        command->subcommands.empty()
            ? BashValue(command->positional)
            : fmt::format("_weighbridge_words {}",
                          Quoted(fmt::format("{}", fmt::join(SubcommandNames(*command), " "))));
    rest += fmt::format("    {}) {} ;;\n", Quoted(command->path), others);
  }
  return fmt::format(R"bash(# bash completion for weighbridge: source <(weighbridge completion bash)
_weighbridge_words() {{
  mapfile -t COMPREPLY < <(compgen -W "$1" -- "$cur")
}}
_weighbridge_files() {{
  compopt -o filenames 2>/dev/null
  mapfile -t COMPREPLY < <(compgen -f -- "$cur")
}}
_weighbridge() {{
  local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD - 1]}} chain=weighbridge i
  COMPREPLY=()
  # bash splits --option=value into three words.
  if [[ $cur == '=' ]]; then
    cur=
  elif [[ $prev == '=' && COMP_CWORD -ge 2 ]]; then
    prev=${{COMP_WORDS[COMP_CWORD - 2]}}
  fi
  for ((i = 1; i < COMP_CWORD; i++)); do
    case "$chain ${{COMP_WORDS[i]}}" in
      {}) chain="$chain ${{COMP_WORDS[i]}}" ;;
    esac
  done
  case "$chain $prev" in
{}  esac
  if [[ $cur == -* ]]; then
    case "$chain" in
{}    esac
    return
  fi
  case "$chain" in
{}  esac
}}
complete -F _weighbridge weighbridge
)bash",
                     PathPatterns(commands, "|"), values, words, rest);
}

// ---- zsh

// NAME:DESCRIPTION for _describe.
std::string ZshEntry(const std::string& name, const std::string& description) {
  std::string out;
  for (const char c : name) out += c == ':' ? "\\:" : std::string(1, c);
  return Quoted(out + ":" + Brief(description));
}

std::string ZshValue(const OptionModel& option) {
  switch (option.value) {
    case Value::kChoice:
      return fmt::format("compadd -- {}", fmt::join(option.choices, " "));
    case Value::kFile:
      return "_files";
    default:
      return "_message 'value'";
  }
}

std::string Zsh(const std::vector<const CommandModel*>& commands) {
  std::string values, options, rest;
  for (const CommandModel* command : commands) {
    std::string entries, names;
    for (const OptionModel& option : command->options) {
      for (const std::string& name : option.offered)
        entries += " " + ZshEntry(name, option.description);
      if (option.value == Value::kNone) continue;
      values += fmt::format("    {}) {}; return ;;\n", OptionPatterns(*command, option),
                            ZshValue(option));
    }
    options += fmt::format("      {}) items=({} ) ;;\n", Quoted(command->path), entries);
    for (const CommandModel& sub : command->subcommands) {
      names += " " + ZshEntry(sub.name, sub.description);
    }
    rest +=
        command->subcommands.empty()
            ? fmt::format("    {}) {} ;;\n", Quoted(command->path), ZshValue(command->positional))
            : fmt::format("    {}) items=({} ); _describe command items ;;\n",
                          Quoted(command->path), names);
  }
  return fmt::format(R"zsh(#compdef weighbridge
# zsh completion for weighbridge: source <(weighbridge completion zsh), or a file _weighbridge in $fpath
_weighbridge() {{
  local chain=weighbridge cur=${{words[CURRENT]}} prev=${{words[CURRENT-1]}} word
  local -a items
  for word in ${{words[2,CURRENT-1]}}; do
    case "$chain $word" in
      {}) chain="$chain $word" ;;
    esac
  done
  if [[ $cur == --*=* ]]; then
    prev=${{cur%%=*}}
    compset -P '*='
    cur=
  fi
  case "$chain $prev" in
{}  esac
  if [[ $cur == -* ]]; then
    case "$chain" in
{}    esac
    _describe -o option items
    return
  fi
  case "$chain" in
{}  esac
}}
if [[ ${{zsh_eval_context[-1]}} == loadautofunc ]]; then
  _weighbridge "$@"
else
  compdef _weighbridge weighbridge
fi
)zsh",
                     PathPatterns(commands, "|"), values, options, rest);
}

// ---- fish

std::string FishQuoted(const std::string& text) {
  std::string out = "'";
  for (const char c : text) {
    if (c == '\'' || c == '\\') out += '\\';
    out += c;
  }
  return out + "'";
}

std::string FishOption(const CommandModel& command, const OptionModel& option) {
  std::string line = fmt::format("complete -c weighbridge -n {}",
                                 FishQuoted("__weighbridge_is " + FishQuoted(command.path)));
  for (const std::string& name : option.offered) {
    line += name.starts_with("--") ? " -l " + name.substr(2) : " -s " + name.substr(1);
  }
  switch (option.value) {
    case Value::kNone:
      break;
    case Value::kChoice:
      line += " -x -a " + FishQuoted(fmt::format("{}", fmt::join(option.choices, " ")));
      break;
    case Value::kFile:
      line += " -r -F";
      break;
    case Value::kOther:
      line += " -x";
      break;
  }
  return line + " -d " + FishQuoted(Brief(option.description)) + "\n";
}

std::string Fish(const std::vector<const CommandModel*>& commands) {
  std::string lines;
  for (const CommandModel* command : commands) {
    const std::string here = FishQuoted("__weighbridge_is " + FishQuoted(command->path));
    for (const OptionModel& option : command->options) {
      if (!option.offered.empty()) lines += FishOption(*command, option);
    }
    for (const CommandModel& sub : command->subcommands) {
      lines += fmt::format("complete -c weighbridge -n {} -f -a {} -d {}\n", here, sub.name,
                           FishQuoted(Brief(sub.description)));
    }
    const OptionModel& positional = command->positional;
    if (positional.value == Value::kChoice) {
      lines += fmt::format("complete -c weighbridge -n {} -f -a {}\n", here,
                           FishQuoted(fmt::format("{}", fmt::join(positional.choices, " "))));
    } else if (positional.value == Value::kFile) {
      lines += fmt::format("complete -c weighbridge -n {} -F\n", here);
    } else {
      lines += fmt::format("complete -c weighbridge -n {} -f\n", here);
    }
  }
  return fmt::format(R"fish(# fish completion for weighbridge: weighbridge completion fish | source
function __weighbridge_command
    set -l chain weighbridge
    set -l typed (commandline -opc)
    for word in $typed[2..-1]
        switch "$chain $word"
            case {}
                set chain "$chain $word"
        end
    end
    echo $chain
end
function __weighbridge_is
    test (__weighbridge_command) = "$argv[1]"
end
{})fish",
                     PathPatterns(commands, " "), lines);
}

}  // namespace

std::string CompletionScript(const CLI::App& app, std::string_view shell) {
  const CommandModel root = ModelOf(app, "");
  const std::vector<const CommandModel*> commands = Flattened(root);
  if (shell == "bash") return Bash(commands);
  if (shell == "zsh") return Zsh(commands);
  if (shell == "fish") return Fish(commands);
  return "";
}

void AddCompletion(CLI::App& app, Context& context) {
  CLI::App* command = app.add_subcommand("completion", "prints the completion script of a shell");
  auto shell = std::make_shared<std::string>();
  command->add_option("SHELL", *shell, "bash, zsh or fish")
      ->required()
      ->check(CLI::IsMember({"bash", "zsh", "fish"}));
  AddExamples(*command, {"source <(weighbridge completion bash)",
                         "weighbridge completion zsh > ~/.zfunc/_weighbridge",
                         "weighbridge completion fish | source"});
  command->callback([&app, &context, shell] {
    context.exit_status = PrintStdout(CompletionScript(app, *shell));
  });
}

}  // namespace weighbridge::cli
