"""What a hostile reading found: false passes, folders of the user, sources that are not what they seem."""
import json
import os
import shutil
import subprocess

import pytest

from test_megatron import DATA, iteration, verify_json
from test_rank_diff import rank_file

TIED, UNTIED = DATA / "hf/llama_tied", DATA / "hf/llama_untied"


@pytest.fixture
def wrong_head(tmp_path):
    """A tied model that stores a head which is not the embedding."""
    from safetensors.numpy import load_file, save_file

    folder = pathlib_copy(TIED, tmp_path / "wrong_head")
    tensors = load_file(DATA / "hf_fp32/llama_tied/model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
    tensors["lm_head.weight"][3, 5] += 1
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def pathlib_copy(source, target):
    shutil.copytree(source, target)
    return target


def test_a_head_that_is_not_the_embedding_it_is_tied_to_never_passes(run, tmp_path, wrong_head):
    for options in ([], ["--ranks", "--tp", "2"], ["--level", "L1"]):
        status, report = verify_json(run, wrong_head, DATA / "megatron/llama_tied/local_fp32", *options)
        assert status == 1 and [c["id"] for c in report["causes"]] == ["tie-mismatch"]
    result = run("import", wrong_head, tmp_path / "m")
    assert result.returncode == 1 and "lm_head.weight" in result.stderr
    assert not (tmp_path / "m/iter_0000000").exists()


@pytest.mark.parametrize("name", ["out.partial-mine", "out.partial-0123456789abcdef", ".out.partial-0123456789abcdef-new"])
def test_a_folder_of_the_user_with_such_a_name_is_left_alone(run, tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "thesis.txt").write_text("mine")
    assert run("export", DATA / "megatron/llama_tied/te_bf16", tmp_path / "out", "--like", TIED).returncode == 0
    assert (tmp_path / name / "thesis.txt").read_text() == "mine"


def test_what_else_is_in_the_meeting_place_of_ranks_stays(program, tmp_path):
    place = tmp_path / "out.ranks"
    (place / "session-notes").mkdir(parents=True)
    (place / "session-notes/thesis.txt").write_text("mine")
    command = [program, "export", DATA / "megatron/llama_tied/te_bf16", tmp_path / "out", "--like", TIED, "-q"]
    ranks = [subprocess.Popen(command, env=os.environ | {"WEIGHBRIDGE_RANK": str(r), "WEIGHBRIDGE_WORLD_SIZE": "2"})
             for r in (0, 1)]
    assert [r.wait(60) for r in ranks] == [0, 0]
    assert [p.relative_to(place).as_posix() for p in place.rglob("*")] == ["session-notes", "session-notes/thesis.txt"]


def test_an_import_does_not_move_the_tracker_of_another_run_without_consent(run, tmp_path):
    assert run("import", TIED, tmp_path).returncode == 0
    (tmp_path / "iter_0000000").rename(tmp_path / "iter_0000100")
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("100")
    result = run("import", TIED, tmp_path)
    assert result.returncode == 2 and "iter_0000100" in result.stderr
    assert (tmp_path / "latest_checkpointed_iteration.txt").read_text() == "100"
    assert not (tmp_path / "iter_0000000").exists()
    assert run("import", TIED, tmp_path, "--overwrite").returncode == 0
    assert (tmp_path / "latest_checkpointed_iteration.txt").read_text() == "0"


def test_ranks_that_are_cut_in_different_ways_do_not_pass(run, tmp_path):
    for tp in ("1", "2"):
        assert run("import", UNTIED, tmp_path / tp, "--format", "torch", "--tp", tp).returncode == 0
    shutil.copy(rank_file(tmp_path / "1", "00"), rank_file(tmp_path / "2", "01"))
    result = run("diff", tmp_path / "1", tmp_path / "2", "--json", "-")
    assert result.returncode == 1
    assert "shape-mismatch" in [c["id"] for c in json.loads(result.stdout)["causes"]]


def test_patterns_to_skip_count_for_ranks_too(run, tmp_path):
    assert run("import", UNTIED, tmp_path / "whole").returncode == 0
    assert run("import", UNTIED, tmp_path / "ranks", "--format", "torch", "--tp", "2").returncode == 0
    result = run("diff", tmp_path / "whole", tmp_path / "ranks", "--allow-skip", "*")
    assert result.returncode == 2, "nothing was compared"
    result = run("diff", tmp_path / "whole", tmp_path / "ranks", "--allow-skip", "*linear_qkv*", "--json", "-")
    counts = json.loads(result.stdout)["counts"]
    assert result.returncode == 0 and counts["skipped"] > 0 and counts["passed"] > 0


@pytest.mark.parametrize("other", ["qwen3_moe", "llama_tied"])
def test_a_source_is_not_looked_for_relative_to_where_the_command_is_run(program, tmp_path, other):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    shutil.copytree(UNTIED, tmp_path / "a/mod")
    shutil.copytree(DATA / "hf" / other, tmp_path / "b/mod")
    (tmp_path / "b/mod/tokenizer.json").write_text("a stranger's")

    def call(folder, *arguments):
        return subprocess.run([program, *arguments], cwd=tmp_path / folder, capture_output=True, text=True, check=False)

    assert call("a", "import", "mod", "../mc").returncode == 0
    assert f'"{tmp_path}/a/mod"' in (iteration(tmp_path / "mc") / "run_config.yaml").read_text()
    shutil.rmtree(tmp_path / "a")
    result = call("b", "export", "../mc", "../out")
    assert result.returncode == 0, result.stderr
    assert not (tmp_path / "out/tokenizer.json").exists()
    assert (tmp_path / "out/model.safetensors").read_bytes() == (UNTIED / "model.safetensors").read_bytes()


def test_a_named_source_that_is_of_another_model_is_not_used(run, tmp_path):
    hf = pathlib_copy(UNTIED, tmp_path / "hf")
    assert run("import", hf, tmp_path / "mc").returncode == 0
    shutil.rmtree(hf)
    shutil.copytree(DATA / "hf/qwen3_moe", hf)
    result = run("export", tmp_path / "mc", tmp_path / "out")
    assert result.returncode == 0 and "is not used" in result.stderr, result.stderr
    assert (tmp_path / "out/model.safetensors").read_bytes() == (UNTIED / "model.safetensors").read_bytes()


def test_a_limit_on_the_size_of_files_is_an_error_and_no_signal(program, tmp_path):
    result = subprocess.run(["bash", "-c", 'ulimit -f 100; exec "$0" import "$1" "$2"', program, TIED, tmp_path / "m"],
                            capture_output=True, text=True, check=False)
    assert result.returncode == 2 and "error" in result.stderr


@pytest.fixture
def as_nobody(program, tmp_path):
    """as_nobody(ARGUMENT...): runs the program as a user whom permissions concern."""
    def lose_rights():
        if os.getuid() == 0:
            os.setgroups([])
            os.setuid(65534)

    own = shutil.copy(program, tmp_path / "weighbridge")
    for folder in (tmp_path, *tmp_path.parents):
        if os.stat(folder).st_uid == os.getuid() and not os.stat(folder).st_mode & 0o001:
            folder.chmod(0o711)
    return lambda *arguments: subprocess.run([own, *map(str, arguments)], capture_output=True, text=True, timeout=60,
                                             cwd="/", preexec_fn=lose_rights, check=False)


@pytest.mark.parametrize("hidden", [".", "iter_0000000"])
def test_a_folder_that_may_not_be_read_is_no_judgement_on_the_checkpoint(as_nobody, tmp_path, hidden):
    megatron = pathlib_copy(DATA / "megatron/llama_tied/local_fp32", tmp_path / "m")
    megatron.chmod(0o755)
    (megatron / hidden).chmod(0)
    for command in (["inspect", megatron], ["export", megatron, tmp_path / "out"]):
        result = as_nobody(*command)
        assert result.returncode == 2 and "Permission denied" in result.stderr, result.stderr
    (megatron / hidden).chmod(0o755)
    assert as_nobody("inspect", megatron).returncode == 0


@pytest.mark.parametrize("value", ["nan", "inf", "0"])
def test_a_timeout_that_is_no_time_is_refused(run, tmp_path, value):
    result = run("import", TIED, tmp_path / "m", "--rank-timeout", value)
    assert result.returncode == 2 and "is not a number from 1 to 86400" in result.stderr
