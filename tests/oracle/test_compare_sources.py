"""`compare` on prompts and with the original libraries as a side, and `check` with its forward pass: transformers and
megatron-core run live in the child processes of the program, and again here."""
import json
import os
import pathlib
import re
import shutil
import stat
import subprocess
import sys

import pytest

from conftest import ROOT, find_program, need_engine
from test_compare import as_transformers_reads

need_engine()

SMOLLM2 = pathlib.Path(os.environ.get("WEIGHBRIDGE_CACHE", pathlib.Path.home() / ".cache/weighbridge")) / "smollm2"
STANDIN = ROOT.parent / "shared" / "oracles" / "te_standin"


@pytest.fixture
def report_of(weighbridge, tmp_path):
    """report_of(COMMAND, ARGUMENT...) -> (CompletedProcess, the JSON report)."""

    def call(*arguments):
        report = tmp_path / "report.json"
        report.unlink(missing_ok=True)
        result = weighbridge(*arguments, "--json", report)
        assert report.exists(), result.stdout + result.stderr
        return result, json.loads(report.read_text())

    return call


@pytest.fixture
def llama(toy):
    """A toy of a vocabulary that its tokenizer has."""
    folder = toy("llama", "--set", "vocab_size=96")
    make_tokenizer(folder)
    return folder


def make_tokenizer(folder, **config):
    """A real tokenizer of a few words, in transformers' own files."""
    import tokenizers
    from tokenizers import models, pre_tokenizers, processors
    words = ["<unk>", "<s>", "</s>", "the", "capital", "of", "France", "is", "Paris", "!"]
    inner = tokenizers.Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.add_special_tokens(["<s>", "</s>"])
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    inner.enable_truncation(4)  # transformers leaves it out
    inner.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | config))


def ids_of(report, prompt):
    """Of `details`: the ids that the program ran on."""
    text = report["reproduce"].get("details", report.get("details", {}))[f"prompt {prompt}"]
    return [int(word) for word in text.rsplit("tokens, ", 1)[1].split()]


# -- prompts --

TEXTS = ["the capital of France is", "Paris !", "unknown words </s> here"]


# Beside a tokenizer.json transformers takes no notice of the switches.
@pytest.mark.parametrize("config", [{}, {"add_bos_token": False, "add_eos_token": True}])
def test_a_prompt_has_the_ids_that_transformers_gives_it(report_of, llama, config):
    import transformers
    make_tokenizer(llama, **config)
    result, report = report_of("compare", llama, *(part for text in TEXTS for part in ("--prompt", text)))
    assert result.returncode == 0, result.stdout + result.stderr
    theirs = transformers.AutoTokenizer.from_pretrained(llama)
    assert [ids_of(report, i + 1) for i in range(len(TEXTS))] == [theirs(text, truncation=False)["input_ids"] for text in TEXTS]
    assert report["details"]["tokenizer"].startswith("tokenizers ")


def test_a_real_tokenizer_gives_the_ids_that_transformers_gives(report_of, toy):
    """SmolLM2's: byte-level BPE of 49,152 tokens, chat markers among them."""
    import transformers
    if not (gguf := list(SMOLLM2.glob("*.gguf"))):
        pytest.skip("SKIPPED LOUDLY: SmolLM2-135M is not in the cache (`make demo-real` fetches it)")
    folder = toy("llama", "--set", "vocab_size=49152", "--set", "num_hidden_layers=1")
    transformers.AutoTokenizer.from_pretrained(gguf[0].parent, gguf_file=gguf[0].name).save_pretrained(folder)
    texts = ["The capital of France is", "  Zwei  Wörter\t語\\n", "<|im_start|>user hi<|im_end|>"]
    result, report = report_of("compare", folder, *(part for text in texts for part in ("--prompt", text)))
    assert result.returncode == 0, result.stdout + result.stderr
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    assert [ids_of(report, i + 1) for i in range(len(texts))] == [theirs(text)["input_ids"] for text in texts]


def test_prompts_of_unequal_length_give_one_report_of_the_worst_rows(report_of, llama, tmp_path):
    lines = tmp_path / "prompts.txt"
    lines.write_text("Paris\r\n\nthe capital of France is\nis\n")
    result, report = report_of("compare", llama, "--prompts", lines)
    assert result.returncode == 0, result.stdout + result.stderr
    names = [row["megatron"]["name"] for row in report["results"]]
    assert len(names) == len(set(names)) > 8
    assert {key for key in report["details"] if key.startswith("tokens")} == {
        "tokens, rows of 2 tokens", "tokens, rows of 6 tokens"}
    # The same rows as of the longer prompts alone, or worse ones of the shorter.
    alone = report_of("compare", llama, "--prompt", "the capital of France is")[1]["results"]
    for row, other in zip(report["results"], alone, strict=True):
        assert row["megatron"]["name"] == other["megatron"]["name"]
        assert row["noise"]["ratio"] >= other["noise"]["ratio"]


def test_ids_of_unequal_length_run_too_but_are_not_recorded(report_of, llama, tmp_path):
    ids = "--token-ids", "1,2,3", "--token-ids", "4"
    assert report_of("compare", llama, *ids)[0].returncode == 0
    result, report = report_of("compare", llama, *ids, "--record", tmp_path / "states.safetensors")
    assert result.returncode == 2 and "one length" in report["error"]["what"]


@pytest.mark.parametrize(("arguments", "id", "complaint"), [
    (["--prompt", ""], "usage", "without text"),
    (["--prompt", b"\xff\xfe"], "usage", "UTF-8"),
    (["--prompt", "is", "--seq-len", "4"], "usage", "--seq-len"),
    (["--prompts", "/nowhere/prompts.txt"], "not-found", "prompts.txt"),
    (["--reference", "megatron-core"], "usage", "the reference is Hugging Face's"),
    (["--candidate", "megatron-core"], "usage", "none is given"),
])
def test_what_cannot_be_run_is_said(llama, tmp_path, arguments, id, complaint):
    result = subprocess.run([find_program(), "compare", llama, *arguments, "--json", tmp_path / "r.json"], capture_output=True,
                            check=False)
    error = json.loads((tmp_path / "r.json").read_text())["error"]
    assert result.returncode == 2 and complaint in error["what"] + error["at"], error


def test_a_prompt_that_is_too_long_to_run_is_to_be_shorter(report_of, toy):
    folder = toy("glm_moe_dsa", "--set", "vocab_size=96", "--set", "index_topk=3")
    make_tokenizer(folder)
    result, report = report_of("compare", folder, "--prompt", "the capital of France is")
    assert result.returncode == 2 and "beyond 3 positions" in report["error"]["what"]
    assert report["error"]["at"] == "config.json" and report["error"]["hint"] == "a shorter prompt"
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"index_topk": 3.0}))
    error = report_of("compare", folder, "--prompt", "is")[1]["error"]
    assert "index_topk is 3.0" in error["what"] and "tokenizer" not in error["hint"]


def test_text_for_a_model_without_tokenizer_is_refused_with_a_hint(report_of, toy):
    result, report = report_of("compare", toy("llama"), "--prompt", "is")
    assert result.returncode == 2 and report["error"]["id"] == "tokenizer-missing"
    assert "--token-ids" in report["error"]["hint"]


@pytest.mark.parametrize("content", ["", "{}", "[1, 2", '{"version": "1.0", "model": {"type": "BPE"}}'])
def test_a_broken_tokenizer_is_an_error_in_the_librarys_words(report_of, llama, content):
    (llama / "tokenizer.json").write_text(content)
    result, report = report_of("compare", llama, "--prompt", "is")
    assert result.returncode == 2 and report["error"]["id"] == "original-failed", report["error"]


# -- the Python process --

def fake_python(folder, script):
    program = folder / "python"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return program


@pytest.mark.parametrize(("script", "id", "complaint"), [
    ("echo no python here >&2; exit 7", "python-failed", "no python here"),
    ("echo '{}garbage'", "python-failed", "status 0"),
    (f'exec {sys.executable} -S "$@"', "package-missing", "tokenizers is not installed"),
])
def test_a_python_that_cannot_do_it_is_named(report_of, llama, tmp_path, monkeypatch, script, id, complaint):
    monkeypatch.setenv("WEIGHBRIDGE_PYTHON", str(fake_python(tmp_path, script)))
    result, report = report_of("compare", llama, "--prompt", "is")
    assert result.returncode == 2 and report["error"]["id"] == id and complaint in report["error"]["what"], report["error"]
    assert report["error"]["at"] == str(tmp_path / "python")


def test_a_python_that_is_not_there_is_named(report_of, llama, monkeypatch):
    monkeypatch.setenv("WEIGHBRIDGE_PYTHON", "/nowhere/python3")
    result, report = report_of("compare", llama, "--prompt", "is")
    assert result.returncode == 2 and "/nowhere/python3" in report["error"]["at"]
    assert "WEIGHBRIDGE_PYTHON" in report["error"]["hint"]


# -- transformers --

def test_transformers_itself_is_the_reference(report_of, llama, tmp_path):
    import torch
    import transformers
    from safetensors.torch import load_file
    states = tmp_path / "states.safetensors"
    result, report = report_of("compare", llama, "--reference", "transformers", "--token-ids", "5,17,29,4", "--record", states)
    assert result.returncode == 0, result.stdout + result.stderr
    assert report["details"]["reference"].startswith(f"transformers {transformers.__version__}, ")
    assert f"torch {torch.__version__.split('+')[0]}" in report["details"]["reference"]
    # What was recorded as the reference's is what transformers computes, not what we do.
    model = transformers.AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32).eval()
    with torch.no_grad():
        theirs = model(torch.tensor([[5, 17, 29, 4]]), output_hidden_states=True, use_cache=False)
    recorded = load_file(states)
    assert torch.allclose(recorded["hf_logits"], theirs.logits, rtol=0, atol=1e-6)
    assert not (tmp_path / "weighbridge-compare").exists()


def test_a_thinker_that_transformers_does_not_read_as_released_is_refused_in_our_words(report_of, toy):
    released = toy("qwen3_asr")
    result, report = report_of("compare", released, "--reference", "transformers", "--seq-len", "12")
    assert result.returncode == 2 and report["error"]["id"] == "original-unsupported", result.stdout + result.stderr
    assert "qwen3_asr with a thinker, as it is released" in report["error"]["what"]
    # As transformers writes it, it is the reference.
    result, report = report_of("compare", as_transformers_reads(released), "--reference", "transformers", "--seq-len", "12")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Qwen3ASRForConditionalGeneration" in report["details"]["reference"]


def test_transformers_finds_an_epsilon_that_megatron_has_wrong(report_of, weighbridge, llama, tmp_path):
    megatron = tmp_path / "megatron"
    assert weighbridge("import", llama, megatron).returncode == 0
    file = next(megatron.glob("iter_*/run_config.yaml"))
    file.write_text(re.sub(r"(?m)^(  layernorm_epsilon: ).*$", r"\g<1>0.001", file.read_text()))
    result, report = report_of("compare", llama, megatron, "--reference", "transformers", "--seq-len", 16)
    assert result.returncode == 1 and [cause["id"] for cause in report["causes"]] == ["norm-eps"]


def test_code_of_a_model_is_never_run(report_of, llama, tmp_path):
    trace = tmp_path / "ran"
    (llama / "modeling_own.py").write_text(f"open({str(trace)!r}, 'w')\n")
    config = json.loads((llama / "config.json").read_text())
    config["auto_map"] = {name: "modeling_own.Own" for name in ("AutoConfig", "AutoModelForCausalLM", "AutoTokenizer")}
    (llama / "config.json").write_text(json.dumps(config))
    report_of("compare", llama, "--reference", "transformers", "--prompt", "is", "--trust-remote-code")
    assert not trace.exists()


# -- megatron-core --

def pair_of(goldens, name):
    return goldens / name / "hf_fp32", goldens / name / "meg_te_fp32"


def test_both_originals_judge_each_other(report_of, goldens, tmp_path):
    import torch
    from safetensors.torch import load_file
    states = tmp_path / "states.safetensors"
    recording = load_file(goldens / "qwen3_moe" / "fwd_te_fp32.safetensors")
    ids = [part for row in recording["input_ids"].tolist() for part in ("--token-ids", ",".join(map(str, row)))]
    result, report = report_of("compare", *pair_of(goldens, "qwen3_moe"), "--reference", "transformers",
                               "--candidate", "megatron-core", *ids, "--record", states)
    assert result.returncode == 0, result.stdout + result.stderr
    assert report["details"]["candidate"].startswith("megatron-core 0.19.2, ")
    stages = {"embedding", *(f"decoder.layers.{i}" for i in range(2)), "output_layer"}
    assert {row["megatron"]["name"] for row in report["results"]} == stages
    recorded = load_file(states)
    for name in ("meg_logits", "meg_hidden_1_sbh", "hf_logits", "hf_hidden_0"):
        assert torch.allclose(recorded[name], recording[name], rtol=0, atol=1e-5), name


def test_layers_that_only_the_bridge_builds_need_its_environment(report_of, goldens):
    result, report = report_of("compare", *pair_of(goldens, "gemma2"), "--candidate", "megatron-core", "--seq-len", 8)
    assert result.returncode == 2 and report["error"]["id"] == "original-unsupported"
    assert "Gemma2ModelProvider" in report["error"]["what"] or "gemma2_layer_spec" in report["error"]["what"]
    assert "--candidate FILE" in report["error"]["hint"]


@pytest.fixture
def with_bridge(tmp_path, monkeypatch):
    """A Python whose Transformer Engine computes on the CPU: the stand-in of the oracle kit."""
    if not STANDIN.is_dir():
        pytest.skip("SKIPPED LOUDLY: the oracle kit (../shared/oracles) is not on this machine")
    program = fake_python(tmp_path, f'shift 2; script=$1; shift\nexec {sys.executable} -I -c "import sys; '
                                    f"sys.path.insert(0, '{STANDIN}')\n$script\"")
    monkeypatch.setenv("WEIGHBRIDGE_PYTHON", str(program))


def test_a_real_defect_of_the_bridge_is_found_live(report_of, goldens, with_bridge):
    result, report = report_of("compare", *pair_of(goldens, "gemma2"), "--candidate", "megatron-core", "--seq-len", 16)
    assert result.returncode == 1, result.stdout + result.stderr
    assert [(cause["id"], cause["origin"]) for cause in report["causes"]] == [("norm-eps", "runtime")]
    assert "megatron-bridge" in report["details"]["candidate"]


def test_the_process_of_megatron_core_unpickles_data_only(goldens, tmp_path):
    """The program refuses such a file before; the process that loads it has to as well."""
    trace = tmp_path / "ran"
    iteration = shutil.copytree(pair_of(goldens, "qwen3")[1] / "iter_0000000", tmp_path / "iter_0000000")
    (iteration / ".metadata").write_bytes(f"cposix\nsystem\n(S'touch {trace}'\ntR.".encode())
    fields = {"num_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "ffn_hidden_size": 128, "activation_func": "silu",
              "gated_linear_unit": True, "normalization": "RMSNorm", "add_bias_linear": False}
    request = {"checkpoint": str(iteration), "fields": fields, "provider": "", "layers": "", "vocabulary": 384, "output": 384,
               "threads": 1, "batches": [{"ids": [[1, 2]], "file": str(tmp_path / "states.safetensors")}]}
    children = ROOT / "src/engine/children"
    script = "\n\n".join((children / name).read_text() for name in ("prelude.py", "megatron_states.py"))
    result = subprocess.run([sys.executable, "-I", "-c", script], input=json.dumps(request), capture_output=True, text=True,
                            check=False)
    assert not trace.exists()
    error = json.loads(result.stdout)["error"]
    assert error["id"] == "pickle-code" and "posix.system" in error["what"], error


# -- check --

def levels(report):
    return {note["id"]: note["message"] for note in report["notes"] if note["id"].startswith("level ")}


def test_check_runs_the_forward_pass_where_the_engine_is(report_of, weighbridge, llama, tmp_path):
    result, report = report_of("check", llama, "--explain")
    assert result.returncode == 0 and report["level"] == "L2", result.stdout + result.stderr
    assert "random tokens need about" in levels(report)["level L2"]
    assert {bool(row.get("noise")) for row in report["results"]} == {True, False}
    assert "tensors and modules match" in result.stdout
    assert weighbridge("import", llama, tmp_path / "megatron").returncode == 0
    result, report = report_of("check", llama, tmp_path / "megatron", "--explain")
    assert result.returncode == 0 and report["level"] == "L2", result.stdout + result.stderr


def test_check_goes_no_further_than_it_is_told(report_of, llama):
    for level in ("L0", "L1"):
        result, report = report_of("check", llama, "--level", level, "--explain")
        assert result.returncode == 0 and report["level"] == level
        assert levels(report)["level L2"] == "not asked for"


def test_without_the_engine_check_judges_the_levels_below(report_of, llama, monkeypatch):
    monkeypatch.setenv("WEIGHBRIDGE_ENGINE", "/nowhere/engine.so")
    result, report = report_of("check", llama, "--explain")
    assert result.returncode == 0 and report["verdict"] == "pass" and report["level"] == "L1"
    assert "make engine" in levels(report)["level L2"]
    assert any("make engine" in text for text in report["unproven"])
    result, report = report_of("check", llama, "--level", "L2")
    assert result.returncode == 2 and report["error"]["id"] == "engine-missing"


def test_check_passes_over_a_forward_pass_that_the_engine_does_not_know(report_of, toy):
    result, report = report_of("check", toy("llada"), "--explain")
    assert result.returncode == 0 and report["level"] == "L1", result.stdout + result.stderr
    assert levels(report)["level L2"].startswith("not run: ")
