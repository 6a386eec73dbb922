"""Killed, out of space, not permitted: nothing incomplete is ever seen under a target's name."""
import os
import pathlib
import random
import subprocess
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
HF = ROOT / "tests/testdata/hf/qwen3_moe"
MEGATRON = ROOT / "tests/testdata/megatron/qwen3_moe/te_bf16"
KILLS = 200


def duration(command):
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def kill_at_random_moments(command, check):
    """Runs the command KILLS times, killed at a random moment of its usual time; returns how many came to an end."""
    usual = duration([*command, "--overwrite"])
    moments = random.Random(1)
    ended = 0
    for _ in range(KILLS):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(moments.uniform(0, 1.2 * usual))
        process.kill()
        ended += process.wait() == 0
        check()
    return ended


def test_import_killed_at_random_moments_leaves_nothing_incomplete(run, program, tmp_path):
    target = tmp_path / "megatron"
    whole = 0

    def check():
        nonlocal whole
        if (target / "iter_0000000").exists():
            result = run("verify", HF, target / "iter_0000000")
            assert result.returncode == 0, result.stdout
            whole += 1
            for file in (target / "iter_0000000").iterdir():
                file.unlink()
            (target / "iter_0000000").rmdir()
        if (target / "latest_checkpointed_iteration.txt").exists():
            assert (target / "latest_checkpointed_iteration.txt").read_text() == "0"
            (target / "latest_checkpointed_iteration.txt").unlink()

    kill_at_random_moments([program, "import", HF, target], check)
    assert 0 < whole < KILLS
    assert run("import", HF, target).returncode == 0
    assert run("verify", HF, target).returncode == 0
    assert not list(target.glob("iter_0000000.partial-*")), "the next start removes what was abandoned"


def test_export_killed_at_random_moments_leaves_nothing_incomplete(run, program, tmp_path):
    target = tmp_path / "hf"
    whole = 0
    expected = (HF / "model.safetensors").read_bytes()

    def check():
        nonlocal whole
        if target.exists():
            whole += 1
            assert (target / "model.safetensors").read_bytes() == expected
            assert (target / "config.json").read_bytes() == (HF / "config.json").read_bytes()
            for file in target.iterdir():
                file.unlink()
            target.rmdir()

    kill_at_random_moments([program, "export", MEGATRON, target, "--like", HF], check)
    assert 0 < whole < KILLS
    assert run("export", MEGATRON, target, "--like", HF).returncode == 0
    assert [p.name for p in tmp_path.iterdir()] == ["hf"]


def test_two_imports_into_one_target_leave_one_whole_checkpoint(run, program, tmp_path):
    target = tmp_path / "megatron"
    both = [subprocess.Popen([program, "import", HF, target], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            for _ in range(2)]
    status = sorted(process.wait() for process in both)
    for process in both:
        process.stderr.close()
    assert status in ([0, 0], [0, 2])
    assert run("verify", HF, target).returncode == 0
    assert not list(target.glob("*.partial-*"))


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 200 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", folder], capture_output=True,
                             check=False)
    if mounted.returncode != 0:
        pytest.skip("SKIPPED LOUDLY: this user may not mount a tmpfs")
    yield folder
    subprocess.run(["umount", folder], check=False)


def test_a_full_disk_is_said_before_or_while_writing_and_leaves_nothing(run, small_disk):
    for command in (["import", HF, small_disk / "m"], ["export", MEGATRON, small_disk / "hf", "--like", HF]):
        result = run(*command)
        assert result.returncode == 2
        assert "space" in result.stderr or "full" in result.stderr, result.stderr
    assert not [p for p in small_disk.rglob("*") if p.is_file()]


def test_a_target_that_may_not_be_written_is_an_error_that_names_it(run, tmp_path):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    if os.access(locked, os.W_OK):
        pytest.skip("SKIPPED LOUDLY: this user may write anywhere")
    result = run("import", HF, locked / "m")
    assert result.returncode == 2 and str(locked) in result.stderr
