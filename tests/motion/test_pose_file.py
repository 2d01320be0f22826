"""pose_file.py: points of an image become a figure in metres; gaps are filled or refused. Each test that reads a file
has it from the package pose-format, where that is installed, and from a stand-in with the same members."""

import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from motion_llm.motion.features import Layout
from motion_llm.motion.pose_file import CHEST_HEIGHT, COMPONENTS, HAND, SHOULDERS, read_pose
from motion_llm.motion.skeleton import MotionError

BODY = {  # joint -> (x, y) in pixels of a signer who looks at the camera: the left is at greater x
    "nose": (320, 100), "left_eye": (330, 90), "right_eye": (310, 90), "left_shoulder": (380, 180),
    "right_shoulder": (260, 180), "left_elbow": (400, 280), "right_elbow": (240, 280), "left_wrist": (360, 330),
    "right_wrist": (280, 330), "left_hip": (350, 400), "right_hip": (290, 400), "left_knee": (350, 520),
    "right_knee": (290, 520), "left_ankle": (350, 640), "right_ankle": (290, 640)}
SPELLED = {  # of the three families of points
    "POSE_LANDMARKS": str.upper, "BODY": str,
    "pose_keypoints_2d": lambda name: "Nose" if name == "nose" else name[0].upper() + name.split("_")[1].title()}
FPS, FRAMES = 25.0, 50


class Recording:
    """Points of a signer whose right hand moves up; each joint's values (T, 3) and confidence (T,) can be changed."""

    def __init__(self, family: str = "POSE_LANDMARKS", depth: float = 0.0):
        self.body, *hands = next(names for names in COMPONENTS if names[0] == family)
        self.hands = dict(zip(("left", "right"), hands, strict=True))
        self.family, self.depth = family, bool(depth)
        self.values = {name: np.tile([x, y, 0.0], (FRAMES, 1)) for name, (x, y) in BODY.items()}
        self.values["right_wrist"][:, 1] -= np.arange(FRAMES)
        for side in self.hands:
            for i, joint in enumerate(HAND):
                spread = np.array([4 * (i % 4), 4.0 * (i // 4 + 1), 0])
                self.values[f"{side}_{joint}"] = self.values[f"{side}_wrist"] + (spread if i else 0)
        self.confidence = {name: np.ones(FRAMES) for name in self.values}
        self.people = 1

    def components(self) -> list[tuple[str, list[str], list[str]]]:
        """(name, its points as the file spells them, their joints)"""
        hands = [(self.hands[side], [f"p{i}" for i in range(21)], [f"{side}_{joint}" for joint in HAND])
                 for side in ("left", "right")]
        return [(self.body, [SPELLED[self.family](name) for name in BODY], list(BODY)), *hands]

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """(T, people, N, D), (T, people, N)"""
        joints = [joint for _, _, joints in self.components() for joint in joints]
        data = np.stack([self.values[joint] for joint in joints], 1)[..., :3 if self.depth else 2]
        confidence = np.stack([self.confidence[joint] for joint in joints], 1)
        return np.stack([data] * self.people, 1), np.stack([confidence] * self.people, 1)


@pytest.fixture(params=["package", "stand-in"])
def saved(request, tmp_path, monkeypatch):
    """Saves a Recording; gives the path."""
    def by_package(recording: Recording):
        from pose_format import Pose, PoseHeader  # not at the top, since it may be missing
        from pose_format.numpy import NumPyPoseBody
        from pose_format.pose_header import PoseHeaderComponent, PoseHeaderDimensions

        components = [PoseHeaderComponent(name, points, [(0, 1)], [(255, 0, 0)], "XYZC" if recording.depth else "XYC")
                      for name, points, _ in recording.components()]
        header = PoseHeader(0.2, PoseHeaderDimensions(640, 720, 0), components)
        with (tmp_path / "clip.pose").open("wb") as file:
            Pose(header, NumPyPoseBody(FPS, *recording.arrays())).write(file)
        return tmp_path / "clip.pose"

    def by_stand_in(recording: Recording):
        data, confidence = recording.arrays()
        mask = np.broadcast_to(confidence[..., None] == 0, data.shape)
        pose = SimpleNamespace(
            header=SimpleNamespace(dimensions=SimpleNamespace(width=640, height=720), components=[
                SimpleNamespace(name=name, points=points, format="XYZC" if recording.depth else "XYC")
                for name, points, _ in recording.components()]),
            body=SimpleNamespace(fps=FPS, data=np.ma.masked_array(data, mask), confidence=confidence))
        monkeypatch.setitem(sys.modules, "pose_format", SimpleNamespace(Pose=SimpleNamespace(read=lambda _: pose)))
        (tmp_path / "clip.pose").write_bytes(b"stand-in")
        return tmp_path / "clip.pose"

    if request.param == "package":
        pytest.importorskip("pose_format")
        return by_package
    return by_stand_in


def place(motion, name: str) -> np.ndarray:
    return motion.joints[:, motion.skeleton.names.index(name)]


METRES = SHOULDERS / 120  # the shoulders are 120 pixels apart


@pytest.mark.parametrize("family", SPELLED)
def test_flat_points_stand_upright_in_metres(saved, family, caplog):
    with caplog.at_level("INFO"):
        motion = read_pose(saved(Recording(family)))
    assert motion.fps == FPS and motion.joints.shape == (FRAMES, 1 + 3 + 6 + 42 + 6, 3)
    expected = {name: ((x - 320) * METRES, (180 - y) * METRES + CHEST_HEIGHT, 0) for name, (x, y) in BODY.items()}
    for name in BODY:
        np.testing.assert_allclose(place(motion, name)[0], expected[name], atol=1e-6)
    np.testing.assert_allclose(place(motion, "right_thumb4")[9] - place(motion, "right_wrist")[9],
                               (0, -8 * METRES, 0), atol=1e-6)
    rise = place(motion, "right_index2")[-1] - place(motion, "right_index2")[0]
    np.testing.assert_allclose(rise, (0, (FRAMES - 1) * METRES, 0), atol=1e-6)
    assert motion.skeleton.names[0] == "chest" and Layout.of(motion.skeleton).mirror
    assert "clip.pose: points without depth, placed in the plane z = 0, scaled by 0.003 so that the shoulders are " \
           "0.36 m wide" in caplog.text and "missing" not in caplog.text


def test_legs_are_part_of_the_figure_only_where_they_are_seen(saved):
    recording = Recording()
    recording.confidence["left_ankle"][:] = 0.1
    motion = read_pose(saved(recording))
    assert len(motion.skeleton.names) == 52 and "left_hip" not in motion.skeleton.names


def test_depths_are_in_the_unit_of_x_and_a_hand_is_at_its_wrist(saved, caplog):
    """MediaPipe gives x in pixels, z in image widths, and the z of a hand relative to its own wrist."""
    recording = Recording(depth=True)
    for name, values in recording.values.items():
        values[:, 2] = {"right_wrist": -0.1, "right_hand": 0.01, "right_thumb1": 0.03}.get(name, 0)
    recording.confidence["right_wrist"][3] = 0
    with caplog.at_level("INFO"):
        motion = read_pose(saved(recording))
    assert np.allclose(place(motion, "right_wrist")[:, 2], 0.1 * 640 * METRES)  # towards the camera
    assert np.allclose(place(motion, "right_hand")[:, 2], 0.1 * 640 * METRES)
    assert np.allclose(place(motion, "right_thumb1")[:, 2], 0.08 * 640 * METRES)
    assert np.allclose(place(motion, "nose")[:, 2], 0) and "points with depth scaled" in caplog.text


def test_depths_in_pixels_stay(saved):
    recording = Recording(depth=True)
    recording.values["nose"][:, 2] = -40
    assert np.allclose(place(read_pose(saved(recording)), "nose")[:, 2], 40 * METRES)


def test_short_gaps_are_interpolated_and_said(saved, caplog):
    recording = Recording()
    recording.confidence["right_wrist"][10:16] = 0  # 6 frames, 0.24 s
    recording.values["right_wrist"][10:16] = 0
    recording.confidence["nose"][:3] = 0
    recording.values["nose"][:3] = np.nan
    with caplog.at_level("INFO"):
        motion = read_pose(saved(recording))
    expected = read_pose(saved(Recording()))
    np.testing.assert_allclose(motion.joints, expected.joints, atol=1e-6)  # they move at a constant speed
    assert "9 of 2,850 points were missing and are interpolated" in caplog.text


@pytest.mark.parametrize(("name", "frames", "message"), [
    ("right_wrist", slice(10, 17), "right_wrist is missing in 7 frames from frame 10 on (0.28 s), expected gaps up to"),
    ("left_shoulder", slice(43, None), "left_shoulder is missing in 7 frames from frame 43 on"),
    ("right_index3", slice(None), "right_index3 is seen in no frame"),
])
def test_long_gaps_of_what_is_needed_are_refused(saved, name, frames, message):
    recording = Recording()
    recording.confidence[name][frames] = 0
    with pytest.raises(MotionError, match="clip.pose: " + re.escape(message)):
        read_pose(saved(recording))


def test_the_longest_gap_is_a_parameter(saved):
    recording = Recording()
    recording.confidence["right_wrist"][10:17] = 0
    assert len(read_pose(saved(recording), longest_gap=0.28)) == FRAMES


def test_a_hidden_hand_goes_with_its_wrist(saved, caplog):
    recording = Recording()
    hand = [name for name in recording.values if name.startswith("right_") and name.split("_")[1] in HAND]
    for name in hand:
        recording.confidence[name][20:] = 0
        recording.values[name][20:] = 0
    with caplog.at_level("INFO"):
        motion = read_pose(saved(recording))
    offsets = np.stack([place(motion, name) - place(motion, "right_wrist") for name in hand])
    np.testing.assert_allclose(offsets, np.broadcast_to(offsets[:, :1], offsets.shape), atol=1e-6)
    assert "right hand hidden in 30 of 50 frames" in caplog.text and "left hand" not in caplog.text


def test_what_is_no_figure_of_one_person_is_refused(saved):
    several, flat, face = Recording(), Recording(), Recording()
    several.people = 2
    flat.values["left_shoulder"][:] = flat.values["right_shoulder"]
    face.body = "FACE_LANDMARKS"
    for recording, message in ((several, "2 people are seen, expected one"), (flat, "the shoulders lie on each other"),
                               (face, "components FACE_LANDMARKS, LEFT_HAND_LANDMARKS, RIGHT_HAND_LANDMARKS, expected "
                                      "POSE_LANDMARKS")):
        with pytest.raises(MotionError, match="clip.pose: " + message):
            read_pose(saved(recording))


@pytest.mark.parametrize("saved", ["package"], indirect=True)
def test_a_damaged_file_is_refused(tmp_path, saved):
    path = saved(Recording())
    for content in (b"", b"no pose", path.read_bytes()[:200], path.read_bytes()[:-4]):
        (tmp_path / "bad.pose").write_bytes(content)
        with pytest.raises(MotionError, match="bad.pose: no .pose file, or damaged"):
            read_pose(tmp_path / "bad.pose")


def test_a_missing_package_is_said_in_a_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pose_format", None)
    with pytest.raises(MotionError, match="a.pose: .pose files need the package pose-format .*pip install pose-format"):
        read_pose(tmp_path / "a.pose")
