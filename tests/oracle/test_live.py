"""Live models of Megatron Bridge: the verification table, the Megatron side of every rank, and manifests."""
import json
import os
import subprocess
import sys

import pytest

import bridges

bridges.need_bridge()

import wrong_bridges  # noqa: E402
import weighbridge as wb  # noqa: E402
from test_user_bridge import apply  # noqa: E402

MODELS = ["deepseek_v3_nomtp", "ernie4_5_moe", "exaone4", "gemma2", "glm4_moe", "gpt_oss_ns", "llama_tied", "llama_untied",
          "nemotron_h", "olmoe", "qwen2", "qwen3", "qwen3_moe", "qwen3_next"]


@pytest.mark.parametrize("model", MODELS)
def test_a_right_model_passes_on_both_sides(model):
    bridge, parts = bridges.live(bridges.HF / model, "bf16")
    found = wb.weights_verification_table(bridge, parts)
    assert found.ok, str(found)
    exported, held = [r for r in found.rows if r.rank is None], [r for r in found.rows if r.rank]
    assert len(exported) == len(wb.load(bridges.HF / model, "numpy")) and len(held) > 10 and not found.unproven
    assert wb.weights_verification_table(bridge, bridge.hf_pretrained, parts).ok


def test_the_table_prints_as_the_one_of_megatron_bridge():
    from rich.console import Console
    bridge, parts = bridges.live(bridges.HF / "qwen3", "bf16")
    console = Console(record=True, width=200, file=open(os.devnull, "w"))
    console.print(wb.weights_verification_table(bridge, parts))
    text = console.export_text()
    assert "Matches Original" in text and "model.layers.0.self_attn.q_proj.weight" in text and "❌" not in text


def test_a_model_in_float32_of_weights_in_bf16_matches_and_says_so():
    bridge, parts = bridges.live(bridges.HF / "qwen3", "fp32")
    found = wb.weights_verification_table(bridge, parts)
    assert found.ok and {row.status for row in found.rows} == {"match-widened"}


ALIKE = ["gate and up exchanged", "key and value exchanged", "the two norms of a layer exchanged",
         "the norms of query and key exchanged", "norm weights not shifted by one"]


@pytest.mark.parametrize("wrong", [w for w in wrong_bridges.ALL if w.name in ALIKE], ids=lambda w: w.name)
def test_what_a_round_trip_cannot_see_is_named_at_its_rule(wrong, monkeypatch):
    apply(wrong, monkeypatch)
    bridge, parts = bridges.live(bridges.HF / wrong.model, "bf16")
    round_trip = wb.weights_verification_table(bridge, parts, direct=False)
    assert round_trip.ok and round_trip.unproven  # wrong in the same way in both directions
    found = wb.weights_verification_table(bridge, parts)
    assert not found.ok and all(row.ok for row in found.rows if row.rank is None)
    assert any(cause.id == wrong.cause and any(wrong.where in place for place in cause.where) for cause in found.causes), found
    # The bytes say the same, without the rules.
    assert any(cause.id not in ("rule-class", "rule-roles", "rule-hf-name") and cause.proof == "exact"
               for cause in found.causes), found


def test_a_tensor_that_is_never_exported_is_missing(monkeypatch):
    bridge, parts = bridges.live(bridges.HF / "llama_untied", "bf16")
    original = bridge.export_hf_weights
    monkeypatch.setattr(bridge, "export_hf_weights", lambda model, **kw: (
        item for item in original(model, **kw) if item[0] != "lm_head.weight"))
    found = wb.weights_verification_table(bridge, parts)
    assert [(row.name, row.status) for row in found.rows if not row.ok] == [("lm_head.weight", "missing")]
    with pytest.raises(wb.ParityError, match="lm_head.weight"):
        found.raise_if_failed()


def test_a_live_model_is_judged_by_a_manifest():
    bridge, parts = bridges.live(bridges.HF / "qwen3_moe", "bf16")
    manifest = wb.manifest(bridges.HF / "qwen3_moe")
    assert wb.verify_live(bridge.export_hf_weights(parts, show_progress=False), manifest).ok
    state = {name: tensor.clone() for name, tensor, *_ in bridge.export_hf_weights(parts, show_progress=False)}
    state["model.norm.weight"][3] += 1
    del state["lm_head.weight"]
    found = wb.verify_live(state, manifest)
    assert {(r.name, r.status) for r in found.rows if not r.ok} == {("model.norm.weight", "mismatch"), ("lm_head.weight", "missing")}


def test_tensors_of_torch_are_compared_exactly():
    import torch
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.float8_e4m3fn):
        a = torch.arange(24).reshape(4, 6).to(dtype)
        b = a.clone()
        assert wb.compare_tensors(a, b) and wb.compare_tensors(a.t(), b.t())
        b[2, 1] = 0
        assert wb.compare_tensors(a, b).first_index == [2, 1]
    loaded = wb.load(bridges.HF / "qwen3")["model.norm.weight"]
    assert isinstance(loaded, torch.Tensor) and loaded.dtype is torch.bfloat16


def test_tensors_that_are_no_plain_memory_are_compared_or_refused_by_name():
    import torch
    a = torch.randn(3, 4, dtype=torch.complex64)
    assert wb.compare_tensors(a.conj(), a.conj().clone()) and not wb.compare_tensors(a.conj(), a)
    b = torch.randn(4, dtype=torch.complex64).conj()
    assert b.imag.is_neg() and wb.compare_tensors(b.imag, b.imag.clone())
    plain = torch.ones(2, 2)
    for odd, said in ((torch.ones(2, 2, device="meta"), "meta device"), (plain.to_sparse(), "to_dense"),
                      (torch.quantize_per_tensor(plain, 0.1, 0, torch.qint8), "quantized"),
                      (torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), "nested")):
        with pytest.raises(wb.Error) as raised:
            wb.compare_tensors(odd, plain)
        assert said in str(raised.value), raised.value


def test_a_distributed_tensor_is_refused_by_name():
    import torch
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import distribute_tensor
    bridges.patched().init_parallel()
    mesh = init_device_mesh("cpu", (1,))
    with pytest.raises(wb.Error, match="DTensor"):
        wb.compare_tensors(distribute_tensor(torch.ones(2), mesh), torch.ones(2))


def test_writing_to_a_loaded_tensor_changes_memory_alone(tmp_path):
    import shutil
    shutil.copytree(bridges.HF / "qwen3", tmp_path / "m")
    before = {path.name: path.read_bytes() for path in (tmp_path / "m").iterdir()}
    tensors = wb.load(tmp_path / "m")
    norm = tensors["model.norm.weight"]
    norm.fill_(7)
    assert (tensors["model.norm.weight"] == 7).all()  # it is what this Checkpoint has from now on
    assert not wb.compare_state_dicts(wb.load(tmp_path / "m"), tensors, verbose=False)
    assert (norm == 7).all()
    assert {path.name: path.read_bytes() for path in (tmp_path / "m").iterdir()} == before


def test_a_failure_in_the_search_leaves_the_rows(monkeypatch):
    """All that looks for causes raises what nobody expects."""
    from weighbridge import live
    bridge, parts = bridges.live(bridges.HF / "llama_untied", "bf16")
    original = bridge.export_hf_weights
    monkeypatch.setattr(bridge, "export_hf_weights", lambda model, **kw: (
        item for item in original(model, **kw) if item[0] != "lm_head.weight"))
    for name in ("inspect_bridge", "diagnose_live", "_judge_ranks"):
        monkeypatch.setattr(live, name, lambda *a, **k: [][1])
    found = wb.weights_verification_table(bridge=bridge, megatron_model=parts)
    assert [(row.name, row.status) for row in found.rows if not row.ok] == [("lm_head.weight", "missing")]
    assert sum("IndexError" in text for text in found.unproven) == 3


def test_it_is_called_as_megatron_bridges_own_is():
    import inspect
    from megatron.bridge.models.conversion.utils import weights_verification_table as original
    bridge, parts = bridges.live(bridges.HF / "qwen3", "bf16")
    names = list(inspect.signature(original).parameters)
    assert names == ["bridge", "megatron_model"]
    assert wb.weights_verification_table(**dict(zip(names, (bridge, parts)))).ok


@pytest.mark.parametrize("model, tp, pp, ep", [("qwen3", 2, 1, 1), ("qwen3", 1, 2, 1), ("qwen3_moe", 1, 1, 2)])
def test_every_rank_is_judged(tmp_path, model, tp, pp, ep):
    worker = os.path.join(os.path.dirname(__file__), "live_worker.py")
    ran = subprocess.run([sys.executable, worker, bridges.HF / model, tmp_path, str(tp), str(pp), str(ep)],
                         capture_output=True, text=True, timeout=500)
    assert ran.returncode == 0, ran.stderr[-3000:]
    said = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("*.json"))]
    assert len(said) == tp * pp * ep
    for one in said:
        assert one["clean"]["verdict"] == "pass", one["clean"]
        assert one["clean"]["rows"] == said[0]["clean"]["rows"] and one["wrong"] == said[0]["wrong"]
    held = [row for row in said[0]["clean"]["rows"] if row["rank"]]
    assert {(row["rank"]["pp"], row["rank"]["tp"], row["rank"]["ep"]) for row in held} >= {(pp - 1, tp - 1, 0), (0, 0, 0)}
    wrong = [row for row in said[0]["wrong"]["rows"] if row["rank"] and row["status"] == "mismatch"]
    assert [(row["name"], row["rank"]["tp"]) for row in wrong] == [
        ("decoder.layers.0.self_attention.linear_proj.weight", tp - 1)]
    assert said[0]["wrong"]["causes"], said[0]["wrong"]["unproven"]
