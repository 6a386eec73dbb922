"""Quantized checkpoints (tests/testdata/quantized): random codes and scales, and the values that transformers,
compressed-tensors, ModelOpt and the Bridge make of them."""
import hashlib
import json
import pathlib
import shutil
import struct

import jsonschema
import ml_dtypes
import numpy
import pytest
import xxhash

ROOT = pathlib.Path(__file__).resolve().parents[2]
DATA = ROOT / "tests/testdata/quantized"
NAMES = sorted(p.name for p in DATA.iterdir() if p.is_dir())
WEIGHT = "model.layers.0.mlp.up_proj.weight"
ATTENTION = "model.layers.0.self_attn.q_proj"


def read(path):
    """The header's entries and the bytes of a safetensors file."""
    content = (path / "model.safetensors").read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8:8 + length])
    metadata = header.pop("__metadata__", None)
    body = content[8 + length:]
    return metadata, {n: (t["dtype"], t["shape"], body[slice(*t["data_offsets"])]) for n, t in header.items()}


def write(path, metadata, tensors):
    header, at = {"__metadata__": metadata}, 0
    for name, (dtype, shape, content) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(content)]}
        at += len(content)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    (path / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + b"".join(t[2] for t in tensors.values()))


@pytest.fixture
def edited(tmp_path):
    """edited(NAME, EDIT) -> a copy of a model after EDIT(tensors, config)."""

    def make(name, edit):
        folder = pathlib.Path(shutil.copytree(DATA / name, tmp_path / "edited", dirs_exist_ok=True))
        metadata, tensors = read(folder)
        config = json.loads((folder / "config.json").read_text())
        edit(tensors, config)
        write(folder, metadata, tensors)
        (folder / "config.json").write_text(json.dumps(config))
        return folder

    return make


def report_of(run, *command):
    result = run(*command, "--json", "-")
    return result.returncode, json.loads(result.stdout)


def causes(report):
    return [cause["id"] for cause in report["causes"]]


@pytest.mark.parametrize("name", NAMES)
def test_values_are_those_of_the_library_bit_for_bit(run, tmp_path, name):
    assert run("import", DATA / name, tmp_path / "megatron").returncode == 0
    result = run("export", tmp_path / "megatron", tmp_path / "plain", "--like", DATA / name, "--dtype", "bf16")
    assert result.returncode == 0, result.stderr
    assert "written plain" in result.stdout + result.stderr
    expected = json.loads((DATA / name / "values.json").read_text())["sha256"]
    _, tensors = read(tmp_path / "plain")
    assert {n: hashlib.sha256(t[2]).hexdigest() for n, t in tensors.items()} == expected
    assert {t[0] for t in tensors.values()} == {"BF16"}
    assert "quantization_config" not in json.loads((tmp_path / "plain/config.json").read_text())


@pytest.mark.parametrize("grid", [[], ["--tp", "2"], ["--tp", "2", "--pp", "2", "--ep", "2"]])
@pytest.mark.parametrize("name", NAMES)
def test_an_export_like_the_source_restores_the_file(run, tmp_path, name, grid):
    if name != "mxfp4":
        grid = grid[:2]  # one layer, no experts
    for step in (["import", DATA / name, tmp_path / "megatron", *grid], ["verify", DATA / name, tmp_path / "megatron"],
                 ["export", tmp_path / "megatron", tmp_path / "back", "--like", DATA / name]):
        result = run(*step)
        assert result.returncode == 0, result.stdout + result.stderr
    assert "every code is that of --like" in result.stdout + result.stderr
    for file in ("model.safetensors", "config.json"):
        assert (tmp_path / "back" / file).read_bytes() == (DATA / name / file).read_bytes()


@pytest.mark.parametrize("level", ["L0", "L1"])
@pytest.mark.parametrize("name", NAMES)
def test_roundtrip_judges_the_values_and_says_so(run, name, level):
    status, report = report_of(run, "roundtrip", DATA / name, "--level", level, "--tp", "2")
    assert status == 0 and report["verdict"] == "pass"
    scheme = name.split("_")[0]
    assert f"dequantize {scheme}" in {row["op"] for row in report["results"]}
    assert any(note["id"] == "dequantized" and scheme in note["message"] for note in report["notes"])
    names = {row["hf"][0]["name"] for row in report["results"]}
    assert not any(n.endswith(("_scale", "_scale_inv", "_scales", "_packed")) for n in names)


def test_the_values_of_a_widened_import_are_verified(run, tmp_path):
    assert run("import", DATA / "fp8_block", tmp_path / "megatron", "--dtype", "fp32").returncode == 0
    status, report = report_of(run, "verify", DATA / "fp8_block", tmp_path / "megatron")
    assert status == 0
    assert "dequantize fp8, cast bf16 -> fp32" in {row["op"] for row in report["results"]}
    result = run("export", tmp_path / "megatron", tmp_path / "back", "--like", DATA / "fp8_block")
    assert result.returncode == 0
    assert (tmp_path / "back/model.safetensors").read_bytes() == (DATA / "fp8_block/model.safetensors").read_bytes()


def drop(name):
    return lambda tensors, config: tensors.pop(name)


def add(name, *tensor):
    return lambda tensors, config: tensors.update({name: tensor})


def as_dtype(name, dtype, size):
    def edit(tensors, config):
        _, shape, content = tensors[name]
        tensors[name] = (dtype, shape, bytes(int(numpy.prod(shape)) * size))
    return edit


def block_size(*size):
    return lambda tensors, config: config["quantization_config"].update(weight_block_size=list(size))


@pytest.mark.parametrize("name,edit,cause", [
    ("fp8_block", drop(WEIGHT + "_scale_inv"), "scale-missing"),
    ("mxfp4", drop("model.layers.1.mlp.experts.down_proj_scales"), "scale-missing"),
    ("int4", drop(ATTENTION + ".weight_scale"), "scale-missing"),
    ("int4_zero_point", drop(ATTENTION + ".weight_zero_point"), "scale-missing"),
    ("nvfp4", drop(ATTENTION + ".weight_global_scale"), "scale-missing"),
    ("nvfp4_modelopt", drop(ATTENTION + ".weight_scale_2"), "scale-missing"),
    ("fp8_block", add("model.norm.weight_scale_inv", "F32", [1], bytes(4)), "scale-ignored"),
    ("fp8_tensor", add("model.layers.0.input_layernorm.weight_scale_inv", "BF16", [], bytes(2)), "scale-ignored"),
    ("fp8_block", add("model.layers.0.nothing.k_scale", "F32", [1], bytes(4)), "scale-ignored"),
    ("fp8_block", add(ATTENTION + ".input_scale", "F32", [2, 2], bytes(16)), "scale-ignored"),
    ("fp8_block", add(WEIGHT + "_scale_inv", "F32", [3, 3], bytes(36)), "shape-mismatch"),
    ("fp8_block", block_size(64, 64), "shape-mismatch"),
    ("fp8_channel", add(WEIGHT + "_scale", "BF16", [7, 1], bytes(14)), "shape-mismatch"),
    ("mxfp4", add("model.layers.0.mlp.experts.down_proj_scales", "U8", [4, 64, 1], bytes(256)), "shape-mismatch"),
    ("int4", add(ATTENTION + ".weight_shape", "I64", [2], struct.pack("<qq", 64, 72)), "shape-mismatch"),
    ("int4", add(ATTENTION + ".weight_shape", "I64", [2], struct.pack("<qq", 1 << 40, -1)), "shape-mismatch"),
    ("fp8_block", as_dtype(WEIGHT + "_scale_inv", "I32", 4), "scale-invalid"),
    ("mxfp4", as_dtype("model.layers.0.mlp.experts.down_proj_scales", "I32", 4), "scale-invalid"),
    ("int4_zero_point", as_dtype(ATTENTION + ".weight_zero_point", "F32", 4), "scale-invalid"),
])
@pytest.mark.parametrize("command", ["roundtrip", "import"])
def test_a_scale_that_is_missing_left_over_or_does_not_fit_is_named(run, edited, tmp_path, name, edit, cause, command):
    folder = edited(name, edit)
    if command == "import":
        result = run("import", folder, tmp_path / "megatron")
        assert result.returncode == 1 and "quantized weight" in result.stderr, result.stderr
        assert not (tmp_path / "megatron").exists()
        return
    for level in ("L0", "L1"):
        status, report = report_of(run, "roundtrip", folder, "--level", level)
        assert status == 1 and causes(report) == [cause]
        assert report["counts"]["failed"] >= 1


def test_the_table_of_quantization_is_found_in_a_part_of_the_config(run, edited):
    def nest(tensors, config):
        config["thinker_config"] = {"text_config": {"quantization_config": config.pop("quantization_config")}}

    status, report = report_of(run, "roundtrip", edited("fp8_channel", nest))
    assert status == 0 and "no quantization_config" not in json.dumps(report["notes"])


def test_groups_that_agree_on_a_block_have_it(run, edited, tmp_path):
    def twice(tensors, config):
        weights = {"block_structure": config["quantization_config"]["weight_block_size"]}
        config["quantization_config"] = {
            "quant_method": "compressed-tensors",
            "config_groups": {"group_0": {"weights": weights}, "group_1": {"weights": weights}}}

    before = run("manifest", DATA / "fp8_edges", "-o", tmp_path / "before.json")
    after = run("manifest", edited("fp8_edges", twice), "-o", tmp_path / "after.json")
    assert before.returncode == after.returncode == 0
    values = [[(t["name"], t["xxh3"]) for t in json.loads((tmp_path / f).read_text())["tensors"]]
              for f in ("before.json", "after.json")]
    assert values[0] == values[1]


def table_is(value):
    return lambda tensors, config: config.update(quantization_config=value)


def stored_plain(module):
    """The codes and scales of a module's weight make way for the weight in bf16."""
    def edit(tensors, config):
        for name in [n for n in tensors if n.startswith(module + ".")]:
            tensors.pop(name)
        tensors[module + ".weight"] = ("BF16", [64, 64], numpy.ones(64 * 64, ml_dtypes.bfloat16).tobytes())
    return edit


def table(**changes):
    return lambda tensors, config: config["quantization_config"].update(changes)


def weights(**changes):
    """Changes what the only group says of weights."""
    return lambda tensors, config: config["quantization_config"]["config_groups"]["group_0"]["weights"].update(changes)


def group(**changes):
    return lambda tensors, config: config["quantization_config"]["config_groups"]["group_0"].update(changes)


def two_groups(*groups):
    def edit(tensors, config):
        told = config["quantization_config"]["config_groups"]["group_0"]["weights"]
        config["quantization_config"]["config_groups"] = {
            f"group_{i}": {"targets": targets, "weights": {**told, **changes}}
            for i, (targets, changes) in enumerate(groups)}
    return edit


def static_inputs(**changes):
    return group(input_activations={"dynamic": False, "num_bits": 8, "strategy": "tensor", "type": "float", **changes})


def both(*edits):
    return lambda tensors, config: [edit(tensors, config) for edit in edits]


def scale_of_cache(kind):
    return add(f"model.layers.0.self_attn.{kind}_scale", "F32", [1], struct.pack("<f", 1))


CACHE = table(kv_cache_scheme={"dynamic": False, "num_bits": 8, "strategy": "tensor", "type": "float"})
CODES = "model.layers.0.mlp.up_proj"


@pytest.mark.parametrize("name,edit,cause,said", [
    ("int4", weights(num_bits=8), "quantization-config", ["num_bits 8", "four bits", "weight_shape"]),
    ("int4", weights(num_bits=2), "quantization-config", ["num_bits 2", "four bits"]),
    ("int4", weights(type="float"), "quantization-config", ["num_bits 4, type float", "int4 codes, i32 [64, 8]"]),
    ("int4", weights(group_size=64), "shape-mismatch", ["group_size 64", "[64, 2]"]),
    ("int4", weights(group_size=16), "shape-mismatch", ["group_size 16", "[64, 2]"]),
    ("int4", weights(strategy="channel", group_size=None), "shape-mismatch", ["strategy channel", "[64, 2]"]),
    ("int4", weights(strategy="tensor", group_size=None), "shape-mismatch", ["strategy tensor", "[64, 2]"]),
    ("int4", table(format="float-quantized"), "quantization-config", ["format float-quantized", "int4 codes"]),
    ("int4", group(format="nvfp4-pack-quantized"), "quantization-config", ["format nvfp4-pack-quantized", "int4 codes"]),
    ("int4", group(weights=None), "quantization-config", ["config_groups.group_0 says nothing of weights"]),
    ("int4", weights(symmetric=False), "scale-missing", ["weight_zero_point"]),
    ("int4_zero_point", weights(symmetric=True), "quantization-config", ["symmetric", "weight_zero_point"]),
    ("int4", drop(ATTENTION + ".weight_shape"), "scale-missing", ["weight_shape"]),
    ("int4", add(ATTENTION + ".weight_shape", "I64", [2], struct.pack("<qq", 64, 60)), "shape-mismatch", ["[64, 60]"]),
    ("int4", add(ATTENTION + ".weight_packed", "I32", [64, 9], bytes(64 * 9 * 4)), "shape-mismatch", ["[64, 72]"]),
    ("fp8_channel", weights(strategy="tensor"), "shape-mismatch", ["strategy tensor", "[64, 1]"]),
    ("fp8_channel", weights(strategy="block", block_structure=[32, 32]), "shape-mismatch", ["block_structure [32, 32]"]),
    ("fp8_channel", weights(num_bits=4), "quantization-config", ["num_bits 4", "fp8 codes, fp8_e4m3"]),
    ("fp8_channel", weights(type="int"), "quantization-config", ["num_bits 8, type int", "fp8 codes"]),
    ("fp8_channel", table(format="pack-quantized"), "quantization-config", ["format pack-quantized", "fp8 codes"]),
    ("fp8_block", table(quant_method="mxfp4"), "quantization-config", ["quant_method mxfp4", "fp8 codes"]),
    ("fp8_block", table(fmt="e5m2"), "quantization-config", ["fp8_e5m2", "fp8_e4m3"]),
    ("mxfp4", table(quant_method="fp8"), "quantization-config", ["quant_method fp8", "mxfp4 codes"]),
    ("nvfp4", weights(group_size=32), "shape-mismatch", ["group_size 32"]),
    ("nvfp4", table(format="mxfp4-pack-quantized"), "quantization-config", ["mxfp4-pack-quantized", "nvfp4 codes"]),
    ("nvfp4_modelopt", table(quant_algo="FP8"), "quantization-config", ["quant_algo FP8", "nvfp4 codes"]),
    ("int4", table(ignore=["lm_head", ATTENTION]), "quantization-config", ["ignore", ATTENTION]),
    ("int4", table(ignore=["re:.*self_attn.*"]), "quantization-config", ["ignore has 're:.*self_attn.*'"]),
    ("fp8_block", table(modules_to_not_convert=["model.layers.0.mlp"]), "quantization-config", ["modules_to_not_convert"]),
    ("fp8_block", table(ignored_layers=["q_proj"], modules_to_not_convert=None), "quantization-config", ["ignored_layers"]),
    ("mxfp4", table(modules_to_not_convert=["model.layers.*.mlp.experts"]), "quantization-config", ["experts"]),
    ("int4", group(targets=["re:.*nothing.*"]), "quantization-config", ["no group", "int4 codes"]),
    ("int4", group(targets=[ATTENTION]), "quantization-config", ["no group", "int4 codes"]),
    ("int4", group(targets=[]), "quantization-config", ["no group", "int4 codes"]),
    ("int4", group(targets=["Linear", "re:.*("]), "quantization-config", ["'re:.*('", "group_0.targets", "no regular expression"]),
    ("int4", table(ignore=["lm_head", "re:*_proj"]), "quantization-config", ["'re:*_proj'", "quantization_config.ignore"]),
    ("fp8_block", table(modules_to_not_convert=["*_proj"]), "quantization-config", ["'*_proj'", "no regular expression"]),
    # As transformers' should_convert_module reads them: an expression for the beginning of a name, or its very end.
    *[("fp8_block", table(modules_to_not_convert=["lm_head", entry]), "quantization-config",
       ["modules_to_not_convert has '" + entry + "'", ATTENTION])
      for entry in (".*q_proj", "roj", "mod", "model.layers.0.self_attn.q_pro", "model.layers.*.self_attn", "")],
    ("fp8_block", table(modules_to_not_convert=["model.layers.0.mlp.gate"]), "quantization-config", ["mlp.gate_proj"]),
    ("fp8_block", lambda tensors, config: config.pop("quantization_config"), "quantization-config",
     ["config.json has no quantization_config", "fp8 codes", "--config"]),
    ("int4", table_is(None), "quantization-config", ["config.json has no quantization_config", "int4 codes"]),
    ("mxfp4", table_is(None), "quantization-config", ["config.json has no quantization_config", "mxfp4 codes"]),
    ("int4", stored_plain(ATTENTION), "quantization-config", [ATTENTION + ".weight", "group_0 has it quantized", "bf16 [64, 64]"]),
    ("int4", both(stored_plain(ATTENTION), group(targets=["re:.*q_proj$", "re:.*(k|v|o|gate|up|down)_proj"])),
     "quantization-config", ["group_0 has it quantized"]),
    ("fp8_block", stored_plain(ATTENTION), "quantization-config", ["no list leaves it plain", "bf16 [64, 64]"]),
    ("int4", two_groups((["Linear"], {}), (["Linear"], {"group_size": 64})), "quantization-config", ["group_0", "group_1"]),
    ("fp8_tensor", drop(CODES + ".activation_scale"), "scale-missing", [CODES + ".activation_scale", "static"]),
    ("nvfp4_modelopt", drop(CODES + ".input_scale"), "scale-missing", [CODES + ".input_scale", "NVFP4"]),
    ("fp8_channel", static_inputs(), "scale-missing", ["input_scale", "input_activations"]),
    ("nvfp4", static_inputs(strategy="tensor_group", dynamic="local"), "scale-missing", ["input_global_scale"]),
    ("fp8_channel", CACHE, "scale-missing", ["self_attn.k_scale", "kv_cache_scheme"]),
    ("fp8_channel", both(CACHE, scale_of_cache("k")), "scale-missing", ["self_attn.v_scale"]),
])
def test_a_config_that_contradicts_the_files_is_named_with_what_they_show(run, edited, tmp_path, name, edit, cause, said):
    folder = edited(name, edit)
    for level in ("L0", "L1"):
        status, report = report_of(run, "roundtrip", folder, "--level", level)
        assert status == 1 and causes(report) == [cause]
        text = json.dumps(report, ensure_ascii=False)
        assert all(part in text for part in said), text
    result = run("import", folder, tmp_path / "megatron")
    assert result.returncode == 1 and not (tmp_path / "megatron").exists()


@pytest.mark.parametrize("name,edit", [
    ("int4", two_groups((["Linear"], {"group_size": 64}), (["re:.*_proj$"], {}))),  # an expression goes before a class
    ("int4", two_groups((["re:.*"], {"group_size": 64}), (["re:(?!x).*"], {"group_size": 64}), (["Linear"], {}),
                        ([f"model.layers.0.self_attn.{p}_proj" for p in "qkvo"]
                         + [f"model.layers.0.mlp.{p}_proj" for p in ("gate", "up", "down")], {}))),
    ("int4", table(ignore=["lm_head", "re:.*mlp\\.(x|y)_proj.*", "self_attn", "model.layers.0", "re:self_attn"])),
    ("fp8_block", table(modules_to_not_convert=["model.layers.0.mlp.gate$", "up", "model.layers.1", "lm_head", "ayers", "re:.*"])),
    ("int4", both(stored_plain(ATTENTION), table(ignore=["lm_head", ATTENTION]))),
    ("int4", both(stored_plain(ATTENTION), table(ignore=["re:.*q_proj"]))),
    ("fp8_block", both(stored_plain(ATTENTION), table(modules_to_not_convert=["model.layers.0.self_attn.q"]))),
    ("fp8_channel", both(static_inputs(), *[
        add(f"model.layers.0.{m}.input_scale", "F32", [1], struct.pack("<f", 1))
        for m in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj",
                  "mlp.up_proj", "mlp.down_proj")])),
    ("fp8_channel", both(CACHE, scale_of_cache("k"), scale_of_cache("v"))),
    ("fp8_channel", table(transform_config={}, sparsity_config={"format": "dense"}, kv_cache_scheme=None)),
    ("fp8_channel", group(targets=["Qwen3Linear"])),
    ("fp8_edges", stored_plain(ATTENTION)),  # blocks that do not divide it: transformers' writer leaves it plain
])
def test_a_config_that_agrees_in_other_words_passes_without_a_note(run, edited, name, edit):
    status, report = report_of(run, "roundtrip", edited(name, edit))
    assert status == 0, report["causes"]
    assert "quantization-config" not in {n["id"] for n in report["notes"]}


@pytest.mark.parametrize("name,edit,said", [
    ("fp8_channel", table(transform_config={"config_groups": {"R1": {"type": "hadamard", "apply": []}}}), "R1 (hadamard)"),
    ("fp8_channel", table(sparsity_config={"format": "sparse-24-bitmask"}), "sparse-24-bitmask"),
    ("int4", table(format="marlin-24"), "marlin-24"),
    ("int4", weights(actorder="group"), "actorder"),
    ("nvfp4_modelopt", table(quant_algo="NVFP4_AWQ"), "NVFP4_AWQ"),
    ("nvfp4_modelopt", add(ATTENTION + ".pre_quant_scale", "BF16", [64], bytes(128)), "scaled by columns"),
    ("int4", both(weights(num_bits=8), *[
        add(f"model.layers.0.{m}.weight_shape", "I64", [2], struct.pack("<qq", 64, 32)) for m in ("self_attn.q_proj",)]),
     "num_bits 8"),
])
def test_weights_that_are_transformed_or_packed_otherwise_are_refused_by_name(run, edited, name, edit, said):
    result = run("roundtrip", edited(name, edit))
    assert result.returncode == 2 and said in result.stderr and "hint:" in result.stderr, result.stderr


@pytest.mark.parametrize("edit,key", [
    (table(config_groups=[]), "quantization_config.config_groups"),
    (table(config_groups=None), "quantization_config.config_groups"),
    (table(config_groups={}), "quantization_config.config_groups"),
    (table(config_groups="x"), "quantization_config.config_groups"),
    (table(config_groups={"W4A16": ["Linear"]}), "quantization_config.config_groups.W4A16"),
    (group(weights=[1]), "config_groups.group_0.weights"),
    (group(targets="Linear"), "config_groups.group_0.targets"),
    (group(targets=[1]), "config_groups.group_0.targets"),
    (weights(num_bits="4"), "weights.num_bits"),
    (weights(num_bits=1 << 62), "weights.num_bits"),
    (weights(group_size=4.5), "weights.group_size"),
    (weights(group_size=None), "weights"),
    (weights(group_size=0), "weights"),
    (weights(strategy="token"), "weights"),
    (weights(symmetric="yes"), "weights.symmetric"),
    (weights(block_structure=[1]), "weights.block_structure"),
    (table(ignore="lm_head"), "quantization_config.ignore"),
    (table(ignore={"a": 1}), "quantization_config.ignore"),
    (table(format=3), "quantization_config.format"),
    (table(kv_cache_scheme=[]), "quantization_config.kv_cache_scheme"),
    (table(transform_config=[1]), "quantization_config.transform_config"),
    (group(input_activations="x"), "group_0.input_activations"),
])
def test_values_of_a_wrong_kind_in_the_table_are_no_judgement(run, edited, tmp_path, edit, key):
    folder = edited("int4", edit)
    for command in (["roundtrip", folder], ["import", folder, tmp_path / "megatron"], ["manifest", folder]):
        result = run(*command)
        assert result.returncode == 2 and key in result.stderr, (command, result.stderr)


def test_blocks_that_the_config_does_not_size_are_noted_or_refused_where_two_sizes_fit(run, edited):
    status, report = report_of(run, "roundtrip", edited("fp8_block", table(weight_block_size=None)))
    assert status == 0
    [note] = [n["message"] for n in report["notes"] if n["id"] == "quantization-config"]
    assert "7 weight(s)" in note and "32 x 32" in note

    def wide(tensors, config):  # 192 rows in two blocks: 128 and 64, or twice 96
        config["intermediate_size"] = 192
        for part in ("gate", "up"):
            name = f"model.layers.0.mlp.{part}_proj.weight"
            tensors[name] = ("F8_E4M3", [192, 64], bytes(192 * 64))
            tensors[name + "_scale_inv"] = ("F32", [2, 1], struct.pack("<ff", 1, 1))
        name = "model.layers.0.mlp.down_proj.weight"
        tensors[name] = ("F8_E4M3", [64, 192], bytes(192 * 64))
        tensors[name + "_scale_inv"] = ("F32", [1, 2], struct.pack("<ff", 1, 1))

    for size, status in (([128, 128], 0), ([96, 64], 1), (None, 1)):
        def edit(tensors, config):
            wide(tensors, config)
            for name in [n for n in tensors if "self_attn" in n and n.endswith("_scale_inv")]:
                tensors[name] = ("F32", [1, 1], tensors[name][2][:4])
            table(weight_block_size=size)(tensors, config)
        found, report = report_of(run, "roundtrip", edited("fp8_block", edit))
        assert found == status, (size, report["causes"])
    assert causes(report) == ["quantization-config"] and "blocks of 128 or of equal ones" in json.dumps(report)


@pytest.mark.parametrize("edit,said", [
    (table(activation_scheme="dynamic"), "7 scale(s) of activations are there, though config.json promises none "
                                         "(activation_scheme dynamic)"),
])
def test_scales_of_activations_that_the_config_does_not_promise_are_said(run, edited, edit, said):
    status, report = report_of(run, "roundtrip", edited("fp8_tensor", edit))
    assert status == 0 and any(said in n["message"] for n in report["notes"])


def test_a_weight_that_is_stored_plain_beside_quantized_ones_of_other_layers_fails(run, tmp_path, edited):
    def plain(tensors, config):
        # In a second layer, a copy of the first.
        config["num_hidden_layers"] = 2
        for name in [n for n in tensors if ".layers.0." in n]:
            tensors[name.replace(".0.", ".1.")] = tensors[name]
        tensors.pop("model.layers.1.mlp.down_proj.weight_scale_inv")
        tensors["model.layers.1.mlp.down_proj.weight"] = ("BF16", [64, 96], bytes(64 * 96 * 2))

    folder = edited("fp8_block", plain)
    status, report = report_of(run, "roundtrip", folder)
    assert status == 1 and causes(report) == ["quantization-config"] and report["counts"]["failed"] == 1
    assert "model.layers.1.mlp.down_proj.weight" in json.dumps(report["causes"])
    # Where the list may mean it, or is not wholly understood, it is said only.
    for entry in ("language_model.layers.1.mlp.down_proj", "(?!x)y"):
        status, report = report_of(run, "roundtrip", edited("fp8_block", both(plain, table(modules_to_not_convert=[entry]))))
        assert status == 0
        [note] = [n["message"] for n in report["notes"] if n["id"] == "quantization-config"]
        assert "1 weight(s) are stored plain" in note and "model.layers.1.mlp.down_proj.weight" in note
    folder = edited("fp8_block", both(plain, table(modules_to_not_convert=["model.layers.1.mlp.down_proj"])))
    status, report = report_of(run, "roundtrip", folder)
    assert status == 0 and "quantization-config" not in {n["id"] for n in report["notes"]}


def with_scale(name, index, value):
    """One element of a tensor of scales."""
    def edit(tensors, config):
        dtype, shape, content = tensors[name]
        item = {"F32": lambda v: struct.pack("<f", v), "BF16": lambda v: struct.pack("<f", v)[2:],
                "U8": lambda v: bytes([v])}[dtype](value)
        content = bytearray(content)
        content[index * len(item):(index + 1) * len(item)] = item
        tensors[name] = (dtype, shape, bytes(content))
    return edit


@pytest.mark.parametrize("name,edit", [
    ("fp8_block", with_scale(WEIGHT + "_scale_inv", 3, float("nan"))),
    ("fp8_block", with_scale(WEIGHT + "_scale_inv", 3, float("inf"))),
    ("fp8_tensor", with_scale(WEIGHT + "_scale_inv", 0, float("-inf"))),
    ("mxfp4", with_scale("model.layers.0.mlp.experts.down_proj_scales", 3, 255)),
    ("nvfp4", with_scale(ATTENTION + ".weight_global_scale", 0, 0.0)),
])
def test_a_scale_that_is_no_number_fails_where_values_are_read(run, edited, tmp_path, name, edit):
    folder = edited(name, edit)
    status, report = report_of(run, "roundtrip", folder)
    assert status == 1 and causes(report) == ["scale-invalid"] and report["counts"]["failed"] == 1
    assert report_of(run, "roundtrip", folder, "--level", "L0")[0] == 0
    # It is moved all the same, and comes back.
    for step in (["import", folder, tmp_path / "megatron"],
                 ["export", tmp_path / "megatron", tmp_path / "back", "--like", folder]):
        result = run(*step)
        assert result.returncode == 0, result.stderr
    assert read(tmp_path / "back")[1] == read(folder)[1]
    status, report = report_of(run, "verify", folder, tmp_path / "megatron")
    assert status == 1 and causes(report) == ["scale-invalid"]


@pytest.mark.parametrize("value", [0.0, -1e-4, 1e-44])
def test_a_scale_of_zero_and_a_negative_one_are_noted_and_come_back(run, edited, tmp_path, value):
    folder = edited("fp8_block", with_scale(WEIGHT + "_scale_inv", 1, value))
    status, report = report_of(run, "roundtrip", folder)
    assert status == 0
    note = {0.0: "scale-zero", -1e-4: "scale-negative", 1e-44: "scale-ambiguous"}[value]
    assert note in {n["id"] for n in report["notes"]}
    assert run("import", folder, tmp_path / "megatron").returncode == 0
    result = run("export", tmp_path / "megatron", tmp_path / "back", "--like", folder)
    assert "every code is that of --like" in result.stdout + result.stderr
    assert read(tmp_path / "back")[1] == read(folder)[1]


def test_values_that_the_scales_do_not_hold_are_rounded_and_counted(run, edited, tmp_path):
    """A model that was trained after it was imported: other weights, the scales of the source."""
    def other_codes(tensors, config):
        dtype, shape, content = tensors[WEIGHT]
        tensors[WEIGHT] = (dtype, shape, bytes(range(100, 110)) + content[10:])

    def other_scale(tensors, config):
        with_scale(WEIGHT + "_scale_inv", 0, 3.14159e-4)(tensors, config)

    trained = edited("fp8_block", other_codes)
    assert run("import", trained, tmp_path / "megatron").returncode == 0
    result = run("export", tmp_path / "megatron", tmp_path / "back", "--like", DATA / "fp8_block")
    assert result.returncode == 0
    assert "value(s) are not those of --like, 0 of them have no code" in result.stdout + result.stderr
    assert read(tmp_path / "back")[1] == read(trained)[1]

    shutil.rmtree(tmp_path / "edited")
    trained = edited("fp8_block", other_scale)
    assert run("import", trained, tmp_path / "megatron2").returncode == 0
    result = run("export", tmp_path / "megatron2", tmp_path / "back2", "--like", DATA / "fp8_block")
    assert result.returncode == 0
    text = result.stdout + result.stderr
    assert "have no code under its scales and were rounded" in text and " 0 of them have no code" not in text


def test_a_config_that_promises_quantized_weights_over_plain_ones_fails(run, tmp_path):
    folder = pathlib.Path(shutil.copytree(ROOT / "tests/testdata/hf/llama_tied", tmp_path / "plain"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "fp8"}}))
    result = run("roundtrip", folder, "--json", "-")
    assert result.returncode == 1 and "quantization-config" in result.stdout + result.stderr


def test_the_config_of_another_file_says_how_weights_are_quantized(run, edited, tmp_path):
    folder = edited("fp8_tensor", lambda tensors, config: config.pop("quantization_config"))
    other = ["--config", DATA / "fp8_tensor/config.json"]
    assert report_of(run, "roundtrip", folder)[0] == 1
    status, report = report_of(run, "roundtrip", folder, *other)
    assert status == 0 and "quantization-config" not in {n["id"] for n in report["notes"]}
    assert run("import", folder, tmp_path / "megatron").returncode == 1
    assert run("import", folder, tmp_path / "megatron", *other).returncode == 0


def filled(ending, fill):
    """Every tensor whose name ends so holds `fill`(its bytes)."""
    def edit(tensors, config):
        for name, (dtype, shape, content) in list(tensors.items()):
            if name.endswith(ending):
                tensors[name] = (dtype, shape, fill(content))
    return edit


@pytest.mark.parametrize("name,edit,failed,said", [
    ("fp8_block", filled("_scale_inv", lambda old: bytes(len(old))), 7, "all 4 scales are zero"),
    ("fp8_block", filled(WEIGHT + "_scale_inv", lambda old: bytes(len(old))), 1, "all 6 scales are zero"),
    ("int4", filled("q_proj.weight_scale", lambda old: bytes(len(old))), 1, "all 128 scales are zero"),
    ("nvfp4_modelopt", filled("q_proj.weight_scale_2", lambda old: bytes(len(old))), 1, "scales are zero"),
    ("fp8_block", filled(WEIGHT, lambda old: b"\x7f\xff" * (len(old) // 2)), 1, "every code is NaN"),
])
def test_a_weight_of_which_no_scale_or_no_code_has_a_value_fails(run, edited, tmp_path, name, edit, failed, said):
    folder = edited(name, edit)
    status, report = report_of(run, "roundtrip", folder)
    assert status == 1 and causes(report) == ["scale-invalid"] and report["counts"]["failed"] == failed
    assert said in json.dumps(report["causes"])
    run("import", folder, tmp_path / "megatron")
    status, report = report_of(run, "verify", folder, tmp_path / "megatron")
    assert status == 1 and causes(report) == ["scale-invalid"]


def test_one_code_that_is_a_number_is_enough(run, edited):
    edit = filled(WEIGHT, lambda old: b"\x7f" * (len(old) - 1) + old[-1:].replace(b"\x7f", b"\x01"))
    assert report_of(run, "roundtrip", edited("fp8_block", edit))[0] == 0


@pytest.mark.parametrize("method", ["gptq", "awq", "bitsandbytes", 7, ""])
def test_methods_that_are_not_read_are_refused_by_name(run, edited, method):
    folder = edited("fp8_block", lambda tensors, config: config["quantization_config"].update(quant_method=method))
    result = run("roundtrip", folder)
    assert result.returncode == 2 and "dequantize to bf16 first" in result.stderr


@pytest.mark.parametrize("size", [[0, 32], [-1, 1], [1], "128", [1 << 62, 1], [32.5, 32]])
def test_block_sizes_that_are_none_are_refused(run, edited, size):
    folder = edited("fp8_block", lambda tensors, config: config["quantization_config"].update(weight_block_size=size))
    result = run("roundtrip", folder)
    assert result.returncode in (1, 2) and "weight_block_size" in result.stdout + result.stderr


def test_a_weight_that_is_there_twice_is_refused(run, edited):
    folder = edited("int4", add(ATTENTION + ".weight", "BF16", [64, 64], bytes(8192)))
    result = run("roundtrip", folder, "--json", "-")
    assert result.returncode == 1 and "duplicate-name" in result.stdout + result.stderr


def test_one_changed_value_of_a_megatron_checkpoint_is_found_in_its_codes(run, edited, tmp_path):
    def change(tensors, config):
        dtype, shape, content = tensors[WEIGHT]
        tensors[WEIGHT] = (dtype, shape, content[:64 * 17 + 5] + bytes([content[64 * 17 + 5] ^ 8]) + content[64 * 17 + 6:])

    assert run("import", edited("fp8_block", change), tmp_path / "megatron").returncode == 0
    status, report = report_of(run, "verify", DATA / "fp8_block", tmp_path / "megatron")
    assert status == 1
    [row] = [row for row in report["results"] if row["status"] == "mismatch"]
    assert row["first"]["hf"] == {"name": WEIGHT, "index": [17, 5]}
    assert row["mismatched"] == 1


def plain_values(values_of):
    """Turns a model of FP8 blocks into one of bf16 weights: values_of(codes as float32, scales of each element)."""
    def edit(tensors, config):
        config.pop("quantization_config")
        for name in [n for n in tensors if n.endswith("_scale_inv")]:
            _, grid, scales = tensors.pop(name)
            _, shape, codes = tensors[name.removesuffix("_scale_inv")]
            codes = numpy.frombuffer(codes, ml_dtypes.float8_e4m3fn).reshape(shape).astype(numpy.float32)
            scales = numpy.frombuffer(scales, numpy.float32).reshape(grid)
            scales = scales.repeat(shape[0] // grid[0], 0).repeat(shape[1] // grid[1], 1)
            with numpy.errstate(all="ignore"):
                values = values_of(codes, scales).astype(ml_dtypes.bfloat16)
            tensors[name.removesuffix("_scale_inv")] = ("BF16", shape, values.tobytes())
    return edit


@pytest.mark.parametrize("values_of,cause", [
    (lambda codes, scales: codes * scales, None),
    (lambda codes, scales: codes, "scale-ignored"),
    (lambda codes, scales: codes / scales, "scale-inverted"),
])
def test_the_mistake_of_a_bridge_that_misread_the_scales_is_named(run, edited, tmp_path, values_of, cause):
    assert run("import", edited("fp8_block", plain_values(values_of)), tmp_path / "megatron").returncode == 0
    status, report = report_of(run, "verify", DATA / "fp8_block", tmp_path / "megatron")
    assert status == (1 if cause else 0)
    assert causes(report) == ([cause] if cause else [])
    assert report["counts"]["failed"] == (4 if cause else 0)


def test_two_codes_of_a_byte_taken_in_the_wrong_order_are_named(run, edited, tmp_path):
    def swap(tensors, config):
        for name, (dtype, shape, content) in list(tensors.items()):
            if name.endswith("_blocks"):
                tensors[name] = (dtype, shape, bytes((b >> 4) | (b & 15) << 4 for b in content))

    assert run("import", edited("mxfp4", swap), tmp_path / "megatron").returncode == 0
    status, report = report_of(run, "verify", DATA / "mxfp4", tmp_path / "megatron")
    assert status == 1 and causes(report) == ["nibble-order"]


def manifest_of(run, *arguments):
    result = run("manifest", *arguments, "-q")
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def without_stored(manifest):
    tensors = [{k: v for k, v in t.items() if k != "stored"} for t in manifest["tensors"]]
    return {**manifest, "tensors": tensors}


@pytest.mark.parametrize("name", NAMES)
def test_a_manifest_has_an_entry_as_stored_and_one_of_the_values(run, tmp_path, name):
    manifest = manifest_of(run, DATA / name)
    jsonschema.validate(manifest, json.loads((ROOT / "docs/manifest.schema.json").read_text()))
    _, tensors = read(DATA / name)
    listed = {t["name"] for t in manifest["tensors"] if "stored" not in t}
    for stored in (t["stored"] for t in manifest["tensors"] if "stored" in t):
        assert stored["scheme"] == name.split("_")[0] and len(stored["tensors"]) >= 2
        for part in stored["tensors"]:
            _, shape, content = tensors[part["name"]]
            assert (part["shape"], part["xxh3"]) == (shape, xxhash.xxh3_128_hexdigest(content))
            listed.add(part["name"])
    assert listed == {n for n in tensors if not n.endswith((".input_scale", ".activation_scale", ".input_global_scale"))}
    assert run("import", DATA / name, tmp_path / "megatron", "--tp", "2").returncode == 0
    assert manifest_of(run, tmp_path / "megatron", "--like", DATA / name) == without_stored(manifest)
    export = ["export", tmp_path / "megatron", tmp_path / "plain", "--like", DATA / name, "--dtype", "bf16"]
    assert run(*export).returncode == 0
    assert manifest_of(run, tmp_path / "plain") == without_stored(manifest)


@pytest.mark.parametrize("name", NAMES)
def test_verify_prints_which_entry_of_a_manifest_matched(run, tmp_path, name):
    (tmp_path / "m.json").write_text(json.dumps(manifest_of(run, DATA / name)))
    scheme = name.split("_")[0]
    status, report = report_of(run, "verify", DATA / name, tmp_path / "m.json")
    assert status == 0 and report["verdict"] == "pass"
    quantized = {row["why"] for row in report["results"] if row["op"] == f"dequantize {scheme}"}
    assert quantized == {f"matched the manifest's entry in bf16, and as stored in {scheme}"}
    assert run("import", DATA / name, tmp_path / "megatron").returncode == 0
    status, report = report_of(run, "verify", tmp_path / "megatron", tmp_path / "m.json")
    assert status == 0
    assert "matched the manifest's entry in bf16, dequantized" in {row["why"] for row in report["results"]}


def test_other_codes_of_the_same_values_match_a_manifest_by_value(run, edited, tmp_path):
    """Under a scale of zero every code is worth zero."""
    def zero(code):
        def edit(tensors, config):
            with_scale(WEIGHT + "_scale_inv", 0, 0.0)(tensors, config)
            dtype, shape, content = tensors[WEIGHT]
            tensors[WEIGHT] = (dtype, shape, bytes([code]) + content[1:])
        return edit

    (tmp_path / "m.json").write_text(json.dumps(manifest_of(run, edited("fp8_block", zero(16)))))
    folder = edited("fp8_block", zero(17))
    status, report = report_of(run, "verify", folder, tmp_path / "m.json")
    assert status == 0
    [why] = {row["why"] for row in report["results"] if "differ" in row.get("why", "")}
    assert why == "matched the manifest's entry in bf16, dequantized; its codes or scales differ"
    (tmp_path / "other.json").write_text(json.dumps(manifest_of(run, DATA / "fp8_block")))
    status, report = report_of(run, "verify", folder, tmp_path / "other.json")
    assert status == 1 and causes(report) == ["unexplained"] and report["counts"]["failed"] == 1


def test_ranks_of_quantized_weights_hold_the_values(run, tmp_path):
    """What each rank would hold is equal for the codes and for the plain weights that the libraries make of them."""
    for name in ("fp8_block", "mxfp4"):
        assert run("import", DATA / name, tmp_path / name).returncode == 0
        export = ["export", tmp_path / name, tmp_path / f"{name}_plain", "--like", DATA / name, "--dtype", "bf16"]
        assert run(*export).returncode == 0
        grid = ["--ranks", "--tp", "2"]
        hashes = []
        for command in (["roundtrip", DATA / name], ["roundtrip", tmp_path / f"{name}_plain"],
                        ["verify", DATA / name, tmp_path / name]):
            status, report = report_of(run, *command, *grid)
            assert status == 0
            hashes.append([(row["megatron"]["name"], row["rank"], row["xxh3"]) for row in report["results"]])
        assert hashes[0] == hashes[1] == hashes[2] and len(hashes[0]) >= 18


def test_a_scale_that_is_no_number_fails_on_every_rank(run, edited):
    folder = edited("fp8_block", with_scale(WEIGHT + "_scale_inv", 3, float("nan")))
    status, report = report_of(run, "roundtrip", folder, "--ranks", "--tp", "2")
    assert status == 1 and causes(report) == ["scale-invalid"]
    failed = [row for row in report["results"] if row["status"] == "mismatch"]
    assert {row["rank"]["tp"] for row in failed if row["rank"]} == {0, 1}


@pytest.mark.parametrize("name,dtype", [
    ("model.layers.0.self_attn.q_proj.weight", "F32"), ("model.layers.0.mlp.up_proj.weight", "F32"),
    ("model.layers.0.mlp.gate_proj.weight", "F16")])
def test_parts_of_a_fused_tensor_in_two_dtypes_are_named(run, edited, tmp_path, name, dtype):
    def plain(tensors, config):
        _, shape, _ = tensors[name]
        tensors.pop(name + "_scale_inv")
        tensors[name] = (dtype, shape, bytes(int(numpy.prod(shape)) * (4 if dtype == "F32" else 2)))
        table(modules_to_not_convert=[name.removesuffix(".weight"), "lm_head"])(tensors, config)

    folder = edited("fp8_block", plain)
    for level in ("L0", "L1"):
        status, report = report_of(run, "roundtrip", folder, "--level", level)
        assert status == 1 and causes(report) == ["mixed-dtypes"]
        text = json.dumps(report)
        assert f"{name} is {'fp32' if dtype == 'F32' else 'fp16'}" in text and "is bf16" in text
        assert report["counts"]["passed"] > 3
    result = run("import", folder, tmp_path / "megatron")
    assert result.returncode == 1 and name in result.stderr


PARTS = [("text_config", [1]), ("vision_config", []), ("vision_config", "x"), ("quantization_config", []),
         ("quantization_config", "x"), ("quantization_config", 3), ("thinker_config", {"text_config": [1]})]


@pytest.mark.parametrize("key,value", PARTS)
def test_parts_of_a_config_that_are_no_tables_have_one_message_in_every_command(run, tmp_path, key, value):
    source = ROOT / "tests/testdata/hf/llama_tied"
    assert run("import", source, tmp_path / "megatron").returncode == 0
    folder = pathlib.Path(shutil.copytree(source, tmp_path / "broken"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, key: value}))
    named = f"'{key}.text_config'" if isinstance(value, dict) else f"'{key}'"
    said = set()
    for command in (["inspect", folder], ["roundtrip", folder], ["roundtrip", folder, "--family", "llama"],
                    ["verify", folder, tmp_path / "megatron"], ["import", folder, tmp_path / "other"],
                    ["export", tmp_path / "megatron", tmp_path / "hf", "--like", folder],
                    ["export", tmp_path / "megatron", tmp_path / "hf", "--config", folder / "config.json"],
                    ["manifest", folder], ["toy", tmp_path / "toy", "--like", folder, "--num-hidden-layers", "1"],
                    ["toy", tmp_path / "toy", "--config", folder / "config.json"],
                    ["families", "expand", "--config", folder / "config.json"]):
        result = run(*command)
        assert result.returncode == 2, (command, result.stdout, result.stderr)
        said.add(result.stderr.splitlines()[0])
    [line] = said
    assert named in line and "a table is expected" in line


@pytest.mark.parametrize("key", ["text_config", "vision_config", "quantization_config"])
def test_a_part_of_a_config_that_is_null_is_not_there(run, tmp_path, key):
    folder = pathlib.Path(shutil.copytree(ROOT / "tests/testdata/hf/llama_tied", tmp_path / "null"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, key: None}))
    for command in ("inspect", "roundtrip", "manifest"):
        assert run(command, folder).returncode == 0
