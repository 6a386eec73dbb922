// The table of commands. One line per command; the help page follows this order.
#include "cli/command.h"

namespace weighbridge::cli {

void AddRoundtrip(CLI::App& app, Context& context);
void AddVerify(CLI::App& app, Context& context);
void AddCompare(CLI::App& app, Context& context);
void AddCheck(CLI::App& app, Context& context);
void AddDiagnose(CLI::App& app, Context& context);
void AddImport(CLI::App& app, Context& context);
void AddExport(CLI::App& app, Context& context);
void AddConvert(CLI::App& app, Context& context);
void AddManifest(CLI::App& app, Context& context);
void AddDiff(CLI::App& app, Context& context);
void AddInspect(CLI::App& app, Context& context);
void AddFamilies(CLI::App& app, Context& context);
void AddReport(CLI::App& app, Context& context);
void AddToy(CLI::App& app, Context& context);
void AddSelftest(CLI::App& app, Context& context);
void AddEnv(CLI::App& app, Context& context);
void AddCompletion(CLI::App& app, Context& context);

std::span<const Command> AllCommands() {
  static constexpr Command kCommands[] = {
      {"roundtrip", AddRoundtrip},   {"verify", AddVerify},
      {"compare", AddCompare},       {"check", AddCheck},
      {"diagnose", AddDiagnose},     {"import", AddImport},
      {"export", AddExport},         {"convert", AddConvert},
      {"manifest", AddManifest},     {"diff", AddDiff},
      {"inspect", AddInspect},       {"families", AddFamilies},
      {"report", AddReport},         {"toy", AddToy},
      {"selftest", AddSelftest},     {"env", AddEnv},
      {"completion", AddCompletion},
  };
  return kCommands;
}

}  // namespace weighbridge::cli
