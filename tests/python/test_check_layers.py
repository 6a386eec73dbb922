"""The layer check itself: it accepts the project and names each forbidden import."""
import pathlib
import subprocess
import sys

import pytest

TOOL = pathlib.Path(__file__).resolve().parents[2] / "tools" / "check_layers.py"

# A small project that keeps every rule; the tests break one rule at a time.
GOOD = {
    "src/base/file.h": "#include <string>\n",
    "src/base/result.h": "",
    "src/tensor/dtype.h": '#include "base/result.h"\n',
    "src/formats/checkpoint.h": '#include "base/file.h"\n#include "tensor/dtype.h"\n',
    "src/mapping/plan.cc": '#include "tensor/dtype.h"\n',
    "src/mapping/plan.h": "",
    "src/family/family.h": '#include "mapping/plan.h"\n',
    "src/checks/result.h": "",
    "src/checks/roundtrip.h": '#include "family/family.h"\n#include "formats/checkpoint.h"\n',
    "src/report/json.cc": '#include "checks/result.h"\n#include <nlohmann/json.hpp>\n',
    "src/engine/forward.cc": '#include "checks/result.h"\n#include <torch/torch.h>\n',
    "src/cli/roundtrip.cc": '#include "checks/roundtrip.h"\n#include "base/file.h"\n',
}


def check(folder):
    return subprocess.run([sys.executable, TOOL, folder], capture_output=True, text=True, check=False)


def write(folder, files):
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_accepts_this_project(project):
    result = check(project)
    assert result.returncode == 0, result.stdout


def test_accepts_a_project_that_keeps_every_rule(tmp_path):
    write(tmp_path, GOOD)
    result = check(tmp_path)
    assert (result.returncode, result.stdout) == (0, "layers: 12 files, 0 problems\n")


@pytest.mark.parametrize(("file", "include", "said"), [
    ("src/base/file.h", '"tensor/dtype.h"', "base may include only itself"),
    ("src/formats/checkpoint.h", '"mapping/plan.h"', "formats may include only base, tensor"),
    ("src/mapping/plan.h", '"formats/checkpoint.h"', "mapping may include only base, tensor"),
    ("src/checks/roundtrip.h", '"cli/roundtrip.cc"', "checks may include only"),
    ("src/report/json.cc", '"checks/roundtrip.h"', "report sees of checks only checks/result.h"),
    ("src/report/json.cc", '"formats/checkpoint.h"', "report may include only base, checks, tensor"),
    ("src/family/family.h", '"base/file.h"', "family does no file I/O"),
    ("src/mapping/plan.cc", "<fstream>", "mapping does no file I/O"),
    ("src/mapping/plan.cc", "<filesystem>", "mapping does no file I/O"),
    ("src/checks/result.h", "<ATen/ATen.h>", "only engine may see libtorch"),
    ("src/checks/roundtrip.h", '"result.h"', 'is included as "room/header.h"'),
    ("src/checks/roundtrip.h", '"checks/missing.h"', "has to exist"),
])
def test_names_the_file_the_line_and_the_rule_of_a_forbidden_import(tmp_path, file, include, said):
    write(tmp_path, GOOD)
    path = tmp_path / file
    path.write_text(f"// one line before\n#include {include}\n" + path.read_text())
    result = check(tmp_path)
    assert result.returncode == 1
    line = next((line for line in result.stdout.splitlines() if said in line), "")
    assert line.startswith(f"{file}:2: includes {include.strip('<>').strip(chr(34))}: "), result.stdout


def test_accepts_a_header_that_is_made_by_the_build(tmp_path):
    write(tmp_path, {**GOOD, "src/cli/version.h.in": "", "src/cli/main.cc": '#include "cli/version.h"\n'})
    result = check(tmp_path)
    assert result.returncode == 0, result.stdout


def test_finds_headers_that_include_each_other(tmp_path):
    write(tmp_path, GOOD)
    write(tmp_path, {"src/mapping/a.h": '#include "mapping/b.h"\n', "src/mapping/b.h": '#include "mapping/a.h"\n'})
    result = check(tmp_path)
    assert result.returncode == 1
    assert "mapping/a.h -> mapping/b.h -> mapping/a.h" in result.stdout


def test_refuses_a_file_outside_every_room(tmp_path):
    write(tmp_path, {**GOOD, "src/helpers/text.h": ""})
    result = check(tmp_path)
    assert result.returncode == 1
    assert "src/helpers/text.h: is in no known room" in result.stdout


def test_a_check_of_nothing_fails(tmp_path):
    result = check(tmp_path)
    assert result.returncode == 1
    assert "nothing was checked" in result.stderr
