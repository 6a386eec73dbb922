"""`compare`: our two models against transformers, and against what megatron-core computed (recordings)."""
import contextlib
import json

import pytest

from conftest import ROOT, need_engine

need_engine()

LENGTH = 48
# Families of which both sides compute the same. Of those that see, the text model.
CLEAN = ["arcee", "cwm", "deepseek_v3", "dots1", "ernie4_5", "exaone4", "exaone4_5", "exaone_moe", "falcon_h1", "gemma", "glm",
         "glm4", "glm4_moe", "glm4_moe_lite", "glm4v_moe", "gpt_oss", "helium", "hy_v3", "jais2", "kimi_k25_vl",
         "llama", "minimax_m2", "minimax_m3", "ministral", "ministral3", "mistral", "mistral3", "mixtral", "nemotron",
         "nemotron_h", "nemotron_nano_vl", "nemotron_omni", "olmo2", "olmo3", "olmoe", "persimmon", "phi3", "qwen2",
         "qwen2_5_omni", "qwen2_5_vl", "qwen2_audio", "qwen2_moe", "qwen3", "qwen3_5", "qwen3_5_moe", "qwen3_5_vl",
         "qwen3_5_vl_moe", "qwen3_asr", "qwen3_moe", "qwen3_next", "qwen3_omni_moe", "qwen3_vl", "qwen3_vl_moe",
         "seed_oss", "smollm3", "solar_open", "stablelm", "starcoder2", "youtu"]
# Megatron's classes build the norms after attention and MLP with an epsilon of their own.
POST_NORM_EPS = ["gemma2", "gemma3", "gemma3_vl"]
# Megatron-Core routes otherwise: a group counts with its sum; softmax has no bias on the choice.
OTHER_ROUTER = ["deepseek_v2", "ernie4_5_moe"]
# Megatron-Core's layer specs norm q and k in layers without RoPE too.
L2_NORM = ["llama4_text"]
# RoPE tables that are scaled; the toys' are plain.
ROPE = {
    "llama3": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 8192},
    "linear": {"rope_type": "linear", "factor": 4.0},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 40},
}


@contextlib.contextmanager
def in_float64(monkeypatch):
    """Casts to float32 inside of transformers' modules are left out: the truth has to be float64 all through."""
    import torch
    cast, softmax = torch.Tensor.to, torch.nn.functional.softmax

    def wide(value):
        return torch.float64 if value is torch.float32 else value

    def to(self, *arguments, **options):
        return cast(self, *map(wide, arguments), **{name: wide(value) for name, value in options.items()})

    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "to", to)
        patch.setattr(torch.Tensor, "type", to)
        patch.setattr(torch.Tensor, "float", torch.Tensor.double)
        patch.setattr(torch.nn.functional, "softmax",
                      lambda x, dim=None, dtype=None, **rest: softmax(x, dim=dim, dtype=wide(dtype), **rest))
        torch.set_default_dtype(torch.float64)
        try:
            yield
        finally:
            torch.set_default_dtype(torch.float32)


def renamed(folder, config, names):
    """The model under another config beside `folder`; of `names`, beginnings, the first counts, and what has none is left out."""
    from safetensors.torch import load_file, save_file
    tensors = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        old = next((old for old in names if name.startswith(old)), None)
        if old is not None:
            tensors[names[old] + name.removeprefix(old)] = tensor
    made = folder.with_name(folder.name + "-transformers")
    made.mkdir(exist_ok=True)
    (made / "config.json").write_text(json.dumps(config))
    save_file(tensors, made / "model.safetensors", metadata={"format": "pt"})
    return made


def as_transformers_reads(folder):
    """Where transformers 5.17 does not know the model as it is released: of Qwen3-ASR with a thinker, its own names; of Nemotrons
    that see, the text model alone."""
    config = json.loads((folder / "config.json").read_text())
    if "llm_config" in config:
        text = config["llm_config"] | {"architectures": ["NemotronHForCausalLM"], "model_type": "nemotron_h"}
        return renamed(folder, text, {"language_model.": ""})
    if config["model_type"] != "qwen3_asr" or "thinker_config" not in config:
        return folder
    thinker = config.pop("thinker_config")
    thinker["audio_config"]["model_type"] = "qwen3_asr_encoder"
    thinker["tie_word_embeddings"] = thinker["text_config"]["tie_word_embeddings"]
    return renamed(folder, config | thinker, {
        "thinker.model.": "model.language_model.", "thinker.lm_head.": "lm_head.",
        "thinker.audio_tower.proj1.": "model.multi_modal_projector.linear_1.",
        "thinker.audio_tower.proj2.": "model.multi_modal_projector.linear_2.", "thinker.audio_tower.": "model.audio_tower."})


def class_of(config):
    """What computes logits of text: of a model with a voice its thinker, the whole generates only."""
    import transformers
    name = config.architectures[0]
    if hasattr(config, "thinker_config"):
        return getattr(transformers, name.replace("For", "ThinkerFor"))
    if hasattr(config, "audio_config"):
        return getattr(transformers, name)
    return transformers.AutoModelForImageTextToText if hasattr(config, "vision_config") else transformers.AutoModelForCausalLM


def states_of(folder, ids, dtype, monkeypatch):
    """Every hidden state and the logits, as transformers computes them."""
    import torch
    import transformers
    folder = as_transformers_reads(folder)
    kind = class_of(transformers.AutoConfig.from_pretrained(folder))
    # Grouped products of experts do not know float64.
    model, report = kind.from_pretrained(folder, dtype=torch.float32, experts_implementation="eager", output_loading_info=True)
    assert not report["missing_keys"], report
    model = model.eval().to(dtype)
    with torch.no_grad(), in_float64(monkeypatch) if dtype == torch.float64 else contextlib.nullcontext():
        out = model(ids, output_hidden_states=True, use_cache=False)
    return [*out.hidden_states, out.logits]


def ratio(ours, theirs, truth):
    """The function rule: RMS of our error by that of transformers' own, which is at least one ULP."""
    import math

    import torch
    rms = truth.pow(2).mean().sqrt().item()
    error = (ours.double() - truth).pow(2).mean().sqrt().item()
    floor = (theirs.double() - truth).pow(2).mean().sqrt().item()
    assert math.isfinite(error) and ours.shape == truth.shape and ours.dtype == torch.float32
    return error / max(floor, 2.0 ** (math.floor(math.log2(rms)) - 23))


def worst_ratio(compare, folder, recording, monkeypatch, original=None):
    """Of our Hugging Face side over all hidden states and the logits, beside transformers' own (of another folder)."""
    import torch
    from safetensors.torch import load_file
    _, report = compare(folder, "--seq-len", LENGTH, "--record", recording)
    assert report["level"] == "L2" and report["counts"]["total"] > 8
    recorded = load_file(recording)
    ids = recorded["input_ids"]
    theirs, truth = (states_of(original or folder, ids, dtype, monkeypatch) for dtype in (torch.float32, torch.float64))
    ours = [recorded[f"hf_hidden_{i}"] for i in range(len(truth) - 1)] + [recorded["hf_logits"]]
    ratios = [ratio(*states) for states in zip(ours, theirs, truth, strict=True)]
    print(folder.name, " ".join(f"{r:.2f}" for r in ratios))
    return max(ratios)


@pytest.mark.parametrize("family", CLEAN + POST_NORM_EPS + OTHER_ROUTER + L2_NORM)
def test_every_hidden_state_is_that_of_transformers(compare, toy, tmp_path, monkeypatch, family):
    assert worst_ratio(compare, toy(family), tmp_path / "states.safetensors", monkeypatch) <= 2


def with_text_config(folder, change):
    """A copy beside `folder` of the same weights; `change` is given the config of the text model."""
    import shutil
    copy = folder.with_name(folder.name + "-changed")
    shutil.copytree(folder, copy, dirs_exist_ok=True)
    config = json.loads((copy / "config.json").read_text())
    text = config.get("thinker_config", config)["text_config"]
    change(text)
    (copy / "config.json").write_text(json.dumps(config))
    return copy


def turn(text):
    table = text.get("rope_parameters", text)
    table["rope_theta"] *= 1.01


def leave_base_out(text):
    text.pop("rope_theta")
    text.get("rope_parameters", {}).pop("rope_theta", None)


THINKERS = ["qwen2_5_omni", "qwen3_asr", "qwen3_omni_moe"]
# What each of their configs may say beside the toys': a window from layer 2 on, a router that does not normalize.
WINDOW = {"use_sliding_window": True, "max_window_layers": 2, "sliding_window": 16}
SAID = {"qwen2_5_omni": WINDOW, "qwen3_asr": WINDOW, "qwen3_omni_moe": {"norm_topk_prob": False}}


@pytest.mark.parametrize("change", [turn, lambda text: text.update(rms_norm_eps=text["rms_norm_eps"] * 2)], ids=["rope", "eps"])
@pytest.mark.parametrize("family", THINKERS)
def test_a_small_change_of_a_thinkers_config_is_not_what_transformers_computes(compare, toy, tmp_path, monkeypatch, family,
                                                                               change):
    """What test_every_hidden_state_is_that_of_transformers would say if we read another number."""
    folder = toy(family)
    changed = with_text_config(folder, change)
    assert worst_ratio(compare, changed, tmp_path / "1.safetensors", monkeypatch, original=folder) > 2
    assert worst_ratio(compare, changed, tmp_path / "2.safetensors", monkeypatch) <= 2


@pytest.mark.parametrize("family", THINKERS)
def test_what_a_thinkers_config_may_say_is_what_transformers_reads(compare, toy, tmp_path, monkeypatch, family):
    folder = toy(family)
    changed = with_text_config(folder, lambda text: text.update(SAID[family]))
    assert worst_ratio(compare, changed, tmp_path / "1.safetensors", monkeypatch, original=folder) > 2
    assert worst_ratio(compare, changed, tmp_path / "2.safetensors", monkeypatch) <= 2


@pytest.mark.parametrize("family", THINKERS)
def test_a_rope_base_that_a_thinkers_config_leaves_out_is_that_of_its_class(compare, toy, tmp_path, monkeypatch, family):
    folder = as_transformers_reads(with_text_config(toy(family), leave_base_out))
    assert worst_ratio(compare, folder, tmp_path / "states.safetensors", monkeypatch) <= 2


def test_qwen3_asr_as_transformers_writes_it_is_what_it_is_as_released(compare, toy):
    folder = toy("qwen3_asr")
    released, written = (compare(form, "--seq-len", LENGTH)[1] for form in (folder, as_transformers_reads(folder)))
    assert released["verdict"] == written["verdict"] == "pass"
    assert [row["noise"] for row in released["results"]] == [row["noise"] for row in written["results"]]


# Up to index_topk tokens an indexer leaves no key out.
CHOSEN = {"deepseek_v32": [], "glm_moe_dsa": [], "glm_moe_dsa shared": ["--set", 'indexer_types=["full", "shared", "full", "shared"]'],
          "deepseek_v32 yarn": ["--set", f"rope_scaling={json.dumps(ROPE['yarn'] | {'mscale': 1.0, 'mscale_all_dim': 1.0})}"]}


@pytest.mark.parametrize("name", CHOSEN)
def test_keys_that_an_indexer_chooses_are_all_up_to_their_number(compare, toy, tmp_path, monkeypatch, name):
    folder = toy(name.split()[0], "--set", f"index_topk={LENGTH}", *CHOSEN[name])
    assert worst_ratio(compare, folder, tmp_path / "states.safetensors", monkeypatch) <= 2
    result, report = compare(folder, "--seq-len", LENGTH)
    assert result.returncode == 0, result.stdout + result.stderr
    assert max(row["noise"]["ratio"] for row in report["results"]) <= 2
    assert any("indexers were not run" in text for text in report["unproven"])


@pytest.mark.parametrize("family", ["deepseek_v32", "glm_moe_dsa"])
def test_more_tokens_than_an_indexer_chooses_keys_are_refused(compare, toy, monkeypatch, family):
    import torch
    folder = toy(family, "--set", f"index_topk={LENGTH - 1}")
    result, report = compare(folder, "--seq-len", LENGTH)
    assert result.returncode == 2 and f"beyond {LENGTH - 1} positions" in report["error"]["what"]
    # What is run without being told how many is what can be.
    assert compare(folder)[1]["details"]["tokens"] == f"1 x {LENGTH - 1}"
    # The last token is the first that transformers lets miss one.
    ids = torch.arange(3, 3 + LENGTH)[None]
    fewer = states_of(folder, ids, torch.float32, monkeypatch)
    every = states_of(toy(family, "--set", f"index_topk={LENGTH}"), ids, torch.float32, monkeypatch)
    for some, all_ in zip(fewer[1:], every[1:], strict=True):
        torch.testing.assert_close(some[:, :-1], all_[:, :-1])
        assert not torch.allclose(some[:, -1], all_[:, -1], rtol=1e-4)


def test_more_tokens_than_an_indexer_keeps_in_blocks_are_refused(compare, toy, monkeypatch):
    import torch
    folder = toy("minimax_m3")  # 3 blocks of 16 keys
    result, report = compare(folder, "--seq-len", LENGTH + 1)
    assert result.returncode == 2 and f"beyond {LENGTH} positions" in report["error"]["what"]
    two = with_text_config(folder, lambda text: text.update(index_topk_blocks=2))
    result, report = compare(two, "--seq-len", LENGTH)
    assert result.returncode == 2 and "beyond 32 positions" in report["error"]["what"]
    # transformers lets no token before the 33rd miss a block.
    ids = torch.arange(3, 3 + LENGTH)[None]
    for some, all_ in zip(states_of(two, ids, torch.float32, monkeypatch)[2:], states_of(folder, ids, torch.float32, monkeypatch)[2:],
                          strict=True):
        torch.testing.assert_close(some[:, :32], all_[:, :32])
        assert not torch.allclose(some[:, 32:], all_[:, 32:], rtol=1e-4)


def test_indexers_of_which_no_limit_is_known_are_refused(compare, toy, tmp_path):
    text = (ROOT / "families/minimax_m3.toml").read_text()
    (tmp_path / "mine.toml").write_text("".join(line for line in text.splitlines(keepends=True) if "every_key_up_to" not in line))
    result, report = compare(toy("minimax_m3"), "--family", tmp_path / "mine.toml", "--seq-len", 8)
    assert result.returncode == 2 and "the indexers leave no key out" in report["error"]["what"]


@pytest.mark.parametrize("value", ["16", 16.0, True, [16], 1e30, 0, -1])
def test_a_number_of_keys_that_is_no_whole_number_is_named_with_its_value(compare, toy, value):
    folder = toy("glm_moe_dsa")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"index_topk": value}))
    result, report = compare(folder, "--seq-len", LENGTH)
    assert result.returncode == 2 and not report["results"], result.stdout
    assert report["error"] == {"id": "config-unsupported", "at": "config.json", "hint": "",
                               "what": f"index_topk is {json.dumps(value)}, and has to be a whole number from 1 on"}


@pytest.mark.parametrize(("value", "tokens"), [(1, 1), (2 ** 63, 512)])
def test_as_many_tokens_run_by_themselves_as_an_indexer_chooses_keys(compare, toy, value, tokens):
    result, report = compare(toy("glm_moe_dsa", "--set", f"index_topk={value}", "--set", "max_position_embeddings=600"))
    assert result.returncode == 0, result.stdout + result.stderr
    assert report["details"]["tokens"] == f"1 x {tokens}"


def test_a_chunk_that_is_no_whole_number_of_tokens_is_refused(compare, toy):
    folder = toy("llama4_text")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"attention_chunk_size": 16.0}))
    result, report = compare(folder, "--seq-len", LENGTH)
    assert result.returncode == 2 and "attention_chunk_size is 16.0" in report["error"]["what"], result.stdout


def pair_with_config(toy, weighbridge, folder, fields):
    """(a GLM-5 with indexers, what `import` makes of it) with a config of Megatron in which `fields` are others."""
    hf, megatron = toy("glm_moe_dsa", "--set", f"index_topk={LENGTH}"), folder / "megatron"
    assert weighbridge("import", hf, megatron).returncode == 0
    right = json.loads(weighbridge("families", "expand", "--config", hf / "config.json", "--json").stdout)["config"]
    right = {field: None if value == "none" else value for field, value in right.items()}
    (next(megatron.glob("iter_*")) / "run_config.yaml").write_text(json.dumps({"model": right | fields | {
        "_target_": "megatron.bridge.models.mla_provider.MLAModelProvider"}}))
    return hf, megatron


@pytest.mark.parametrize(("chosen", "said"), [
    (LENGTH, None), (16, "beyond 16 positions"), (0, "dsa_indexer_topk is 0, and has to be a whole number")])
def test_a_megatron_config_that_chooses_fewer_keys_is_a_cause_without_a_forward_pass(compare, toy, weighbridge, tmp_path,
                                                                                    chosen, said):
    hf, megatron = pair_with_config(toy, weighbridge, tmp_path, {"dsa_indexer_topk": chosen})
    result, report = compare(hf, megatron, "--seq-len", LENGTH)
    assert result.returncode == (said is not None), result.stdout + result.stderr
    assert [(cause["id"], cause["origin"]) for cause in report["causes"]] == [("attention-window", "config")] * (said is not None)
    assert said is None or any(said in text for text in report["unproven"])


# Every key is among more of them, and among fewer that are as many as the tokens.
@pytest.mark.parametrize(("chosen", "length"), [(2 * LENGTH, LENGTH), (16, 12)])
def test_another_number_of_keys_that_leaves_none_out_is_a_note(compare, toy, weighbridge, tmp_path, chosen, length):
    hf, megatron = pair_with_config(toy, weighbridge, tmp_path, {"dsa_indexer_topk": chosen})
    result, report = compare(hf, megatron, "--seq-len", length)
    assert result.returncode == 0, result.stdout + result.stderr
    note, = (note["message"] for note in report["notes"] if note["id"] == "no-effect")
    assert f"{LENGTH} by config.json (index_topk), {chosen} by run_config.yaml" in note


@pytest.mark.parametrize(("field", "value"), [("dsa_indexer_n_heads", 1), ("dsa_indexer_head_dim", 32)])
def test_indexers_of_another_size_are_a_cause(compare, toy, weighbridge, tmp_path, field, value):
    hf, megatron = pair_with_config(toy, weighbridge, tmp_path, {field: value})
    result, report = compare(hf, megatron, "--seq-len", LENGTH)
    assert result.returncode == 1, result.stdout + result.stderr
    assert [(cause["id"], cause["where"]) for cause in report["causes"]] == [("size-mismatch", [field])]


@pytest.mark.parametrize("kind", ROPE)
def test_a_scaled_rope_table_is_that_of_transformers(compare, toy, tmp_path, monkeypatch, kind):
    folder = toy("llama", "--set", f"rope_scaling={json.dumps(ROPE[kind])}")
    assert worst_ratio(compare, folder, tmp_path / "states.safetensors", monkeypatch) <= 2
    result, report = compare(folder, "--seq-len", LENGTH)
    assert result.returncode == 0, result.stdout
    assert max(row["noise"]["ratio"] for row in report["results"]) <= 2


@pytest.mark.parametrize("family", CLEAN)
def test_both_sides_of_a_right_model_meet_the_function_rule(compare, toy, family):
    result, report = compare(toy(family), "--seq-len", LENGTH)
    assert result.returncode == 0, result.stdout + result.stderr
    assert report["verdict"] == "pass" and not report["causes"]
    worst = max(report["results"], key=lambda row: row["noise"]["ratio"])
    print(family, worst["megatron"]["name"], worst["noise"])
    assert worst["noise"]["ratio"] <= 2


@pytest.mark.parametrize("family", POST_NORM_EPS)
def test_an_epsilon_that_the_runtime_chooses_is_found_at_its_norms(compare, toy, family):
    folder = toy(family)
    result, report = compare(folder, "--seq-len", LENGTH)
    assert result.returncode == 1
    assert [(cause["id"], cause["origin"]) for cause in report["causes"]] == [("norm-eps", "runtime")]
    failed = {row["megatron"]["name"].split(".", 3)[3] for row in report["results"] if row["status"] == "mismatch"}
    assert failed == {"self_attention.linear_proj.post_layernorm", "mlp.linear_fc2.post_layernorm"}
    result, report = compare(folder, "--seq-len", LENGTH, "--runtime", "none")
    assert result.returncode == 0, result.stdout + result.stderr


# What Megatron-Core computes otherwise: the cause, and where.
RUNTIME = {"deepseek_v2": ("router-formula", {f"decoder.layers.{i}.mlp.router" for i in (1, 2, 3)}),
           "ernie4_5_moe": ("router-formula", {f"decoder.layers.{i}.mlp.router" for i in (1, 2, 3)}),
           "llama4_text": ("norm-kind", {f"decoder.layers.{i}.self_attention.q_layernorm" for i in (1, 3)})}


@pytest.mark.parametrize("family", RUNTIME)
def test_what_the_runtime_computes_otherwise_is_found_at_its_modules(compare, toy, family):
    cause, modules = RUNTIME[family]
    folder = toy(family)
    result, report = compare(folder, "--seq-len", LENGTH)
    assert result.returncode == 1
    assert [(found["id"], found["origin"]) for found in report["causes"]] == [(cause, "runtime")]
    assert {row["megatron"]["name"] for row in report["results"] if row["status"] == "mismatch"} == modules
    result, report = compare(folder, "--seq-len", LENGTH, "--runtime", "none")
    assert result.returncode == 0, result.stdout + result.stderr


# transformers divides the weight of a single expert by itself, which Megatron-Core's sigmoid routers do not.
# (Groups of experts count otherwise too.)
ONE_EXPERT = ["deepseek_v3", "dots1", "glm4_moe"]
ONE = ["--set", "num_experts_per_tok=1", "--set", "n_group=1", "--set", "topk_group=1"]


@pytest.mark.parametrize("family", [*ONE_EXPERT, "llama4_text", "qwen2_moe"])
def test_a_router_of_one_expert_gives_the_states_of_transformers(compare, toy, tmp_path, monkeypatch, family):
    folder = toy(family, *ONE)
    assert worst_ratio(compare, folder, tmp_path / "states.safetensors", monkeypatch) <= 2


@pytest.mark.parametrize("family", ONE_EXPERT)
def test_a_router_of_one_expert_is_found_at_its_module(compare, toy, family):
    folder = toy(family, *ONE)
    result, report = compare(folder, "--seq-len", LENGTH)
    assert result.returncode == 1
    assert [(found["id"], found["origin"]) for found in report["causes"]] == [("router-formula", "runtime")]
    failed = {row["megatron"]["name"] for row in report["results"] if row["status"] == "mismatch"}
    assert failed and all(name.endswith(".mlp.router") for name in failed)
    assert compare(folder, "--seq-len", LENGTH, "--runtime", "none")[0].returncode == 0
    right = toy(family, *ONE, "--set", "norm_topk_prob=false")
    assert compare(right, "--seq-len", LENGTH)[0].returncode == 0


def test_a_softmax_over_one_expert_is_what_megatron_core_refuses(compare, toy):
    result, report = compare(toy("qwen3_moe", "--set", "num_experts_per_tok=1", "--set", "norm_topk_prob=true"),
                             "--seq-len", LENGTH)
    assert result.returncode == 1
    assert [(found["id"], found["origin"]) for found in report["causes"]] == [("router-formula", "config")]
    assert "refuses" in report["causes"][0]["message"]


@pytest.mark.parametrize(("family", "options", "limit"), [
    ("llama4_text", ["--set", "attention_chunk_size=32"], 32), ("llama4_text", ["--set", "floor_scale=40"], 39)])
def test_a_length_beyond_which_a_model_computes_otherwise_is_refused(compare, toy, family, options, limit):
    folder = toy(family, *options)
    result, report = compare(folder, "--seq-len", LENGTH)
    assert result.returncode == 2 and f"beyond {limit} positions" in report["error"]["what"]
    result, report = compare(folder, "--seq-len", limit, "--runtime", "none")
    assert result.returncode == 0, result.stdout + result.stderr


RECORDED = ["llama_tied", "llama_untied", "qwen2", "qwen3", "qwen3_moe", "gpt_oss_ns", "deepseek_v3_nomtp", "glm4_moe",
            "olmoe", "exaone4", "qwen2_5_vl", "qwen3_next"]


def recording_of(goldens, name):
    return (goldens / name / "hf_fp32", goldens / name / "meg_te_fp32"), goldens / name / "fwd_te_fp32.safetensors"


@pytest.mark.parametrize("name", RECORDED)
def test_what_megatron_core_computed_is_what_transformers_does(compare, goldens, name):
    pair, recording = recording_of(goldens, name)
    result, report = compare(*pair, "--candidate", recording)
    assert result.returncode == 0, result.stdout + result.stderr
    assert report["counts"]["passed"] == report["counts"]["total"] > 1
    # And our Megatron side is what transformers recorded.
    result, report = compare(*pair, "--reference", recording)
    assert result.returncode == 0, result.stdout + result.stderr


# Real defects of a bridge, as megatron-core's own run shows them: cause, origin, the layers in which it is seen.
DEFECTS = {"gemma2": ("norm-eps", "runtime", {0, 1}), "ernie4_5_moe": ("router-formula", "config", {1, 2}),
           "nemotron_h": ("ssm-parameters", "runtime", {0})}


@pytest.mark.parametrize("name", DEFECTS)
def test_a_real_defect_is_found_in_a_recording_at_its_layer_with_its_cause(compare, goldens, name):
    cause, origin, layers = DEFECTS[name]
    pair, recording = recording_of(goldens, name)
    result, report = compare(*pair, "--candidate", recording)
    assert result.returncode == 1
    assert [(found["id"], found["origin"]) for found in report["causes"]] == [(cause, origin)]
    failed = {row["megatron"]["name"] for row in report["results"] if row["status"] == "mismatch"}
    assert failed == {f"decoder.layers.{layer}" for layer in layers}


def test_a_recording_that_the_config_does_not_explain_is_a_module_that_differs(compare, goldens, tmp_path):
    from safetensors.torch import load_file, save_file
    pair, recording = recording_of(goldens, "qwen3")
    states = load_file(recording)
    states["meg_hidden_1_sbh"] = states["meg_hidden_1_sbh"] * 1.0001
    save_file(states, tmp_path / "scaled.safetensors")
    result, report = compare(*pair, "--candidate", tmp_path / "scaled.safetensors")
    assert result.returncode == 1
    # What was recorded after layer 1 does not follow from the scaled state before it.
    assert [(cause["id"], cause["where"]) for cause in report["causes"]] == [
        ("module-differs", ["decoder.layers.0", "decoder.layers.1"])]
    assert "do not give what was recorded" in report["causes"][0]["hint"]


@pytest.mark.parametrize(("spoil", "complaint"), [
    (lambda states: states.pop("input_ids"), "no input_ids"),
    (lambda states: states.update(meg_logits=states["meg_logits"][:, :, 1:].contiguous()), "meg_logits"),
    (lambda states: [states.pop(name) for name in list(states) if name.startswith("meg_")], "neither hidden states"),
])
def test_a_file_that_is_no_recording_of_the_model_is_refused(compare, goldens, tmp_path, spoil, complaint):
    from safetensors.torch import load_file, save_file
    pair, recording = recording_of(goldens, "qwen3")
    states = load_file(recording)
    spoil(states)
    save_file(states, tmp_path / "spoilt.safetensors")
    result, report = compare(*pair, "--candidate", tmp_path / "spoilt.safetensors")
    assert result.returncode == 2 and complaint in report["error"]["what"]


def test_token_ids_outside_of_the_vocabulary_are_a_usage_error(compare, toy):
    result, report = compare(toy("llama"), "--token-ids", "1,2,99999")
    assert result.returncode == 2 and "99999" in report["error"]["what"]


# One thousandth of a percent to one percent: what each change has to be found at, and nothing else.
CHANGES = {
    "rotary_base": (lambda value: value * 1.0001, {"self_attention.rotary_pos_emb"}),
    "softmax_scale": (lambda _: 12 ** -0.5 * 1.0001, {"self_attention.core_attention"}),
    "layernorm_epsilon": (lambda value: value * 2, {"input_layernorm", "pre_mlp_layernorm", "decoder.final_layernorm"}),
}


@pytest.mark.parametrize("field", CHANGES)
def test_a_small_change_of_the_config_is_found_at_its_module(compare, toy, weighbridge, tmp_path, field):
    import re
    change, modules = CHANGES[field]
    hf, megatron = toy("llama"), tmp_path / "megatron"
    assert weighbridge("import", hf, megatron).returncode == 0
    file = next(megatron.glob("iter_*/run_config.yaml"))
    line = re.search(rf"(?m)^  {field}: (.*)$", file.read_text())
    old = float(line[1]) if line and line[1] != "null" else None
    text = re.sub(rf"(?m)^  {field}: .*\n", "", file.read_text())
    file.write_text(text.replace("\nmodel:\n", f"\nmodel:\n  {field}: {change(old)!r}\n", 1)
                    if "\nmodel:\n" in text else text.replace("model:\n", f"model:\n  {field}: {change(old)!r}\n", 1))
    result, report = compare(hf, megatron, "--seq-len", LENGTH)
    assert result.returncode == 1, result.stdout + result.stderr
    names = {row["megatron"]["name"] for row in report["results"] if row["status"] == "mismatch"}
    assert {re.sub(r"^decoder\.layers\.\d+\.", "", name) for name in names} == modules
