"""`compare` where something lacks: parts of a recording, Megatron's config, experts that no token reaches, numbers that are none.
Recordings are made by transformers."""
import json
import shutil

import forward_faults
import pytest

from conftest import need_engine
from test_compare_faults import causes_of, change_epsilon, failed_modules, ids_of, load, pair, record  # noqa: F401

need_engine()

LENGTH = 40


def unproven(report, text):
    return [line for line in report["unproven"] if text in line]


def names_of(report):
    return {row["megatron"]["name"] for row in report["results"]}


# -- Megatron's config --

# Of these `import` knows no class of the Bridge, and writes no run_config.yaml.
@pytest.mark.parametrize("family", ["falcon_h1", "glm4", "ministral3", "mistral3", "olmo2", "olmo3"])
def test_a_checkpoint_without_a_config_is_judged_by_what_the_family_says(compare, toy, weighbridge, tmp_path, family):
    from safetensors.torch import load_file, save_file
    hf, megatron = toy(family), tmp_path / "megatron"
    assert weighbridge("import", hf, megatron).returncode == 0
    result, report = compare(hf, megatron, "--seq-len", LENGTH)
    assert result.returncode == 0, result.stdout + result.stderr
    assert unproven(report, "does not say how its model is built")
    # It is this checkpoint that was judged: another model of the same config has other weights.
    file, = hf.glob("*.safetensors")
    tensors = load_file(file)
    name = next(name for name in sorted(tensors) if "layers.1." in name and name.endswith("mlp.down_proj.weight"
                if family != "falcon_h1" else "feed_forward.down_proj.weight"))
    tensors[name] *= 1.01
    save_file(tensors, file, {"format": "pt"})
    result, report = compare(hf, megatron, "--seq-len", LENGTH)
    assert result.returncode == 1 and failed_modules(report) == {"decoder.layers.1.mlp"}


@pytest.mark.parametrize(("fields", "said"), [
    ({"layernorm_epsilon": 10 ** 400}, "layernorm_epsilon is"), ({"layernorm_epsilon": "x"}, 'layernorm_epsilon is "x"'),
    ({"rotary_base": 0}, "rotary_base is 0"),
    ({"softmax_scale": -1.0}, "softmax_scale is -1"), ({"moe_router_topk": 0}, "moe_router_topk is 0"),
    ({"moe_router_topk": 9}, "moe_router_topk is 9")])
def test_a_number_by_which_nothing_can_be_computed_is_a_fault_of_megatrons_config(pair, fields, said):  # noqa: F811
    status, report = forward_faults.compare_with(pair("qwen3_moe"), fields)
    assert status == 1, report
    assert [(cause["id"], cause["origin"]) for cause in report["causes"]] == [("header-corrupt", "config")]
    assert said in report["causes"][0]["message"] and "run_config.yaml" in report["causes"][0]["evidence"]
    # With a number in its place the pass ran.
    assert report["counts"]["failed"] == 0 < report["counts"]["passed"]


@pytest.mark.parametrize(("key", "value"), [("rms_norm_eps", "1e-6"), ("num_experts_per_tok", "2")])
def test_a_value_of_another_kind_in_config_json_is_not_taken_for_the_usual_one(compare, toy, key, value):
    hf = toy("qwen3_moe")
    config = json.loads((hf / "config.json").read_text())
    (hf / "config.json").write_text(json.dumps(config | {key: value}))
    result, report = compare(hf, "--seq-len", LENGTH)
    assert result.returncode == 2 and not report["results"], result.stdout
    assert report["error"]["id"] == "config-unsupported" and f'{key} is "{value}"' in report["error"]["what"]


# -- parts that no text reaches --

# In which tensors of the checkpoint of Hugging Face the parts beside the text model are.
OTHER_PARTS = {"qwen3_asr": "thinker.audio_tower.", "qwen3_omni_moe": ("thinker.audio_tower.", "thinker.visual."),
               "nemotron_nano_vl": ("vision_model.", "mlp1."),
               "minimax_m3": ("vision_tower.", "multi_modal_projector.", "patch_merge_mlp.")}


@pytest.mark.parametrize("family", OTHER_PARTS)
def test_a_change_of_what_sees_or_hears_is_not_passed_in_silence(compare, toy, weighbridge, tmp_path, family):
    from safetensors.torch import load_file, save_file
    hf, megatron = toy(family), tmp_path / "megatron"
    assert weighbridge("import", hf, megatron).returncode == 0
    file, = hf.glob("*.safetensors")
    tensors = load_file(file)
    changed = [name for name in tensors if name.startswith(OTHER_PARTS[family])]
    save_file({name: tensor * 3 + 1 if name in changed else tensor for name, tensor in tensors.items()}, file, {"format": "pt"})
    for models in ([hf, megatron], [hf]):
        result, report = compare(*models, "--seq-len", 12)
        assert result.returncode == 0, result.stdout + result.stderr
        line, = unproven(report, "of other parts")
        assert "`verify` compares them" in line
    # What the line says is so.
    assert weighbridge("verify", hf, megatron).returncode == 1


def test_a_model_of_text_alone_has_no_other_parts(compare, toy):
    assert not unproven(compare(toy("llama"), "--seq-len", 12)[1], "of other parts")


def test_tensors_that_the_mapping_leaves_out_are_noted_as_by_every_command(compare, toy):
    from safetensors.torch import load_file, save_file
    hf = toy("llama")
    file, = hf.glob("*.safetensors")
    tensors = load_file(file)
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = tensors["model.norm.weight"][:4].clone()
    save_file(tensors, file, {"format": "pt"})
    result, report = compare(hf, "--seq-len", 12)
    assert result.returncode == 0, result.stdout + result.stderr
    note, = (note["message"] for note in report["notes"] if note["id"] == "not-needed")
    assert "rotary_emb.inv_freq" in note


# -- recordings --

def changed_recording(path, change):
    from safetensors.torch import load_file, save_file
    states = load_file(path)
    change(states)
    save_file({name: state.contiguous() for name, state in states.items()}, path)
    return path


@pytest.fixture
def recorded(pair, tmp_path):  # noqa: F811
    """recorded(CHANGE, MODEL_CHANGE) -> (pair, the recording of a run of transformers under Megatron's names)"""

    def call(change=lambda states: None, model_change=lambda model: None):
        hf, megatron = pair("llama")
        model = load(hf)
        model_change(model)
        return (hf, megatron), changed_recording(record(model, tmp_path / "run.safetensors", ids_of(hf)), change)

    return call


def test_a_recording_that_lacks_states_says_which_layers_it_leaves_unjudged(compare, recorded):
    models, recording = recorded(lambda states: [states.pop(f"meg_hidden_{i}_sbh") for i in (0, 2)])
    result, report = compare(*models, "--candidate", recording)
    assert result.returncode == 0, report["causes"]
    # Layer 1 has no output, layer 2 no input; layer 0 begins with the embedding, which both look up.
    assert names_of(report) == {"decoder.layers.0", "decoder.layers.3", "output_layer"}
    line, = unproven(report, "were not judged by it")
    assert "hidden states 2:" in line and "layers 1-2" in line
    models, recording = recorded(lambda states: [states.pop(name) for name in ("meg_hidden_4_sbh", "meg_logits")])
    result, report = compare(*models, "--candidate", recording)
    assert result.returncode == 0, report["causes"]
    line, = unproven(report, "were not judged by it")
    assert "hidden states 4, logits" in line and "layers 3 and the output layer" in line
    models, recording = recorded()
    assert not unproven(compare(*models, "--candidate", recording)[1], "were not judged by it")


def only_logits(states):
    for name in [name for name in states if name not in ("input_ids", "meg_logits")]:
        del states[name]


def test_a_recording_of_logits_alone_is_judged_by_what_all_layers_add(compare, recorded):
    models, recording = recorded(only_logits)
    result, report = compare(*models, "--candidate", recording)
    assert result.returncode == 0, report["causes"]
    assert names_of(report) == {"output_layer"} and report["results"][0]["noise"]["ratio"] <= 2
    models, recording = recorded(only_logits, change_epsilon)
    result, report = compare(*models, "--candidate", recording)
    assert result.returncode == 1 and failed_modules(report) == {"output_layer"}


def test_recorded_logits_of_a_reference_are_certified_and_show_the_faults_of_all_layers(compare, pair, tmp_path):  # noqa: F811
    hf, megatron = pair("llama")
    recording = record(load(hf), tmp_path / "run.safetensors", ids_of(hf))

    changed_recording(recording, lambda states: (states.update(hf_logits=states.pop("meg_logits")),
                                                 [states.pop(name) for name in list(states) if name.startswith("meg_")]))
    result, report = compare(hf, megatron, "--reference", recording)
    assert result.returncode == 0, report["causes"]
    file = next(megatron.glob("iter_*/run_config.yaml"))
    right = file.read_text()
    try:
        forward_faults.change_fields(file, {"softmax_scale": 0.3})
        result, report = compare(hf, megatron, "--reference", recording)
    finally:
        file.write_text(right)
    assert result.returncode == 1 and list(causes_of(report)) == ["softmax-scale"], report["causes"]
    changed_recording(recording, lambda states: states.update(hf_logits=states["hf_logits"] * 1.01))
    result, report = compare(hf, megatron, "--reference", recording)
    assert result.returncode == 2 and report["error"]["id"] == "reference-broken"


def test_a_recording_of_the_reference_judges_the_last_layer_and_the_final_norm(compare, toy, weighbridge, tmp_path):
    from safetensors.torch import load_file, save_file
    hf, recording = toy("llama"), tmp_path / "states.safetensors"
    compare(hf, "--seq-len", LENGTH, "--record", recording)
    result, report = compare(hf, "--reference", recording)
    assert result.returncode == 0, report["causes"]
    assert names_of(report) == {*(f"decoder.layers.{i}" for i in range(4)), "decoder.final_layernorm", "output_layer"}
    tensors = load_file(hf / "model.safetensors")
    for name, row in ("model.layers.3.mlp.down_proj.weight", "decoder.layers.3"), ("model.norm.weight", "decoder.final_layernorm"):
        wrong, megatron = tmp_path / f"wrong-{row}", tmp_path / f"megatron-{row}"
        shutil.copytree(hf, wrong)
        save_file({**tensors, name: tensors[name] * 1.01}, wrong / "model.safetensors", {"format": "pt"})
        assert weighbridge("import", wrong, megatron).returncode == 0
        result, report = compare(hf, megatron, "--reference", recording)
        assert result.returncode == 1 and failed_modules(report) == {row}
        assert list(causes_of(report)) == ["scaled"], report["causes"]


def with_final(model, states):
    """What leaves the final norm, as `compare --record` writes it."""
    import torch
    with torch.no_grad():
        states["meg_final_sbh"] = model.model.norm(states["meg_hidden_4_sbh"])


def test_a_recorded_final_norm_is_a_row_of_its_own(compare, pair, recorded):  # noqa: F811
    model = load(pair("llama")[0])
    models, recording = recorded(lambda states: with_final(model, states))
    result, report = compare(*models, "--candidate", recording)
    assert result.returncode == 0, report["causes"]
    assert {"decoder.final_layernorm", "output_layer"} <= names_of(report)
    change_epsilon(model)
    for name in "meg_logits", "":
        def of_another_epsilon(states, name=name):
            with_final(model, states)
            states.pop(name, None)

        models, recording = recorded(of_another_epsilon)
        result, report = compare(*models, "--candidate", recording)
        assert result.returncode == 1
        assert failed_modules(report) == {"decoder.final_layernorm"} | ({"output_layer"} if not name else set())


def test_what_compare_records_is_read_back_whole(compare, toy, tmp_path):
    hf, recording = toy("llama"), tmp_path / "states.safetensors"
    compare(hf, "--seq-len", LENGTH, "--record", recording)
    result, report = compare(hf, "--candidate", recording)
    assert result.returncode == 0, report["causes"]
    assert {"decoder.final_layernorm", "output_layer"} <= names_of(report)
    assert not unproven(report, "were not judged by it")


def test_a_state_beyond_the_last_layer_is_a_recording_of_another_model(compare, recorded):
    models, recording = recorded(lambda states: states.update(meg_hidden_5_sbh=states["meg_hidden_4_sbh"].clone()))
    result, report = compare(*models, "--candidate", recording)
    assert result.returncode == 2 and "meg_hidden_5_sbh" in report["error"]["what"] and "4 layers" in report["error"]["what"]


@pytest.mark.parametrize("length", [0, 5, 300, -1])
def test_a_cut_recording_is_no_judgement_of_a_checkpoint(compare, recorded, length):
    models, recording = recorded()
    recording.write_bytes(recording.read_bytes()[:length])
    result, report = compare(*models, "--candidate", recording)
    assert result.returncode == 2, report
    assert report["error"]["id"] == "recording" and "recording" in report["error"]["what"]
    assert recording.name in report["error"]["at"]


def test_logits_that_are_no_numbers_have_no_cosine(compare, recorded):
    def spoil(states):
        states["meg_logits"][0, 3, 5] = float("nan")

    models, recording = recorded(spoil)
    result, report = compare(*models, "--candidate", recording)
    assert result.returncode == 1
    row = next(row for row in report["results"] if row["megatron"]["name"] == "output_layer")
    assert row["status"] == "mismatch" and row["cosine"] is None and row["nan_count"] == 1
    said, = (note["message"] for note in report["notes"] if note["id"] == "next-tokens")
    assert "cosine 1" not in said and "1 of the candidate's logits are no numbers" in said


# -- options --

def test_a_recording_and_a_report_cannot_be_one_file(weighbridge, toy, tmp_path):
    one = tmp_path / "one"
    result = weighbridge("compare", toy("llama"), "--seq-len", 8, "--record", one, "--json", one)
    assert result.returncode == 2 and "write the same file" in result.stderr and not one.exists()


def test_a_threshold_that_matches_nothing_is_refused_before_the_walk(compare, toy, tmp_path):
    folder = toy("llama")
    # A walk would end here: the last layer's weights are no numbers.
    from safetensors.torch import load_file, save_file
    file, = folder.glob("*.safetensors")
    tensors = load_file(file)
    tensors["model.layers.0.mlp.up_proj.weight"].fill_(float("nan"))
    save_file(tensors, file, {"format": "pt"})
    result, report = compare(folder, "--seq-len", 8, "--threshold", "*.no_such_module=3")
    assert result.returncode == 2 and "no module matches" in report["error"]["what"]
    assert compare(folder, "--seq-len", 8, "--threshold", "*.mlp=3")[1]["error"]["id"] == "reference-broken"


# -- experts --

def tie_experts(folder, strength=1.0):
    """Experts 1, 2 and 3 of each layer score alike up to the last bit, and compute much else."""
    import torch
    from safetensors.torch import load_file, save_file
    file, = folder.glob("*.safetensors")
    tensors = load_file(file)
    torch.manual_seed(0)
    for name, w in tensors.items():
        if name.endswith("mlp.gate.weight"):
            for expert in 2, 3:
                w[expert] = torch.nextafter(w[1], w[1] + torch.randn_like(w[1]))
        elif ".experts." in name:
            w *= strength
    save_file(tensors, file, metadata={"format": "pt"})
    return folder


def test_noise_is_no_larger_where_the_truth_itself_takes_another_expert(compare, toy, weighbridge, tmp_path):
    hf, megatron = tie_experts(toy("qwen3_moe"), strength=4), tmp_path / "megatron"
    assert weighbridge("import", hf, megatron).returncode == 0
    result, report = compare(hf, megatron, "--seq-len", 128)
    assert result.returncode == 0, report["causes"]
    # Other logits, all of whose modules pass by a threshold: what is left are the next tokens.
    from safetensors.torch import load_file, save_file
    file, = hf.glob("*.safetensors")
    tensors = load_file(file)
    tensors["lm_head.weight"] = tensors["lm_head.weight"].roll(1, 0)
    save_file(tensors, file, metadata={"format": "pt"})
    result, report = compare(hf, megatron, "--seq-len", 128, "--threshold", "*=1e30")
    assert result.returncode == 1 and list(causes_of(report)) == ["next-token"], report["notes"]
    noise = float(report["causes"][0]["evidence"].rsplit("noise ", 1)[1])
    print(report["causes"][0]["evidence"])
    assert noise < 1e-3


def test_experts_that_no_token_reaches_are_not_proven(compare, toy):
    folder = toy("qwen3_moe", "--set", "num_experts=16")
    _, report = compare(folder, "--token-ids", "5,6")
    line, = unproven(report, "got no token")
    assert "of 16 in layer 0" in line
    _, report = compare(toy("qwen3_moe"), "--seq-len", 512)
    assert not unproven(report, "got no token")
