"""`weighbridge toy` from the outside: what it prints and writes, and that the `safetensors` package reads it."""
import json

import pytest
from safetensors import safe_open


def tensors_of(folder):
    """name -> (dtype, shape, bytes), read by the safetensors package."""
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "np") as file:
            for name in file.keys():
                array = file.get_tensor(name)
                found[name] = (str(array.dtype), array.shape, array.tobytes())
    return found


@pytest.fixture
def toy(run, tmp_path):
    """toy(NAME, OPTION...) -> folder"""

    def make(name, *options):
        result = run("toy", tmp_path / name, *options)
        assert result.returncode == 0, result.stderr
        return tmp_path / name

    return make


def test_safetensors_package_reads_random_and_truncated_models(toy):
    whole = tensors_of(toy("whole", "--family", "qwen3_moe", "--dtype", "fp16"))
    small_folder = toy("small", "--like", toy("again", "--family", "qwen3_moe", "--dtype", "fp16"),
                       "--num-hidden-layers", 2, "--max-shard-size", "60K")
    assert len(list(small_folder.glob("*.safetensors"))) > 1
    small = tensors_of(small_folder)
    assert small == {name: t for name, t in whole.items() if ".layers.2." not in name and ".layers.3." not in name}
    index = json.loads((small_folder / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(small)
    assert index["metadata"]["total_size"] == sum(len(data) for _, _, data in small.values())


def test_json_says_what_was_made(run, tmp_path):
    result = run("toy", tmp_path / "out", "--family", "llama", "--seed", 4, "--json", "-")
    made = json.loads(result.stdout)
    assert made["schema"] == "weighbridge.toy/1"
    assert (made["kind"], made["family"], made["seed"], made["dtype"]) == ("random", "llama", 4, "bf16")
    assert made["layers"] == 4
    assert made["tensors"] == 39
    assert made["bytes"] == 2 * made["parameters"]
    result = run("toy", tmp_path / "two", "--like", tmp_path / "out", "--num-hidden-layers", 2, "--json", "-")
    made = json.loads(result.stdout)
    assert (made["kind"], made["layers"], made["source"]["layers"]) == ("truncated", 2, 4)


def test_command_that_it_suggests_works(run, tmp_path):
    out = run("toy", tmp_path / "out", "--family", "gemma3").stdout
    (line,) = [line for line in out.splitlines() if line.startswith("next: weighbridge ")]
    assert run(*line.removeprefix("next: weighbridge ").split()).returncode == 0


def test_truncation_of_a_checkpoint_that_the_real_library_wrote(run, goldens, tmp_path):
    source = goldens / "qwen3_moe" / "hf_bf16"
    layers = json.loads((source / "config.json").read_text())["num_hidden_layers"]
    result = run("toy", tmp_path / "one", "--like", source, "--num-hidden-layers", 1)
    assert result.returncode == 0, result.stderr
    assert f"the first 1 of {layers} layers" in result.stdout
    assert run("roundtrip", tmp_path / "one", "--tp", 2).returncode == 0


@pytest.mark.parametrize(("options", "message"), [
    ([], "say which model"),
    (["--family", "lama"], "did you mean 'llama'"),
    (["--family", "no/such.toml"], "no/such.toml"),
    (["--family", "llama", "--num-hidden-layers", "0"], "--num-hidden-layers"),
    (["--family", "flux", "--num-hidden-layers", "2"], "no one number"),
    (["--family", "llama", "--set", "hidden_size"], "KEY=VALUE"),
    (["--family", "llama", "--set", "hidden_size=many"], "hidden_size"),
    (["--family", "llama", "--set", "hidden_size=0"], "is 0"),
    (["--family", "llama", "--max-shard-size", "big"], "--max-shard-size"),
    (["--family", "llama", "--set", "vocab_size=100000000000"], "space"),
    (["--family", "llama", "--set", "vocab_size=9223372036854775807"], "vocab"),
    (["--config", "/no/such/config.json"], "config.json"),
])
def test_wrong_use_is_explained_and_leaves_nothing(run, tmp_path, options, message):
    result = run("toy", tmp_path / "out", *options)
    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("options", "message"), [
    (["--num-hidden-layers", "5"], "4 layers"),
    ([], "--num-hidden-layers"),
    (["--num-hidden-layers", "2", "--seed", "1"], "--seed"),
    (["--num-hidden-layers", "2", "--dtype", "fp16"], "--dtype"),
    (["--num-hidden-layers", "2", "--set", "a=1"], "--set"),
    (["--num-hidden-layers", "2", "--family", "qwen3"], "qwen3"),
])
def test_wrong_truncation_is_explained_and_leaves_nothing(run, toy, tmp_path, options, message):
    source = toy("source", "--family", "llama")
    result = run("toy", tmp_path / "out", "--like", source, *options)
    assert result.returncode == 2
    assert message in result.stderr
    assert not (tmp_path / "out").exists()


def test_layers_that_no_one_number_counts_are_not_cut(run, toy, tmp_path):
    source = toy("source", "--family", "flux")
    result = run("toy", tmp_path / "out", "--like", source, "--num-hidden-layers", 1)
    assert result.returncode == 2
    assert "family flux" in result.stderr
    assert not (tmp_path / "out").exists()


def test_existing_target_is_kept_unless_told_otherwise(run, toy):
    folder = toy("out", "--family", "llama", "--dtype", "fp16")
    before = tensors_of(folder)
    result = run("toy", folder, "--family", "llama", "--dtype", "fp16", "--seed", 1)
    assert result.returncode == 2
    assert "--overwrite" in result.stderr
    assert tensors_of(folder) == before
    assert run("toy", folder, "--family", "llama", "--dtype", "fp16", "--seed", 1, "--overwrite").returncode == 0
    assert tensors_of(folder) != before


def test_family_file_of_ones_own(run, tmp_path, project):
    text = (project / "families" / "llama.toml").read_text()
    mine = tmp_path / "mine.toml"
    mine.write_text(text.replace('family = "llama"', 'family = "mine"').replace("LlamaFor", "MineFor"))
    result = run("toy", tmp_path / "out", "--family", mine)
    assert result.returncode == 0, result.stderr
    assert json.loads((tmp_path / "out" / "config.json").read_text())["architectures"] == ["MineForCausalLM"]
    assert run("roundtrip", tmp_path / "out", "--family", mine).returncode == 0
