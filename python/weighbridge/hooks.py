"""Hooks of a bridge: code that stands between files and rules, or in the place of Megatron Bridge's own.

What `maybe_modify_loaded_hf_weight` and `maybe_modify_converted_hf_weight` do is tried on made-up tensors of the right names and
shapes; no weight is read. Everything else is only named.
"""
from __future__ import annotations

import copy
import sys
import time
import types
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

from .code import own_code, place_of
from .tensors import lend

_CONVERSION = "megatron.bridge.models.conversion."
LOADED, CONVERTED = "maybe_modify_loaded_hf_weight", "maybe_modify_converted_hf_weight"
# Methods that decide what happens to weights, by the module of the class that has them first.
_METHODS = {
    "model_bridge": (
        LOADED, CONVERTED, "build_conversion_tasks", "load_weights_hf_to_megatron", "stream_weights_hf_to_megatron",
        "stream_weights_megatron_to_hf", "_accumulate_grouped_export", "_cast_export_weight_dtype", "_broadcast_shared_embeddings",
        "_share_embeddings_and_output_weights", "_should_skip_mtp_duplicate_embedding_export", "_get_tied_output_hf_name",
        "_unwrap_name", "_megatron_global_param_names_all_pp_ranks", "_with_progress_tracking"),
    "mapping_registry": ("megatron_to_hf_lookup", "hf_to_megatron_lookup", "resolve_mapping", "_prepare_mapping",
                         "_convert_pattern_to_regex"),
    "auto_bridge": ("load_hf_weights", "export_hf_weights", "get_conversion_tasks", "to_megatron_model"),
}
_LARGEST = 1 << 18  # elements of a made-up tensor; larger ones are made smaller
_SECONDS = 20.0  # for all that is tried
# A rule's parameters: (Megatron's name, Hugging Face's names: one, or by role).
Sample = tuple[str, "str | dict[str, str]"]


class MadeUp(Mapping[str, Any]):
    """A state dict of made-up tensors in bf16, every name with values of its own."""

    def __init__(self, shapes: Mapping[str, list[int]]) -> None:
        self._shapes = shapes

    def __getitem__(self, name: str) -> Any:
        import torch
        shape = self._shapes[name]
        count = 1
        for extent in shape:
            count *= extent
        if count > _LARGEST:
            shape = [min(extent, 64) for extent in shape]
        values = torch.arange(max(1, torch.Size(shape).numel())) * 7 + zlib.crc32(name.encode()) % 251
        return ((values % 251 - 125).to(torch.float32) / 16).to(torch.bfloat16)[: torch.Size(shape).numel()].reshape(shape)

    def __contains__(self, name: object) -> bool:
        return name in self._shapes

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)


def _same(a: Any, b: Any) -> bool:
    one, other = lend(a), lend(b)
    return one[0] == other[0] and one[1] == other[1] and bytes(one[2]) == bytes(other[2])


def difference(given: Any, returned: Any) -> str:
    """How a tensor was changed; empty: not."""
    if not hasattr(returned, "shape") or not hasattr(returned, "dtype"):
        return f"makes {type(returned).__name__} of a tensor"
    if tuple(returned.shape) != tuple(given.shape):
        return f"makes the shape {tuple(returned.shape)} of {tuple(given.shape)}"
    if returned.dtype != given.dtype:
        return f"makes {returned.dtype} of {given.dtype}"
    return "" if _same(given, returned) else "changes values"


def _try_loaded(bridge: Any, sample: Sample, state: MadeUp) -> str:
    hf = sample[1]
    returned = getattr(bridge, LOADED)(dict(hf) if isinstance(hf, dict) else hf, state)
    if isinstance(hf, str):
        return difference(state[hf], returned)
    if not isinstance(returned, Mapping):
        return f"makes {type(returned).__name__} of tensors by role"
    if returned.keys() != hf.keys():
        return f"makes the roles {', '.join(map(str, returned))} of {', '.join(hf)}"
    found = {role: difference(state[name], returned[role]) for role, name in hf.items()}
    return next((f"{text} in the role '{role}'" for role, text in found.items() if text), "")


def _try_converted(bridge: Any, mapping: Any, sample: Sample, state: MadeUp) -> str:
    name, names = sample[0], _names(sample)
    task = types.SimpleNamespace(
        param_name=name, global_param_name=name, mapping=mapping, pp_rank=0, vp_stage=0, megatron_module=None, param_weight=None,
        weight_dtype=None, export_hook=None)
    returned = getattr(bridge, CONVERTED)(task, {each: state[each] for each in names}, state)
    if not isinstance(returned, Mapping):
        return f"makes {type(returned).__name__} of the converted tensors"
    for each in names:
        if each not in returned:
            return f"leaves {each} out"
        text = difference(state[each], returned[each])
        if text:
            return f"{text} of {each}"
    added = [each for each in returned if each not in names and (each not in state or not _same(state[each], returned[each]))]
    return f"adds {added[0]}" if added else ""


def _spread(samples: list[Sample], limit: int = 64) -> list[Sample]:
    """The first, the last, and some between them."""
    if len(samples) <= limit:
        return samples
    return [samples[i * (len(samples) - 1) // (limit - 1)] for i in range(limit)]


def _names(sample: Sample) -> list[str]:
    return [sample[1]] if isinstance(sample[1], str) else list(sample[1].values())


def _as_when_converting(model_bridge: Any, pretrained: Any) -> Any:
    """The bridge with what Megatron Bridge gives it before it converts; the original keeps what it has."""
    try:
        bridge = copy.copy(model_bridge)
        bridge.hf_pretrained, bridge.hf_config = pretrained, getattr(pretrained, "config", pretrained)
        return bridge
    except Exception:  # an object that is not to be copied, or takes no attributes
        return model_bridge


def _tried(method: str, bridge: Any, mappings: list[Any], samples: Mapping[int, list[Sample]],
           shapes: Mapping[str, list[int]], deadline: float) -> dict[str, dict[str, str]]:
    changed: dict[str, str] = {}
    untried: dict[str, str] = {}
    state = MadeUp(shapes)
    queues: dict[int, list[Sample]] = {}
    for number, rule_samples in samples.items():
        queues[number] = _spread([sample for sample in rule_samples if all(name in state for name in _names(sample))])
        if not queues[number]:
            untried[str(number)] = "the Hugging Face side has none of its tensors"
    # One of every rule before the second of any, so that time runs out for none of them alone.
    for turn in range(max(map(len, queues.values()), default=0)):
        for number, queue in queues.items():
            if str(number) in changed or turn >= len(queue):
                continue
            if turn > 0 and time.monotonic() > deadline:
                return {"changed": changed, "untried": untried}
            try:
                if "torch" not in sys.modules:
                    raise RuntimeError("torch has not been imported")
                text = (_try_loaded(bridge, queue[turn], state) if method == LOADED
                        else _try_converted(bridge, mappings[number], queue[turn], state))
            except Exception as error:  # whatever a hook in the making raises
                untried.setdefault(str(number), f"it raised {type(error).__name__} on made-up tensors: {error}"[:300])
                continue
            if text:
                changed[str(number)] = text
                untried.pop(str(number), None)
    return {"changed": changed, "untried": untried}


def hooks_of(bridge: Any, model_bridge: Any, registry: Any, pretrained: Any, mappings: list[Any],
             samples: Mapping[int, list[Sample]], shapes: Mapping[str, list[int]]) -> list[dict[str, Any]]:
    """Every method on weights that is not Megatron Bridge's common one. `samples`: by the number of a rule the parameters that
    it takes; `shapes`: of the Hugging Face tensors."""
    deadline = time.monotonic() + _SECONDS
    out: list[dict[str, Any]] = []
    for value, module in ((model_bridge, "model_bridge"), (registry, "mapping_registry"), (bridge, "auto_bridge")):
        if (value is bridge and value is model_bridge and module == "auto_bridge") or isinstance(value, (list, tuple)):
            continue
        for method, place in own_code(value, _CONVERSION + module, _METHODS[module]).items():
            hook: dict[str, Any] = {"method": method, "code": place}
            if method in (LOADED, CONVERTED):
                hook |= _tried(method, _as_when_converting(model_bridge, pretrained), mappings, samples, shapes, deadline)
            out.append(hook)
    return out


def provider_hooks(provider: Any) -> list[dict[str, Any]]:
    """What a provider has done to the model that it built: before and after it is wrapped for distributed training."""
    return [{"method": method, "code": place_of(hook)} for method in ("pre_wrap_hook", "post_wrap_hook")
            for hook in getattr(provider, f"_{method}s", None) or ()]
