"""Every tested command block of README and docs does what the page says.

A block that begins with ```console test is run; the blocks of one page share one empty folder and run in order. A
line `$ COMMAND` is run by bash, with the built program in PATH; `$?` holds the previous command's status. The lines
under it are what it has to print, stdout and stderr together; `...` stands for anything, within a line or for lines.
Without such lines the output is free. A command has to end with status 0, unless `$ echo $?` follows it. A block that
begins with ```toml test FILE is what FILE then holds. $TESTDATA is tests/testdata. A block that begins with
```console engine is run where the engine component is built.
"""
import os
import pathlib
import re
import subprocess
from typing import NamedTuple

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGES = sorted(p for p in {*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")})
BLOCK = re.compile(r"^```(?:console (?P<kind>test|engine)|toml test (?P<file>[\w.-]+))\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


class Step(NamedTuple):
    command: str
    expected: str  # "": anything


def steps_of(text, engine=True):
    """The commands of a page's tested blocks, in order."""
    steps = []
    for block in BLOCK.finditer(text):
        if block["kind"] == "engine" and not engine:
            continue
        if block["file"]:
            steps.append(Step(f"cat > {block['file']} <<'END_OF_FILE'\n{block['text']}END_OF_FILE", ""))
            continue
        # A command may go on after a backslash at the end of its line.
        for line in re.sub(r"\\\n\s*", "", block["text"]).splitlines(keepends=True):
            if line.startswith("$ "):
                steps.append(Step(line[2:].strip(), ""))
            elif steps:
                steps[-1] = steps[-1]._replace(expected=steps[-1].expected + line)
            else:
                raise ValueError(f"a block begins with output: {line}")
    return steps


def matches(expected, actual):
    pattern = ".*".join(re.escape(part) for part in expected.strip().split("..."))
    return re.fullmatch(pattern, actual.strip(), re.DOTALL) is not None


def run_steps(steps, folder, program):
    environment = {**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}", "NO_COLOR": "1", "TERM": "dumb",
                   "TESTDATA": str(ROOT / "tests/testdata")}
    status = 0
    for step, following in zip(steps, [*steps[1:], None], strict=True):
        result = subprocess.run(["bash", "-c", f"(exit {status}); {step.command}"], cwd=folder, env=environment,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=300)
        status = result.returncode
        if following is None or following.command != "echo $?":
            assert status == 0, f"$ {step.command}\n{result.stdout}"
        if step.expected:
            assert matches(step.expected, result.stdout), f"$ {step.command}\n{result.stdout}"


def pages_with_commands():
    return [page for page in PAGES if steps_of(page.read_text())]


@pytest.mark.parametrize("page", pages_with_commands(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_of_the_page_do_what_it_says(page, program, tmp_path):
    steps = steps_of(page.read_text(), engine=(program.parent / "libweighbridge_engine.so").exists())
    if not steps:
        pytest.skip("SKIPPED LOUDLY: the engine is not built (`make engine`): the commands of this page are not run")
    run_steps(steps, tmp_path, program)


def test_readme_has_tested_commands():
    assert ROOT / "README.md" in pages_with_commands()


def test_files_of_a_page_are_written_in_its_order(program, tmp_path):
    page = page_with("$ ls") + "```toml test a.toml\nx = '$HOME'\n```\n" + page_with("$ cat a.toml", "x = '$HOME'")
    run_steps(steps_of(page), tmp_path, program)
    assert (tmp_path / "a.toml").read_text() == "x = '$HOME'\n"


def page_with(*lines):
    return "\n".join(["```console test", *lines, "```", ""])


@pytest.mark.parametrize("lines", [
    ("$ echo one two", "one ..."),
    ("$ false", "$ echo $?", "1"),
    ("$ printf 'a\\nb\\nc\\n'", "a", "...", "c"),
    ("$ echo a \\", "    b", "a b"),
])
def test_runner_accepts_what_a_page_rightly_says(lines, program, tmp_path):
    run_steps(steps_of(page_with(*lines)), tmp_path, program)


@pytest.mark.parametrize("lines", [
    ("$ echo one", "two"),
    ("$ false",),
    ("$ false", "$ echo $?", "0"),
    ("$ echo a; echo b", "a"),
])
def test_runner_refuses_what_a_page_wrongly_says(lines, program, tmp_path):
    with pytest.raises(AssertionError):
        run_steps(steps_of(page_with(*lines)), tmp_path, program)
