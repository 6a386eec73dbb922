"""Hidden states and logits of the real megatron-core, in float32 on the CPU, from a checkpoint that it loads itself.

Request: {"checkpoint": iteration folder, "fields": {...}, "provider": class, "layers": function, "vocabulary": rows of the
embedding, "output": tokens, "threads": N, "batches": [{"ids": [[...]], "file": path}, ...]}; reply: {"versions": {...},
"made_by": ...}. Each file is a recording: input_ids, meg_hidden_I_sbh (0 the embedding, I the output of layer I, counted
from 1), meg_logits.

Where the Bridge and a Transformer Engine that computes on the CPU are installed, the Bridge builds the model out of
run_config.yaml; else megatron-core's own modules (its local spec) are built from the fields of the config.
"""
import pickle
import socket
import types

# Fused kernels, which no CPU has; no weight and no formula depends on them.
FUSIONS = ("gradient_accumulation_fusion", "masked_softmax_fusion", "bias_activation_fusion", "bias_dropout_fusion",
           "apply_rope_fusion", "cross_entropy_loss_fusion", "moe_permute_fusion", "moe_router_fusion",
           "persist_layer_norm", "use_mamba_mem_eff_path", "use_fused_weighted_squared_relu")
# What runs otherwise on one CPU than where it was trained, without another result.
ON_ONE_CPU = {
    **dict.fromkeys(("tensor_model_parallel_size", "pipeline_model_parallel_size", "context_parallel_size",
                     "expert_model_parallel_size", "expert_tensor_parallel_size"), 1),
    **dict.fromkeys(("sequence_parallel", "enable_cuda_graph", "external_cuda_graph", "cpu_offloading", "bf16", "fp16",
                     "perform_initialization", "tp_comm_overlap", "moe_enable_deepep", "moe_shared_expert_overlap",
                     "deterministic_mode", "account_for_embedding_in_pipeline_split", "account_for_loss_in_pipeline_split",
                     "calculate_per_token_loss"), False),
    **dict.fromkeys(("virtual_pipeline_model_parallel_size", "pipeline_model_parallel_layout", "recompute_granularity",
                     "recompute_method", "recompute_num_layers", "fp8", "fp4", "moe_expert_capacity_factor",
                     "num_layers_in_first_pipeline_stage", "num_layers_in_last_pipeline_stage")),
    "attention_dropout": 0.0, "hidden_dropout": 0.0, "use_cpu_initialization": True, "cuda_graph_impl": "none",
    "moe_token_dispatcher_type": "allgather"}


# -- megatron-core without a GPU --

class NoStream:
    """Stands for a stream or an event of CUDA."""

    def __init__(self, *_, **__):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return False

    def __getattr__(self, _):
        return lambda *_, **__: None


def without_cuda(torch):
    """Replaces what megatron-core calls of torch.cuda whether or not there is one."""
    cuda = torch.cuda
    cuda.current_device = lambda: 0
    cuda.set_device = cuda.synchronize = lambda *_, **__: None
    cuda.get_rng_state = lambda *_, **__: torch.empty(0, dtype=torch.uint8)
    cuda.get_device_capability = lambda *_, **__: (9, 0)
    cuda.get_device_properties = lambda *_, **__: types.SimpleNamespace(
        major=9, minor=0, multi_processor_count=1, name="cpu", total_memory=1 << 34)
    cuda.Stream = cuda.Event = NoStream
    cuda.current_stream = cuda.stream = lambda *_, **__: NoStream()
    from megatron.core.tensor_parallel.random import CudaRNGStatesTracker
    CudaRNGStatesTracker.fork = lambda *_, **__: contextlib.nullcontext()


def on_the_cpu(torch):
    """A mode in which whatever names a device of CUDA gets the CPU."""
    from torch.overrides import TorchFunctionMode

    def moved(device):
        if isinstance(device, bool) or not isinstance(device, (int, str, torch.device)):
            return device
        wanted = "cuda" if isinstance(device, int) else torch.device(device).type
        return torch.device("cpu") if wanted == "cuda" else device

    class OnTheCpu(TorchFunctionMode):
        def __torch_function__(self, function, _, arguments=(), options=None):
            options = dict(options or {})
            if options.get("device") is not None:
                options["device"] = moved(options["device"])
            if function is torch.Tensor.cuda:
                return arguments[0]
            if function is torch.Tensor.to and len(arguments) > 1 and isinstance(arguments[1], (int, str, torch.device)):
                arguments = (arguments[0], moved(arguments[1]), *arguments[2:])
            return function(*arguments, **options)

    return OnTheCpu()


def one_process(torch):
    """A process group of one, and Megatron's parallel state."""
    from megatron.core import parallel_state
    with socket.socket() as s:
        s.bind(("localhost", 0))
        address = f"tcp://localhost:{s.getsockname()[1]}"
    torch.distributed.init_process_group("gloo", init_method=address, rank=0, world_size=1)
    parallel_state.initialize_model_parallel()


# -- files of a checkpoint are data --

PLAIN = {"builtins": {"set", "frozenset", "slice", "complex", "bytearray", "range", "int", "float", "bool", "str", "list",
                      "dict", "tuple", "bytes", "object"},
         "collections": {"OrderedDict", "deque", "defaultdict"}, "io": {"BytesIO"}, "argparse": {"Namespace"},
         "copyreg": {"_reconstructor"}, "_codecs": {"encode"}, "types": {"SimpleNamespace"},
         "pathlib": {"Path", "PosixPath", "PurePosixPath", "PurePath"}, "pathlib._local": {"PosixPath"},
         "torch": {"Size", "device", "Tensor"}, "torch.serialization": {"_get_layout"},
         "torch._utils": {"_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter"},
         "torch.storage": {"TypedStorage", "UntypedStorage"}}
RECORDS = ("torch.distributed.checkpoint.metadata", "torch.distributed.checkpoint.filesystem",
           "torch.distributed.checkpoint.planner", "megatron.core.dist_checkpointing.mapping")


def only_data(torch):
    """Pickles of the checkpoint may name what holds data, and nothing else: torch reads .metadata with plain pickle."""

    class OnlyData(pickle.Unpickler):
        def find_class(self, module, name):
            found = super().find_class(module, name) if "." not in name and module in sys.modules else None
            allowed = name in PLAIN.get(module, ()) or (
                module == "torch" and isinstance(found, (torch.dtype, torch.layout)) or
                module == "torch" and name.endswith("Storage") or
                isinstance(found, type) and (module in RECORDS or module.startswith("megatron.core.")))
            if not allowed:
                raise Failure(f"a file of the checkpoint asks for {module}.{name}, which is no data",
                              "`weighbridge inspect` shows what the checkpoint holds", "pickle-code")
            return super().find_class(module, name)

    def load(file, **options):
        return OnlyData(file, **options).load()

    def loads(data, **options):
        import io
        return OnlyData(io.BytesIO(data), **options).load()

    pickle.Unpickler, pickle.load, pickle.loads = OnlyData, load, loads


# -- the model --

def engine_computes(torch):
    """Whether a Transformer Engine is installed that runs without a GPU."""
    try:
        import transformer_engine.pytorch as te
        norm = te.RMSNorm(8)
        return bool(norm(torch.ones(1, 8)).isfinite().all())
    except Exception:
        return False


def with_bridge(torch, request):
    """The model as the Bridge builds and loads it; None where the Bridge is not installed or run_config.yaml is absent."""
    if not os.path.exists(os.path.join(request["checkpoint"], "run_config.yaml")):
        return None
    try:
        from megatron.bridge.training import model_load_save
    except ImportError:
        return None
    config, _ = model_load_save.load_model_config(request["checkpoint"])
    for name in FUSIONS:
        if hasattr(config, name):
            setattr(config, name, False)
    for name, value in ON_ONE_CPU.items():
        if hasattr(config, name) and name != "moe_token_dispatcher_type":
            setattr(config, name, value)
    config.params_dtype = config.pipeline_dtype = config.autocast_dtype = torch.float32
    only_data(torch)
    parts = model_load_save.build_and_load_model(request["checkpoint"], config, use_cpu_init=True, skip_temp_dist_context=True)
    return parts[0] if isinstance(parts, list) else parts


PLAIN_PROVIDERS = ("GPTModelProvider", "MLAModelProvider")
PLAIN_LAYERS = ("default_layer_spec", "local_layer_spec", "transformer_engine_layer_spec", "get_gpt_decoder_block_spec",
                "get_gpt_layer_local_spec", "get_gpt_layer_with_transformer_engine_spec")


def only_plain(request):
    """Refuses what only code of the Bridge builds."""
    provider, layers = (request[key].rsplit(".", 1)[-1] for key in ("provider", "layers"))
    other = [name for name, plain in ((layers, PLAIN_LAYERS), (provider, PLAIN_PROVIDERS)) if name and name not in plain]
    if other:
        raise Failure(f"this model is built by {other[0]} of Megatron Bridge, which needs Transformer Engine",
                      "install megatron-bridge and a transformer-engine that runs on this machine's CPU, or record the run "
                      "where it is made and give it as --candidate FILE", "original-unsupported")


def activation(torch, fields):
    named = str(fields.get("activation_func", ""))
    known = {"silu": torch.nn.functional.silu, "gelu": torch.nn.functional.gelu, "relu": torch.nn.functional.relu}
    core = importlib.import_module("megatron.core.activations")
    short = named.rsplit(".", 1)[-1]
    found = known.get(short) or {"squared_relu": core.squared_relu, "quick_gelu": core.quick_gelu,
                                 "fast_gelu": core.fast_gelu}.get(short)
    if found is None:
        raise Failure(f"the activation {named!r} is none that this knows", id="original-unsupported")
    return found


# How it was trained and run; no result depends on it.
NOT_OF_THE_MODEL = ("attention_backend", "cuda_graph_scope", "cuda_graph_modules", "inference_cuda_graph_scope",
                    "transformer_impl", "init_method", "output_layer_init_method", "embedding_init_method")
# Norms that Transformer Engine's linear layers hold, and their names beside a linear layer.
FUSED_NORMS = (("self_attention.linear_qkv.layer_norm_", "input_layernorm."),
               ("mlp.linear_fc1.layer_norm_", "pre_mlp_layernorm."),
               ("self_attention.linear_q_up_proj.layer_norm_", "self_attention.q_layernorm."),
               ("self_attention.linear_kv_up_proj.layer_norm_", "self_attention.kv_layernorm."))


def saved_as(dist_checkpointing, checkpoint):
    """How the tensors were laid out when they were saved; None where the writer did not say."""
    common = dist_checkpointing.load_common_state_dict(checkpoint)
    return dist_checkpointing.load_content_metadata(preloaded_state_dict=common)


def rename(tensors, stored):
    """A norm that the checkpoint has under the name of the other layer spec is read from there."""
    for tensor in tensors:
        key = getattr(tensor, "key", None)
        if key is None or key in stored:
            continue
        for pair in (*FUSED_NORMS, *((b, a) for a, b in FUSED_NORMS)):
            if (other := key.replace(*pair)) in stored:
                tensor.key = other
                break


def with_core(torch, request):
    """GPTModel of megatron-core's own modules, loaded by megatron-core."""
    import dataclasses

    from megatron.core import dist_checkpointing
    from megatron.core.models.gpt import GPTModel
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_decoder_block_spec
    from megatron.core.transformer.transformer_config import MLATransformerConfig, TransformerConfig
    only_plain(request)
    fields = {**request["fields"], **ON_ONE_CPU, **dict.fromkeys(FUSIONS, False)}
    kind = MLATransformerConfig if fields.get("multi_latent_attention") else TransformerConfig
    known = {field.name for field in dataclasses.fields(kind) if field.init}
    chosen = {name: value for name, value in fields.items() if name in known and value is not None and
              isinstance(value, (bool, int, float, str, list))}
    chosen.update(activation_func=activation(torch, fields), params_dtype=torch.float32, pipeline_dtype=torch.float32,
                  autocast_dtype=torch.float32, moe_grouped_gemm=False)
    for name in NOT_OF_THE_MODEL:
        chosen.pop(name, None)
    if not fields.get("num_moe_experts"):
        chosen.pop("moe_layer_freq", None)
        chosen.pop("moe_token_dispatcher_type", None)
    config = kind(**chosen)
    if fields.get("yarn_rotary_scaling_factor") is not None:
        for name, value in fields.items():
            if name.startswith("yarn_"):  # read from the config, of which they are no fields
                setattr(config, name, value)
    scaling = {} if not fields.get("rope_scaling") else {"rope_scaling": True,
                                                         "rope_scaling_factor": fields.get("rope_scaling_factor", 8.0)}
    model = GPTModel(config, get_gpt_decoder_block_spec(config, use_transformer_engine=False),
                     vocab_size=request["vocabulary"], max_sequence_length=fields.get("seq_length") or 4096,
                     share_embeddings_and_output_weights=bool(fields.get("share_embeddings_and_output_weights")),
                     position_embedding_type=fields.get("position_embedding_type", "rope"),
                     rotary_percent=fields.get("rotary_percent", 1.0), rotary_base=fields.get("rotary_base", 10000),
                     seq_len_interpolation_factor=fields.get("seq_len_interpolation_factor"), **scaling)
    only_data(torch)
    sharded = model.sharded_state_dict(metadata=saved_as(dist_checkpointing, request["checkpoint"]))
    sharded = {key: value for key, value in sharded.items() if not key.endswith("_extra_state")}
    rename(sharded.values(), dist_checkpointing.load_tensors_metadata(request["checkpoint"]))
    state = dist_checkpointing.load(sharded, request["checkpoint"], strict="log_unexpected")
    tensors = {key: value for key, value in state.items() if isinstance(value, torch.Tensor)}
    left = model.load_state_dict(tensors, strict=False)
    missing = [key for key in left.missing_keys if not key.endswith("_extra_state")]
    if missing or left.unexpected_keys:
        raise Failure(f"megatron-core's model and the checkpoint have other tensors: {[*missing, *left.unexpected_keys][:3]}")
    return model


def unwrapped(model):
    while hasattr(model, "module"):
        model = model.module
    return model


def decoder_of(model):
    """The module with .decoder, below what sees."""
    for _ in range(4):
        if hasattr(model, "decoder"):
            return model
        model = next((getattr(model, name) for name in ("language_model", "llm", "thinker") if hasattr(model, name)), None)
    raise Failure("the model that megatron-core builds has no decoder", id="original-unsupported")


def record(torch, model, ids, vocabulary):
    top, states = unwrapped(model).float().eval(), {}
    text = decoder_of(top)

    def keep(index):
        def hook(_, __, out):
            states[f"meg_hidden_{index}_sbh"] = (out[0] if isinstance(out, tuple) else out).float()
        return hook

    hooks = [layer.register_forward_hook(keep(i + 1)) for i, layer in enumerate(text.decoder.layers)]
    if hasattr(text, "embedding"):
        hooks.append(text.embedding.register_forward_hook(keep(0)))
    position = torch.arange(ids.shape[1])[None].expand_as(ids)
    mask = torch.triu(torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool), 1)[None, None]
    with torch.no_grad():
        out = top(ids, position, mask) if top is text else top(input_ids=ids, position_ids=position, attention_mask=None)
    for hook in hooks:
        hook.remove()
    logits = (out[0] if isinstance(out, tuple) else out).float()[..., :vocabulary]
    return {"input_ids": ids, **states, "meg_logits": logits}


def work(request):
    if importlib.util.find_spec("transformer_engine") is None:
        only_plain(request)  # said before the libraries are loaded
    torch = need("torch")
    need("megatron.core", "megatron-core")
    need("safetensors")
    for name in [name for name in os.environ if name.startswith("NVTE_")]:
        del os.environ[name]
    if request["threads"]:
        torch.set_num_threads(request["threads"])
    without_cuda(torch)
    with on_the_cpu(torch):
        one_process(torch)
        model = with_bridge(torch, request) if engine_computes(torch) else None
        by_bridge = model is not None
        if model is None:
            model = with_core(torch, request)
        for batch in request["batches"]:
            ids = torch.tensor(batch["ids"], dtype=torch.int64)
            save_states(record(torch, model, ids, request["output"]), batch["file"])
    packages = ["torch", "megatron-core", *(["megatron-bridge", "transformer-engine"] if by_bridge else [])]
    return {"versions": versions(*packages), "made_by": "Megatron Bridge" if by_bridge else "megatron-core's own modules"}


answer(work)
