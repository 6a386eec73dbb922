#!/usr/bin/env python3
"""Writes which layers Megatron-Core puts on which pipeline stage: tests/testdata/known/pipeline.json.

  make_pipeline_answers.py [OUT]

Asks the real functions (TransformerConfig's own checks, get_num_layers_to_build, get_transformer_layer_offset,
get_mtp_num_layers_to_build, has_final_layernorm_in_this_stage, PipelineParallelLayerLayout) for each case. Runs in the oracle
environment; needs no GPU and no process group. A case is refused when the library raises, or when what it answers
does not place every layer exactly once (it does not check every combination itself).
"""
import importlib.metadata
import itertools
import json
import os
import random
import sys
import types

from megatron.core import parallel_state
from megatron.core.transformer import transformer_block
from megatron.core.transformer.enums import LayerType
from megatron.core.transformer.multi_token_prediction import get_mtp_num_layers_to_build
from megatron.core.transformer.pipeline_parallel_layer_layout import PipelineParallelLayerLayout
from megatron.core.transformer.transformer_block import TransformerBlock, get_num_layers_to_build
from megatron.core.transformer.transformer_config import TransformerConfig
from megatron.core.transformer.transformer_layer import get_transformer_layer_offset

FIELDS = ["layers", "mtp", "pp", "vpp", "first", "last", "embedding", "loss", "layout"]


def split(layers, mtp=0, pp=1, vpp=1, first=None, last=None, embedding=False, loss=False, layout=None):
    return [layers, mtp, pp, vpp, first, last, embedding, loss, layout]


def config_of(case):
    layers, mtp, pp, vpp, first, last, embedding, loss, layout = case
    import torch
    return TransformerConfig(num_layers=layers, hidden_size=8, num_attention_heads=1,
                             mtp_num_layers=mtp or None, pipeline_model_parallel_size=pp,
                             virtual_pipeline_model_parallel_size=vpp if vpp > 1 else None,
                             num_layers_in_first_pipeline_stage=first, num_layers_in_last_pipeline_stage=last,
                             account_for_embedding_in_pipeline_split=embedding,
                             account_for_loss_in_pipeline_split=loss, pipeline_model_parallel_layout=layout,
                             pipeline_dtype=torch.bfloat16)


def final_norm(config, first, count, last_chunk):
    block = types.SimpleNamespace(config=config, post_process=last_chunk, post_layer_norm=True,
                                  submodules=types.SimpleNamespace(layer_norm=True),
                                  layers=[types.SimpleNamespace(layer_number=first + i + 1) for i in range(count)])
    return bool(TransformerBlock.has_final_layernorm_in_this_stage(block))


def stages_of(case):
    """[decoder layers, first decoder layer, MTP layers, final norm] of each chunk, vpp outer, pp inner."""
    layers, mtp, pp, vpp = case[:4]
    config = config_of(case)
    real_vpp = config.virtual_pipeline_model_parallel_size
    if real_vpp is not None and pp == 1:  # what parallel_state.initialize_model_parallel raises; it needs a process group
        raise AssertionError("pipeline-model-parallel size should be greater than 1 with interleaved schedule")
    if (real_vpp or 1) != vpp:
        raise AssertionError(f"the layout has vpp {real_vpp}, the grid {vpp}")
    parallel_state.get_virtual_pipeline_model_parallel_world_size = lambda: real_vpp
    stages = []
    for v, p in itertools.product(range(vpp), range(pp)):
        parallel_state.get_pipeline_model_parallel_rank = lambda p=p: p
        parallel_state.is_pipeline_first_stage = lambda *a, p=p, v=v, **k: p == 0 and v == 0
        parallel_state.is_pipeline_last_stage = lambda *a, p=p, v=v, **k: p == pp - 1 and v == vpp - 1
        stage = v if real_vpp is not None else None
        count = get_num_layers_to_build(config, vp_stage=stage, pp_rank=p)
        offset = get_transformer_layer_offset(config, vp_stage=stage, pp_rank=p)
        heads = get_mtp_num_layers_to_build(config, vp_stage=stage, pp_rank=p) if mtp else 0
        last = p == pp - 1 and v == vpp - 1
        stages.append([count, offset, heads, final_norm(config, offset, max(count, 0), last)])
    placed = [i for count, offset, _, _ in stages for i in range(offset, offset + count)]
    if placed != list(range(layers)) or sum(s[2] for s in stages) != mtp or any(s[0] < 0 for s in stages):
        raise AssertionError("the answers do not place every layer once")
    return stages


def text_of(string):
    names = {LayerType.embedding: "E", LayerType.decoder: "t", LayerType.mtp: "m", LayerType.loss: "L"}
    return ["".join(names[x] for x in stage) for stage in PipelineParallelLayerLayout.parse_str_to_list(string)]


def cases():
    for layers, pp, vpp in itertools.product((1, 3, 4, 6, 8, 12), (1, 2, 3, 4), (1, 2, 3)):
        yield split(layers, pp=pp, vpp=vpp)
    for layers, pp, vpp, flags in itertools.product((1, 2, 3, 5, 6, 7, 8), (1, 2, 4), (1, 2),
                                                    ((True, False), (False, True), (True, True))):
        yield split(layers, pp=pp, vpp=vpp, embedding=flags[0], loss=flags[1])
    # The library lets a single stage be "uneven"; it is then the even one. Left out.
    for layers, pp, vpp in itertools.product((4, 6, 8, 10), (2, 3, 4), (1, 2)):
        for first, last in ((1, None), (2, None), (None, 1), (None, 2), (2, 2), (1, 3), (4, 2), (3, 3), (0, None), (12, None)):
            yield split(layers, pp=pp, vpp=vpp, first=first, last=last)
    for layers, mtp, pp, vpp in itertools.product((2, 4), (1, 2), (1, 2), (1, 2)):
        yield split(layers, mtp, pp, vpp)
    for first, flags in ((2, (True, False)), (None, (True, True))):
        yield split(6, 1, 2, 1, first=first, embedding=flags[0], loss=flags[1])
    layouts = ["Et|tL", "Et*3|(tt|)*2,m|L", "E|(t|)*4L", "E|t|t|t|t|L", "Ett|ttL", "E|tt|tt|L", "Et|tt|t|L", "Ettt|tL",
               "Ettttm|L", "Etttt|mL", "Ett|ttmL", "Ett|tt|m|L", "Ett|tt|mm|L", "Ett|ttm|m|L", "Ett|tm|tt|L", "Em|tt|tt|L",
               "Et|t|tm|tL", "Et|t|t|tmL", "Et|tm|t|tL", "Ett|||ttL", "|Ett|tt|L", "Ett|tt|L|", "Ett|tt|LL", "EEtt|tt|L|",
               "tE|tttL", "Ett|tLt", "Ett|t|t", "tt|ttL", "Et|t|t|t|m|L", "Et|ttt|m|L", "E|t*4|m|L"]
    for layout, mtp, pp, vpp in itertools.product(layouts, (0, 1, 2), (1, 2, 3, 4), (1, 2, 3)):
        if len(layout.split("|")) % pp == 0 or pp == 2:
            if (layout.count("m") == mtp) or mtp == 0:
                yield split(4, mtp, pp, vpp, layout=layout)
    yield split(4, pp=2, layout="Ett|ttL", first=2)
    yield split(4, pp=2, layout="Ett|ttL", loss=True)


def strings(rng):
    fixed = ["", "E", "|", "E|", "||", "Et*3|(tt|)*2,m|L", "Et|*2tL", "E(t|)*0L", "t*0", "(t)*0", "t*2*3", "(t|)*2*2", "((t)*2|)*2",
             "(t", "t)", "()*3", "(,)*3", "(t)", "(t)*", "t*", "*", "*2", "**2", "E t", " Et", "Et\n", "e", "T", "x", "E;t", "t*02", "t*-1",
             "t*+1", "t*1.5", "(t*2|)*3", "(t|t*2|)*2", "E,t,|,t,L", ",", "E(t)*3(m|)*2L", "(E|(t)*2|L)*2", "((t)*2", "(t*2))*2",
             "t*10", "(tt|)*29", "Ettt|(tt|)*29,m|L", "E|*3L", "(|)*3", "(t)*2t*2", "(t)*1t", "t*12", "(t*1)*2", "(t*)*2", "*t*2", "m*3L",
             "(t)*2*", "|*0", "E\u00e9t", "t\u00d72"]
    yield from fixed
    for _ in range(260):
        yield "".join(rng.choice("EttmL||,()**2310 ") for _ in range(rng.randint(1, 9)))


def answer(function, argument):
    try:
        return function(argument)
    except (AssertionError, ValueError, NotImplementedError, IndexError, ZeroDivisionError, TypeError):
        return None


def main():
    default = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../tests/testdata/known/pipeline.json")
    rows = [[case, answer(stages_of, case)] for case in cases()]
    texts = [[text, answer(text_of, text)] for text in strings(random.Random(20260101))]
    head = {"megatron_core": importlib.metadata.version("megatron-core"), "fields": FIELDS,
            "stage": ["decoder layers", "first decoder layer", "mtp layers", "final norm"]}
    with open(sys.argv[1] if len(sys.argv) > 1 else default, "w") as out:
        lines = [json.dumps(head)[:-1] + ', "splits": [']
        lines.append(",\n".join(json.dumps(r, separators=(",", ":")) for r in rows))
        lines.append('], "strings": [')
        lines.append(",\n".join(json.dumps(r, separators=(",", ":")) for r in texts))
        out.write("\n".join(lines) + "\n]}\n")
    print(len(rows), "splits,", sum(r[1] is not None for r in rows), "placed;", len(texts), "strings,",
          sum(t[1] is not None for t in texts), "read")


if __name__ == "__main__":
    main()
