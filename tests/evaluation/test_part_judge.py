"""part_judge.py: joints of parts beside the real clip's, on motions whose differences are known."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from hands import FIGURE, LEFT_HAND, THREE, waves

from motion_llm.evaluation.clips import EvaluationRow
from motion_llm.evaluation.joint_judge import JointJudge
from motion_llm.evaluation.metric_names import MODEL, PART_METRICS
from motion_llm.evaluation.part_judge import WHOLE, PartJudge, anchor_of, parts_of, score_parts
from motion_llm.evaluation.table import ClipSet, Judge
from motion_llm.motion.codec import CodecError, MotionCodec
from motion_llm.streams import ABSENT, Streams

FPS = 10
STREAMS = Streams(("body", "left_hand"), (9, 9))


class Joints:
    """As JointJudge: a clip's first code chooses its poses. codec: of the hands' figure."""

    def __init__(self, codec: MotionCodec, poses: list[np.ndarray], real: list[list[int]]):
        self.codec = SimpleNamespace(layout=codec.layout, streams=STREAMS)
        self._poses, self.real = poses, real

    def decodes(self, clip):
        return bool(clip)

    def poses(self, codes):
        return self._poses[codes[0]]

    def rate(self, codes):
        return FPS


@pytest.fixture(scope="module")
def codec() -> MotionCodec:
    return MotionCodec.fit(waves(3), {"body": 16, "left_hand": 8, "right_hand": 8}, kind="kmeans", parts="hands")


def swing(frames: int, pace: float, joints: int) -> np.ndarray:
    """(T, J, 3): each joint on a circle of its own size, `pace` radians a second; the first one stands still."""
    angle = pace * np.arange(frames)[:, None] / FPS
    size = 0.01 * np.arange(joints)
    return np.stack([size * np.sin(angle), size * np.cos(angle), 0 * angle + size], -1)


def judged(codec, poses: list[np.ndarray], clip=(0, 9), real=(1, 9)) -> PartJudge:
    return PartJudge(Joints(codec, poses, [list(real)]), codec.parts)


def test_a_part_hangs_on_the_joint_of_another_part_above_all_of_it(codec):
    names = [codec.layout.skeleton.names[joint] for joint in codec.layout.body]
    hand = codec.parts["left_hand"]
    assert names[anchor_of(hand, codec.layout)] == "LeftHand" and anchor_of(codec.parts["body"], codec.layout) == 0
    both = [*hand, *codec.parts["right_hand"]]
    assert names[anchor_of(both, codec.layout)] == "Chest"


def test_parts_are_those_of_the_codec_or_those_that_are_told(codec, tmp_path):
    assert parts_of(None, codec) == codec.parts and {**parts_of("hands", codec)}.keys() == codec.parts.keys()
    (tmp_path / "parts.json").write_text(json.dumps(THREE | {"body": THREE["body"][:-1]}))
    with pytest.raises(CodecError, match="no part has RightFoot"):
        parts_of(str(tmp_path / "parts.json"), codec)


def test_a_copy_at_half_speed_has_half_the_speed_and_the_same_spread(codec):
    count = len(codec.layout.body)
    slow, real = swing(127, 0.5, count), swing(64, 1.0, count)  # once around in both
    for part in (WHOLE, "left_hand"):
        values = judged(codec, [slow, real]).values(part, [0, 9], 0)
        assert np.divide(*values["speed_ratio"]) == pytest.approx(0.5, rel=0.01)
        assert np.divide(*values["spread_ratio"]) == pytest.approx(1, rel=0.02)
    small = judged(codec, [0.25 * real, real]).values(WHOLE, [0, 9], 0)
    assert np.divide(*small["speed_ratio"]) == np.divide(*small["spread_ratio"]) == pytest.approx(0.25)


def test_a_hand_that_is_turned_and_a_longer_arm_are_told_apart(codec):
    """The whole hand further out: no error of the hand. Its fingers turned about the wrist: only without alignment."""
    real = np.random.default_rng(0).normal(size=(20, len(codec.layout.body), 3))
    hand = codec.parts["left_hand"]
    wrist = anchor_of(hand, codec.layout)
    far, turned = real.copy(), real.copy()
    far[:, [wrist, *hand]] += [0.3, 0, 0]
    turned[:, hand] = real[:, [wrist]] + (real[:, hand] - real[:, [wrist]]) @ [[0, 1, 0], [-1, 0, 0], [0, 0, 1]]
    moved, rotated = (judged(codec, [poses, real]).values("left_hand", [0, 9], 0) for poses in (far, turned))
    assert moved["dtw_jpe"] == pytest.approx(0, abs=1e-6) and rotated["dtw_jpe"] > 500
    assert rotated["dtw_pa_jpe"] == pytest.approx(0, abs=1e-4)
    assert judged(codec, [far, real]).values(WHOLE, [0, 9], 0)["dtw_jpe"] == pytest.approx(
        300 * (1 + len(hand)) / real.shape[1])


def test_a_part_that_one_of_the_two_clips_lacks_has_no_figures(codec):
    poses = [np.ones((4, len(codec.layout.body), 3))] * 2
    for clip, real in (([0, ABSENT], (1, 9)), ([0, 9], (1, ABSENT)), ([], (1, 9))):
        assert set(judged(codec, poses, real=real).values("left_hand", clip, 0).values()) == {None}
    values = judged(codec, poses, real=(1, ABSENT)).values(WHOLE, [0, 9], 0)
    assert values["dtw_jpe"] == 0 and values["speed_ratio"] is values["spread_ratio"] is None  # nothing moves


def test_ratios_are_of_means_over_clips_so_that_still_ones_do_not_decide(codec):
    """Real clips of speed 1 and 3, both copied at the speed of 1: 2 of 4 in all."""
    count = len(codec.layout.body)
    poses = [swing(40, 1.0, count), swing(40, 3.0, count)]
    rows = [EvaluationRow(i, key, key, [i, 9], None, "seen") for i, key in enumerate("ab")]
    judge = Judge(rows, STREAMS, None, None, 0)
    judge.sets[MODEL] = [ClipSet.of(judge, [[0, 9], [0, 9]])]
    figures = score_parts(judge, PartJudge(Joints(codec, poses, [row.codes for row in rows]), codec.parts))
    ratio = figures[WHOLE][MODEL]["all"]["speed_ratio"]
    assert ratio.value == pytest.approx(0.5, rel=0.02) and ratio.n == 2 and ratio.low < ratio.value < ratio.high
    assert set(figures["body"][MODEL]["unseen"]) == set(PART_METRICS)
    assert figures["body"][MODEL]["unseen"]["dtw_jpe"].n == 0


def test_of_a_real_codec_the_own_clip_has_no_error_in_any_part(codec):
    clip = codec.encode(waves(1)[0])
    parts = PartJudge(JointJudge(codec, [clip]), codec.parts)
    for part in (WHOLE, *codec.parts):
        values = parts.values(part, clip, 0)
        assert values["dtw_jpe"] == 0 and values["dtw_pa_jpe"] == pytest.approx(0, abs=1e-3)
        assert values["speed_ratio"][0] == values["speed_ratio"][1] > 0
    lost = codec.streams.steps(clip)
    lost[:, 1] = ABSENT
    assert parts.values("left_hand", codec.streams.flat(lost).tolist(), 0)["dtw_jpe"] is None
    assert len(codec.parts["left_hand"]) == len(LEFT_HAND) and FIGURE.names[0] == "Hips"
