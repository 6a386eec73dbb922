"""The check of names itself: it accepts the project and points at each kind of slip."""
import pathlib
import subprocess
import sys

import pytest

TOOL = pathlib.Path(__file__).resolve().parents[2] / "tools" / "check_names.py"


def check(folder):
    return subprocess.run([sys.executable, TOOL, folder], capture_output=True, text=True, check=False)


@pytest.fixture
def repository(tmp_path):
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    (tmp_path / "good.md").write_text(f"See build/demo and ~/.cache; the roots of {'/'.join(['framework', 'work', 'items'])}.\n")
    return tmp_path


def test_accepts_this_project(project):
    result = check(project)
    assert result.returncode == 0, result.stdout


def test_accepts_relative_paths_and_plain_words(repository):
    result = check(repository)
    assert (result.returncode, result.stdout) == (0, "names: 1 files, 0 problems\n")


@pytest.mark.parametrize(("text", "what"), [
    ("cache=/ho" + "me/someone/x", "a path of one machine"),
    ("see /ro" + "ot/notes", "a path of one machine"),
    ("index = files.python" + "hosted.org", "the host of a registry"),
    ("// TO" + "DO: later", "unfinished work"),
    ("# FIX" + "ME", "unfinished work"),
])
def test_points_at_the_line(repository, text, what):
    (repository / "bad.txt").write_text("first line\n" + text + "\n")
    result = check(repository)
    assert result.returncode == 1
    assert result.stdout.startswith(f"bad.txt:2: {what}: ")


def test_a_check_of_nothing_fails(tmp_path):
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    result = check(tmp_path)
    assert result.returncode == 1
    assert "nothing was checked" in result.stderr
