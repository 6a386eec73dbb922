"""The user's own bridge: Megatron Bridge's bridges are clean, or named for the defects that they have; wrong ones are named
at the right rule before a weight moves."""
import json

import pytest

import bridges

bridges.need_bridge()

import wrong_bridges  # noqa: E402
import weighbridge as wb  # noqa: E402

# What is known to differ (reference: the peer's real defects): the runtime's, not the rules'.
KNOWN = {"ernie4_5_moe": ["router-formula"], "gemma2": ["norm-eps"], "nemotron_h": ["ssm-parameters"]}
MODELS = ["deepseek_v3", "deepseek_v3_nomtp", "ernie4_5_moe", "exaone4", "gemma2", "glm4_moe", "gpt_oss_ns", "llama_tied",
          "llama_untied", "nemotron_h", "olmoe", "qwen2", "qwen3", "qwen3_moe", "qwen3_next"]


@pytest.mark.parametrize("model", MODELS)
def test_a_bridge_of_megatron_bridge_is_clean_but_for_its_known_defects(model):
    report = wb.inspect_bridge(bridges.auto_bridge(bridges.HF / model)).lint()
    assert [cause.id for cause in report.causes] == KNOWN.get(model, [])
    assert report.counts.total > 10 and report.counts.failed == 0  # no rule is blamed


def model_with(tmp_path, model, **changes):
    """The config alone of a model, changed; no weights."""
    config = json.loads((bridges.HF / model / "config.json").read_text()) | changes
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


def config_bridge(folder):
    bridges.patched()
    from megatron.bridge import AutoBridge
    from transformers import AutoConfig
    return AutoBridge.from_hf_config(AutoConfig.from_pretrained(folder))


def test_the_missing_head_of_an_untied_exaone_4_is_named(tmp_path):
    report = wb.inspect_bridge(config_bridge(model_with(tmp_path, "exaone4", tie_word_embeddings=False))).lint()
    assert [cause.id for cause in report.causes] == ["rule-missing"]
    assert "output_layer.weight" in report.causes[0].message


def test_the_square_expert_of_a_gpt_oss_is_named(tmp_path):
    config = json.loads((bridges.HF / "gpt_oss_ns" / "config.json").read_text())
    square = model_with(tmp_path, "gpt_oss_ns", intermediate_size=config["hidden_size"])
    report = wb.inspect_bridge(config_bridge(square)).lint()
    assert [cause.id for cause in report.causes] == ["rule-by-shape"]
    assert "mlp.experts.linear_fc2.weight*" in report.causes[0].where[0]


def apply(wrong, monkeypatch):
    """Makes Megatron Bridge's own bridge of the model the wrong one; returns it."""
    bridge = bridges.auto_bridge(bridges.HF / wrong.model)
    kind = type(bridge._model_bridge)
    if wrong.rules:
        from megatron.bridge.models.conversion.mapping_registry import MegatronMappingRegistry
        original = kind.mapping_registry
        monkeypatch.setattr(kind, "mapping_registry",
                            lambda self: MegatronMappingRegistry(*wrong.rules(list(original(self)))))
    for name, method in wrong.methods.items():
        monkeypatch.setattr(kind, name, method, raising=False)
    if wrong.fields:
        provide = kind.provider_bridge

        def provider_bridge(self, pretrained):
            provider = provide(self, pretrained)
            for name, value in wrong.fields.items():
                assert hasattr(provider, name)
                setattr(provider, name, value)
            return provider

        monkeypatch.setattr(kind, "provider_bridge", provider_bridge)
    return bridge


@pytest.mark.parametrize("wrong", wrong_bridges.ALL, ids=lambda wrong: wrong.name)
def test_a_wrong_bridge_is_named_at_the_right_rule(wrong, monkeypatch):
    report = wb.inspect_bridge(apply(wrong, monkeypatch)).lint()
    named = [(cause.id, cause.where) for cause in report.causes]
    assert report.verdict == "fail", wrong.name
    assert any(id == wrong.cause and any(wrong.where in place for place in where) for id, where in named), named
    # And nothing else is blamed: an exchange is two rules.
    known = KNOWN.get(wrong.model, []) + [wrong.cause]
    assert {cause.id for cause in report.causes} <= set(known), named
    blamed = [id for id, _ in named if id not in KNOWN.get(wrong.model, [])]
    assert wrong.fields or len(blamed) <= (2 if "exchanged" in wrong.name else 1), named


# -- code of one's own: never taken for Megatron Bridge's, never blamed without reason --

def with_rules(monkeypatch, model, change):
    return wb.inspect_bridge(apply(wrong_bridges.Wrong("", model, "", "", change), monkeypatch)).lint()


def skipped(report):
    return {row.megatron.name for row in report.results if row.status == "skipped"}


def test_a_class_that_only_has_the_name_of_megatron_bridges_is_not_judged_as_it(monkeypatch):
    from megatron.bridge.models.conversion import param_mapping

    class GatedMLPMapping(param_mapping.GatedMLPMapping):
        def hf_to_megatron(self, hf_weights, megatron_module):
            return super().hf_to_megatron({"gate": hf_weights["up"], "up": hf_weights["gate"]}, megatron_module)

    report = with_rules(monkeypatch, "llama_untied", wrong_bridges.replaced(
        "mlp.linear_fc1.weight", lambda rule: GatedMLPMapping(rule.megatron_param, **rule.hf_param)))
    assert not report.causes and skipped(report) == {f"decoder.layers.{i}.mlp.linear_fc1.weight" for i in range(4)}
    assert any("test_user_bridge" in text and "GatedMLPMapping.hf_to_megatron" in text for text in report.unproven)


def test_a_method_that_converts_by_way_of_another_is_code_of_ones_own_too(monkeypatch):
    from megatron.bridge.models.conversion import param_mapping

    class Mine(param_mapping.ColumnParallelMapping):
        def scatter_to_tp_ranks(self, splits, *args, **kwargs):
            return super().scatter_to_tp_ranks(splits and splits[::-1], *args, **kwargs)

    report = with_rules(monkeypatch, "llama_untied", wrong_bridges.replaced(
        "output_layer.weight", lambda rule: Mine(rule.megatron_param, rule.hf_param)))
    assert skipped(report) == {"output_layer.weight"} and any("scatter_to_tp_ranks" in text for text in report.unproven)


def test_what_is_put_into_a_class_of_megatron_bridge_is_seen(monkeypatch):
    import functools
    from megatron.bridge.models.conversion.param_mapping import RowParallelMapping, AutoMapping
    right = AutoMapping.hf_to_megatron

    @functools.wraps(right)
    def faster(self, hf_weights, megatron_module):
        return right(self, hf_weights, megatron_module) * 2

    monkeypatch.setattr(AutoMapping, "hf_to_megatron", faster)
    report = wb.inspect_bridge(bridges.auto_bridge(bridges.HF / "llama_untied")).lint()
    assert "decoder.layers.0.mlp.linear_fc2.weight" in skipped(report)
    assert any("test_user_bridge" in text for text in report.unproven) and RowParallelMapping.hf_to_megatron


def test_what_is_put_into_one_rule_is_seen(monkeypatch):
    def patched(rule):
        rule.hf_to_megatron = lambda weights, module: weights * 2
        return rule

    report = with_rules(monkeypatch, "llama_untied", wrong_bridges.replaced("output_layer.weight", patched))
    assert skipped(report) == {"output_layer.weight"}


def test_a_subclass_that_changes_nothing_is_judged_as_its_parent(monkeypatch):
    from megatron.bridge.models.conversion.param_mapping import AutoMapping

    class Mine(AutoMapping):
        def __init__(self, megatron_param, hf_param, permute_dims=None):
            super().__init__(megatron_param, hf_param, permute_dims)

    report = with_rules(monkeypatch, "llama_untied", wrong_bridges.replaced(
        "output_layer.weight", lambda rule: Mine(rule.megatron_param, rule.hf_param)))
    assert report.ok and not skipped(report)


# -- what a mapping holds: Megatron Bridge's own classes leave the conversion to others, and so may one's own --

def holding(put, base="AutoMapping"):
    """A class that has nothing of its own but an __init__, which puts something into the mapping."""
    from megatron.bridge.models.conversion import param_mapping

    class Mine(getattr(param_mapping, base)):
        def __init__(self, megatron_param, *rest, **named):
            super().__init__(megatron_param, *rest, **named)
            put(self, param_mapping)

    return Mine


def doubling(rule, theirs):
    class Own(theirs.ReplicatedMapping):
        def hf_to_megatron(self, hf_weights, megatron_module):
            return super().hf_to_megatron(hf_weights * 2, megatron_module)

    return Own(rule.megatron_param, rule.hf_param)


def shifts(rule, theirs):
    rule._mapping = theirs.RMSNorm2ZeroCenteredRMSNormMapping(rule.megatron_param, rule.hf_param)


def turns(rule, theirs):
    rule._mapping = theirs.AutoMapping(rule.megatron_param, rule.hf_param, permute_dims=(1, 0))


def doubles(rule, theirs):
    rule._mapping = doubling(rule, theirs)


def doubles_deep(rule, theirs):
    rule._mapping = theirs.AutoMapping(rule.megatron_param, rule.hf_param)
    rule._mapping._mapping = doubling(rule, theirs)


def cuts_otherwise(rule, theirs):
    rule._detected_type = "row"
    rule._mapping = theirs.RowParallelMapping(rule.megatron_param, rule.hf_param)


@pytest.mark.parametrize("ending, put, said", [
    ("final_layernorm.weight", shifts, "changes values on import"), ("linear_proj.weight", turns, "on import"),
    ("final_layernorm.weight", doubles, "changes values on import"), ("final_layernorm.weight", doubles_deep, "changes values on import"),
    ("output_layer.weight", cuts_otherwise, "'column' is right")], ids=lambda value: getattr(value, "__name__", None))
def test_a_rule_that_leaves_its_conversion_to_a_wrong_mapping_is_named(monkeypatch, ending, put, said):
    report = with_rules(monkeypatch, "llama_untied", wrong_bridges.replaced(
        ending, lambda rule: holding(put)(rule.megatron_param, rule.hf_param)))
    (cause,) = report.causes
    assert cause.id == "rule-class" and ending in cause.where[0] and said in cause.evidence, cause
    assert all(row.megatron.name.endswith(ending) for row in report.results if row.status == "mismatch")


def test_a_composite_rule_is_tried_with_its_models_sizes(monkeypatch):
    def turned(rule, theirs):
        rule._tp_mapping = theirs.AutoMapping(rule.megatron_param, rule.megatron_param, permute_dims=(1, 0))

    report = with_rules(monkeypatch, "llama_untied", wrong_bridges.replaced(
        "linear_qkv.weight", lambda rule: holding(turned, "QKVMapping")(rule.megatron_param, **rule.hf_param)))
    (cause,) = report.causes
    assert cause.id == "rule-class" and "linear_qkv.weight" in cause.where[0] and "_tp_mapping" in cause.message


def listed(rule, theirs):
    rule._parts = [doubling(rule, theirs)]


def plain_within(rule, theirs):
    rule._mapping = theirs.AutoMapping(rule.megatron_param, rule.hf_param)


@pytest.mark.parametrize("put", [listed, plain_within], ids=lambda put: put.__name__)
def test_a_rule_that_holds_what_does_the_same_is_not_judged_and_not_blamed(monkeypatch, put):
    report = with_rules(monkeypatch, "llama_untied", wrong_bridges.replaced(
        "final_layernorm.weight", lambda rule: holding(put)(rule.megatron_param, rule.hf_param)))
    assert not report.causes and skipped(report) == {"decoder.final_layernorm.weight"}
    assert any("made-up tensors of one rank" in text for text in report.unproven)


def test_trying_a_rule_leaves_it_as_it_was(monkeypatch):
    made = []

    def kept(rule):
        made.append(holding(plain_within)(rule.megatron_param, rule.hf_param))
        return made[-1]

    with_rules(monkeypatch, "llama_untied", wrong_bridges.replaced("final_layernorm.weight", kept))
    assert made and all(rule._mapping._mapping is None and rule._mapping._detected_type is None for rule in made)


@pytest.mark.parametrize("model", ["llama_untied", "qwen3_moe", "qwen3_next", "gpt_oss_ns"])
def test_a_bridge_that_has_converted_is_as_clean_as_before(monkeypatch, model):
    """Mappings that Megatron Bridge makes at the first conversion are held from then on."""
    kind = type(bridges.auto_bridge(bridges.HF / model)._model_bridge)
    registries = {}
    original = kind.mapping_registry

    def kept(self):
        return registries.setdefault("made", registries.get("made") or original(self))

    monkeypatch.setattr(kind, "mapping_registry", kept)
    bridge, parts = bridges.live(bridges.HF / model)
    names = [name for name, _ in bridge.export_hf_weights(parts, cpu=True, show_progress=False)]
    assert names
    used = [rule for rule in registries["made"] if getattr(rule, "_mapping", None) is not None]
    assert used  # the test is of what it says
    report = wb.inspect_bridge(bridge).lint()
    assert not [cause for cause in report.causes if cause.id.startswith("rule")] and not skipped(report)
    assert any(entry.get("cuts") for entry in wb.inspect_bridge(bridge).document["mappings"])


def test_a_hook_that_leaves_weights_alone_is_only_named(monkeypatch):
    def looks(self, hf_param, hf_state_dict):
        weights = hf_state_dict[hf_param] if isinstance(hf_param, str) else {r: hf_state_dict[n] for r, n in hf_param.items()}
        return weights

    wrong = wrong_bridges.Wrong("", "llama_untied", "", "", methods={"maybe_modify_loaded_hf_weight": looks})
    report = wb.inspect_bridge(apply(wrong, monkeypatch)).lint()
    assert report.ok and not skipped(report) and any("looks" in text for text in report.unproven)


def test_a_hook_that_makes_up_for_its_rule_is_not_blamed(monkeypatch):
    def shifted(self, hf_param, hf_state_dict):
        weights = hf_state_dict[hf_param] if isinstance(hf_param, str) else {r: hf_state_dict[n] for r, n in hf_param.items()}
        return weights - 1 if isinstance(hf_param, str) and hf_param.endswith("linear_attn.norm.weight") else weights

    wrong = wrong_bridges.Wrong("", "qwen3_next", "", "", wrong_bridges.replaced(
        "out_norm.weight", wrong_bridges.of_class("AutoMapping")), methods={"maybe_modify_loaded_hf_weight": shifted})
    report = wb.inspect_bridge(apply(wrong, monkeypatch)).lint()
    assert not report.causes and all(name.endswith("out_norm.weight") for name in skipped(report)) and skipped(report)


def test_a_hook_that_raises_leaves_its_rules_unjudged(monkeypatch):
    def raising(self, hf_param, hf_state_dict):
        raise RuntimeError("needs a GPU")

    wrong = wrong_bridges.Wrong("", "llama_untied", "", "", methods={"maybe_modify_loaded_hf_weight": raising})
    with pytest.raises(wb.Error, match="nothing was compared") as raised:
        wb.inspect_bridge(apply(wrong, monkeypatch)).lint()
    assert all("needs a GPU" in row.why for row in raised.value.report.results)


def test_code_in_the_place_of_megatron_bridges_own_is_named(monkeypatch):
    from megatron.bridge.models.conversion.model_bridge import MegatronModelBridge

    def build_conversion_tasks(self, *args, **kwargs):
        return MegatronModelBridge.build_conversion_tasks(self, *args, **kwargs)[1:]

    wrong = wrong_bridges.Wrong("", "llama_untied", "", "", methods={"build_conversion_tasks": build_conversion_tasks})
    report = wb.inspect_bridge(apply(wrong, monkeypatch)).lint()
    assert any("build_conversion_tasks" in text for text in report.unproven)
