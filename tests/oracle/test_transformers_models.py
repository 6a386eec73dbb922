"""Models that `transformers` itself writes with save_pretrained make the round trip on every grid that fits them."""
import pytest
import torch
import transformers
from safetensors import safe_open

# All sizes differ, so that a transposed, swapped or mis-split tensor cannot fit by accident.
SIZES = {"vocab_size": 386, "hidden_size": 56, "num_hidden_layers": 3, "num_attention_heads": 6,
         "num_key_value_heads": 2, "intermediate_size": 88, "max_position_embeddings": 160, "bos_token_id": 1,
         "eos_token_id": 2, "pad_token_id": 0, "tie_word_embeddings": False}
EXPERTS = {"num_experts_per_tok": 2, "intermediate_size": 40}
CONFIGS = {
    "llama": ("LlamaConfig", {"hidden_size": 48, "head_dim": 12}),
    "llama_tied": ("LlamaConfig", {"hidden_size": 48, "head_dim": 12, "tie_word_embeddings": True}),
    "qwen2": ("Qwen2Config", {"hidden_size": 48}),
    "qwen3": ("Qwen3Config", {"head_dim": 12}),
    "mixtral": ("MixtralConfig", {"head_dim": 12, "num_local_experts": 4, **EXPERTS}),
    "gemma2": ("Gemma2Config", {"hidden_size": 48, "head_dim": 12, "query_pre_attn_scalar": 12, "sliding_window": 16,
                                "tie_word_embeddings": True}),
    "deepseek_v3": ("DeepseekV3Config", {
        "q_lora_rank": 36, "kv_lora_rank": 28, "qk_rope_head_dim": 8, "qk_nope_head_dim": 14, "v_head_dim": 18,
        "num_key_value_heads": 6, "moe_intermediate_size": 32, "n_routed_experts": 4, "n_shared_experts": 1,
        "num_experts_per_tok": 2, "first_k_dense_replace": 1, "n_group": 2, "topk_group": 1,
        "num_nextn_predict_layers": 0}),
    "gpt_oss": ("GptOssConfig", {"head_dim": 12, "num_local_experts": 4, "sliding_window": 16, **EXPERTS}),
}
MIXTURES = ["mixtral", "deepseek_v3", "gpt_oss"]
# [--tp, --pp]; three layers and a pair of key/value heads fit each of them.
GRIDS = [(1, 1), (2, 1), (1, 3), (2, 3)]


@pytest.fixture(scope="module")
def save_model(tmp_path_factory):
    """save_model(NAME, DTYPE, **options of save_pretrained) -> a folder; each is written once."""
    made = {}

    def save(name, dtype=torch.bfloat16, **options):
        key = (name, dtype, *options.items())
        if key not in made:
            config_class, changes = CONFIGS[name]
            torch.manual_seed(7)
            config = getattr(transformers, config_class)(**{**SIZES, **changes})
            model = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype)
            with torch.no_grad():
                for tensor in model.state_dict().values():
                    if tensor.is_floating_point():
                        tensor.add_(torch.randn_like(tensor) * 0.05)
            made[key] = tmp_path_factory.mktemp(name)
            model.save_pretrained(made[key], **options)
        return made[key]

    return save


def names_of(folder):
    """The names of all tensors in the folder's files, read by the safetensors package."""
    names = []
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as tensors:
            names += tensors.keys()
    return sorted(names)


def assert_every_tensor_came_back(folder, result, report):
    assert result.returncode == 0, result.stdout + result.stderr
    assert report["verdict"] == "pass"
    assert report["causes"] == []
    counts = report["counts"]
    assert counts["failed"] == counts["skipped"] == 0
    assert counts["total"] == counts["passed"] == len(report["results"])
    assert sorted(hf["name"] for row in report["results"] for hf in row["hf"]) == names_of(folder)


@pytest.mark.parametrize(("tp", "pp"), GRIDS)
@pytest.mark.parametrize("name", CONFIGS)
def test_bf16_model_comes_back_bit_for_bit(save_model, roundtrip, name, tp, pp):
    folder = save_model(name)
    assert_every_tensor_came_back(folder, *roundtrip(folder, "--tp", tp, "--pp", pp))


@pytest.mark.parametrize("name", CONFIGS)
def test_float32_model_comes_back_bit_for_bit(save_model, roundtrip, name):
    folder = save_model(name, torch.float32)
    assert_every_tensor_came_back(folder, *roundtrip(folder, "--tp", 2, "--pp", 3))


@pytest.mark.parametrize("name", CONFIGS)
def test_sharded_model_comes_back_bit_for_bit(save_model, roundtrip, name):
    folder = save_model(name, max_shard_size="100KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    assert (folder / "model.safetensors.index.json").exists()
    assert_every_tensor_came_back(folder, *roundtrip(folder, "--tp", 2, "--pp", 1))


@pytest.mark.parametrize(("ep", "etp"), [(2, 1), (1, 2), (2, 2)])
@pytest.mark.parametrize("name", MIXTURES)
def test_experts_come_back_from_their_own_grid(save_model, roundtrip, name, ep, etp):
    folder = save_model(name)
    result, report = roundtrip(folder, "--tp", 2, "--ep", ep, "--etp", etp)
    assert_every_tensor_came_back(folder, result, report)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_missing_tensor_is_a_fault(save_model, roundtrip, tmp_path, name):
    from safetensors.torch import load_file, save_file
    folder = save_model(name)
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_bytes((folder / "config.json").read_bytes())
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.self_attn.o_proj.weight"]
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    result, report = roundtrip(broken, "--tp", 1)
    assert result.returncode == 1, result.stdout + result.stderr
    assert report["verdict"] == "fail"
    assert "model.layers.1.self_attn.o_proj.weight" in result.stdout
