"""Megatron's legacy `torch` format and fsdp_dtensor: files that its own functions wrote (tests/testdata)."""
import json
import pathlib
import pickle
import shutil
import struct
import zipfile

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
HF = ROOT / "tests/testdata/hf"
SAVED = ROOT / "tests/testdata/megatron_legacy"
PAIRS = sorted(f"{path.parent.name}/{path.name}" for path in SAVED.glob("*/*") if path.is_dir())


def mtp(pair):
    # The HF folder of deepseek_v3 lacks the MTP layer that its config promises.
    return ["--without-mtp"] if pair.startswith("deepseek_v3/") else []


def verify_json(run, hf, megatron, *options):
    result = run("verify", hf, megatron, "--json", "-", *(options if "--level" in options else ("--level", "L1", *options)))
    return result.returncode, json.loads(result.stdout)


@pytest.fixture
def saved(tmp_path):
    """A copy of what Megatron saved, and its iteration, for a test to break."""

    def make(pair):
        folder = pathlib.Path(shutil.copytree(SAVED / pair, tmp_path / "megatron"))
        return folder, folder / "iter_0000003"

    return make


def change(file, nbytes, at):
    """Flips a bit of the first storage of `nbytes` bytes in a file of torch.save."""
    with zipfile.ZipFile(file) as archive:
        (member, *_) = [m for m in archive.infolist() if "/data/" in m.filename and m.file_size == nbytes]
    content = bytearray(file.read_bytes())
    name, extra = struct.unpack_from("<HH", content, member.header_offset + 26)
    content[member.header_offset + 30 + name + extra + at] ^= 1
    file.write_bytes(content)


def test_the_fixtures_are_there():
    assert len(PAIRS) >= 6


@pytest.mark.parametrize("pair", PAIRS)
def test_what_megatron_saved_is_equal_bit_for_bit(run, pair):
    hf = HF / pair.split("/")[0]
    for level in ("L0", "L1"):
        status, report = verify_json(run, hf, SAVED / pair, "--level", level, *mtp(pair))
        # The saved arguments are those of a plain GPT, which L0 says of models that are more than that.
        of_config = all(cause["origin"] != "checkpoint" for cause in report["causes"])
        assert status == 0 or (level == "L0" and of_config), report["causes"]
        assert report["counts"]["passed"] == len(report["results"]) > 10
        names = [row["megatron"]["name"] for row in report["results"]]
        assert len(names) == len(set(names))
    notes = [note["message"] for note in report["notes"]]
    assert any("optimizer state" in note for note in notes), notes


@pytest.mark.parametrize("pair", PAIRS)
def test_export_like_the_source_is_byte_identical(run, tmp_path, pair):
    hf = HF / pair.split("/")[0]
    result = run("export", SAVED / pair, tmp_path / "out", "--like", hf, *mtp(pair))
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "out/model.safetensors").read_bytes() == (hf / "model.safetensors").read_bytes()


@pytest.mark.parametrize("name,grid,folders", [
    ("llama_tied", [], ["mp_rank_00"]),
    ("llama_tied", ["--tp", "2", "--pp", "2"], ["mp_rank_00_000", "mp_rank_00_001", "mp_rank_01_000", "mp_rank_01_001"]),
    ("llama_untied", ["--pp", "2", "--vpp", "2"], ["mp_rank_00_000", "mp_rank_00_001"]),
    ("llama_tied", ["--tp", "2", "--pad-vocab", "512"], ["mp_rank_00", "mp_rank_01"]),
    ("qwen3_moe", ["--tp", "2", "--ep", "2"], ["mp_rank_00_000", "mp_rank_01_001"]),
    ("qwen3_moe", ["--tp", "2", "--ep", "2", "--etp", "2", "--dialect", "local"],
     ["mp_rank_00_000", "mp_rank_00_001", "mp_rank_01_000", "mp_rank_01_001"]),
    ("deepseek_v3_nomtp", ["--pp", "3", "--ep", "2"], None), ("gpt_oss_ns", ["--ep", "4"], None),
    ("gemma2", ["--tp", "2"], None),
])
def test_an_import_verifies_and_exports_back(run, tmp_path, name, grid, folders):
    result = run("import", HF / name, tmp_path / "megatron", "--format", "torch", *grid)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "megatron/latest_checkpointed_iteration.txt").read_text() == "0"
    iteration = tmp_path / "megatron/iter_0000000"
    if folders:
        assert sorted(p.name for p in iteration.iterdir() if p.is_dir()) == folders
    assert run("verify", HF / name, tmp_path / "megatron", "--strict-padding", "--level", "L1").returncode == 0
    # run_config.yaml names the source.
    assert run("export", tmp_path / "megatron", tmp_path / "back").returncode == 0
    assert (tmp_path / "back/model.safetensors").read_bytes() == (HF / name / "model.safetensors").read_bytes()


def test_a_vocabulary_that_no_rank_could_have_alone_is_padded_and_read_again(run, tmp_path):
    """386 rows over 4 ranks."""
    toy, megatron = tmp_path / "toy", tmp_path / "megatron"
    assert run("toy", toy, "--family", "llama", "--set", "num_attention_heads=8", "--set", "head_dim=12").returncode == 0
    assert run("import", toy, megatron, "--format", "torch", "--tp", "4").returncode == 0
    result = run("verify", toy, megatron)
    assert result.returncode == 0, result.stdout
    assert run("export", megatron, tmp_path / "back", "--like", toy).returncode == 0
    assert (tmp_path / "back/model.safetensors").read_bytes() == (toy / "model.safetensors").read_bytes()


def test_an_import_is_the_same_for_any_number_of_threads(run, tmp_path):
    for threads in ("1", "7"):
        assert run("import", HF / "qwen3_moe", tmp_path / threads, "--format", "torch", "--tp", "2", "--threads",
                   threads).returncode == 0
    one, many = (sorted(p for p in (tmp_path / t).rglob("*") if p.is_file()) for t in ("1", "7"))
    assert len(one) == len(many) == 4
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(one, many))


def test_convert_changes_the_format_both_ways(run, tmp_path):
    hf = HF / "qwen3_moe"
    pair = SAVED / "qwen3_moe/tp2_ep2_etp2"
    for source, target, options in ((pair, "dist", ["--format", "torch_dist"]),
                                    (tmp_path / "dist", "legacy", ["--format", "torch", "--tp", "2"])):
        result = run("convert", source, tmp_path / target, "--like", hf, *options)
        assert result.returncode == 0, result.stderr
        assert run("verify", hf, tmp_path / target, "--level", "L1").returncode == 0
    assert (tmp_path / "legacy/iter_0000003/mp_rank_01/model_optim_rng.pt").exists()
    assert (tmp_path / "dist/iter_0000003/.metadata").exists()


def test_a_changed_value_is_named_by_rank_and_place(run, saved):
    folder, iteration = saved("llama_tied/tp2_pp2")
    # linear_fc1 of a rank: 64 rows of gate, 64 rows of up, 64 columns of bf16; row 70 is up's row 64 + 6.
    change(iteration / "mp_rank_01_001/model_optim_rng.pt", 128 * 64 * 2, (70 * 64 + 9) * 2)
    status, report = verify_json(run, HF / "llama_tied", folder)
    assert status == 1
    (row,) = [row for row in report["results"] if row["status"] != "match"]
    first = row["first"]
    assert row["mismatched"] == 1 and first["hf"] == {"name": "model.layers.1.mlp.up_proj.weight", "index": [70, 9]}
    assert first["megatron"]["index"] == [70, 9]
    assert first["megatron"]["name"] == "decoder.layers.0.mlp.linear_fc1.weight"
    assert first["megatron"]["rank"] == {"tp": 1, "pp": 1, "vpp": 0, "ep": 0, "etp": 1}
    assert "mp_rank_01_001" in row["why"] and "axis 0" in row["why"]


def test_copies_that_differ_between_ranks_are_replica_drift(run, saved, tmp_path):
    folder, iteration = saved("qwen3_moe/tp2_ep2_etp2")
    change(iteration / "mp_rank_01_001/model_optim_rng.pt", 4 * 64 * 2, 33)  # a router, whole on every rank
    status, report = verify_json(run, HF / "qwen3_moe", folder)
    assert status == 1
    (cause,) = report["causes"]
    assert cause["id"] == "replica-drift" and "mp_rank_01_001" in cause["message"]
    (row,) = [row for row in report["results"] if row["status"] != "match"]
    assert row["rank"] == {"tp": 1, "pp": 0, "vpp": 0, "ep": 1, "etp": 1} and row["first"]["megatron"]["index"] == [0, 16]
    result = run("export", folder, tmp_path / "out", "--like", HF / "qwen3_moe")
    assert result.returncode == 1 and "mp_rank_01_001" in result.stderr
    assert not (tmp_path / "out").exists()


def test_the_last_stages_copy_of_a_tied_embedding_must_be_equal(run, saved):
    folder, iteration = saved("llama_tied/tp2_pp2")
    change(iteration / "mp_rank_00_001/model_optim_rng.pt", 192 * 64 * 2, 5)
    status, report = verify_json(run, HF / "llama_tied", folder)
    assert status == 1 and [cause["id"] for cause in report["causes"]] == ["tie-mismatch"]


@pytest.mark.parametrize("gone", ["mp_rank_01_000", "mp_rank_01_000/model_optim_rng.pt"])
def test_the_file_of_a_rank_that_is_not_there_is_named(run, saved, gone):
    folder, iteration = saved("llama_tied/tp2_pp2")
    shutil.rmtree(iteration / gone) if (iteration / gone).is_dir() else (iteration / gone).unlink()
    result = run("verify", HF / "llama_tied", folder)
    assert result.returncode == 1
    assert "shard-missing" in result.stdout + result.stderr or "mp_rank_01_000" in result.stderr


def test_folders_of_two_saves_are_not_mixed(run, saved):
    folder, iteration = saved("llama_tied/tp2_pp2")
    (iteration / "mp_rank_00").mkdir()
    result = run("verify", HF / "llama_tied", folder)
    assert result.returncode == 1 and "one checkpoint" in result.stdout + result.stderr


def test_a_rank_of_another_grid_is_no_rank_of_this_one(run, tmp_path):
    for grid in ("1", "2"):
        assert run("import", HF / "llama_tied", tmp_path / grid, "--format", "torch", "--tp", grid).returncode == 0
    source, target = (tmp_path / grid / "iter_0000000" for grid in ("1", "2"))
    shutil.copy(source / "mp_rank_00/model_optim_rng.pt", target / "mp_rank_01/model_optim_rng.pt")
    status, report = verify_json(run, HF / "llama_tied", tmp_path / "2")
    assert status == 1
    cause = report["causes"][0]
    assert cause["id"] == "shape-mismatch"
    assert "mp_rank_01" in cause["message"] and "axis" in cause["message"]
    shutil.copy(source / "mp_rank_00/model_optim_rng.pt", target / "mp_rank_00/model_optim_rng.pt")
    result = run("verify", HF / "llama_tied", tmp_path / "2")
    assert result.returncode == 1 and "tensor_model_parallel_size is 1" in result.stdout + result.stderr


def test_a_layer_that_no_stage_has_is_missing(run, saved):
    folder, iteration = saved("llama_untied/pp2_vpp2")
    hf = pathlib.Path(shutil.copytree(HF / "llama_untied", folder / "hf"))
    config = json.loads((hf / "config.json").read_text())
    (hf / "config.json").write_text(json.dumps(config | {"num_hidden_layers": config["num_hidden_layers"] - 1}))
    status, report = verify_json(run, hf, folder)
    assert status == 1 and "tensor-extra" in [cause["id"] for cause in report["causes"]]


@pytest.mark.parametrize("keep", [0, 1, 100, 0.1, 0.5, 0.9, 0.999])
def test_a_cut_file_is_an_error(run, saved, keep):
    folder, iteration = saved("gemma2/tp2")
    file = iteration / "mp_rank_01/model_optim_rng.pt"
    content = file.read_bytes()
    file.write_bytes(content[:int(keep * len(content)) if isinstance(keep, float) else keep])
    result = run("verify", HF / "gemma2", folder)
    assert result.returncode == 1 and "mp_rank_01" in result.stdout + result.stderr


class Runs:
    """A pickle of it runs a command when Python loads it."""

    def __reduce__(self):
        return __import__("os").system, ("touch /tmp/weighbridge-was-run",)


def write_archive(file, value):
    file.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("model_optim_rng/data.pkl", pickle.dumps(value, 2))
        archive.writestr("model_optim_rng/version", "3\n")


@pytest.mark.parametrize("value,status,words", [
    ({"args": Runs(), "model": {}}, 1, "system"),
    ({"model": {"embedding.word_embeddings.weight": Runs()}}, 1, "system"),
    ([1, 2], 2, "no dict"),
    ({}, 2, "neither 'model' nor 'model0'"),
    ({"model": {"language_model": {"encoder": {}}}}, 2, "Megatron-Core"),
    ({"model": {"a": 3}}, 2, "'a' of its model is not a tensor"),
    ({"model": {}, "args": {"tensor_model_parallel_size": 10**9}}, 1, "1000000000"),
    ({"model": {}, "args": {"tensor_model_parallel_size": 4}}, 1, "rank tp 1"),
    ({"model": {}, "args": {"expert_tensor_parallel_size": 3}}, 2, "does not divide"),
    ({f"model{i}": {} for i in range(5000)}, 2, "too many parts"),
])
def test_hostile_files_are_errors(run, tmp_path, value, status, words):
    write_archive(tmp_path / "iter_0000001/mp_rank_00/model_optim_rng.pt", value)
    result = run("verify", HF / "llama_tied", tmp_path / "iter_0000001", timeout=20)
    assert result.returncode == status, result.stdout + result.stderr
    assert words in result.stdout + result.stderr
    assert not pathlib.Path("/tmp/weighbridge-was-run").exists()


def test_an_empty_model_never_passes(run, tmp_path):
    write_archive(tmp_path / "iter_0000001/mp_rank_00/model_optim_rng.pt", {"model": {}})
    status, report = verify_json(run, HF / "llama_tied", tmp_path / "iter_0000001")
    assert status == 1 and report["counts"]["passed"] == 0


def test_grids_that_the_format_cannot_name_are_refused(run, tmp_path):
    result = run("import", HF / "qwen3_moe", tmp_path / "out", "--format", "torch", "--etp", "2")
    assert result.returncode == 2 and "--format torch_dist" in result.stderr
    assert not (tmp_path / "out").exists()


def test_an_import_replaces_nothing_without_overwrite(run, tmp_path):
    arguments = ["import", HF / "llama_tied", tmp_path / "out", "--format", "torch"]
    assert run(*arguments).returncode == 0
    before = (tmp_path / "out/iter_0000000/mp_rank_00/model_optim_rng.pt").read_bytes()
    assert run(*arguments).returncode == 2
    assert run(*arguments, "--overwrite").returncode == 0
    assert (tmp_path / "out/iter_0000000/mp_rank_00/model_optim_rng.pt").read_bytes() == before


@pytest.mark.parametrize("name", ["llama_tied", "qwen3_moe", "gemma2"])
def test_what_megatron_fsdp_saved_is_equal_and_exports_byte_identically(run, tmp_path, name):
    megatron = ROOT / "tests/testdata/megatron_fsdp" / name
    status, report = verify_json(run, HF / name, megatron)
    assert status == 0 and report["verdict"] == "pass", report["causes"]
    assert report["counts"]["passed"] == len(report["results"]) > 10
    result = run("export", megatron, tmp_path / "out", "--like", HF / name)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "out/model.safetensors").read_bytes() == (HF / name / "model.safetensors").read_bytes()
