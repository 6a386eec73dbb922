"""`manifest`, and `verify CKPT MANIFEST`: hashes of xxhash itself, files of the real libraries, hostile manifests."""
import json
import os
import pathlib
import shutil

import jsonschema
import ml_dtypes
import numpy as np
import pytest
import xxhash
from safetensors.numpy import load_file, save_file

ROOT = pathlib.Path(__file__).resolve().parents[2]
DATA = ROOT / "tests/testdata"
NAMES = ["llama_tied", "llama_untied", "qwen2", "qwen3", "qwen3_lora", "qwen3_moe", "olmoe", "gemma2", "gpt_oss_ns",
         "deepseek_v3", "deepseek_v3_nomtp"]
PAIRS = [f"{name}/te_bf16" for name in NAMES] + [
    "llama_tied/tp2_fp32", "llama_tied/pp2_fp32", "llama_tied/local_fp32", "qwen3_moe/ep2_fp32", "qwen3_moe/local_fp32",
    "olmoe/tp2ep2_fp32", "deepseek_v3_nomtp/tp2ep2_fp32"]
DTYPES = {"BF16": "bf16", "F16": "fp16", "F32": "fp32"}


def sides(pair):
    """The Hugging Face folder and the Megatron folder of NAME/KIND_DTYPE."""
    name, kind = pair.split("/")
    return DATA / ("hf" if kind.endswith("bf16") else "hf_fp32") / name, DATA / "megatron" / pair


def mtp(name):
    # The HF folder of deepseek_v3 lacks the MTP layer that its config promises.
    return ["--without-mtp"] if name.split("/")[0] == "deepseek_v3" else []


def manifest_of(run, checkpoint, *options):
    result = run("manifest", checkpoint, "-q", *options)
    assert result.returncode == 0 and result.stderr == "", result.stderr
    return result.stdout


def tensors_of(text):
    return {t["name"]: t for t in json.loads(text)["tensors"]}


def stored_tensors(file):
    """name -> (dtype, shape, bytes) of a safetensors file, from the header alone."""
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8:8 + length])
    header.pop("__metadata__", None)
    return {name: (DTYPES[t["dtype"]], t["shape"],
                   content[8 + length + t["data_offsets"][0]:8 + length + t["data_offsets"][1]])
            for name, t in header.items()}


def verify_json(run, checkpoint, manifest, *options):
    result = run("verify", checkpoint, manifest, "--json", "-", *options)
    return result.returncode, json.loads(result.stdout), result.stderr


@pytest.fixture
def model(tmp_path):
    """A copy of a Hugging Face folder that a test may break."""
    return lambda name: pathlib.Path(shutil.copytree(DATA / "hf" / name, tmp_path / "model"))


@pytest.mark.parametrize("name", NAMES)
def test_every_hash_is_that_of_the_bytes_in_the_file(run, name):
    """xxhash, over the bytes that safetensors of transformers holds."""
    listed = tensors_of(manifest_of(run, DATA / "hf" / name, *mtp(name)))
    stored = stored_tensors(DATA / "hf" / name / "model.safetensors")
    stored.pop("lm_head.weight" if json.loads((DATA / "hf" / name / "config.json").read_text()).get(
        "tie_word_embeddings") else "", None)
    assert listed.keys() == stored.keys() and len(listed) >= 20
    for tensor, (dtype, shape, content) in stored.items():
        entries = [listed[tensor], *listed[tensor].get("also", [])]
        assert listed[tensor]["shape"] == shape
        assert xxhash.xxh3_128_hexdigest(content) == next(e["xxh3"] for e in entries if e["dtype"] == dtype), tensor


@pytest.mark.parametrize("pair", PAIRS)
def test_what_megatron_wrote_has_the_manifest_of_its_source(run, pair):
    hf, megatron = sides(pair)
    expected = manifest_of(run, hf, *mtp(pair))
    assert manifest_of(run, megatron, "--like", hf, *mtp(pair)) == expected
    assert manifest_of(run, megatron, "--config", hf / "config.json", *mtp(pair)) == expected


@pytest.mark.parametrize("pair", PAIRS)
def test_a_megatron_checkpoint_alone_is_enough(run, tmp_path, pair):
    """Its config is derived from its own."""
    hf, megatron = sides(pair)
    (tmp_path / "m.json").write_text(manifest_of(run, hf, *mtp(pair)))
    assert manifest_of(run, megatron, *mtp(pair)) == (tmp_path / "m.json").read_text()
    status, report, _ = verify_json(run, megatron, tmp_path / "m.json", *mtp(pair))
    assert status == 0 and report["counts"]["failed"] == 0


@pytest.mark.parametrize("name,grid", [
    ("llama_tied", ["--tp", "2"]), ("llama_tied", ["--pad-vocab", "512", "--dialect", "local"]),
    ("llama_untied", ["--tp", "2", "--pp", "2"]), ("qwen3_moe", ["--tp", "2", "--ep", "2", "--etp", "2"]),
    ("qwen3_moe", ["--ep", "4", "--dialect", "local"]), ("deepseek_v3_nomtp", ["--tp", "2", "--ep", "2"]),
    ("gpt_oss_ns", ["--ep", "2"]), ("gemma2", ["--pp", "2"]), ("deepseek_v3", ["--ep", "2", "--without-mtp"]),
])
def test_source_import_and_export_have_equal_manifests(run, tmp_path, name, grid):
    hf = DATA / "hf" / name
    expected = manifest_of(run, hf, *mtp(name))
    assert run("import", hf, tmp_path / "megatron", *grid).returncode == 0
    assert manifest_of(run, tmp_path / "megatron", "--like", hf, *mtp(name)) == expected
    export = ["--config", hf / "config.json", "--max-shard-size", "100K", *mtp(name)]
    assert run("export", tmp_path / "megatron", tmp_path / "back", *export).returncode == 0
    assert manifest_of(run, tmp_path / "back", *mtp(name)) == expected


@pytest.mark.parametrize("pair", sorted(p.relative_to(DATA / "megatron_legacy").as_posix()
                                        for p in (DATA / "megatron_legacy").glob("*/*") if p.is_dir()))
def test_files_of_ranks_have_the_manifest_of_their_source(run, pair):
    """The legacy format, as megatron-core's own functions saved it."""
    hf = DATA / "hf" / pair.split("/")[0]
    assert manifest_of(run, DATA / "megatron_legacy" / pair, "--like", hf, *mtp(pair)) == manifest_of(run, hf, *mtp(pair))


def test_the_model_that_run_config_names_needs_no_option(run, tmp_path):
    hf = DATA / "hf/qwen2"
    assert run("import", hf, tmp_path / "megatron").returncode == 0
    assert manifest_of(run, tmp_path / "megatron") == manifest_of(run, hf)


def test_the_manifest_does_not_depend_on_threads_nor_on_where_it_is_written(run, tmp_path):
    hf = DATA / "hf/qwen3_moe"
    expected = manifest_of(run, hf)
    for threads in ("1", "7"):
        assert manifest_of(run, hf, "--threads", threads) == expected
    result = run("manifest", hf, "--output", tmp_path / "m.json")
    assert result.returncode == 0 and "45 tensors" in result.stdout and "GB/s" in result.stdout or "MB/s" in result.stdout
    assert (tmp_path / "m.json").read_text() == expected


def test_a_manifest_fits_its_schema_and_is_sorted(run, project):
    schema = json.loads((project / "docs/manifest.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    for name in ("llama_tied", "deepseek_v3_nomtp"):
        document = json.loads(manifest_of(run, DATA / "hf" / name))
        jsonschema.Draft202012Validator(schema).validate(document)
        names = [t["name"].encode() for t in document["tensors"]]
        assert names == sorted(set(names))
        for change in (lambda d: d.pop("schema"), lambda d: d["tensors"].clear(),
                       lambda d: d["tensors"][0].update(xxh3="AB"), lambda d: d["tensors"][0].pop("shape")):
            broken = json.loads(json.dumps(document))
            change(broken)
            assert not jsonschema.Draft202012Validator(schema).is_valid(broken)


def test_a_widened_checkpoint_matches_by_the_narrow_entry_and_the_reverse(run, tmp_path):
    hf = DATA / "hf/llama_tied"
    assert run("import", hf, tmp_path / "wide", "--dtype", "fp32").returncode == 0
    narrow, wide = manifest_of(run, hf), manifest_of(run, tmp_path / "wide", "--like", hf)
    for name, tensor in tensors_of(wide).items():
        assert {k: tensor[k] for k in ("shape", "dtype", "xxh3")} == {
            k: tensors_of(narrow)[name][k] for k in ("shape", "dtype", "xxh3")}
        assert [e["dtype"] for e in tensor["also"]] == ["fp32"]
    (tmp_path / "narrow.json").write_text(narrow)
    (tmp_path / "wide.json").write_text(wide)
    status, report, _ = verify_json(run, tmp_path / "wide", tmp_path / "narrow.json", "--like", hf)
    assert status == 0 and {row["status"] for row in report["results"]} == {"match-widened"}
    assert all("narrowed without loss" in row["why"] for row in report["results"])
    status, report, _ = verify_json(run, hf, tmp_path / "wide.json")
    assert status == 0 and all("as stored" in row["why"] for row in report["results"])


def test_the_bias_that_the_family_keeps_in_float32_is_hashed_in_both(run):
    bias = next(t for n, t in tensors_of(manifest_of(run, DATA / "hf/deepseek_v3", "--without-mtp")).items()
                if n.endswith("e_score_correction_bias"))
    assert bias["dtype"] == "bf16" and [e["dtype"] for e in bias["also"]] == ["fp32"]


def test_experts_stacked_in_one_tensor_are_listed_one_by_one(run, tmp_path):
    """The family's primary names, per expert, whichever of its forms the files have."""
    hf = DATA / "hf/qwen3_moe"
    tensors = {name: np.frombuffer(content, np.uint16).reshape(shape)
               for name, (_, shape, content) in stored_tensors(hf / "model.safetensors").items()}
    experts = 1 + max(int(name.split("experts.")[1].split(".")[0]) for name in tensors if "experts." in name)
    for prefix in {name.split("experts.")[0] + "experts." for name in tensors if "experts." in name}:
        part = lambda e, kind: tensors.pop(f"{prefix}{e}.{kind}.weight")  # noqa: E731
        gate_up = [np.concatenate([part(e, "gate_proj"), part(e, "up_proj")]) for e in range(experts)]
        tensors[f"{prefix}gate_up_proj"] = np.stack(gate_up)
        tensors[f"{prefix}down_proj"] = np.stack([part(e, "down_proj") for e in range(experts)])
    (tmp_path / "stacked").mkdir()
    shutil.copy(hf / "config.json", tmp_path / "stacked")
    save_file({n: t.view(ml_dtypes.bfloat16) for n, t in tensors.items()}, tmp_path / "stacked/model.safetensors")
    assert manifest_of(run, tmp_path / "stacked") == manifest_of(run, hf)


def flip(file, tensor, byte=0):
    content = bytearray(file.read_bytes())
    length = int.from_bytes(content[:8], "little")
    begin = json.loads(content[8:8 + length])[tensor]["data_offsets"][0]
    content[8 + length + begin + byte] ^= 1
    file.write_bytes(content)


def test_one_changed_bit_is_named(run, model, tmp_path):
    hf = model("qwen2")
    (tmp_path / "m.json").write_text(manifest_of(run, hf))
    assert run("verify", hf, tmp_path / "m.json").returncode == 0
    flip(hf / "model.safetensors", "model.layers.1.mlp.up_proj.weight", 77)
    status, report, _ = verify_json(run, hf, tmp_path / "m.json")
    assert status == 1 and [c["id"] for c in report["causes"]] == ["unexplained"]
    (row,) = [r for r in report["results"] if r["status"] != "match"]
    assert row["hf"][0]["name"] == row["megatron"]["name"] == "model.layers.1.mlp.up_proj.weight"
    now = stored_tensors(hf / "model.safetensors")["model.layers.1.mlp.up_proj.weight"][2]
    assert row["xxh3"] == xxhash.xxh3_128_hexdigest(now) and row["xxh3"] in row["why"]
    assert run("verify", hf, tmp_path / "m.json", "--level", "L0").returncode == 0


def edited(run, tmp_path, name, change):
    document = json.loads(manifest_of(run, DATA / "hf" / name))
    change(document["tensors"])
    file = tmp_path / "edited.json"
    file.write_text(json.dumps(document))
    return file


@pytest.mark.parametrize("level", ["L0", "L1"])
@pytest.mark.parametrize("change,cause,status", [
    (lambda t: t.pop(3), "tensor-extra", "extra"),
    (lambda t: t.append({**t[0], "name": "model.more"}), "tensor-missing", "missing"),
    (lambda t: t[0].update(shape=[1, *t[0]["shape"]]), "shape-mismatch", "mismatch"),
    (lambda t: t[0].update(dtype="fp32"), "dtype-rounded", "mismatch"),
])
def test_what_differs_is_named(run, tmp_path, level, change, cause, status):
    file = edited(run, tmp_path, "qwen2", change)
    code, report, _ = verify_json(run, DATA / "hf/qwen2", file, "--level", level)
    assert code == 1 and [c["id"] for c in report["causes"]] == [cause], report["causes"]
    assert [r["status"] for r in report["results"] if not r["status"].startswith("match")] == [status]
    assert report["level"] == level


@pytest.mark.parametrize("a,b,cause", [
    ("model.layers.0.mlp.experts.0.up_proj.weight", "model.layers.0.mlp.experts.1.up_proj.weight", "expert-order"),
    ("model.layers.0.self_attn.k_proj.weight", "model.layers.1.self_attn.k_proj.weight", "layer-offset"),
    ("model.layers.0.self_attn.k_proj.weight", "model.layers.0.self_attn.v_proj.weight", "stale"),
])
def test_swapped_tensors_are_recognised_by_their_hashes(run, tmp_path, a, b, cause):
    def swap(tensors):
        one, two = (next(t for t in tensors if t["name"] == name) for name in (a, b))
        one["xxh3"], two["xxh3"] = two["xxh3"], one["xxh3"]

    status, report, _ = verify_json(run, DATA / "hf/qwen3_moe", edited(run, tmp_path, "qwen3_moe", swap))
    assert status == 1 and [(c["id"], c["proof"]) for c in report["causes"]] == [(cause, "exact")]
    assert report["counts"]["failed"] == 2


def test_a_checkpoint_that_lacks_a_tensor_is_judged_all_the_same(run, tmp_path):
    hf = DATA / "hf_fp32/llama_tied"
    (tmp_path / "m.json").write_text(manifest_of(run, hf))
    (tmp_path / "less").mkdir()
    shutil.copy(hf / "config.json", tmp_path / "less")
    tensors = load_file(hf / "model.safetensors")
    tensors.pop("model.layers.1.mlp.down_proj.weight")
    save_file(tensors, tmp_path / "less/model.safetensors")
    status, report, _ = verify_json(run, tmp_path / "less", tmp_path / "m.json")
    assert status == 1 and [c["id"] for c in report["causes"]] == ["tensor-missing"]
    assert report["counts"]["failed"] == 1 and report["counts"]["passed"] == len(tensors)
    assert run("manifest", tmp_path / "less").returncode == 1


def test_a_redundant_head_is_verified_and_not_listed(run, tmp_path):
    hf = DATA / "hf_fp32/llama_tied"
    tensors = load_file(hf / "model.safetensors")
    (tmp_path / "head").mkdir()
    shutil.copy(hf / "config.json", tmp_path / "head")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
    save_file(tensors, tmp_path / "head/model.safetensors")
    assert manifest_of(run, tmp_path / "head") == manifest_of(run, hf)
    assert "lm_head.weight is not listed" in run("manifest", tmp_path / "head").stderr
    tensors["lm_head.weight"][0, 0] += 1
    save_file(tensors, tmp_path / "head/model.safetensors")
    result = run("manifest", tmp_path / "head")
    assert result.returncode == 1 and "must equal" in result.stderr and result.stdout == ""


GOOD = {"name": "a", "shape": [2], "dtype": "bf16", "xxh3": "0" * 32}


def document(*tensors, **changes):
    return json.dumps({"schema": "weighbridge.manifest/1", "family": "llama", "tensors": list(tensors)} | changes)


HOSTILE = {
    "empty": "", "no json": "PK\x03\x04", "cut off": document(GOOD)[:-9], "a list": "[]", "null": "null",
    "no tensors": document(), "no schema": '{"tensors": []}', "another schema": document(GOOD, schema="x/2"),
    "a schema that is a number": document(GOOD, schema=1), "tensors that are text": document(tensors="x"),
    "a tensor that is text": document("x"), "a name twice": document(GOOD, GOOD), "no name": document(GOOD | {"name": ""}),
    "a name that is a number": document(GOOD | {"name": 3}), "a negative extent": document(GOOD | {"shape": [-1]}),
    "an extent that is text": document(GOOD | {"shape": ["2"]}), "too many elements": document(GOOD | {"shape": [2**40] * 2}),
    "an extent beyond 64 bits": document(GOOD | {"shape": [2**70]}), "many axes": document(GOOD | {"shape": [1] * 1000}),
    "a short hash": document(GOOD | {"xxh3": "0" * 31}), "an upper-case hash": document(GOOD | {"xxh3": "A" * 32}),
    "a hash that is no hex": document(GOOD | {"xxh3": "g" * 32}), "no hash": document({**GOOD, "xxh3": ""}),
    "an unknown dtype": document(GOOD | {"dtype": "bf17"}), "no shape": document({k: v for k, v in GOOD.items() if k != "shape"}),
    "also no list": document(GOOD | {"also": {}}), "also without dtype": document(GOOD | {"also": [{"xxh3": "0" * 32}]}),
    "endless also": document(GOOD | {"also": [{"dtype": "fp32", "xxh3": "0" * 32}] * 1000}),
    "stored as text": document(GOOD | {"stored": "fp8"}), "stored without tensors": document(GOOD | {"stored": {"scheme": "fp8"}}),
    "stored without a scheme": document(GOOD | {"stored": {"tensors": [GOOD]}}),
    "stored tensors that are text": document(GOOD | {"stored": {"scheme": "fp8", "tensors": "x"}}),
    "a stored tensor that is text": document(GOOD | {"stored": {"scheme": "fp8", "tensors": ["x"]}}),
    "a stored tensor without a name": document(GOOD | {"stored": {"scheme": "fp8", "tensors": [{**GOOD, "name": ""}]}}),
    "a stored tensor without a hash": document(GOOD | {"stored": {"scheme": "fp8", "tensors": [{**GOOD, "xxh3": ""}]}}),
    "a stored tensor of too many elements": document(
        GOOD | {"stored": {"scheme": "fp8", "tensors": [GOOD | {"shape": [2**40] * 2}]}}),
    "endless stored tensors": document(GOOD | {"stored": {"scheme": "fp8", "tensors": [GOOD] * 1000}}),
    "stored without end": document(GOOD | {"stored": {"scheme": "fp8", "tensors": [GOOD]}})[:-5],
    "deep nesting": '{"schema": "weighbridge.manifest/1", "x": ' + "[" * 100000, "followed by more": document(GOOD) + "{}",
    "not UTF-8": document(GOOD).replace('"a"', '"\udcff"'), "a report": '{"schema": "weighbridge.report/1", "results": []}',
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_manifest_is_an_error_and_no_judgement(run, tmp_path, name):
    file = tmp_path / "hostile.json"
    file.write_bytes(HOSTILE[name].encode("utf-8", "surrogateescape"))
    result = run("verify", DATA / "hf/llama_tied", file)
    assert result.returncode == 2 and "error: the manifest " in result.stderr, result.stdout + result.stderr
    assert "hostile.json" in result.stderr


def test_a_manifest_of_other_tensors_fails_and_names_them(run, tmp_path):
    (tmp_path / "m.json").write_text(document(GOOD))
    status, report, _ = verify_json(run, DATA / "hf/llama_tied", tmp_path / "m.json")
    assert status == 1 and {c["id"] for c in report["causes"]} == {"tensor-missing", "tensor-extra"}
    assert report["counts"]["passed"] == 0


def test_outputs_never_overwrite_what_is_read(run, model, tmp_path):
    hf = model("llama_tied")
    before = (hf / "model.safetensors").read_bytes()
    for target in (hf / "model.safetensors", hf / "config.json"):
        result = run("manifest", hf, "-o", target)
        assert result.returncode == 2 and "overwrite" in result.stderr
    assert (hf / "model.safetensors").read_bytes() == before
    (tmp_path / "m.json").write_text(manifest_of(run, hf))
    result = run("verify", hf, tmp_path / "m.json", "--json", tmp_path / "m.json")
    assert result.returncode == 2 and "overwrite" in result.stderr
    assert run("verify", hf, tmp_path / "m.json").returncode == 0


def test_usage_errors_say_what_to_do(run, tmp_path):
    hf = DATA / "hf/llama_tied"
    (tmp_path / "m.json").write_text(manifest_of(run, hf))
    for arguments, said in ((["verify", hf, tmp_path / "m.json", "--ranks"], "--ranks"),
                            (["verify", hf, tmp_path / "m.json", "--strict-padding"], "--strict-padding"),
                            (["verify", hf, tmp_path / "none.json"], "no such"),
                            (["manifest", tmp_path / "none"], "none"),
                            (["manifest", hf, "-o", tmp_path / "no/folder.json"], "folder")):
        result = run(*arguments)
        assert result.returncode == 2 and said in result.stderr, (arguments, result.stderr)


@pytest.mark.skipif(os.environ.get("WEIGHBRIDGE_QUICK") == "1", reason="WEIGHBRIDGE_QUICK=1")
def test_a_large_manifest_is_read_in_little_time(run, tmp_path):
    lines = ",".join(json.dumps(GOOD | {"name": f"model.layers.{i}.weight"}) for i in range(200_000))
    (tmp_path / "m.json").write_text('{"schema": "weighbridge.manifest/1", "family": "x", "tensors": [%s]}' % lines)
    result = run("verify", DATA / "hf/llama_tied", tmp_path / "m.json", timeout=60)
    assert result.returncode == 1 and "200000 tensor(s) of the manifest" in result.stdout
