"""What a mapping holds: other mappings, to which it may leave the conversion, and which of them its class builds by itself.

What a class of Megatron Bridge builds is not known from a table: one is made with the same names and arguments, and asked.
"""
from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from typing import Any

from .code import bases_of, is_code, name_of, own_code, place_of

_PACKAGE = "megatron.bridge."
# Deeper than any mapping of Megatron Bridge; what lies below is not looked at, and so not known.
_DEEPEST = 8
# Of two mappings that convert alike these may differ: caches, process groups, and what was found out at the first conversion.
_STATE = ("_broadcast_obj_cache", "_tensor_spec_output_cache", "_pg_collection", "allow_hf_name_mismatch", "_detected_type")
# What makes a mapping: put into a class from elsewhere, it is not Megatron Bridge that builds.
_MAKERS = ("__init__", "resolve", "_resolve_names", "_get_or_create_mapping")


def _is_mapping(value: Any) -> bool:
    return not isinstance(value, type) and (hasattr(value, "hf_to_megatron") or hasattr(value, "megatron_to_hf"))


def _within(place: str, value: Any, depth: int) -> Iterator[tuple[str, Any]]:
    """The mappings in a value, not those that they hold; containers that are too deep to look at."""
    if _is_mapping(value):
        yield place, value
        return
    if not isinstance(value, (list, tuple, set, frozenset, Mapping)) or not value:
        return
    if depth > _DEEPEST:
        yield place, value
        return
    for key, item in value.items() if isinstance(value, Mapping) else enumerate(value):
        yield from _within(f"{place}[{key}]", item, depth + 1)


def _attributes(mapping: Any) -> dict[str, Any]:
    """What it has, and what classes besides Megatron Bridge's keep for it: class attributes, slots, descriptors."""
    names = dict.fromkeys(getattr(mapping, "__dict__", {}))
    for base in bases_of(type(mapping)):
        if not base.__module__.startswith(_PACKAGE):
            names |= dict.fromkeys(name for name, member in vars(base).items() if not name.startswith("__") and not is_code(member))
    return {name: getattr(mapping, name) for name in names if hasattr(mapping, name)}


def _children(mapping: Any) -> dict[str, Any]:
    """{place: mapping} of what it holds itself: "_mapping", "_parts[0]"."""
    return dict(found for name, value in _attributes(mapping).items() for found in _within(name, value, 0))


def held_by(mapping: Any) -> Iterator[tuple[str, Any]]:
    """(place, mapping) of all that it holds, and what these hold: "_mapping._parts[0]". Each once."""
    seen = {id(mapping)}
    left = [("", mapping)]
    while left:
        place, holder = left.pop(0)
        for name, held in _children(holder).items():
            yield place + name, held
            if id(held) not in seen:
                seen.add(id(held))
                left.append((f"{place}{name}.", held))


def code_of_held(mapping: Any, common: str) -> dict[str, str]:
    """{"place.method": where its code stands} of the mappings that a mapping holds."""
    return {f"{place}.{method}": code for place, held in held_by(mapping) for method, code in own_code(held, common).items()}


def class_beneath(kind: type) -> type | None:
    """The nearest class of Megatron Bridge that it is, or is made of; none where what makes its mappings was put there since."""
    nearest = None
    for base in kind.__mro__:
        if not base.__module__.startswith(_PACKAGE):
            continue
        nearest = nearest or base
        if any(place_of(vars(base)[name]) != f"{name_of(base)}.{name}" for name in _MAKERS if name in vars(base)):
            return None
    return nearest


def unmodified(mapping: Any) -> Any | None:
    """A new mapping of the class of Megatron Bridge that this one is or is made of, with the same names and arguments: what it
    would be without anything put into it. None where there is no such class, or it cannot be made."""
    try:
        kind = class_beneath(type(mapping))
        if kind is None:
            return None
        twin: Any = object.__new__(kind)
        twin.__dict__.update(vars(mapping))
        made = kind.resolve(twin, ())  # type: ignore[attr-defined]
        return made if type(made) is kind else None
    except Exception:  # whatever an object raises that is like no mapping of the Bridge
        return None


def _made_at_first_use(holder: Any, name: str) -> Any | None:
    """What an AutoMapping makes when it first converts and has seen how the module is cut."""
    try:
        kind = class_beneath(type(holder))
        return kind._get_or_create_mapping(holder, holder._detected_type) if kind and name == "_mapping" else None  # type: ignore[attr-defined]
    except Exception:  # it has not seen a module yet, or makes nothing
        return None


def _settings(mapping: Any) -> dict[str, str]:
    out = {}
    for name, value in vars(mapping).items():
        if name in _STATE or name.endswith("_group") or any(True for _ in _within(name, value, 0)) or name == "_mapping":
            continue
        try:
            out[name] = json.dumps(value, sort_keys=True)
        except (TypeError, ValueError, RecursionError):
            out[name] = f"{type(value).__name__} {id(value)}"
    return out


def _alike(held: Any, expected: Any) -> bool:
    return type(held) is type(expected) and _settings(held) == _settings(expected)


def foreign_of(mapping: Any) -> dict[str, str]:
    """{place: class} of what a mapping holds and its class does not build, or builds with other arguments."""
    found: dict[str, str] = {}
    if not _children(mapping):
        return found
    left = [("", mapping, unmodified(mapping))]
    for place, holder, fresh in left:  # grows while it is read; what is alike is never deeper than what is built
        built = _children(fresh) if fresh is not None else {}
        for name, held in _children(holder).items():
            expected = built[name] if name in built else _made_at_first_use(holder, name)
            if expected is None or not _alike(held, expected):
                found[place + name] = name_of(type(held))
            else:
                left.append((f"{place}{name}.", held, expected))
        found |= {place + name: "nothing" for name in built.keys() - _children(holder).keys()}
    return found


def cuts_of(mapping: Any) -> set[str]:
    """How the mappings that it holds have been told to cut, by a module that they saw or by whoever made them."""
    return {str(each._detected_type) for each in [mapping, *(held for _, held in held_by(mapping))]
            if getattr(each, "_mapping", None) is not None and isinstance(getattr(each, "_detected_type", None), str)}


def _copied(value: Any, copies: dict[int, Any]) -> Any:
    if id(value) in copies:
        return copies[id(value)]
    if type(value) in (list, tuple, set, frozenset):
        return type(value)(_copied(item, copies) for item in value)
    if type(value) is dict:
        return {key: _copied(item, copies) for key, item in value.items()}
    if not _is_mapping(value):
        return value
    twin = copies[id(value)] = copy.copy(value)
    for name, held in _attributes(value).items():
        own = _copied(held, copies)
        if own is not held:
            setattr(twin, name, own)
    return twin


def copy_of(mapping: Any) -> Any:
    """A mapping that can be used and leaves the original, and all that it holds, as it was."""
    return _copied(mapping, {})
