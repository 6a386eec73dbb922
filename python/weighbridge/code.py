"""Whose code it is: methods by where they stand, not by the name that they have there."""
from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any

# Where wrappers live that only pass a call on (torch.no_grad, functools.wraps, contextmanager).
_WRAPPERS = ("torch", "contextlib", "functools")
# Of the methods that Python calls by itself those that decide what an object holds.
_SPECIAL = ("__init__", "__getattribute__", "__getattr__", "__setattr__")


def name_of(kind: type) -> str:
    """Module and name of a class."""
    return f"{kind.__module__}.{kind.__qualname__}"


def _function(member: Any) -> Any:
    """The function beneath a property, a static or class method, a partial, a wrapper that only passes on."""
    for _ in range(20):
        if isinstance(member, property):
            member = member.fget
        elif isinstance(member, (staticmethod, classmethod)):
            member = member.__func__
        elif isinstance(member, functools.partial):
            member = member.func
        elif hasattr(member, "__wrapped__") and _module(member).split(".")[0] in _WRAPPERS:
            member = member.__wrapped__
        else:
            break
    return member


def _module(function: Any) -> str:
    """Where its code was written: a wrapper takes over the name of what it wraps, but not its globals."""
    own = getattr(function, "__globals__", None)
    return str(own["__name__"] if own and "__name__" in own else getattr(function, "__module__", "?"))


def place_of(member: Any) -> str:
    """Module and name of the code of a member of a class: "my_bridge.MyMapping.hf_to_megatron"."""
    function = _function(member)
    name = getattr(function, "__qualname__", type(function).__qualname__)
    return f"{_module(function)}.{name}"


def is_code(member: Any) -> bool:
    return isinstance(member, (property, staticmethod, classmethod, functools.partial)) or callable(member)


def bases_of(kind: type) -> Iterable[type]:
    """What a class is made of, besides what every class is made of."""
    return (base for base in kind.__mro__ if base.__module__ not in ("builtins", "abc", "typing"))


def classes_of(kind: type) -> list[str]:
    return [name_of(base) for base in bases_of(kind)]


def own_code(value: Any, common: str, methods: Sequence[str] | None = None) -> dict[str, str]:
    """{method: place of its code} of what is not code of the module `common`: that of classes besides, and what was put into
    an object or into one of the common classes afterwards. All methods, or only some."""
    found: dict[str, Any] = {}
    for base in reversed(list(bases_of(type(value)))):
        for name, member in vars(base).items():
            if (name.startswith("__") and name not in _SPECIAL) or isinstance(member, type) or not is_code(member):
                continue
            place = place_of(member)
            is_common = base.__module__ == common and place == f"{name_of(base)}.{name}"
            found[name] = None if is_common else place
    for name, member in getattr(value, "__dict__", {}).items():
        if callable(member) and (name in found or name in (methods or ())):
            found[name] = place_of(member)
    if methods is not None:
        found = {name: found[name] for name in methods if name in found}
    return {name: place for name, place in found.items() if place is not None}
