"""`inspect_bridge`: what a bridge in Python is made of, as data that `families lint --bridge` judges.

Works on any object of Megatron Bridge's shape: an AutoBridge, or a model bridge with `mapping_registry()`. Neither torch
nor Megatron is imported here; whoever has such an object has both.
"""
from __future__ import annotations

import enum
import json
import os
import re
import tempfile
from collections.abc import Iterable, Mapping
from typing import Any

from . import _core
from ._errors import Error
from .checkpoint import load
from .commands import Path, _call, _judge
from .report import Report

SCHEMA = "weighbridge.bridge/1"
# Attributes of a mapping that say what it converts, rather than how its process groups stand.
_ARGS = ("permute_dims", "transpose_on_export", "allow_hf_name_mismatch", "is_grouped_export")
# Classes whose resolve() fills wildcards by the common rule.
_GENERIC_RESOLVE = {
    "MegatronParamMapping", "AutoMapping", "QKVMapping", "QKVGMapping", "KVMapping", "GDNLinearMapping",
    "GDNLinearMappingSeparate", "ConcatenatedQKVMapping", "GatedMLPMapping", "FusedExpertMapping", "FusedGatedExpertMapping",
}


class BridgeDump:
    """A bridge as data. `document` is what `save` writes."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document

    def save(self, path: Path) -> None:
        with open(path, "w", encoding="utf-8") as f:
            json.dump(self.document, f, indent=1)

    def lint(self, *, family: Iterable[Path] = (), runtime: str | None = None) -> Report:
        """`weighbridge families lint --bridge` of it: names the offending rule before any weight moves."""
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "bridge.json")
            self.save(path)
            return _judge("families lint", [], bridge=path, family=list(family), runtime=runtime)

    def __repr__(self) -> str:
        return f"<BridgeDump of {self.document['bridge']}: {len(self.document['mappings'])} rules>"


def _defined_in(kind: type, method: str) -> str:
    """The class whose code a method is."""
    for base in kind.__mro__:
        if method in vars(base):
            return base.__name__
    return kind.__name__


def _plain(value: Any) -> Any:
    """As run_config.yaml has it; raises TypeError for what is no setting."""
    if isinstance(value, enum.Enum):
        return {"_target_": f"{type(value).__module__}.{type(value).__qualname__}", "_args_": [_plain(value.value)],
                "_call_": True}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if getattr(value, "shape", None) == () and hasattr(value, "item"):  # a number of numpy or torch
        return _plain(value.item())
    if callable(value) and hasattr(value, "__qualname__"):
        return {"_target_": f"{value.__module__}.{value.__qualname__}", "_call_": False}
    raise TypeError(type(value).__name__)


def _fields(provider: Any) -> dict[str, Any]:
    names = list(getattr(type(provider), "__dataclass_fields__", vars(provider)))
    fields: dict[str, Any] = {"_target_": f"{type(provider).__module__}.{type(provider).__qualname__}"}
    for name in names:
        try:
            fields[name] = _plain(getattr(provider, name, None))
        except TypeError:
            continue
    return fields


def _regex(pattern: str) -> re.Pattern[str]:
    return re.compile(re.escape(pattern).replace(r"\*\*", "(.*)").replace(r"\*", r"(\d+)"))


def _resolved(mapping: Any, names: Iterable[str]) -> dict[str, Any]:
    """What a class that resolves wildcards by code of its own makes of the names that it matches."""
    pattern, out = _regex(mapping.megatron_param), {}
    for name in names:
        match = pattern.fullmatch(name)
        if match and match.groups():
            hf = mapping.resolve(match.groups()).hf_param
            out[name] = dict(hf) if isinstance(hf, Mapping) else hf
    return out


def _rule(mapping: Any, names: Iterable[str]) -> dict[str, Any]:
    kind = type(mapping)
    hf = mapping.hf_param
    rule: dict[str, Any] = {
        "megatron": mapping.megatron_param, "hf": dict(hf) if isinstance(hf, Mapping) else hf, "class": kind.__name__,
        "importer": _defined_in(kind, "hf_to_megatron"), "exporter": _defined_in(kind, "megatron_to_hf"),
    }
    args = {name: _plain(getattr(mapping, name)) for name in _ARGS if getattr(mapping, name, None)}
    if args:
        rule["args"] = args
    if _defined_in(kind, "resolve") not in _GENERIC_RESOLVE:
        rule["resolved"] = _resolved(mapping, names)
    return rule


def _config_of(pretrained: Any) -> dict[str, Any]:
    folder = getattr(pretrained, "model_name_or_path", None)
    if folder is not None:
        path = os.path.join(os.fspath(folder), "config.json")
        if os.path.isfile(path):
            with open(path, encoding="utf-8") as f:
                config: dict[str, Any] = json.load(f)
            return config
    source = getattr(pretrained, "config", pretrained)
    if isinstance(source, Mapping):
        return dict(source)
    document: dict[str, Any] = json.loads(json.dumps(source.to_dict(), default=str))
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


def _provider_of(bridge: Any, model_bridge: Any, pretrained: Any, notes: list[str]) -> dict[str, Any] | None:
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
    return _fields(provider)


def inspect_bridge(bridge: Any, *, hf: Any = None, model: Any = None) -> BridgeDump:
    """Writes down a live bridge: its rules in order, mapping classes, the provider's fields, and the names and shapes of
    both sides. `hf`: a checkpoint or state dict, when the bridge does not know where its weights are; `model`: the Megatron
    model on one rank, which a model that no family describes needs."""
    model_bridge = getattr(bridge, "_model_bridge", bridge)
    if not hasattr(model_bridge, "mapping_registry"):
        raise TypeError(f"{type(bridge).__name__} is no bridge: it has no mapping_registry()")
    pretrained = getattr(bridge, "hf_pretrained", None) or getattr(model_bridge, "hf_pretrained", None)
    if pretrained is None:
        raise TypeError("the bridge does not know its Hugging Face model (hf_pretrained)")
    notes: list[str] = []
    config = _config_of(pretrained)
    inventory = _model_inventory(model) if model is not None else None
    names = _family_names(config) + [row[0] for row in inventory or []]
    registry = model_bridge.mapping_registry()
    document: dict[str, Any] = {
        "schema": SCHEMA, "version": _core.version(), "bridge": type(model_bridge).__name__, "config": config,
        "mappings": [_rule(mapping, names) for mapping in registry],
        "provider": _provider_of(bridge, model_bridge, pretrained, notes),
    }
    hf_inventory = _hf_inventory(pretrained, hf)
    if hf_inventory is not None:
        document["hf"] = hf_inventory
    if inventory is not None:
        document["megatron"] = inventory
    document["notes"] = notes
    return BridgeDump(document)
