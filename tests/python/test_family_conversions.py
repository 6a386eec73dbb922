"""Every family's toy is imported, verified and exported back byte for byte, on one rank and on several."""
import filecmp
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
FAMILIES = sorted(path.stem for path in (ROOT / "families").glob("*.toml") if not path.stem.startswith("base_"))
GRIDS = [(1, 1), (2, 2)]
ONE_STAGE = {"flux"}  # Megatron has them on one pipeline stage only


@pytest.mark.parametrize("family", FAMILIES)
def test_a_toy_is_imported_verified_and_exported_back(run, tmp_path, family):
    toy = tmp_path / "toy"
    assert run("toy", toy, "--family", family).returncode == 0
    written = sorted(path.name for path in toy.glob("*.safetensors")) + ["config.json"]
    assert len(written) == 2
    for tp, pp in GRIDS:
        pp = 1 if family in ONE_STAGE else pp
        megatron, back = tmp_path / f"megatron_{tp}", tmp_path / f"back_{tp}"
        result = run("import", toy, megatron, "--tp", tp, "--pp", pp)
        assert result.returncode == 0, result.stderr
        result = run("verify", toy, megatron, "--level", "L1", "--runtime", "none")
        assert result.returncode == 0, result.stdout
        result = run("export", megatron, back, "--like", toy)
        assert result.returncode == 0, result.stderr
        for name in written:
            assert filecmp.cmp(toy / name, back / name, shallow=False), name


def test_an_export_without_mtp_says_that_the_config_still_counts_it(run, tmp_path):
    toy, megatron, back = tmp_path / "toy", tmp_path / "megatron", tmp_path / "back"
    assert run("toy", toy, "--family", "deepseek_v3", "--set", "num_nextn_predict_layers=1").returncode == 0
    assert run("import", toy, megatron).returncode == 0
    result = run("export", megatron, back, "--like", toy, "--without-mtp")
    assert result.returncode == 0 and "config.json still counts 1 MTP layer(s)" in result.stdout + result.stderr
    assert "--without-mtp" in (result.stdout + result.stderr).split("next:")[1]
    assert run("verify", back, megatron, "--without-mtp").returncode == 0
