"""The package's types hold, and the stub of its extension module says what is there."""
import ast
import pathlib
import subprocess
import sys

import weighbridge

PACKAGE = pathlib.Path(weighbridge.__file__).parent
ROOT = pathlib.Path(__file__).resolve().parents[2]


def mypy(module, *arguments, cwd):
    return subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True, cwd=cwd)


def test_the_package_is_typed_strictly(tmp_path):
    checked = mypy("mypy", "--strict", "--cache-dir", str(tmp_path), "--ignore-missing-imports", "-p", "weighbridge", cwd=tmp_path)
    assert checked.returncode == 0, checked.stdout


def signatures(text):
    """{function or Class.method: names of its parameters} of a stub."""
    found = {}

    def walk(nodes, prefix):
        for node in nodes:
            if isinstance(node, ast.ClassDef):
                walk(node.body, f"{prefix}{node.name}.")
            elif isinstance(node, ast.FunctionDef):
                arguments = node.args
                found[prefix + node.name] = [a.arg for a in arguments.posonlyargs + arguments.args if a.arg != "self"]

    walk(ast.parse(text).body, "")
    return found


def test_the_stub_fits_the_extension_module(tmp_path):
    made = tmp_path / "made.pyi"
    subprocess.run([sys.executable, "-m", "nanobind.stubgen", "-q", "-m", "weighbridge._core", "-o", str(made)], check=True)
    there, written = signatures(made.read_text()), signatures((PACKAGE / "_core.pyi").read_text())
    assert there == written and "Tensors.open" in there and len(there) > 8


def test_a_user_of_the_package_gets_types(tmp_path):
    (tmp_path / "user.py").write_text(
        "import weighbridge as wb\n"
        "reveal_type(wb.verify('a', 'b', tp=2).causes[0].id)\n"
        "wb.roundtrip('a', tp='two')\n")
    said = mypy("mypy", "--cache-dir", str(tmp_path), "user.py", cwd=tmp_path).stdout
    assert 'Revealed type is "str"' in said or 'Revealed type is "builtins.str"' in said, said
    assert 'incompatible type "str"; expected "int"' in said and said.count("error:") == 1, said
