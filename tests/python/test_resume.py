"""An import or export that was killed goes on where it was: finished files are kept, checked, and not written again."""
import json
import os
import shutil
import signal
import subprocess

import pytest
from processes import GRID, contents, end_ranks, finished, kill_when_finished, look, make_model


@pytest.fixture(scope="module")
def model(program, tmp_path_factory):
    def call(*arguments):
        return subprocess.run([str(program), *map(str, arguments)], capture_output=True, text=True, check=False)

    return make_model(call, tmp_path_factory.mktemp("resume") / "model")


@pytest.fixture(scope="module")
def megatron(program, model):
    folder = model.parent / "whole"
    subprocess.run([program, "import", model, folder, *GRID], check=True, capture_output=True)
    return folder


def interrupt(program, arguments, target, count, with_signal=signal.SIGKILL):
    """Starts the command and kills it once `count` files are finished and before all are published."""
    def heed():  # whoever runs the tests may ignore the signal (nohup), and children would too
        if with_signal != signal.SIGKILL:
            signal.signal(with_signal, signal.SIG_DFL)

    for _ in range(20):
        process = subprocess.Popen([program, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   text=True, preexec_fn=heed)
        while process.poll() is None and len(finished(target)) < count:
            pass
        process.send_signal(with_signal)
        ended = end_ranks([process])[0]
        if not target.exists() and len(finished(target)) >= count:
            return ended
        shutil.rmtree(target, ignore_errors=True)
    pytest.fail("the program was too fast to be killed")


def test_a_killed_import_goes_on_and_gives_the_same_bytes(run, program, model, megatron, tmp_path):
    target = tmp_path / "m"
    command = ["import", model, target, *GRID]
    interrupt(program, command, target / "iter_0000000", 2)
    kept = len(finished(target / "iter_0000000"))
    assert not (target / "latest_checkpointed_iteration.txt").exists()
    result = run(*command, "--json", tmp_path / "made.json")
    assert result.returncode == 0, result.stderr
    assert f"going on from an earlier start: {kept} of 4 files" in result.stderr
    assert json.loads((tmp_path / "made.json").read_text())["reused"]["files"] == kept
    assert contents(target / "iter_0000000").keys() == contents(megatron / "iter_0000000").keys()
    for name, data in contents(megatron / "iter_0000000").items():
        assert name == "run_config.yaml" or contents(target / "iter_0000000")[name] == data, name
    assert sorted(p.name for p in target.iterdir()) == sorted(p.name for p in megatron.iterdir())


def test_a_killed_import_of_the_legacy_format_goes_on(run, program, model, tmp_path):
    command = ["import", model, tmp_path / "m", "--format", "torch", *GRID]
    interrupt(program, command, tmp_path / "m/iter_0000000", 2)
    result = run(*command)
    assert result.returncode == 0 and "going on from an earlier start" in result.stderr, result.stderr
    assert run("import", model, tmp_path / "one", "--format", "torch", *GRID).returncode == 0
    assert contents(tmp_path / "m") == contents(tmp_path / "one")


def test_a_killed_export_goes_on_and_gives_the_same_bytes(run, program, model, megatron, tmp_path):
    command = ["export", megatron, tmp_path / "hf", "--like", model, "--max-shard-size", "20M", "--threads", "1"]
    interrupt(program, command, tmp_path / "hf", 2)
    result = run(*command)
    assert result.returncode == 0, result.stderr
    assert "going on from an earlier start" in result.stderr
    assert run("export", megatron, tmp_path / "again", "--like", model, "--max-shard-size", "20M").returncode == 0
    assert contents(tmp_path / "hf") == contents(tmp_path / "again")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again", "hf"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_keeps_finished_files_and_says_so(run, program, model, tmp_path, number):
    target = tmp_path / "m"
    command = ["import", model, target, *GRID]
    status, _, err = interrupt(program, command, target / "iter_0000000", 1, number)
    assert status == 128 + number and "finished files are kept" in err
    assert "going on from an earlier start" in run(*command).stderr


def test_a_signal_that_the_parent_ignored_stays_ignored(program, model, tmp_path):
    writer = subprocess.Popen([program, "import", model, tmp_path / "m", *GRID], stderr=subprocess.PIPE,
                              stdout=subprocess.DEVNULL,
                              preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    while writer.poll() is None:
        os.kill(writer.pid, signal.SIGHUP)
    assert writer.wait() == 0, writer.stderr.read()


def test_discard_begins_afresh(run, program, model, tmp_path):
    target = tmp_path / "m"
    interrupt(program, ["import", model, target, *GRID], target / "iter_0000000", 1)
    result = run("import", model, target, *GRID, "--discard")
    assert result.returncode == 0 and "going on" not in result.stderr
    assert not list(target.glob("*.partial-*"))


@pytest.mark.parametrize(("change", "said"), [("source", "another state of the source"), ("options", "other options")])
def test_another_source_or_other_options_begin_afresh_and_say_so(run, program, model, tmp_path, change, said):
    copy = tmp_path / "model"
    shutil.copytree(model, copy)
    target = tmp_path / "m"
    interrupt(program, ["import", copy, target, *GRID], target / "iter_0000000", 1)
    if change == "source":
        os.utime(copy / "model.safetensors", (1, 1))
    result = run("import", copy, target, *GRID, *(["--dialect", "local"] if change == "options" else []))
    assert result.returncode == 0 and said in result.stderr, result.stderr
    assert "going on" not in result.stderr
    assert run("verify", copy, target).returncode == 0


def test_a_finished_file_that_was_damaged_meanwhile_is_written_again(run, program, model, tmp_path):
    target = tmp_path / "m"
    interrupt(program, ["import", model, target, *GRID], target / "iter_0000000", 1)
    name = finished(target / "iter_0000000")[0]
    file = next(target.glob(f"iter_0000000.partial-*/files/{name}"))
    with file.open("r+b") as out:
        out.seek(5000)
        out.write(b"damage")
    result = run("import", model, target, *GRID, "--verify", "device")
    assert result.returncode == 0 and f"{name} of the earlier start is damaged" in result.stderr, result.stderr
    assert run("verify", model, target).returncode == 0


def test_a_journal_of_nonsense_is_no_reason_to_believe_anything(run, program, model, tmp_path):
    target = tmp_path / "m"
    interrupt(program, ["import", model, target, *GRID], target / "iter_0000000", 1)
    journal = next(target.glob("iter_0000000.partial-*/journal"))
    for number, text in enumerate(['{"name": "../../x", "bytes": 1, "crc32": 0}', "\0" * 100, '{"bytes": -1}', ""]):
        (journal / f"{number}.json").write_text(text)
    (journal / "__9_0.distcp.json").write_text('{"name": "__9_0.distcp", "bytes": 99999999999999, "crc32": 1}')
    result = run("import", model, target, *GRID)
    assert result.returncode == 0 and "going on from an earlier start" in result.stderr, result.stderr
    assert run("verify", model, target).returncode == 0


def test_a_start_beside_a_living_one_leaves_its_work_alone(run, program, model, tmp_path):
    target = tmp_path / "m"
    first = subprocess.Popen([program, "import", str(model), str(target), *GRID], stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, text=True)
    kill_when_finished([first], [], target / "iter_0000000", 1)
    first.send_signal(signal.SIGSTOP)
    try:
        stopped_early = first.poll() is None and not (target / "iter_0000000").exists()
        second = run("import", model, target, *GRID)
    finally:
        first.send_signal(signal.SIGCONT)
    status = end_ranks([first])[0][0]
    if stopped_early:
        assert second.returncode == 0 and "going on" not in second.stderr
        assert status == 2
    assert run("verify", model, target).returncode == 0
    assert not list(target.glob("*.partial-*"))


def test_a_source_that_changes_under_an_import_is_an_error_and_nothing_is_published(run, program, model, tmp_path):
    copy = tmp_path / "model"
    shutil.copytree(model, copy)
    target = tmp_path / "m"
    process = subprocess.Popen([program, "import", str(copy), str(target), *GRID], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not look(target, "iter_0000000.partial-*/files/*"):
        pass
    os.utime(copy / "model.safetensors", (1, 1))
    status, _, err = end_ranks([process])[0]
    assert status == 2 and "changed while it was read" in err and "model.safetensors" in err
    assert not [p for p in target.rglob("*") if p.is_file()]


@pytest.fixture
def disk(tmp_path):
    """A file system of 160 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=160m", "tmpfs", folder], capture_output=True,
                      check=False).returncode != 0:
        pytest.skip("SKIPPED LOUDLY: this user may not mount a tmpfs")
    yield folder
    subprocess.run(["umount", folder], check=False)


def test_a_disk_that_is_full_meanwhile_costs_nothing_once_there_is_space(run, program, model, disk):
    target = disk / "m"
    command = ["import", model, target, *GRID]
    interrupt(program, command, target / "iter_0000000", 2)
    kept = finished(target / "iter_0000000")
    # What is not finished is gone with the next start; the filler takes all of the rest.
    for file in target.glob("iter_0000000.partial-*/files/*"):
        if file.name not in kept:
            file.unlink()
    with (disk / "filler").open("wb") as out:
        try:
            while out.write(b"\0" * 65536):
                out.flush()
        except OSError:
            pass
    full = run(*command)
    assert full.returncode == 2 and "space" in full.stderr, full.stderr
    assert finished(target / "iter_0000000") == kept
    (disk / "filler").unlink()
    result = run(*command)
    assert result.returncode == 0 and f"going on from an earlier start: {len(kept)} of 4" in result.stderr
    assert run("verify", model, target).returncode == 0


@pytest.mark.parametrize("memory", ["1M", "64M"])
def test_memory_bounds_what_is_in_flight_and_changes_no_byte(run, model, megatron, tmp_path, memory):
    made = run("import", model, tmp_path / "m", *GRID, "--memory", memory, "--json", "-")
    assert made.returncode == 0, made.stderr
    limit = {"1M": 12e6, "64M": 80e6}[memory]
    assert json.loads(made.stdout)["memory"]["peak_anonymous_bytes"] < limit
    for name, data in contents(megatron / "iter_0000000").items():
        assert name == "run_config.yaml" or (tmp_path / "m/iter_0000000" / name).read_bytes() == data, name
    assert run("verify", model, tmp_path / "m", "--memory", memory).returncode == 0
    bad = run("import", model, tmp_path / "x", "--memory", "lots")
    assert bad.returncode == 2 and "--memory" in bad.stderr
