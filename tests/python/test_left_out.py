"""What a command leaves out, it says: in the same words everywhere, in text, JSON and manifests."""
import json
import pathlib
import shlex

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

ROOT = pathlib.Path(__file__).resolve().parents[2]


def toy(run, folder, family, *options):
    made = run("toy", folder, "--family", family, "--dtype", "fp32", "-q", *options)
    assert made.returncode == 0, made.stderr
    return folder


def edit(folder, change):
    """`change` is given the tensors of the folder's one file, by name."""
    tensors = dict(load_file(folder / "model.safetensors"))
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def notes(report, key="not-needed"):
    return [note["message"] for note in report["notes"] if note["id"] == key]


@pytest.fixture
def speaking(run, tmp_path):
    """A model with parts that Megatron does not build."""
    folder = toy(run, tmp_path / "speaking", "qwen3_omni_moe")
    edit(folder, lambda tensors: tensors.update({
        "talker.model.norm.weight": np.ones(6, np.float32), "talker.head.weight": np.ones((2, 3), np.float32),
        "code2wav.bias": np.ones(4, np.float32)}))
    return folder


WORDS = ["1 HF tensor(s), 16 B, are left out: code2wav.* (what speaks is no part of the Megatron model)",
         "2 HF tensor(s), 48 B, are left out: talker.* (what speaks is no part of the Megatron model)"]


def test_every_command_names_what_it_leaves_out_in_the_same_words(run, speaking, tmp_path):
    judged = run("roundtrip", speaking, "--json", "-")
    assert judged.returncode == 0 and sorted(notes(json.loads(judged.stdout))) == WORDS

    imported = run("import", speaking, tmp_path / "mcore", "--json", tmp_path / "import.json")
    assert imported.returncode == 0, imported.stderr
    document = json.loads((tmp_path / "import.json").read_text())
    assert all(f"note: {text}\n" in imported.stderr and text in document["notes"] for text in WORDS)
    assert {(g["side"], g["pattern"], g["tensors"], g["bytes"]) for g in document["left_out"]} == {
        ("HF", "code2wav.*", 1, 16), ("HF", "talker.*", 2, 48)}

    exported = run("export", tmp_path / "mcore", tmp_path / "back", "--like", speaking)
    assert exported.returncode == 0, exported.stderr
    assert all(f"note: {text}\n" in exported.stderr for text in WORDS)
    alone = run("export", tmp_path / "mcore", tmp_path / "alone", "--config", speaking / "config.json")
    assert "HF tensors, as far as the model has them, are left out: talker.* (what speaks" in alone.stderr

    hashed = run("manifest", speaking, "-o", tmp_path / "m.json")
    assert hashed.returncode == 0 and all(f"note: {text}\n" in hashed.stderr for text in WORDS)
    verified = run("verify", speaking, tmp_path / "mcore", "--json", "-")
    assert verified.returncode == 0 and sorted(notes(json.loads(verified.stdout))) == WORDS


def test_a_manifest_says_what_it_does_not_hold_whichever_side_was_hashed(run, speaking, tmp_path):
    assert run("import", speaking, tmp_path / "mcore", "-q").returncode == 0
    texts = [run("manifest", speaking, "-q").stdout,
             run("manifest", tmp_path / "mcore", "--config", speaking / "config.json", "-q").stdout]
    assert texts[0] == texts[1]
    gaps = {gap["pattern"]: gap["why"] for gap in json.loads(texts[0])["not_held"]}
    assert gaps["talker.*"] == gaps["code2wav.*"] == "what speaks is no part of the Megatron model"


def test_verify_does_not_blame_a_checkpoint_for_what_the_manifest_does_not_hold(run, tmp_path):
    model = toy(run, tmp_path / "model", "deepseek_v3", "--set", "num_nextn_predict_layers=1")
    layers = json.loads((model / "config.json").read_text())["num_hidden_layers"]
    assert run("manifest", model, "--without-mtp", "-o", tmp_path / "m.json").returncode == 0
    assert f"model.layers.{layers}.*" in {g["pattern"] for g in json.loads((tmp_path / "m.json").read_text())["not_held"]}
    result = run("verify", model, tmp_path / "m.json", "--json", "-")
    report = json.loads(result.stdout)
    assert result.returncode == 0 and report["verdict"] == "pass", result.stdout
    [note] = notes(report, "not-in-manifest")
    assert f"model.layers.{layers}.* (MTP layers, by --without-mtp)" in note
    assert any("were not compared" in line for line in report["unproven"])
    # A manifest that does not say so lists the whole model.
    manifest = json.loads((tmp_path / "m.json").read_text())
    del manifest["not_held"]
    (tmp_path / "m.json").write_text(json.dumps(manifest))
    result = run("verify", model, tmp_path / "m.json", "--json", "-")
    assert result.returncode == 1 and {c["id"] for c in json.loads(result.stdout)["causes"]} == {"tensor-extra"}


@pytest.mark.parametrize("gap", ['7', '[7]', '[{"why": "x"}]', '[{"pattern": 7}]'])
def test_a_hostile_list_of_gaps_is_an_error(run, tmp_path, gap):
    model = toy(run, tmp_path / "model", "llama")
    text = run("manifest", model, "-q").stdout
    begin, end = text.index('"not_held"'), text.index('"tensors"')
    (tmp_path / "m.json").write_text(f'{text[:begin]}"not_held": {gap},\n{text[end:]}')
    result = run("verify", model, tmp_path / "m.json")
    assert result.returncode == 2 and ("'not_held'" in result.stderr or "'pattern'" in result.stderr), result.stderr


def test_mtp_layers_hold_all_copies_of_embedding_and_head_or_none(run, tmp_path):
    model = toy(run, tmp_path / "model", "deepseek_v3", "--set", "num_nextn_predict_layers=1")
    layers = json.loads((model / "config.json").read_text())["num_hidden_layers"]
    embedding, head = f"model.layers.{layers}.embed_tokens.weight", f"model.layers.{layers}.shared_head.head.weight"
    assert {embedding, head} <= set(load_file(model / "model.safetensors"))
    edit(model, lambda tensors: tensors.pop(head))
    result = run("roundtrip", model, "--json", "-")
    report = json.loads(result.stdout)
    assert result.returncode == 1
    assert [(c["id"], c["where"]) for c in report["causes"]] == [("tensor-missing", [head])]
    assert run("import", model, tmp_path / "mcore").returncode == 1
    edit(model, lambda tensors: tensors.pop(embedding))
    result = run("roundtrip", model, "--json", "-")
    assert result.returncode == 0
    [note] = notes(json.loads(result.stdout), "copies-absent")
    assert embedding in note


def suggested(result):
    [line] = [line for line in result.stdout.splitlines() if line.startswith("next: ")]
    words = shlex.split(line.removeprefix("next: "))
    assert words[0] == "weighbridge"
    return words[1:]


def test_a_suggested_command_works_when_it_is_pasted(run, tmp_path):
    """With a family that only a file knows, and paths with spaces."""
    text = (ROOT / "families/llama.toml").read_text()
    family = tmp_path / "my families" / "mine.toml"
    family.parent.mkdir()
    for old, new in (('family = "llama"', 'family = "mine"'), ('"LlamaForCausalLM"', '"MineForCausalLM"'),
                     ('hf_model_types = ["llama"]', 'hf_model_types = ["mine"]')):
        assert old in text
        text = text.replace(old, new)
    family.write_text(text)
    model, megatron = tmp_path / "a model", tmp_path / "a megatron"
    made = run("toy", model, "--family", family)
    assert made.returncode == 0, made.stderr
    config = tmp_path / "another config.json"
    (model / "config.json").rename(config)
    config.write_text(config.read_text())
    imported = run("import", model, megatron, "--config", config, "--family", family)
    assert imported.returncode == 0, imported.stderr
    exported = run("export", megatron, tmp_path / "an export", "--config", config, "--family", family)
    assert exported.returncode == 0, exported.stderr
    converted = run("convert", megatron, tmp_path / "a copy", "--config", config, "--family", family)
    assert converted.returncode == 0, converted.stderr
    for result in (imported, exported, converted):
        words = suggested(result)
        assert words[words.index("--family") + 1] == str(family)
        if words[0] == "export":
            words[words.index("HF")] = str(tmp_path / "HF")
        judged = run(*words)
        assert judged.returncode == 0, (words, judged.stdout, judged.stderr)
    config.rename(model / "config.json")
    judged = run(*suggested(made))
    assert judged.returncode == 0, judged.stderr


def test_families_show_and_lint_take_a_name_or_a_file(run, tmp_path):
    file = ROOT / "families/gemma2.toml"
    by_name, by_file = run("families", "show", "gemma2"), run("families", "show", file)
    assert by_name.returncode == by_file.returncode == 0
    assert by_name.stdout.splitlines()[2:] == by_file.stdout.splitlines()[2:]
    assert str(file) in by_file.stdout
    for what in ("gemma2", file):
        linted = run("families", "lint", what)
        assert linted.returncode == 0 and "no fault found" in linted.stdout, linted.stderr
    for command in ("show", "lint"):
        missing = run("families", command, "gemma22")
        assert missing.returncode == 2 and "did you mean 'gemma2'?" in missing.stderr
        missing = run("families", command, tmp_path / "none.toml")
        assert missing.returncode == 2 and "none.toml" in missing.stderr
