"""Bridges in Python by their dumps, without torch: what inspect_bridge wrote down of Megatron Bridge 0.6.2 (testdata/bridges,
tools/make_bridge_dumps.py), and what goes wrong in them. tests/oracle/test_user_bridge.py does it with live objects."""
import copy
import json
import pathlib
import types

import numpy
import pytest

import weighbridge as wb

ROOT = pathlib.Path(__file__).resolve().parents[2]
DUMPS = ROOT / "tests/testdata/bridges"
# What is known to differ in these: no rule's fault.
KNOWN = {"ernie4_5_moe": ["router-formula"], "gemma2": ["norm-eps"], "nemotron_h": ["ssm-parameters"]}


def dump_of(name):
    return wb.BridgeDump(json.loads((DUMPS / f"{name}.json").read_text()))


@pytest.mark.parametrize("name", sorted(path.stem for path in DUMPS.glob("*.json")))
def test_bridges_of_megatron_bridge_are_clean_but_for_known_defects(name):
    report = dump_of(name).lint()
    assert [cause.id for cause in report.causes] == KNOWN.get(name, [])
    assert report.counts.failed == 0 and report.counts.total > 10


def rule(dump, megatron):
    return next(r for r in dump.document["mappings"] if r["megatron"].endswith(megatron))


def test_exchanged_roles_are_named_at_their_rule():
    dump = dump_of("llama_untied")
    hf = rule(dump, "mlp.linear_fc1.weight")["hf"]
    hf["gate"], hf["up"] = hf["up"], hf["gate"]
    (cause,) = dump.lint().causes
    assert cause.id == "rule-roles" and cause.where[0].endswith("(GatedMLPMapping decoder.layers.*.mlp.linear_fc1.weight)")
    assert "gate_proj" in cause.hint and len(cause.where) == 1 + 4


def test_a_rule_that_is_left_out_is_named_by_what_it_would_take():
    dump = dump_of("llama_untied")
    dump.document["mappings"].remove(rule(dump, "output_layer.weight"))
    (cause,) = dump.lint().causes
    assert cause.id == "rule-missing" and "lm_head.weight" in cause.message


def test_another_class_is_told_by_the_code_that_converts():
    dump = dump_of("qwen3_next")
    for key in ("class", "importer", "exporter"):
        rule(dump, "out_norm.weight")[key] = "AutoMapping"
    (cause,) = dump.lint().causes
    assert cause.id == "rule-class" and "does not change values" in cause.message


def test_code_of_its_own_is_not_judged_and_said_so():
    dump = dump_of("llama_untied")
    rule(dump, "mlp.linear_fc2.weight")["importer"] = "MyMapping"
    report = dump.lint()
    assert report.ok and any("MyMapping" in text for text in report.unproven)


def test_the_provider_is_compared_by_effect():
    dump = dump_of("qwen3")
    dump.document["provider"]["rotary_base"] = 17.0
    (cause,) = dump.lint().causes
    assert cause.id == "rope-base" and "the provider" in cause.message


def new_to_us(name):
    """The dump as that of a model that no family describes, with the names of Megatron's side."""
    dump = dump_of(name)
    config = dump.document["config"]
    megatron = [[r.megatron.name, list(r.megatron.shape)] for r in dump.lint().results]
    dump.document |= {"megatron": megatron, "config": config | {"architectures": ["NovelForCausalLM"], "model_type": "novel"}}
    return dump


def test_a_model_that_is_new_is_judged_by_both_inventories():
    dump = new_to_us("llama_untied")
    report = dump.lint()
    assert report.ok and any("no family" in text for text in report.unproven)

    broken = wb.BridgeDump(copy.deepcopy(dump.document))
    rule(broken, "mlp.linear_fc2.weight")["megatron"] = "decoder.layer.*.mlp.linear_fc2.weight"
    assert {cause.id for cause in broken.lint().causes} == {"rule-missing", "rule-dead"}

    broken = wb.BridgeDump(copy.deepcopy(dump.document))
    rule(broken, "mlp.linear_fc2.weight")["hf"] = "model.layers.*.mlp.no_proj.weight"
    assert "rule-hf-name" in {cause.id for cause in broken.lint().causes}

    broken = wb.BridgeDump(copy.deepcopy(dump.document))
    rule(broken, "linear_qkv.layer_norm_weight")["hf"] = "model.layers.*.post_attention_layernorm.weight"
    assert "rule-double" in {cause.id for cause in broken.lint().causes}

    broken = wb.BridgeDump(copy.deepcopy(dump.document))
    rule(broken, "linear_qkv.weight")["hf"] = "model.layers.*.self_attn.q_proj.weight"
    assert "rule-class" in {cause.id for cause in broken.lint().causes}

    del dump.document["hf"]
    with pytest.raises(wb.Error, match="inspect_bridge"):
        dump.lint()


@pytest.mark.parametrize("name", ["llama_untied", "qwen3"])
def test_a_drafted_family_is_the_one_that_we_have(run, tmp_path, name):
    made = run("families", "from-bridge", DUMPS / f"{name}.json", "--name", "drafted")
    assert made.returncode == 0, made.stderr
    (tmp_path / "drafted.toml").write_text(made.stdout)
    assert run("families", "lint", tmp_path / "drafted.toml").returncode == 0
    config = tmp_path / "config.json"
    config.write_text(json.dumps(dump_of(name).document["config"]))

    def expanded(*family):
        said = run("families", "expand", *family, "--config", config, "--tp", 2, "--json")
        assert said.returncode == 0, said.stderr
        keys = ("megatron", "rank_name", "shape", "local_shape", "transform", "op", "hf")
        return sorted(json.dumps({k: p[k] for k in keys}) for p in json.loads(said.stdout)["params"])

    assert expanded("drafted", "--family", tmp_path / "drafted.toml") == expanded()
    assert dump_of(name).lint(family=[tmp_path / "drafted.toml"]).ok


class Mapping:
    def __init__(self, megatron_param, hf_param):
        self.megatron_param, self.hf_param = megatron_param, hf_param

    def hf_to_megatron(self):
        raise AssertionError("no weight moves")

    megatron_to_hf = resolve = hf_to_megatron


class AutoMapping(Mapping):
    hf_to_megatron = megatron_to_hf = resolve = Mapping.hf_to_megatron


def test_any_object_of_the_bridges_shape_is_inspected(model):
    bridge = types.SimpleNamespace(
        hf_pretrained=types.SimpleNamespace(model_name_or_path=model),
        mapping_registry=lambda: [AutoMapping("embedding.word_embeddings.weight", "model.embed_tokens.weight")],
        provider_bridge=lambda pretrained: 1 / 0)
    dump = wb.inspect_bridge(bridge)
    assert dump.document["mappings"] == [{
        "megatron": "embedding.word_embeddings.weight", "hf": "model.embed_tokens.weight", "class": "AutoMapping",
        "importer": "AutoMapping", "exporter": "AutoMapping"}]
    assert len(dump.document["hf"]) > 10 and "ZeroDivisionError" in dump.document["notes"][0]
    assert {cause.id for cause in dump.lint().causes} == {"rule-missing"}
    with pytest.raises(TypeError, match="no bridge"):
        wb.inspect_bridge(object())


def test_numbers_of_numpy_in_a_provider_are_numbers():
    from weighbridge.bridge import _plain
    assert _plain(numpy.float32(0.5)) == 0.5
    assert _plain(numpy.int64(17)) == 17
    assert _plain(numpy.array(True)) is True
