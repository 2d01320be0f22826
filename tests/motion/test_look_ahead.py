"""look_ahead.py: what a fit will be is chosen and said before it begins, and what cannot be is refused then."""

import json
import re

import numpy as np
import pytest
from walker import NAMES, PARENTS, WALKER, walk, walks

import codec as script
from motion_llm.motion import codec as codec_module
from motion_llm.motion.bvh import write_bvh
from motion_llm.motion.codec import CodecError, MotionCodec
from motion_llm.motion.look_ahead import Plan, codes_for, held_out_of
from motion_llm.motion.skeleton import Motion, MotionError, Skeleton
from motion_llm.motion.survey import codec_rate, survey


def planned(motions, codes=None, window=4, fps=None, heldout=0.0) -> Plan:
    names = [f"clip {i}" for i in range(len(motions))]
    return Plan.of(survey(motions, names, fps), codes, window, fps, heldout, 0)


def said(motions, max_seq_len=None, **options) -> list[str]:
    return planned(motions, **options).lines([f"clip {i}" for i in range(len(motions))], max_seq_len)


def tall(motion: Motion, factor: float) -> Motion:
    return Motion(motion.joints * factor, motion.fps, Skeleton(NAMES, PARENTS, WALKER.offsets * factor),
                  motion.rotations)


@pytest.mark.parametrize(("rate", "fps"), [
    (120, 30), (100, 25), (60, 30), (50, 25), (48, 24), (144, 24), (240, 30), (59.94, 29.97), (30, 30), (29.97, 29.97),
    (24, 24), (20, 20), (15, 15), (35, 30), (40, 20), (30.01, 30)])
def test_the_rate_of_a_codec_is_a_whole_part_of_that_of_the_clips_from_20_to_30(rate, fps):
    assert codec_rate(rate) == pytest.approx(fps, rel=1e-3)


def test_the_rate_is_that_of_most_clips_unless_it_is_told():
    motions = [walk(100, fps=100), walk(100, fps=100), walk(60, fps=30)]
    assert planned(motions).fps == 25 and planned(motions).lengths == (25, 25, 50)
    assert planned(motions, fps=100).fps == 100


@pytest.mark.parametrize(("windows", "codes"), [(10, 64), (1000, 64), (2076, 128), (4200, 256), (15_500, 512),
                                                (10**6, 512)])
def test_codes_are_chosen_from_how_much_motion_there_is(windows, codes):
    assert codes_for(windows) == codes


def test_fewer_codes_are_chosen_where_clips_hold_few_windows_and_refused_where_they_are_told():
    motions = walks(1, 20)  # 17 windows and those of the mirror image
    assert planned(motions).codes == 34 and planned(walks(3, 20)).codes == 64
    with pytest.raises(CodecError, match="1 motions hold 34 windows .* as many as codes, 35, .* fewer --codes"):
        planned(motions, codes=35)
    assert planned(motions, codes=34).codes == 34
    with pytest.raises(CodecError, match="1 motions hold 0 windows of 4 frames, .* a smaller --window"):
        planned(walks(1, 3))


@pytest.mark.parametrize(("options", "message"), [
    ({"window": 3, "kind": "vqvae"}, "a window of 3 frames"), ({"codes": 40_000, "kind": "kmeans"}, "as many as codes"),
    ({"heldout": 0.7}, "a share of 0.7 of the clips held out"), ({"codes": 1}, "1 codes of 4 frames"),
    ({"kind": "gan"}, "kind of codec 'gan'")])
def test_what_cannot_be_fitted_is_refused_before_features_are_read(monkeypatch, options, message):
    monkeypatch.setattr(codec_module, "features_of", lambda *args: pytest.fail("features are read"))
    with pytest.raises(ValueError, match=message):
        MotionCodec.fit(walks(), **options)


def test_three_lines_say_what_is_there_and_what_was_chosen():
    motions = [walk(1000, fps=100), *[walk(500, fps=100)] * 3]
    assert said(motions, max_seq_len=512) == [
        "figures: 4 clips of one skeleton, 11 joints",
        "frames a second: 100, 25 of them for the codec; 25 seconds of motion",
        "codes: 64, 6.25 a second, each used 2.5 times; the longest clip, clip 0, has 63; a model's row holds 512 "
        "tokens with its caption (MAX_SEQ_LEN), which it fits"]
    assert "(64 would suit so much motion)" in said(motions, codes=32)[2]


def test_a_clip_that_no_row_of_a_model_holds_is_said():
    motions = [walk(6000), walk(60)]
    (line,) = (line for line in said(motions, 512) if "MAX_SEQ_LEN" in line)
    assert "clip 0, has 1500; a model's row holds 512 tokens" in line and "too few for it: caption parts of it" in line


def test_skeletons_are_counted_and_their_bones_compared():
    motions = [tall(walk(), factor) for factor in (1, 1, 1.0002, 1.1)]
    assert said(motions)[0] == ("figures: 4 clips of 2 skeletons (3, 1 clips), 11 joints; their bones are up to 7.3% "
                                "longer or shorter than the mean, to which all are decoded")


def test_rates_of_a_mixed_folder_are_said():
    motions = [walk(60), walk(60), walk(60, fps=120)]
    assert said(motions)[1].startswith("frames a second: 30 (2 clips) and 120 (1 clips), as they are; 4 seconds")


def test_bones_of_rest_poses_that_differ_keep_their_lengths():
    """As of a T-pose and one with the arms down."""
    down = WALKER.offsets.copy()
    down[NAMES.index("left_hand")] = down[NAMES.index("right_hand")] = (0, 0, 0.5)
    motions = [walk(), Motion(walk().joints, 30, Skeleton(NAMES, PARENTS, down))]
    mean = survey(motions, ["a", "b"]).layout.skeleton.offsets
    np.testing.assert_allclose(mean[NAMES.index("left_hand")], np.array((0, -0.5, 0.5)) / 2**0.5, atol=1e-9)


# Held out


def test_few_clips_are_held_out_whole_and_none_of_three():
    assert held_out_of(3, 0.05, 0) == () and held_out_of(57, 0, 0) == ()
    assert [len(held_out_of(count, 0.05, 0)) for count in (4, 12, 57, 400, 9000)] == [1, 3, 5, 20, 100]
    assert held_out_of(57, 0.05, 0) == held_out_of(57, 0.05, 0) != held_out_of(57, 0.05, 1)


def test_held_out_clips_are_not_fitted_and_the_error_on_them_is_said(caplog):
    usual, odd = walks(8), walk(60, arm=80)  # a movement of the other arm that no other clip has
    motions = [*usual, odd]
    held = held_out_of(9, 0.05, 0)
    motions[held[0]], motions[8] = odd, motions[held[0]]
    with caplog.at_level("INFO"):
        codec = MotionCodec.fit(motions, 64, kind="kmeans", heldout=0.05)
    named, line = caplog.messages[-2:]
    assert f"not in the codec: motion {held[0]}, motion {held[1]}; --heldout 0" in named
    held_mm, fitted_mm = (float(text) for text in re.search(
        r"joints off by ([\d.]+) mm on 2 held-out clips, ([\d.]+) mm on 7 clips that it was fitted to \(mean distance "
        r"of the body's joints .*same heading\)$", line).groups())
    errors = {i: codec.error(motion) for i, motion in enumerate(motions)}
    assert held_mm == pytest.approx(1000 * np.mean([errors[i] for i in held]), abs=0.06)
    assert fitted_mm == pytest.approx(1000 * np.mean([error for i, error in errors.items() if i not in held]), abs=0.06)
    assert held_mm > 2 * fitted_mm


def test_an_error_is_that_of_joints_on_the_same_place_and_heading():
    codec = MotionCodec.fit(walks(), 64, kind="kmeans")
    motion = walk()
    far = Motion(walk(start=(5.0, 3.0, 2.0)).joints, 30, WALKER)
    np.testing.assert_allclose(codec.error(far), codec.error(motion), atol=1e-5)
    decoded = codec.decode(codec.encode(motion))
    lifted = Motion(decoded.joints + (0, 0.1, 0), 30, WALKER)
    codec_module_error = codec_module.joint_errors(lifted.joints, decoded.joints, codec.layout)
    np.testing.assert_allclose(codec_module_error, 0.1, atol=1e-9)  # the height counts


def test_fit_holds_some_clips_out_and_three_clips_are_too_few(tmp_path, capsys, caplog):
    for i, motion in enumerate(walks(6)):
        write_bvh(tmp_path / "clips" / f"{i}.bvh", motion)
    flags = ["fit", "--motions", str(tmp_path / "clips"), "--kind", "kmeans"]
    with caplog.at_level("INFO"):
        assert script.main([*flags, "--output", str(tmp_path / "a")]) == 0
    assert caplog.messages[0] == f"{tmp_path / 'clips'}: 6 motion files" and "mm on 1 held-out clips" in caplog.text
    assert "a model's row holds 512 tokens" in caplog.text and json.loads(
        (tmp_path / "a" / "codec.json").read_text())["codes"] == 64
    caplog.clear()
    for i in range(3):
        (tmp_path / "clips" / f"{i}.bvh").unlink()
    with caplog.at_level("INFO"):
        assert script.main([*flags, "--output", str(tmp_path / "b")]) == 0
    assert "mm on 3 clips that it was fitted to" in caplog.text
    assert "3 clips are too few to hold some out" in caplog.text
    assert capsys.readouterr().out.splitlines()[-1] == f"{tmp_path / 'b'}: 64 codes of 4 frames, 7.5 a second"


def test_a_clip_of_one_frame_does_not_stop_a_fit():
    motions = [*walks(6), walk(1), walk(1), walk(1), walk(1)]
    assert MotionCodec.fit(motions, 32, kind="kmeans", heldout=0.5).codes == 32


def test_python_refuses_a_motion_of_another_figure_by_name():
    other = Motion(walk().joints, 30, Skeleton((*NAMES[:-1], "tail"), PARENTS, WALKER.offsets))
    with pytest.raises(MotionError, match=r"motion 1: another figure: it has no right_foot and has tail besides"):
        MotionCodec.fit([walk(), other], kind="kmeans")
