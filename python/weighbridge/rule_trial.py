"""Rules that hold mappings which their class does not build: what they do to made-up tensors, beside what the class does.

On one rank, without a model: what needs either is not tried, and said so.
"""
from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from .code import name_of
from .held import copy_of, unmodified
from .hooks import MadeUp, difference


def _module(config: Any) -> Any:
    """A module that is not cut, as AutoMapping looks at it."""
    import torch

    module: Any = torch.nn.Module()
    module.tensor_model_parallel = False
    module.weight = torch.nn.Parameter(torch.zeros(1), requires_grad=False)
    module.config = config
    return module


def _ranks() -> int:
    import torch
    distributed = torch.distributed
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def _exported(given: Mapping[str, Any], returned: Any) -> str:
    if not isinstance(returned, Mapping):
        return f"makes {type(returned).__name__} of a tensor"
    if returned.keys() != given.keys():
        return f"writes {', '.join(map(str, returned))} in the place of {', '.join(map(str, given))}"
    found = {name: difference(tensor, returned[name]) for name, tensor in given.items()}
    return next((f"{text} of {name}" for name, text in found.items() if text), "")


def _imported(mapping: Any, state: MadeUp, config: Any) -> Any:
    hf = mapping.hf_param
    tensors = state[hf] if isinstance(hf, str) else {role: state[name] for role, name in hf.items()}
    return copy_of(mapping).hf_to_megatron(tensors, _module(config))


def _compared(mapping: Any, right: Any, shapes: Mapping[str, list[int]], config: Any) -> str:
    state = MadeUp(shapes)
    imported = _imported(right, state, config)
    text = difference(imported, _imported(mapping, state, config))
    if text:
        return f"{text} on import"
    exported = copy_of(right).megatron_to_hf(imported, _module(config))
    text = _exported(exported, copy_of(mapping).megatron_to_hf(imported, _module(config)))
    return f"{text} on export" if text else ""


def trial_of(mapping: Any, shapes: Mapping[str, list[int]], config: Any) -> dict[str, str]:
    """`like`: the class that it is compared with; `changed`: what it does otherwise; `untried`: why it was not compared.
    Neither: it does the same to tensors of one rank. `config`: what modules of the model have as theirs."""
    right = unmodified(mapping)
    if right is None:
        return {"untried": "it is made of no class of Megatron Bridge that could be made anew"}
    found = {"like": name_of(type(right))}
    try:
        if "torch" not in sys.modules:
            raise RuntimeError("torch has not been imported")
        if _ranks() != 1:
            raise RuntimeError("several ranks are at work")
        text = _compared(mapping, right, shapes, config)
        return found | ({"changed": text} if text else {})
    except Exception as error:  # whatever a mapping in the making raises
        return found | {"untried": f"{type(error).__name__} on made-up tensors: {error}"[:300]}
