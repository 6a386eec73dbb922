"""Megatron checkpoints that hold a model's weights in another form than a model of Megatron's has them: as 8-bit floats, as packed codes,
norms under the names of another module spec. numpy makes the tensors from a Hugging Face folder, torch_dist_tool writes them
(WEIGHBRIDGE_TORCH_DIST_TOOL; by default the newest build/*/tests/torch_dist_tool)."""
import json
import os
import pathlib
import shutil
import subprocess

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from test_diagnose import Source
from test_misread_codes import array
from test_quantized import DATA, read

ROOT = pathlib.Path(__file__).resolve().parents[2]
DTYPES = {"bfloat16": "bf16", "float32": "fp32", "float8_e4m3fn": "fp8_e4m3", "float8_e5m2": "fp8_e5m2", "uint8": "u8", "int8": "i8",
          "int32": "i32"}
LAYERS = 4
LAYER = "decoder.layers.{}."
FC2, PROJ = LAYER + "mlp.linear_fc2.weight", LAYER + "self_attention.linear_proj.weight"
INPUT, MLP_NORM = LAYER + "self_attention.linear_qkv.layer_norm_weight", LAYER + "mlp.linear_fc1.layer_norm_weight"


@pytest.fixture(scope="module")
def tool():
    if named := os.environ.get("WEIGHBRIDGE_TORCH_DIST_TOOL"):
        return named
    built = sorted(ROOT.glob("build/*/tests/torch_dist_tool"), key=lambda p: p.stat().st_mtime)
    if not built:
        pytest.fail("torch_dist_tool is not built: cmake --build --preset dev --target torch_dist_tool")
    return built[-1]


@pytest.fixture(scope="module")
def hf(program, tmp_path_factory):
    """A random Llama of four layers."""
    folder = tmp_path_factory.mktemp("hf") / "llama"
    subprocess.run([program, "toy", folder, "--family", "llama", "--seed", "5"], check=True, capture_output=True)
    return folder


def megatron_tensors(source, layers=LAYERS):
    """As a GPTModel of Transformer Engine's modules names and holds them, layers numbered."""
    out = {"embedding.word_embeddings.weight": source["model.embed_tokens.weight"],
           "decoder.final_layernorm.weight": source["model.norm.weight"]}
    if "lm_head.weight" in source.tensors:
        out["output_layer.weight"] = source["lm_head.weight"]
    for i in range(layers):
        hf = f"model.layers.{i}."
        out |= {INPUT.format(i): source[hf + "input_layernorm.weight"],
                LAYER.format(i) + "self_attention.linear_qkv.weight": source.qkv(i),
                PROJ.format(i): source[hf + "self_attn.o_proj.weight"],
                MLP_NORM.format(i): source[hf + "post_attention_layernorm.weight"],
                LAYER.format(i) + "mlp.linear_fc1.weight": source.fc1(i),
                FC2.format(i): source[hf + "mlp.down_proj.weight"]}
    return out


@pytest.fixture
def judge(run, tool, hf, tmp_path):
    """judge(change, OPTION...): the status and report of `verify`, the tensors having been changed."""

    def call(change, *options, source=None, tensors=None):
        tensors = tensors or megatron_tensors(Source(hf))
        change(tensors)
        rows = [{"key": key, "dtype": DTYPES[x.dtype.name], "shape": list(x.shape),
                 "chunks": [{"offsets": [0] * x.ndim, "sizes": list(x.shape), "writer": 0}]} for key, x in tensors.items()]
        (tmp_path / "plan.json").write_text(json.dumps({"tensors": rows, "entries": []}))
        (tmp_path / "data.bin").write_bytes(b"".join(np.ascontiguousarray(x).tobytes() for x in tensors.values()))
        folder = tmp_path / f"megatron{len(list(tmp_path.iterdir()))}"
        subprocess.run([tool, "write", tmp_path / "plan.json", tmp_path / "data.bin", folder], check=True, capture_output=True)
        result = run("verify", source or hf, folder, "--json", "-", *(options or ["--level", "L1"]))
        return result.returncode, json.loads(result.stdout)

    return call


def only(judged, cause):
    status, report = judged
    assert status == 1, report
    assert [c["id"] for c in report["causes"]] == [cause], report["causes"]
    return report["causes"][0], [row for row in report["results"] if row["status"] in ("mismatch", "missing")]


def as_is(tensors):
    pass


def stored(key, value, layers=range(LAYERS)):
    def change(tensors):
        for i in layers:
            tensors[key.format(i)] = value(tensors[key.format(i)])
    return change


def renamed(a, b, layers=range(LAYERS)):
    """Keys a as b, in their place."""
    def change(tensors):
        names = {a.format(i): b.format(i) for i in layers}
        moved = {names.get(key, key): x for key, x in tensors.items()}
        assert moved.keys() != tensors.keys()
        tensors.clear()
        tensors.update(moved)
    return change


def test_what_is_stored_as_megatron_has_it_passes(judge):
    status, report = judge(as_is)
    assert status == 0 and report["counts"]["failed"] == 0


# -- 8-bit floats --

FLOATS = [(ml_dtypes.float8_e4m3fn, 448), (ml_dtypes.float8_e5m2, 57344)]


def cast(dtype, x):
    with np.errstate(all="ignore"):
        return x.astype(np.float32).astype(dtype)


@pytest.mark.parametrize("dtype,largest", FLOATS)
def test_a_weight_that_is_rounded_to_an_8_bit_float_is_a_fault_until_it_is_asked_for(judge, dtype, largest):
    change = stored(FC2, lambda x: cast(dtype, x))
    cause, rows = only(judge(change), "dtype-rounded")
    name = DTYPES[np.dtype(dtype).name]
    assert cause["proof"] == "exact" and f"narrowed from bf16 to {name}" in cause["message"]
    assert cause["where"] == [FC2.format(i) for i in range(LAYERS)] and len(rows) == LAYERS
    status, report = judge(change, "--level", "L1", "--expect-dtype", name)
    assert status == 0 and "match-rounded" in {row["status"] for row in report["results"]}
    cause, rows = only(judge(change, "--ranks", "--tp", "2"), "dtype-rounded")
    assert {row["rank"]["tp"] for row in rows} == {0, 1}


@pytest.mark.parametrize("dtype,largest", FLOATS)
@pytest.mark.parametrize("clipped", [False, True])
def test_values_beyond_an_8_bit_float_are_those_of_torch_or_clipped(judge, hf, tmp_path, dtype, largest, clipped):
    source = shutil.copytree(hf, tmp_path / "large")
    tensors = load_file(source / "model.safetensors")
    name = "model.layers.1.mlp.down_proj.weight"
    tensors[name] = tensors[name].copy()
    tensors[name][3, ::5] = 2.0 * largest
    tensors[name][4, ::7] = -1.5 * largest
    save_file(tensors, source / "model.safetensors", {"format": "pt"})

    def change(megatron):
        x = tensors[name].astype(np.float32)
        megatron[FC2.format(1)] = cast(dtype, np.clip(x, -largest, largest) if clipped else x)

    cause, rows = only(judge(change, source=source), "dtype-rounded")
    assert cause["proof"] == "exact" and len(rows) == 1
    assert ("clipped" in cause["evidence"]) == clipped


def test_the_cast_to_8_bit_floats_is_that_of_ml_dtypes_for_every_bf16(judge, hf, tmp_path):
    """Every bf16 value but NaN, whose payload no cast promises."""
    source = shutil.copytree(hf, tmp_path / "all")
    tensors = load_file(source / "model.safetensors")
    every = np.arange(65536, dtype=np.uint32).astype(np.uint16).view(ml_dtypes.bfloat16)
    every = np.where(np.isnan(every.astype(np.float32)), np.zeros_like(every), every)
    name = "model.embed_tokens.weight"
    shape = tensors[name].shape
    for begin in range(0, 65536, int(np.prod(shape))):
        part = np.resize(every[begin:begin + int(np.prod(shape))], shape)
        save_file(tensors | {name: part}, source / "model.safetensors", {"format": "pt"})
        for dtype, _ in FLOATS:
            def change(megatron, dtype=dtype, part=part):
                megatron["embedding.word_embeddings.weight"] = cast(dtype, part)
            cause, _ = only(judge(change, source=source), "dtype-rounded")
            assert "narrowed" in cause["message"], cause


@pytest.mark.parametrize("dtype,largest", FLOATS)
def test_an_8_bit_float_of_other_values_is_a_fault_as_any(judge, dtype, largest):
    zeros = stored(FC2, lambda x: np.zeros(x.shape, dtype), [1])
    assert "zero-filled" == only(judge(zeros), "zero-filled")[0]["id"]
    rng = np.random.default_rng(1)
    only(judge(stored(FC2, lambda x: cast(dtype, rng.standard_normal(x.shape)), [1])), "uninitialized")
    # Rounded down in the place of to the nearest.
    truncated = stored(FC2, lambda x: cast(dtype, x.astype(np.float32) * 0.97), [1])
    status, report = judge(truncated)
    assert status == 1 and "dtype-rounded" not in [c["id"] for c in report["causes"]]


def test_a_float8_checkpoint_is_not_exported_as_if_it_were_plain(run, judge, tmp_path):
    judge(stored(FC2, lambda x: cast(ml_dtypes.float8_e4m3fn, x)))
    [folder] = tmp_path.glob("megatron*")
    result = run("export", folder, tmp_path / "out", "--family", "llama", "--dtype", "bf16")
    assert result.returncode != 0 and not (tmp_path / "out").exists()


def test_fp8_codes_that_were_taken_over_without_their_scales(judge):
    """Megatron's weights are the codes themselves, in their dtype; the other tensors are plain."""
    source = Source.__new__(Source)
    source.tensors = {name: array(tensor) for name, tensor in read(DATA / "fp8_block")[1].items()}
    cause, rows = only(judge(as_is, source=DATA / "fp8_block", tensors=megatron_tensors(source, 1)), "scale-ignored")
    assert cause["proof"] == "exact" and len(rows) == 4


# -- packed codes --

def packed(dtype, each):
    def value(x):
        return np.random.default_rng(2).integers(0, 100, (x.shape[0], -(-x.shape[1] // each))).astype(dtype)
    return value


PACKED = [(np.uint8, 2), (np.int8, 2), (np.int32, 8), (np.int32, 4)]


@pytest.mark.parametrize("dtype,each", PACKED)
def test_packed_codes_in_megatrons_files(judge, dtype, each):
    for options in ([], ["--level", "L0"], ["--ranks", "--tp", "2"]):
        cause, rows = only(judge(stored(FC2, packed(dtype, each)), *options), "packed-quantized")
        assert f"{each} codes of {32 // each if dtype == np.int32 else 4} bits in each {DTYPES[np.dtype(dtype).name]}" in cause["evidence"]
        assert cause["hint"] and [row["megatron"]["name"] for row in rows] == [FC2.format(i) for i in range(LAYERS)]


@pytest.mark.parametrize("dtype,each", PACKED)
def test_packed_codes_in_an_hf_file_without_scales_and_config(run, judge, hf, tmp_path, dtype, each):
    source = shutil.copytree(hf, tmp_path / "packed")
    tensors = load_file(source / "model.safetensors")
    name = "model.layers.1.mlp.down_proj.weight"
    tensors[name] = packed(dtype, each)(tensors[name])
    save_file(tensors, source / "model.safetensors", {"format": "pt"})
    cause, rows = only(judge(as_is, source=source), "packed-quantized")
    assert cause["where"][0].startswith(name) and [row["hf"][0]["name"] for row in rows] == [name]
    for command in (["roundtrip", source], ["import", source, tmp_path / "out"]):
        result = run(*command)
        assert result.returncode == 1 and "packed" in result.stdout + result.stderr, result.stdout + result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int32])
def test_codes_of_the_same_shape_have_no_scale(judge, dtype):
    for options in ([], ["--level", "L0"]):
        cause, _ = only(judge(stored(FC2, lambda x: np.ones(x.shape, dtype)), *options), "scale-missing")
        assert "without a scale" in cause["evidence"]


def test_another_shape_is_not_packed(judge):
    only(judge(stored(FC2, lambda x: x[:, : x.shape[1] // 2])), "shape-mismatch")
    only(judge(stored(FC2, lambda x: np.ones((x.shape[0], x.shape[1] // 3), np.uint8))), "shape-mismatch")


# -- norms --

ALONE = LAYER + "{}layernorm.weight"
INPUT_ALONE, MLP_NORM_ALONE = LAYER + "input_layernorm.weight", LAYER + "pre_mlp_layernorm.weight"


def all_alone(tensors):
    renamed(INPUT, INPUT_ALONE)(tensors)
    renamed(MLP_NORM, MLP_NORM_ALONE)(tensors)


def test_norms_of_one_module_spec_pass(judge):
    assert judge(all_alone)[0] == 0


@pytest.mark.parametrize("fused,alone,layers", [
    (MLP_NORM, MLP_NORM_ALONE, range(LAYERS)), (INPUT, INPUT_ALONE, range(LAYERS)), (INPUT, INPUT_ALONE, [1])])
def test_a_mixture_of_module_specs_is_named_with_both_names(judge, fused, alone, layers):
    for options in ([], ["--level", "L0"]):
        cause, _ = only(judge(renamed(fused, alone, layers), *options), "layernorm-alias")
        assert alone.format(layers[0]) in cause["evidence"] and fused.format(layers[0]) in cause["evidence"], cause


def test_the_fewer_are_the_others(judge):
    def change(tensors):
        all_alone(tensors)
        renamed(INPUT_ALONE, INPUT, [2])(tensors)

    cause, _ = only(judge(change), "layernorm-alias")
    assert cause["where"] == [INPUT.format(2)]


@pytest.mark.parametrize("other", [LAYER + "self_attention.in_proj.layer_norm_weight", LAYER + "self_attention.linear_q_down_proj.layer_norm_weight"])
def test_a_norm_under_a_name_of_other_modules(judge, other):
    cause, rows = only(judge(renamed(INPUT, other)), "layernorm-alias")
    assert INPUT_ALONE.format(0) in rows[0]["why"] and other.format(0) in rows[0]["why"]
    assert [row["status"] for row in rows] == ["missing"] * LAYERS


def test_a_norm_that_is_nowhere_is_missing(judge):
    only(judge(lambda tensors: tensors.pop(INPUT.format(1))), "tensor-missing")
    status, report = judge(renamed(INPUT, LAYER + "somewhere.layernorm.weight", [1]))
    assert status == 1 and {c["id"] for c in report["causes"]} == {"tensor-missing", "tensor-extra"}


# -- padded files --

@pytest.mark.parametrize("value,said", [(0, "the 32 beyond are zeros, so the file is padded"), (1, "the 32 beyond are not all zero")])
def test_rows_beyond_those_of_the_config_are_looked_at(run, program, tmp_path, value, said):
    """Kimi K3's released files have 32 zeros behind the 96 values of A_log."""
    folder = tmp_path / "kimi"
    subprocess.run([program, "toy", folder, "--family", "kimi_k3", "--seed", "5"], check=True, capture_output=True)
    tensors = load_file(folder / "model.safetensors")
    padded = [n for n in tensors if n.endswith("A_log")]
    for name in padded:
        tensors[name] = np.concatenate([tensors[name], np.full(32, value, tensors[name].dtype)])
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    result = run("roundtrip", folder, "--json", "-")
    report = json.loads(result.stdout)
    assert result.returncode == 1 and [c["id"] for c in report["causes"]] == ["shape-mismatch"]
    assert said in report["causes"][0]["evidence"] and len(padded) > 0
