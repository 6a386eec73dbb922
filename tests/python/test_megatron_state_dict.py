"""inspect and diff on checkpoints that megatron-core 0.19 wrote, as flat state dicts."""
import json
import shutil

import pytest

from test_megatron import DATA, iteration


def report(run, *arguments):
    result = run(*arguments)
    assert result.returncode in (0, 1), result.stderr
    return result.returncode, json.loads(result.stdout)


def test_what_two_grids_wrote_is_equal_tensor_by_tensor(run):
    megatron = DATA / "megatron/llama_tied"
    status, found = report(run, "diff", megatron / "tp2_fp32", megatron / "pp2_fp32", "--json", "-")
    assert status == 0 and found["counts"]["failed"] == 0
    names = [row["megatron"]["name"] for row in found["results"]]
    assert "decoder.layers.0.mlp.linear_fc1.weight" in names and "decoder.layers.1.mlp.linear_fc1.weight" in names
    assert len(names) == 2 + 2 * 6  # embedding, final norm; six weights in each of two layers


def test_layers_and_experts_have_their_numbers_and_shapes(run):
    status, found = report(run, "inspect", DATA / "megatron/qwen3_moe/ep2_fp32", "--json")
    assert status == 0 and found["format"] == "torch_dist"
    shapes = {t["name"]: t["shape"] for t in found["tensors"]}
    config = json.loads((DATA / "hf_fp32/qwen3_moe/config.json").read_text())
    for layer in range(config["num_hidden_layers"]):
        for expert in range(config["num_local_experts"]):
            name = f"decoder.layers.{layer}.mlp.experts.linear_fc1.weight{expert}"
            assert shapes.pop(name) == [2 * config["moe_intermediate_size"], config["hidden_size"]]
    assert not [name for name in shapes if "linear_fc1" in name]
    assert found["megatron_config"]["num_moe_experts"] == config["num_local_experts"]


@pytest.mark.parametrize("pair", ["llama_tied/tp2_fp32", "qwen3_moe/ep2_fp32", "deepseek_v3_nomtp/tp2ep2_fp32"])
def test_statistics_are_those_of_the_hugging_face_weights(run, pair):
    """Sums over all tensors do not depend on how the files stack, cut or fuse them."""
    totals = []
    for folder in (DATA / "megatron" / pair, DATA / "hf_fp32" / pair.split("/")[0]):
        found = report(run, "inspect", folder, "--stats", "--json")[1]
        tensors = [t for t in found["tensors"] if t["dtype"] == "fp32"]
        elements = [len(t["shape"]) and _numel(t["shape"]) for t in tensors]
        totals.append((sum(elements), max(t["stats"]["absmax"] for t in tensors),
                       round(sum(n * t["stats"]["mean"] for n, t in zip(elements, tensors)), 6)))
    assert totals[0] == totals[1]


def _numel(shape):
    out = 1
    for n in shape:
        out *= n
    return out


def test_a_changed_byte_is_named_with_layer_and_index(run, tmp_path):
    source = DATA / "megatron/llama_tied/tp2_fp32"
    copy = shutil.copytree(source, tmp_path / "copy")
    needle = (DATA / "hf_fp32/llama_tied/model.safetensors").read_bytes()
    header = json.loads(needle[8:8 + int.from_bytes(needle[:8], "little")])
    begin = 8 + int.from_bytes(needle[:8], "little") + header["model.layers.1.mlp.down_proj.weight"]["data_offsets"][0]
    row = needle[begin:begin + 64]  # the first elements: rank 0's first row
    file = next(f for f in iteration(copy).glob("*.distcp") if row in f.read_bytes())
    data = bytearray(file.read_bytes())
    data[data.index(row) + 4 * 3 + 2] ^= 0x40  # the fourth element
    file.write_bytes(data)
    status, found = report(run, "diff", source, copy, "--json", "-")
    assert status == 1 and [cause["id"] for cause in found["causes"]] == ["bit-flip"]
    failed = [r for r in found["results"] if r["status"] == "mismatch"]
    assert [r["megatron"]["name"] for r in failed] == ["decoder.layers.1.mlp.linear_fc2.weight"]
    assert failed[0]["first"]["megatron"]["index"] == [0, 3] and failed[0]["mismatched"] == 1


def test_a_broken_entry_is_an_error_of_the_checkpoint(run, tmp_path):
    copy = shutil.copytree(DATA / "megatron/llama_tied/te_bf16", tmp_path / "copy")
    file = next(iteration(copy).glob("*.distcp"))
    file.write_bytes(b"\0" * file.stat().st_size)
    for command in (["inspect", copy], ["diff", copy, copy]):
        result = run(*command)
        assert result.returncode in (1, 2) and "__0_0.distcp" in result.stdout + result.stderr, (command, result)
