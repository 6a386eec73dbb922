"""export without --like: transformers loads the derived config.json into the model that the source is."""
import pytest

from conftest import ROOT

DATA = ROOT / "tests/testdata"
PAIRS = sorted(f"{path.parents[2].name}/{path.parents[1].name}"
               for path in (DATA / "megatron").glob("*/*/iter_*/run_config.yaml"))
# The Megatron side of this one has an MTP layer that its HF source lacks.
PAIRS = [pair for pair in PAIRS if not pair.startswith("deepseek_v3/")]


@pytest.fixture(scope="module")
def logits():
    import torch
    import transformers
    ids = torch.randint(3, 380, (2, 24), generator=torch.Generator().manual_seed(7))

    def call(folder):
        """(class, {name: shape}, logits) of a Hugging Face folder, as transformers loads it."""
        model, info = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
        with torch.no_grad():
            out = model.eval()(ids, use_cache=False).logits
        return type(model), {name: tuple(t.shape) for name, t in model.state_dict().items()}, out

    return call


@pytest.mark.parametrize("pair", PAIRS)
def test_a_derived_config_is_the_model_that_was_converted(weighbridge, logits, tmp_path, pair):
    import torch
    name, kind = pair.split("/")
    source = DATA / ("hf" if kind.endswith("bf16") else "hf_fp32") / name
    result = weighbridge("export", DATA / "megatron" / pair, tmp_path / "out")
    assert result.returncode == 0, result.stderr
    assert "derived from run_config.yaml" in result.stderr
    assert (tmp_path / "out/model.safetensors").read_bytes() == (source / "model.safetensors").read_bytes()
    ours, theirs = logits(tmp_path / "out"), logits(source)
    assert ours[0] is theirs[0] and ours[1] == theirs[1]
    assert torch.equal(ours[2], theirs[2])
