"""Starting the program as several ranks, and a model large enough to be killed in the middle of."""
import os
import signal
import subprocess
import time

import pytest

GRID = ["--tp", "2", "--pp", "2", "--threads", "1"]  # 4 files


def make_model(run, folder, layers=8):
    """A random model of some 100 MB."""
    made = run("toy", folder, "--family", "llama", "--seed", "3", "--set", "hidden_size=512",
               "--set", "intermediate_size=2048", "--set", "vocab_size=16384", "--set", f"num_hidden_layers={layers}",
               "--set", "num_attention_heads=8", "--set", "num_key_value_heads=4", "--set", "tie_word_embeddings=false")
    assert made.returncode == 0, made.stderr
    return folder


def rank_environment(rank, size, **more):
    return {**os.environ, "WEIGHBRIDGE_RANK": str(rank), "WEIGHBRIDGE_WORLD_SIZE": str(size), **more}


def start_ranks(program, size, arguments, prefix=(), **options):
    """One process per rank."""
    return [subprocess.Popen([*map(str, prefix), str(program), *map(str, arguments)], env=rank_environment(r, size),
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)
            for r in range(size)]


def end_ranks(processes, timeout=60):
    """[(status, stdout, stderr)] in rank order; fails when one hangs."""
    ended = []
    for process in processes:
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            for other in processes:
                other.kill()
            pytest.fail("a rank hangs")
        ended.append((process.returncode, out, err))
    return ended


def look(folder, pattern):
    """What fits in a folder that others change meanwhile."""
    try:
        return sorted(folder.glob(pattern))
    except OSError:
        return []


def finished(target):
    """Names of the files that unfinished output beside `target` has finished."""
    entries = look(target.parent, f"{target.name}.partial-*/journal/*.json")
    return [entry.name.removesuffix(".json") for entry in entries]


def kill_when_finished(processes, victims, target, count):
    """Kills `victims` once `count` files are finished; False when the work was faster."""
    end = time.monotonic() + 60
    while time.monotonic() < end and any(p.poll() is None for p in processes):
        if len(finished(target)) >= count:
            for victim in victims:
                victim.send_signal(signal.SIGKILL)
            return True
    return False


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*"))
            if path.is_file()}
