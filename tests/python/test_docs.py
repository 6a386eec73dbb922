"""The documents agree with the code."""
import re

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
