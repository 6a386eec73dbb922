"""No family file repeats another: what two of them share stands in a base_* file that both extend."""
import pathlib

FAMILIES = pathlib.Path(__file__).resolve().parents[2] / "families"
# Shorter runs are rules that look alike, such as two weights of one shape.
LONGEST = 10


def telling_lines(path):
    """Lines that say something: (number, text), without headers of lists and where a rule stands."""
    for number, line in enumerate(path.read_text().splitlines(), 1):
        text = line.strip()
        if text and not text.startswith(("#", "[[", "stack =", "place =", "schema =", "abstract =")):
            yield number, text


def repeated(folder):
    """Of each pair of files that share a run, where the first run begins."""
    first, found = {}, {}
    for path in sorted(folder.glob("*.toml")):
        lines = list(telling_lines(path))
        for i in range(len(lines) - LONGEST + 1):
            run = tuple(text for _, text in lines[i:i + LONGEST])
            name, number = first.setdefault(run, (path.name, lines[i][0]))
            if name != path.name:
                found.setdefault((name, path.name), f"{name}:{number} and {path.name}:{lines[i][0]}")
    return list(found.values())


def test_no_family_file_repeats_another():
    assert len(list(FAMILIES.glob("*.toml"))) > 100
    assert repeated(FAMILIES) == []


def test_a_copy_is_found(tmp_path):
    text = (FAMILIES / "base_vision_mlp.toml").read_text()
    (tmp_path / "one.toml").write_text(text)
    (tmp_path / "two.toml").write_text("# another\n" + text)
    assert repeated(tmp_path) == ["one.toml:4 and two.toml:5"]
