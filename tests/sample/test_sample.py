"""The sample data: its files, its clips, and the clips after decoding."""

import collections
import functools
import itertools
import json
import re

import numpy as np
import pytest
from rapidfuzz.distance import Levenshtein

from motion_llm.motion.codec import MotionCodec
from motion_llm.motion.features import features_of
from motion_llm.motion.skeleton import Motion
from motion_llm.sample import build as S
from motion_llm.sample import stick_figure as F

INDEX = {name: i for i, name in enumerate(F.NAMES)}


@functools.cache
def codec():
    return MotionCodec.load(S.CODEC_PATH)


@functools.cache
def clips():
    return S.all_clips()


@functools.cache
def committed():
    """Rows of the committed file, with their codes."""
    rows = json.loads(S.JSON_PATH.read_text(encoding="utf-8"))
    return rows, [tuple(map(int, row["motion_tokens"].split())) for row in rows]


@functools.cache
def takes():
    """[(motion name, joints, decoded joints)] of every take, with the committed codec."""
    return [(name, motion.joints, codec().decode(codec().encode(motion)).joints) for name, _, _, motion in clips()]


def track(joints, name, axis):
    return joints[:, INDEX[name], axis]


def test_the_committed_codec_gives_the_committed_rows(tmp_path):
    S.write_rows(tmp_path / "motion.json", S.to_rows(clips(), codec()))
    assert (tmp_path / "motion.json").read_bytes() == S.JSON_PATH.read_bytes()


def test_a_codec_is_fitted_to_all_clips(monkeypatch):
    monkeypatch.setattr(S, "STEPS", 3)
    fitted = S.fit_codec(clips()[:40])
    assert (fitted.codes, fitted.window, fitted.fps) == (codec().codes, codec().window, codec().fps) == (128, 4, 20)
    assert fitted.quantiser.tensors().keys() == codec().quantiser.tensors().keys()
    assert fitted.layout.skeleton.names == codec().layout.skeleton.names


def test_file_sizes_and_row_shape():
    rows, codes = committed()
    assert S.JSON_PATH.stat().st_size < 300_000
    assert sum(path.stat().st_size for path in S.CODEC_PATH.iterdir()) < 1_200_000
    assert len(S.JSON_PATH.read_text().splitlines()) == len(rows) + 2  # one row a line
    for row in rows:
        assert list(row) == ["text_query", "motion_tokens", "participant_id"]
        assert re.fullmatch(r"\d+( \d+)*", row["motion_tokens"])
        assert row["participant_id"] in S.PARTICIPANTS
    lengths = [len(c) for c in codes]
    assert 8 <= min(lengths) and max(lengths) <= 36 and np.mean(lengths) <= 22


def test_counts_no_two_clips_alike_and_nearly_every_code_used():
    rows, codes = committed()
    per_caption = collections.Counter(row["text_query"] for row in rows)
    assert len(rows) >= 800 and len(per_caption) >= 120
    assert 2 <= min(per_caption.values()) and max(per_caption.values()) <= 9
    assert len(set(codes)) == len(codes)
    used = set(itertools.chain(*codes))  # some codes are only for mirror images
    assert used <= set(range(S.NUM_CODES)) and len(used) >= 0.95 * S.NUM_CODES


def test_a_caption_names_one_motion():
    wordings = [w for motion in S.all_motions() for w in motion.wordings]
    assert len(set(wordings)) == len(wordings)
    assert {"a person walks forward", "a person dances"} <= {row["text_query"] for row in committed()[0]}


def test_clips_of_one_caption_differ_but_less_than_others():
    rows, codes = committed()
    by_caption, motion_of = collections.defaultdict(list), {}
    for row, code in zip(rows, codes, strict=True):
        by_caption[row["text_query"]].append(code)
    for motion in S.all_motions():
        for wording in motion.wordings:
            motion_of[wording] = motion.wordings[0]
    distance = Levenshtein.normalized_distance  # edits / longer length
    within = [distance(a, b) for clips in by_caption.values() for a, b in itertools.combinations(clips, 2)]
    assert 0.25 <= np.median(within) <= 0.50
    nearest = [min(distance(a, b) for b in clips[:i][-3:] + clips[i + 1 :][: 3 - min(i, 3)])
               for clips in by_caption.values() for i, a in enumerate(clips)]  # fmt: skip
    assert 0.15 <= np.median(nearest) <= 0.35
    rng = np.random.RandomState(0)
    names = [motion_of[re.sub("^(a person|someone|the person) ", "", row["text_query"])] for row in rows]
    pairs = rng.randint(len(rows), size=(3000, 2))
    assert np.median([distance(codes[i], codes[j]) for i, j in pairs if names[i] != names[j]]) >= 0.85


def test_length_follows_the_caption_and_the_participant():
    rows, codes = committed()
    lengths, personal = collections.defaultdict(list), collections.defaultdict(list)
    for row, code in zip(rows, codes, strict=True):
        lengths[row["text_query"]].append(len(code))
        personal[row["text_query"], row["participant_id"]].append(len(code))

    def spread(groups):
        return np.mean([np.std(v) / np.mean(v) for v in groups.values() if len(v) > 1])

    assert spread(personal) < spread(lengths) < 0.15
    mean = {caption: np.mean(v) for caption, v in lengths.items()}
    assert mean["a person squats three times"] > 1.5 * mean["a person squats once"]
    assert mean["a person walks forward slowly"] > 1.2 * mean["a person walks forward quickly"]


def test_bone_lengths_are_constant():
    children = np.arange(1, len(F.NAMES))
    parents = np.array(F.PARENTS)[1:]
    bones = [np.linalg.norm(j[:, children] - j[:, parents], axis=-1) for _, j, _ in takes()]
    bones = np.concatenate(bones)
    assert np.ptp(bones, axis=0).max() < 1e-3
    for i, name in enumerate(F.NAMES):  # and the same on both sides
        if name.startswith("left_"):
            assert bones[0, i - 1] == pytest.approx(bones[0, INDEX["right_" + name[5:]] - 1], abs=1e-6)


def test_nothing_sinks_into_the_floor_and_a_walker_does_not_slide():
    for name, joints, _ in takes():
        assert joints[..., 1].min() > -0.1, name
        if name in ("walks forward", "walks backward"):
            ankles = joints[:, [INDEX["left_ankle"], INDEX["right_ankle"]]]
            speed = np.linalg.norm(np.diff(ankles[:, :, [0, 2]], axis=0), axis=-1) * S.FPS
            lower = speed[np.arange(len(speed)), ankles[:-1, :, 1].argmin(1)]
            assert np.median(lower) < 0.12, name  # metres a second; the body moves at about 1


def features(joints):
    return features_of(Motion(joints, S.FPS, codec().layout.skeleton), codec().layout)


def places(joints):
    """Joints (T, 22, 3) relative to the floor under the pelvis and to the heading."""
    return features(joints)[:, 3:].reshape(len(joints), -1, 3)


def test_decoded_joints_are_near():
    errors = []
    for _, joints, decoded in takes():
        a, b = (places(j)[: len(decoded)] for j in (joints, decoded))
        errors.append(np.linalg.norm(a - b, axis=-1).mean())
    assert np.mean(errors) < 0.030 and np.max(errors) < 0.090  # metres


def test_decoding_a_path_keeps_its_length_and_turn():
    for name, joints, decoded in takes():
        if name in ("walks forward", "runs forward", "walks backward"):
            a, b = joints[len(decoded) - 1, 0, 2], decoded[-1, 0, 2]
            assert b == pytest.approx(a, rel=0.3), name


# A check of each motion's decoded joints. The axes are 0: to the left, 1: up, 2: ahead.
def rise(j, name):
    return track(j, name, 1).max() - track(j, "head", 1).min()


def turned(j):
    heading = np.unwrap(np.arctan2(-(j[:, 1] - j[:, 2])[:, 2], (j[:, 1] - j[:, 2])[:, 0]))
    return heading[-1] - heading[0]


def pelvis_drop(j):
    return np.ptp(track(j, "pelvis", 1))


def ahead_of_pelvis(j, name):
    heading = np.arctan2(-(j[:, 1] - j[:, 2])[:, 2], (j[:, 1] - j[:, 2])[:, 0])
    way = j[:, INDEX[name]] - j[:, 0]
    return np.sin(heading) * way[:, 0] + np.cos(heading) * way[:, 2]


SIGNS = {
    "walks forward": lambda j: j[-1, 0, 2] > 2,
    "walks forward slowly": lambda j: 1 < j[-1, 0, 2] < 3,
    "walks forward quickly": lambda j: j[-1, 0, 2] / len(j) * S.FPS > 1.2,
    "walks backward": lambda j: j[-1, 0, 2] < -1.5,
    "runs forward": lambda j: j[-1, 0, 2] / len(j) * S.FPS > 1.9,
    "jogs in place": lambda j: abs(j[-1, 0, 2]) < 0.5 and track(j, "left_foot", 1).max() > 0.15,
    "spins around on the spot": lambda j: turned(j) > 4.5,
    "turns left": lambda j: 1.0 < turned(j) < 2.2,
    "turns right": lambda j: -2.2 < turned(j) < -1.0,
    "walks in a circle to the left": lambda j: turned(j) > 4.5,
    "walks in a circle to the right": lambda j: turned(j) < -4.5,
    "steps sideways to the left": lambda j: j[-1, 0, 0] > 0.6,
    "steps sideways to the right": lambda j: j[-1, 0, 0] < -0.6,
    "waves with the left hand": lambda j: rise(j, "left_wrist") > 0.05 > 0 > rise(j, "right_wrist"),
    "waves with the right hand": lambda j: rise(j, "right_wrist") > 0.05 > 0 > rise(j, "left_wrist"),
    "raises the left arm": lambda j: rise(j, "left_wrist") > 0.05 > 0 > rise(j, "right_wrist"),
    "raises the right arm": lambda j: rise(j, "right_wrist") > 0.05 > 0 > rise(j, "left_wrist"),
    "raises both arms": lambda j: min(rise(j, "left_wrist"), rise(j, "right_wrist")) > 0.1,
    "kicks with the left leg": lambda j: (
        track(j, "left_ankle", 1).max() > 0.4 > track(j, "right_ankle", 1).max()
    ),
    "kicks with the right leg": lambda j: (
        track(j, "right_ankle", 1).max() > 0.4 > track(j, "left_ankle", 1).max()
    ),
    "punches once with the left fist": lambda j: (
        ahead_of_pelvis(j, "left_wrist").max() > ahead_of_pelvis(j, "right_wrist").max() + 0.2
    ),
    "punches once with the right fist": lambda j: (
        ahead_of_pelvis(j, "right_wrist").max() > ahead_of_pelvis(j, "left_wrist").max() + 0.2
    ),
    "leans to the left": lambda j: (track(j, "head", 0) - track(j, "pelvis", 0)).max() > 0.15,
    "leans to the right": lambda j: (track(j, "head", 0) - track(j, "pelvis", 0)).min() < -0.15,
    "squats once": lambda j: pelvis_drop(j) > 0.3 and j[-1, 0, 1] > 0.8,
    "sits down": lambda j: pelvis_drop(j) > 0.3 and j[-1, 0, 1] < 0.65,
    "sits down and stands up": lambda j: pelvis_drop(j) > 0.35 and j[-1, 0, 1] > 0.8,
    "stands up from a chair": lambda j: j[0, 0, 1] < 0.6 and j[-1, 0, 1] > 0.8,
    "jumps once": lambda j: (
        track(j, "left_ankle", 1).max() > 0.18 and track(j, "right_ankle", 1).max() > 0.18
    ),
    "bows": lambda j: track(j, "head", 1).min() < 1.42 and pelvis_drop(j) < 0.1,
    "walks forward and sits down": lambda j: j[-1, 0, 2] > 1.5 and j[-1, 0, 1] < 0.6,
}


@pytest.mark.parametrize("name", SIGNS)
def test_the_motion_is_seen_after_decoding(name):
    results = [bool(SIGNS[name](decoded)) for motion, _, decoded in takes() if motion == name]
    assert len(results) >= 8 and all(results), f"{results.count(False)} of {len(results)} clips"


def test_the_nearest_prototype_of_a_decoded_clip_is_its_motion():
    """A prototype is the mean of a motion's even original takes, stretched to 24 frames; the odd takes are decoded."""

    def stretched(joints):
        rows = features(joints)
        rows[:, :3] *= 0.3
        rows = rows[np.linspace(0, len(rows) - 1, 24).round().astype(int)].ravel()
        return np.append(rows, len(joints) / S.FPS)

    groups = collections.defaultdict(list)
    for name, joints, decoded in takes():
        groups[name].append((stretched(joints), stretched(decoded)))
    names = list(groups)
    prototypes = np.array([np.mean([a for a, _ in groups[n][::2]], axis=0) for n in names])
    pairs = [(n, names[((prototypes - b) ** 2).sum(1).argmin()]) for n in names for _, b in groups[n][1::2]]
    assert np.mean([name == nearest for name, nearest in pairs]) > 0.98
    for name, nearest in pairs:  # never the same motion of the other side
        stems = [re.sub("left|right", "", n) for n in (name, nearest)]
        assert name == nearest or stems[0] != stems[1], f"{name}: {nearest}"


def test_mirrored_motion_is_the_mirror_image():
    by_name = {motion.wordings[0]: motion for motion in S.all_motions()}
    swap = [INDEX[n.replace("left", "*").replace("right", "left").replace("*", "right")] for n in F.NAMES]
    for stem in (
        "waves with the {} hand",
        "kicks with the {} leg",
        "leans to the {}",
        "kneels down on the {} knee",
    ):
        left, right = (by_name[stem.format(side)].parts[0] for side in ("left", "right"))
        a, b = (F.script_channels(part, np.random.RandomState(0), 1.0, 1.0) for part in (left, right))
        a, b = F.channels_to_joints(a), F.channels_to_joints(b)
        np.testing.assert_allclose(a, b[:, swap] * [-1, 1, 1], atol=1e-9)


def test_codes_do_not_depend_on_place_or_heading():
    motion = clips()[0][3]
    turn = F.rotation(np.array([1.0]))[0]
    moved = Motion(motion.joints @ turn.T + [3.0, 0.0, -2.0], motion.fps, motion.skeleton)
    assert codec().encode(moved) == codec().encode(motion)


def test_the_figures_skeleton_is_that_of_its_clips():
    skeleton, joints = F.skeleton(), clips()[0][3].joints[0]
    lengths = np.linalg.norm(joints[1:] - joints[np.array(skeleton.parents)[1:]], axis=-1)
    np.testing.assert_allclose(np.linalg.norm(skeleton.offsets[1:], axis=-1), lengths, atol=1e-9)
