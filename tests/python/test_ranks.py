"""`roundtrip --ranks` and `verify --ranks` against what megatron-core 0.19.2 itself held on each rank (tests/testdata/known)."""
import json
import pathlib
import shutil

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
DATA = ROOT / "tests/testdata"
GRIDS = sorted(path.relative_to(DATA / "known").with_suffix("").as_posix()
               for path in (DATA / "known").glob("*/*.json") if path.stem != "torch_dist" and path.parent.name != "names")
AXES = {"tp": "--tp", "pp": "--pp", "vpp": "--vpp", "ep": "--ep", "etp": "--etp",
        "first_stage_layers": "--first-stage-layers", "last_stage_layers": "--last-stage-layers",
        "pp_layout": "--pp-layout"}
SWITCHES = {"account_for_embedding": "--account-for-embedding-in-pipeline-split",
            "account_for_loss": "--account-for-loss-in-pipeline-split"}


def options_of(known):
    """The command line of a recorded grid."""
    grid = known["grid"]
    options = ["--dialect", known["spec"]]
    for key, option in AXES.items():
        if grid.get(key) not in (None, "") and not (grid[key] == 1 and "layers" not in key):
            options += [option, str(grid[key])]
    # Megatron was told how far to pad.
    rows = max((t["shape"][0] for t in known["tensors"] if t["global_name"] == "embedding.word_embeddings.weight"),
               default=0) * grid["tp"]
    options += ["--pad-vocab", str(rows)] if rows else []
    return options + [option for key, option in SWITCHES.items() if grid.get(key)]


def place(tensor):
    """(rank, name); a dense tensor does not depend on its rank's expert coordinates, nor an expert on tp."""
    rank = dict(tensor["rank"])
    for axis in ("tp",) if ".mlp.experts." in tensor["name"] else ("ep", "etp"):
        rank[axis] = 0
    return tuple(sorted(rank.items())), tensor["name"]


def held_by(report):
    """What the rows say of each rank: place -> shape, dtype, hash."""
    rows = [row for row in report["results"] if row["rank"]]
    return {place({"rank": row["rank"], "name": row["megatron"]["name"]}):
            (row["megatron"]["shape"], row["megatron"]["dtype"], row["xxh3"]) for row in rows}


def expected_of(known):
    return {place(t): (t["shape"], t["dtype"], t["xxh3"]) for t in known["tensors"]}


@pytest.mark.parametrize("grid", GRIDS)
def test_roundtrip_gives_each_rank_what_megatron_core_held(run, grid):
    name = grid.split("/")[0]
    known = json.loads((DATA / "known" / f"{grid}.json").read_text())
    if name == "deepseek_v3":
        pytest.skip("its HF folder has no MTP weights: tests/checks/known_answers_test.cc holds the rest")
    result = run("roundtrip", DATA / "hf" / name, "--ranks", *options_of(known), "--level", "L1", "--json", "-")
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr
    assert held_by(json.loads(result.stdout)) == expected_of(known)


def test_every_recorded_grid_is_tried():
    assert len(GRIDS) == 117


MEGATRON = [("llama_tied", "te_bf16", ["tp2", "tp4", "tp2_pp2", "pp2_vpp2_layout"]), ("qwen3_moe", "te_bf16", None),
            ("olmoe", "te_bf16", None), ("deepseek_v3_nomtp", "te_bf16", None), ("gpt_oss_ns", "te_bf16", None),
            ("gemma2", "te_bf16", None)]


@pytest.mark.parametrize("name,kind,grid", [(name, kind, path.stem) for name, kind, grids in MEGATRON
                                            for path in sorted((DATA / "known" / name).glob("*.json"))
                                            if path.stem != "torch_dist" and (grids is None or path.stem in grids)])
def test_verify_gives_each_rank_what_megatron_core_held(run, name, kind, grid):
    """Cut from a checkpoint that megatron-core wrote on another grid."""
    known = json.loads((DATA / "known" / name / f"{grid}.json").read_text())
    result = run("verify", DATA / "hf" / name, DATA / "megatron" / name / kind, "--ranks", *options_of(known), "--level", "L1", "--json",
                 "-")
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr
    assert held_by(json.loads(result.stdout)) == expected_of(known)


@pytest.mark.parametrize("pair", ["llama_tied/tp2_fp32", "llama_tied/local_fp32", "qwen3_moe/ep2_fp32", "olmoe/tp2ep2_fp32"])
def test_both_commands_give_equal_hashes(run, pair):
    """The writer's grid and spec do not matter."""
    name = pair.split("/")[0]
    hf = DATA / "hf_fp32" / name
    one = run("roundtrip", hf, "--ranks", "--tp", "2", "--json", "-")
    two = run("verify", hf, DATA / "megatron" / pair, "--ranks", "--tp", "2", "--json", "-")
    assert one.returncode == two.returncode == 0, two.stdout[-2000:]
    assert held_by(json.loads(one.stdout)) == held_by(json.loads(two.stdout)) != {}


@pytest.mark.parametrize("pair", sorted(p.relative_to(DATA / "megatron_legacy").as_posix()
                                        for p in (DATA / "megatron_legacy").glob("*/*") if p.is_dir()))
def test_files_of_ranks_are_cut_for_another_grid(run, pair):
    hf, options = DATA / "hf" / pair.split("/")[0], ["--ranks", "--tp", "2", "--level", "L1", "--json", "-"]
    options += ["--without-mtp"] if pair.startswith("deepseek_v3/") else []
    two = run("verify", hf, DATA / "megatron_legacy" / pair, *options)
    assert two.returncode == 0, two.stdout[-2000:] + two.stderr
    rows = [row for row in json.loads(two.stdout)["results"] if row["rank"]]
    vocab = max((r["megatron"]["shape"][0] * 2 for r in rows if r["megatron"]["name"].startswith("embedding")), default=0)
    one = run("roundtrip", hf, *options, "--pad-vocab", vocab)
    assert held_by(json.loads(one.stdout)) == held_by(json.loads(two.stdout)) != {}


def test_the_terminal_shows_rank_and_hash_of_every_row(run):
    result = run("roundtrip", DATA / "hf/llama_tied", "--ranks", "--tp", "2")
    known = json.loads((DATA / "known/llama_tied/tp2.json").read_text())
    assert result.returncode == 0 and "decoder.layers.1.mlp.linear_fc1.weight @ tp 1, pp 0" in result.stdout
    assert all(t["xxh3"] in result.stdout for t in known["tensors"])


def test_a_changed_element_is_found_on_its_rank_with_its_place_there(run, tmp_path):
    hf = pathlib.Path(shutil.copytree(DATA / "hf_fp32/llama_tied", tmp_path / "hf"))
    file = hf / "model.safetensors"
    content = bytearray(file.read_bytes())
    length = int.from_bytes(content[:8], "little")
    down = json.loads(content[8:8 + length])["model.layers.0.mlp.down_proj.weight"]
    rows, columns = down["shape"]
    content[8 + length + down["data_offsets"][0] + 4 * (3 * columns + columns - 1)] ^= 1
    file.write_bytes(content)
    result = run("verify", hf, DATA / "megatron/llama_tied/tp2_fp32", "--ranks", "--tp", "2", "--json", "-")
    report = json.loads(result.stdout)
    assert result.returncode == 1
    (row,) = [r for r in report["results"] if not r["status"].startswith("match")]
    assert row["rank"] == {"tp": 1, "pp": 0, "vpp": 0, "ep": 0, "etp": 0}
    assert row["first"]["megatron"]["index"] == [3, columns // 2 - 1] and row["first"]["hf"]["index"] == [3, columns - 1]
    assert row["mismatched"] == 1 and row["xxh3"]


def test_a_vocabulary_that_is_padded_further_than_in_the_file_has_rows_of_zeros(run):
    """386 rows are stored."""
    hf, options = DATA / "hf/olmoe", ["--ranks", "--tp", "2", "--pad-vocab", "400", "--json", "-"]
    one = run("roundtrip", hf, *options)
    two = run("verify", hf, DATA / "megatron/olmoe/te_bf16", *options)
    held = held_by(json.loads(two.stdout))
    assert held == held_by(json.loads(one.stdout))
    assert {shape[0] for (_, name), (shape, _, _) in held.items() if name.startswith("embedding")} == {200}


@pytest.mark.parametrize("arguments,said", [
    (["roundtrip", DATA / "hf/llama_tied", "--ranks", "--level", "L0"], "--level L0"),
    (["verify", DATA / "hf/llama_tied", DATA / "megatron/llama_tied/te_bf16", "--tp", "2"], "--ranks"),
    (["verify", DATA / "hf/llama_tied", DATA / "megatron/llama_tied/te_bf16", "--dialect", "local"], "--ranks"),
    (["verify", DATA / "hf/llama_tied", DATA / "megatron/llama_tied/te_bf16", "--ranks", "--tp", "3"], "heads"),
])
def test_what_cannot_be_is_a_usage_error(run, arguments, said):
    result = run(*arguments)
    assert result.returncode == 2 and said in result.stderr, result.stderr
