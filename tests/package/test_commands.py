"""The commands as functions: same options, same reports, typed."""
import inspect
import json
import re

import pytest

import weighbridge as wb

# Options of the command line that a function has no use for: how a report is printed, and how several processes meet.
NOT_IN_PYTHON = {
    "hf_model_id", "megatron_path", "megatron_save_path", "quiet", "verbose", "color", "top", "help", "launcher", "job_id", "rendezvous", "rank_timeout",
    "tensor_model_parallel_size", "pipeline_model_parallel_size", "virtual_pipeline_model_parallel_size",
    "expert_model_parallel_size", "expert_tensor_parallel_size", "decoder_first_pipeline_num_layers",
    "decoder_last_pipeline_num_layers", "pipeline_model_parallel_layout",
}


def test_a_round_trip_of_a_good_model_passes(model):
    report = wb.roundtrip(model, tp=2, pp=2)
    assert report.ok and report.verdict == "pass" and not report.causes
    assert report.counts.passed == report.counts.total == len(report.results) > 0
    assert report.raise_if_failed() is report
    assert all(r.ok and r.status == "match" for r in report.results)


def test_the_report_is_the_one_of_the_program(run, model, tmp_path):
    path = tmp_path / "report.json"
    assert run("roundtrip", model, "--tp", 2, "--json", path).returncode == 0
    theirs, ours = json.loads(path.read_text()), json.loads(wb.roundtrip(model, tp=2).to_json())
    for document in (theirs, ours):
        for volatile in ("timing", "memory", "reproduce"):
            document.pop(volatile)
    assert ours == theirs


def test_verify_names_the_cause_and_raises_when_asked(changed, model, megatron):
    assert wb.verify(model, megatron).ok
    report = wb.verify(changed, megatron)
    assert not report.ok and report.verdict == "fail"
    assert [cause.id for cause in report.causes] == ["bit-flip"]
    bad = [r for r in report.results if not r.ok]
    assert len(bad) == 1 and bad[0].status == "mismatch" and bad[0].megatron.name in report.causes[0].where[0]
    with pytest.raises(wb.ParityError, match="bit-flip") as raised:
        report.raise_if_failed()
    assert raised.value.report is report


def test_ranks_have_hashes(model):
    report = wb.roundtrip(model, tp=2, ranks=True)
    assert report.ok
    assert {r.rank.tp for r in report.results if r.rank} == {0, 1}
    assert all(re.fullmatch("[0-9a-f]{32}", r.xxh3) for r in report.results if r.rank)


def test_diff_takes_patterns_and_tolerances(changed, model):
    assert wb.diff(model, model).ok
    report = wb.diff(model, changed)
    assert not report.ok and report.counts.failed == 1
    name = next(r for r in report.results if not r.ok).hf[0].name
    assert wb.diff(model, changed, allow_skip=[name]).ok
    assert wb.diff(model, changed, atol=1e30).ok


def test_diagnose_walks_the_workflow(changed, megatron):
    report = wb.diagnose(changed, megatron)
    assert [cause.id for cause in report.causes] == ["bit-flip"]
    assert [step["id"] for step in report.document["steps"]] == ["round-trip", "parallel-grid", "configs", "weights"]


def test_manifests_of_both_sides_are_equal(model, megatron, changed, tmp_path):
    of_hf = wb.manifest(model, output=tmp_path / "m.json")
    assert of_hf.family == "qwen3" and of_hf.tensors
    assert wb.manifest(megatron, like=model) == of_hf != wb.manifest(changed)
    assert wb.verify(megatron, tmp_path / "m.json", like=model).ok
    assert not wb.verify(changed, tmp_path / "m.json").ok


def test_files_that_options_name_are_written(model, tmp_path):
    wb.roundtrip(model, json=tmp_path / "r.json", html=tmp_path / "r.html")
    assert json.loads((tmp_path / "r.json").read_text())["verdict"] == "pass"
    assert "<html" in (tmp_path / "r.html").read_text()


def test_nothing_is_printed(model, capfd):
    wb.roundtrip(model)
    wb.manifest(model)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("call, kind, said", [
    (lambda model: wb.roundtrip("no/such/folder"), "not-found", "no/such/folder"),
    (lambda model: wb.roundtrip(model, tp=0), "usage", "--tp"),
    (lambda model: wb.roundtrip(model, level="L7"), "usage", "L7"),
    (lambda model: wb.roundtrip(model, memory="lots"), "usage", "memory"),
    (lambda model: wb.verify(model, model), "not-found", ""),
    (lambda model: wb.diff(model, model, atol=float("nan")), "usage", "nan"),
    (lambda model: wb.manifest("no/such/folder"), "not-found", ""),
    (lambda model: wb.roundtrip("--help"), "not-found", "--help"),
])
def test_what_cannot_be_judged_raises(model, call, kind, said):
    with pytest.raises(wb.Error) as raised:
        call(model)
    assert raised.value.kind in (kind, "") and said in str(raised.value)


def test_a_broken_file_is_a_failed_judgement(model, tmp_path):
    for path in model.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes()[:-100] if path.suffix == ".safetensors" else path.read_bytes())
    report = wb.roundtrip(tmp_path)
    assert report.verdict == "fail" and report.causes[0].id == "file-truncated"


@pytest.mark.parametrize("command", ["roundtrip", "verify", "diff", "manifest", "diagnose"])
def test_a_function_has_the_options_of_its_command(run, command):
    text = run(command, "--help").stdout
    # Of each line of help the first long name; those behind it are other spellings.
    there = {name.replace("-", "_") for name in re.findall(r"^ {2,}(?:-\w[, ]+)?--([\w-]+)", text, re.MULTILINE)}
    parameters = inspect.signature(getattr(wb, command)).parameters.values()
    ours = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
    assert ours == there - NOT_IN_PYTHON
