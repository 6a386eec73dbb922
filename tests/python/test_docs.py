"""The documents agree with the code."""
import collections
import re

from test_diagnose import CASES

CAUSE_IN_DOCS = re.compile(r"^\| ([a-z0-9]+(?:-[a-z0-9]+)*)(?: \(note\))? \|", re.MULTILINE)
# A cause's id in the code: `Corrupt("id", ...)`, and `.id = "id"` of a Cause (not of a Note).
CORRUPT = re.compile(r'\bCorrupt\(\s*"([^"]+)"')
CAUSE = re.compile(r'(?:\bCause\b[^;]*?|causes\.(?:push|emplace)_back\([^;]*?)\.id = "([^"]+)"', re.DOTALL)


def listed(project):
    """The ids in the first columns of the tables, without the tables' heads."""
    return [cause for cause in CAUSE_IN_DOCS.findall((project / "docs/causes.md").read_text()) if cause != "id"]


def documented(project):
    return set(listed(project))


def used(project):
    """{cause id: the files that use it}"""
    uses = {}
    for path in sorted((project / "src").rglob("*.cc")) + sorted((project / "src").rglob("*.h")):
        text = path.read_text()
        for pattern in (CORRUPT, CAUSE):
            for cause in pattern.findall(text):
                uses.setdefault(cause, []).append(str(path.relative_to(project)))
    return uses


def test_every_cause_that_the_code_names_is_documented(project):
    uses = used(project)
    assert "unexplained" in uses, "the patterns of this test no longer find causes"
    unknown = {cause: files for cause, files in uses.items() if cause not in documented(project)}
    assert unknown == {}, "add these to docs/causes.md, or use a cause that is there"


def test_causes_are_listed_once(project):
    causes = listed(project)
    assert len(causes) > 60
    assert sorted(causes) == sorted(set(causes))


def test_every_command_has_help_with_an_example_or_takes_no_input(run):
    listing = run("-h").stdout.split("\nCommands:\n")[1].split("\n\n")[0]
    commands = re.findall(r"^  ([a-z]+)", listing, re.MULTILINE)
    assert {"report", "env", "completion"} <= set(commands)
    for command in commands:
        text = run(command, "--help").stdout
        assert f"Usage: weighbridge {command}" in text
        takes_input = re.search(r"^Usage: .*?(?:\s[A-Z]+(?:\.\.\.)?)+ \[options\]", text, re.MULTILINE)
        assert not takes_input or "\nExamples:\n" in text, command


CELL = re.compile(r"(?<!\\)\|")
CC_TEST = re.compile(r"(?:(\w+\.cc) )?([A-Z]\w+)\.(\w+)")
PY_TEST = re.compile(r"(?:(test_\w+\.py)::)?(test_\w+)(?:\[(.+)\])?")


def failure_modes(project):
    """The rows of docs/failure-modes.md that name tests: [[what, level and cause, shown, by]]."""
    rows = [[cell.strip() for cell in CELL.split(line)[1:-1]] for line in
            (project / "docs/failure-modes.md").read_text().splitlines() if line.startswith("| ")]
    numbered = [row[1:] for row in rows if row[0].isdigit()]
    assert [row[0] for row in rows if row[0].isdigit()] == [str(number) for number in range(1, len(numbered) + 1)]
    return numbered, [row for row in rows if len(row) == 4 and row[0] != "defect or difference"]


def test_failure_modes_are_counted(project):
    modes, _ = failure_modes(project)
    shown = collections.Counter("L2, L3" if "not in this version" in row[2] else row[2] for row in modes)
    listed_counts = dict(re.findall(r"^\| ([a-zL][a-zL23, ]+) \| (\d+) \|", (project / "docs/failure-modes.md").read_text(), re.M))
    assert len(modes) == 71 and {name: int(count) for name, count in listed_counts.items()} == shown


def test_failure_modes_name_causes_and_tests_that_are_there(project):
    modes, defects = failure_modes(project)
    files = {path.name: path for pattern in ("**/*.cc", "oracle/*.py", "python/*.py") for path in (project / "tests").glob(pattern)}
    for what, level, shown, by in modes + defects:
        unknown = set(re.findall(r"`([a-z0-9]+(?:-[a-z0-9]+)+)`", level)) - documented(project) - {"positions-differ"}
        assert not unknown, what
        assert shown != "tested" or "`" in by or "same test" in by or "as row" in by, what
        file = None
        for text in re.findall(r"`([^`]+)`", by):
            if case := re.fullmatch(r"D\[(.+)\]", text):
                assert case[1] in CASES, (what, text)
            elif cause := re.fullmatch(r"S\[(.+)\]", text):
                assert cause[1] in documented(project), (what, text)
            elif test := PY_TEST.fullmatch(text):
                file = files[test[1]] if test[1] else file
                assert f"def {test[2]}(" in file.read_text(), (what, text)
            elif test := CC_TEST.fullmatch(text):
                file = files[test[1]] if test[1] else file
                assert re.search(rf"TEST(?:_[FP])?\({test[2]},\s*{test[3]}\)", file.read_text()), (what, text)
