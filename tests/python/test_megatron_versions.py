"""Checkpoints of earlier megatron-core versions, and exports that need nothing but the checkpoint."""
import json
import pathlib
import re
import shutil

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
DATA = ROOT / "tests/testdata"
VERSIONS = sorted(str(path.relative_to(DATA / "megatron_versions"))
                  for path in (DATA / "megatron_versions").glob("*/*"))
BRIDGE = sorted(str(path.parents[1].relative_to(DATA / "megatron"))
                for path in (DATA / "megatron").glob("*/*/iter_*/run_config.yaml")
                # Its MTP layer is not in the HF folder that it came from.
                if path.parents[2].name != "deepseek_v3")


def source_of(checkpoint):
    """VERSION/NAME[-VARIANT] of megatron_versions."""
    return DATA / "hf" / checkpoint.split("/")[1].split("-")[0]


def same_weights(folder, source):
    return (folder / "model.safetensors").read_bytes() == (source / "model.safetensors").read_bytes()


@pytest.fixture
def copy(tmp_path):
    def make(path):
        return pathlib.Path(shutil.copytree(path, tmp_path / "megatron"))

    return make


def test_each_version_is_there():
    assert {checkpoint.split("/")[0] for checkpoint in VERSIONS} == {"0.12.3", "0.15.3", "0.17.1"}
    assert len(VERSIONS) == 13 and len(BRIDGE) == 24


@pytest.mark.parametrize("checkpoint", VERSIONS)
def test_what_earlier_versions_wrote_is_equal_bit_for_bit(run, checkpoint):
    result = run("verify", source_of(checkpoint), DATA / "megatron_versions" / checkpoint, "--json", "-")
    report = json.loads(result.stdout)
    assert result.returncode == 0 and report["verdict"] == "pass"
    assert report["counts"]["passed"] == len(report["results"]) > 10
    # The config in common.pt was found, understood, and agrees.
    assert "config-differs" not in {note["id"] for note in report["notes"]}
    assert any(note["id"] == "not-weights" for note in report["notes"])


@pytest.mark.parametrize("checkpoint", VERSIONS)
def test_an_export_needs_only_what_megatron_lm_saved(run, tmp_path, checkpoint):
    source = source_of(checkpoint)
    result = run("export", DATA / "megatron_versions" / checkpoint, tmp_path / "out")
    assert result.returncode == 0, result.stderr
    assert "derived from the args of the common state" in result.stderr
    assert same_weights(tmp_path / "out", source)
    derived, original = (json.loads((f / "config.json").read_text()) for f in (tmp_path / "out", source))
    assert derived["architectures"] == original["architectures"]
    for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size",
                "rms_norm_eps", "tie_word_embeddings", "intermediate_size", "max_position_embeddings"):
        if key != "intermediate_size" or "moe" not in checkpoint:
            assert derived[key] == original[key], key


@pytest.mark.parametrize("checkpoint", BRIDGE)
def test_an_export_needs_only_what_the_bridge_saved(run, tmp_path, checkpoint):
    name, kind = checkpoint.split("/")
    result = run("export", DATA / "megatron" / checkpoint, tmp_path / "out")
    assert result.returncode == 0, result.stderr
    assert same_weights(tmp_path / "out", DATA / ("hf" if kind.endswith("bf16") else "hf_fp32") / name)
    dtype = json.loads((tmp_path / "out/config.json").read_text())["torch_dtype"]
    assert dtype == ("bfloat16" if kind.endswith("bf16") else "float32")
    # What is derived is a model that the checkpoint is verified against.
    assert run("verify", tmp_path / "out", DATA / "megatron" / checkpoint, "--level", "L1").returncode == 0


def test_a_family_is_chosen_by_name(run, tmp_path):
    megatron = DATA / "megatron_versions/0.17.1/llama_tied"
    result = run("export", megatron, tmp_path / "plain")
    fitting = re.search("families that fit equally: (.*); --family NAME", result.stderr).group(1).split(", ")
    assert {"llama", "mistral"} <= set(fitting)
    assert json.loads((tmp_path / "plain/config.json").read_text())["model_type"] == "llama"
    result = run("export", megatron, tmp_path / "chosen", "--family", "mistral")
    assert result.returncode == 0, result.stderr
    assert json.loads((tmp_path / "chosen/config.json").read_text())["model_type"] == "mistral"


@pytest.mark.parametrize("family,kept", [
    ("smollm3", ["no_rope_layers"]), ("phi3", ["sliding_window"]), ("mistral", ["sliding_window"]),
    ("cwm", ["layer_types", "sliding_window"]), ("ministral", ["layer_types", "sliding_window"])])
@pytest.mark.parametrize("name", ["model", "a_llama"])
def test_windows_and_layers_without_rope_are_not_lost_with_the_source(run, tmp_path, family, kept, name):
    """A Llama has no place for them, whatever the source was called."""
    source = tmp_path / name
    assert run("toy", source, "--family", family).returncode == 0
    config = json.loads((source / "config.json").read_text())
    assert run("import", source, tmp_path / "megatron").returncode == 0
    source.rename(tmp_path / "away")
    result = run("export", tmp_path / "megatron", tmp_path / "out")
    if result.returncode == 2:  # several carry them over
        assert re.search(f"any of these families: .*\\b{family}\\b", result.stderr), result.stderr
        assert "llama," not in result.stderr and "--family NAME chooses one" in result.stderr
        return
    assert result.returncode == 0, result.stderr
    derived = json.loads((tmp_path / "out/config.json").read_text())
    assert derived["architectures"] != ["LlamaForCausalLM"]
    assert {key: derived.get(key) for key in kept} == {key: config[key] for key in kept}


def edit_run_config(folder, old, new):
    file = folder / "iter_0000000/run_config.yaml"
    text = file.read_text()
    assert len(re.findall(old, text, re.MULTILINE)) == 1
    file.write_text(re.sub(old, new, text, flags=re.MULTILINE))


def test_a_config_that_no_family_means_is_said(run, tmp_path, copy):
    folder = copy(DATA / "megatron/llama_tied/te_bf16")
    edit_run_config(folder, "^  normalization: RMSNorm$", "  normalization: LayerNorm")
    result = run("export", folder, tmp_path / "out")
    assert result.returncode == 2 and not (tmp_path / "out").exists()
    assert "no family fits run_config.yaml" in result.stderr
    assert "the nearest is" in result.stderr and "--like" in result.stderr
    # A family that was asked for is taken, and the difference is told.
    result = run("export", folder, tmp_path / "out", "--family", "llama")
    assert result.returncode == 0 and 'note: normalization is "LayerNorm"' in result.stderr


def test_what_the_bridge_is_known_to_say_wrongly_is_told_and_not_written(run, tmp_path):
    """Megatron Bridge gives ERNIE 4.5 a sigmoid router; Hugging Face computes a softmax."""
    result = run("export", DATA / "megatron/ernie4_5_moe/te_bf16", tmp_path / "out")
    assert result.returncode == 0, result.stderr
    assert 'note: moe_router_score_function is "sigmoid" in run_config.yaml and "softmax"' in result.stderr
    assert run("import", tmp_path / "out", tmp_path / "megatron").returncode == 0
    written = (tmp_path / "megatron/iter_0000000/run_config.yaml").read_text()
    assert re.search("moe_router_score_function: .?softmax", written)
    result = run("export", tmp_path / "megatron", tmp_path / "again")
    assert result.returncode == 0 and "moe_router_score_function" not in result.stderr


def test_without_any_config_the_options_are_named(run, tmp_path, copy):
    folder = copy(DATA / "megatron/llama_tied/te_bf16")
    (folder / "iter_0000000/run_config.yaml").unlink()
    result = run("export", folder, tmp_path / "out")
    assert result.returncode == 2
    assert "--like or --config" in result.stderr and "neither run_config.yaml nor saved arguments" in result.stderr


def test_a_given_config_is_compared_with_the_checkpoints_own(run, tmp_path, copy):
    folder = copy(DATA / "megatron/llama_tied/te_bf16")
    edit_run_config(folder, r"^  layernorm_epsilon: 1\.0e-05$", "  layernorm_epsilon: 0.001")
    result = run("export", folder, tmp_path / "out", "--like", DATA / "hf/llama_tied")
    assert result.returncode == 0
    assert "note: layernorm_epsilon is 0.001 in run_config.yaml and 1e-05 by the HF config" in result.stderr
    edit_run_config(folder, "^  num_query_groups: 2$", "  num_query_groups: 4")
    result = run("export", folder, tmp_path / "more", "--like", DATA / "hf/llama_tied")
    assert result.returncode == 1 and not (tmp_path / "more").exists()
    assert "num_query_groups is 4 in run_config.yaml and 2 by the HF config" in result.stderr
    result = run("verify", DATA / "hf/llama_tied", folder, "--json", "-")
    report = json.loads(result.stdout)
    assert [cause["id"] for cause in report["causes"]] == ["norm-eps", "head-geometry"]
    assert "config-differs" not in {note["id"] for note in report["notes"]}


@pytest.mark.parametrize(("config", "cause"), [
    (None, None),                                    # says nothing: accepted
    ("vocab_size: 512", None),
    ("vocab_size: 500, should_pad_vocab: true, make_vocab_size_divisible_by: 128", None),
    ("vocab_size: 384, should_pad_vocab: true, make_vocab_size_divisible_by: 256, tensor_model_parallel_size: 2", None),
    ("vocab_size: 384", "vocab-padding"),            # 128 rows that nothing declares
    ("vocab_size: 384, should_pad_vocab: true, make_vocab_size_divisible_by: 128", "vocab-padding"),
])
def test_padded_rows_have_to_be_declared(run, tmp_path, config, cause):
    hf, megatron = DATA / "hf/llama_tied", tmp_path / "megatron"
    assert run("import", hf, megatron, "--pad-vocab", "512").returncode == 0
    file = megatron / "iter_0000000/run_config.yaml"
    file.unlink()
    if config:
        file.write_text("model: {_target_: X, " + config + "}\n")
    result = run("verify", hf, megatron, "--json", "-")
    report = json.loads(result.stdout)
    assert [c["id"] for c in report["causes"]] == ([cause] if cause else [])
    assert result.returncode == (1 if cause else 0)
    notes = [note["message"] for note in report["notes"] if note["id"] == "vocab-padded"]
    assert len(notes) == (0 if cause else 1)
    assert config or "no config beside it says whether that is meant" in notes[0]


def test_a_hostile_common_pt_is_an_error(run, tmp_path, copy):
    folder = copy(DATA / "megatron_versions/0.15.3/llama_tied")
    common = folder / "iter_0000100/common.pt"
    for bad in (b"", b"PK\x03\x04", common.read_bytes()[:200], (DATA / "torch/no_crc.pt").read_bytes()[:500]):
        common.write_bytes(bad)
        result = run("export", folder, tmp_path / "out")
        assert result.returncode in (1, 2) and result.stderr.startswith("error: "), result.stderr
        assert not (tmp_path / "out").exists()
        # The weights are judged all the same, and the file is the fault that is told.
        result = run("verify", DATA / "hf/llama_tied", folder, "--json", "-")
        report = json.loads(result.stdout)
        assert result.returncode == 1 and report["counts"]["passed"] == 14
        assert [cause["origin"] for cause in report["causes"]] == ["config"]
