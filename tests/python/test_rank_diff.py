"""diff of a whole checkpoint with the files of a parallel run's ranks (the legacy torch format)."""
import json
import shutil

import numpy as np
import pytest

from test_megatron import DATA

HF = DATA / "hf_fp32/llama_tied"


def rank_file(folder, *numbers):
    return folder / "iter_0000000" / ("mp_rank_" + "_".join(numbers)) / "model_optim_rng.pt"


def hf_tensor(name, hf=HF):
    data = (hf / "model.safetensors").read_bytes()
    size = int.from_bytes(data[:8], "little")
    entry = json.loads(data[8:8 + size])[name]
    begin, end = entry["data_offsets"]
    return np.frombuffer(data[8 + size + begin:8 + size + end], np.float32).reshape(entry["shape"])


def replace(path, old, new):
    """Puts the bytes of one array in the place of another's in a file."""
    data = path.read_bytes()
    assert data.count(old.tobytes()) == 1 and old.nbytes == new.nbytes
    path.write_bytes(data.replace(old.tobytes(), new.tobytes()))


@pytest.fixture
def imported(run, tmp_path):
    def call(hf, name, *options):
        assert run("import", hf, tmp_path / name, *options).returncode == 0
        return tmp_path / name

    return call


def compare(run, *sides):
    result = run("diff", *sides, "--json", "-")
    assert result.returncode in (0, 1), result.stderr
    report = json.loads(result.stdout)
    return result.returncode, [c["id"] for c in report["causes"]], report


@pytest.mark.parametrize("name,grid", [
    ("llama_untied", ["--tp", "2"]), ("llama_tied", ["--tp", "2", "--pp", "2"]), ("qwen2", ["--tp", "2"]),
    ("qwen3_moe", ["--tp", "2", "--pp", "2", "--ep", "2"]), ("qwen3_moe", ["--ep", "4", "--dialect", "local"]),
    ("gpt_oss_ns", ["--ep", "2"]), ("gemma2", ["--pp", "2"]), ("deepseek_v3_nomtp", ["--tp", "2"]),
    ("llama_tied", ["--tp", "2", "--pad-vocab", "512"]),
])
def test_every_rank_holds_its_shard_of_the_whole(run, imported, name, grid):
    ranks = imported(DATA / "hf" / name, "ranks", "--format", "torch", *grid)
    for whole in (imported(DATA / "hf" / name, "dist"), imported(DATA / "hf" / name, "one", "--format", "torch")):
        status, causes, report = compare(run, whole, ranks)
        assert (status, causes) == (0, [])
        assert {row["transform"] for row in report["results"]} >= {"replicated"}
        if "--tp" in grid:
            assert {row["rank"]["tp"] for row in report["results"]} == {0, 1}
            assert {row["transform"] for row in report["results"]} >= {"axis 0", "axis 1"}


def test_swapped_files_of_ranks_are_named(run, imported):
    whole, ranks = imported(HF, "whole"), imported(HF, "ranks", "--format", "torch", "--tp", "2")
    one, two = rank_file(ranks, "00"), rank_file(ranks, "01")
    other = one.read_bytes()
    shutil.copy(two, one)
    two.write_bytes(other)
    status, causes, report = compare(run, whole, ranks)
    assert (status, causes) == (1, ["tp-order"])
    assert "they are the shard of TP rank 1 (axis 0 in 2 parts)" in [r["why"] for r in report["results"] if r["status"] == "mismatch"
                                                          and r["rank"]["tp"] == 0][0]


def test_gate_and_up_cut_as_one_block_are_named(run, imported):
    whole, ranks = imported(HF, "whole"), imported(HF, "ranks", "--format", "torch", "--tp", "2")
    gate, up = (hf_tensor(f"model.layers.1.mlp.{x}_proj.weight") for x in ("gate", "up"))
    half = len(gate) // 2
    for rank, block in (("00", gate), ("01", up)):
        part = slice(0, half) if rank == "00" else slice(half, None)
        replace(rank_file(ranks, rank), np.concatenate([gate[part], up[part]]), block)
    status, causes, report = compare(run, whole, ranks)
    assert (status, causes) == (1, ["tp-gate-up"])
    failed = [r for r in report["results"] if r["status"] == "mismatch"]
    assert [r["rank"]["tp"] for r in failed] == [0, 1]
    assert {r["hf"][0]["name"] for r in failed} == {"decoder.layers.1.mlp.linear_fc1.weight"}


def test_a_changed_value_is_named_with_rank_and_axis_and_its_place_in_both(run, imported):
    whole, ranks = imported(HF, "whole"), imported(HF, "ranks", "--format", "torch", "--tp", "2", "--pp", "2")
    down = hf_tensor("model.layers.1.mlp.down_proj.weight")
    shard = np.ascontiguousarray(down[:, down.shape[1] // 2:])
    changed = shard.copy()
    changed[5, 7] += 1
    replace(rank_file(ranks, "01", "001"), shard, changed)
    status, causes, report = compare(run, whole, ranks)
    assert status == 1 and len(causes) == 1
    failed = [r for r in report["results"] if r["status"] == "mismatch"]
    assert len(failed) == 1 and failed[0]["mismatched"] == 1
    assert failed[0]["rank"] == {"tp": 1, "pp": 1, "vpp": 0, "ep": 0, "etp": 0} and failed[0]["transform"] == "axis 1"
    assert failed[0]["megatron"]["name"] == "mp_rank_01_001/decoder.layers.0.mlp.linear_fc2.weight"
    assert failed[0]["first"]["megatron"]["index"] == [5, 7]
    assert failed[0]["first"]["hf"] == {"name": "decoder.layers.1.mlp.linear_fc2.weight",
                                        "index": [5, 7 + down.shape[1] // 2]}


def test_what_no_rank_holds_and_what_only_ranks_hold_are_faults(run, imported):
    whole = imported(DATA / "hf/llama_untied", "whole")
    ranks = imported(DATA / "hf/qwen2", "ranks", "--format", "torch", "--tp", "2")
    status, causes, _ = compare(run, whole, ranks)
    assert status == 1 and {"tensor-missing", "tensor-extra"} <= set(causes)


def test_the_whole_checkpoint_comes_first(run, imported):
    whole, ranks = imported(HF, "whole"), imported(HF, "ranks", "--format", "torch", "--tp", "2")
    result = run("diff", ranks, whole)
    assert result.returncode == 2 and "give the whole checkpoint first" in result.stderr
