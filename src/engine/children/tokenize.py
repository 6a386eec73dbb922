"""Text to token ids, with the special tokens that transformers adds.

Request: {"model": folder, "texts": [...]}; reply: {"ids": [[...], ...], "versions": {...}}.
"""


def tokenizer_config(folder):
    path = os.path.join(folder, "tokenizer_config.json")
    if not os.path.exists(path):
        return {}
    with open(path, encoding="utf-8") as file:
        config = json.load(file)
    return config if isinstance(config, dict) else {}


def special_ids(tokenizer, config, which):
    """The ids of bos or eos where tokenizer_config.json asks for it, else none."""
    token = config.get(f"{which}_token")
    text = token.get("content") if isinstance(token, dict) else token
    if not config.get(f"add_{which}_token") or text is None:
        return []
    found = tokenizer.token_to_id(text)
    if found is None:
        raise Failure(f"tokenizer_config.json asks for the {which} token {text!r}, which tokenizer.json does not have")
    return [found]


def work(request):
    tokenizers = need("tokenizers")
    tokenizer = tokenizers.Tokenizer.from_file(os.path.join(request["model"], "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    config = tokenizer_config(request["model"])
    # Explicit switches of tokenizer_config.json replace the template of tokenizer.json, as in transformers.
    explicit = "add_bos_token" in config or "add_eos_token" in config
    before, after = (special_ids(tokenizer, config, which) if explicit else [] for which in ("bos", "eos"))
    ids = [[*before, *tokenizer.encode(text, add_special_tokens=not explicit).ids, *after] for text in request["texts"]]
    return {"ids": ids, "versions": versions("tokenizers")}


answer(work)
