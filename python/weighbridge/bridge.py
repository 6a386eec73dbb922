"""`inspect_bridge`: what a bridge in Python is made of, as data that `families lint --bridge` judges.

Works on any object of Megatron Bridge's shape: an AutoBridge, or a model bridge with `mapping_registry()`. Neither torch
nor Megatron is imported here; whoever has such an object has both.
"""
from __future__ import annotations

import enum
import functools
import json
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from . import _core
from ._errors import Error
from .checkpoint import load
from .code import classes_of, own_code
from .commands import Path, _call, _judge, paths_of
from .held import code_of_held, cuts_of, foreign_of
from .hooks import Sample, hooks_of, provider_hooks
from .report import Report
from .rule_trial import trial_of

SCHEMA = "weighbridge.bridge/1"
COMMON = "megatron.bridge.models.conversion.param_mapping"
# Attributes of a mapping that say what it converts, rather than how its process groups stand.
_ARGS = ("permute_dims", "transpose_on_export", "allow_hf_name_mismatch", "is_grouped_export")
# Deeper than any setting: a value that holds itself.
_DEEPEST = 30


class BridgeDump:
    """A bridge as data. `document` is what `save` writes."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document

    def save(self, path: Path) -> None:
        with open(path, "w", encoding="utf-8") as f:
            json.dump(self.document, f, indent=1)

    def lint(self, *, family: Path | Sequence[Path] = (), runtime: str | None = None) -> Report:
        """`weighbridge families lint --bridge` of it: names the offending rule before any weight moves."""
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "bridge.json")
            self.save(path)
            return _judge("families lint", [], bridge=path, family=paths_of(family), runtime=runtime)

    def __repr__(self) -> str:
        return f"<BridgeDump of {self.document['bridge']}: {len(self.document['mappings'])} rules>"


def _plain(value: Any, depth: int = 0) -> Any:
    """As run_config.yaml has it; raises TypeError for what is no setting."""
    if depth > _DEEPEST:
        raise TypeError("holds itself, or is very deep")
    if isinstance(value, enum.Enum):
        return {"_target_": f"{type(value).__module__}.{type(value).__qualname__}", "_args_": [_plain(value.value, depth + 1)],
                "_call_": True}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(item, depth + 1) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(item, depth + 1) for key, item in value.items()}
    if getattr(value, "shape", None) == () and hasattr(value, "item"):  # a number of numpy or torch
        return _plain(value.item(), depth + 1)
    if type(value).__module__ == "torch" and type(value).__name__ == "dtype":
        return {"_target_": str(value), "_call_": False}
    if isinstance(value, functools.partial) and hasattr(value.func, "__qualname__"):
        return {"_target_": f"{value.func.__module__}.{value.func.__qualname__}", "_partial_": True,
                "_args_": _plain(value.args, depth + 1), **_plain(value.keywords, depth + 1)}
    if callable(value) and hasattr(value, "__qualname__"):
        return {"_target_": f"{value.__module__}.{value.__qualname__}", "_call_": False}
    raise TypeError(type(value).__name__)


def _fields(provider: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """(the plain fields, the others with what they are)."""
    names = list(getattr(type(provider), "__dataclass_fields__", getattr(provider, "__dict__", {})))
    fields: dict[str, Any] = {"_target_": f"{type(provider).__module__}.{type(provider).__qualname__}"}
    left_out: dict[str, str] = {}
    for name in names:
        try:
            fields[name] = _plain(getattr(provider, name, None))
        except TypeError as error:
            left_out[name] = str(error)
        except Exception as error:  # a property that raises, a mapping that is none
            left_out[name] = f"raises {type(error).__name__}"
    return fields, left_out


def _hf_names(mapping: Any) -> str | dict[str, str]:
    hf = mapping.hf_param
    return {str(role): str(name) for role, name in hf.items()} if isinstance(hf, Mapping) else str(hf)


def _matches(pattern: str, names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """{name: what the wildcards stand for} of the names that a rule matches."""
    found = {name: _core.match_rule(pattern, name) for name in names}
    return {name: tuple(captures) for name, captures in found.items() if captures is not None}


def _resolved(mapping: Any, captures: tuple[str, ...]) -> Any:
    return mapping.resolve(captures) if captures else mapping


def _args(mapping: Any) -> dict[str, Any]:
    return {name: _plain(getattr(mapping, name)) for name in _ARGS if getattr(mapping, name, None)}


class _Rules:
    """The rules of a registry as the dump has them, and the parameters that each of them takes."""

    def __init__(self, mappings: Iterable[Any], names: Iterable[str]) -> None:
        self.entries: list[dict[str, Any]] = []
        self.samples: dict[int, list[Sample]] = {}
        # By the number of a rule that holds what its class does not build, the mapping of one parameter.
        self._held: dict[int, Any] = {}
        self._left = dict.fromkeys(names)
        for number, mapping in enumerate(mappings):
            self.entries.append(self._entry(number, mapping))

    def try_held(self, shapes: Mapping[str, list[int]], config: Any) -> None:
        """Tries the rules that hold what their class does not build on made-up tensors."""
        for number, mapping in self._held.items():
            self.entries[number]["trial"] = trial_of(mapping, shapes, config)

    def _entry(self, number: int, mapping: Any) -> dict[str, Any]:
        kind = type(mapping)
        entry: dict[str, Any] = {"class": kind.__name__, "classes": classes_of(kind)}
        try:
            entry["own"] = own_code(mapping, COMMON) | code_of_held(mapping, COMMON)
            entry["megatron"] = str(mapping.megatron_param)
            entry["hf"] = _hf_names(mapping)
            args = _args(mapping)
            if args:
                entry["args"] = args
            self._note_held(mapping, entry)
            self._take(number, mapping, entry)
        except Exception as error:  # whatever a rule in the making raises
            entry["raised"] = f"{type(error).__name__}: {error}"[:500]
        return entry

    @staticmethod
    def _note_held(mapping: Any, entry: dict[str, Any]) -> bool:
        """Writes down what it holds; whether its class does not build all of that."""
        foreign = foreign_of(mapping)
        if foreign:
            entry["held"] = entry.get("held", {}) | foreign
            entry["own"] |= code_of_held(mapping, COMMON)
        cuts = cuts_of(mapping)
        if cuts:
            entry["cuts"] = sorted({*entry.get("cuts", ()), *cuts})
        return bool(foreign)

    def _take(self, number: int, mapping: Any, entry: dict[str, Any]) -> None:
        """Looks at the names that this rule is the first to match."""
        taken = _matches(entry["megatron"], self._left)
        own_resolve = "resolve" in entry["own"]
        resolved: dict[str, Any] = {}
        for name, captures in taken.items():
            one = _resolved(mapping, captures)
            hf = _hf_names(one)
            self.samples.setdefault(number, []).append((name, hf))
            if own_resolve and captures:
                resolved[name] = hf
            if one is not mapping:
                self._note_resolved(one, mapping, entry)
            if "held" in entry:
                self._held.setdefault(number, one)
            self._left.pop(name)
        if own_resolve:
            entry["resolved"] = resolved

    def _note_resolved(self, one: Any, mapping: Any, entry: dict[str, Any]) -> None:
        """What converts is the mapping of one parameter: it may be another one than the rule that makes it."""
        if type(one) is not type(mapping):
            entry["own"]["resolve() to another class"] = classes_of(type(one))[0]
        args = _args(one)
        if args != entry.get("args", {}):
            entry["resolved_args"] = args
        self._note_held(one, entry)


def _config_of(pretrained: Any) -> dict[str, Any]:
    folder = getattr(pretrained, "model_name_or_path", None)
    if folder is not None:
        path = os.path.join(os.fspath(folder), "config.json")
        if os.path.isfile(path):
            with open(path, encoding="utf-8") as f:
                config: dict[str, Any] = json.load(f)
            return config
    source = getattr(pretrained, "config", pretrained)
    try:
        document: dict[str, Any] = json.loads(json.dumps(
            dict(source) if isinstance(source, Mapping) else source.to_dict(), default=str))
    except Exception as error:
        raise Error("invalid", "bridge-config",
                    f"the config of the Hugging Face model cannot be read: {type(error).__name__}: {error}") from error
    return document


def _family_names(config: Mapping[str, Any]) -> list[str]:
    """Megatron's names by our family, in both module specs; none where no family describes the model."""
    names: dict[str, None] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "config.json")
        with open(path, "w", encoding="utf-8") as f:
            json.dump(config, f)
        for dialect in ("te", "local"):
            try:
                _, text = _call(["families", "expand"], [], {"config": path, "dialect": dialect, "json": True})
            except Error:
                return []
            names.update(dict.fromkeys(p["megatron"] for p in json.loads(text)["params"]))
    return list(names)


def _hf_inventory(pretrained: Any, hf: Any) -> list[list[Any]] | None:
    source = hf if hf is not None else getattr(pretrained, "model_name_or_path", None)
    if isinstance(source, Mapping):
        return [[name, [int(n) for n in tensor.shape]] for name, tensor in source.items()]
    if source is None or not os.path.exists(os.fspath(source)):
        return None
    try:
        checkpoint = load(source)
    except Error:
        return None
    return [[name, list(checkpoint.shape(name))] for name in checkpoint]


def parts_of(model: Any) -> list[Any]:
    """A model, or the list of its pipeline chunks, without wrappers of distributed training."""
    parts = list(model) if isinstance(model, (list, tuple)) else [model]
    for i, part in enumerate(parts):
        while not hasattr(part, "decoder") and hasattr(part, "module"):
            part = part.module
        parts[i] = part
    return parts


def _model_inventory(model: Any) -> list[list[Any]]:
    rows: dict[str, list[Any]] = {}
    for part in parts_of(model):
        for name, tensor in part.named_parameters():
            rows[name] = [name, [int(n) for n in tensor.shape]]
    return list(rows.values())


def _provider_of(bridge: Any, model_bridge: Any, pretrained: Any, notes: list[str]) -> Any:
    try:
        if hasattr(bridge, "to_megatron_provider"):
            provider = bridge.to_megatron_provider(load_weights=False)
        else:
            provider = model_bridge.provider_bridge(pretrained)
    except Exception as error:  # whatever a bridge in the making raises
        notes.append(f"the bridge makes no provider: {type(error).__name__}: {error}")
        return None
    try:
        if hasattr(provider, "finalize"):
            provider.finalize()
    except Exception as error:
        notes.append(f"the provider's own check refuses its fields: {type(error).__name__}: {error}")
    return provider


def _registry_of(model_bridge: Any) -> tuple[Any, list[Any]]:
    try:
        registry = model_bridge.mapping_registry()
        return registry, list(registry)
    except Exception as error:
        raise Error("invalid", "bridge-registry",
                    f"the bridge makes no rules: mapping_registry() raised {type(error).__name__}: {error}",
                    type(model_bridge).__name__) from error


def inspect_bridge(bridge: Any, *, hf: Any = None, model: Any = None) -> BridgeDump:
    """Writes down a live bridge: its rules in order, mapping classes and whose code they run, hooks on weights, the provider's
    fields, and the names and shapes of both sides. `hf`: a checkpoint or state dict, when the bridge does not know where its
    weights are; `model`: the Megatron model on one rank, which a model that no family describes needs."""
    model_bridge = getattr(bridge, "_model_bridge", bridge)
    if not hasattr(model_bridge, "mapping_registry"):
        raise TypeError(f"{type(bridge).__name__} is no bridge: it has no mapping_registry()")
    pretrained = getattr(bridge, "hf_pretrained", None) or getattr(model_bridge, "hf_pretrained", None)
    if pretrained is None:
        raise TypeError("the bridge does not know its Hugging Face model (hf_pretrained)")
    notes: list[str] = []
    config = _config_of(pretrained)
    inventory = _model_inventory(model) if model is not None else None
    registry, mappings = _registry_of(model_bridge)
    rules = _Rules(mappings, [row[0] for row in inventory or []] + _family_names(config))
    document: dict[str, Any] = {
        "schema": SCHEMA, "version": _core.version(), "bridge": type(model_bridge).__name__, "config": config,
        "mappings": rules.entries, "provider": None}
    provider = _provider_of(bridge, model_bridge, pretrained, notes)
    if provider is not None:
        document["provider"], document["left_out"] = _fields(provider)
    hf_inventory = _hf_inventory(pretrained, hf)
    shapes = _shapes(rules, hf_inventory)
    rules.try_held(shapes, provider)
    document["hooks"] = hooks_of(bridge, model_bridge, registry, pretrained, mappings, rules.samples, shapes)
    document["hooks"] += provider_hooks(provider)
    if hf_inventory is not None:
        document["hf"] = hf_inventory
    if inventory is not None:
        document["megatron"] = inventory
    document["notes"] = notes
    return BridgeDump(document)


def _shapes(rules: _Rules, inventory: list[list[Any]] | None) -> dict[str, list[int]]:
    """Of the Hugging Face tensors; small matrices where they are not known."""
    if inventory is not None:
        return {name: shape for name, shape, *_ in inventory}
    names: list[str] = []
    for samples in rules.samples.values():
        for _, hf in samples:
            names += [hf] if isinstance(hf, str) else list(hf.values())
    return {name: [8] if name.endswith(("bias", "norm.weight")) else [8, 8] for name in names}
