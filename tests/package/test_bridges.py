"""Bridges in Python by their dumps, without torch: what inspect_bridge wrote down of Megatron Bridge 0.6.2 (testdata/bridges,
tools/make_bridge_dumps.py), and what goes wrong in them. tests/oracle/test_user_bridge.py does it with live objects."""
import copy
import json
import pathlib
import random
import re
import subprocess
import sys
import time
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


COMMON = "megatron.bridge.models.conversion.param_mapping"


def become(rule, name, module=COMMON, own=(), **rest):
    """The rule under another class, which has `own` methods besides Megatron Bridge's."""
    rule |= {"class": name, "classes": [f"{module}.{name}", f"{COMMON}.MegatronParamMapping"],
             "own": {method: f"{module}.{name}.{method}" for method in own}, **rest}


def only_cause(dump):
    (cause,) = dump.lint().causes
    return cause


def row_of(report, megatron):
    return next(r for r in report.results if r.megatron.name.endswith(megatron))


def test_another_class_is_told_by_the_code_that_converts():
    dump = dump_of("qwen3_next")
    become(rule(dump, "out_norm.weight"), "AutoMapping")
    (cause,) = dump.lint().causes
    assert cause.id == "rule-class" and "does not change values" in cause.message


def test_code_of_its_own_is_not_judged_and_said_so():
    dump = dump_of("llama_untied")
    become(rule(dump, "mlp.linear_fc2.weight"), "MyMapping", "my_bridge", ["hf_to_megatron"])
    report = dump.lint()
    assert report.ok and any("my_bridge.MyMapping.hf_to_megatron" in text for text in report.unproven)
    assert "not proven: my_bridge.MyMapping" in str(report)
    assert row_of(report, "0.mlp.linear_fc2.weight").status == "skipped" and report.counts.skipped == 4


def test_a_class_is_not_known_by_its_name():
    for own in (["hf_to_megatron"], []):  # converting by itself, or made of nothing that is known
        dump = dump_of("llama_untied")
        become(rule(dump, "mlp.linear_fc1.weight"), "GatedMLPMapping", "my_bridge", own)
        report = dump.lint()
        assert report.counts.skipped == 4 and any("my_bridge.GatedMLPMapping" in text for text in report.unproven)


def test_code_put_into_a_class_of_megatron_bridge_is_not_known_either():
    dump = dump_of("llama_untied")
    rule(dump, "mlp.linear_fc1.weight")["own"] = {"hf_to_megatron": "my_bridge.faster_hf_to_megatron"}
    rule(dump, "mlp.linear_fc2.weight")["own"] = {"hf_to_megatron": f"{COMMON}.GatedMLPMapping.hf_to_megatron"}  # another's
    assert dump.lint().counts.skipped == 8


def test_a_subclass_that_converts_as_its_parent_is_judged_as_it():
    dump = dump_of("llama_untied")
    entry = rule(dump, "mlp.linear_fc1.weight")
    entry |= {"class": "Mine", "classes": ["my_bridge.Mine", *entry["classes"]], "own": {"__init__": "my_bridge.Mine.__init__"}}
    report = dump.lint()
    assert report.ok and report.counts.skipped == 0
    hf = entry["hf"]
    hf["gate"], hf["up"] = hf["up"], hf["gate"]
    assert only_cause(dump).id == "rule-roles"


def hook_of(method="maybe_modify_loaded_hf_weight", **found):
    return {"method": method, "code": f"my_bridge.MyBridge.{method}", **found}


def number_of(dump, megatron):
    return str(dump.document["mappings"].index(rule(dump, megatron)))


def test_a_hook_that_changes_weights_is_named_with_its_rule():
    dump = dump_of("llama_untied")
    dump.document["hooks"] = [hook_of(changed={number_of(dump, "mlp.linear_fc2.weight"): "changes values"})]
    cause = only_cause(dump)
    assert cause.id == "rule-hook" and "MyBridge.maybe_modify_loaded_hf_weight" in cause.message
    assert "mlp.linear_fc2.weight" in cause.where[0] and len(cause.where) == 1 + 4


def test_a_hook_that_leaves_made_up_tensors_alone_is_named_as_not_proven():
    dump = dump_of("llama_untied")
    dump.document["hooks"] = [hook_of()]
    report = dump.lint()
    assert report.ok and any("MyBridge.maybe_modify" in text for text in report.unproven)


def test_a_hook_that_could_not_be_tried_leaves_its_rules_unjudged():
    dump = dump_of("llama_untied")
    dump.document["hooks"] = [hook_of(untried={number_of(dump, "mlp.linear_fc2.weight"): "it raised KeyError"})]
    report = dump.lint()
    row = row_of(report, "0.mlp.linear_fc2.weight")
    assert (row.status, report.counts.skipped) == ("skipped", 4) and "KeyError" in row.why


def test_a_hook_may_mend_what_its_rule_does_not():
    dump = dump_of("qwen3_next")
    become(rule(dump, "out_norm.weight"), "AutoMapping")
    dump.document["hooks"] = [hook_of(changed={number_of(dump, "out_norm.weight"): "changes values"})]
    report = dump.lint()
    assert report.ok and row_of(report, "out_norm.weight").status == "skipped"


def test_code_in_the_place_of_megatron_bridges_own_is_named():
    dump = dump_of("llama_untied")
    dump.document["hooks"] = [hook_of("build_conversion_tasks")]
    assert any("MyBridge.build_conversion_tasks" in text for text in dump.lint().unproven)


def test_hooks_of_megatron_bridges_own_families_are_known():
    dump = dump_of("llama_untied")
    assert [hook["method"] for hook in dump.document["hooks"]] == ["maybe_modify_converted_hf_weight"]
    report = dump.lint()
    assert not any("maybe_modify" in text for text in report.unproven)
    assert any("frequencies" in note.message for note in report.notes)


@pytest.mark.parametrize("hf", [{"q": "x", "k": "y", "w": "z"}, {"q": "x", "k": "y"}])
def test_roles_that_a_class_has_not_or_that_are_not_given_are_named(hf):
    dump = dump_of("llama_untied")
    entry = rule(dump, "self_attention.linear_qkv.weight")
    names = dict(zip("xyz", entry["hf"].values()))
    entry["hf"] = {role: names[name] for role, name in hf.items()}
    cause = only_cause(dump)
    assert cause.id == ("rule-roles" if len(hf) == 3 else "rule-hf-name")


def test_a_tensor_of_several_parts_under_a_class_that_cuts_it_evenly_is_named():
    dump = dump_of("qwen3_next")
    become(rule(dump, "conv1d.weight"), "AutoMapping")
    cause = only_cause(dump)
    assert cause.id == "rule-class" and "mixtures" in cause.message

    dump = dump_of("llama_untied")
    become(rule(dump, "mlp.linear_fc2.weight"), "GDNConv1dMapping")
    cause = only_cause(dump)
    assert cause.id == "rule-class" and "one part" in cause.message


@pytest.mark.parametrize("megatron, axes", [("mlp.linear_fc2.weight", [1, 0]), ("mlp.linear_fc2.weight", [-1, -2]),
                                            ("linear_qkv.layer_norm_weight", [1, 0]), ("mlp.linear_fc2.weight", [0, 2, 1]),
                                            ("output_layer.weight", [1, 0])])
def test_every_permutation_of_axes_is_judged(megatron, axes):
    dump = dump_of("llama_untied")
    rule(dump, megatron)["args"] = {"permute_dims": axes}
    assert only_cause(dump).id == "rule-class"


def test_transposition_on_export_alone_is_judged():
    dump = dump_of("gpt_oss_ns")
    rule(dump, "mlp.experts.linear_fc2.weight*")["args"]["transpose_on_export"] = True
    cause = only_cause(dump)
    assert cause.id == "rule-class" and "on export" in cause.message

    dump = dump_of("gpt_oss_ns")
    become(rule(dump, "mlp.experts.linear_fc2.weight*"), "FusedExpertMapping", args={"is_grouped_export": True})
    cause = only_cause(dump)
    assert cause.id == "rule-class" and "does not transpose" in cause.message
    rule(dump, "mlp.experts.linear_fc2.weight*")["args"]["permute_dims"] = [1, 0]
    assert dump.lint().ok

    become(rule(dump, "mlp.experts.linear_fc1.weight*"), "FusedGatedExpertMapping",
           args={"transpose_on_export": True, "is_grouped_export": True})
    assert "alternate" in only_cause(dump).message


def test_experts_that_are_not_gathered_on_export_or_others_that_are_are_named():
    dump = dump_of("gpt_oss_ns")
    del rule(dump, "mlp.experts.linear_fc2.weight*")["args"]["is_grouped_export"]
    assert "does not gather" in only_cause(dump).message
    dump = dump_of("llama_untied")
    rule(dump, "mlp.linear_fc2.weight")["args"] = {"is_grouped_export": True}
    assert "gathers" in only_cause(dump).message


def test_a_rule_that_raised_is_named_and_the_others_are_judged():
    dump = dump_of("llama_untied")
    rule(dump, "mlp.linear_fc2.weight")["raised"] = "KeyError: 'x'"
    dump.document["mappings"].append({"class": "Mine", "classes": ["my_bridge.Mine"], "raised": "RecursionError: too deep"})
    hf = rule(dump, "mlp.linear_fc1.weight")["hf"]
    hf["gate"], hf["up"] = hf["up"], hf["gate"]
    causes = {cause.id: cause for cause in dump.lint().causes if cause.id != "rule-raises"}
    raised = [cause for cause in dump.lint().causes if cause.id == "rule-raises"]
    assert list(causes) == ["rule-roles"] and [cause.evidence for cause in raised] == ["KeyError: 'x'", "RecursionError: too deep"]


def test_fields_that_are_no_plain_values_are_said():
    dump = dump_of("qwen3")
    dump.document["left_out"] = {"my_schedule": "Schedule"}
    assert "my_schedule (Schedule)" in str(dump.lint())


def test_a_family_may_be_one_path():
    path = ROOT / "families/llama.toml"
    dump = dump_of("llama_untied")
    for family in (path, str(path), [path], (str(path),)):
        assert dump.lint(family=family).document["details"]["family"] == "llama"


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
    assert "rule-roles" in {cause.id for cause in broken.lint().causes}
    become(rule(broken, "linear_qkv.weight"), "AutoMapping")
    assert "rule-class" in {cause.id for cause in broken.lint().causes}

    del dump.document["hf"]
    with pytest.raises(wb.Error, match="inspect_bridge"):
        dump.lint()


def broken(change, name="llama_untied"):
    """Causes of a model that is new to us, after a change of its document."""
    dump = new_to_us(name)
    change(dump)
    return dump.lint().causes


def test_of_a_new_model_a_rule_that_is_kept_from_its_tensors_is_named():
    def change(dump):
        broad = copy.deepcopy(rule(dump, "mlp.linear_fc2.weight"))
        broad |= {"megatron": "decoder.layers.*.mlp.**", "hf": "model.layers.*.mlp.**"}
        dump.document["mappings"].insert(0, broad)

    assert "rule-shadowed" in {cause.id for cause in broken(change)}


def test_of_a_new_model_shapes_are_judged_by_what_the_class_does():
    def transposed(dump):  # as many elements, other axes
        rule(dump, "mlp.linear_fc2.weight")["args"] = {"permute_dims": [1, 0]}

    def exchanged(dump):  # gate and up of different sizes, q read twice
        rule(dump, "self_attention.linear_qkv.weight")["hf"]["k"] = rule(dump, "self_attention.linear_qkv.weight")["hf"]["q"]

    def unknown_role(dump):
        hf = rule(dump, "mlp.linear_fc1.weight")["hf"]
        hf["down"] = hf.pop("up")

    assert [cause.id for cause in broken(transposed)] == ["rule-class"]
    assert "rule-double" in {cause.id for cause in broken(exchanged)}
    assert [cause.id for cause in broken(unknown_role)] == ["rule-roles"]


def test_of_a_new_model_layers_that_read_one_tensor_are_named():
    def change(dump):
        rule(dump, "linear_qkv.layer_norm_weight")["hf"] = "model.layers.0.input_layernorm.weight"

    assert "rule-double" in {cause.id for cause in broken(change)}


def test_of_a_new_model_hooks_own_code_and_what_raised_are_judged_too():
    def hook(dump):
        dump.document["hooks"] = [hook_of(changed={number_of(dump, "mlp.linear_fc2.weight"): "changes values"})]

    def raised(dump):
        rule(dump, "mlp.linear_fc2.weight")["raised"] = "KeyError: 'x'"

    assert [cause.id for cause in broken(hook)] == ["rule-hook"]
    assert [cause.id for cause in broken(raised)] == ["rule-raises"]
    dump = new_to_us("llama_untied")
    become(rule(dump, "mlp.linear_fc2.weight"), "AutoMapping", "my_bridge")
    assert dump.lint().counts.skipped == 4


def test_of_a_new_model_a_name_that_is_listed_twice_is_said():
    dump = new_to_us("llama_untied")
    rows = dump.lint().counts.total
    dump.document["hf"].append(["model.norm.weight", [3]])
    dump.document["megatron"].append(["decoder.final_layernorm.weight", [3]])
    report = dump.lint()
    assert report.ok and report.counts.total == rows  # the first counts
    assert sum("twice" in text for text in report.unproven) == 2


@pytest.mark.parametrize("name", sorted({path.stem for path in DUMPS.glob("*.json")} - {"deepseek_v3"}))  # whose files lack MTP
def test_right_bridges_are_clean_by_their_inventories_alone(name):
    report = new_to_us(name).lint()
    assert not [c for c in report.causes if c.id not in ("rule-missing",)], str(report)


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

    megatron_to_hf = hf_to_megatron

    def resolve(self, captures):
        return type(self)(self.megatron_param.replace("*", captures[0]), self.hf_param.replace("*", captures[0]))


class AutoMapping(Mapping):
    pass


def bridge_of(model, *mappings, **more):
    return types.SimpleNamespace(
        **{"hf_pretrained": types.SimpleNamespace(model_name_or_path=model), "mapping_registry": lambda: list(mappings),
           "provider_bridge": lambda pretrained: types.SimpleNamespace(num_layers=2)} | more)


WORD = ("embedding.word_embeddings.weight", "model.embed_tokens.weight")


def test_any_object_of_the_bridges_shape_is_inspected(model):
    dump = wb.inspect_bridge(bridge_of(model, AutoMapping(*WORD), provider_bridge=lambda pretrained: 1 / 0))
    (entry,) = dump.document["mappings"]
    assert (entry["megatron"], entry["hf"], entry["class"]) == (*WORD, "AutoMapping")
    assert [name.split(".")[-1] for name in entry["classes"]] == ["AutoMapping", "Mapping"]
    assert entry["own"]["hf_to_megatron"].endswith("test_bridges.Mapping.hf_to_megatron")
    assert len(dump.document["hf"]) > 10 and "ZeroDivisionError" in dump.document["notes"][0]
    report = dump.lint()
    assert {cause.id for cause in report.causes} == {"rule-missing"}
    assert row_of(report, "word_embeddings.weight").status == "skipped"  # whatever its name, it is not Megatron Bridge's
    with pytest.raises(TypeError, match="no bridge"):
        wb.inspect_bridge(object())


class Holds(AutoMapping):
    def __init__(self, *names):
        super().__init__(*names)
        self._delegate = Mapping(*names)


def test_mappings_that_a_mapping_holds_are_looked_at(model):
    (entry,) = wb.inspect_bridge(bridge_of(model, Holds(*WORD))).document["mappings"]
    assert entry["own"]["_delegate.megatron_to_hf"].endswith("test_bridges.Mapping.hf_to_megatron")
    dump = dump_of("llama_tied")
    held = {"hf_to_megatron": f"{COMMON}.AutoMapping.hf_to_megatron", "__init__": "mine.M.__init__"}
    word = rule(dump, "word_embeddings.weight")
    word["own"] = {f"_delegate.{method}": code for method, code in held.items()}
    assert row_of(dump.lint(), "word_embeddings.weight").status == "match"
    word["own"]["_delegate.hf_to_megatron"] = "mine.M.hf_to_megatron"
    assert row_of(dump.lint(), "word_embeddings.weight").status == "skipped"


# What Megatron Bridge's mappings hold, in the module of theirs: which class builds what, and when.
BUILDS = """
class MegatronParamMapping:
    def __init__(self, megatron_param, hf_param):
        self.megatron_param, self.hf_param, self.pp_group, self._cache = megatron_param, hf_param, None, {}

    def hf_to_megatron(self, hf_weights, megatron_module):
        raise AssertionError("no weight moves")

    def megatron_to_hf(self, megatron_weights, megatron_module):
        raise AssertionError("no weight moves")

    def resolve(self, captures):
        names = [self.megatron_param, self.hf_param]
        for capture in captures:
            names = [name.replace("*", capture, 1) for name in names]
        return type(self)(*names)


class ReplicatedMapping(MegatronParamMapping):
    pass


class ColumnParallelMapping(MegatronParamMapping):
    pass


class AutoMapping(MegatronParamMapping):
    def __init__(self, megatron_param, hf_param, permute_dims=None):
        super().__init__(megatron_param, hf_param)
        self._detected_type, self._mapping, self.permute_dims = None, None, permute_dims

    def _get_or_create_mapping(self, kind):
        return {"replicated": ReplicatedMapping, "column": ColumnParallelMapping}[kind](self.megatron_param, self.hf_param)


class RMSNorm2ZeroCenteredRMSNormMapping(AutoMapping):
    pass


class GDNConv1dMapping(MegatronParamMapping):
    def __init__(self, megatron_param, hf_param):
        super().__init__(megatron_param, hf_param)
        self._tp_mapping = ColumnParallelMapping(megatron_param, megatron_param)
"""


@pytest.fixture
def theirs():
    module = types.ModuleType(COMMON)
    exec(BUILDS, vars(module))  # noqa: S102  our own text, under their module's name
    return module


NORM = ("decoder.final_layernorm.weight", "model.norm.weight")
PROJ = ("decoder.layers.*.self_attention.linear_proj.weight", "model.layers.*.self_attn.o_proj.weight")


def held_in(model, kind, names):
    """(entry, report's row of the first parameter) of a bridge with one rule."""
    dump = wb.inspect_bridge(bridge_of(model, kind(*names)))
    (entry,) = dump.document["mappings"]
    return entry, row_of(dump.lint(), names[0].replace("*", "0"))


def mine(theirs, put, base="AutoMapping"):
    """A class of the user's with nothing but an __init__ of its own, which puts something into the mapping."""
    class Mine(getattr(theirs, base)):
        def __init__(self, *names):
            super().__init__(*names)
            put(self)

    return Mine


def own_of(theirs):
    class Own(theirs.ReplicatedMapping):
        def hf_to_megatron(self, hf_weights, megatron_module):
            return hf_weights * 2

    return Own


def nested(theirs, rule):
    rule._mapping = theirs.AutoMapping(rule.megatron_param, rule.hf_param)
    rule._mapping._mapping = own_of(theirs)(rule.megatron_param, rule.hf_param)


def names_of(rule):
    return rule.megatron_param, rule.hf_param


PUT = {
    "another class of theirs": (
        NORM, "_mapping", lambda t, rule: setattr(rule, "_mapping", t.RMSNorm2ZeroCenteredRMSNormMapping(*names_of(rule)))),
    "their class with other arguments": (
        PROJ, "_mapping", lambda t, rule: setattr(rule, "_mapping", t.AutoMapping(*names_of(rule), permute_dims=(1, 0)))),
    "code of one's own in a list": (NORM, "_parts[0]", lambda t, rule: setattr(rule, "_parts", [own_of(t)(*names_of(rule))])),
    "code of one's own one level deeper": (NORM, "_mapping", nested),
    "code of one's own in a table in a tuple": (
        NORM, "_parts[0][x]", lambda t, rule: setattr(rule, "_parts", ({"x": own_of(t)(*names_of(rule))},))),
    "itself": (NORM, "_mapping", lambda t, rule: setattr(rule, "_mapping", rule)),
    "what could be theirs, before a module was seen": (
        NORM, "_mapping", lambda t, rule: setattr(rule, "_mapping", t.ReplicatedMapping(*names_of(rule)))),
}


@pytest.mark.parametrize("what", PUT)
def test_a_rule_that_holds_what_its_class_does_not_build_is_never_a_match(model, theirs, what):
    names, place, put = PUT[what]
    entry, row = held_in(model, mine(theirs, lambda rule: put(theirs, rule)), names)
    assert list(entry["held"]) == [place] and "torch has not been imported" in entry["trial"]["untried"]
    assert row.status == "skipped" and "does not build" in row.why and place in row.why


def test_what_is_put_only_into_the_rule_of_one_parameter_is_seen(model, theirs):
    def put(rule):
        if "*" not in rule.megatron_param:
            rule._mapping = own_of(theirs)(*names_of(rule))

    entry, row = held_in(model, mine(theirs, put), PROJ)
    assert list(entry["held"]) == ["_mapping"] and "_mapping.hf_to_megatron" in entry["own"] and row.status == "skipped"


def test_a_rule_of_other_arguments_than_it_resolves_to_is_not_judged(model, theirs):
    def put(rule):
        rule.permute_dims = None if "*" in rule.megatron_param else (1, 0)

    entry, row = held_in(model, mine(theirs, put), PROJ)
    assert entry["resolved_args"] == {"permute_dims": [1, 0]}
    assert row.status == "skipped" and "permute_dims" in row.why
    broken = dump_of("llama_untied")  # what is wrong by its own arguments stays so
    rule(broken, "mlp.linear_fc2.weight").update(args={"permute_dims": [1, 0]}, resolved_args={})
    assert only_cause(broken).id == "rule-class"


def test_what_a_class_keeps_for_its_mappings_is_held_too(model, theirs):
    class Slot(theirs.AutoMapping):
        __slots__ = ("_mapping",)

        def __init__(self, *names):
            super().__init__(*names)
            self._mapping = own_of(theirs)(*names)

    class Found(theirs.AutoMapping):
        def __getattribute__(self, name):
            value = super().__getattribute__(name)
            return own_of(theirs)(*NORM) if name == "_mapping" else value

    for kind in (Slot, Found):
        assert held_in(model, kind, NORM)[1].status == "skipped", kind


def test_what_a_class_builds_is_not_held_against_it(model, theirs):
    for base, names in (("AutoMapping", NORM), ("RMSNorm2ZeroCenteredRMSNormMapping", PROJ), ("GDNConv1dMapping", PROJ)):
        for kind in (getattr(theirs, base), mine(theirs, lambda rule: None, base)):
            entry, row = held_in(model, kind, names)
            assert "held" not in entry and "trial" not in entry and row.status in ("match", "mismatch")


def test_a_class_of_theirs_that_was_changed_builds_nothing_that_is_known(model, theirs):
    def __init__(self, *names):
        theirs.MegatronParamMapping.__init__(self, *names)
        self._tp_mapping = own_of(theirs)(*names)

    theirs.GDNConv1dMapping.__init__ = __init__
    entry, row = held_in(model, theirs.GDNConv1dMapping, PROJ)
    assert list(entry["held"]) == ["_tp_mapping"] and row.status == "skipped"


def test_what_a_mapping_has_made_at_its_first_conversion_is_no_fault(model, theirs):
    def converted(rule, cut="replicated"):
        rule._detected_type = cut
        rule._mapping = rule._get_or_create_mapping(cut)

    entry, row = held_in(model, mine(theirs, converted), NORM)
    assert "held" not in entry and entry["cuts"] == ["replicated"] and row.status == "match"
    entry, row = held_in(model, mine(theirs, lambda rule: converted(rule, "column")), NORM)  # told so, without a module
    assert "held" not in entry and row.status == "mismatch" and "'column'" in row.why


def with_held(**trial):
    dump = dump_of("llama_untied")
    rule(dump, "mlp.linear_fc2.weight").update(held={"_mapping": "mine.Own"}, trial=trial)
    return dump


def test_a_rule_that_was_seen_to_do_otherwise_than_its_right_class_is_wrong():
    tried = {"like": f"{COMMON}.AutoMapping", "changed": "changes values on import"}
    cause = only_cause(with_held(**tried))
    assert cause.id == "rule-class" and "mine.Own in _mapping" in cause.message and "changes values on import" in cause.evidence
    assert "mlp.linear_fc2.weight" in cause.where[0] and len(cause.where) == 1 + 4

    dump = with_held(**tried)  # its class is wrong here: what it holds may be what mends it
    become(rule(dump, "mlp.linear_fc2.weight"), "QKVMapping")
    rule(dump, "mlp.linear_fc2.weight")["trial"]["like"] = f"{COMMON}.QKVMapping"
    assert not dump.lint().causes and dump.lint().counts.skipped == 4


@pytest.mark.parametrize("trial", [{}, {"like": f"{COMMON}.AutoMapping"}, {"untried": "RuntimeError: needs a GPU"},
                                   {"like": f"{COMMON}.QKVMapping", "changed": "changes values"}])
def test_a_rule_that_was_not_seen_to_do_otherwise_is_not_judged(trial):
    report = with_held(**trial).lint()
    assert report.ok and report.counts.skipped == 4
    assert any("mine.Own in _mapping" in text and trial.get("untried", "") in text for text in report.unproven)


class Raises(AutoMapping):
    def resolve(self, captures):
        raise KeyError("layers")


class Deep(AutoMapping):
    def resolve(self, captures):
        return self.resolve(captures)


class NoNames(AutoMapping):
    def __init__(self):
        pass


def test_a_rule_that_raises_does_not_end_the_inspection(model):
    norm = "decoder.layers.*.self_attention.linear_qkv.layer_norm_weight"
    for kind, said in ((Raises, "KeyError"), (Deep, "RecursionError")):
        dump = wb.inspect_bridge(bridge_of(model, AutoMapping(*WORD), kind(norm, "model.layers.*.input_layernorm.weight"), NoNames()))
        entries = dump.document["mappings"]
        assert "raised" not in entries[0] and said in entries[1]["raised"] and "AttributeError" in entries[2]["raised"]
        raised = [cause for cause in dump.lint().causes if cause.id == "rule-raises"]
        assert len(raised) == 2 and said in raised[0].evidence


def test_a_bridge_without_rules_raises_an_error_of_ours(model):
    with pytest.raises(wb.Error, match="ZeroDivisionError"):
        wb.inspect_bridge(bridge_of(model, mapping_registry=lambda: 1 / 0))


def test_fields_that_are_no_settings_are_listed_with_what_they_are(model):
    holds_itself: list = []
    holds_itself.append(holds_itself)
    provider = types.SimpleNamespace(num_layers=2, schedule=object(), limit=float("inf"), loop=holds_itself)
    dump = wb.inspect_bridge(bridge_of(model, AutoMapping(*WORD), provider_bridge=lambda pretrained: provider))
    assert dump.document["provider"]["num_layers"] == 2
    assert {name: text.split(",")[0] for name, text in dump.document["left_out"].items()} == {
        "schedule": "object", "loop": "holds itself"}
    assert dump.document["provider"]["limit"] == float("inf") and "schedule (object)" in str(dump.lint())


class Hooked:
    """A bridge with a hook of its own on what it loads."""

    def __init__(self, model):
        self.hf_pretrained = types.SimpleNamespace(model_name_or_path=model)

    def mapping_registry(self):
        return [AutoMapping(*WORD)]

    def provider_bridge(self, pretrained):
        return types.SimpleNamespace(num_layers=2)

    def maybe_modify_loaded_hf_weight(self, hf_param, hf_state_dict):
        return hf_state_dict[hf_param] * 2


def test_a_hook_of_ones_own_is_written_down(model):
    (hook,) = wb.inspect_bridge(Hooked(model)).document["hooks"]
    assert hook["method"] == "maybe_modify_loaded_hf_weight" and hook["code"].endswith("test_bridges.Hooked." + hook["method"])
    assert list(hook["untried"]) == ["0"] and "torch" in hook["untried"]["0"]  # which this environment has not


def test_hooks_of_the_provider_on_the_model_are_written_down(model):
    def scale(parts):
        return parts

    provider = types.SimpleNamespace(num_layers=2, _pre_wrap_hooks=[scale])
    dump = wb.inspect_bridge(bridge_of(model, AutoMapping(*WORD), provider_bridge=lambda pretrained: provider))
    assert [hook["method"] for hook in dump.document["hooks"]] == ["pre_wrap_hook"]
    assert any("scale" in text for text in dump.lint().unproven)


def test_matching_takes_no_time_whatever_the_pattern():
    from weighbridge import _core
    start = time.monotonic()
    assert _core.match_rule("**a**b**c**d", "abc" * 1300) is None
    assert _core.match_rule("*1*1*1*1*1x", "1" * 3000) is None
    assert time.monotonic() - start < 1


def test_matching_is_that_of_regular_expressions():
    """Against re, as Megatron Bridge writes it, on random patterns and names."""
    from weighbridge import _core
    draw = random.Random(5)
    matched = 0
    for _ in range(4000):
        pattern = "".join(draw.choice(["a", "1", ".", "*", "**"]) for _ in range(draw.randrange(1, 7)))
        name = "".join(draw.choice("a1.") for _ in range(draw.randrange(0, 8)))
        expected = re.fullmatch(re.escape(pattern).replace(r"\*\*", "(.*)").replace(r"\*", r"(\d+)"), name)
        assert _core.match_rule(pattern, name) == (None if expected is None else list(expected.groups())), (pattern, name)
        matched += expected is not None
    assert matched > 300


def test_numbers_of_numpy_in_a_provider_are_numbers():
    from weighbridge.bridge import _plain
    assert _plain(numpy.float32(0.5)) == 0.5
    assert _plain(numpy.int64(17)) == 17
    assert _plain(numpy.array(True)) is True


def dump_without_family(rules, hf, megatron):
    mappings = []
    for given in rules:
        one = {key: value for key, value in given.items() if key != "kind"}
        become(one, given["kind"])
        mappings.append(one)
    return wb.BridgeDump({"schema": "weighbridge.bridge/1", "version": "x", "bridge": "B", "mappings": mappings,
                          "config": {"architectures": ["NoSuch"], "model_type": "nosuch"}, "provider": None, "notes": [],
                          "hf": hf, "megatron": megatron})


def test_a_draft_leaves_out_what_raised_and_knows_scalars(tmp_path):
    dump = dump_without_family([{"kind": "QKVMapping", "raised": "E: x"},
                                {"kind": "GatedMLPMapping", "megatron": "x.weight", "hf": {"gate": "a.weight", "up": "b.weight"}}],
                               [["a.weight", []], ["b.weight", []]], [["x.weight", [4, 4]]])
    dump.save(tmp_path / "dump.json")
    program = pathlib.Path(sys.executable).with_name("weighbridge")
    result = subprocess.run([program, "families", "from-bridge", tmp_path / "dump.json", "--name", "mine"],
                            capture_output=True, text=True, check=False)
    assert result.returncode == 0 and 'family = "mine"' in result.stdout, result


def test_experts_of_two_layers_do_not_share_a_stack():
    name = "decoder.layers.{}.mlp.experts.linear_fc1.weight{}"
    experts = {"kind": "FusedExpertMapping", "megatron": name.format("*", "*"), "hf": "model.experts.w"}
    for layers, count, right in ((1, 2, True), (2, 2, False), (1, 3, False)):
        megatron = [[name.format(layer, e), [4, 4]] for layer in range(layers) for e in range(count)]
        report = dump_without_family([experts], [["model.experts.w", [2, 4, 4]]], megatron).lint()
        assert [cause.id for cause in report.causes] == ([] if right else ["rule-double"]), (layers, count)


@pytest.mark.parametrize("axes", [[0, 0], [1], [0, 2], [0, 1, 2]])
def test_axes_that_no_tensor_can_be_permuted_by_are_a_fault(axes):
    permuted = {"kind": "AutoMapping", "megatron": "x.weight", "hf": "a.weight", "args": {"permute_dims": axes}}
    report = dump_without_family([permuted], [["a.weight", [4, 4]]], [["x.weight", [4, 4]]]).lint()
    assert [cause.id for cause in report.causes] == ["rule-class"]


@pytest.mark.parametrize("shape", [[2**63], [2**62, 4], [2**40, 2**40]])
def test_shapes_beyond_all_tensors_are_refused(shape):
    plain = {"kind": "AutoMapping", "megatron": "x.weight", "hf": "a.weight"}
    with pytest.raises(wb.Error) as error:
        dump_without_family([plain], [["a.weight", shape]], [["x.weight", [4]]]).lint()
    assert error.value.id == "bridge-dump"
