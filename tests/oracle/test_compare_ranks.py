"""`compare` on several ranks: the Megatron side runs as shards that talk through c10d, and gives what one process gives."""
import json
import pathlib
import subprocess
import sys

import pytest

from conftest import find_program, need_engine

need_engine()

LENGTH = 48
CUT = ("--tp", "2", "--pp", "2", "--sequence-parallel")
EXPERTS = ("--tp", "2", "--ep", "2")
# One family for each way in which a module is cut.
DENSE = ["llama", "exaone4", "falcon_h1", "glm4", "nemotron", "olmo2", "persimmon", "phi3", "qwen3", "starcoder2", "youtu"]
SPARSE = ["deepseek_v3", "glm4_moe", "gpt_oss", "minimax_m2", "nemotron_h", "olmoe", "qwen2_moe", "qwen3_moe",
          "qwen3_next"]


# As many as four ranks can divide.
HEADS = {"qwen3_moe": ("--set", "num_attention_heads=8")}


@pytest.fixture(scope="module")
def toys(tmp_path_factory, weighbridge):
    made = {}

    def call(family):
        if family not in made:
            made[family] = tmp_path_factory.mktemp("ranks") / family
            weighbridge("toy", made[family], "--family", family, *HEADS.get(family, ()))
        return made[family]
    return call


def rows(report):
    return {(row["megatron"]["name"], row["megatron"]["dtype"]): row for row in report["results"]}


def assert_equal_within_noise(alone, together):
    """Each module's error against float64 is that of one process, up to a rounding of the sums."""
    assert together["verdict"] == alone["verdict"] == "pass"
    assert rows(together).keys() == rows(alone).keys()
    for key, row in rows(together).items():
        if key[1] == "fp32":
            assert row["noise"]["ratio"] <= max(1.5, 1.25 * rows(alone)[key]["noise"]["ratio"]), key


@pytest.mark.parametrize("family", DENSE + SPARSE)
def test_tensor_and_pipeline_ranks_with_sequence_parallelism_give_what_one_process_gives(compare, toys, family):
    _, alone = compare(toys(family), "--seq-len", LENGTH)
    result, together = compare(toys(family), "--seq-len", LENGTH, *CUT)
    assert result.returncode == 0, result.stdout + result.stderr
    assert_equal_within_noise(alone, together)


@pytest.mark.parametrize("family", SPARSE)
def test_expert_ranks_exchange_tokens_and_give_what_one_process_gives(compare, toys, family):
    _, alone = compare(toys(family), "--seq-len", LENGTH)
    result, together = compare(toys(family), "--seq-len", LENGTH, *EXPERTS)
    assert result.returncode == 0, result.stdout + result.stderr
    assert_equal_within_noise(alone, together)


@pytest.mark.parametrize("grid", [
    ("--tp", "4"), ("--ep", "4"), ("--etp", "2"), ("--tp", "2", "--ep", "2", "--etp", "2"),
    ("--tp", "2", "--etp", "2", "--sequence-parallel"), ("--tp", "4", "--ep", "2", "--sequence-parallel"),
    ("--pp", "2", "--vpp", "2"), ("--pp", "2", "--first-stage-layers", "1"),
])
def test_every_grid_gives_what_one_process_gives(compare, toys, grid):
    _, alone = compare(toys("qwen3_moe"), "--seq-len", LENGTH)
    result, together = compare(toys("qwen3_moe"), "--seq-len", LENGTH, *grid)
    assert result.returncode == 0, result.stdout + result.stderr
    assert_equal_within_noise(alone, together)


def test_more_ranks_than_query_groups_share_them_as_megatron_does(compare, weighbridge, tmp_path):
    toy = tmp_path / "toy"
    weighbridge("toy", toy, "--family", "llama", "--set", "num_attention_heads=8", "--set", "num_key_value_heads=2")
    _, alone = compare(toy, "--seq-len", LENGTH)
    result, together = compare(toy, "--seq-len", LENGTH, "--tp", "4")
    assert result.returncode == 0, result.stdout + result.stderr
    assert_equal_within_noise(alone, together)


def test_sequences_that_the_ranks_do_not_divide_are_cut_unevenly(weighbridge, toys):
    result = weighbridge("compare", toys("qwen3_moe"), "--token-ids", "5,9,2,7,1,0,3", "--token-ids", "5,9,2", *CUT)
    assert result.returncode == 0, result.stdout + result.stderr


def rank_file(folder, rank):
    return sorted(folder.glob("iter_*/mp_rank_*/model_optim_rng.pt"))[rank]


@pytest.mark.parametrize(("family", "grid", "name", "files", "module", "rank"), [
    ("llama", ("--tp", "2"), "decoder.layers.1.self_attention.linear_qkv.weight", 2, "decoder.layers.1.self_attention.linear_qkv",
     {"tp": 1}),
    ("llama", ("--tp", "2"), "output_layer.weight", 2, "output_layer", {"tp": 1}),
    ("llama", ("--tp", "2", "--pp", "2"), "decoder.layers.0.mlp.linear_fc2.weight", 4, "decoder.layers.2.mlp", {"tp": 1, "pp": 1}),
    ("olmoe", ("--ep", "2"), "decoder.layers.1.mlp.experts.linear_fc1.weight0", 2, "decoder.layers.1.mlp.experts", {"ep": 1}),
])
def test_a_wrong_shard_is_blamed_on_its_rank(compare, weighbridge, toys, tmp_path, family, grid, name, files, module, rank):
    import torch
    folder = tmp_path / "megatron"
    made = weighbridge("import", toys(family), folder, "--format", "torch", *grid)
    assert made.returncode == 0, made.stderr
    path = rank_file(folder, files - 1)
    state = torch.load(path, weights_only=False)
    state["model"][name] = state["model"][name].flip(0).contiguous()
    torch.save(state, path)
    result, report = compare(toys(family), folder, "--seq-len", LENGTH, *grid)
    assert result.returncode == 1, result.stdout + result.stderr
    failed = [row for row in report["results"] if row["status"] == "mismatch"]
    assert {row["megatron"]["name"] for row in failed} == {module}
    for row in failed:
        assert {axis: at for axis, at in row["rank"].items() if at} == rank
    assert "shards that differ: " + ", ".join(f"{axis} {at}" for axis, at in rank.items()) in report["causes"][0]["evidence"]


def test_a_checkpoint_that_ranks_wrote_is_right_on_other_ranks_too(compare, weighbridge, toys, tmp_path):
    folder = tmp_path / "megatron"
    weighbridge("import", toys("qwen3_moe"), folder, "--format", "torch", "--tp", "2", "--ep", "2")
    result, report = compare(toys("qwen3_moe"), folder, "--seq-len", LENGTH, "--pp", "2", "--ep", "4")
    assert result.returncode == 0, result.stdout + result.stderr
    assert report["details"]["ranks"] == "TP 1 x PP 2 x EP 4 x ETP 1, Gloo"


def test_torchrun_starts_the_ranks_and_all_end_as_the_first(toys, weighbridge, tmp_path):
    path = tmp_path / "report.json"
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--no-python", "--rdzv-backend", "c10d",
              "--rdzv-endpoint", "localhost:0"]
    result = subprocess.run([*launch, find_program(), "compare", str(toys("llama")), "--tp", "2", "--seq-len", str(LENGTH),
                             "--json", str(path)], capture_output=True, text=True, timeout=120, cwd=tmp_path, check=False)
    assert result.returncode == 0, result.stderr
    assert json.loads(path.read_text())["verdict"] == "pass"


def test_a_launch_of_another_size_than_the_grid_is_refused(toys, weighbridge, tmp_path):
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--no-python", "--rdzv-backend", "c10d",
              "--rdzv-endpoint", "localhost:0"]
    result = subprocess.run([*launch, find_program(), "compare", str(toys("llama")), "--tp", "4", "--seq-len", str(LENGTH)],
                            capture_output=True, text=True, timeout=120, cwd=tmp_path, check=False)
    assert result.returncode != 0
    assert "needs 4 ranks, and 2 were started" in result.stderr


@pytest.mark.parametrize(("family", "change", "grid", "complaint"), [
    ("gpt_oss", (), ("--ep", "2", "--etp", "2"), "experts with biases that several ranks cut"),
    ("nemotron_h", ("--set", "n_groups=1"), ("--tp", "2"), "1 Mamba groups are not a multiple of 2"),
    ("qwen3_next", ("--set", "linear_num_key_heads=1"), ("--tp", "2"), "1 key heads of the gated delta net are not a multiple of 2"),
])
def test_a_grid_that_megatron_refuses_is_refused_before_the_ranks_compute(weighbridge, tmp_path, family, change, grid, complaint):
    weighbridge("toy", tmp_path / "toy", "--family", family, *change)
    result = weighbridge("compare", tmp_path / "toy", "--token-ids", "9", *grid)
    assert result.returncode == 2
    assert complaint in result.stderr


def test_a_vocabulary_that_the_ranks_cannot_divide_as_it_is_stored_is_no_fault(weighbridge, tmp_path):
    weighbridge("toy", tmp_path / "toy", "--family", "llama", "--set", "vocab_size=387")
    weighbridge("import", tmp_path / "toy", tmp_path / "megatron")
    result = weighbridge("compare", tmp_path / "toy", tmp_path / "megatron", "--tp", "2", "--token-ids", "1,2,3,4,5,6,7,8")
    assert result.returncode == 2
    assert "cannot" in result.stderr or "not" in result.stderr


@pytest.mark.parametrize("launcher", ["none", "torchrun"])
def test_a_launcher_that_starts_nothing_leaves_the_ranks_to_the_program(weighbridge, toys, monkeypatch, launcher):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    result = weighbridge("compare", toys("llama"), "--tp", "2", "--seq-len", "16", "--launcher", launcher)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(("arguments", "complaint"), [
    (("--vpp", "2"), "these options place layers on pipeline stages"),
    (("--tp", "3"), "query groups are neither a multiple nor a divisor of 3"),
    (("--ep", "2"), "the model has no experts"),
    (("--tp", "2", "--candidate", "other.safetensors"), "a grid is for the Megatron side that runs here"),
])
def test_what_no_ranks_can_run_is_a_usage_error(weighbridge, toys, tmp_path, arguments, complaint):
    arguments = [str(pathlib.Path(tmp_path, a)) if a.endswith(".safetensors") else a for a in arguments]
    result = weighbridge("compare", toys("llama"), "--seq-len", LENGTH, *arguments)
    assert result.returncode == 2
    assert complaint in result.stderr
    assert "weighbridge-" not in result.stderr
