"""verify, import and export on checkpoints that megatron-core 0.19 wrote (tests/testdata/megatron)."""
import json
import pathlib
import pickle
import shutil
import struct

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
DATA = ROOT / "tests/testdata"
NAMES = ["llama_tied", "llama_untied", "qwen2", "qwen3", "qwen3_lora", "qwen3_moe", "olmoe", "gemma2", "gpt_oss_ns",
         "deepseek_v3", "deepseek_v3_nomtp", "glm4_moe", "ernie4_5_moe", "exaone4", "nemotron_h", "qwen3_next"]
OTHERS = ["llama_tied/tp2_fp32", "llama_tied/pp2_fp32", "llama_tied/local_fp32", "qwen3_moe/ep2_fp32",
          "qwen3_moe/local_fp32", "olmoe/tp2ep2_fp32", "deepseek_v3_nomtp/tp2ep2_fp32",
          "nemotron_h/tp2_fp32", "qwen3_next/tp2_fp32"]
PAIRS = [f"{name}/te_bf16" for name in NAMES] + OTHERS


def sides(pair):
    """The Hugging Face folder and the Megatron folder of NAME/KIND_DTYPE."""
    name, kind = pair.split("/")
    return DATA / ("hf" if kind.endswith("bf16") else "hf_fp32") / name, DATA / "megatron" / pair


def mtp(pair):
    # The HF folder of deepseek_v3 lacks the MTP layer that its config promises.
    return ["--without-mtp"] if pair.startswith("deepseek_v3/") else []


def iteration(folder):
    return folder / "iter_0000000"


@pytest.fixture
def checkpoint(tmp_path):
    """A copy of a Megatron checkpoint that a test may break."""

    def make(pair):
        return pathlib.Path(shutil.copytree(sides(pair)[1], tmp_path / "megatron"))

    return make


def bytes_of(file, name, begin, size):
    """Bytes [begin, begin + size) of a tensor in a safetensors file."""
    data = file.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    first = json.loads(data[8:8 + length])[name]["data_offsets"][0] + 8 + length
    return data[first + begin:first + begin + size]


def verify_json(run, hf, megatron, *options):
    result = run("verify", hf, megatron, "--json", "-", *options)
    return result.returncode, json.loads(result.stdout)


@pytest.mark.parametrize("pair", PAIRS)
def test_what_megatron_wrote_is_equal_bit_for_bit(run, pair):
    hf, megatron = sides(pair)
    status, report = verify_json(run, hf, megatron, "--level", "L1", "--runtime", "none", *mtp(pair))
    assert status == 0 and report["verdict"] == "pass"
    assert report["counts"]["failed"] == 0 and report["counts"]["passed"] == len(report["results"]) > 10
    names = [row["megatron"]["name"] for row in report["results"]]
    assert len(names) == len(set(names))


def test_a_packed_parameter_is_judged_where_one_part_of_it_differs(run, checkpoint):
    """z, x, B, C and dt of a Mamba mixer are tensors of their own: the difference is told in the one that has it."""
    hf = sides("nemotron_h/te_bf16")[0]
    folder = checkpoint("nemotron_h/te_bf16")
    wanted = bytes_of(hf / "model.safetensors", "backbone.layers.0.mixer.in_proj.weight", 80 * 2 * 56 * 2, 36 * 56 * 2)
    for file in sorted(iteration(folder).glob("*.distcp")):
        data = bytearray(file.read_bytes())
        at = data.find(wanted)
        if at < 0:
            continue
        data[at + 4 * 56 * 2] ^= 1  # row 4 of B
        file.write_bytes(data)
        break
    else:
        pytest.fail("B of the mixer is not in the files")
    status, report = verify_json(run, hf, folder, "--level", "L1", "--runtime", "none")
    assert status == 1
    failed = [row for row in report["results"] if row["status"] != "match"]
    assert [row["megatron"]["name"] for row in failed] == ["decoder.layers.0.mixer.in_proj.weight"]
    first = failed[0]["first"]
    assert first["megatron"]["name"] == "decoder.layers.0.mixer.in_proj.weight.B"
    assert first["megatron"]["index"] == [4, 0]
    assert first["hf"]["index"] == [164, 0]


def test_an_mtp_layer_that_the_hf_side_lacks_is_the_one_cause(run):
    status, report = verify_json(run, *sides("deepseek_v3/te_bf16"), "--level", "L1", "--runtime", "none")
    assert status == 1
    assert [cause["id"] for cause in report["causes"]] == ["mtp-missing"]


@pytest.mark.parametrize("pair", PAIRS)
def test_export_like_the_source_is_byte_identical(run, tmp_path, pair):
    hf, megatron = sides(pair)
    result = run("export", megatron, tmp_path / "out", "--like", hf, *mtp(pair))
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "out/model.safetensors").read_bytes() == (hf / "model.safetensors").read_bytes()
    assert (tmp_path / "out/config.json").read_bytes() == (hf / "config.json").read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_an_import_verifies_and_exports_back(run, tmp_path, name):
    hf = DATA / "hf" / name
    options = mtp(f"{name}/te_bf16")
    # What the runtime does by itself with some of these models is not the importer's (test_effects.py).
    for step in (["import", hf, tmp_path / "megatron"], ["verify", hf, tmp_path / "megatron", "--runtime", "none"],
                 ["export", tmp_path / "megatron", tmp_path / "back", "--like", hf]):
        result = run(*step, *options)
        assert result.returncode == 0, result.stdout + result.stderr
    assert (tmp_path / "back/model.safetensors").read_bytes() == (hf / "model.safetensors").read_bytes()


@pytest.mark.parametrize("name,grid", [
    ("llama_untied", ["--tp", "2"]), ("llama_untied", ["--tp", "2", "--pp", "2"]), ("qwen2", ["--tp", "2"]),
    ("qwen3_moe", ["--tp", "2", "--ep", "2", "--etp", "2"]), ("qwen3_moe", ["--ep", "4", "--dialect", "local"]),
    ("deepseek_v3_nomtp", ["--tp", "2", "--ep", "2"]), ("gpt_oss_ns", ["--ep", "2"]),
    ("llama_tied", ["--pad-vocab", "512"]), ("llama_tied", ["--dialect", "local"]),
])
def test_grid_dialect_and_padding_do_not_change_what_comes_back(run, tmp_path, name, grid):
    hf = DATA / "hf" / name
    assert run("import", hf, tmp_path / "megatron", *grid).returncode == 0
    assert run("verify", hf, tmp_path / "megatron", "--strict-padding").returncode == 0
    assert run("export", tmp_path / "megatron", tmp_path / "back", "--like", hf).returncode == 0
    assert (tmp_path / "back/model.safetensors").read_bytes() == (hf / "model.safetensors").read_bytes()


def test_an_import_is_the_same_for_any_number_of_threads(run, tmp_path):
    for threads in ("1", "7"):
        assert run("import", DATA / "hf/qwen3_moe", tmp_path / threads, "--threads", threads).returncode == 0
    one, many = (sorted(p for p in (tmp_path / t).rglob("*") if p.is_file()) for t in ("1", "7"))
    assert [p.relative_to(tmp_path / "1") for p in one] == [p.relative_to(tmp_path / "7") for p in many]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(one, many))


def test_a_widened_import_matches_and_a_narrowed_one_has_to_be_expected(run, tmp_path):
    hf = DATA / "hf_fp32/llama_tied"
    assert run("import", DATA / "hf/llama_tied", tmp_path / "wide", "--dtype", "fp32").returncode == 0
    status, report = verify_json(run, DATA / "hf/llama_tied", tmp_path / "wide")
    assert status == 0 and {row["status"] for row in report["results"]} == {"match-widened"}
    assert run("import", hf, tmp_path / "narrow", "--dtype", "bf16").returncode == 0
    status, report = verify_json(run, hf, tmp_path / "narrow")
    assert status == 1 and [cause["id"] for cause in report["causes"]] == ["dtype-rounded"]
    status, report = verify_json(run, hf, tmp_path / "narrow", "--expect-dtype", "bf16")
    assert status == 0


def tensors_of(file):
    """name -> (first byte in the file, shape), from the header alone."""
    content = file.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8:8 + length])
    header.pop("__metadata__", None)
    return {name: (8 + length + t["data_offsets"][0], t["shape"]) for name, t in header.items()}


@pytest.mark.parametrize("pair,tensor,index", [
    ("llama_tied/tp2_fp32", "model.layers.1.self_attn.k_proj.weight", [17, 5]),
    ("llama_tied/pp2_fp32", "model.layers.1.mlp.up_proj.weight", [100, 63]),
    ("olmoe/tp2ep2_fp32", "model.layers.2.mlp.experts.3.down_proj.weight", [7, 11]),
    ("llama_tied/te_bf16", "model.embed_tokens.weight", [383, 0]),
])
def test_one_changed_element_is_found_with_both_coordinates(run, tmp_path, pair, tensor, index):
    source, megatron = sides(pair)
    hf = pathlib.Path(shutil.copytree(source, tmp_path / "hf"))
    begin, shape = tensors_of(hf / "model.safetensors")[tensor]
    size = 2 if pair.endswith("bf16") else 4
    content = bytearray((hf / "model.safetensors").read_bytes())
    content[begin + (index[0] * shape[1] + index[1]) * size] ^= 1
    (hf / "model.safetensors").write_bytes(content)
    status, report = verify_json(run, hf, megatron)
    assert status == 1
    (row,) = [row for row in report["results"] if row["status"] != "match"]
    assert row["mismatched"] == 1 and row["first"]["hf"] == {"name": tensor, "index": index}, row["first"]
    assert row["max_diff"] > 0


def test_a_changed_byte_in_a_distcp_is_found(run, checkpoint):
    hf, _ = sides("llama_tied/te_bf16")
    megatron = checkpoint("llama_tied/te_bf16")
    begin, shape = tensors_of(hf / "model.safetensors")["model.norm.weight"]
    norm = (hf / "model.safetensors").read_bytes()[begin:begin + 2 * shape[0]]
    file = iteration(megatron) / "__0_0.distcp"
    content = bytearray(file.read_bytes())
    at = content.index(norm)
    content[at + 2 * 5] ^= 0x40
    file.write_bytes(content)
    status, report = verify_json(run, hf, megatron)
    assert status == 1
    (row,) = [row for row in report["results"] if row["status"] != "match"]
    assert row["megatron"]["name"] == "decoder.final_layernorm.weight"
    assert row["first"]["megatron"]["index"] == [5]


def status_and_cause(run, hf, megatron):
    result = run("verify", hf, megatron, "--json", "-")
    report = json.loads(result.stdout)
    causes = [cause["id"] for cause in report["causes"]]
    return result.returncode, causes or report["error"]["id"]


def test_broken_folders_are_found_bad_and_named(run, checkpoint, tmp_path):
    hf, _ = sides("llama_tied/te_bf16")
    megatron = checkpoint("llama_tied/te_bf16")
    data = iteration(megatron) / "__0_0.distcp"
    whole = data.read_bytes()
    data.write_bytes(whole[:-1])
    assert status_and_cause(run, hf, megatron) == (1, ["file-truncated"])
    data.unlink()
    assert status_and_cause(run, hf, megatron) == (1, ["shard-missing"])
    data.write_bytes(whole)
    (megatron / "latest_checkpointed_iteration.txt").write_text("7")
    assert status_and_cause(run, hf, megatron) == (1, ["tracker-stale"])
    assert run("verify", hf, iteration(megatron)).returncode == 0
    assert run("verify", hf, tmp_path / "nowhere").returncode == 2
    assert run("verify", hf, hf).returncode == 2


class Hostile:
    """Runs a command when it is unpickled by Python's pickle."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        import os

        return os.system, (self.command,)


def test_a_hostile_metadata_is_refused_and_never_executed(run, checkpoint, tmp_path):
    hf, _ = sides("llama_tied/te_bf16")
    megatron = checkpoint("llama_tied/te_bf16")
    flag = tmp_path / "executed"
    (iteration(megatron) / ".metadata").write_bytes(pickle.dumps(Hostile(f"touch {flag}"), protocol=4))
    result = run("verify", hf, megatron)
    assert result.returncode == 1 and "system" in result.stdout + result.stderr
    assert not flag.exists()


def test_every_truncation_of_metadata_is_an_error(run, checkpoint):
    hf, _ = sides("llama_tied/te_bf16")
    megatron = checkpoint("llama_tied/te_bf16")
    file = iteration(megatron) / ".metadata"
    whole = file.read_bytes()
    for length in range(0, len(whole), 97):
        file.write_bytes(whole[:length])
        assert run("verify", hf, megatron, "--level", "L0").returncode == 1, length


def test_an_existing_target_stays_unless_overwrite_is_given(run, tmp_path):
    hf = DATA / "hf/llama_tied"
    assert run("import", hf, tmp_path / "m").returncode == 0
    before = (tmp_path / "m/iter_0000000/.metadata").read_bytes()
    assert run("import", DATA / "hf/qwen2", tmp_path / "m").returncode == 2
    assert (tmp_path / "m/iter_0000000/.metadata").read_bytes() == before
    assert run("import", DATA / "hf/qwen2", tmp_path / "m", "--overwrite").returncode == 0
    assert run("verify", DATA / "hf/qwen2", tmp_path / "m").returncode == 0
    assert run("export", tmp_path / "m", tmp_path / "hf", "--like", DATA / "hf/qwen2").returncode == 0
    assert run("export", tmp_path / "m", tmp_path / "hf", "--like", DATA / "hf/qwen2").returncode == 2
    assert run("export", tmp_path / "m", DATA / "hf/qwen2", "--like", DATA / "hf/qwen2", "--overwrite").returncode == 2


def test_export_asks_for_a_config_and_takes_one(run, tmp_path):
    hf, megatron = sides("qwen2/te_bf16")
    result = run("export", megatron, tmp_path / "out", "--config", hf / "config.json", "--max-shard-size", "100K")
    assert result.returncode == 0, result.stderr
    assert run("diff", hf, tmp_path / "out").returncode == 0
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 1
    other = run("export", megatron, tmp_path / "other", "--like", DATA / "hf/llama_tied")
    assert other.returncode in (1, 2) and not (tmp_path / "other").exists()
