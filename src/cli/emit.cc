// Where reports leave the program: one document on stdout, files whole or not at all.
#include <fmt/format.h>
#include <stdio_ext.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>

#include "base/file.h"
#include "base/memory.h"
#include "cli/call.h"
#include "cli/command.h"
#include "cli/version_text.h"
#include "report/card.h"
#include "report/html.h"
#include "report/json.h"
#include "report/junit.h"
#include "report/output_file.h"
#include "report/terminal.h"

namespace weighbridge::cli {
namespace {

using Reports = std::vector<Report>;

struct Format {
  const char* option;
  std::string OutputOptions::*target;
  void (*write)(const Reports& reports, const Sink& sink);
};

void WriteJsonReports(const Reports& reports, const Sink& sink) {
  for (const Report& report : reports) WriteJson(report, sink);
}

// AddSaved (report_command.cc) lets several reports through to JSON and JUnit only.
void WriteHtmlReport(const Reports& reports, const Sink& sink) { WriteHtml(reports.front(), sink); }

void WriteCardReport(const Reports& reports, const Sink& sink) { WriteCard(reports.front(), sink); }

constexpr std::array<Format, 4> kFormats = {{
    {"--json", &OutputOptions::json, WriteJsonReports},
    {"--html", &OutputOptions::html, WriteHtmlReport},
    {"--junit", &OutputOptions::junit, WriteJunit},
    {"--card", &OutputOptions::card, WriteCardReport},
}};

// stdout with the first error kept.
class StdoutSink {
 public:
  void Append(std::string_view text) {
    if (error_ != 0 || text.empty()) return;
    if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size()) error_ = errno;
  }
  // The exit status that stdout itself asks for.
  int Finish() {
    if (std::fflush(stdout) != 0 && error_ == 0) error_ = errno;
    if (error_ == 0) return 0;
    // What could not be written is given up, so that it is not tried and complained about again.
    ::__fpurge(stdout);
    std::clearerr(stdout);
    if (error_ == EPIPE) return 0;
    return PrintError(ErrnoError(error_, "cannot write to standard output", ""));
  }

 private:
  int error_ = 0;
};

void WriteForPeople(const Context& context, const Reports& reports, const Sink& sink) {
  const TerminalOptions options{.color = UseColor(context.output),
                                .verbose = context.output.verbose,
                                .top = context.output.top,
                                .columns = TerminalColumns()};
  for (size_t i = 0; i < reports.size(); ++i) {
    if (i > 0) sink("\n");
    WriteTerminal(reports[i], options, sink);
  }
}

// An undecided report is an error of the run, so that stderr names it even when stdout is a
// document.
void PrintUndecided(const Reports& reports) {
  for (const Report& report : reports) {
    if (report.verdict == Verdict::kUndecided && report.error) PrintError(*report.error);
  }
}

int WriteFiles(const OutputOptions& output, const Reports& reports) {
  int status = 0;
  for (const Format& format : kFormats) {
    const std::string& target = output.*format.target;
    if (target.empty() || target == "-") continue;
    const Status written =
        WriteOutputFile(target, [&](const Sink& sink) { format.write(reports, sink); });
    if (!written) {
      PrintError(written.error());
      status = 2;
    } else if (!output.quiet) {
      fmt::print(stderr, "wrote {}\n", target);
    }
  }
  return status;
}

int WriteToStdout(const Context& context, const Reports& reports) {
  for (const Format& format : kFormats) {
    if (context.output.*format.target != "-") continue;
    return PrintStdout([&](const Sink& sink) { format.write(reports, sink); });
  }
  if (context.output.quiet || CurrentCall() != nullptr) return 0;
  return PrintStdout([&](const Sink& sink) { WriteForPeople(context, reports, sink); });
}

}  // namespace

Status CheckOutputs(const OutputOptions& output) {
  std::string on_stdout;
  for (const Format& format : kFormats) {
    const std::string& target = output.*format.target;
    if (target == "-" && !on_stdout.empty()) {
      return Fail(
          ErrorKind::kUsage, "usage",
          fmt::format("{} - and {} - both write to standard output", on_stdout, format.option), "",
          "write one of them to a FILE");
    }
    if (target == "-") on_stdout = format.option;
    if (!target.empty() && target != "-") WB_RETURN_IF_ERROR(CheckOutputFile(target));
  }
  return CheckOutputs(output, {});
}

Status CheckOutputs(const OutputOptions& output, const CommandInputs& inputs) {
  std::vector<NamedOutput> outputs = inputs.written;
  for (const Format& format : kFormats) outputs.push_back({format.option, output.*format.target});
  return CheckOutputsSpareInputs(outputs, inputs);
}

int TerminalColumns() {
  if (const char* text = std::getenv("COLUMNS"); text != nullptr) {
    const int columns = std::atoi(text);
    if (columns > 0) return columns;
  }
  if (::isatty(STDOUT_FILENO) == 0) return 0;
  struct winsize size {};
  const bool known = ::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
  return known ? size.ws_col : 80;
}

int PrintStdout(const std::function<void(const Sink&)>& render) {
  if (CallResult* call = CurrentCall()) {
    render([call](std::string_view text) { call->text += text; });
    return 0;
  }
  StdoutSink out;
  render([&out](std::string_view text) { out.Append(text); });
  return out.Finish();
}

int PrintStdout(std::string_view text) {
  return PrintStdout([text](const Sink& sink) { sink(text); });
}

int EmitSaved(const Context& context, const std::vector<Report>& reports) {
  int status = 0;
  if (const Status checked = CheckOutputs(context.output); !checked) {
    PrintError(checked.error());
    status = 2;
  } else {
    PrintUndecided(reports);
    status = std::max(WriteFiles(context.output, reports), WriteToStdout(context, reports));
  }
  for (const Report& report : reports) status = std::max(status, ExitStatus(report));
  return status;
}

int EmitError(Context& context, const std::string& command, const std::string& level,
              const Error& error) {
  using Where = std::vector<std::string>;
  Report report;
  report.command = command;
  report.level = level;
  if (error.kind == ErrorKind::kCorrupt) {
    report.verdict = Verdict::kFail;
    report.causes.push_back({.id = error.id,
                             .proof = Proof::kStructural,
                             .origin = Origin::kCheckpoint,
                             .where = error.at.empty() ? Where() : Where{error.at},
                             .message = error.what,
                             .evidence = "",
                             .hint = error.hint});
    if (context.output.quiet) PrintError(error);
  } else {
    report.verdict = Verdict::kUndecided;
    report.error = error;
  }
  return Emit(context, report);
}

int Emit(Context& context, Report& report) {
  report.argv = context.argv;
  report.peak_anonymous_bytes = PeakAnonymousBytes();
  report.version = VersionText();
  std::vector<Report> reports;
  reports.push_back(std::move(report));
  const int status = EmitSaved(context, reports);
  report = std::move(reports.front());
  if (CallResult* call = CurrentCall()) call->report = std::move(report);
  return status;
}

}  // namespace weighbridge::cli
