"""Families without a dump of Megatron's own modules: every parameter, MTP layers included, is one that Megatron Bridge's
registry names, with the same HF tensors (testdata/bridge_names, tools/dump_bridge_names.py)."""
import json
import pathlib
import re

import pytest

TESTDATA = pathlib.Path(__file__).resolve().parents[1] / "testdata"
FAMILIES = sorted(path.stem for path in (TESTDATA / "bridge_names").glob("*.json"))

# Ends of Megatron names that the bridge has no mapping for, each with the reason.
BEYOND = {
    # The registry has the older name, which is read as well.
    "deepseek_v4": ["indexer.linear_weights_proj.weight"],
    # The registry knows tied models only.
    "exaone4": ["output_layer.weight"],
    # A layer that uses other layers' keys and values: the bridge's mapping fills them with zeros.
    "gemma4": ["self_attention.linear_qkv.weight"],
    "gemma4_vl": ["self_attention.linear_qkv.weight"],
    # Layers of mlp_only_layers, which the bridge gives experts.
    "qwen3_next": ["mlp.linear_fc1.layer_norm_weight", "mlp.linear_fc1.weight", "mlp.linear_fc2.weight"],
    "qwen3_omni_moe": ["mlp.linear_fc1.layer_norm_weight", "mlp.linear_fc1.weight", "mlp.linear_fc2.weight"],
    "qwen3_vl_moe": ["mlp.linear_fc1.layer_norm_weight", "mlp.linear_fc1.weight", "mlp.linear_fc2.weight"],
}


def stars(name):
    name = re.sub(r"(?<=\.)[0-9]+(?=\.)", "*", name)
    return re.sub(r"(?<=\.(?:weight))[0-9]+$|(?<=\.(?:bias))[0-9]+$", "*", name)


def subtrees(known):
    """(beginning of Megatron's name, beginning of HF's) of what the bridge copies as a whole ("visual.**")."""
    return [(megatron[:-2], hf[0][:-2]) for megatron, hf in known if megatron.endswith("**")]


def in_subtree(row, trees):
    megatron, hf = row
    return len(hf) == 1 and any(megatron.startswith(m) and hf[0] == h + megatron[len(m):] for m, h in trees)


def expand(run, folder, family):
    """What `families expand` says of the toy config with an MTP layer."""
    made = run("toy", folder / "toy", "--family", family)
    assert made.returncode == 0, made.stderr
    config = json.loads((folder / "toy" / "config.json").read_text())
    for table in (config, config.get("text_config", {})):
        table.update(num_nextn_predict_layers=1, mtp_num_hidden_layers=1)
    (folder / "mtp.json").write_text(json.dumps(config))
    result = run("families", "expand", family, "--config", folder / "mtp.json", "--json")
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_is_one_of_the_bridge(run, tmp_path, family):
    truth = json.loads((TESTDATA / "bridge_names" / f"{family}.json").read_text())
    known = {(megatron, tuple(hf)) for megatron, hf in truth["rows"]}
    params = expand(run, tmp_path, family)["params"]
    assert any("mtp." in p["megatron"] for p in params) or not any("mtp." in megatron for megatron, _ in known)
    beyond = []
    for p in params:
        row = (stars(p["megatron"]), tuple(sorted(stars(hf["name"]) for hf in p["hf"])))
        if row not in known and not in_subtree(row, subtrees(known)) and not any(row[0].endswith(end) for end in BEYOND.get(family, [])):
            beyond.append(row)
    assert sorted(set(beyond)) == []
