"""Weighbridge proves that a model is the same model on both sides of a Hugging Face <-> Megatron-Core conversion.

The functions are the program's commands with the program's options; neither torch nor Megatron is needed for them.
"""
from ._core import version as _version
from ._errors import Error, ParityError
from .bridge import BridgeDump, inspect_bridge
from .checkpoint import Checkpoint, load
from .commands import Manifest, diagnose, diff, manifest, roundtrip, verify
from .compare import StateDictComparison, TensorComparison, TensorDifference, compare_state_dicts, compare_tensors
from .live import LiveRow, LiveVerdict, RankHash, diagnose_live, rank_hashes, verify_live, weights_verification_table
from .report import Cause, Counts, Note, Rank, Report, Result, TensorRef

__version__ = _version().split()[0]

__all__ = [
    "BridgeDump", "Cause", "Checkpoint", "Counts", "Error", "LiveRow", "LiveVerdict", "Manifest", "Note", "ParityError", "Rank",
    "RankHash", "Report", "Result", "StateDictComparison", "TensorComparison", "TensorDifference", "TensorRef",
    "compare_state_dicts", "compare_tensors", "diagnose", "diagnose_live", "diff", "inspect_bridge", "load", "manifest",
    "rank_hashes", "roundtrip", "verify", "verify_live", "weights_verification_table",
]
