"""What `families list` says of the families, and the page of docs that is made from it."""
import json

# The Bridge has these as a part of a model with vision.
WITHIN_ANOTHER = ["ministral3"]


def listed(run):
    return {row["family"]: row for row in json.loads(run("families", "list", "--json").stdout)}


def test_the_page_of_docs_is_what_the_command_prints(run, project):
    result = run("families", "list", "--markdown")
    assert result.returncode == 0, result.stderr
    assert result.stdout == (project / "docs/family-table.md").read_text(), \
        "run: weighbridge families list --markdown > docs/family-table.md"


def test_families_are_marked_as_the_bridges_or_as_our_own(run, project):
    bridge = set(json.loads((project / "tests/testdata/bridge_architectures.json").read_text())["architectures"])
    for name, row in listed(run).items():
        expected = "bridge" if name in WITHIN_ANOTHER or bridge & set(row["architectures"]) else "own"
        assert row["mapping"] == expected, name


def test_more_than_twelve_families_are_beyond_the_bridge(run):
    own = [name for name, row in listed(run).items() if row["mapping"] == "own"]
    assert len(own) >= 24
    assert {"mixtral", "qwen2_moe", "llama4_text", "glm4", "dots1", "olmo2", "phi3", "internlm3"} <= set(own)


def test_levels_are_those_that_a_family_has(run):
    """Without the engine: whether `compare` knows the family's models is said of the family alone."""
    rows = listed(run)
    # Of the last two the text model lies in a thinker, and an indexer chooses keys.
    for name in ("llama", "qwen2_audio", "qwen3_omni_moe", "glm_moe_dsa"):
        assert rows[name]["levels"] == ["L0", "L1", "L2"], name
    # No description of what its config computes; a score in the place of the head; no text model.
    for name in ("gemma4", "qwen3_5_token_classification", "flux"):
        assert rows[name]["levels"] == ["L0", "L1"], name


def test_list_takes_one_form_of_output(run):
    result = run("families", "list", "--markdown", "--json")
    assert result.returncode == 2
    assert "--markdown" in result.stderr


def test_mapping_of_a_family_is_one_of_two_words(run, tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text('schema = 1\nfamily = "mine"\nmapping = "mine"\nextends = ["base_gpt", "base_gqa"]\n'
                    'hf_architectures = ["MineForCausalLM"]\n')
    result = run("families", "lint", file)
    assert result.returncode == 2
    assert "'mapping' is \"bridge\" or \"own\"" in result.stderr
    assert "mine.toml:3:1" in result.stderr
