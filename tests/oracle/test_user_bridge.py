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
    assert wrong.fields or len(report.causes) <= (2 if "exchanged" in wrong.name else 1), named
