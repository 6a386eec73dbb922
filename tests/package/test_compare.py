"""compare_tensors and compare_state_dicts: exact for every dtype."""
import ml_dtypes
import numpy as np
import pytest

import weighbridge as wb


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "int64", "int8", "uint32", "bool", ml_dtypes.bfloat16,
                                   ml_dtypes.float8_e4m3fn])
def test_one_changed_element_is_found_in_every_dtype(dtype):
    a = (np.arange(60).reshape(3, 4, 5) % 2).astype(dtype)
    b = a.copy()
    assert wb.compare_tensors(a, b) and wb.compare_tensors(a, b).message == "equal"
    b[1, 2, 3] = 1 - int(b[1, 2, 3])
    found = wb.compare_tensors(a, b)
    assert not found and found.mismatched == 1 and found.first_index == [1, 2, 3] and found.max_diff == 1
    with pytest.raises(wb.ParityError, match="1 of 60"):
        found.raise_if_failed()


def test_a_difference_that_float32_cannot_see_is_found():
    a = np.array([2**53], np.int64)
    found = wb.compare_tensors(a, a + 1)
    assert not found and found.mismatched == 1


def test_a_widening_is_equal_and_says_so():
    a = np.arange(8).astype(ml_dtypes.bfloat16)
    found = wb.compare_tensors(a, a.astype(np.float32))
    assert found.ok and not found.dtypes_match


def test_views_that_are_not_contiguous_are_compared_by_value():
    a = np.arange(12).reshape(3, 4)
    assert wb.compare_tensors(a.T, np.ascontiguousarray(a.T))
    assert wb.compare_tensors(a.astype(">i8"), a)
    assert not wb.compare_tensors(a, a.T).shapes_match


def test_nan_equals_only_the_same_bits():
    a = np.array([1, np.nan], np.float32)
    assert wb.compare_tensors(a, a)
    found = wb.compare_tensors(a, np.array([1, 2], np.float32))
    assert not found and found.nan_count == 1


def test_tolerances_are_those_of_allclose():
    a, b = np.array([1.0, 2.0]), np.array([1.001, 2.0])
    assert not wb.compare_tensors(a, b) and wb.compare_tensors(a, b, atol=0.01) and wb.compare_tensors(a, b, rtol=0.01)


def test_state_dicts_print_what_the_usual_helper_prints(capsys):
    a = {"x": np.ones(3, np.float32), "y": np.zeros((2, 2), np.float32)}
    assert wb.compare_state_dicts(a, dict(a))
    assert capsys.readouterr().out == "All 2 parameters match exactly.\n"
    b = {"x": np.full(3, 2, np.float32), "z": np.zeros(1, np.float32)}
    found = wb.compare_state_dicts(a, b)
    said = capsys.readouterr().out
    assert "0 of 1 compared parameters match." in said and "largest max_diff 1 in x" in said
    assert found.missing == ("y",) and found.extra == ("z",) and found.differences[0].name == "x"
    assert wb.compare_state_dicts(a, b, ignore=["*"], verbose=False).compared == 0
    assert capsys.readouterr().out == ""


def test_a_state_dict_may_be_a_path_a_checkpoint_or_a_mapping(model, changed):
    assert wb.compare_state_dicts(model, wb.load(model), verbose=False)
    found = wb.compare_state_dicts(dict(wb.load(model)), changed, verbose=False)
    assert not found.ok and len(found.differences) == 1
    assert not wb.compare_state_dicts({}, {}, verbose=False)
    with pytest.raises(TypeError):
        wb.compare_state_dicts(7, {})


def test_extra_state_is_passed_over():
    a = {"x": np.ones(2, np.float32), "m._extra_state": b"\x80", "n._extra_state": None}
    assert wb.compare_state_dicts(a, {"x": np.ones(2, np.float32)}, verbose=False)


def test_a_dtype_that_nobody_knows_is_refused():
    with pytest.raises(wb.Error, match="object"):
        wb.compare_tensors(np.array([object()]), np.array([1]))


@pytest.mark.parametrize("value", [float("inf"), float("nan"), -1.0])
def test_tolerances_with_which_nothing_can_differ_are_refused(value):
    a = np.zeros(2, np.float32)
    for given in ({"atol": value}, {"rtol": value}):
        with pytest.raises(wb.Error, match="tolerance"):
            wb.compare_tensors(a, a, **given)
        with pytest.raises(wb.Error, match="tolerance"):
            wb.compare_state_dicts({"x": a}, {"x": a}, **given)


def test_what_is_ignored_may_be_one_pattern():
    a = {"w1": np.zeros(2, np.float32), "v": np.ones(1, np.float32)}
    found = wb.compare_state_dicts(a, a | {"w1": np.ones(2, np.float32)}, ignore="w*", verbose=False)
    assert found.ok and found.compared == 1


def test_comparing_a_checkpoint_leaves_what_it_lent_in_place(run, model, tmp_path):
    """What is joined in memory is not given back while somebody holds it."""
    folder = tmp_path / "dist"
    assert run("import", model, folder, "--tp", 2).returncode == 0
    checkpoint = wb.load(folder)
    held = {name: checkpoint.numpy(name) for name in checkpoint}
    before = {name: array.tobytes() for name, array in held.items()}
    assert wb.compare_state_dicts(checkpoint, checkpoint, verbose=False)
    noise = [np.full(array.nbytes, 0xEE, np.uint8) for array in held.values()]  # where memory was given back, it is used again
    assert all(array.tobytes() == before[name] for name, array in held.items()) and noise
