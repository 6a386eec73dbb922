"""Weighbridge proves that a model is the same model on both sides of a Hugging Face <-> Megatron-Core conversion.

The functions are the program's commands with the program's options; neither torch nor Megatron is needed for them.
"""
from ._core import version as _version
from ._errors import Error, ParityError
from .bridge import BridgeDump, inspect_bridge
from .checkpoint import Checkpoint, load
from .commands import Manifest, diagnose, diff, manifest, roundtrip, verify
from .compare import StateDictComparison, TensorComparison, TensorDifference, compare_state_dicts, compare_tensors
from .report import Cause, Counts, Note, Rank, Report, Result, TensorRef

__version__ = _version().split()[0]

__all__ = [
    "BridgeDump", "Cause", "Checkpoint", "Counts", "Error", "Manifest", "Note", "ParityError", "Rank", "Report", "Result",
    "StateDictComparison", "TensorComparison", "TensorDifference", "TensorRef", "compare_state_dicts", "compare_tensors",
    "diagnose", "diff", "inspect_bridge", "load", "manifest", "roundtrip", "verify",
]
