"""codec.py: encoding and decoding with both quantisers, the codec's folder, its commands, and refusals."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from walker import NAMES, OFFSETS, PARENTS, walk, walks

import data
from codec import main
from motion_llm.motion import kmeans as kmeans_module
from motion_llm.motion.bvh import read_bvh, write_bvh
from motion_llm.motion.captions import encode_captions
from motion_llm.motion.clip_files import MotionFiles
from motion_llm.motion.codec import CodecError, MotionCodec, codec_facts, copy_codec, padded, tokens_of
from motion_llm.motion.features import Layout, features_of
from motion_llm.motion.kmeans import KMeans, kmeans, lloyd
from motion_llm.motion.skeleton import Motion, MotionError, Skeleton
from motion_llm.motion.vqvae import VqVae
from motion_llm.network.code_vectors import codebook_vectors

SMALL = {"steps": 300, "width": 48, "batch": 8}  # a network that trains in seconds


def straight_walks() -> list[Motion]:
    """They differ only in the phase of the legs, so that little training is enough."""
    return [walk(90, turning=0, phase=phase) for phase in range(6)]


@pytest.fixture(scope="module")
def plain() -> MotionCodec:
    return MotionCodec.fit(walks(), codes=128, kind="kmeans")


@pytest.fixture(scope="module")
def learned() -> MotionCodec:
    return MotionCodec.fit(straight_walks(), codes=32, kind="vqvae", **SMALL)


def error_of(codec: MotionCodec, motion: Motion) -> float:
    """Mean distance of joints in metres, relative to the centre and the heading."""
    decoded = codec.decode(codec.encode(motion), codec.frames_of(motion))
    a, b = (features_of(m, codec.layout)[:len(decoded), 3:].reshape(len(decoded), -1, 3) for m in (motion, decoded))
    return float(np.linalg.norm(a - b, axis=-1).mean())


def test_k_means_finds_the_groups_and_uses_every_code():
    rng = np.random.default_rng(0)
    centres = np.array([(0, 0), (10, 0), (0, 10), (10, 10.0)])
    points = np.concatenate([centre + rng.normal(scale=0.1, size=(50, 2)) for centre in centres])
    np.testing.assert_allclose(sorted(kmeans(points, 4, seed=0).round().tolist()), sorted(centres.tolist()))
    unused = np.array([(0, 0), (10, 0), (0, 10), (99, 99.0)])  # the last one has no points
    np.testing.assert_allclose(sorted(lloyd(points, unused).round().tolist()), sorted(centres.tolist()))


def test_of_many_windows_some_are_drawn(monkeypatch):
    calls = []
    monkeypatch.setattr(kmeans_module, "MAX_WINDOWS", 40)
    monkeypatch.setattr(kmeans_module, "kmeans", lambda points, codes, seed: calls.append(points) or points[:codes])
    clips = [np.arange(n * 5.0).reshape(n, 5) + 1000 * n for n in (3, 30, 50)]
    KMeans.fit(clips, 8, 4, 0, None, 20)  # the layout and the rate are for other quantisers
    KMeans.fit(clips, 60, 4, 0, None, 20)
    weights = KMeans(np.zeros((1, 1, 5))).weights
    windows = np.concatenate([kmeans_module.windows_of(clip * weights, 4, 1) for clip in clips])
    assert [len(points) for points in calls] == [40, 60]
    for points in calls:
        assert len({tuple(point) for point in points} & {tuple(window) for window in windows}) == len(points)


def test_k_means_gives_a_motion_back_nearly(plain):
    motion = walk(62, phase=1.0)
    codes = plain.encode(motion)
    assert len(codes) == 16 and all(isinstance(code, int) and 0 <= code < 128 for code in codes)
    assert len(plain.decode(codes)) == 64 and plain.decode(codes).fps == 30
    assert error_of(plain, motion) < 0.03
    assert len(set(codes)) > 5


def test_a_fit_of_the_network_learns(learned):
    untrained = MotionCodec.fit(straight_walks(), codes=32, kind="vqvae", **SMALL | {"steps": 1})
    motion = walk(62, turning=0, phase=1.5)
    assert error_of(learned, motion) < 0.5 * error_of(untrained, motion)
    assert len(set(learned.encode(motion))) > 3


def test_the_network_sees_neighbours_so_codes_do_not_meet_at_seams(learned):
    codes = learned.encode(walk(160))
    first = learned.quantiser.decode(np.array(codes))
    changed = learned.quantiser.decode(np.array([*codes[:20], (codes[20] + 1) % 32, *codes[21:]]))
    moved = np.abs(first - changed).max(1) > 1e-6
    assert moved[79:85].all() and not moved[0] and not moved[-1]


def test_a_fit_is_the_same_again_and_leaves_the_random_numbers_alone():
    before = torch.get_rng_state()
    first, again = (MotionCodec.fit(walks(), codes=32, kind="vqvae", **SMALL | {"steps": 8}) for _ in range(2))
    np.testing.assert_array_equal(again.quantiser.codebook, first.quantiser.codebook)
    assert (torch.get_rng_state() == before).all()


@pytest.mark.parametrize("kind", ["plain", "learned"])
def test_decoded_motions_have_the_figures_bones_and_can_be_written(kind, request, tmp_path):
    codec = request.getfixturevalue(kind)
    motion = codec.decode([3, 1, 4, 1, 5, 9, 2, 6])
    lengths = np.linalg.norm(motion.joints[:, 2:] - motion.joints[:, list(PARENTS[2:])], axis=-1)
    np.testing.assert_allclose(lengths, np.broadcast_to(np.linalg.norm(OFFSETS[2:], axis=-1), lengths.shape), atol=1e-9)
    write_bvh(tmp_path / "clip.bvh", motion)
    again = read_bvh(tmp_path / "clip.bvh")
    assert again.skeleton.names == NAMES and again.fps == 30
    np.testing.assert_allclose(again.joints, motion.joints, atol=1e-5)


def test_the_rest_pose_stands_above_the_origin_wherever_the_clips_begin(tmp_path):
    starts = OFFSETS.copy()
    starts[0], starts[1] = (1, 0, 1), (3, 0.9, -2)  # as in files whose OFFSET is the position in the first frame
    motions = [Motion(motion.joints, motion.fps, Skeleton(NAMES, PARENTS, starts)) for motion in walks()]
    codec = MotionCodec.fit(motions, codes=32, kind="kmeans")
    np.testing.assert_allclose(codec.layout.skeleton.offsets, OFFSETS)
    motion = codec.decode([3, 1, 4])
    np.testing.assert_allclose(motion.joints[0, 1, [0, 2]], 0, atol=1e-9)
    write_bvh(tmp_path / "clip.bvh", motion)
    again = read_bvh(tmp_path / "clip.bvh")
    np.testing.assert_allclose(again.skeleton.offsets, OFFSETS, atol=1e-6)
    np.testing.assert_allclose(again.joints, motion.joints, atol=1e-5)


@pytest.mark.parametrize("kind", ["plain", "learned"])
def test_a_codec_is_the_same_after_saving(kind, request, tmp_path):
    codec = request.getfixturevalue(kind)
    codec.save(tmp_path / "codec")
    again = MotionCodec.load(tmp_path / "codec")
    codes = codec.encode(walk())
    assert again.encode(walk()) == codes and (again.fps, again.window, again.codes) == (30, 4, codec.codes)
    np.testing.assert_allclose(again.decode(codes).joints, codec.decode(codes).joints, atol=1e-5)


def test_a_codec_with_a_file_of_another_or_a_damaged_one_is_refused(plain, learned, tmp_path):
    plain.save(tmp_path / "codec")
    learned.save(tmp_path / "other")
    path = tmp_path / "codec" / "codebook.npz"
    for content in (path.read_bytes()[:-200] + b"x" + path.read_bytes()[-199:],
                    (tmp_path / "other" / "codebook.npz").read_bytes()):
        path.write_bytes(content)
        with pytest.raises(CodecError, match="codebook.npz is not the file that was saved there"):
            MotionCodec.load(tmp_path / "codec")
    (tmp_path / "other" / "weights.safetensors").unlink()
    with pytest.raises(CodecError, match="weights.safetensors is missing"):
        MotionCodec.load(tmp_path / "other")


def test_a_folder_that_a_killed_fit_left_is_no_codec_and_can_be_fitted_into(clips, plain, tmp_path, monkeypatch):
    monkeypatch.setattr("motion_llm.motion.codec.write_json", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        plain.save(tmp_path / "codec")
    monkeypatch.undo()
    assert (tmp_path / "codec" / "codebook.npz").is_file()
    with pytest.raises(CodecError, match="so it is no codec's folder"):
        MotionCodec.load(tmp_path / "codec")
    assert main(["fit", "--motions", str(clips), "--codes", "16", "--kind", "kmeans",
                 "--output", str(tmp_path / "codec")]) == 0
    assert MotionCodec.load(tmp_path / "codec").codes == 16


def test_who_may_read_a_codecs_codebook_may_read_its_weights(learned, tmp_path):
    learned.save(tmp_path)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {
        (tmp_path / "codebook.npz").stat().st_mode & 0o777}


@pytest.mark.parametrize("kind", ["plain", "learned"])
def test_the_shortest_clip_has_one_code(kind, request):
    codec = request.getfixturevalue(kind)
    assert [len(codec.encode(walk(frames))) for frames in (2, 3, 4, 5)] == [1, 1, 1, 2] and len(codec.decode([5])) == 4


def test_other_frame_rates_are_resampled(plain):
    slow, fast = plain.encode(walk(60, fps=30)), plain.encode(walk(240, fps=120))
    assert len(fast) == len(slow) == 15
    assert sum(a == b for a, b in zip(slow, fast, strict=True)) >= 13


def test_the_rate_is_that_of_most_motions_and_can_be_given():
    motions = [walk(60, fps=20), *walks(2)]
    assert MotionCodec.fit(motions, 16, kind="kmeans").fps == 30
    assert MotionCodec.fit(motions, 16, kind="kmeans", fps=20).fps == 20


def test_a_codebook_can_be_used_to_begin_a_models_rows(plain, tmp_path):
    plain.save(tmp_path)
    assert codebook_vectors(tmp_path / "codebook.npz", 128).shape == (128, 4 * Layout.of(walk().skeleton).width)


def test_what_cannot_be_fitted_encoded_or_decoded_is_refused(plain):
    other_figure = Motion(walk().joints, 30, Skeleton((*NAMES[:-1], "tail"), PARENTS, OFFSETS))
    for call, error, message in (
            (lambda: MotionCodec.fit([]), CodecError, "no motions"),
            (lambda: MotionCodec.fit(walks(1), codes=512, kind="kmeans"), CodecError,
             "1 motions hold 114 windows of 4 frames, expected at least as many as codes, 512"),
            (lambda: MotionCodec.fit(walks(), codes=8, kind="kmeans", fps=0), MotionError, "0 frames a second"),
            (lambda: MotionCodec.fit(walks(), codes=1), CodecError, "1 codes of 4 frames"),
            (lambda: MotionCodec.fit(walks(), codes=8, window=3, kind="vqvae"), ValueError, "a window of 3 frames"),
            (lambda: MotionCodec.fit(walks(), codes=8, kind="fsq"), CodecError, "kind of codec 'fsq'"),
            (lambda: MotionCodec.fit([*walks(), other_figure], codes=8, kind="kmeans"), MotionError,
             "another figure"),
            (lambda: plain.encode(other_figure), MotionError, "another figure"),
            (lambda: plain.encode(walk(1)), MotionError, "1 frames at 30 a second, expected at least 2"),
            (lambda: replace(plain, pads=False).encode(walk(3)), MotionError,
             "3 frames at 30 a second, expected at least 4"),
            (lambda: plain.decode([1, 2], 9), CodecError,
             "9 frames (0.3 s) of 2 codes, expected 1 to 8 (0.2667 s)"),
            (lambda: plain.decode([1, 2], 0), CodecError, "0 frames (0 s) of 2 codes"),
            (lambda: plain.decode([]), CodecError, "no tokens to decode"),
            (lambda: plain.decode([1, 128]), CodecError, "code 2 is 128, expected an integer from 0 to 127"),
            (lambda: plain.decode([-1]), CodecError, "code 1 is -1"),
            (lambda: plain.decode([1.0]), CodecError, "code 1 is 1.0"),
            (lambda: tokens_of("4 x"), CodecError, "token 2 is 'x'"),
            (lambda: tokens_of("4 -2"), CodecError, "token 2 is '-2'")):
        with pytest.raises(error, match=re.escape(message)):
            call()


def edit(path: Path, change) -> None:
    path.write_text(change(path.read_text()))


@pytest.mark.parametrize(("file", "change", "message"), [
    ("codec.json", lambda path: path.unlink(), "has no codec.json, so it is no codec's folder"),
    ("codec.json", lambda path: path.write_text("{"), "codec.json is broken"),
    ("codec.json", lambda path: path.write_text("{}"), "codec.json has no 'skeleton'"),
    ("codec.json", lambda path: edit(path, lambda text: text.replace('"fps": 30', '"fps": 0')), "fps is 0"),
    ("codec.json", lambda path: edit(path, lambda text: text.replace(" 0.9,", " NaN,")), "not finite"),
    ("codec.json", lambda path: edit(path, lambda text: text.replace('"vqvae"', '"pickle"')), "kind is 'pickle'"),
    ("codec.json", lambda path: edit(path, lambda text: text.replace('"codes": 32', '"codes": 33')), "33 rows"),
    ("codec.json", lambda path: edit(path, lambda text: text.replace('"window": 4', '"window": 2')), "is none of"),
    ("codec.json", lambda path: edit(path, lambda text: text.replace("   -1,", "   5,")), "damaged: parents"),
    ("codebook.npz", lambda path: path.unlink(), "codebook.npz is missing"),
    ("codebook.npz", lambda path: path.write_bytes(path.read_bytes()[:200]), "codebook.npz is damaged"),
    ("codebook.npz", lambda path: np.savez(path, codebook=np.full((32, 64), np.nan)), "codebook.npz is damaged"),
    ("codebook.npz", lambda path: np.savez(path, other=np.zeros((32, 64))), "codebook.npz is damaged"),
    ("weights.safetensors", lambda path: path.unlink(), "weights.safetensors is missing"),
    ("weights.safetensors", lambda path: path.write_bytes(path.read_bytes()[:-100]), "weights.safetensors is damaged"),
    ("weights.safetensors", lambda path: path.write_bytes(b""), "weights.safetensors is damaged"),
])
def test_a_damaged_folder_is_refused_by_file(learned, tmp_path, file, change, message):
    """Also in a folder from before digests of the files were kept."""
    learned.save(tmp_path)
    MotionCodec.load(tmp_path)
    content = json.loads((tmp_path / "codec.json").read_text())
    del content["files"], content["digest"]
    (tmp_path / "codec.json").write_text(json.dumps(content, indent=1))
    change(tmp_path / file)
    with pytest.raises(CodecError, match=re.escape(str(tmp_path)) + ".*" + re.escape(message)):
        MotionCodec.load(tmp_path)


def test_weights_of_another_network_are_refused(learned, plain):
    tensors, codebook = learned.quantiser.tensors(), learned.quantiser.codebook
    width = learned.layout.width
    for change, message in (({"extra": np.zeros(1, np.float32)}, "tensor extra is none of this network"),
                            ({"mean": tensors["mean"][1:]}, "tensor mean is float32"),
                            ({"mean": tensors["mean"] * np.nan}, "tensor mean holds values that are not finite")):
        with pytest.raises(ValueError, match=message):
            VqVae.restore(codebook, tensors | change, 4, width)
    with pytest.raises(ValueError, match="tensor mean is missing"):
        VqVae.restore(codebook, {name: array for name, array in tensors.items() if name != "mean"}, 4, width)
    with pytest.raises(ValueError, match="expected 8 numbers a code"):
        KMeans.restore(plain.quantiser.codebook, {}, 2, 4)


# The commands


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    """A folder with three clips, the last at 60 frames a second, and captions in another order."""
    folder = tmp_path_factory.mktemp("clips")
    for name, motion in zip(("a.bvh", "b.bvh", "c.BVH"), [*walks(2), walk(120, fps=60)], strict=True):
        write_bvh(folder / name, motion)
    rows = [{"file": "c.BVH", "text_query": "walk fast", "participant_id": "P1"},
            {"file": "a.bvh", "text_query": "walk"}, {"file": "c.BVH", "text_query": "wálk again", "participant_id": 2,
                                                        "split": "train"}]
    (folder / "captions.json").write_text(json.dumps(rows), encoding="utf-8")
    return folder


def test_fit_encode_and_decode(clips, tmp_path, capsys):
    assert main(["fit", "--motions", str(clips), "--codes", "64", "--kind", "kmeans",
                 "--output", str(tmp_path / "codec")]) == 0
    assert main(["encode", "--codec", str(tmp_path / "codec"), "--motions", str(clips), "--captions",
                 str(clips / "captions.json"), "--output", str(tmp_path / "dataset.json")]) == 0
    rows = json.loads((tmp_path / "dataset.json").read_text(encoding="utf-8"))
    assert [(row["text_query"], row.get("participant_id"), row["clip_id"], row.get("split")) for row in rows] == [
        ("walk fast", "P1", "c", None), ("walk", None, "a", None), ("wálk again", 2, "c", "train")]
    assert rows[0]["motion_tokens"] == rows[2]["motion_tokens"] and len(rows[0]["motion_tokens"].split()) == 15
    rows[2]["participant_id"] = "P2"
    (tmp_path / "dataset.json").write_text(json.dumps(rows))
    assert len(data.read_rows(tmp_path / "dataset.json", 64).rows) == 3
    assert main(["decode", "--codec", str(tmp_path / "codec"), "--tokens", rows[1]["motion_tokens"],
                 "--output", str(tmp_path / "clip.bvh")]) == 0
    again, original = read_bvh(tmp_path / "clip.bvh"), read_bvh(clips / "a.bvh")
    assert again.skeleton.names == original.skeleton.names and (again.fps, len(again)) == (30, 60)
    np.testing.assert_allclose(again.skeleton.offsets, original.skeleton.offsets, atol=1e-6)
    assert capsys.readouterr().out.splitlines()[-1] == f"{tmp_path / 'clip.bvh'}: 60 frames, 2.0 seconds"


def test_clips_become_tokens_without_captions_and_motion_of_their_length_again(clips, tmp_path, capsys):
    folder, codec, tokens = tmp_path / "clips", str(tmp_path / "codec"), tmp_path / "tokens.json"
    write_bvh(folder / "walk.bvh", walk(63, phase=2.0))
    assert main(["fit", "--motions", str(clips), "--kind", "kmeans", "--output", codec]) == 0
    assert main(["encode", "--codec", codec, "--motions", str(folder), "--output", str(tokens)]) == 0
    (row,) = json.loads(tokens.read_text())
    assert (row["file"], len(row["motion_tokens"].split()), row["seconds"]) == ("walk.bvh", 16, 2.1)
    decode = ["decode", "--codec", codec, "--tokens", row["motion_tokens"], "--output", str(tmp_path / "clip.bvh")]
    assert main([*decode, "--seconds", str(row["seconds"])]) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == [f"{tokens}: 1 clips",
                                                         f"{tmp_path / 'clip.bvh'}: 63 frames, 2.1 seconds"]
    assert len(read_bvh(tmp_path / "clip.bvh")) == 63
    for seconds, message in (("2.2", "66 frames (2.2 s) of 16 codes, expected 1 to 64 (2.133 s)"),
                             ("0", "--seconds 0: expected more than 0"), ("nan", "--seconds nan: expected more")):
        assert main([*decode, "--seconds", seconds]) == 1
        assert message in capsys.readouterr().err


def test_the_frames_of_a_last_window_that_is_not_full_are_nearer_than_if_the_pose_were_held(plain, monkeypatch):
    motions = [walk(frames, turning=0, phase=phase) for phase in np.arange(0, 6, 0.4) for frames in (61, 62, 63)]
    ours = np.mean([plain.error(motion)[60:].mean() for motion in motions])
    monkeypatch.setattr("motion_llm.motion.codec.padded", lambda features, window: np.pad(
        features, ((0, -len(features) % window), (0, 0)), mode="edge"))
    assert ours < 0.95 * np.mean([plain.error(motion)[60:].mean() for motion in motions])


def test_padding_goes_on_with_the_movement_and_keeps_whole_windows_as_they_are():
    features = np.arange(5.0)[:, None] * np.ones(6) + [1, 2, 3, 0, 0, 0]
    after = padded(features, 4)
    np.testing.assert_array_equal(after[:5], features)
    np.testing.assert_array_equal(after[5:, 3:], np.arange(5.0, 8)[:, None] * np.ones(3))
    np.testing.assert_array_equal(after[5:, :3], np.tile(features[-1, :3], (3, 1)))
    assert padded(features[:4], 4) is not None and len(padded(features[:4], 4)) == 4
    assert padded(features[:2], 16).shape == (16, 6) and np.isfinite(padded(features[:2], 16)).all()


def test_a_codec_of_an_earlier_version_goes_on_dropping_what_fills_no_window(plain, tmp_path):
    plain.save(tmp_path)
    content = json.loads((tmp_path / "codec.json").read_text())
    del content["pads"], content["digest"]
    (tmp_path / "codec.json").write_text(json.dumps(content))
    old = MotionCodec.load(tmp_path)
    motion = walk(63)
    assert old.encode(motion) == plain.encode(motion)[:15] and len(old.error(motion)) == 60
    old.save(tmp_path / "again")
    assert MotionCodec.load(tmp_path / "again").encode(motion) == old.encode(motion)


def test_fit_refuses_a_folder_that_holds_a_codec_before_it_fits(plain, clips, tmp_path, capsys, monkeypatch):
    plain.save(tmp_path / "codec")
    monkeypatch.setattr(MotionCodec, "fit", lambda *args: pytest.fail("a codec is fitted"))
    assert main(["fit", "--motions", str(clips), "--codes", "64", "--output", str(tmp_path / "codec")]) == 1
    assert capsys.readouterr().err == (f"codec.py: {tmp_path / 'codec'} holds a codec already: choose another "
                                       "--output, or remove it\n")
    assert MotionCodec.load(tmp_path / "codec").codes == 128


@pytest.mark.parametrize(("scale", "height"), [  # the walker's bones make 1.66 m
    ("0.01", None), ("1", "170"), ("0.001", "0.17"), ("0.02", "3.3"), ("0.018", None)])
def test_fit_warns_of_a_figure_of_an_unlikely_height(clips, tmp_path, caplog, scale, height):
    assert main(["fit", "--motions", str(clips), "--codes", "16", "--kind", "kmeans", "--scale", scale,
                 "--output", str(tmp_path / "codec")]) == 0
    warnings = [record.message for record in caplog.records if "high" in record.message]
    assert warnings == ([f"a.bvh: the figure is about {height} m high: is --scale right?"] if height else [])


@pytest.mark.parametrize(("captions", "message"), [
    ("[", "captions.json is broken"), ("[]", "expected a list of objects"), ("{}", "expected a list of objects"),
    ('[{"file": "a.bvh"}]', "row 0: {'file': 'a.bvh'}, expected an object with text_query"),
    ('[{"file": "a.bvh", "text_query": "x"}, {"file": "no.bvh", "text_query": "x"}]', "row 1: "),
    ('["a.bvh"]', "row 0: a.bvh, expected an object with file"),
])
def test_captions_that_do_not_fit_are_refused(plain, clips, tmp_path, captions, message):
    (tmp_path / "captions.json").write_text(captions)
    with pytest.raises(CodecError, match=re.escape(message)):
        encode_captions(plain, clips, tmp_path / "captions.json")


def test_another_figure_is_refused_by_file_name(plain, clips, tmp_path, capsys):
    other_figure = Motion(walk().joints, 30, Skeleton((*NAMES[:-1], "tail"), PARENTS, OFFSETS))
    write_bvh(tmp_path / "other.bvh", other_figure)
    (tmp_path / "captions.json").write_text('[{"file": "other.bvh", "text_query": "x"}]')
    with pytest.raises(MotionError, match=r"other\.bvh: another figure: it has no right_foot and has tail"):
        encode_captions(plain, tmp_path, tmp_path / "captions.json")
    write_bvh(tmp_path / "a.bvh", walk())
    with pytest.raises(MotionError, match=r"other\.bvh: another figure.*, as in a\.bvh"):
        MotionCodec.fit(MotionFiles(tmp_path), 16, kind="kmeans", names=["a.bvh", "other.bvh"])
    write_bvh(tmp_path / "short.bvh", walk(1))
    (tmp_path / "captions.json").write_text('[{"file": "short.bvh", "text_query": "x"}]')
    with pytest.raises(MotionError, match=r"short\.bvh: 1 frames at 30 a second, expected at least 2"):
        encode_captions(plain, tmp_path, tmp_path / "captions.json")


def test_a_refusal_is_told_in_a_line(tmp_path, capsys):
    assert main(["fit", "--motions", str(tmp_path), "--output", str(tmp_path / "codec")]) == 1
    assert capsys.readouterr().err.startswith(f"codec.py: {tmp_path} has no motions: no file in it or in its folders")
    assert main(["decode", "--codec", str(tmp_path), "--tokens", "1", "--output", str(tmp_path / "x.bvh")]) == 1
    assert "so it is no codec's folder" in capsys.readouterr().err


@pytest.mark.parametrize(("key", "value", "message"), [
    ("codes", 10**12, "codes is 1000000000000, expected an integer from 2 to 1,000,000"),
    ("codes", 10**8, "codes is 100000000, expected an integer"), ("codes", 32.0, "codes is 32.0, expected an integer"),
    ("codes", True, "codes is True, expected"), ("window", 2**40, "window is 1099511627776, expected an integer"),
    ("window", 512, "tensor .* is none of this network"), ("fps", 1e300, "fps is 1e+300, expected a number from"),
    ("fps", "30", "fps is '30', expected a number"), ("kind", ["vqvae"], "kind is a list of 1, expected text"),
    ("skeleton", [], "skeleton is a list of 0, expected an object"),
    ("skeleton", {"names": ["a"], "parents": [-1]}, "skeleton has no offsets"),
    ("skeleton", {"names": ["a"], "parents": [-1], "offsets": [[1, 2]]}, "damaged: "),
    ("skeleton", {"names": ["a", "b"], "parents": [-1, 0], "offsets": [[1, 2, 3], [1]]}, "damaged: "),
    ("skeleton", {"names": ["a"], "parents": [-1], "offsets": [[1, 2, 1e30]]}, "offsets, item 0, item 2 is 1e+30"),
    ("layout", {"across": None}, "layout has no centre"), ("layout", {"centre": 99}, "layout centre is 99"),
    ("layout", {"centre": 0, "across": [0, 99]}, "layout across, item 1 is 99, expected an integer from 0 to"),
    ("layout", 3, "layout is 3, expected an object"), ("files", {"../../etc/passwd": "0" * 64}, "files has '../../etc"),
    ("files", {"codebook.npz": 3}, "files codebook.npz is 3, expected text such as"), ("files", [], "files is a list"),
])
def test_a_value_that_no_codec_has_is_refused_by_file_and_key(learned, tmp_path, key, value, message):
    learned.save(tmp_path)
    content = json.loads((tmp_path / "codec.json").read_text())
    del content["digest"]  # so that the value is read
    (tmp_path / "codec.json").write_text(json.dumps(content | {key: value}))
    with pytest.raises(CodecError, match=re.escape(str(tmp_path)) + ".*" + re.escape(message).replace(r"\.\*", ".*")):
        MotionCodec.load(tmp_path)


def test_facts_of_a_codec_are_checked_as_well(plain, tmp_path):
    plain.save(tmp_path)
    edit(tmp_path / "codec.json", lambda text: text.replace('"codes": 128', '"codes": 100000000'))
    with pytest.raises(CodecError, match="codes is 100000000, expected an integer from 2 to 1,000,000"):
        codec_facts(tmp_path)


def test_a_network_of_a_width_that_lies_takes_no_memory(learned):
    tensors, codebook = learned.quantiser.tensors(), learned.quantiser.codebook
    with pytest.raises(ValueError, match=r"tensor decoder.\d+.* expected float32 \(1000000"):
        VqVae.restore(codebook, tensors | {"decoder.0.bias": np.zeros(10**6, np.float32)}, 4, learned.layout.width)


def test_what_is_fitted_can_be_loaded():
    for codes, window in ((10**6 + 1, 4), (8, 1025)):
        with pytest.raises(CodecError, match="expected 2 to 1,000,000 codes, of 1 to 1024 frames"):
            MotionCodec.fit(walks(), codes=codes, window=window, kind="kmeans")


def test_a_copy_that_is_cut_off_is_no_codec(plain, learned, tmp_path, monkeypatch):
    learned.save(tmp_path / "codec")
    plain.save(tmp_path / "copy")
    copied = []

    def copyfile(source, target):
        copied.append(Path(source).name)
        if len(copied) > 1:
            raise OSError(28, "No space left on device")
        Path(target).write_bytes(Path(source).read_bytes())

    monkeypatch.setattr("motion_llm.motion.codec.shutil.copyfile", copyfile)
    with pytest.raises(OSError, match="No space left on device: '.*codebook.npz'"):
        copy_codec(tmp_path / "codec", tmp_path / "copy")
    assert [path.name for path in (tmp_path / "copy").iterdir()] == ["weights.safetensors"]
    with pytest.raises(CodecError, match="so it is no codec's folder"):
        MotionCodec.load(tmp_path / "copy")
    monkeypatch.undo()
    copy_codec(tmp_path / "codec", tmp_path / "copy")
    assert MotionCodec.load(tmp_path / "copy").codes == 32


def test_a_fit_that_is_killed_while_it_writes_leaves_nothing_for_good(clips, tmp_path):
    """Killed in the codebook, in the weights and in codec.json; then another kind is fitted into the folder."""
    for call, kind in (("numpy.savez", "kmeans"), ("safetensors.numpy.save_file", "vqvae"),
                       ("motion_llm.motion.codec.write_json", "vqvae")):
        module, _, name = call.rpartition(".")
        code = (f"import os, {module}; import motion_llm.motion.vqvae as v; from codec import main\n"
                f"v.VqVae.fit.__defaults__ = (2, 8, 2)\n"
                f"{module}.{name} = lambda *a, **b: os._exit(9)\n"
                f"main(['fit', '--motions', {str(clips)!r}, '--codes', '8', '--kind', {kind!r}, "
                f"'--output', {str(tmp_path / 'codec')!r}])")
        assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 9
        with pytest.raises(CodecError, match="so it is no codec's folder"):
            MotionCodec.load(tmp_path / "codec")
    assert main(["fit", "--motions", str(clips), "--codes", "16", "--kind", "kmeans",
                 "--output", str(tmp_path / "codec")]) == 0
    assert sorted(path.name for path in (tmp_path / "codec").iterdir()) == ["codebook.npz", "codec.json"]


@pytest.mark.parametrize("place", [("skeleton", "offsets", 3, 1), ("fps",)])
def test_a_value_that_was_changed_since_it_was_saved_is_noticed(plain, tmp_path, place):
    plain.save(tmp_path)
    content = json.loads((tmp_path / "codec.json").read_text())
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] += 1
    (tmp_path / "codec.json").write_text(json.dumps(content, indent=4))
    with pytest.raises(CodecError, match="codec.json is damaged: a value was changed since it was saved"):
        MotionCodec.load(tmp_path)
    del content["digest"]  # as those of earlier versions, where that cannot be seen
    (tmp_path / "codec.json").write_text(json.dumps(content))
    MotionCodec.load(tmp_path)
