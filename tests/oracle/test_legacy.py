"""Megatron's legacy `torch` format, written and read by Megatron's own save_checkpoint and load_checkpoint."""
import importlib.util
import json
import subprocess
import sys

import pytest

from conftest import ROOT

sys.path.insert(0, str(ROOT / "tools"))
import make_known_answers as known

MODELS = ROOT / "tests/testdata/hf"
TOOL = ROOT / "tools/make_legacy_fixtures.py"
# Four processes at most; grids of make_known_answers.py.
GRIDS = ["llama_tied/tp1", "llama_tied/tp2", "llama_tied/pp2", "llama_tied/tp2_pp2", "llama_untied/pp2_vpp2",
         "llama_untied/pp3_first2", "llama_untied/tp2_local", "qwen2/tp2", "qwen3/tp2_pp2", "gemma2/tp2",
         "qwen3_moe/tp1", "qwen3_moe/tp2", "qwen3_moe/tp2_etp1", "qwen3_moe/ep2", "qwen3_moe/tp2_ep2",
         "qwen3_moe/tp2_ep2_etp2", "qwen3_moe/tp2_pp2_ep2", "qwen3_moe/ep2_local", "olmoe/pp2_first1",
         "olmoe/tp2_padded", "gpt_oss_ns/ep2", "gpt_oss_ns/pp2", "deepseek_v3_nomtp/tp2_ep2",
         "deepseek_v3_nomtp/pp2_layout_loss_alone", "deepseek_v3/pp2_layout_mtp"]
# `deepseek_v3` has MTP layers with random values. The Bridge pads as the grid of `tp2_padded` says, `import` by option.
IMPORTED = [grid for grid in GRIDS if not grid.startswith("deepseek_v3/")]


def options_of(grid):
    name, grid_name = grid.split("/")
    g = known.PLAN[name][grid_name]
    options = [text for key in ("tp", "pp", "vpp", "ep") for text in (f"--{key}", str(g[key]))]
    if "moe" in name or name.startswith(("gpt_oss", "deepseek")):
        options += ["--etp", str(g["etp"])]
    for key, option in (("first_stage_layers", "--first-stage-layers"), ("last_stage_layers", "--last-stage-layers"),
                        ("pp_layout", "--pp-layout")):
        if g[key]:
            options += [option, str(g[key])]
    if grid == "olmoe/tp2_padded":
        options += ["--pad-vocab", "512"]
    return [*options, "--dialect", known.spec_of(grid_name)]


def mtp(grid):
    return ["--without-mtp"] if grid.startswith("deepseek_v3/") else []


@pytest.fixture(scope="module")
def oracles():
    folder = ROOT.parent / "shared" / "oracles"
    if not (folder / "bridge_cpu.py").exists():
        pytest.skip("SKIPPED LOUDLY: the oracle kit (../shared/oracles) is not on this machine")
    try:
        found = importlib.util.find_spec("megatron.training") and importlib.util.find_spec("megatron.bridge")
    except ImportError:
        found = None
    if found is None:
        pytest.skip("SKIPPED LOUDLY: Megatron Bridge and Megatron-LM are not installed")
    return folder


@pytest.fixture(scope="module")
def saved(oracles, tmp_path_factory):
    """The folder with NAME/GRID, all saved by Megatron."""
    out = tmp_path_factory.mktemp("saved")
    run = subprocess.run([sys.executable, TOOL, "--oracles", oracles, MODELS, out, *GRIDS], capture_output=True,
                         text=True, check=False, timeout=900)
    assert run.returncode == 0, run.stderr[-4000:]
    return out


@pytest.fixture(scope="module")
def loaded(oracles, weighbridge, tmp_path_factory):
    """The folder with what Megatron says of each of our files."""
    out = tmp_path_factory.mktemp("loaded")
    jobs = {}
    for grid in IMPORTED:
        name, grid_name = grid.split("/")
        target = out / "megatron" / grid
        result = weighbridge("import", MODELS / name, target, "--format", "torch", *options_of(grid))
        assert result.returncode == 0, result.stderr
        g = known.PLAN[name][grid_name]
        jobs.setdefault(known.world_size(g), []).append([name, grid_name, str(MODELS / name), g, str(target)])
    for world, tasks in jobs.items():
        (out / f"jobs{world}.json").write_text(json.dumps(tasks))
        subprocess.run([sys.executable, ROOT / "tests/oracle/legacy_worker.py", oracles, ROOT / "tools",
                        out / f"jobs{world}.json", out], capture_output=True, text=True, check=False, timeout=900)
    return out


@pytest.mark.parametrize("grid", GRIDS)
def test_what_megatron_saved_is_equal_and_exports_byte_identically(weighbridge, saved, tmp_path, grid):
    name = grid.split("/")[0]
    # Weights alone: the saved arguments are those of a plain GPT, also of models that are more than that.
    result = weighbridge("verify", MODELS / name, saved / grid, *mtp(grid), "--level", "L1", "--json", tmp_path / "report.json")
    report = json.loads((tmp_path / "report.json").read_text())
    assert result.returncode == 0, result.stdout + result.stderr
    assert report["verdict"] == "pass" and report["counts"]["passed"] == len(report["results"]) > 10
    weighbridge("verify", MODELS / name, saved / grid, *mtp(grid), "--level", "L0", "--json", tmp_path / "l0.json")
    assert "checkpoint" not in {cause["origin"] for cause in json.loads((tmp_path / "l0.json").read_text())["causes"]}
    result = weighbridge("export", saved / grid, tmp_path / "out", "--like", MODELS / name, *mtp(grid))
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "out/model.safetensors").read_bytes() == (MODELS / name / "model.safetensors").read_bytes()


@pytest.mark.parametrize("grid", IMPORTED)
def test_megatron_loads_strictly_what_was_imported(loaded, grid):
    name, grid_name = grid.split("/")
    error = loaded / f"{name}.{grid_name}.error.json"
    assert not error.exists(), error.read_text()
    ranks = [json.loads(path.read_text()) for path in sorted(loaded.glob(f"{name}.{grid_name}.?.json"))]
    assert len(ranks) == known.world_size(known.PLAN[name][grid_name])
    for rank in ranks:
        assert rank["tensors"] >= 2 and rank["different"] == []


@pytest.mark.parametrize("grid", [grid for grid in IMPORTED if "padded" not in grid])
def test_an_import_has_the_files_and_names_that_megatron_saves(saved, loaded, grid):
    import torch
    ours, theirs = loaded / "megatron" / grid / "iter_0000000", saved / grid / "iter_0000003"
    files = sorted(path.relative_to(theirs) for path in theirs.rglob("*.pt"))
    assert files == sorted(path.relative_to(ours) for path in ours.rglob("*.pt"))
    for file in files:
        a, b = (torch.load(folder / file, weights_only=False) for folder in (theirs, ours))
        for part in (key for key in a if key.startswith("model")):
            assert a[part].keys() == b[part].keys()
            for name, value in a[part].items():
                assert (b[part][name] is None) if value is None else torch.equal(b[part][name], value), name
        assert set(b) == set(a) - {"optimizer", "rng_state"}
        # The position embedding of `theirs` is what the fixtures' script says, not what Megatron does.
        for field in ("num_layers", "hidden_size", "num_attention_heads", "num_query_groups", "num_experts", "swiglu",
                      "untie_embeddings_and_output_weights", "add_position_embedding", "padded_vocab_size",
                      "tensor_model_parallel_size", "pipeline_model_parallel_size", "params_dtype",
                      "expert_model_parallel_size", "expert_tensor_parallel_size"):
            if field == "num_query_groups" and grid.startswith("deepseek"):
                continue  # latent attention has none
            assert getattr(b["args"], field) == getattr(a["args"], field), field
