"""Live models: the drop-in for Megatron Bridge's weights verification table, and what every rank of a model holds.

Nothing here imports Megatron or torch before it is called with objects of theirs. On several ranks each function is called
on all of them, and all get the same answer.
"""
from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, overload

from . import _core
from ._errors import Error, ParityError
from .bridge import inspect_bridge, parts_of
from .checkpoint import load
from .commands import Manifest, Path, roundtrip, verify
from .compare import compare_tensors
from .report import Cause, Rank, Report
from .tensors import lend

SHOWN_ROWS = 20


@dataclass(frozen=True)
class RankHash:
    """One tensor that a rank holds, under its name in that rank's modules. `xxh3` is XXH3-128 of the contiguous tensor."""

    rank: Rank
    name: str
    shape: tuple[int, ...]
    dtype: str
    xxh3: str


@dataclass(frozen=True)
class LiveRow:
    """One judged tensor: a Hugging Face one that the bridge exported (`rank` is None), or one that a rank holds."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    device: str
    status: str  # match, match-widened, mismatch, missing, extra, skipped
    why: str = ""
    rank: Rank | None = None

    @property
    def ok(self) -> bool:
        return self.status in ("match", "match-widened", "skipped")


@dataclass
class LiveVerdict:
    """What was found of a live model. Printed by rich as the usual table, by print as text."""

    title: str
    rows: list[LiveRow] = field(default_factory=list)
    causes: list[Cause] = field(default_factory=list)
    unproven: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        if self.causes or not all(row.ok for row in self.rows):
            return "fail"
        return "pass" if any(row.status.startswith("match") for row in self.rows) else "undecided"

    @property
    def ok(self) -> bool:
        return self.verdict == "pass"

    def raise_if_failed(self) -> LiveVerdict:
        if not self.ok:
            raise ParityError(str(self))
        return self

    def to_json(self, indent: int | None = None) -> str:
        return json.dumps({"title": self.title, "verdict": self.verdict, "rows": [asdict(row) for row in self.rows],
                           "causes": [asdict(cause) for cause in self.causes], "unproven": self.unproven}, indent=indent)

    def __str__(self) -> str:
        bad = [row for row in self.rows if not row.ok]
        lines = [f"{self.title}: {self.verdict} ({len(self.rows) - len(bad)} of {len(self.rows)} match)"]
        for row in bad[:SHOWN_ROWS]:
            at = f" (tp {row.rank.tp}, pp {row.rank.pp}, ep {row.rank.ep})" if row.rank else ""
            lines.append(f"{row.status}: {row.name}{at}{': ' if row.why else ''}{row.why}")
        if len(bad) > SHOWN_ROWS:
            lines.append(f"and {len(bad) - SHOWN_ROWS} more")
        for cause in self.causes:
            lines.append(f"cause: {cause.id}: {cause.message}")
        lines += [f"not proven: {text}" for text in self.unproven]
        return "\n".join(lines)

    @property
    def table(self) -> Any:
        """The table that Megatron Bridge's helper returns (needs rich)."""
        from rich.table import Table
        table = Table(title=self.title, caption=f"{self.verdict}" + "".join(f"\n{c.id}: {c.message}" for c in self.causes))
        table.add_column("Weight Name", style="cyan")
        for column in ("Shape", "DType", "Device"):
            table.add_column(column)
        table.add_column("Matches Original", justify="center")
        for row in self.rows:
            table.add_row(row.name, str(row.shape), row.dtype, row.device, "✅" if row.ok else f"❌ {row.why}")
        return table

    def __rich__(self) -> Any:
        return self.table


# -- ranks --

def _parallel() -> tuple[dict[str, Any], Rank]:
    """(sizes of the grid, this rank's place), as Megatron's parallel state has them; one rank without it."""
    state = sys.modules.get("megatron.core.parallel_state")
    if state is None or not state.is_initialized():
        return {"tp": 1, "pp": 1, "ep": 1, "etp": 1}, Rank(0, 0, 0, 0, 0)
    sizes = {"tp": state.get_tensor_model_parallel_world_size(), "pp": state.get_pipeline_model_parallel_world_size(),
             "ep": state.get_expert_model_parallel_world_size(),
             "etp": state.get_expert_tensor_parallel_world_size()}
    rank = Rank(state.get_tensor_model_parallel_rank(), state.get_pipeline_model_parallel_rank(), 0,
                state.get_expert_model_parallel_rank(), state.get_expert_tensor_parallel_rank())
    return sizes, rank


def _distributed() -> Any:
    torch = sys.modules.get("torch")
    if torch is None or not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return None
    return torch.distributed if torch.distributed.get_world_size() > 1 else None


def _from_first(value: Any) -> Any:
    """Rank 0's value on all ranks."""
    distributed = _distributed()
    if distributed is None:
        return value
    box = [value]
    distributed.broadcast_object_list(box, src=0)
    return box[0]


def _from_all(value: list[Any]) -> list[Any]:
    distributed = _distributed()
    if distributed is None:
        return value
    parts: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(parts, value)
    return [item for part in parts for item in part]


def _reason(error: Exception) -> str:
    return error.what if isinstance(error, Error) else f"{type(error).__name__}: {error}"


def _as_error(error: Exception) -> Error:
    """What can be sent to other ranks."""
    if isinstance(error, Error):
        return Error(error.kind, error.id, error.what, error.at, error.hint)
    return Error("internal", "internal", f"{type(error).__name__}: {error}")


def _together(work: Callable[[], Any]) -> list[Any]:
    """What `work` gives each rank; raises on all ranks where one raised, so that none waits for another that has left."""
    try:
        mine: Any = work()
    except Exception as error:
        mine = _as_error(error)
    all_of_them = _from_all([mine])
    for one in all_of_them:
        if isinstance(one, Error):
            raise one
    return all_of_them


def _first() -> bool:
    distributed = _distributed()
    return distributed is None or distributed.get_rank() == 0


def _tensors(part: Any) -> Iterator[tuple[str, Any]]:
    """Parameters and persistent buffers: what a checkpoint holds."""
    yield from part.named_parameters()
    for prefix, module in part.named_modules():
        hidden: set[str] = getattr(module, "_non_persistent_buffers_set", set())
        for name, buffer in module.named_buffers(recurse=False):
            if name not in hidden and buffer is not None:
                yield (f"{prefix}.{name}" if prefix else name), buffer


def _is_expert(name: str) -> bool:
    return ".experts." in name


def _place(rank: Rank, vpp: int, name: str) -> Rank:
    """Dense tensors are told apart by tp, those of experts by ep and etp."""
    if _is_expert(name):
        return Rank(0, rank.pp, vpp, rank.ep, rank.etp)
    return Rank(rank.tp, rank.pp, vpp, 0, 0)


def _local(model: Any) -> Iterator[tuple[Rank, str, Any]]:
    _, rank = _parallel()
    for vpp, part in enumerate(parts_of(model)):
        for name, tensor in _tensors(part):
            yield _place(rank, vpp, name), name, tensor


def rank_hashes(model: Any) -> list[RankHash]:
    """What this rank holds, one hash per tensor: compare it with `roundtrip(hf, ranks=True, tp=...)`, with
    `weighbridge verify --ranks`, or with another model in the same grid. A tensor at a time is looked at."""
    out = []
    for rank, name, tensor in _local(model):
        dtype, shape, data = lend(tensor)
        out.append(RankHash(rank, name, tuple(shape), dtype, _core.xxh3(data)))
    return out


@dataclass(frozen=True)
class _Expected:
    shape: tuple[int, ...]
    dtype: str
    xxh3: str


def _expected_ranks(hf: Path, model: Any, vocab: int | None, options: Mapping[str, Any]) -> dict[tuple[Rank, str], _Expected]:
    """What a faultless import gives each rank, by our family."""
    sizes, _ = _parallel()
    rows: Any = None
    if _first():
        try:
            report = roundtrip(hf, ranks=True, vpp=len(parts_of(model)), pad_vocab=vocab, **sizes, **options)
            rows = {(r.rank, r.megatron.name): _Expected(r.megatron.shape, str(r.megatron.dtype), str(r.xxh3))
                    for r in report.results if r.rank is not None and r.megatron is not None}
        except Exception as error:
            rows = _as_error(error)
    rows = _from_first(rows)
    if isinstance(rows, Error):
        raise rows
    found: dict[tuple[Rank, str], _Expected] = rows
    return found


def _padded_vocab(model: Any) -> int | None:
    """Rows of the embedding over all ranks."""
    sizes, _ = _parallel()
    rows = [int(tensor.shape[0]) * sizes["tp"] for _, name, tensor in _local(model)
            if name.endswith("embedding.word_embeddings.weight")]
    gathered = _from_all(rows)
    return max(gathered) if gathered else None


def _as_dtype(tensor: Any, dtype: str) -> Any:
    """`tensor` in a narrower dtype if no value changes by it, else None."""
    import torch
    names = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32, "fp64": torch.float64}
    if dtype not in names or not tensor.is_floating_point():
        return None
    narrow = tensor.detach().to(names[dtype])
    same = compare_tensors(tensor, narrow)
    return narrow if same.ok else None


def _judge_local(rank: Rank, name: str, tensor: Any, expected: _Expected | None) -> LiveRow:
    """One row whatever happens: other ranks wait for it."""
    try:
        return _compare_local(rank, name, tensor, expected)
    except Exception as error:
        return LiveRow(name, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), str(tensor.device), "mismatch",
                       f"it cannot be compared: {_reason(error)}", rank)


def _compare_local(rank: Rank, name: str, tensor: Any, expected: _Expected | None) -> LiveRow:
    dtype, shape, data = lend(tensor)

    def row(status: str, why: str = "") -> LiveRow:
        return LiveRow(name, tuple(shape), dtype, str(tensor.device), status, why, rank)

    if expected is None:
        return row("extra", "no rule of the family explains it")
    if tuple(shape) != expected.shape:
        return row("mismatch", f"shape {tuple(shape)}, expected {expected.shape}")
    if dtype == expected.dtype:
        same = _core.xxh3(data) == expected.xxh3
        return row("match" if same else "mismatch", "" if same else "other bytes than a faultless import gives this rank")
    narrow = _as_dtype(tensor, expected.dtype)
    if narrow is None:
        return row("mismatch", f"its values are not {expected.dtype}, in which Hugging Face has them")
    same = _core.xxh3(lend(narrow)[2]) == expected.xxh3
    return row("match-widened" if same else "mismatch", "" if same else "other values than a faultless import gives this rank")


def _worst(rows: Iterable[LiveRow]) -> dict[tuple[Rank | None, str], LiveRow]:
    """Of copies that several ranks hold or export, one that is wrong counts."""
    out: dict[tuple[Rank | None, str], LiveRow] = {}
    for row in rows:
        there = out.get((row.rank, row.name))
        if there is None or (there.ok and not row.ok):
            out[row.rank, row.name] = row
    return out


def _judge_ranks(hf: Path, model: Any, options: Mapping[str, Any]) -> list[LiveRow]:
    """The Megatron side itself, which a round trip never looks at: every tensor of every rank."""
    expected = _expected_ranks(hf, model, _padded_vocab(model), options)
    rows, seen = [], []
    for rank, name, tensor in _local(model):
        seen.append((rank, name))
        rows.append(_judge_local(rank, name, tensor, expected.get((rank, name))))
    gathered = _worst(_from_all(rows))
    for rank, name in expected.keys() - set(_from_all(seen)):
        gathered[rank, name] = LiveRow(name, expected[rank, name].shape, expected[rank, name].dtype, "", "missing",
                                       "the rank does not hold it", rank)
    return sorted(gathered.values(), key=lambda row: (_order(row.rank), row.name))


def _order(rank: Rank | None) -> tuple[int, ...]:
    """As reports list ranks."""
    return (rank.pp, rank.vpp, rank.ep, rank.etp, rank.tp) if rank else ()


# -- the search for the mistake, on files of ranks --

def _write_rank(folder: str, model: Any, provider: Mapping[str, Any] | None) -> None:
    """This rank's file in Megatron's legacy layout, with which the search for the mistake works."""
    import torch
    sizes, rank = _parallel()
    name = f"mp_rank_{rank.tp:02d}"
    if sizes["pp"] > 1:
        name += f"_{rank.pp:03d}"
    if sizes["ep"] > 1:
        name += f"_{rank.ep:03d}"
    iteration = os.path.join(folder, "iter_0000001")
    os.makedirs(os.path.join(iteration, name), exist_ok=True)
    parts = parts_of(model)
    state = {("model" if len(parts) == 1 else f"model{i}"): {n: t.detach().to("cpu").contiguous() for n, t in _tensors(part)}
             for i, part in enumerate(parts)}
    torch.save({"checkpoint_version": 3.0, "iteration": 1, **state}, os.path.join(iteration, name, "model_optim_rng.pt"))
    if _first():
        if provider is not None:
            with open(os.path.join(iteration, "run_config.yaml"), "w", encoding="utf-8") as f:
                json.dump({"model": provider}, f)
        with open(os.path.join(folder, "latest_checkpointed_iteration.txt"), "w", encoding="utf-8") as f:
            f.write("1")


def diagnose_live(hf: Path, model: Any, *, provider: Mapping[str, Any] | None = None, scratch: Path | None = None,
                  family: Path | Sequence[Path] = (), expect_dtype: str | None = None) -> Report:
    """`verify` of what all ranks hold, with the search for the mistake that explains it. Writes the model once, as files of
    ranks, into a folder beneath `scratch` that all ranks see (default: the system's temporary folder), and removes it."""
    folder = _together(lambda: tempfile.mkdtemp(prefix="weighbridge-", dir=scratch) if _first() else None)[0]
    try:
        _together(lambda: _write_rank(folder, model, provider))
        outcome = _together(lambda: verify(hf, folder, family=family, expect_dtype=expect_dtype).document if _first() else None)[0]
    finally:
        if _first():
            shutil.rmtree(folder, ignore_errors=True)
    return Report(outcome)


# -- the exported side --

def _originals(hf_pretrained: Any) -> Mapping[str, Any]:
    state = getattr(hf_pretrained, "state", None)
    if state is not None:
        mapping: Mapping[str, Any] = state
        return mapping
    if isinstance(hf_pretrained, (str, os.PathLike)):
        return load(hf_pretrained, "torch")
    if isinstance(hf_pretrained, Mapping):
        return hf_pretrained
    raise TypeError("hf_pretrained has no state: give a model with weights, a state dict or a path")


def _names_of(state: Mapping[str, Any]) -> set[str]:
    source = getattr(state, "source", None)
    if source is not None and hasattr(source, "get_all_keys"):
        return set(source.get_all_keys())
    return set(state.keys())


def _judge_exported(name: str, tensor: Any, state: Mapping[str, Any], names: set[str]) -> LiveRow:
    shape, dtype = tuple(int(n) for n in tensor.shape), str(tensor.dtype).removeprefix("torch.")

    def row(status: str, why: str = "") -> LiveRow:
        return LiveRow(name, shape, dtype, str(tensor.device), status, why)

    if name not in names:
        return row("extra", "the original has no tensor of this name")
    try:
        found = compare_tensors(state[name], tensor)
    except Exception as error:  # of a tensor that has no bytes to compare, or of the files
        return row("mismatch", f"it cannot be compared: {_reason(error)}")
    if found.ok:
        return row("match" if found.dtypes_match else "match-widened")
    return row("mismatch", found.message)


def _twice(name: str, tensor: Any) -> LiveRow:
    return LiveRow(name, tuple(int(n) for n in tensor.shape), str(tensor.dtype).removeprefix("torch."),
                   str(getattr(tensor, "device", "")), "extra", "a second tensor of this name")


def _judge_stream(exported: Iterable[tuple[str, Any]], state: Mapping[str, Any], left_out: set[str]) -> list[LiveRow]:
    names, rows, again, seen = _names_of(state), [], [], set()
    for item in exported:
        name, tensor = item[0], item[1]
        if name in seen:
            again.append(_twice(name, tensor))
            continue
        seen.add(name)
        rows.append(_judge_exported(name, tensor, state, names))
    # A second tensor of a name is an error of its own, whatever the first was.
    rows = list(_worst(_from_all(rows)).values()) + list(_worst(_from_all(again)).values())
    for name in sorted(names - {row.name for row in rows}):
        status, why = ("skipped", "the family does not need it") if name in left_out else ("missing", "never exported")
        rows.append(LiveRow(name, (), "", "", status, why))
    return rows


def _folder_of(hf_pretrained: Any) -> str | None:
    if isinstance(hf_pretrained, (str, os.PathLike)):
        return os.fspath(hf_pretrained)
    folder = getattr(hf_pretrained, "model_name_or_path", None)
    return os.fspath(folder) if folder is not None and os.path.exists(os.fspath(folder)) else None


def _left_out(folder: str | None, family: Path | Sequence[Path]) -> set[str]:
    """Tensors of the files that no Megatron parameter needs, by our family."""
    if folder is None:
        return set()
    try:
        report = roundtrip(folder, level="L0", family=family)
    except Error:
        return set()
    return {tensor.name for row in report.results if row.status == "skipped" for tensor in row.hf}


@overload
def weights_verification_table(bridge: Any, megatron_model: Any, *, hf_pretrained: Any = None, direct: bool = True,
                               family: Path | Sequence[Path] = (), scratch: Path | None = None) -> LiveVerdict: ...


@overload
def weights_verification_table(bridge: Any, hf_pretrained: Any, megatron_model: Any, *, direct: bool = True,
                               family: Path | Sequence[Path] = (), scratch: Path | None = None) -> LiveVerdict: ...


def weights_verification_table(bridge: Any, *models: Any, hf_pretrained: Any = None, megatron_model: Any = None,
                               direct: bool = True, family: Path | Sequence[Path] = (),
                               scratch: Path | None = None) -> LiveVerdict:
    """Drop-in for Megatron Bridge's helper, in its form (bridge, megatron_model) and in (bridge, hf_pretrained,
    megatron_model), by place or by keyword: streams what the bridge exports, compares bit for bit, misses nothing on either
    side.

    A bridge that imports and exports wrongly in the same way passes that. `direct` therefore judges what each rank holds
    against what our family says that a faultless import gives it; where something differs, the rules of the bridge
    (inspect_bridge) and the files of the ranks (diagnose_live, beneath `scratch`) are searched for the mistake. What fails in
    that search stands under `unproven`; the rows stay.
    """
    hf_pretrained, megatron_model = _models_of(bridge, models, hf_pretrained, megatron_model)
    folder = _folder_of(hf_pretrained)
    out = LiveVerdict("Hugging Face Weights Verification")
    stream = bridge.export_hf_weights(megatron_model, show_progress=False)
    out.rows += _judge_stream(stream, _originals(hf_pretrained), _left_out(folder, family))
    if not direct:
        out.unproven.append("what the ranks hold was not looked at: a bridge that imports and exports wrongly in the same way "
                            "passes")
    elif folder is None:
        out.unproven.append("what the ranks hold was not looked at: the files of the Hugging Face model are not known")
    else:
        _add_direct(out, folder, megatron_model, family)
    if not out.ok:
        _add_causes(out, bridge, folder, megatron_model, family, scratch)
    return out


def _models_of(bridge: Any, models: tuple[Any, ...], hf_pretrained: Any, megatron_model: Any) -> tuple[Any, Any]:
    """(Hugging Face's, Megatron's) of the arguments by place, the last of which is Megatron's unless that has a name."""
    places = list(models)
    if megatron_model is None and places:
        megatron_model = places.pop()
    if hf_pretrained is None and places:
        hf_pretrained = places.pop()
    if megatron_model is None or places:
        raise TypeError("weights_verification_table takes a bridge, optionally the Hugging Face model, and the Megatron model")
    return (bridge.hf_pretrained if hf_pretrained is None else hf_pretrained), megatron_model


def _add_direct(out: LiveVerdict, folder: str, model: Any, family: Path | Sequence[Path]) -> None:
    try:
        out.rows += _judge_ranks(folder, model, {"family": family})
    except Exception as error:
        out.unproven.append(f"what the ranks hold was not judged: {_reason(error)}")


def _add_causes(out: LiveVerdict, bridge: Any, folder: str | None, model: Any, family: Path | Sequence[Path],
                scratch: Path | None) -> None:
    provider = None
    try:
        dump = inspect_bridge(bridge)
        provider = dump.document["provider"]
        out.causes += dump.lint(family=family).causes
    except Exception as error:
        out.unproven.append(f"the bridge's rules were not judged: {_reason(error)}")
    if folder is None:
        return
    try:
        report = diagnose_live(folder, model, provider=provider, scratch=scratch, family=family)
        known = {(cause.id, cause.message) for cause in out.causes}
        out.causes += [cause for cause in report.causes if (cause.id, cause.message) not in known]
    except Exception as error:
        out.unproven.append(f"the search for the mistake did not run: {_reason(error)}")


def verify_live(tensors: Any, manifest: Manifest | Path) -> LiveVerdict:
    """A live model against a manifest, without files: the tensors under their Hugging Face names, as a state dict or as a
    stream (`bridge.export_hf_weights(model)`), a tensor at a time. Both ends of a weight update hash what they hold and
    compare it with one small document."""
    if not isinstance(manifest, Manifest):
        with open(manifest, encoding="utf-8") as f:
            manifest = Manifest(json.load(f))
    entries = {entry["name"]: entry for entry in manifest.tensors}
    out, seen = LiveVerdict("Live model against manifest"), set()
    for item in tensors.items() if isinstance(tensors, Mapping) else tensors:
        name, tensor = item[0], item[1]
        if name in seen:
            out.rows.append(_twice(name, tensor))
            continue
        seen.add(name)
        out.rows.append(_judge_entry(name, tensor, entries.get(name)))
    for name in sorted(entries.keys() - seen):
        entry = entries[name]
        out.rows.append(LiveRow(name, tuple(entry["shape"]), entry["dtype"], "", "missing", "the live model does not hold it"))
    return out


def _judge_entry(name: str, tensor: Any, entry: Mapping[str, Any] | None) -> LiveRow:
    dtype, shape, data = lend(tensor)

    def row(status: str, why: str = "") -> LiveRow:
        return LiveRow(name, tuple(shape), dtype, str(getattr(tensor, "device", "cpu")), status, why)

    if entry is None:
        return row("extra", "the manifest does not list it")
    if shape != list(entry["shape"]):
        return row("mismatch", f"shape {shape}, the manifest has {entry['shape']}")
    if _core.xxh3(data) == entry["xxh3"] and dtype == entry["dtype"]:
        return row("match")
    if dtype == entry["dtype"]:
        return row("mismatch", "other bytes than the manifest has")
    narrow = _as_dtype(tensor, entry["dtype"]) if hasattr(tensor, "is_floating_point") else None
    if narrow is not None and _core.xxh3(lend(narrow)[2]) == entry["xxh3"]:
        return row("match-widened")
    return row("mismatch", f"its values are not those that the manifest has as {entry['dtype']}")
