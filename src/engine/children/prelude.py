"""Stands before each script of this folder. The program runs both in an isolated Python (-I): a JSON request on standard
input, a JSON reply on standard output, everything that libraries print on standard error. No code of a checkpoint is run.
"""
import contextlib
import ctypes
import importlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import signal
import sys
import traceback


class Failure(Exception):
    """What the user reads. `id` is the error's: package-missing, original-failed, original-unsupported, ..."""

    reply = None  # of the last one: libraries wrap it into errors of their own, or swallow it

    def __init__(self, what, hint="", id="original-failed"):
        super().__init__(what)
        Failure.reply = {"id": id, "what": what, "hint": hint}


def need(module, package=None):
    """The module; its package named where it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as e:
        package = package or module.split(".")[0]
        missing = (e.name or "").split(".")[0] == module.split(".")[0]
        raise Failure(
            f"the Python package {package} is not installed" if missing else
            f"the Python package {package} cannot be loaded: {e}",
            f"install it: {sys.executable} -m pip install {package}; or name another Python with WEIGHBRIDGE_PYTHON",
            "package-missing") from e


def versions(*packages):
    """{"python": ..., package: ...} of those that are installed."""
    found = {"python": platform.python_version()}
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def answer(work):
    """Runs work(request) and replies with what it returns, or with why it could not."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: ends with the program that started it
    reply_to = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    request = json.load(sys.stdin)
    try:
        reply = work(request)
    except BaseException as e:  # torch.distributed has errors that are no Exception
        traceback.print_exc()
        text = " ".join(str(e).split())
        own_words = {"id": "original-failed", "what": f"{type(e).__name__}: {text[:600]}", "hint": ""}
        reply = {"error": Failure.reply or own_words}
    with reply_to:
        json.dump(reply, reply_to)


def save_states(states, path):
    """The documented recording (docs/compare.md)."""
    need("safetensors.torch", "safetensors").save_file(
        {name: value.detach().contiguous().clone() for name, value in states.items()}, path)
