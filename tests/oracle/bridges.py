"""Megatron Bridge on the CPU, for the tests of the package's live checks. Only in the environment of ../shared/oracles."""
import functools
import os
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
ORACLES = ROOT.parent / "shared" / "oracles"
PACKAGE = pathlib.Path(os.environ.get("WEIGHBRIDGE_PACKAGE", ROOT / "build/oracle-package"))
HF = ROOT / "tests/testdata/hf"


def need_bridge():
    """At the head of a file: the kit, the package, and megatron-bridge, patched for the CPU."""
    if not (ORACLES / "bridge_cpu.py").exists():
        pytest.skip("SKIPPED LOUDLY: ../shared/oracles is not on this machine: Megatron Bridge is not tested",
                    allow_module_level=True)
    if not PACKAGE.is_dir():
        pytest.skip("SKIPPED LOUDLY: the Python package is not installed for this interpreter (tools/test_oracle.sh does)",
                    allow_module_level=True)
    for folder in (PACKAGE, ORACLES):
        if os.fspath(folder) not in sys.path:
            sys.path.insert(0, os.fspath(folder))
    pytest.importorskip("torch", reason="SKIPPED LOUDLY: torch is not installed")
    patched()
    pytest.importorskip("megatron.bridge", reason="SKIPPED LOUDLY: megatron-bridge is not installed", exc_type=ImportError)


@functools.cache
def patched():
    """bridge_cpu of the kit, with CUDA out of the way."""
    import bridge_cpu
    bridge_cpu.patch_cuda()
    bridge_cpu.redirect_cuda_tensors()
    return bridge_cpu


def auto_bridge(folder):
    patched()
    from megatron.bridge import AutoBridge
    return AutoBridge.from_hf_pretrained(os.fspath(folder))


def live(folder, dtype="fp32", **overrides):
    """(bridge, list of Megatron model parts) with the weights loaded, on one rank."""
    import torch
    kit = patched()
    kit.init_parallel()
    return kit.build(os.fspath(folder), {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype], overrides=overrides)
