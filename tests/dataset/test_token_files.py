"""Files with a clip's tokens: which axis is time, text files, and codes that are taken out or shifted."""

import numpy as np
import pytest

from motion_llm.dataset.token_files import ALL, Edits, LayoutError, read_motions, read_parts
from motion_llm.streams import ABSENT


def saved(folder, **arrays) -> list:
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", np.asarray(array))
    return [folder / f"{name}.npy" for name in arrays]


def levels(*steps: int, count: int = 4) -> dict[str, np.ndarray]:
    """Arrays (T, count); level k of step t has the code 100 k + t."""
    return {f"c{i}": np.arange(size)[:, None] + 100 * np.arange(count) for i, size in enumerate(steps)}


@pytest.mark.parametrize(("arrays", "fact"), [
    (levels(30, 22, 9), "steps of 4 codes, q0 to q3: 3 files such as c0.npy (30, 4)"),
    (levels(30, count=6), "steps of 6 codes, q0 to q5: 1 file such as c0.npy (30, 6)"),
    (levels(3, 30, 1, count=6), "3 files such as c1.npy (30, 6)"),  # a clip may have fewer steps than levels
    ({"a": levels(30)["c0"][None], "b": levels(5)["c0"]}, "2 files such as a.npy (30, 4)"),  # a batch of one
    ({"a": levels(9)["c0"].astype(np.uint8)}, "1 file such as a.npy (9, 4)"),
])
def test_levels_become_steps_of_a_code_each(tmp_path, arrays, fact):
    motions, facts = read_motions(saved(tmp_path, **arrays), Edits())
    for (motion,), array in zip(motions, arrays.values(), strict=True):
        assert motion.tolist() == array.reshape(-1, array.shape[-1]).tolist()
    assert len(facts) == 1 and facts[0].startswith("arrays (T, levels) taken as ") and fact in facts[0]


@pytest.mark.parametrize(("arrays", "shape"), [
    ({"a": levels(30)["c0"][None], "b": np.arange(9)}, "1 file such as DIR/a.npy (30, 4)"),  # a batch of one
    ({"a": np.arange(9)[None], "b": levels(30)["c0"]}, "1 file such as DIR/b.npy (30, 4)"),  # among others
    ({"a": levels(7, count=5)["c0"], "b": levels(30)["c0"]}, "2 files such as DIR/a.npy (7, 5): longer along the first "
     "axis, probably 7 steps with 5 levels each of a residual quantisation (MoMask); but b.npy is (30, 4), expected 5 "
     "levels in every file"),
    ({"a": levels(7)["c0"], "b": np.arange(8)}, "but b.npy is (8,), expected 4 levels"),
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
    motions, facts = read_motions(paths, Edits(level=ALL))
    assert motions[0][0].tolist() == levels(15)["c0"].tolist() and "arrays (levels, T) taken as steps" in facts[0]
    motions, facts = read_motions(paths, Edits(level=1))
    assert motions[0] == [list(range(100, 115))] and "arrays (levels, T)" in facts[0]
    assert read_motions(paths[:1], Edits(level=1))[0] == motions[:1]  # one file: the shorter axis


@pytest.mark.parametrize(("arrays", "level", "message"), [
    (levels(9), 4, r"--level 4: .*c0.npy has the shape \(9, 4\), expected 0 to 3"),
    ({"a": [[1, 2, 3]], "b": [[1, 2]]}, 0, r"a.npy has the shape \(1, 3\), expected \(T, levels\) with the same"),
    ({"a": [[1, 2]] * 8, "b": [[1, 2, 3]] * 9}, 0, r"a.npy has the shape \(8, 2\), expected \(T, levels\) with the"),
    ({"a": [1, 2, 3]}, 0, r"a file has the shape \(T,\), expected"),
    ({"a": [1, 2, 3]}, ALL, r"--level all: a file has the shape \(T,\), expected"),
    ({"a": [[1, 2, 3]] * 9, "b": [1, 2]}, ALL, r"--level all: .*a.npy is \(9, 3\), and b.npy is \(2,\), expected 3"),
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
    (b"\n", r"of shape \(0,\)"), (b"1 2\n\xff", "a.txt: not UTF-8: byte 0xff at byte offset 4, line 2")])
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


def test_lines_of_a_text_are_steps_of_levels(tmp_path):
    (tmp_path / "a.txt").write_text("1 2\n3, 4\n5 6\n")
    assert read_motions([tmp_path / "a.txt"], Edits())[0][0][0].tolist() == [[1, 2], [3, 4], [5, 6]]


def test_a_token_that_no_number_of_64_bits_holds_is_refused(tmp_path):
    with pytest.raises(LayoutError, match=r"a.npy has the token 18446744073709551614, which is no code"):
        read_motions(saved(tmp_path, a=np.array([[1, 2], [3, 2**64 - 2], [5, 6]], np.uint64)), Edits())


def test_a_step_is_dropped_as_a_whole_and_each_stream_is_shifted(tmp_path):
    steps = np.array([[90, 70], [31, 45], [90, 70], [33, 44]])
    edits = Edits(drop={"q0": frozenset({90}), "q1": frozenset({70, 71})}, subtract={"q0": 30, "q1": 40})
    assert read_motions(saved(tmp_path, a=steps), edits)[0][0][0].tolist() == [[1, 5], [3, 4]]
    assert edits.facts() == [
        "taken out: code 90 of q0 from 1 motion, code 70 of q1 from 1 motion, code 71 of q1 from none, it does not "
        "occur", "30 subtracted from every code of q0: now 1 to 3", "40 subtracted from every code of q1: now 4 to 5"]
    assert read_motions(saved(tmp_path, a=steps), Edits(drop=frozenset({90, 70}), subtract=5))[0][0][0].tolist() == [
        [26, 40], [28, 39]]


@pytest.mark.parametrize(("edits", "message"), [
    (Edits(drop=frozenset({31})), r"a.npy: step 1 is q0 31, q1 45: to take out a part of it would put the streams out"),
    (Edits(drop={"q0": frozenset({90})}), "a.npy: step 0 is q0 90, q1 70: to take out"),
    (Edits(subtract={"q1": 46}), "a.npy has the code 45 of q1, expected 46 or more, to subtract 46"),
    (Edits(subtract={"body": 1}), "names body, .*a.npy has the streams q0, q1"),
    (Edits(level=0, drop={"q0": frozenset({1})}), "names q0, .*a.npy has the streams motion"),
])
def test_edits_that_do_not_fit_the_streams_are_refused(tmp_path, edits, message):
    with pytest.raises(LayoutError, match=message):
        read_motions(saved(tmp_path, a=[[90, 70], [31, 45], [33, 48]]), edits)


# Named streams


def parts_of(folder, **clips) -> dict:
    """clips: name -> stream -> its codes; the files that read_parts() takes."""
    made = {}
    for name, streams in clips.items():
        made[name] = {}
        for stream, codes in streams.items():
            (folder / stream).mkdir(exist_ok=True)
            np.save(folder / stream / f"{name}.npy", np.asarray(codes))
            made[name][stream] = folder / stream / f"{name}.npy"
    return made


def test_parts_are_put_together_step_by_step_and_what_is_missing_is_counted(tmp_path):
    clips = parts_of(tmp_path, a={"feet": [[4, 5, 6]], "face": [7, 8, 9]}, b={"face": [1, 2]},
                     c={"feet": [1, 2, 3], "face": [1, 2]}, d={"feet": [[1], [2]]})
    parts = read_parts(clips, ("face", "feet"), Edits(subtract=1))
    assert parts.names == ("face", "feet")
    assert {name: [steps.tolist() for steps in motions] for name, motions in parts.motions.items()} == {
        "a": [[[6, 3], [7, 4], [8, 5]]], "b": [[[0, ABSENT], [1, ABSENT]]], "d": [[[ABSENT, 0], [ABSENT, 1]]]}
    assert parts.missing == {"face": ["d"], "feet": ["b"]} and parts.unequal == ["c: feet 3, face 2"]


def test_several_motions_and_a_level_of_each_part(tmp_path):
    clips = parts_of(tmp_path, a={"feet": [[1, 2, 3], [4, 5, 6]], "face": [[7, 8, 9], [1, 2, 3]]},
                     b={"feet": [[1, 2, 3]], "face": [[7, 8, 9], [1, 2, 3]]})
    parts = read_parts(clips, (), Edits())
    assert [steps.tolist() for steps in parts.motions["a"]] == [[[1, 7], [2, 8], [3, 9]], [[4, 1], [5, 2], [6, 3]]]
    assert parts.unequal == ["b: feet 3, face (2, 3)"]
    assert parts.facts == ["feet: arrays (n, T) taken as n motions each: 1 file such as a.npy (2, 3)",
                           "face: arrays (n, T) taken as n motions each: 2 files such as a.npy (2, 3)"]
    clips = parts_of(tmp_path, a={"feet": levels(9)["c0"], "face": levels(9, count=3)["c0"]})
    with pytest.raises(LayoutError, match=r"feet/a.npy \(9, 4\): .*expected one code a step of each named stream"):
        read_parts(clips, (), Edits())
    assert read_parts(clips, (), Edits(level=2)).motions["a"][0][:2].tolist() == [[200, 200], [201, 201]]


def test_an_archive_has_an_array_for_each_stream(tmp_path):
    np.savez(tmp_path / "a.npz", feet=[1, 2], face=np.array([[3, 4]], np.uint16))
    np.savez_compressed(tmp_path / "b.npz", face=[5])
    parts = read_parts({"a": tmp_path / "a.npz", "b": tmp_path / "b.npz"}, (), Edits())
    assert parts.names == ("feet", "face") and parts.missing == {"feet": ["b"], "face": []}
    assert [parts.motions[name][0].tolist() for name in "ab"] == [[[1, 3], [2, 4]], [[ABSENT, 5]]]


@pytest.mark.parametrize(("arrays", "message"), [
    ({"a b": [1]}, "a.npz: an array is called 'a b', which cannot be a stream: expected no spaces"),
    ({"feet": [1.5]}, r"a.npz: feet holds float64 of shape \(1,\), expected integers"),
    ({"feet": [3], "face": [-1]}, "a.npz: face has the token -1"),
    ({"feet": np.array([{}], object)}, "a.npz: feet is pickled, which is not read"),
    ({}, "a.npz: no arrays, expected one of integers for each stream"),
])
def test_archives_of_anything_else_are_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(LayoutError, match=message):
        read_parts({"a": tmp_path / "a.npz"}, (), Edits())


def test_a_stream_that_no_clip_has_is_refused(tmp_path):
    with pytest.raises(LayoutError, match="no clip has the stream feet: leave it out"):
        read_parts(parts_of(tmp_path, a={"face": [1]}), ("face", "feet"), Edits())
