#include "cli/program.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

namespace weighbridge::testing {
namespace {

int Open(const std::string& path) {
  return ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
}

ProgramRun Spawn(const std::vector<std::string>& command) {
  static int runs = 0;
  const std::string base = FreshFolder() + "/run" + std::to_string(runs++);
  std::vector<char*> argv;
  for (const std::string& argument : command) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  const pid_t child = ::fork();
  if (child == 0) {
    ::dup2(::open("/dev/null", O_RDONLY), 0);
    ::dup2(Open(base + ".out"), 1);
    ::dup2(Open(base + ".err"), 2);
    // The tests' own parent may ignore it.
    ::signal(SIGPIPE, SIG_DFL);
    ::signal(SIGINT, SIG_DFL);
    ::setenv("W", WEIGHBRIDGE_PROGRAM, 1);
    ::unsetenv("COLUMNS");
    ::unsetenv("NO_COLOR");
    ::execvp(argv[0], argv.data());
    ::_exit(127);
  }
  int state = 0;
  ::waitpid(child, &state, 0);
  ProgramRun run;
  run.status = WIFEXITED(state) ? WEXITSTATUS(state) : 128 + WTERMSIG(state);
  run.out = ReadFile(base + ".out");
  run.err = ReadFile(base + ".err");
  return run;
}

struct RemoveAtExit {
  std::string path;
  ~RemoveAtExit() { std::filesystem::remove_all(path); }
};

}  // namespace

ProgramRun Shell(const std::string& script) { return Spawn({"bash", "-c", script}); }

ProgramRun Program(const std::vector<std::string>& arguments) {
  std::vector<std::string> command = {WEIGHBRIDGE_PROGRAM};
  command.insert(command.end(), arguments.begin(), arguments.end());
  return Spawn(command);
}

std::string FreshFolder() {
  static const RemoveAtExit root{[] {
    std::string name = ::testing::TempDir() + "/weighbridge-cli-XXXXXX";
    return std::string(::mkdtemp(name.data()));
  }()};
  static int folders = 0;
  const std::string path = root.path + "/" + std::to_string(folders++);
  std::filesystem::create_directories(path);
  return path;
}

void WriteFile(const std::string& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

TEST(ProgramRun, KeepsStreamsApartAndReportsTheStatus) {
  const ProgramRun run = Shell("echo out; echo err >&2; exit 3");
  EXPECT_EQ(run.status, 3);
  EXPECT_EQ(run.out, "out\n");
  EXPECT_EQ(run.err, "err\n");
}

}  // namespace weighbridge::testing
