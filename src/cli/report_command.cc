// `weighbridge report`: saved reports, rendered again.
#include <fmt/format.h>

#include <string>
#include <vector>

#include "cli/command.h"
#include "report/read_json.h"

namespace weighbridge::cli {
namespace {

int RenderSaved(const Context& context, const std::vector<std::string>& files) {
  const OutputOptions& output = context.output;
  if (files.size() > 1 && (!output.html.empty() || !output.card.empty())) {
    return PrintError({ErrorKind::kUsage, "usage",
                       fmt::format("{} shows one report, but {} were given",
                                   output.html.empty() ? "--card" : "--html", files.size()),
                       "", "call `weighbridge report` once per FILE"});
  }
  if (const Status spared = CheckOutputs(output, {{}, files}); !spared) {
    return PrintError(spared.error());
  }
  std::vector<Report> reports;
  int status = 0;
  for (const std::string& file : files) {
    Result<Report> report = ReadReportFile(file);
    if (report) {
      reports.push_back(std::move(*report));
    } else {
      status = 2;
      PrintError(report.error());
    }
  }
  if (reports.empty()) return status;
  return std::max(status, EmitSaved(context, reports));
}

}  // namespace

void AddReport(CLI::App& app, Context& context) {
  CLI::App* command = app.add_subcommand(
      "report", "renders saved reports; the exit status is that of the worst one");
  auto files = std::make_shared<std::vector<std::string>>();
  command->add_option("FILE", *files, "what --json or --html wrote")->required()->type_name("FILE");
  AddOutputOptions(*command, context);
  AddExamples(*command, {"weighbridge report roundtrip.json",
                         "weighbridge report roundtrip.json --html roundtrip.html --top 0",
                         "weighbridge report nightly/*.json --junit nightly.xml -q"});
  command->callback([&context, files] { context.exit_status = RenderSaved(context, *files); });
}

}  // namespace weighbridge::cli
