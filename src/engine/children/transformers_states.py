"""Hidden states and logits of the real transformers, in float32 on the CPU.

Request: {"model": folder, "batches": [{"ids": [[...]], "file": path}, ...]}; reply: {"versions": {...}}. Each file is a
recording: input_ids, hf_hidden_I (0 the embedding, the last one after the final norm), hf_logits.
"""


def load(transformers, torch, folder):
    config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
    named = getattr(transformers, (config.architectures or [""])[0], None)
    thinker = getattr(config, "thinker_config", None)
    if isinstance(thinker, dict):
        # Its class has no thinker: what is in it would count as not said.
        raise Failure(f"transformers {transformers.__version__} has no class for a {config.model_type} with a thinker, as it "
                      "is released; it has other names for what it reads and writes itself",
                      "without --reference our own computation runs, which was held against transformers'", "original-unsupported")
    if thinker is not None:
        # The whole generates only; what reads the tokens is the thinker.
        kind, options = transformers.AutoModelForImageTextToText, {"config": thinker}
    elif isinstance(named, type) and issubclass(named, transformers.PreTrainedModel):
        kind, options = named, {}
    else:
        kind, options = transformers.AutoModelForCausalLM, {"trust_remote_code": False}
        if hasattr(config, "vision_config"):
            kind = transformers.AutoModelForImageTextToText
    model, info = kind.from_pretrained(folder, dtype=torch.float32, local_files_only=True, output_loading_info=True,
                                       **options)
    if info["missing_keys"]:
        raise Failure(f"transformers finds no weights for {len(info['missing_keys'])} tensors of {type(model).__name__}, "
                      f"the first {sorted(info['missing_keys'])[0]}")
    return model.eval()


def work(request):
    torch = need("torch")
    transformers = need("transformers")
    need("safetensors")
    if request["threads"]:
        torch.set_num_threads(request["threads"])
    model = load(transformers, torch, request["model"])
    for batch in request["batches"]:
        ids = torch.tensor(batch["ids"], dtype=torch.int64)
        with torch.no_grad():
            out = model(input_ids=ids, output_hidden_states=True, use_cache=False)
        states = {f"hf_hidden_{i}": state.float() for i, state in enumerate(out.hidden_states)}
        save_states({"input_ids": ids, **states, "hf_logits": out.logits.float()}, batch["file"])
    return {"versions": versions("torch", "transformers"), "made_by": type(model).__name__}


answer(work)
