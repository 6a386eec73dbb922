"""`verify` names the mistake behind a Megatron checkpoint that differs. Each wrong checkpoint is made by importing a source whose
tensors were changed so that Megatron's tensors come out as a wrong converter makes them (numpy, on bits); it is then judged against
the right source."""
import json
import shutil

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

HEADS, GROUPS = 6, 2
# Models whose experts are square: no shape tells that a matrix is transposed.
SQUARE_DOWN = ("gpt_oss", "hidden_size=48", "intermediate_size=48")
SQUARE_GATE_UP = ("gpt_oss", "hidden_size=80", "intermediate_size=40")
SQUARE_ONE_BY_ONE = ("qwen3_moe", "hidden_size=48", "moe_intermediate_size=48")
ATTENTION = "model.layers.{}.self_attn."
MLP = "model.layers.{}.mlp."
FAMILIES = ["llama", "qwen2", "qwen3_moe", "deepseek_v3", "nemotron_h", "gemma2"]


class Source:
    """The tensors of a toy model, and the changes that are made to them."""

    def __init__(self, folder):
        self.folder = folder
        self.tensors = load_file(folder / "model.safetensors")

    def __getitem__(self, name):
        return self.tensors[name]

    def __setitem__(self, name, value):
        assert name in self.tensors, name
        assert value.shape == self.tensors[name].shape and value.dtype == self.tensors[name].dtype, name
        self.tensors[name] = np.ascontiguousarray(value)

    def qkv(self, layer, suffix=".weight"):
        q, k, v = (self[ATTENTION.format(layer) + part + "_proj" + suffix] for part in "qkv")
        parts = [x.reshape(GROUPS, x.shape[0] // GROUPS, -1) for x in (q, k, v)]
        return np.concatenate(parts, 1).reshape(-1, parts[0].shape[2])

    def set_qkv(self, layer, fused, suffix=".weight"):
        names = [ATTENTION.format(layer) + part + "_proj" + suffix for part in "qkv"]
        sizes = [self[name].shape[0] // GROUPS for name in names]
        grouped = fused.reshape(GROUPS, sum(sizes), -1)
        at = 0
        for name, size in zip(names, sizes):
            self[name] = grouped[:, at:at + size].reshape(self[name].shape)
            at += size

    def whole_qkv(self, layer, suffix=".weight"):
        return np.concatenate([self[ATTENTION.format(layer) + part + "_proj" + suffix] for part in "qkv"])

    def fc1(self, layer):
        return np.concatenate([self[MLP.format(layer) + part + "_proj.weight"] for part in ("gate", "up")])

    def set_fc1(self, layer, fused):
        half = len(fused) // 2
        self[MLP.format(layer) + "gate_proj.weight"] = fused[:half]
        self[MLP.format(layer) + "up_proj.weight"] = fused[half:]


@pytest.fixture(scope="module")
def toys(program, tmp_path_factory):
    """toys(MODEL) -> the folder of a random model, a family or (family, KEY=VALUE...); each is made once."""
    import subprocess
    root, made = tmp_path_factory.mktemp("toys"), {}

    def make(model):
        family, *settings = [model] if isinstance(model, str) else model
        if model not in made:
            made[model] = root / str(len(made))
            options = [part for setting in settings for part in ("--set", setting)]
            subprocess.run([program, "toy", made[model], "--family", family, "--seed", "5", *options], check=True,
                           capture_output=True)
        return made[model]

    return make


def changed(model, folder, change):
    """A copy of `model` in `folder`, its tensors changed."""
    shutil.copytree(model, folder)
    source = Source(folder)
    change(source)
    save_file(source.tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture
def judge(run, toys, tmp_path):
    """judge(MODEL, change, IMPORT OPTION...) -> the report of `verify`. `right`: what the right source has of such a change."""

    def call(model, change, *options, right=None):
        good = changed(toys(model), tmp_path / "good", right) if right else toys(model)
        bad = changed(toys(model), tmp_path / "bad", change)
        result = run("import", bad, tmp_path / "megatron", *options)
        assert result.returncode == 0, result.stderr
        run("verify", good, tmp_path / "megatron", "--runtime", "none", "--json", tmp_path / "report.json")
        return json.loads((tmp_path / "report.json").read_text())

    return call


def layers_of(source):
    return range(1 + max(int(name.split(".")[2]) for name in source.tensors if name.startswith("model.layers.")))


def every_layer(change):
    def all_layers(source):
        for layer in layers_of(source):
            change(source, layer)
    return all_layers


def one_layer(change, layer=1):
    return lambda source: change(source, layer)


def halves_to_pairs(x, heads):
    d = x.shape[0] // heads
    return x.reshape(heads, 2, d // 2, -1).transpose(0, 2, 1, 3).reshape(x.shape)


def rope_permuted(s, i):
    for part, heads in (("q", HEADS), ("k", GROUPS)):
        name = ATTENTION.format(i) + part + "_proj.weight"
        s[name] = halves_to_pairs(s[name], heads)


def kv_swapped(s, i):
    a = ATTENTION.format(i)
    s[a + "k_proj.weight"], s[a + "v_proj.weight"] = s[a + "v_proj.weight"].copy(), s[a + "k_proj.weight"].copy()


def query_heads_dealt(s, i):
    name = ATTENTION.format(i) + "q_proj.weight"
    x = s[name]
    s[name] = x.reshape(HEADS // GROUPS, GROUPS, -1, x.shape[1]).swapaxes(0, 1).reshape(x.shape)


def two_heads_swapped(s, i):
    name = ATTENTION.format(i) + "q_proj.weight"
    x = s[name].reshape(HEADS, -1).copy()
    x[[0, 4]] = x[[4, 0]]
    s[name] = x.reshape(s[name].shape)


def gate_up_swapped(s, i):
    m = MLP.format(i)
    s[m + "gate_proj.weight"], s[m + "up_proj.weight"] = s[m + "up_proj.weight"].copy(), s[m + "gate_proj.weight"].copy()


def interleaved(x):
    return x.reshape(2, -1, x.shape[1]).swapaxes(0, 1).reshape(x.shape)


def cut_as_one_block(x, ranks):
    return x.reshape(ranks, 2, -1, x.shape[1]).swapaxes(0, 1).reshape(x.shape)


def through(dtype, x):
    return x.astype(dtype).astype(x.dtype)


def set_values(name, value):
    def change(s, i):
        s[name.format(i)] = value(s[name.format(i)])
    return change


def swap_layers(names, a, b):
    def change(s):
        for name in [n for n in s.tensors if n.startswith(f"model.layers.{a}.") and names in n]:
            other = name.replace(f"layers.{a}.", f"layers.{b}.")
            s[name], s[other] = s[other].copy(), s[name].copy()
    return change


def copy_layer(source_layer, target_layer):
    def change(s):
        for name in [n for n in s.tensors if n.startswith(f"model.layers.{source_layer}.")]:
            s[name.replace(f"layers.{source_layer}.", f"layers.{target_layer}.")] = s[name]
    return change


def shift_layers(s):
    old = {n: x.copy() for n, x in s.tensors.items()}
    last = max(layers_of(s))
    for name in old:
        if name.startswith("model.layers."):
            layer = int(name.split(".")[2])
            source = name.replace(f"layers.{layer}.", f"layers.{(layer + 1) % (last + 1)}.")
            s[name] = old[source]


def rows_of(x, begin, end, value):
    x = x.copy()
    x[begin:end] = value(x[begin:end])
    return x


def fresh(x, seed=3):
    return (np.random.default_rng(seed).standard_normal(x.shape) * 0.02).astype(x.dtype)


def fresh_tensors(names):
    """Matrices are drawn anew, norms are ones, as a model is before it is loaded."""
    def change(s):
        for seed, name in enumerate(n for n in s.tensors if names in n):
            s[name] = np.ones_like(s[name]) if "norm" in name else fresh(s[name], seed)
    return change


def adapted(x):
    rng = np.random.default_rng(4)
    delta = rng.standard_normal((x.shape[0], 2)) @ rng.standard_normal((2, x.shape[1]))
    return (x.astype(np.float64) + 0.3 * float(x.astype(np.float64).std()) * delta).astype(x.dtype)


def flipped(s, i):
    name = MLP.format(i) + "down_proj.weight"
    bits = s[name].copy().view(np.uint16)
    bits[5, 7] ^= 1 << 14
    s[name] = bits.view(s[name].dtype)


def experts_reversed(s, i):
    names = sorted(n for n in s.tensors if n.startswith(MLP.format(i) + "experts."))
    old = {n: s[n].copy() for n in names}
    count = 1 + max(int(n.split("experts.")[1].split(".")[0]) for n in names)
    for n in names:
        e = int(n.split("experts.")[1].split(".")[0])
        s[n] = old[n.replace(f"experts.{e}.", f"experts.{count - 1 - e}.")]


def experts_stacked_wrong(s, i):
    """[experts, out, in] read as [out, experts, in]."""
    names = sorted((n for n in s.tensors if n.startswith(MLP.format(i) + "experts.") and n.endswith("down_proj.weight")),
                   key=lambda n: int(n.split("experts.")[1].split(".")[0]))
    stacked = np.stack([s[n] for n in names])
    confused = stacked.reshape(stacked.shape[1], len(names), -1).swapaxes(0, 1)
    for name, x in zip(names, confused):
        s[name] = x


def half_the_adapter(x):
    """A merge with alpha / rank twice too large, of an adapter that the source has merged once."""
    rng = np.random.default_rng(8)
    a, b = rng.standard_normal((4, x.shape[1])), rng.standard_normal((x.shape[0], 4))
    return (x.astype(np.float64) + 0.01 * b @ a).astype(x.dtype)


def experts_transposed(s, i):
    for name in [n for n in s.tensors if n.startswith(MLP.format(i) + "experts.") and "down_proj" in n]:
        s[name] = s[name].T


def one_expert(expert, value):
    """Of experts that stand in one tensor."""
    def stacked(x):
        x = x.copy()
        x[expert] = value(x[expert])
        return x
    return stacked


def another_value(x):
    """One element with a value that no few bits make of it."""
    x = x.copy()
    x[3, 5] *= np.asarray(-1.7, x.dtype)
    return x


O_PROJ, DOWN = ATTENTION + "o_proj.weight", MLP + "down_proj.weight"
ROUTER_BIAS = MLP + "gate.e_score_correction_bias"
NORM = "model.layers.{}.input_layernorm.weight"
QKV = "decoder.layers.{}.self_attention.linear_qkv.weight"
FC1, FC2 = "decoder.layers.{}.mlp.linear_fc1.weight", "decoder.layers.{}.mlp.linear_fc2.weight"
PROJ = "decoder.layers.{}.self_attention.linear_proj.weight"
LN = "decoder.layers.{}.self_attention.linear_qkv.layer_norm_weight"
EXPERTS_DOWN, EXPERTS_GATE_UP = MLP + "experts.down_proj", MLP + "experts.gate_up_proj"
EXPERTS_FC1, EXPERTS_FC2 = "decoder.layers.{}.mlp.experts.linear_fc1.weight{}", "decoder.layers.{}.mlp.experts.linear_fc2.weight{}"

# name: (family, what is done, cause, where)
CASES = {
    "q, k and v concatenated": ("llama", every_layer(lambda s, i: s.set_qkv(i, s.whole_qkv(i))), "qkv-concatenated", [QKV.format("*")]),
    "q, k and v concatenated in one layer": ("llama", one_layer(lambda s, i: s.set_qkv(i, s.whole_qkv(i))), "qkv-concatenated", [QKV.format(1)]),
    "k and v swapped": ("llama", every_layer(kv_swapped), "qkv-order", [QKV.format("*")]),
    "query heads dealt to the groups": ("llama", every_layer(query_heads_dealt), "qkv-head-order", [QKV.format("*")]),
    "two heads swapped": ("llama", one_layer(two_heads_swapped), "qkv-head-order", [QKV.format(1)]),
    "gate and up swapped": ("llama", every_layer(gate_up_swapped), "gate-up-swapped", [FC1.format("*")]),
    "gate and up interleaved": ("llama", every_layer(lambda s, i: s.set_fc1(i, interleaved(s.fc1(i)))), "gate-up-interleaved", [FC1.format("*")]),
    "gate and up cut as one block by 4 ranks": ("llama", one_layer(lambda s, i: s.set_fc1(i, cut_as_one_block(s.fc1(i), 4))), "tp-gate-up", [FC1.format(1)]),
    "output projection transposed": ("llama", one_layer(set_values(O_PROJ, lambda x: x.T.reshape(x.shape))), "transposed", [PROJ.format(1)]),
    "down projection transposed and read as it was": ("llama", one_layer(set_values(DOWN, lambda x: np.ascontiguousarray(x.T).reshape(x.shape))), "transposed", [FC2.format(1)]),
    "square experts transposed": (SQUARE_DOWN, every_layer(set_values(EXPERTS_DOWN, lambda x: x.swapaxes(1, 2))), "transposed", [EXPERTS_FC2.format("*", "*")]),
    "one square expert transposed": (SQUARE_DOWN, one_layer(set_values(EXPERTS_DOWN, one_expert(2, np.transpose))), "transposed", [EXPERTS_FC2.format(1, 2)]),
    "square gate and up of experts transposed": (SQUARE_GATE_UP, every_layer(set_values(EXPERTS_GATE_UP, lambda x: x.swapaxes(1, 2))), "transposed", [EXPERTS_FC1.format("*", "*")]),
    "square experts of one layer transposed, one by one": (SQUARE_ONE_BY_ONE, one_layer(experts_transposed, 0), "transposed", [EXPERTS_FC2.format(0, e) for e in range(4)]),
    "rotary halves as pairs": ("llama", every_layer(rope_permuted), "rope-permuted", [QKV.format("*")]),
    "shards in another order": ("llama", one_layer(set_values(DOWN, lambda x: np.concatenate(np.split(x, 2, 1)[::-1], 1))), "tp-order", [FC2.format(1)]),
    "a shard twice": ("llama", one_layer(set_values(DOWN, lambda x: np.concatenate([np.split(x, 2, 1)[0]] * 2, 1))), "tp-order", [FC2.format(1)]),
    "cut along the wrong axis": ("llama", one_layer(set_values(DOWN, lambda x: x.reshape(x.shape[0], 2, -1).swapaxes(0, 1).reshape(x.shape))), "tp-axis", [FC2.format(1)]),
    "norm plus 1": ("llama", every_layer(set_values(NORM, lambda x: (x.astype(np.float32) + 1).astype(x.dtype))), "norm-offset", [LN.format("*")]),
    "norm minus 1": ("gemma2", one_layer(set_values(NORM, lambda x: (x.astype(np.float32) - 1).astype(x.dtype))), "norm-offset", [LN.format(1)]),
    "values through float8": ("llama", one_layer(set_values(DOWN, lambda x: through(ml_dtypes.float8_e4m3fn, x))), "dtype-rounded", [FC2.format(1)]),
    "zeros": ("llama", one_layer(set_values(DOWN, np.zeros_like)), "zero-filled", [FC2.format(1)]),
    "zeros with a sign": ("llama", one_layer(set_values(DOWN, lambda x: x * np.asarray(0, x.dtype))), "zero-filled", [FC2.format(1)]),
    "norm plus 2": ("llama", every_layer(set_values(NORM, lambda x: (x.astype(np.float32) + 2).astype(x.dtype))), "norm-offset", [LN.format("*")]),
    "zeros in k alone": ("llama", one_layer(set_values(ATTENTION + "k_proj.weight", np.zeros_like)), "zero-filled", [QKV.format(1)]),
    "zeros in some rows": ("llama", one_layer(set_values(DOWN, lambda x: rows_of(x, 8, 20, np.zeros_like))), "zero-filled", [FC2.format(1)]),
    "scaled": ("llama", one_layer(set_values(DOWN, lambda x: (x.astype(np.float64) * 0.3535533905932738).astype(x.dtype))), "scaled", [FC2.format(1)]),
    "queries scaled": ("llama", every_layer(set_values(ATTENTION + "q_proj.weight", lambda x: (x.astype(np.float64) / 12 ** 0.5).astype(x.dtype))), "scaled", [QKV.format("*")]),
    "negative": ("llama", one_layer(set_values(DOWN, lambda x: -x)), "sign-flipped", [FC2.format(1)]),
    "fresh values": ("llama", one_layer(set_values(DOWN, fresh)), "uninitialized", [FC2.format(1)]),
    "fresh values in every expert": ("mixtral", fresh_tensors(".experts."), "uninitialized", [EXPERTS_FC1.format("*", "*"), EXPERTS_FC2.format("*", "*")]),
    "fresh values in a layer": ("llama", fresh_tensors(".layers.2."), "uninitialized", None),
    "a norm of ones": ("llama", one_layer(set_values(NORM, np.ones_like)), "uninitialized", [LN.format(1)]),
    "NaN": ("llama", one_layer(set_values(DOWN, lambda x: np.full_like(x, np.nan))), "not-finite", [FC2.format(1)]),
    "NaN in some rows": ("llama", one_layer(set_values(DOWN, lambda x: rows_of(x, 3, 5, lambda r: np.full_like(r, np.nan)))), "not-finite", [FC2.format(1)]),
    "a flipped bit": ("llama", one_layer(flipped), "bit-flip", [FC2.format(1)]),
    "a value changed": ("llama", one_layer(set_values(DOWN, another_value)), "bit-flip", [FC2.format(1)]),
    "experts of the router moved": ("qwen3_moe", one_layer(set_values(MLP + "gate.weight", lambda x: np.roll(x, 1, 0)), 0), "expert-order", ["decoder.layers.0.mlp.router.weight"]),
    "correction biases of the router moved": ("deepseek_v3", one_layer(set_values(ROUTER_BIAS, lambda x: np.roll(x, 1, 0)), 2), "expert-order", ["decoder.layers.2.mlp.router.expert_bias"]),
    "an adapter merged": ("llama", one_layer(set_values(DOWN, adapted)), "adapter-unmerged", [FC2.format(1)]),
    "two layers swapped": ("llama", swap_layers("", 0, 2), "layer-offset", None),
    "one tensor of two layers swapped": ("llama", swap_layers("down_proj", 0, 2), "layer-offset", [FC2.format(0), FC2.format(2)]),
    "layers shifted": ("llama", shift_layers, "layer-offset", None),
    "a layer twice": ("llama", copy_layer(0, 2), "layer-duplicated", None),
    "a tensor of another layer": ("llama", lambda s: s.__setitem__(DOWN.format(2), s[DOWN.format(0)]), "stale", [FC2.format(2)]),
    "k of another layer": ("llama", lambda s: s.__setitem__(ATTENTION.format(2) + "k_proj.weight", s[ATTENTION.format(0) + "k_proj.weight"]), "stale", [QKV.format(2)]),
    "vocabulary shifted": ("llama", lambda s: s.__setitem__("model.embed_tokens.weight", np.roll(s["model.embed_tokens.weight"], 3, 0)), "vocab-shifted", ["embedding.word_embeddings.weight"]),
    "biases concatenated": ("qwen2", every_layer(lambda s, i: s.set_qkv(i, s.whole_qkv(i, ".bias")[:, None], ".bias")), "qkv-concatenated", ["decoder.layers.*.self_attention.linear_qkv.bias"]),
    "experts in another order": ("qwen3_moe", one_layer(experts_reversed, 0), "expert-order", None),
    "axes of stacked experts confused": ("qwen3_moe", one_layer(experts_stacked_wrong, 0), "expert-stacking", None),
    "the router's bias through bf16": ("deepseek_v3", one_layer(set_values(ROUTER_BIAS, lambda x: through(ml_dtypes.bfloat16, x)), 2), "router-bias-rounded", ["decoder.layers.2.mlp.router.expert_bias"]),
    # What is left is a matrix of low rank, whichever of the two merges was wrong: a class (docs/causes.md).
    "an adapter merged with another scale": ("llama", one_layer(set_values(DOWN, half_the_adapter)), "adapter-unmerged", [FC2.format(1)]),
    "latent and rotary part swapped": ("deepseek_v3", one_layer(set_values(ATTENTION + "kv_a_proj_with_mqa.weight", lambda x: np.concatenate([x[28:], x[:28]]))), "kv-latent-order", ["decoder.layers.1.self_attention.linear_kv_down_proj.weight"]),
    "keys and values of MLA whole": ("deepseek_v3", one_layer(set_values(ATTENTION + "kv_b_proj.weight", lambda x: np.concatenate([x.reshape(6, 32, -1)[:, :14].reshape(84, -1), x.reshape(6, 32, -1)[:, 14:].reshape(108, -1)]))), "qkv-concatenated", ["decoder.layers.1.self_attention.linear_kv_up_proj.weight"]),
    "rotary rows of MLA permuted": ("deepseek_v3", one_layer(set_values(ATTENTION + "q_b_proj.weight", lambda x: np.concatenate([x.reshape(6, 22, -1)[:, :14], x.reshape(6, 22, -1)[:, 14:].reshape(6, 2, 4, -1).swapaxes(1, 2).reshape(6, 8, -1)], 1).reshape(x.shape))), "rope-permuted", ["decoder.layers.1.self_attention.linear_q_up_proj.weight"]),
}

MAMBA_IN, CONV = "backbone.layers.0.mixer.in_proj.weight", "backbone.layers.0.mixer.conv1d.weight"


def two(first, second):
    def both(*arguments):
        first(*arguments)
        second(*arguments)
    return both


# Two and three mistakes at once, of one tensor and of several.
SEVERAL = {
    "concatenated, and k and v swapped": (two(every_layer(kv_swapped), every_layer(lambda s, i: s.set_qkv(i, s.whole_qkv(i)))), {"qkv-concatenated", "qkv-order"}),
    "concatenated and rotary pairs": (two(every_layer(rope_permuted), every_layer(lambda s, i: s.set_qkv(i, s.whole_qkv(i)))), {"qkv-concatenated", "rope-permuted"}),
    "layers swapped and one concatenated": (two(swap_layers("", 0, 2), one_layer(lambda s, i: s.set_qkv(i, s.whole_qkv(i)), 2)), {"layer-offset", "qkv-concatenated"}),
    "gate and up swapped, then rounded": (two(every_layer(gate_up_swapped), every_layer(lambda s, i: s.set_fc1(i, through(ml_dtypes.float8_e5m2, s.fc1(i))))), {"gate-up-swapped", "dtype-rounded"}),
    "transposed and scaled": (one_layer(set_values(O_PROJ, lambda x: (x.T.reshape(x.shape).astype(np.float64) * 0.3).astype(x.dtype))), {"transposed", "scaled"}),
    "a shard's order and a flipped bit": (two(one_layer(set_values(DOWN, lambda x: np.concatenate(np.split(x, 2, 1)[::-1], 1))), one_layer(flipped)), {"tp-order", "bit-flip"}),
    "zeros, a norm off by 1 and swapped gates": (two(two(one_layer(set_values(O_PROJ, np.zeros_like), 0), every_layer(set_values(NORM, lambda x: (x.astype(np.float32) + 1).astype(x.dtype)))), one_layer(gate_up_swapped, 2)), {"zero-filled", "norm-offset", "gate-up-swapped"}),
    "k rounded, v of another layer": (lambda s: (s.__setitem__(ATTENTION.format(1) + "k_proj.weight", through(ml_dtypes.float8_e4m3fn, s[ATTENTION.format(1) + "k_proj.weight"])), s.__setitem__(ATTENTION.format(1) + "v_proj.weight", s[ATTENTION.format(0) + "v_proj.weight"])), {"dtype-rounded", "stale"}),
}


@pytest.mark.parametrize("name", SEVERAL)
def test_several_mistakes_are_each_named(judge, name):
    change, causes = SEVERAL[name]
    report = judge("llama", change)
    assert {c["id"] for c in report["causes"]} == causes, report["causes"]


@pytest.mark.parametrize("family", ["deepseek_v3", "qwen3_next"])
def test_a_checkpoint_that_went_through_bf16_has_one_cause(run, tmp_path, family):
    """The router's bias and norms whose stored value is one less went with it."""
    assert run("toy", tmp_path / "good", "--family", family, "--dtype", "fp32").returncode == 0
    def change(s):
        for name in s.tensors:
            s[name] = through(ml_dtypes.bfloat16, s[name])
    bad = changed(tmp_path / "good", tmp_path / "bad", change)
    assert run("import", bad, tmp_path / "megatron").returncode == 0
    run("verify", tmp_path / "good", tmp_path / "megatron", "--runtime", "none", "--json", tmp_path / "report.json")
    report = json.loads((tmp_path / "report.json").read_text())
    assert [c["id"] for c in report["causes"]] == ["dtype-rounded"], report["causes"]


def test_what_nothing_explains_has_its_nearest_hypothesis(judge):
    def change(s):
        x = s[DOWN.format(1)]
        s[DOWN.format(1)] = x[np.random.default_rng(1).permutation(len(x))]
    report = judge("llama", change)
    assert [c["id"] for c in report["causes"]] == ["unexplained"]
    assert "the same values in another order" in report["causes"][0]["evidence"]


@pytest.mark.parametrize("parts", [(1, 0, 2, 3, 4), (0, 1, 3, 2, 4)])
def test_components_of_a_mamba_projection_in_another_order(judge, toys, parts):
    config = json.loads((toys("nemotron_h") / "config.json").read_text())
    inner = config["mamba_num_heads"] * config["mamba_head_dim"]
    state = config["n_groups"] * config["ssm_state_size"]
    sizes = [inner, inner, state, state, config["mamba_num_heads"]]

    def change(s):
        pieces = np.split(s[MAMBA_IN], np.cumsum(sizes)[:-1])
        s[MAMBA_IN] = np.concatenate([pieces[i] for i in parts])
    report = judge("nemotron_h", change)
    assert [c["id"] for c in report["causes"]] == ["packed-order"], report["causes"]


def test_axes_of_a_convolution(judge):
    report = judge("nemotron_h", lambda s: s.__setitem__(CONV, s[CONV].transpose(2, 1, 0).reshape(s[CONV].shape)))
    assert [c["id"] for c in report["causes"]] == ["conv-layout"], report["causes"]


def cut_evenly(x, sizes, ranks=2):
    """What ranks hold that cut a packed tensor whatever its components, joined component by component."""
    held = [np.split(part, np.cumsum([size // ranks for size in sizes])[:-1]) for part in np.split(x, ranks)]
    return np.concatenate([np.concatenate(parts) for parts in zip(*held)])


@pytest.mark.parametrize("family,mixer,layers", [("nemotron_h", "backbone.layers.{}.mixer.", [0]),
                                                 ("falcon_h1", "model.layers.{}.mamba.", [0, 1, 2, 3])])
@pytest.mark.parametrize("tensor", ["in_proj.weight", "conv1d.weight", "conv1d.bias"])
def test_components_of_a_mixer_that_are_cut_evenly(judge, family, mixer, layers, tensor):
    inner, state, heads = 80, 36, 8
    sizes = {"in_proj.weight": [inner, inner, state, state, heads]}.get(tensor, [inner, state, state])

    def change(s):
        for name in (mixer.format(layer) + tensor for layer in layers):
            s[name] = cut_evenly(s[name], sizes)
    report = judge(family, change)
    assert [c["id"] for c in report["causes"]] == ["tp-packed"], report["causes"]
    where, = report["causes"][0]["where"]
    assert tensor.split(".")[0] in where and f".layers.{'*' if len(layers) > 1 else 0}." in where


def adapters(source, names, rank=2):
    """W + scale * B A of each named tensor: what scale * B A is, in float64."""
    rng = np.random.default_rng(8)
    sizes = [source[name].shape for name in names]
    return [0.02 * rng.standard_normal((rows, rank)) @ rng.standard_normal((rank, columns)) for rows, columns in sizes]


def plus(x, delta):
    return (x.astype(np.float64) + delta).astype(x.dtype)


def merged(names):
    def merge(s, i):
        named = [name.format(i) for name in names]
        for name, delta in zip(named, adapters(s, named)):
            s[name] = plus(s[name], delta)
    return merge


Q_K_V = [ATTENTION + part + "_proj.weight" for part in "qkv"]
GATE_UP = [MLP + part + "_proj.weight" for part in ("gate", "up")]


def concatenated_adapter(s, i):
    """The adapter's rows as q, k and v whole, on rows that stand per query group."""
    s.set_qkv(i, plus(s.qkv(i), np.concatenate(adapters(s, [name.format(i) for name in Q_K_V]))))


def adapter_cut_as_one_block(s, i):
    """The adapter's rows as two ranks cut them that do not know gate from up."""
    s.set_fc1(i, plus(s.fc1(i), cut_as_one_block(np.concatenate(adapters(s, [name.format(i) for name in GATE_UP])), 2)))


@pytest.mark.parametrize("names,wrong,where", [(Q_K_V, concatenated_adapter, QKV), (GATE_UP, adapter_cut_as_one_block, FC1)])
@pytest.mark.parametrize("layers,pattern", [(every_layer, "*"), (one_layer, 1)])
def test_an_adapter_that_was_split_wrongly(judge, names, wrong, where, layers, pattern):
    cause, = judge("llama", layers(wrong), right=layers(merged(names)))["causes"]
    assert cause["id"] == "adapter-unmerged" and cause["where"] == [where.format(pattern)], cause
    assert "low rank" in cause["message"]


@pytest.mark.parametrize("name", CASES)
def test_the_mistake_is_named(judge, name):
    family, change, cause, where = CASES[name]
    report = judge(family, change)
    assert report["verdict"] == "fail"
    assert [c["id"] for c in report["causes"]] == [cause], report["causes"]
    if where is not None:
        assert report["causes"][0]["where"] == where


@pytest.mark.parametrize("change,weights", [(lambda s: None, "pass"), (every_layer(gate_up_swapped), "fail")])
def test_the_steps_of_the_workflow_have_outcomes(run, toys, tmp_path, change, weights):
    good = toys("llama")
    bad = changed(good, tmp_path / "bad", change)
    assert run("import", bad, tmp_path / "megatron").returncode == 0
    result = run("diagnose", good, tmp_path / "megatron", "--json", tmp_path / "report.json", "--html", tmp_path / "page.html")
    steps = json.loads((tmp_path / "report.json").read_text())["steps"]
    assert [(s["id"], s["outcome"]) for s in steps] == [
        ("round-trip", "pass"), ("parallel-grid", "pass"), ("configs", "pass"), ("weights", weights)]
    assert "step 4, weights: " + weights in result.stdout and "<h2>Steps</h2>" in (tmp_path / "page.html").read_text()
    run("report", tmp_path / "report.json", "--json", tmp_path / "again.json")
    assert json.loads((tmp_path / "again.json").read_text())["steps"] == steps


# Tensors that a folder lacks, beside a Megatron checkpoint that has them.
ABSENT = {
    "a bias of the router": ("deepseek_v3", "layers.2.mlp.gate.e_score_correction_bias", "router-bias-missing"),
    "shared experts": ("deepseek_v3", "shared_experts.", "shared-expert-missing"),
    "an expert": ("deepseek_v3", "layers.2.mlp.experts.1.", "expert-missing"),
    "a bias": ("qwen2", "layers.1.self_attn.q_proj.bias", "bias-missing"),
    "a layer": ("llama", "layers.2.", "layer-missing"),
    "a norm": ("llama", "layers.2.input_layernorm", "tensor-missing"),
}


@pytest.mark.parametrize("name", ABSENT)
def test_what_is_absent_is_named_by_what_it_is(run, toys, tmp_path, name):
    family, part, cause = ABSENT[name]
    assert run("import", toys(family), tmp_path / "megatron").returncode == 0
    shutil.copytree(toys(family), tmp_path / "hf")
    tensors = load_file(tmp_path / "hf" / "model.safetensors")
    kept = {n: x for n, x in tensors.items() if part not in n}
    assert len(kept) < len(tensors)
    save_file(kept, tmp_path / "hf" / "model.safetensors", metadata={"format": "pt"})
    for level in ("L0", "L1"):
        result = run("verify", tmp_path / "hf", tmp_path / "megatron", "--level", level, "--runtime", "none",
                     "--json", tmp_path / "report.json")
        assert result.returncode == 1
        assert [c["id"] for c in json.loads((tmp_path / "report.json").read_text())["causes"]] == [cause]


def test_a_source_that_was_rounded_is_told_from_a_wrong_megatron_side(run, toys, tmp_path):
    """A bf16 export of a run in float32."""
    run("toy", tmp_path / "wide", "--family", "llama", "--dtype", "fp32", "--seed", "5")
    assert run("import", tmp_path / "wide", tmp_path / "megatron").returncode == 0
    tensors = load_file(tmp_path / "wide/model.safetensors")
    shutil.copytree(tmp_path / "wide", tmp_path / "narrow")
    save_file({n: x.astype(ml_dtypes.bfloat16) for n, x in tensors.items()}, tmp_path / "narrow/model.safetensors", metadata={"format": "pt"})
    run("verify", tmp_path / "narrow", tmp_path / "megatron", "--runtime", "none", "--json", tmp_path / "report.json")
    causes = json.loads((tmp_path / "report.json").read_text())["causes"]
    assert [c["id"] for c in causes] == ["dtype-rounded"], causes
    assert "Hugging Face's values are Megatron's rounded to bf16" in causes[0]["evidence"]
