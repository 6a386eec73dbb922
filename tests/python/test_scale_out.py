"""Several processes do the work of one: same bytes, one report, one voice; a lost rank ends the job and is named."""
import json
import os
import pathlib
import shutil
import signal
import subprocess
import time

import pytest
from processes import GRID, contents, end_ranks, finished, kill_when_finished, make_model, start_ranks

ROOT = pathlib.Path(__file__).resolve().parents[2]
MEGATRON = ROOT / "tests/testdata/megatron/qwen3_moe/te_bf16"
HF = ROOT / "tests/testdata/hf/qwen3_moe"


@pytest.fixture(scope="module")
def model(program, tmp_path_factory):
    def call(*arguments):
        return subprocess.run([str(program), *map(str, arguments)], capture_output=True, text=True, check=False)

    return make_model(call, tmp_path_factory.mktemp("ranks") / "model")


@pytest.fixture(scope="module")
def megatron(program, model):
    folder = model.parent / "whole"
    subprocess.run([program, "import", model, folder, *GRID], check=True, capture_output=True)
    return folder


def one_voice(ended, status=0):
    """All ranks ended with `status`, and only rank 0 printed."""
    assert [e[0] for e in ended] == [status] * len(ended), ended
    assert all(out == "" and err == "" for _, out, err in ended[1:]), ended
    return ended[0]


@pytest.mark.parametrize("size", [2, 3, 4])
def test_import_by_ranks_writes_the_bytes_of_one_process(program, model, megatron, tmp_path, size):
    ended = end_ranks(start_ranks(program, size, ["import", model, tmp_path / "m", *GRID]))
    assert f"by {size} ranks" in one_voice(ended)[1]
    assert contents(tmp_path / "m") == contents(megatron)
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_legacy_files_and_conversions_by_ranks_are_those_of_one_process(run, program, model, megatron, tmp_path):
    for name, command in (("legacy", ["import", model, "--format", "torch", *GRID]),
                          ("converted", ["convert", megatron, "--like", model, "--tp", "4"])):
        command.insert(2, tmp_path / f"{name}-one")
        assert run(*command).returncode == 0
        command[2] = tmp_path / f"{name}-many"
        assert "by 3 ranks" in one_voice(end_ranks(start_ranks(program, 3, command)))[1]
        assert contents(tmp_path / f"{name}-many") == contents(tmp_path / f"{name}-one")


def test_a_manifest_by_ranks_is_that_of_one_process(run, program, model, megatron, tmp_path):
    assert run("manifest", model, "-o", tmp_path / "one.json").returncode == 0
    for name, arguments in (("hf", [model]), ("megatron", [megatron, "--like", model])):
        command = ["manifest", *arguments, "-o", tmp_path / f"{name}.json"]
        assert "tensors" in one_voice(end_ranks(start_ranks(program, 3, command)))[1]
        assert (tmp_path / f"{name}.json").read_text() == (tmp_path / "one.json").read_text()


def test_export_by_ranks_writes_the_bytes_of_one_process(run, program, model, megatron, tmp_path):
    command = ["export", megatron, tmp_path / "hf", "--like", model, "--max-shard-size", "20M"]
    one_voice(end_ranks(start_ranks(program, 3, command)))
    assert run("export", megatron, tmp_path / "one", *command[3:]).returncode == 0
    assert contents(tmp_path / "hf") == contents(tmp_path / "one")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["hf", "one"]


def comparable(report):
    return {key: value for key, value in report.items() if key not in ("timing", "memory", "reproduce")}


def damaged(megatron, folder):
    """A copy with bytes changed in every file, far apart."""
    shutil.copytree(megatron, folder)
    for number, file in enumerate(sorted(folder.rglob("*.distcp"))):
        with file.open("r+b") as out:
            for part in (0.4, 0.9):
                out.seek(int(file.stat().st_size * part) // 64 * 64 + number)
                out.write(b"\x55\x12")
    return folder


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("good", [True, False])
def test_verify_by_ranks_gives_the_report_of_one_process(run, program, model, megatron, tmp_path, size, good):
    judged = megatron if good else damaged(megatron, tmp_path / "bad")
    one = run("verify", model, judged, "--json", "-")
    ended = end_ranks(start_ranks(program, size, ["verify", model, judged, "--json", "-"], cwd=tmp_path))
    out = one_voice(ended, one.returncode)[1]
    assert one.returncode == (0 if good else 1)
    assert comparable(json.loads(out)) == comparable(json.loads(one.stdout))
    assert not list(tmp_path.glob("*.ranks"))


def test_padding_that_is_not_zero_is_counted_once(run, program, tmp_path):
    command = ["verify", HF, MEGATRON, "--strict-padding", "--json", "-"]
    one = run(*command)
    ended = end_ranks(start_ranks(program, 3, command, cwd=tmp_path))
    assert comparable(json.loads(one_voice(ended, one.returncode)[1])) == comparable(json.loads(one.stdout))


@pytest.mark.parametrize("victim", [0, 2])
def test_a_killed_rank_ends_the_job_within_seconds_and_a_restart_goes_on(run, program, model, megatron, tmp_path,
                                                                        victim):
    target = tmp_path / "m"
    command = ["import", model, target, *GRID]
    for _ in range(20):
        ranks = start_ranks(program, 3, command)
        kill_when_finished(ranks, [ranks[victim]], target / "iter_0000000", 1)
        start = time.monotonic()
        ended = end_ranks(ranks)
        if not (target / "iter_0000000").exists():
            break
        shutil.rmtree(target)
    assert time.monotonic() - start < 15
    assert ended[victim][0] == -signal.SIGKILL
    others = [e for r, e in enumerate(ended) if r != victim]
    assert [e[0] for e in others] == [2, 2], ended
    assert f"rank {victim} " in others[0][2] and "was killed" in others[0][2], ended
    kept = len(finished(target / "iter_0000000"))
    assert kept >= 1
    out = one_voice_out(end_ranks(start_ranks(program, 2, command)))
    assert f"going on from an earlier start: {kept} of 4" in out, out
    assert contents(target) == contents(megatron)


def one_voice_out(ended):
    assert [e[0] for e in ended] == [0] * len(ended), ended
    return ended[0][2]


def test_a_rank_that_stands_still_is_noticed_by_its_heartbeat(program, model, tmp_path):
    command = ["import", model, tmp_path / "m", *GRID, "--rank-timeout", "2"]
    for _ in range(10):
        ranks = start_ranks(program, 2, command)
        kill_when_finished(ranks, [], tmp_path / "m/iter_0000000", 1)
        ranks[1].send_signal(signal.SIGSTOP)
        try:
            first = end_ranks(ranks[:1])[0]
        finally:
            ranks[1].send_signal(signal.SIGCONT)
        second = end_ranks(ranks[1:])[0]
        if first[0] != 0:
            break
        shutil.rmtree(tmp_path / "m")
    assert first[0] == 2 and "rank 1" in first[2] and "was not heard of for 2 s" in first[2], first
    assert second[0] == 2
    assert not (tmp_path / "m/iter_0000000").exists()


def test_an_error_of_any_rank_is_the_error_of_all(program, model, tmp_path):
    ranks = [subprocess.Popen([program, "import", model, tmp_path / "m", *GRID,
                               *(["--dialect", "local"] if r == 1 else [])],
                              env={**os.environ, "WEIGHBRIDGE_RANK": str(r), "WEIGHBRIDGE_WORLD_SIZE": "3"},
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for r in range(3)]
    _, _, err = one_voice(end_ranks(ranks), 2)
    assert "rank 1 has another version, family, config or other options than rank 0" in err
    assert not [p for p in (tmp_path / "m").rglob("*") if p.is_file()]


def test_a_rank_that_cannot_read_names_itself(program, model, tmp_path):
    folders = [model, tmp_path / "absent"]
    ranks = [subprocess.Popen([program, "import", folders[r], tmp_path / "m"],
                              env={**os.environ, "WEIGHBRIDGE_RANK": str(r), "WEIGHBRIDGE_WORLD_SIZE": "2"},
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for r in range(2)]
    _, _, err = one_voice(end_ranks(ranks), 2)
    assert "rank 1 " in err and "absent" in err, err


LAUNCHERS = {
    "torchrun": ("RANK", "WORLD_SIZE", {"TORCHELASTIC_RUN_ID": "none", "MASTER_ADDR": "localhost"}),
    "openmpi": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", {}),
    "pmi": ("PMI_RANK", "PMI_SIZE", {}),
    "slurm": ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0"}),
}


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_each_launcher_is_recognised(program, tmp_path, launcher):
    rank, size, more = LAUNCHERS[launcher]
    ranks = [subprocess.Popen([program, "import", HF, tmp_path / "m", "--tp", "2"],
                              env={**os.environ, rank: str(r), size: "2", **more},
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for r in range(2)]
    assert "by 2 ranks" in one_voice(end_ranks(ranks))[1]


def test_an_allocation_without_a_step_is_no_launch(run, tmp_path):
    """Commands of an sbatch script itself, outside of srun."""
    result = run("import", HF, tmp_path / "m",
                 env={**os.environ, "SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, timeout=20)
    assert result.returncode == 0 and "ranks" not in result.stdout


def test_launcher_none_runs_alone_and_nonsense_is_refused(run, tmp_path):
    ranked = {**os.environ, "RANK": "1", "WORLD_SIZE": "8"}
    assert run("import", HF, tmp_path / "m", "--launcher", "none", env=ranked, timeout=20).returncode == 0
    for environment in ({"RANK": "8", "WORLD_SIZE": "8"}, {"RANK": "x", "WORLD_SIZE": "2"}):
        result = run("import", HF, tmp_path / "n", env={**os.environ, **environment}, timeout=20)
        assert result.returncode == 2 and "RANK=" in result.stderr, result.stderr
    result = run("import", HF, tmp_path / "n", "--launcher", "slurm", timeout=20)
    assert result.returncode == 2 and "SLURM_PROCID" in result.stderr


def network_namespace():
    """The prefix that runs a command on a host of its own: no network, another host name."""
    prefix = ["unshare", "--net", "--uts"]
    if shutil.which("unshare") is None or subprocess.run([*prefix, "true"], capture_output=True,
                                                         check=False).returncode != 0:
        pytest.skip("SKIPPED LOUDLY: this user may not make network namespaces")
    return prefix


def test_two_hosts_without_any_network_share_the_work_over_a_folder(run, program, model, megatron, tmp_path):
    prefix = network_namespace()
    hosts = [subprocess.Popen([*prefix, "sh", "-c", f'hostname host{r}; exec "$0" "$@"', str(program), "import",
                               str(model), str(tmp_path / "m"), *GRID],
                              env={**os.environ, "WEIGHBRIDGE_RANK": str(r), "WEIGHBRIDGE_WORLD_SIZE": "2"},
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for r in range(2)]
    one_voice(end_ranks(hosts))
    assert contents(tmp_path / "m") == contents(megatron)
    ended = end_ranks(start_ranks(program, 2, ["verify", model, tmp_path / "m"], prefix, cwd=tmp_path))
    assert "PASSED" in one_voice(ended)[1]


def test_mpirun_starts_the_ranks(program, tmp_path):
    if shutil.which("mpirun") is None:
        pytest.skip("SKIPPED LOUDLY: there is no mpirun on this machine")
    result = subprocess.run(["mpirun", "--allow-run-as-root", "--oversubscribe", "-n", "2", program, "import", HF,
                             tmp_path / "m", "--tp", "2"], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0 and "by 2 ranks" in result.stdout, result.stderr


FAKE_SRUN = """#!/bin/bash
# Stands for Slurm's: starts $FAKE_TASKS tasks of one step with the variables that srun sets.
while [[ $1 == -* ]]; do shift; done
step=$RANDOM; pids=()
for ((r = 0; r < FAKE_TASKS; r++)); do
  SLURM_PROCID=$r SLURM_STEP_NUM_TASKS=$FAKE_TASKS SLURM_STEP_ID=$step "$@" & pids+=($!)
done
status=0
for p in "${pids[@]}"; do wait "$p" || status=$?; done
exit $status
"""


def test_the_sample_sbatch_file_imports_and_verifies(program, tmp_path):
    script = ROOT / "examples/import_and_verify.sbatch"
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
    (tmp_path / "srun").write_text(FAKE_SRUN)
    (tmp_path / "srun").chmod(0o755)
    work = tmp_path / "work"
    work.mkdir()
    (work / "model").symlink_to(HF)
    environment = {**os.environ, "PATH": f"{tmp_path}:{program.parent}:{os.environ['PATH']}", "FAKE_TASKS": "3",
                   "SLURM_JOB_ID": "11", "SLURM_PROCID": "0", "SLURM_NTASKS": "3", "HF": "model",
                   "MEGATRON": "megatron"}
    result = subprocess.run(["bash", script], cwd=work, env=environment, capture_output=True, text=True, timeout=60,
                            check=False)
    assert result.returncode == 0, result.stderr
    assert "by 3 ranks" in result.stdout and "PASSED" in result.stdout, result.stdout
    assert json.loads((work / "verify.json").read_text())["verdict"] == "pass"
