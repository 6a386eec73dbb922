"""convert on checkpoints that megatron-core 0.19 wrote (tests/testdata/megatron), and against direct imports."""
import shutil

import pytest

from test_megatron import DATA, iteration, sides, verify_json


def converted(run, source, target, hf, *options):
    result = run("convert", source, target, "--like", hf, *options)
    assert result.returncode == 0, result.stderr
    return target


def files(folder):
    return {p.relative_to(folder): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("name,first,second", [
    ("llama_untied", [], ["--tp", "2", "--pp", "2"]),
    ("llama_tied", ["--pp", "2"], ["--tp", "2"]),
    ("qwen2", ["--tp", "2"], []),
    ("qwen3_moe", ["--dialect", "local"], ["--tp", "2", "--ep", "2", "--dialect", "te"]),
    ("gpt_oss_ns", ["--ep", "2"], ["--tp", "2"]),
    ("deepseek_v3_nomtp", ["--tp", "2", "--ep", "2"], []),
    ("llama_tied", [], ["--dtype", "fp32"]),
])
def test_a_converted_checkpoint_is_what_an_import_of_that_layout_writes(run, tmp_path, name, first, second):
    hf = DATA / "hf" / name
    for target, options in (("first", first), ("direct", second)):
        assert run("import", hf, tmp_path / target, *options).returncode == 0
    converted(run, tmp_path / "first", tmp_path / "converted", hf, *second)
    assert files(tmp_path / "converted") == files(tmp_path / "direct")


@pytest.mark.parametrize("pair,options", [
    ("llama_tied/tp2_fp32", []), ("llama_tied/pp2_fp32", ["--tp", "2"]), ("llama_tied/local_fp32", ["--dialect", "te"]),
    ("qwen3_moe/ep2_fp32", ["--tp", "2", "--dialect", "local"]), ("olmoe/tp2ep2_fp32", ["--ep", "4"]),
    ("gemma2/te_bf16", ["--pp", "2"]), ("gpt_oss_ns/te_bf16", ["--ep", "2"]),
])
def test_what_megatron_wrote_is_the_same_model_in_another_layout(run, tmp_path, pair, options):
    hf, megatron = sides(pair)
    target = converted(run, megatron, tmp_path / "converted", hf, *options)
    status, report = verify_json(run, hf, target, "--level", "L1")
    assert status == 0, report
    assert run("export", target, tmp_path / "back", "--like", hf).returncode == 0
    assert (tmp_path / "back/model.safetensors").read_bytes() == (hf / "model.safetensors").read_bytes()
    for name in ("train_state.pt", "metadata.json"):
        assert (iteration(target) / name).read_bytes() == (iteration(megatron) / name).read_bytes()


def test_the_spec_stays_unless_another_is_asked_for(run, tmp_path):
    hf, megatron = sides("qwen3_moe/local_fp32")
    target = converted(run, megatron, tmp_path / "converted", hf)
    text = (iteration(target) / "run_config.yaml").read_text()
    assert "transformer_impl: local" in text
    assert run("import", hf, tmp_path / "direct", "--dialect", "local").returncode == 0
    metadata = [(iteration(tmp_path / t) / ".metadata").read_bytes() for t in ("converted", "direct")]
    assert metadata[0] == metadata[1]


def test_the_run_config_keeps_what_the_conversion_does_not_change(run, tmp_path):
    hf, megatron = sides("llama_tied/tp2_fp32")
    target = converted(run, megatron, tmp_path / "converted", hf, "--tp", "1", "--pp", "2")
    text = (iteration(target) / "run_config.yaml").read_text()
    assert "tensor_model_parallel_size: 1" in text and "pipeline_model_parallel_size: 2" in text
    before = (iteration(megatron) / "run_config.yaml").read_text()
    for key in ("rotary_base:", "layernorm_epsilon:", "save_interval:", "hf_model_id:"):
        lines = [[x.replace('"', "") for x in t.splitlines() if key in x] for t in (text, before)]
        assert lines[0] == lines[1] != []


def test_rows_of_padding_are_added_and_taken_away(run, tmp_path):
    hf = DATA / "hf/llama_tied"
    assert run("import", hf, tmp_path / "plain").returncode == 0
    assert run("import", hf, tmp_path / "padded", "--pad-vocab", "512").returncode == 0
    wide = converted(run, tmp_path / "plain", tmp_path / "wide", hf, "--pad-vocab", "512")
    assert files(wide) == files(tmp_path / "padded")
    narrow = converted(run, wide, tmp_path / "narrow", hf, "--pad-vocab", "400")
    assert run("verify", hf, narrow, "--strict-padding").returncode == 0


def test_the_iteration_and_the_common_state_are_the_source_s(run, tmp_path):
    hf, megatron = sides("llama_tied/te_bf16")
    source = shutil.copytree(megatron, tmp_path / "source")
    (source / "iter_0000000").rename(source / "iter_0000300")
    (source / "latest_checkpointed_iteration.txt").write_text("300")
    (source / "iter_0000300/common.pt").write_bytes(b"whatever it holds")
    target = converted(run, source, tmp_path / "converted", hf, "--tp", "2")
    assert (target / "latest_checkpointed_iteration.txt").read_text() == "300"
    assert (target / "iter_0000300/common.pt").read_bytes() == b"whatever it holds"
    assert run("verify", hf, target, "--level", "L1").returncode == 0


def test_convert_refuses_what_it_cannot_do(run, tmp_path):
    hf, megatron = sides("llama_tied/te_bf16")
    source = shutil.copytree(megatron, tmp_path / "source")
    before = files(source)
    for arguments, said in ((["convert", source, source, "--like", hf, "--overwrite"], "source"),
                            (["convert", source, tmp_path / "t", "--like", hf, "--pp", "7"], "pipeline stages"),
                            (["convert", source, tmp_path / "t", "--like", hf, "--pad-vocab", "3"], "vocabulary"),
                            (["convert", source, tmp_path / "t", "--config", tmp_path / "none.json"], "No such file"),
                            (["convert", tmp_path / "none", tmp_path / "t", "--like", hf], "no such folder")):
        result = run(*arguments)
        assert result.returncode == 2 and said in result.stderr, result.stderr
        assert not (tmp_path / "t").exists()
    assert files(source) == before
    assert run("convert", source, tmp_path / "t", "--like", hf).returncode == 0
    again = run("convert", source, tmp_path / "t", "--like", hf)
    assert again.returncode == 2 and "--overwrite" in again.stderr


def test_a_checkpoint_that_is_not_whole_is_not_converted(run, tmp_path):
    hf, megatron = sides("llama_untied/te_bf16")
    result = run("convert", megatron, tmp_path / "t", "--like", DATA / "hf/qwen2")
    assert result.returncode == 1 and "num_layers is 4" in result.stderr
    assert not (tmp_path / "t/iter_0000000").exists()
