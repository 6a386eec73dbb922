"""`verify` names how a converter misread quantized weights. Each wrong checkpoint is made by importing a copy of a quantized model
(tests/testdata/quantized) whose codes and scales were changed so that dequantizing them gives what the mistake gives; it is then judged
against the right model. Mistakes that no change of scales can give are computed with numpy."""
import json

import ml_dtypes
import numpy
import pytest
from processes import end_ranks, start_ranks

from test_quantized import DATA, NAMES, causes, edited, plain_values, report_of  # noqa: F401 (edited is a fixture)

DTYPES = {"F32": numpy.float32, "BF16": ml_dtypes.bfloat16, "F8_E4M3": ml_dtypes.float8_e4m3fn, "U8": numpy.uint8,
          "I32": numpy.uint32}
SCALES = (".weight_scale_inv", ".weight_scale", "_scales")
GLOBAL = {"nvfp4": ".weight_global_scale", "nvfp4_modelopt": ".weight_scale_2"}
BESIDE = (*SCALES, *GLOBAL.values(), ".weight_zero_point")
FOUR_BITS = [n for n in NAMES if not n.startswith("fp8")]
ATTENTION, MLP = "model.layers.0.self_attn.", "model.layers.0.mlp."
QKV, PROJ = (f"decoder.layers.0.self_attention.linear_{n}.weight" for n in ("qkv", "proj"))
FC1 = "decoder.layers.0.mlp.linear_fc1.weight"
EXPERTS = "decoder.layers.{}.mlp.experts.linear_fc{}.weight{}"


def array(tensor):
    return numpy.frombuffer(tensor[2], DTYPES[tensor[0]]).reshape(tensor[1])


def change(part, endings, value):
    """Changes each tensor of `part` (a piece of its name) that ends so: value(array) -> array of the same shape."""
    def edit(tensors, config):
        changed = 0
        for name, tensor in tensors.items():
            if part not in name or not name.endswith(endings):
                continue
            found = array(tensor)
            new = numpy.ascontiguousarray(value(found)).astype(found.dtype)
            new = new.reshape(found.shape) if found.ndim == 0 else new
            assert new.shape == found.shape
            changed += new.tobytes() != tensor[2]
            tensors[name] = (tensor[0], tensor[1], new.tobytes())
        assert changed > 0
    return edit


def exchange(a, b, endings=BESIDE):
    """Tensors of module a take those of b, and the reverse."""
    def edit(tensors, config):
        pairs = [(n, b + n.removeprefix(a)) for n in tensors if n.startswith(a) and n.endswith(endings)]
        assert pairs
        for x, y in pairs:
            assert tensors[x][:2] == tensors[y][:2] and tensors[x] != tensors[y]
            tensors[x], tensors[y] = tensors[y], tensors[x]
    return edit


def every(*edits):
    return lambda tensors, config: [edit(tensors, config) for edit in edits]


def ones(x):
    return numpy.full_like(x, 127) if x.dtype == numpy.uint8 else numpy.ones_like(x)


def powers(x):
    """Scales that have an exact inverse, no two neighbours the same."""
    if x.dtype == numpy.uint8:
        return 120 + numpy.arange(x.size).reshape(x.shape) % 5
    return 2.0 ** (numpy.arange(x.size).reshape(x.shape) % 5 - 6)


def inverse(x):
    return 254 - x if x.dtype == numpy.uint8 else 1 / x.astype(numpy.float32)


def nibbles(x, order):
    """The codes of each row in another order: order(codes of a row, [..., K]) -> the same."""
    packed = x.view(numpy.uint8)
    codes = numpy.stack([packed & 15, packed >> 4], -1).reshape(*packed.shape[:-1], -1)
    codes = order(codes)
    pairs = codes.reshape(*packed.shape, 2)
    return (pairs[..., 0] | pairs[..., 1] << 4).astype(numpy.uint8).view(x.dtype)


CODES = ("_blocks", ".weight_packed", ".weight")
of_codes = {
    "high first": lambda c: c.reshape(-1, 2)[:, ::-1].reshape(c.shape),
    "eight reversed": lambda c: c.reshape(-1, 8)[:, ::-1].reshape(c.shape),
    "AWQ": lambda c: c.reshape(-1, 8)[:, [0, 2, 4, 6, 1, 3, 5, 7]].reshape(c.shape),
    "AWQ undone": lambda c: c.reshape(-1, 8)[:, [0, 4, 1, 5, 2, 6, 3, 7]].reshape(c.shape),
    "low half, high half": lambda c: numpy.concatenate([c[..., 0::2], c[..., 1::2]], -1),
}


@pytest.fixture
def judge(run, edited, tmp_path):  # noqa: F811
    """judge(NAME, wrong, right=None): Megatron's files from the model after `wrong`, against the model after `right`."""

    def call(name, wrong, right=None):
        folder = edited(name, every(right, wrong) if right else wrong)
        result = run("import", folder, tmp_path / "megatron", "--overwrite")
        assert result.returncode == 0, result.stderr
        good = edited(name, right) if right else DATA / name
        status, report = report_of(run, "verify", good, tmp_path / "megatron", "--level", "L1")
        assert status == 1, report
        return report

    return call


def only(report, cause, where=None):
    assert causes(report) == [cause], report["causes"]
    [found] = report["causes"]
    assert found["proof"] == "exact"
    if where is not None:
        assert found["where"] == where
    return found


DENSE = [n for n in NAMES if n != "mxfp4"]


@pytest.mark.parametrize("name", DENSE)
def test_gate_under_the_scales_of_up(judge, name):
    found = only(judge(name, exchange(MLP + "gate_proj", MLP + "up_proj")), "scale-misaligned", [FC1])
    assert f"{MLP}gate_proj.weight: the scales of {MLP}up_proj.weight" in found["evidence"]


@pytest.mark.parametrize("name", DENSE)
def test_one_part_of_a_fused_tensor_under_the_scales_of_another(judge, name):
    def wrong(tensors, config):
        for ending in BESIDE:
            if ATTENTION + "k_proj" + ending in tensors:
                tensors[ATTENTION + "k_proj" + ending] = tensors[ATTENTION + "v_proj" + ending]

    found = only(judge(name, wrong), "scale-misaligned", [QKV])
    assert found["evidence"].startswith(f"{ATTENTION}k_proj.weight: the scales of {ATTENTION}v_proj.weight")


@pytest.mark.parametrize("module", ["gate_up_proj", "down_proj"])
def test_experts_under_the_scales_of_another_layer(judge, module):
    report = judge("mxfp4", exchange(f"{MLP}experts.{module}", f"model.layers.1.mlp.experts.{module}"))
    found = only(report, "scale-misaligned")
    assert found["where"] == [EXPERTS.format("*", 1 if module == "gate_up_proj" else 2, "*")]
    assert found["evidence"] == "the scales of the same tensor of model.layers.1; the scales of the same tensor of model.layers.0"


def second_layer(tensors, config):
    """Layer 1 with the codes of layer 0, turned round, under scales of its own."""
    config["num_hidden_layers"] = 2
    for name, (dtype, shape, content) in list(tensors.items()):
        if not name.startswith("model.layers.0."):
            continue
        if name.endswith(SCALES):
            content = numpy.ascontiguousarray(array((dtype, shape, content)).reshape(-1)[::-1] * DTYPES[dtype](0.5)).tobytes()
        elif name.endswith(("_packed", ".weight")) and dtype != "BF16":
            content = content[::-1]
        tensors[name.replace("layers.0.", "layers.1.")] = (dtype, shape, content)


@pytest.mark.parametrize("name", DENSE)
def test_later_layers_under_the_scales_of_the_first(judge, name):
    """As where a pipeline stage counts its layers from 0."""
    def wrong(tensors, config):
        for key in [n for n in tensors if n.startswith("model.layers.1.") and n.endswith(SCALES)]:
            tensors[key] = tensors[key.replace("layers.1.", "layers.0.")]

    found = only(judge(name, wrong, second_layer), "scale-misaligned")
    assert {w.split(".")[2] for w in found["where"]} == {"1"} and len(found["where"]) == 4
    assert found["evidence"].startswith("the scales of the same tensor of model.layers.0")


@pytest.mark.parametrize("by", [1, 2])
def test_experts_under_the_scales_of_other_experts(judge, by):
    report = judge("mxfp4", change("layers.0.mlp.experts.down_proj", SCALES, lambda x: numpy.roll(x, by, 0)))
    found = only(report, "scale-misaligned", [EXPERTS.format(0, 2, e) for e in range(4)])
    assert f"each expert under the scales of the expert {4 - by} further" in found["evidence"]


BLOCKS = [("fp8_block", "q_proj"), ("fp8_channel", "q_proj"), ("fp8_edges", "o_proj"), ("int4", "up_proj"),
          ("int4_zero_point", "o_proj"), ("mxfp4", "layers.0.mlp.experts.gate_up_proj"), ("nvfp4", "o_proj"),
          ("nvfp4_modelopt", "k_proj")]


@pytest.mark.parametrize("name,module", BLOCKS)
@pytest.mark.parametrize("moved,what", [
    (lambda x: numpy.roll(x, 1, -2), "the previous"),
    (lambda x: numpy.concatenate([x[..., 1:, :], x[..., -1:, :]], -2), "the next, the last twice"),
])
def test_scales_shifted_by_a_row_of_blocks(judge, name, module, moved, what):
    found = only(judge(name, change(module, SCALES, moved)), "scale-misaligned")
    if "zero" not in name and "block" not in name and "edges" not in name:
        assert f"each row of blocks under the scales of {what}" in found["evidence"]


@pytest.mark.parametrize("name,module", [b for b in BLOCKS if b[0] != "fp8_channel"])
def test_scales_shifted_by_a_column_of_blocks(judge, name, module):
    only(judge(name, change(module, SCALES, lambda x: numpy.roll(x, 1, -1))), "scale-misaligned")


@pytest.mark.parametrize("name,module", [b for b in BLOCKS if b[0] != "fp8_channel"])
@pytest.mark.parametrize("moved", [
    lambda x: numpy.swapaxes(x, -1, -2).reshape(x.shape),
    lambda x: numpy.swapaxes(x.reshape(*x.shape[:-2], x.shape[-1], x.shape[-2]), -1, -2),
])
def test_a_transposed_grid_of_scales(judge, name, module, moved):
    only(judge(name, change(module, SCALES, moved)), "scale-misaligned")


def channel_values(values_of):
    """As plain_values, of FP8 with a scale for each row."""
    def edit(tensors, config):
        config.pop("quantization_config")
        for name in [n for n in tensors if n.endswith(".weight_scale")]:
            scales = array(tensors.pop(name)).astype(numpy.float32)
            weight = tensors[name.removesuffix("_scale")]
            codes = array(weight).astype(numpy.float32)
            square = codes.shape[0] == codes.shape[1]
            values = (values_of if square else numpy.multiply)(codes, scales).astype(ml_dtypes.bfloat16)
            tensors[name.removesuffix("_scale")] = ("BF16", weight[1], values.tobytes())
    return edit


def test_scales_of_rows_applied_to_columns(judge):
    found = only(judge("fp8_channel", channel_values(lambda codes, scales: codes * scales.T)), "scale-misaligned", [QKV, PROJ])
    assert "the scales of rows taken for columns" in found["evidence"]


def test_a_grid_of_scales_that_is_repeated_and_its_elements_not(judge):
    """numpy.tile in the place of numpy.repeat."""
    def tiled(codes, scales):
        grid = scales[::32, ::32]
        return codes * numpy.tile(grid, (32, 32))[:codes.shape[0], :codes.shape[1]]

    found = only(judge("fp8_block", plain_values(tiled)), "scale-misaligned")
    assert "the grid of scales repeated, its elements not" in found["evidence"]


@pytest.mark.parametrize("name", NAMES)
def test_scales_left_out_of_all_tensors_and_of_one_part(judge, name):
    endings = (*SCALES, *([GLOBAL[name]] if name in GLOBAL else []))
    only(judge(name, change("", endings, ones)), "scale-ignored")
    part = "v_proj" if name != "mxfp4" else "layers.1.mlp.experts.gate_up_proj"
    found = only(judge(name, change(part, endings, ones)), "scale-ignored")
    assert found["where"] == ([QKV] if name != "mxfp4" else [EXPERTS.format(1, 1, e) for e in range(4)])
    assert "the codes taken for the values" in found["evidence"]


@pytest.mark.parametrize("name", NAMES)
def test_codes_divided_by_their_scales(judge, name):
    right = change("", SCALES, powers)
    if name in GLOBAL:
        right = every(right, change("", GLOBAL[name], ones))
    for part in ("", "k_proj" if name != "mxfp4" else "layers.0.mlp.experts.down_proj"):
        only(judge(name, change(part, SCALES, inverse), right), "scale-inverted")


@pytest.mark.parametrize("name", GLOBAL)
def test_the_scale_of_the_scales_left_out_or_inverted(judge, name):
    found = only(judge(name, change("", GLOBAL[name], ones)), "scale-ignored")
    assert "the scale of the scales left out" in found["evidence"]
    right = change("", GLOBAL[name], lambda x: numpy.full_like(x, 4))
    only(judge(name, change("", GLOBAL[name], inverse), right), "scale-inverted")


def test_zero_points_left_out(judge):
    found = only(judge("int4_zero_point", change("", ".weight_zero_point", lambda x: numpy.full_like(x, 0x88888888))), "scale-ignored")
    assert "the zero points left out" in found["evidence"]


def packed_codes(name):
    return ".weight" if name == "nvfp4_modelopt" else CODES[:2]


@pytest.mark.parametrize("name", FOUR_BITS)
@pytest.mark.parametrize("order", ["high first", "low half, high half"])
def test_codes_of_four_bits_in_another_order(judge, name, order):
    module = "proj" if name != "mxfp4" else "experts"
    wrong = change(module, packed_codes(name), lambda x: nibbles(x, of_codes[order]))
    only(judge(name, wrong), "nibble-order")


@pytest.mark.parametrize("name", ["int4", "int4_zero_point"])
@pytest.mark.parametrize("order", ["eight reversed", "AWQ", "AWQ undone"])
def test_codes_of_an_int32_in_another_order(judge, name, order):
    only(judge(name, change("proj", ".weight_packed", lambda x: nibbles(x, of_codes[order]))), "nibble-order")


@pytest.mark.parametrize("name", FOUR_BITS)
def test_the_order_of_codes_in_one_part_of_a_fused_tensor(judge, name):
    part = "v_proj" if name != "mxfp4" else "layers.1.mlp.experts.gate_up_proj"
    wrong = change(part, packed_codes(name), lambda x: nibbles(x, of_codes["high first"]))
    found = only(judge(name, wrong), "nibble-order")
    assert found["where"] == ([QKV] if name != "mxfp4" else [EXPERTS.format(1, 1, e) for e in range(4)])


def test_two_parts_that_were_misread_differently(judge):
    wrong = every(change("gate_proj", ".weight_packed", lambda x: nibbles(x, of_codes["high first"])),
                  change("up_proj", ".weight_scale", ones))
    report = judge("int4", wrong)
    assert set(causes(report)) == {"nibble-order", "scale-ignored"}, report["causes"]
    assert all(c["where"] == [FC1] for c in report["causes"])


def test_misread_codes_that_were_moved_too(judge):
    swap = exchange(MLP + "gate_proj", MLP + "up_proj", (*BESIDE, ".weight_packed"))
    report = judge("int4", every(change("mlp", ".weight_packed", lambda x: nibbles(x, of_codes["high first"])), swap))
    assert {c["id"] for c in report["causes"] if FC1 in c["where"]} == {"nibble-order", "gate-up-swapped"}, report["causes"]


def test_the_codes_and_scales_of_another_tensor_are_its_values(judge):
    """Right values in the wrong place are no misreading."""
    report = judge("fp8_block", exchange(ATTENTION + "k_proj", ATTENTION + "v_proj", (*BESIDE, ".weight")))
    assert causes(report) == ["qkv-order"], report["causes"]


def test_a_flipped_code_is_no_misreading(judge):
    def flip(x):
        x = x.copy()
        x.view(numpy.uint8)[5, 7] ^= 1
        return x

    report = judge("int4", change("o_proj", ".weight_packed", flip))
    assert causes(report) == ["bit-flip"] or causes(report) == ["unexplained"], report["causes"]


def test_processes_of_a_job_name_it_as_one_does(run, edited, program, tmp_path):  # noqa: F811
    """They divide the comparison, and the first of them searches."""
    folder = edited("fp8_block", exchange(MLP + "gate_proj", MLP + "up_proj"))
    assert run("import", folder, tmp_path / "megatron").returncode == 0
    command = ["verify", DATA / "fp8_block", tmp_path / "megatron", "--level", "L1", "--json", "-"]
    ended = end_ranks(start_ranks(program, 2, command, cwd=tmp_path))
    assert [status for status, _, _ in ended] == [1, 1]
    assert causes(json.loads(ended[0][1])) == ["scale-misaligned"]
