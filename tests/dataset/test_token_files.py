"""Files with a clip's tokens: which axis is time, text files, and codes that are taken out or shifted."""

import numpy as np
import pytest

from motion_llm.dataset.token_files import Edits, LayoutError, read_motions


def saved(folder, **arrays) -> list:
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", np.asarray(array))
    return [folder / f"{name}.npy" for name in arrays]


def levels(*steps: int, count: int = 4) -> dict[str, np.ndarray]:
    """Arrays (T, count); level k of step t has the code 100 k + t."""
    return {f"c{i}": np.arange(size)[:, None] + 100 * np.arange(count) for i, size in enumerate(steps)}


@pytest.mark.parametrize(("arrays", "shape"), [
    (levels(30, 22, 9), "3 files such as DIR/c0.npy (30, 4): longer along the first axis, probably 30 steps with 4"),
    (levels(30, count=6), "1 file such as DIR/c0.npy (30, 6)"),
    (levels(3, 30, count=6), "1 file such as DIR/c1.npy (30, 6)"),  # a clip may have fewer steps than levels
    ({"a": levels(30)["c0"][None], "b": np.arange(9)}, "1 file such as DIR/a.npy (30, 4)"),  # a batch of one
    ({"a": np.arange(9)[None], "b": levels(30)["c0"]}, "1 file such as DIR/b.npy (30, 4)"),  # among others
])
def test_levels_are_never_taken_for_motions(tmp_path, arrays, shape):
    with pytest.raises(LayoutError) as error:
        read_motions(saved(tmp_path, **arrays), Edits())
    message = str(error.value).replace(str(tmp_path), "DIR")
    assert shape in message and "--level 0 takes the base level" in message and len(message) <= 330


def test_one_level_is_taken_and_said(tmp_path):
    motions, facts = read_motions(saved(tmp_path, **levels(5, 7)), Edits(level=0))
    assert motions == [[[0, 1, 2, 3, 4]], [[0, 1, 2, 3, 4, 5, 6]]]
    assert facts == ["level 0 of 4 taken, the others left: arrays (T, levels) such as c0.npy (5, 4)"]
    assert read_motions(saved(tmp_path, **levels(5, 7)), Edits(level=3))[0][0] == [[300, 301, 302, 303, 304]]
    assert read_motions(saved(tmp_path, **levels(2, 3)), Edits(level=1))[0] == [[[100, 101]], [[100, 101, 102]]]


def test_levels_along_the_first_axis_are_taken_only_when_a_level_is_named(tmp_path):
    paths = saved(tmp_path, **{name: array.T for name, array in levels(15, 17).items()})
    motions, facts = read_motions(paths, Edits())
    assert [len(clip) for clip in motions] == [4, 4]
    assert facts[0] == "arrays (n, T) taken as n motions each: 2 files such as c0.npy (4, 15)" and "--level" in facts[1]
    motions, facts = read_motions(paths, Edits(level=1))
    assert motions[0] == [list(range(100, 115))] and "arrays (levels, T)" in facts[0]
    assert read_motions(paths[:1], Edits(level=1))[0] == motions[:1]  # one file: the shorter axis


@pytest.mark.parametrize(("arrays", "level", "message"), [
    (levels(9), 4, r"--level 4: .*c0.npy has the shape \(9, 4\), expected 0 to 3"),
    ({"a": [[1, 2, 3]], "b": [[1, 2]]}, 0, r"a.npy has the shape \(1, 3\), expected \(T, levels\) with the same"),
    ({"a": [[1, 2]] * 8, "b": [[1, 2, 3]] * 9}, 0, r"a.npy has the shape \(8, 2\), expected \(T, levels\) with the"),
    ({"a": [1, 2, 3]}, 0, r"a file has the shape \(T,\), expected"),
])
def test_a_level_that_there_is_not_is_refused(tmp_path, arrays, level, message):
    with pytest.raises(LayoutError, match=message):
        read_motions(saved(tmp_path, **arrays), Edits(level=level))


def test_several_motions_of_a_clip_are_read_as_such(tmp_path):
    motions, facts = read_motions(saved(tmp_path, a=np.arange(40).reshape(2, 20), b=np.arange(11)[None],
                                        c=np.arange(5)), Edits())
    assert motions == [[list(range(20)), list(range(20, 40))], [list(range(11))], [[0, 1, 2, 3, 4]]]
    assert facts == ["arrays (n, T) taken as n motions each: 1 file such as a.npy (2, 20)"]


def test_many_motions_of_more_codes_than_there_are_levels_are_no_levels(tmp_path):
    assert len(read_motions(saved(tmp_path, a=np.arange(2000).reshape(50, 40)), Edits())[0][0]) == 50


def test_columns_are_one_motion_each(tmp_path):
    assert read_motions(saved(tmp_path, a=[[1], [2], [3]], b=[[4, 5]]), Edits()) == ([[[1, 2, 3]], [[4, 5]]], [])


@pytest.mark.parametrize(("text", "codes"), [
    ("42 18 91", [42, 18, 91]), ("42\n18\n\n91\n", [42, 18, 91]), ("\ufeff42, 18,91,\r\n", [42, 18, 91]), ("7", [7])])
def test_texts_of_codes(tmp_path, text, codes):
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    assert read_motions([tmp_path / "a.txt"], Edits())[0] == [[codes]]


@pytest.mark.parametrize(("content", "message"), [
    (b"42 18\n1 x", r"a.txt: line 2 is '1 x', expected codes"), (b"1 -2", "line 1 is '1 -2'"),
    (b"1.0 2.0", "line 1 is"), (b"1 2\n3", "lines of 1 to 2 codes, expected one line"),
    (b"\n", r"of shape \(0,\)"), (b"1 2\n\xff", "a.txt: not UTF-8: byte 0xff at byte offset 4, line 2"),
    (b"1 2\n3 4\n5 6\n", r"a.txt \(3, 2\): .*probably 3 steps with 2 levels")])
def test_texts_that_are_no_codes_are_refused(tmp_path, content, message):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(LayoutError, match=message):
        read_motions([tmp_path / "a.txt"], Edits())


def test_codes_are_dropped_and_then_the_rest_is_shifted(tmp_path):
    edits = Edits(drop=frozenset({5, 105, 106, 999}), subtract=100)
    motions, _ = read_motions(saved(tmp_path, a=[5, 101, 102, 105], b=[5, 103, 106, 106], c=[105]), edits)
    assert motions == [[[1, 2]], [[3]], []]
    assert edits.facts() == [
        "taken out: code 5 from 2 motions, code 105 from 2 motions, code 106 from 1 motion, code 999 from none, it "
        "does not occur", "100 subtracted from every code: now 1 to 3"]


def test_a_code_below_what_is_subtracted_is_refused_by_name(tmp_path):
    with pytest.raises(LayoutError, match=r"b.npy has the code 99, expected 100 or more"):
        read_motions(saved(tmp_path, a=[100], b=[100, 99]), Edits(subtract=100))
