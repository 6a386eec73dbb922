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


def test_quantized_weights_without_a_config_are_read_and_noted(run, edited):
    folder = edited("fp8_tensor", lambda tensors, config: config.pop("quantization_config"))
    status, report = report_of(run, "roundtrip", folder)
    assert status == 0 and "quantization-config" in {n["id"] for n in report["notes"]}


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
