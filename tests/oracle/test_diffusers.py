"""Models that `diffusers` itself writes make the round trip on every grid that fits them; it loads what `toy` makes."""
import pytest
import torch

diffusers = pytest.importorskip("diffusers")

WAN = {"num_attention_heads": 6, "attention_head_dim": 14, "in_channels": 16, "out_channels": 16, "text_dim": 40,
       "freq_dim": 32, "ffn_dim": 88, "num_layers": 3, "rope_max_seq_len": 64}
FLUX = {"in_channels": 16, "num_layers": 2, "num_single_layers": 3, "attention_head_dim": 12, "num_attention_heads": 6,
        "joint_attention_dim": 40, "pooled_projection_dim": 20, "axes_dims_rope": (4, 4, 4), "guidance_embeds": True}
MODELS = {"flux": ("FluxTransformer2DModel", FLUX), "wan": ("WanTransformer3DModel", WAN)}


@pytest.fixture(scope="module")
def save_model(tmp_path_factory):
    """save_model(NAME, DTYPE, **options of save_pretrained) -> a pipeline's folder; each is written once."""
    made = {}

    def save(name, dtype=torch.bfloat16, **options):
        key = (name, dtype, *options.items())
        if key not in made:
            cls, config = MODELS[name]
            torch.manual_seed(7)
            folder = tmp_path_factory.mktemp(name)
            (folder / "model_index.json").write_text("{}")
            getattr(diffusers, cls)(**config).to(dtype).save_pretrained(folder / "transformer", **options)
            made[key] = folder
        return made[key]

    return save


def assert_all_came_back(result, report):
    assert result.returncode == 0, result.stdout + result.stderr
    assert report["verdict"] == "pass"
    assert report["counts"]["total"] == report["counts"]["passed"] > 50


# Flux has no pipeline stages.
GRIDS = [(name, tp, pp) for name in MODELS for tp, pp in [(1, 1), (2, 1), (1, 3), (2, 3)] if name != "flux" or pp == 1]


@pytest.mark.parametrize(("name", "tp", "pp"), GRIDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_model_comes_back_bit_for_bit(save_model, roundtrip, name, dtype, tp, pp):
    assert_all_came_back(*roundtrip(save_model(name, dtype), "--tp", tp, "--pp", pp))


@pytest.mark.parametrize("name", MODELS)
def test_sharded_model_comes_back_bit_for_bit(save_model, roundtrip, name):
    folder = save_model(name, max_shard_size="100KB")
    assert (folder / "transformer" / "diffusion_pytorch_model.safetensors.index.json").exists()
    assert_all_came_back(*roundtrip(folder / "transformer", "--tp", 2))


@pytest.mark.parametrize("name", MODELS)
def test_random_model_loads(weighbridge, tmp_path, name):
    result = weighbridge("toy", tmp_path / "toy", "--family", name)
    assert result.returncode == 0, result.stderr
    cls = getattr(diffusers, MODELS[name][0])
    model, report = cls.from_pretrained(tmp_path / "toy", output_loading_info=True)
    assert not any(report.values()), report
