"""Each flag of a config that changes which tensors `transformers` builds changes them for us as well, or is refused by its name:
never a silent pass of files that lack what the config asks for. Tiny models of test_transformers_models.py on the meta device;
the files hold headers and holes."""
import copy
import json
import struct
import sys

import pytest
import torch

from conftest import ROOT
from test_transformers_models import NAMES, build

sys.path.insert(0, str(ROOT / "tools"))
from dump_hf_names import saved_shapes  # noqa: E402

WORDS = ("bias", "norm", "gate", "gating", "tie", "parallel", "shared", "use_", "has_", "add_", "enable")
# Nothing that a file holds.
IDLE = {"use_cache", "return_dict", "output_attentions", "output_hidden_states", "output_router_logits", "is_encoder_decoder"}
TABLES_ASIDE = {"rope_parameters", "rope_scaling", "id2label", "label2id"}
# The tie of a model of several parts stands in two places, which transformers keeps equal; other tests try both.
IDLE |= {"tie_word_embeddings"}
# Tensors that Megatron's model has not: they may be there or not, and `roundtrip` says why none is read.
NOT_NEEDED = {
    "gemma3_vl": {"vision_config.vision_use_head"},  # SigLIP's pooling head
    "qwen2_5_omni": {"enable_audio_output"},  # the talker
}


def plain_config(name):
    """(architecture, config.json) of a tiny model, every key written out."""
    with torch.device("meta"):
        model = build(name, torch.float32)
    text = model.config.to_json_string(use_diff=False)
    config = json.loads(text, object_hook=lambda table: float(table["__float__"]) if "__float__" in table else table)
    return type(model).__name__, {**config, "architectures": [type(model).__name__]}


def changes(table, path=()):
    """(path, other value) of each flag, in nested tables too."""
    for key, value in table.items():
        if isinstance(value, dict):
            if key not in TABLES_ASIDE:
                yield from changes(value, (*path, key))
        elif key in IDLE or key.startswith("_"):
            continue
        elif isinstance(value, bool):
            yield (*path, key), not value
        elif any(word in key for word in WORDS) and (value is None or isinstance(value, int)):
            yield (*path, key), True if value is None else value + 1


def changed(config, path, value):
    config = copy.deepcopy(config)
    table = config
    for key in path[:-1]:
        table = table[key]
    table[path[-1]] = value
    if path[-1] == "use_sliding_window" and value:
        table["sliding_window"] = 16
    return config


def write_headers(folder, shapes):
    """model.safetensors of these float32 tensors, whose bytes are a hole."""
    header, end = {}, 0
    for name, shape in sorted(shapes.items()):
        begin, end = end, end + 4 * torch.Size(shape).numel()
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)


class Judge:
    """What the program says of files with these tensors under that config: (exit status, output)."""

    def __init__(self, weighbridge, folder):
        self.weighbridge, self.folder, self.written = weighbridge, folder, None

    def __call__(self, config, shapes):
        if self.written != shapes:
            write_headers(self.folder, shapes)
            self.written = shapes
        (self.folder / "config.json").write_text(json.dumps(config))
        result = self.weighbridge("roundtrip", self.folder, "--level", "L0")
        return result.returncode, result.stdout + result.stderr


def fault(judge, config, path, base, other, not_needed):
    """What is wrong with the program's answers to the changed config; None where nothing is."""
    old, said = judge(config, base)
    if old == 2 and f"'{path[-1]}'" in said.replace(".".join(path), path[-1]):
        return None  # refused by name
    if other == base:
        return None if old == 0 else f"nothing changes in transformers, here: {said[-600:]}"
    new, said = judge(config, other)
    if new != 0:
        return f"exit status {new} for the files of transformers: {said[-600:]}"
    if old != 1 and not not_needed:
        return f"exit status {old} for files of the other kind"
    return None


@pytest.mark.parametrize("name", NAMES)
def test_a_flag_that_changes_the_tensors_is_followed_or_refused(weighbridge, tmp_path, name):
    architecture, config = plain_config(name)
    base = saved_shapes(architecture, config)
    judge = Judge(weighbridge, tmp_path)
    status, said = judge(config, base)
    assert status == 0, said
    faults = {}
    for path, value in changes(config):
        flipped = changed(config, path, value)
        try:
            other = saved_shapes(architecture, flipped)
        except Exception:  # noqa: BLE001, S112: what transformers cannot build is no model
            continue
        key = ".".join(path)
        wrong = fault(judge, flipped, path, base, other, key in NOT_NEEDED.get(name, ()))
        if wrong:
            faults[f"{key} = {value}"] = wrong
    assert not faults


@pytest.mark.parametrize("name", NAMES)
def test_a_list_of_more_layers_than_the_model_has_is_an_error_with_both_numbers(weighbridge, tmp_path, name):
    architecture, config = plain_config(name)
    shapes = saved_shapes(architecture, config)
    judge = Judge(weighbridge, tmp_path)
    for table, path in tables(config):
        if "talker_config" in path:
            continue  # not in Megatron's model
        layers = table.get("num_hidden_layers")
        for key, value in table.items():
            if key not in ("layer_types", "mlp_layer_types") or not isinstance(value, list) or len(value) != layers:
                continue
            longer = changed(config, (*path, key), [*value, value[-1]])
            try:
                saved_shapes(architecture, longer)
            except Exception:  # noqa: BLE001: whatever transformers calls it
                status, said = judge(longer, shapes)
                assert status != 0 and f"'{key}' has {layers + 1} entries for {layers} layers" in said, said


def tables(config, path=()):
    yield config, path
    for key, value in config.items():
        if isinstance(value, dict) and key not in TABLES_ASIDE:
            yield from tables(value, (*path, key))


def test_sizes_of_a_mamba_mixer_that_contradict_each_other_are_an_error(weighbridge, tmp_path):
    architecture, config = plain_config("falcon_h1")
    shapes = saved_shapes(architecture, config)
    judge = Judge(weighbridge, tmp_path)
    status, said = judge({**config, "mamba_d_head": 999}, shapes)
    assert status != 0 and "'mamba_d_head' is 999, the rest of the config makes it 10" in said
    assert judge({**config, "mamba_d_head": "auto"}, shapes)[0] == 0
