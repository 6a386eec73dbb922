"""`compare` finds faults of the forward pass and says which they are: other configs, wrong shards and weights, and recordings
of runs with other masks, positions and constants. The recordings are made by transformers, the wrong files by torch."""
import json
import re
import shutil

import forward_faults
import pytest

from conftest import need_engine

need_engine()

LENGTH = 40


@pytest.fixture(scope="module")
def pair(tmp_path_factory, weighbridge):
    """pair(FAMILY) -> (HF folder, Megatron folder), made once."""
    made = {}

    def call(family):
        if family not in made:
            made[family] = forward_faults.make_pair(family, tmp_path_factory.mktemp(family))
        return made[family]

    return call


def causes_of(report):
    """{id: [(layer or None, module), ...]}"""
    return {cause["id"]: cause["where"] for cause in report["causes"]}


def failed_modules(report):
    return {row["megatron"]["name"] for row in report["results"] if row["status"] == "mismatch"}


# -- configs --

def quick_faults():
    """Each cause once, at families in turn; all of them: forward_faults.py."""
    seen = set()
    for i, (families, fields, cause, _) in enumerate(forward_faults.FAULTS):
        if cause in seen:
            continue
        seen.add(cause)
        family = families[i % len(families)]
        yield next(pytest.param(family, *fault, id=f"{cause}-{family}") for fault in forward_faults.faults_of(family)
                   if fault[0] == fields and fault[1] == cause)


@pytest.mark.parametrize(("family", "fields", "cause", "where"), list(quick_faults()))
def test_a_fault_of_the_config_is_named_at_its_layers_and_module(pair, family, fields, cause, where):
    detected, named, said = forward_faults.judge(pair(family), fields, cause, where)
    assert detected and named, said


# -- weights and shards --

def rank_files(folder):
    return sorted(folder.glob("iter_*/mp_rank_*/model_optim_rng.pt"))


@pytest.fixture
def two_ranks(pair, weighbridge, tmp_path):
    """Files of two ranks of a model, as Megatron's own format has them."""
    hf, _ = pair("llama")
    folder = tmp_path / "ranks"
    result = weighbridge("import", hf, folder, "--format", "torch", "--tp", "2")
    assert result.returncode == 0 and len(rank_files(folder)) == 2, result.stderr
    return hf, folder


@pytest.mark.parametrize(("name", "module"), [
    ("decoder.layers.1.mlp.linear_fc2.weight", "mlp"),
    ("decoder.layers.2.self_attention.linear_proj.weight", "self_attention.linear_proj"),
])
@pytest.mark.parametrize("duplicated", [False, True])
def test_a_wrong_shard_is_one_cause_at_its_module(compare, two_ranks, name, module, duplicated):
    import torch
    hf, folder = two_ranks
    files = rank_files(folder)
    states = [torch.load(file, weights_only=False) for file in files]
    first, second = (state["model"][name].clone() for state in states)
    states[1]["model"][name] = first
    if not duplicated:
        states[0]["model"][name] = second
    for file, state in zip(files, states, strict=True):
        torch.save(state, file)
    result, report = compare(hf, folder, "--seq-len", LENGTH)
    assert result.returncode == 1
    assert causes_of(report) == {"tp-order": [name]}
    layer = name.split(".")[2]
    assert failed_modules(report) == {f"decoder.layers.{layer}.{module}"}
    assert f"decoder.layers.{layer}.{module} gives another output" in report["causes"][0]["message"]


def change_weight(hf, changes, folder):
    """A copy of the model with other tensors, for an import that then is wrong under right names."""
    from safetensors.torch import load_file, save_file
    shutil.copytree(hf, folder)
    file = folder / "model.safetensors"
    tensors = load_file(file)
    for name, change in changes.items():
        tensors[name] = change(tensors).contiguous()
    save_file(tensors, file, {"format": "pt"})
    return folder


def fused_whole(tensors):
    """q, k and v so that the import, which takes them by query group, gives them whole one behind the other."""
    import torch
    prefix = "model.layers.1.self_attn."
    parts = [tensors[f"{prefix}{name}_proj.weight"] for name in "qkv"]
    whole = torch.cat(parts)
    groups, per_group = 2, whole.shape[0] // 2
    heads = [whole[g * per_group:(g + 1) * per_group] for g in range(groups)]
    sizes = [part.shape[0] // groups for part in parts]
    split = [group.split(sizes) for group in heads]
    return [torch.cat([group[i] for group in split]) for i in range(3)]


WEIGHTS = {
    "qkv-concatenated": ({f"model.layers.1.self_attn.{name}_proj.weight": lambda t, i=i: fused_whole(t)[i] for i, name in enumerate("qkv")},
                         "self_attention.linear_qkv"),
    "gate-up-swapped": ({"model.layers.1.mlp.gate_proj.weight": lambda t: t["model.layers.1.mlp.up_proj.weight"],
                         "model.layers.1.mlp.up_proj.weight": lambda t: t["model.layers.1.mlp.gate_proj.weight"].clone()}, "mlp"),
    "norm-offset": ({"model.layers.1.input_layernorm.weight": lambda t: t["model.layers.1.input_layernorm.weight"] + 1},
                    "input_layernorm"),
}


@pytest.mark.parametrize("cause", WEIGHTS)
def test_a_wrong_weight_is_named_by_the_search_of_verify_at_the_module_that_shows_it(compare, pair, weighbridge, tmp_path, cause):
    from safetensors.torch import load_file
    changes, module = WEIGHTS[cause]
    hf, _ = pair("llama")
    before = load_file(hf / "model.safetensors")
    wrong = change_weight(hf, {name: lambda _, change=change: change(before) for name, change in changes.items()}, tmp_path / "wrong")
    assert weighbridge("import", wrong, tmp_path / "megatron").returncode == 0
    result, report = compare(hf, tmp_path / "megatron", "--seq-len", LENGTH)
    assert result.returncode == 1
    assert list(causes_of(report)) == [cause]
    assert failed_modules(report) == {f"decoder.layers.1.{module}"}


def half_shuffled(tensor):
    import torch
    flat, chosen = tensor.clone().flatten(), torch.randperm(tensor.numel())[:tensor.numel() // 2]
    flat[chosen] = flat[chosen[torch.randperm(chosen.numel())]]
    return flat.view_as(tensor)


def test_weights_that_nothing_explains_are_a_module_that_differs(compare, pair, weighbridge, tmp_path):
    import torch
    name = "model.layers.2.mlp.down_proj.weight"
    torch.manual_seed(1)
    hf, _ = pair("llama")
    wrong = change_weight(hf, {name: lambda t: half_shuffled(t[name])}, tmp_path / "wrong")
    assert weighbridge("import", wrong, tmp_path / "megatron").returncode == 0
    result, report = compare(hf, tmp_path / "megatron", "--seq-len", LENGTH)
    assert result.returncode == 1
    assert causes_of(report) == {"module-differs": ["decoder.layers.2.mlp"]}
    assert "mlp.linear_fc2.weight differs" in report["causes"][0]["evidence"]


# -- recordings --

SEPARATOR, BEGIN = 7, 17  # a token that ends a document, and where the next one begins


def ids_of(folder):
    import torch
    torch.manual_seed(0)
    vocabulary = json.loads((folder / "config.json").read_text())["vocab_size"]
    ids = torch.randint(10, vocabulary, (2, LENGTH))
    ids[:, BEGIN - 1] = SEPARATOR
    return ids


def load(folder):
    import torch
    import transformers
    return transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager").eval()


def record(model, path, ids, **arguments):
    """A run of transformers under the names of a run of Megatron."""
    import torch
    from safetensors.torch import save_file
    states = {"input_ids": ids}

    def keep(name):
        def hook(_module, _inputs, output):
            state = output[0] if isinstance(output, tuple) else output
            states[name] = state.transpose(0, 1).contiguous()
        return hook

    hooks = [model.model.embed_tokens.register_forward_hook(keep("meg_hidden_0_sbh"))]
    for i, layer in enumerate(model.model.layers):
        hooks.append(layer.register_forward_hook(keep(f"meg_hidden_{i + 1}_sbh")))
    with torch.no_grad():
        states["meg_logits"] = model(ids, use_cache=False, **arguments).logits.contiguous()
    for hook in hooks:
        hook.remove()
    save_file(states, path)
    return path


def additive(visible):
    """[b or 1, s, s], True where a query sees a key, as eager attention takes it."""
    import torch
    mask = torch.zeros(visible.shape, dtype=torch.float32).masked_fill(~visible, torch.finfo(torch.float32).min)
    return mask.unsqueeze(1).expand(2, -1, -1, -1).contiguous()


def causal():
    import torch
    return torch.ones(1, LENGTH, LENGTH, dtype=torch.bool).tril()


def documents():
    import torch
    of = (torch.arange(LENGTH) >= BEGIN).long()
    return causal() & (of[None, :, None] == of[None, None, :])


def positions(change):
    import torch
    return torch.tensor([[change(i) for i in range(LENGTH)]] * 2)


CORE, ROTARY = "self_attention.core_attention", "self_attention.rotary_pos_emb"
RUNS = {
    "attention to later tokens": (lambda: {"attention_mask": additive(causal() | True)}, "attention-mask", CORE),
    "inverted polarity": (lambda: {"attention_mask": additive(~causal())}, "attention-mask", CORE),
    "documents that do not see each other": (lambda: {"attention_mask": additive(documents())}, "attention-mask", CORE),
    "a window that the config does not have": (lambda: {"attention_mask": additive(causal() & ~causal().tril(-12))}, "attention-mask", CORE),
    "positions that start again": (lambda: {"attention_mask": additive(causal()), "position_ids": positions(lambda i: i - BEGIN * (i >= BEGIN))},
                                   "position-ids", ROTARY),
    "positions that start again and again": (lambda: {"attention_mask": additive(causal()), "position_ids": positions(lambda i: i % 12)},
                                             "position-ids", ROTARY),
    "a gap in the positions": (lambda: {"attention_mask": additive(causal()), "position_ids": positions(lambda i: i + (i >= BEGIN))},
                               "position-ids", ROTARY),
    "one position for all": (lambda: {"attention_mask": additive(causal()), "position_ids": positions(lambda i: 3)}, "position-ids", ROTARY),
}


@pytest.mark.parametrize(("family", "run"), [("llama", run) for run in RUNS] +
                         [("qwen3_moe", "inverted polarity"), ("deepseek_v3", "positions that start again")])
def test_a_recorded_run_with_another_mask_or_other_positions_is_named(compare, pair, tmp_path, family, run):
    make, cause, module = RUNS[run]
    hf, megatron = pair(family)
    recording = record(load(hf), tmp_path / "run.safetensors", ids_of(hf), **make())
    result, report = compare(hf, megatron, "--candidate", recording)
    assert result.returncode == 1
    assert causes_of(report) == {cause: [f"decoder.layers.{layer}.{module}" for layer in range(4)]}, report["causes"]


@pytest.mark.parametrize("family", ["llama", "qwen3_moe", "gpt_oss"])
def test_a_run_that_is_right_raises_no_alarm_nor_do_positions_that_all_are_shifted(compare, pair, tmp_path, family):
    hf, megatron = pair(family)
    model = load(hf)
    for arguments in {}, {"position_ids": positions(lambda i: i + 1)}:
        recording = record(model, tmp_path / "run.safetensors", ids_of(hf), **arguments)
        result, report = compare(hf, megatron, "--candidate", recording)
        assert result.returncode == 0, report["causes"]


@pytest.mark.parametrize("width", [15, 17, 4096])
def test_a_recorded_window_of_another_width_is_named_in_the_layers_that_have_one(compare, pair, tmp_path, width):
    hf, megatron = pair("gpt_oss")
    model = load(hf)
    model.config.sliding_window = width
    for layer in model.model.layers:
        if layer.self_attn.sliding_window:
            layer.self_attn.sliding_window = width
    result, report = compare(hf, megatron, "--candidate", record(model, tmp_path / "run.safetensors", ids_of(hf)))
    assert result.returncode == 1
    assert causes_of(report) == {"attention-mask": [f"decoder.layers.{layer}.{CORE}" for layer in (0, 2)]}, report["causes"]


def test_a_recorded_run_that_hides_padding_is_named(compare, pair, tmp_path):
    import torch
    hf, megatron = pair("llama")
    ids = ids_of(hf)
    ids[0, :6] = 3
    hidden = torch.zeros(2, 1, LENGTH, dtype=torch.bool)
    hidden[0, :, :6] = True
    recording = record(load(hf), tmp_path / "run.safetensors", ids, attention_mask=additive_rows(causal() & ~hidden))
    result, report = compare(hf, megatron, "--candidate", recording)
    assert result.returncode == 1 and list(causes_of(report)) == ["attention-mask"], report["causes"]
    assert "padding" in report["causes"][0]["message"]


def additive_rows(visible):
    import torch
    return torch.zeros(visible.shape).masked_fill(~visible, torch.finfo(torch.float32).min).unsqueeze(1)


# -- small changes --

# Fields of Megatron's config, the modules that have to fail and no others.
SMALL = {
    "the RoPE table": ({"rotary_base": 10001.0}, {ROTARY}),
    "the softmax scale": ({"softmax_scale": 12 ** -0.5 * 1.0001}, {CORE}),
    "the activation": ({"glu_linear_offset": 0.0001}, {"mlp", "mlp.experts"}),
    "twice the epsilon": ({"layernorm_epsilon": 2e-6},
                          {"input_layernorm", "pre_mlp_layernorm", "self_attention.q_layernorm", "decoder.final_layernorm"}),
}


@pytest.mark.parametrize("change", SMALL)
@pytest.mark.parametrize("family", ["llama", "qwen3", "qwen3_moe"])
def test_a_small_change_of_the_config_is_found_at_its_modules_and_no_others(pair, family, change):
    fields, modules = SMALL[change]
    status, report = forward_faults.compare_with(pair(family), fields)
    assert status == 1 and len(report["causes"]) == 1
    failed = {re.sub(r"^decoder\.layers\.\d+\.", "", name) for name in failed_modules(report)}
    assert failed and failed <= modules


def change_rope(model):
    import torch
    rotary = model.model.rotary_emb
    channels = 2 * rotary.inv_freq.numel()
    rotary.inv_freq = (10000 * 1.001) ** -(torch.arange(0, channels, 2).double() / channels)
    rotary.inv_freq = rotary.inv_freq.float()


def change_scale(model):
    for layer in model.model.layers:
        layer.self_attn.scaling *= 1.0001


def change_activation(model):
    for module in model.modules():
        if hasattr(module, "act_fn"):
            module.act_fn = Slope()


def Slope():
    import torch

    class Sloped(torch.nn.Module):
        def forward(self, x):
            return x * torch.sigmoid(1.0001 * x)

    return Sloped()


def change_epsilon(model):
    for module in model.modules():
        if hasattr(module, "variance_epsilon"):
            module.variance_epsilon *= 2


CHANGES = {
    "rope-base": (change_rope, {ROTARY}, "1.001"),
    "softmax-scale": (change_scale, {CORE}, "1.0001"),
    "activation": (change_activation, {"mlp", "mlp.experts"}, "1.0001"),
    "norm-eps": (change_epsilon, {"input_layernorm", "pre_mlp_layernorm", "self_attention.q_layernorm", "decoder.final_layernorm"}, "2"),
}


@pytest.mark.parametrize(("family", "cause"), [("llama", cause) for cause in CHANGES] +
                         [("qwen3", "norm-eps"), ("qwen3_moe", "activation"), ("qwen3_moe", "softmax-scale")])
def test_a_recorded_run_with_a_slightly_other_constant_is_named_with_its_factor(compare, pair, tmp_path, family, cause):
    change, modules, factor = CHANGES[cause]
    hf, megatron = pair(family)
    model = load(hf)
    change(model)
    result, report = compare(hf, megatron, "--candidate", record(model, tmp_path / "run.safetensors", ids_of(hf)))
    assert result.returncode == 1, result.stdout
    found = causes_of(report)
    assert list(found) == [cause], report["causes"]
    assert {re.sub(r"^decoder\.layers\.\d+\.", "", place) for place in found[cause]} <= modules
    assert re.search(r"times ([\d.]+)", report["causes"][0]["message"])[1] == factor, report["causes"][0]


# -- what is shown, and thresholds --

def test_a_threshold_decides_for_the_modules_that_match(compare, pair):
    hf, _ = pair("llama")
    result, report = compare(hf, "--seq-len", 8, "--threshold", "*.mlp=0.0001", "--threshold", "decoder.layers.3.*=100")
    assert result.returncode == 1
    assert failed_modules(report) == {f"decoder.layers.{layer}.mlp" for layer in range(3)}


@pytest.mark.parametrize(("threshold", "complaint"), [("*.no_such_module=3", "no module matches"), ("*.mlp", "is no threshold"),
                                                      ("*.mlp=-1", "is no threshold"), ("=2", "is no threshold")])
def test_a_threshold_that_says_nothing_is_a_usage_error(compare, pair, threshold, complaint):
    result, report = compare(pair("llama")[0], "--seq-len", 8, "--threshold", threshold)
    assert result.returncode == 2 and complaint in report["error"]["what"]


def test_details_tell_how_the_error_grows_and_what_would_pass(weighbridge, pair):
    shown = " ".join(weighbridge("compare", pair("llama")[0], "--seq-len", 16, "-v", "--top-k", 2).stdout.split())
    for text in ("growth of the error: ", "logits beside fixed limits (max diff, cosine): ", "float32 (0.0001, 0.999999): inside",
                 "smallest tolerance that would pass: ratio ", "next tokens of row 0, reference: ", "mean diff ", "cosine "):
        assert text in shown, shown
    best = re.search(r"next tokens of row 0, reference: (.*) next tokens of row 0, candidate: ", shown)[1]
    assert best.count("(") == 2


def test_the_first_module_that_fails_is_named_with_the_causes(pair):
    _, report = forward_faults.compare_with(pair("llama"), {"softmax_scale": 0.3})
    notes = {note["id"]: note["message"] for note in report["notes"]}
    assert notes["first-divergence"].startswith("decoder.layers.0.self_attention.core_attention: ")
    assert notes["first-divergence"].endswith("causes: softmax-scale")
