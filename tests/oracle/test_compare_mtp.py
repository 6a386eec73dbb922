"""`compare`: the Hugging Face side of MTP layers. transformers runs none, so what stands for the truth is its own decoder layer with
their weights, joined as DeepSeek-V3's report has it: a projection of the normed embedding of the token further on, beside the
normed state before; the states that a head sees come after the final norm, as vLLM and Megatron-Core feed them."""
import contextlib
import copy
import json
import math

import pytest

from test_compare import LENGTH, in_float64, ratio

DEEPSEEK = {"block": "model.layers.{at}.", "enorm": "enorm", "hnorm": "hnorm", "project": "eh_proj", "norm": "shared_head.norm"}
# Options of the toy; where the block and the layer in it are, its names; what transformers has to be told.
MODELS = {
    "deepseek_v3": ("num_nextn_predict_layers=2", DEEPSEEK, {}),
    "glm4_moe": ("num_nextn_predict_layers=1", DEEPSEEK, {}),
    "glm4_moe_lite": ("num_nextn_predict_layers=1", DEEPSEEK, {}),
    "mimo": ("num_nextn_predict_layers=1",
             {"block": "model.mtp_layers.{index}.", "enorm": "token_layernorm", "hnorm": "hidden_layernorm",
              "project": "input_proj", "norm": "final_layernorm", "states_first": True},
             {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}),
    "qwen3_next": ("mtp_num_hidden_layers=1",
                   {"block": "mtp.", "layer": "mtp.layers.{index}.", "enorm": "pre_fc_norm_embedding",
                    "hnorm": "pre_fc_norm_hidden", "project": "fc", "norm": "norm"}, {"kind": "full_attention"}),
}


def with_mtp_layers(folder, target, names, told, depth):
    """A copy in which the layers of the MTP blocks are ordinary layers after the last."""
    from safetensors.torch import load_file, save_file
    config = json.loads((folder / "config.json").read_text())
    layers, tensors = config["num_hidden_layers"], load_file(folder / "model.safetensors")
    renamed = {name: value.clone() for name, value in tensors.items()}
    for index in range(depth):
        layer = names.get("layer", names["block"]).format(at=layers + index, index=index)
        renamed |= {f"model.layers.{layers + index}." + name.removeprefix(layer): value.clone()
                    for name, value in tensors.items() if name.startswith(layer)}
    told = dict(told)
    if kind := told.pop("kind", None):
        config["layer_types"] = [*config["layer_types"], *[kind] * depth]
    target.mkdir()
    (target / "config.json").write_text(json.dumps(config | told | {"num_hidden_layers": layers + depth}))
    save_file(renamed, target / "model.safetensors", metadata={"format": "pt"})
    return tensors, layers


def mtp_states(folder, tensors, layers, names, ids, depth, dtype):
    """What leaves each MTP block, after its last norm."""
    import torch
    import transformers
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, experts_implementation="eager").eval().to(dtype)
    inner = model.model
    every = list(inner.layers)

    def use(chosen):
        inner.layers = torch.nn.ModuleList(chosen)
        inner.config.num_hidden_layers = len(chosen)

    def norm(name):
        made = copy.deepcopy(inner.norm)
        made.weight = torch.nn.Parameter(tensors[name + ".weight"].to(dtype))
        return made

    use(every[:layers])
    kinds = list(getattr(inner.config, "layer_types", None) or [])
    before, states = inner(ids, use_cache=False).last_hidden_state, []
    for index in range(depth):
        ids = torch.nn.functional.pad(ids[:, 1:], (0, 1))
        block = names["block"].format(at=layers + index, index=index)
        parts = [norm(block + names["enorm"])(inner.embed_tokens(ids)), norm(block + names["hnorm"])(before)]
        if names.get("states_first"):
            parts.reverse()
        x = torch.cat(parts, -1) @ tensors[block + names["project"] + ".weight"].to(dtype).T
        use([every[layers + index]])
        if kinds:
            inner.config.layer_types = kinds[layers + index:layers + index + 1]
        inner.norm = norm(block + names["norm"])
        before = inner(inputs_embeds=x, use_cache=False).last_hidden_state
        states.append(before)
    return states


@pytest.mark.parametrize("family", MODELS)
def test_the_states_of_mtp_layers_are_those_of_transformers_layers(compare, toy, tmp_path, monkeypatch, family):  # noqa: F811
    import torch
    from safetensors.torch import load_file
    option, names, told = MODELS[family]
    depth = int(option[-1])
    folder = toy(family, "--set", option)
    result, report = compare(folder, "--seq-len", LENGTH, "--record", tmp_path / "states.safetensors")
    assert result.returncode == 0, result.stdout + result.stderr
    rows = {row["megatron"]["name"] for row in report["results"]}
    assert {f"mtp.layers.{depth - 1}.{module}" for module in ("enorm", "hnorm", "eh_proj", "final_layernorm")} <= rows
    assert f"mtp.layers.{depth - 1}.mtp_model_layer.self_attention.core_attention" in rows
    recorded = load_file(tmp_path / "states.safetensors")
    tensors, layers = with_mtp_layers(folder, tmp_path / "deeper", names, told, depth)
    found = []
    for dtype in (torch.float32, torch.float64):
        with torch.no_grad(), in_float64(monkeypatch) if dtype == torch.float64 else contextlib.nullcontext():
            found.append(mtp_states(tmp_path / "deeper", tensors, layers, names, recorded["input_ids"], depth, dtype))
    ratios = [ratio(recorded[f"hf_mtp_{i + 1}"], found[0][i], found[1][i]) for i in range(depth)]
    print(family, ratios)
    assert max(ratios) <= 2 and not math.isnan(max(ratios))


def test_without_mtp_its_layers_are_left_out(compare, toy):  # noqa: F811
    folder = toy("deepseek_v3", "--set", "num_nextn_predict_layers=1")
    result, report = compare(folder, "--seq-len", LENGTH, "--without-mtp")
    assert result.returncode == 0, result.stdout + result.stderr
    assert not [row for row in report["results"] if row["megatron"]["name"].startswith("mtp.")]


def test_mtp_layers_of_which_nothing_says_the_window_are_said_to_be_unproven(compare, toy):  # noqa: F811
    result, report = compare(toy("exaone4_5", "--set", "text_config.num_nextn_predict_layers=1"), "--seq-len", LENGTH)
    assert result.returncode == 0, result.stdout + result.stderr
    assert any("MTP layers were not run" in text for text in report["unproven"])


def test_a_norm_of_an_mtp_layer_that_is_another_is_found_there(compare, toy, weighbridge, tmp_path):  # noqa: F811
    from safetensors.torch import load_file, save_file
    folder, megatron = toy("deepseek_v3", "--set", "num_nextn_predict_layers=1"), tmp_path / "megatron"
    assert weighbridge("import", folder, megatron).returncode == 0
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.4.hnorm.weight"
    tensors[name] = tensors[name] * 1.0001
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    result, report = compare(folder, megatron, "--seq-len", LENGTH)
    assert result.returncode == 1
    failed = [row["megatron"]["name"] for row in report["results"] if row["status"] == "mismatch"]
    assert failed == ["mtp.layers.0.hnorm"]
