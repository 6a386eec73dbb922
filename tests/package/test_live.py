"""Live models by objects of their shape, without torch: calling forms, rows that stay, tensors that come twice.
tests/oracle/test_live.py does it with Megatron Bridge."""
import types

import numpy as np
import pytest

import weighbridge as wb


class Parameters:
    """A module as far as the package looks at it."""

    def __init__(self, tensors):
        self.tensors, self.decoder = tensors, None

    def named_parameters(self):
        return iter(self.tensors.items())

    def named_modules(self):
        return iter(())


STATE = {"a": np.arange(4, dtype=np.float32), "b": np.ones((2, 2), np.float32)}


class Bridge:
    def __init__(self, exported, state=STATE):
        self.exported, self.hf_pretrained = exported, types.SimpleNamespace(state=state)

    def export_hf_weights(self, model, cpu=True, show_progress=True):
        assert isinstance(model, Parameters)
        return iter(self.exported)


MODEL = Parameters({})


@pytest.mark.parametrize("call", [
    lambda bridge: wb.weights_verification_table(bridge, MODEL),
    lambda bridge: wb.weights_verification_table(bridge, megatron_model=MODEL),
    lambda bridge: wb.weights_verification_table(bridge=bridge, megatron_model=MODEL),
    lambda bridge: wb.weights_verification_table(bridge, bridge.hf_pretrained, MODEL),
    lambda bridge: wb.weights_verification_table(bridge, bridge.hf_pretrained, megatron_model=MODEL),
    lambda bridge: wb.weights_verification_table(bridge, MODEL, hf_pretrained=bridge.hf_pretrained),
    lambda bridge: wb.weights_verification_table(bridge=bridge, hf_pretrained=bridge.hf_pretrained, megatron_model=MODEL),
])
def test_every_form_of_the_call_works(call):
    found = call(Bridge(STATE.items()))
    assert found.ok and [(row.name, row.status) for row in found.rows] == [("a", "match"), ("b", "match")]


@pytest.mark.parametrize("call", [lambda bridge: wb.weights_verification_table(bridge),
                                  lambda bridge: wb.weights_verification_table(bridge, 1, 2, 3),
                                  lambda bridge: wb.weights_verification_table(bridge, 1, hf_pretrained=2, megatron_model=3)])
def test_a_call_without_a_model_or_with_too_many_is_refused(call):
    with pytest.raises(TypeError):
        call(Bridge(STATE.items()))


def test_what_fails_in_the_search_for_causes_does_not_lose_the_rows(model):
    """This bridge has no rules, no provider, and a model that cannot be written: the rows are there all the same."""
    bridge = Bridge([("a", STATE["a"] + 1), ("b", STATE["b"])])
    bridge.mapping_registry = lambda: 1 / 0
    bridge.hf_pretrained.model_name_or_path = model
    found = wb.weights_verification_table(bridge, MODEL, direct=False)
    assert [(row.name, row.status) for row in found.rows] == [("a", "mismatch"), ("b", "match")]
    assert sum("rules were not judged" in text or "search" in text for text in found.unproven) == 2
    assert "ZeroDivisionError" in str(found)


def test_a_second_tensor_of_a_name_is_an_error_row():
    twice = [*STATE.items(), ("a", STATE["a"]), ("b", STATE["b"] * 2)]
    found = wb.weights_verification_table(Bridge(twice), MODEL, direct=False)
    assert not found.ok
    assert [(row.name, row.status) for row in found.rows] == [("a", "match"), ("b", "match"), ("a", "extra"), ("b", "extra")]


def test_a_second_tensor_of_a_name_is_an_error_against_a_manifest_too(model):
    state = list(wb.load(model, "numpy").items())
    manifest = wb.manifest(model)
    assert wb.verify_live(iter(state), manifest).ok
    found = wb.verify_live(iter([*state, state[0]]), manifest)
    assert not found.ok and [row.why for row in found.rows if not row.ok] == ["a second tensor of this name"]


def test_a_tensor_that_cannot_be_compared_is_a_row():
    found = wb.weights_verification_table(Bridge([("a", np.array([object()])), ("b", STATE["b"])]), MODEL, direct=False)
    assert [(row.name, row.status) for row in found.rows] == [("a", "mismatch"), ("b", "match")]
    assert "cannot be compared" in found.rows[0].why
