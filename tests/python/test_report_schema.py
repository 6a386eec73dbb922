"""docs/report.schema.json describes what the program writes, and refuses what it must never write."""
import copy
import json

import jsonschema
import numpy as np
import pytest
from safetensors.numpy import save_file


def tensor(name, dtype="bf16"):
    return {"name": name, "shape": [4, 2], "dtype": dtype}


def row(name, status="match", **changes):
    compared = status in ("match", "match-widened", "match-rounded", "mismatch")
    result = {
        "hf": [tensor(name)], "megatron": tensor("decoder." + name), "rank": None, "status": status,
        "transform": "identity", "op": "none", "bytes": 16,
        "max_diff": 0.0 if compared else None, "mean_diff": 0.0 if compared else None,
        "cosine": 1.0 if compared else None, "max_relative": 0.0 if compared else None,
        "max_ulp": 0 if compared else None, "mismatched": 0 if compared else None,
        "nan_count": 0 if compared else None, "inf_count": 0 if compared else None,
        "first": None, "why": "",
    }
    return result | changes


def report(verdict, rows, **changes):
    counts = {"total": len(rows), "passed": 0, "failed": 0, "skipped": 0}
    for result in rows:
        status = result["status"]
        counts["passed" if status.startswith("match") else "skipped" if status == "skipped" else "failed"] += 1
    document = {
        "schema": "weighbridge.report/1", "command": "roundtrip", "level": "L1", "verdict": verdict,
        "counts": counts, "causes": [], "notes": [], "results": rows, "unproven": ["a", "b"],
        "details": {"family": "llama"}, "tolerances": {},
        "timing": {"wall_s": 0.5, "bytes": 10, "gb_per_s": 2e-8},
        "memory": {"peak_anonymous_bytes": 1}, "reproduce": {"argv": ["weighbridge"], "version": "0", "inputs": []},
    }
    return document | changes


CAUSE = {"id": "qkv-concatenated", "proof": "exact", "origin": "checkpoint", "where": ["*.linear_qkv.weight"],
         "message": "m", "evidence": "e", "hint": "h"}
FIRST = {"hf": {"name": "w", "index": [3, 1]},
         "megatron": {"name": "decoder.w", "rank": {"tp": 1, "pp": 0, "vpp": 0, "ep": 0, "etp": 0}, "index": [1, 1]},
         "expected": "0.5 (0x3f00)", "actual": "0.25 (0x3e80)"}
SAVED = {
    "pass": report("pass", [row("a"), row("b", "match-widened"), row("c", "skipped", why="--allow-skip c")]),
    "fail": report("fail", [row("a"), row("b", "mismatch", max_diff=None, mismatched=3, first=FIRST),
                            row("c", "missing", why="absent"), row("d", "extra")], causes=[CAUSE]),
    "ranks": report("pass", [row("a", rank={"tp": 1, "pp": 2, "vpp": 0, "ep": 3, "etp": 0}, xxh3="0123456789abcdef" * 2)]),
    "undecided": report("undecided", [], error={"id": "nothing-compared", "what": "w", "at": "", "hint": "h"}),
    "inputs": report("pass", [row("a")], reproduce={
        "argv": ["weighbridge", "roundtrip", "m"], "version": "0.1.0",
        "inputs": [{"path": "m/model.safetensors", "bytes": 3, "header_xxh3": "ab", "content_xxh3": None}]}),
}


@pytest.fixture(scope="session")
def validator(project):
    schema = json.loads((project / "docs/report.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("name", SAVED)
def test_what_the_program_writes_fits_the_schema(name, validator, run, tmp_path):
    path = tmp_path / "saved.json"
    path.write_text(json.dumps(SAVED[name]))
    written = run("report", path, "--json", "-")
    assert written.returncode == {"pass": 0, "fail": 1, "undecided": 2}[SAVED[name]["verdict"]]
    document = json.loads(written.stdout)
    validator.validate(document)
    assert document == SAVED[name]


def test_the_json_inside_a_page_fits_the_schema(validator, run, tmp_path):
    many = report("pass", [row(f"model.layers.{i}.mlp.down_proj.weight") for i in range(10000)])
    path = tmp_path / "saved.json"
    path.write_text(json.dumps(many))
    assert run("report", path, "--html", tmp_path / "page.html", "-q").returncode == 0
    page = (tmp_path / "page.html").read_text()
    assert len(page.encode()) < 2_000_000
    document = json.loads(page.split('id="weighbridge-report">')[1].split("</script>")[0])
    validator.validate(document)
    assert document["results_omitted"] + len(document["results"]) == 10000


@pytest.mark.parametrize("change", [0.0, 1.0, np.nan], ids=["equal", "changed", "nan"])
def test_diff_of_real_files_fits_the_schema(change, validator, run, tmp_path):
    if "\n  diff " not in run("-h").stdout:
        pytest.skip("this build has no diff command")
    a = np.ones((4, 2), np.float32)
    b = a.copy()
    b[3, 1] += change
    save_file({"w": a, "only.in.both": a}, tmp_path / "a.safetensors")
    save_file({"w": b, "only.in.both": a}, tmp_path / "b.safetensors")
    done = run("diff", tmp_path / "a.safetensors", tmp_path / "b.safetensors", "--json", "-")
    document = json.loads(done.stdout)
    validator.validate(document)
    assert done.returncode == (0 if change == 0 else 1), done.stderr
    assert document["counts"]["total"] == 2
    assert document["reproduce"]["argv"][1] == "diff"


WRONG = {
    "another schema": lambda d: d.update(schema="weighbridge.report/2"),
    "a fail without causes": lambda d: d.update(verdict="fail"),
    "causes of a pass": lambda d: d.update(causes=[CAUSE]),
    "an error of a pass": lambda d: d.update(error={"id": "x", "what": "x", "at": "", "hint": ""}),
    "a pass of nothing": lambda d: d["counts"].update(passed=0),
    "a pass with failures": lambda d: d["counts"].update(failed=1),
    "an undecided report without an error": lambda d: d.update(verdict="undecided"),
    "an unknown status": lambda d: d["results"][0].update(status="fine"),
    "a metric that is text": lambda d: d["results"][0].update(max_diff="0"),
    "a hash that is none": lambda d: d["results"][0].update(xxh3="ABC"),
    "a negative count": lambda d: d["results"][0].update(mismatched=-1),
    "no counts": lambda d: d.pop("counts"),
    "no reproduce block": lambda d: d.pop("reproduce"),
    "a cause id with spaces": lambda d: d.update(verdict="fail", causes=[CAUSE | {"id": "not an id"}]),
}


@pytest.mark.parametrize("name", WRONG)
def test_the_schema_refuses(name, validator):
    document = copy.deepcopy(SAVED["pass"])
    WRONG[name](document)
    assert not validator.is_valid(document)


def test_the_schema_allows_new_fields(validator):
    document = copy.deepcopy(SAVED["fail"])
    for part in (document, document["results"][0], document["causes"][0], document["counts"], document["timing"],
                 document["memory"], document["reproduce"], document["results"][1]["first"]):
        part["added_later"] = 1
    validator.validate(document)


def test_every_field_is_described_or_named_by_its_parent(project):
    """A field of the report itself has a description, here or where it refers to."""
    schema = json.loads((project / "docs/report.schema.json").read_text())
    bare = [name for name, field in schema["properties"].items()
            if not {"description", "$ref"} & field.keys() and not field.get("properties")]
    assert bare == []
