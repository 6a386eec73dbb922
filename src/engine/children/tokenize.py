"""Text to token ids, as transformers makes them: beside a tokenizer.json its own template alone adds special tokens, what
tokenizer_config.json says of them counts for nothing, and its truncation and padding are left out.

Request: {"model": folder, "texts": [...]}; reply: {"ids": [[...], ...], "versions": {...}}.
"""


def work(request):
    tokenizers = need("tokenizers")
    tokenizer = tokenizers.Tokenizer.from_file(os.path.join(request["model"], "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return {"ids": [tokenizer.encode(text).ids for text in request["texts"]], "versions": versions("tokenizers")}


answer(work)
