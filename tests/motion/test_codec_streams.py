"""Codecs of several streams, parts and levels: fit, encode, decode, absent streams, folders, commands and figures."""

import json
import re

import numpy as np
import pytest
from hands import FIGURE, LEFT_HAND, THREE, TWO, waves, waving
from walker import walk, walks

from codec import main
from motion_llm.motion.bvh import read_bvh, write_bvh
from motion_llm.motion.codec import CodecError, MotionCodec, codec_facts, codec_streams, copy_codec
from motion_llm.motion.kmeans import KMeans
from motion_llm.motion.look_ahead import codes_of_text
from motion_llm.motion.skeleton import MotionError
from motion_llm.motion.stream_quantisers import LevelQuantiser
from motion_llm.streams import ABSENT, Streams
from motion_llm.viewer.codec_figures import CodecFigures
from motion_llm.viewer.files import write

SMALL = {"steps": 40, "width": 16, "batch": 4}
LEFT = [FIGURE.names.index(name) for name in LEFT_HAND]
BODY = [FIGURE.names.index(name) for name in THREE["body"]]
WRIST = FIGURE.names.index("LeftHand")


@pytest.fixture(scope="module")
def hands() -> MotionCodec:
    return MotionCodec.fit(waves(), {"body": 96, "left_hand": 24, "right_hand": 16}, kind="kmeans", parts="hands")


@pytest.fixture(scope="module")
def levels() -> MotionCodec:
    return MotionCodec.fit(waves(), 32, kind="kmeans", levels=3)


@pytest.fixture(scope="module")
def learned() -> MotionCodec:
    return MotionCodec.fit(waves(4), 16, kind="vqvae", parts=TWO, **SMALL)


CODECS = ("hands", "levels", "learned")


def without(codec: MotionCodec, codes: list[int], *streams: str) -> list[int]:
    steps = codec.streams.steps(codes)
    steps[:, [codec.streams.names.index(name) for name in streams]] = ABSENT
    return codec.streams.flat(steps).tolist()


def test_streams_of_a_codec(hands, levels, learned):
    assert hands.streams == Streams(("body", "left_hand", "right_hand"), (96, 24, 16), "object")
    assert levels.streams == Streams(("q0", "q1", "q2"), (32, 32, 32), "steps")
    assert learned.streams == Streams(("upper", "lower"), (16, 16), "object")
    one = MotionCodec.fit(walks(2), 16, kind="kmeans")
    assert one.streams == Streams.one(16) and one.parts == {}
    assert (hands.codes, levels.codes) == (136, 96)


@pytest.mark.parametrize("kind", CODECS)
def test_codes_are_flat_and_in_their_streams_and_a_motion_has_its_frames(kind, request):
    codec = request.getfixturevalue(kind)
    motion = waving(62, phase=1.3)
    codes = codec.encode(motion)
    assert len(codes) == 16 * codec.streams.count and all(isinstance(code, int) for code in codes)
    assert codec.streams.problem(codes) is None
    decoded = codec.decode(codes, 62)
    assert len(decoded) == 62 and len(codec.decode(codes)) == 64 and decoded.rotations is not None
    lengths = np.linalg.norm(decoded.joints[:, 1:] - decoded.joints[:, list(FIGURE.parents[1:])], axis=-1)
    np.testing.assert_allclose(lengths, np.tile(np.linalg.norm(FIGURE.offsets[1:], axis=1), (62, 1)), atol=1e-6)


def test_parts_and_levels_give_a_motion_back_nearer_than_their_first_stream(hands, levels):
    motion = waving(phase=1.3)
    codes = levels.encode(motion)
    errors = []
    for kept in (1, 2, 3):
        decoded = levels.decode(without(levels, codes, *levels.streams.names[kept:]))
        errors.append(np.linalg.norm(decoded.joints - levels.decode(codes).joints, axis=-1).mean())
    assert errors[0] > errors[1] > errors[2] == 0
    assert levels.error(motion).mean() < 0.8 * MotionCodec.fit(waves(), 32, kind="kmeans").error(motion).mean()
    codes, hand = hands.encode(motion), hands.parts["left_hand"]
    assert hands.error(motion).mean() < 0.04 and hands.distances(motion)[:, hand].mean() < 0.05
    bent, flat = (np.linalg.norm(decoded.joints[:, LEFT[1::2]] - decoded.joints[:, [WRIST]], axis=-1) for decoded in (
        hands.decode(codes), hands.decode(without(hands, codes, "left_hand"))))
    real = np.linalg.norm(motion.joints[:, LEFT[1::2]] - motion.joints[:, [WRIST]], axis=-1)  # of tips to the wrist
    assert np.abs(bent - real).mean() < 0.3 * np.abs(flat - real).mean()


def test_each_level_is_nearer_than_those_before_on_windows_that_it_was_fitted_to():
    rng = np.random.default_rng(0)
    clips = [rng.normal(size=(200, 9)) for _ in range(2)]
    quantiser = LevelQuantiser.fit(clips, (16, 8, 4), 2, 0)
    codes = quantiser.encode(clips[0])
    steps = quantiser.streams.steps(codes)
    assert steps.shape == (100, 3) and (steps.max(0) < (16, 8, 4)).all()
    np.testing.assert_allclose(quantiser.decode(codes), sum(
        level.decode(steps[:, i]) for i, level in enumerate(quantiser.quantisers)))
    weights, errors = quantiser.quantisers[0].weights, []
    for kept in (1, 2, 3):
        partly = np.where(np.arange(3) < kept, steps, ABSENT)
        errors.append((((quantiser.decode(quantiser.streams.flat(partly)) - clips[0]) * weights)**2).mean())
    assert errors[0] > errors[1] > errors[2]
    assert (KMeans.fit(clips, 16, 2, 0, None, 30).codebook == quantiser.codebooks["q0"]).all()


def test_a_hands_code_changes_that_hand_alone(hands):
    codes = hands.encode(waving())
    steps = hands.streams.steps(codes)
    steps[:, 1] = (steps[:, 1] + 7) % 24
    changed, same = hands.decode(hands.streams.flat(steps).tolist()), hands.decode(codes)
    others = [joint for joint in range(len(FIGURE.names)) if joint not in LEFT]
    np.testing.assert_allclose(changed.joints[:, others], same.joints[:, others], atol=5e-3)  # fingers turn the wrist
    assert np.abs(changed.joints - same.joints)[:, LEFT].max() > 0.02


def test_an_absent_hand_is_that_of_the_rest_pose_on_the_bodys_wrist(hands):
    codes = hands.encode(waving())
    decoded, whole = hands.decode(without(hands, codes, "left_hand")), hands.decode(codes)
    np.testing.assert_allclose(decoded.joints[:, WRIST], whole.joints[:, WRIST], atol=1e-6)
    rest = hands.layout.skeleton.offsets
    for joint in LEFT:  # in the wrist's frame
        parent = FIGURE.parents[joint]
        if parent != WRIST:
            np.testing.assert_allclose(decoded.rotations[:, parent], np.tile(np.eye(3), (60, 1, 1)), atol=0.1)
    assert np.linalg.norm(decoded.joints[:, LEFT[1]] - decoded.joints[:, WRIST], axis=-1) == pytest.approx(
        np.linalg.norm(rest[LEFT[0]] + rest[LEFT[1]]), abs=1e-3)


def test_an_absent_body_stands(hands):
    decoded = hands.decode(without(hands, hands.encode(waving()), "body"))
    assert np.ptp(decoded.joints[:, 0], axis=0).max() < 1e-9 and decoded.joints[:, BODY, 1].min() > -0.01
    assert np.ptp(decoded.joints[:, LEFT], axis=0).max() > 0.02


@pytest.mark.parametrize(("streams", "message"), [
    (("body", "left_hand", "right_hand"), "all of body, left_hand, right_hand are absent"),
    ((), "body is absent in step 1 and not in others")])
def test_what_is_absent_in_a_part_of_the_steps_or_altogether_is_refused(hands, streams, message):
    codes = without(hands, hands.encode(waving()), *streams)
    if not streams:
        codes[3] = ABSENT
    with pytest.raises(CodecError, match=message):
        hands.decode(codes)


def test_levels_need_the_first_one(levels):
    with pytest.raises(CodecError, match="level q0 is absent"):
        levels.decode(without(levels, levels.encode(waving()), "q0"))


@pytest.mark.parametrize(("change", "message"), [
    (lambda codes: codes[:-1], "47 codes are no whole number of steps of 3"),
    (lambda codes: [*codes[:4], codes[3], *codes[5:]], "at step 1 of left_hand is outside the codebook (0 to 23)"),
    (lambda codes: [-1, *codes[1:]], "code 1 is -1, expected an integer from 0 to 135"),
    (lambda codes: [*codes[:-1], 136], "code 48 is 136")])
def test_codes_that_are_no_steps_of_the_streams_are_refused(hands, change, message):
    codes = hands.encode(waving(62))
    with pytest.raises(CodecError, match=re.escape(message)):
        hands.decode(change(codes))
    with pytest.raises(CodecError, match=r"65 frames .* of 48 codes, expected 1 to 64 \(2.133 s\)"):
        hands.decode(codes, 65)


def test_one_stream_has_no_absent_codes():
    codec = MotionCodec.fit(walks(2), 16, kind="kmeans")
    with pytest.raises(CodecError, match="code 2 is -2, expected an integer from 0 to 15"):
        codec.decode([1, ABSENT])


# Refusals of a fit


@pytest.mark.parametrize(("options", "message"), [
    ({"levels": 2, "kind": "vqvae"}, "--levels are fitted by kind kmeans alone"),
    ({"levels": 7}, "7 levels: expected 2 to 6 levels"), ({"levels": 0}, "0 levels"),
    ({"levels": 2, "parts": "hands"}, "2 levels of parts: expected 2 to 6 levels, or parts of one level each"),
    ({"parts": "fingers"}, "parts 'fingers': expected 'hands'"),
    ({"parts": TWO, "codes": {"upper": 8}}, "codes of the streams upper, expected of upper, lower"),
    ({"codes": {"body": 8}}, "codes of the streams body, expected of motion: a number alone"),
    ({"parts": TWO, "codes": {"upper": 8, "lower": 1}}, "1 codes of 4 frames"),
    ({"parts": TWO, "codes": {"upper": 8, "lower": 5000}}, "as many as codes, 5000"),
    ({"parts": {"upper": ["Spine"], "lower": ["Hips"]}}, "no part has Chest, Head")])
def test_what_no_codec_of_streams_can_be_is_refused(options, message):
    with pytest.raises(CodecError, match=re.escape(message)):
        MotionCodec.fit(waves(2), **{"kind": "kmeans"} | options)


@pytest.mark.parametrize(("text", "codes"), [
    ("128", 128), ("body=128,left_hand=64", {"body": 128, "left_hand": 64}), (" a=b=3 , c=4", {"a=b": 3, "c": 4})])
def test_codes_of_a_flag(text, codes):
    assert codes_of_text(text) == codes


@pytest.mark.parametrize("text", ["x", "-3", "body=", "=3", "body=3,body=4", "body=3,", "body:3", ""])
def test_codes_of_a_flag_that_are_none(text):
    with pytest.raises(CodecError, match="--codes .*expected a number, or one for each stream"):
        codes_of_text(text)


# Its folder


@pytest.mark.parametrize("kind", CODECS)
def test_a_codec_of_streams_is_the_same_after_saving_and_copying(kind, request, tmp_path):
    codec = request.getfixturevalue(kind)
    codec.save(tmp_path / "codec")
    copy_codec(tmp_path / "codec", tmp_path / "copy")
    again = MotionCodec.load(tmp_path / "copy")
    codes = codec.encode(waving())
    assert again.streams == codec.streams == codec_streams(tmp_path / "codec") and again.parts == codec.parts
    assert again.encode(waving()) == codes and codec_facts(tmp_path / "copy")["codes"] == codec.codes
    np.testing.assert_allclose(again.decode(codes).joints, codec.decode(codes).joints, atol=1e-5)
    again.save(tmp_path / "again")
    assert (tmp_path / "again" / "codec.json").read_bytes() == (tmp_path / "codec" / "codec.json").read_bytes()


def test_the_order_of_parts_is_kept(tmp_path):
    told = {"right_hand": THREE["right_hand"], "body": THREE["body"], "left_hand": THREE["left_hand"]}
    MotionCodec.fit(waves(2), 8, kind="kmeans", parts=told).save(tmp_path)
    assert MotionCodec.load(tmp_path).streams.names == ("right_hand", "body", "left_hand")


def test_one_stream_has_the_files_and_keys_that_it_had(tmp_path):
    MotionCodec.fit(walks(2), 16, kind="kmeans").save(tmp_path)
    assert set(json.loads((tmp_path / "codec.json").read_text())) == {
        "kind", "codes", "window", "fps", "pads", "skeleton", "layout", "files", "digest"}
    assert np.load(tmp_path / "codebook.npz").files == ["codebook"]


def test_each_stream_has_its_array(hands, tmp_path):
    hands.save(tmp_path)
    with np.load(tmp_path / "codebook.npz") as arrays:
        assert {name: len(arrays[name]) for name in arrays} == {
            "codebook_body": 96, "codebook_left_hand": 24, "codebook_right_hand": 16}


@pytest.mark.parametrize(("change", "message"), [
    ({"codes": 135}, "codes is 135, expected 136"), ({"streams": 3}, "streams is 3, expected an object"),
    ({"streams": {"names": ["body"], "sizes": [136], "form": "object"}}, "parts are body, left_hand, right_hand"),
    ({"streams": {"names": ["a", "a"], "sizes": [100, 36], "form": "object"}}, "expected each name once"),
    ({"streams": {"names": ["a", "b"], "sizes": [100, 36], "form": "text"}}, "form is 'text', expected text such as"),
    ({"parts": {"body": [], "left_hand": [], "right_hand": []}}, "no part has Hips")])
def test_a_damaged_codec_json_of_streams_is_refused(hands, tmp_path, change, message):
    hands.save(tmp_path)
    content = json.loads((tmp_path / "codec.json").read_text())
    del content["digest"]
    (tmp_path / "codec.json").write_text(json.dumps(content | change))
    with pytest.raises(CodecError, match=re.escape(str(tmp_path)) + ".*damaged.*" + re.escape(message)):
        MotionCodec.load(tmp_path)


def test_damaged_codebooks_and_weights_of_streams_are_refused_by_stream(hands, levels, learned, tmp_path):
    from safetensors.numpy import save_file

    for codec, message in ((hands, "part left_hand: a codebook"), (levels, "level q1: a codebook")):
        codec.save(tmp_path)
        content = json.loads((tmp_path / "codec.json").read_text())
        del content["digest"], content["files"]
        (tmp_path / "codec.json").write_text(json.dumps(content))
        arrays = dict(np.load(tmp_path / "codebook.npz"))
        name = sorted(arrays)[1]
        np.savez(tmp_path / "codebook.npz", **arrays | {name: arrays[name][:, 1:]})
        with pytest.raises(CodecError, match=message):
            MotionCodec.load(tmp_path)
        np.savez(tmp_path / "codebook.npz", **{other: arrays[other] for other in arrays if other != name})
        with pytest.raises(CodecError, match=f"codebook.npz is damaged: .*no {name}"):
            MotionCodec.load(tmp_path)
    learned.save(tmp_path)
    content = json.loads((tmp_path / "codec.json").read_text())
    del content["digest"], content["files"]
    (tmp_path / "codec.json").write_text(json.dumps(content))
    tensors = learned.quantiser.tensors()
    for change, message in (({"2.mean": tensors["0.mean"]}, "tensor 2.mean is of none of the 2 parts"),
                            ({"1.mean": tensors["1.mean"][1:]}, "part lower: tensor mean is float32")):
        save_file(tensors | change, tmp_path / "weights.safetensors")
        with pytest.raises(CodecError, match=message):
            MotionCodec.load(tmp_path)


# The commands, and figures


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    for name, motion in zip("abc", waves(3, 61), strict=True):
        write_bvh(folder / f"{name}.bvh", motion)
    (folder / "captions.json").write_text(json.dumps([
        {"file": "a.bvh", "text_query": "someone waves"},
        {"file": "b.bvh", "text_query": "a fist", "start": 0.5, "end": 1.0}]))
    return folder


FITS = {"hands": ["--parts", "hands", "--codes", "body=32,left_hand=16,right_hand=8", "--kind", "kmeans"],
        "file": ["--parts", "parts.json", "--codes", "16", "--kind", "kmeans"],
        "levels": ["--levels", "2", "--codes", "q0=32,q1=16"]}


@pytest.mark.parametrize(("kind", "last"), [
    ("hands", "32 codes of body, 16 codes of left_hand, 8 codes of right_hand; steps of 4 frames, 7.5 a second"),
    ("file", "16 codes of upper, 16 codes of lower; steps of 4 frames, 7.5 a second"),
    ("levels", "32 codes of q0, 16 codes of q1; steps of 4 frames, 7.5 a second")])
def test_fit_encode_and_decode_from_the_command_line(kind, last, clips, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "parts.json").write_text(json.dumps(TWO))
    assert main(["fit", "--motions", str(clips), "--output", "codec", *FITS[kind]]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"codec: {last}"
    assert main(["encode", "--codec", "codec", "--motions", str(clips), "--captions", str(clips / "captions.json"),
                 "--output", "rows.json"]) == 0
    assert main(["encode", "--codec", "codec", "--motions", str(clips), "--output", "tokens.json"]) == 0
    rows, files = (json.loads((tmp_path / name).read_text()) for name in ("rows.json", "tokens.json"))
    streams, codec = codec_streams("codec"), MotionCodec.load("codec")
    codes = codec.encode(read_bvh(clips / "b.bvh"))
    assert streams.read(files[1]["motion_tokens"]) == tuple(codes) and files[1]["seconds"] == 2.0333
    count = streams.count
    assert streams.read(rows[1]["motion_tokens"]) == tuple(codes[3 * count:7 * count])  # 0.5 s to 1.0 s, 7.5 a second
    assert isinstance(rows[0]["motion_tokens"], list if kind == "levels" else dict)
    assert main(["decode", "--codec", "codec", "--tokens", json.dumps(files[1]["motion_tokens"]), "--seconds", "2.0333",
                 "--output", "clip.bvh"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "clip.bvh: 61 frames, 2.0 seconds"
    again = read_bvh("clip.bvh")
    assert again.skeleton.names == FIGURE.names
    np.testing.assert_allclose(again.joints, codec.decode(codes, 61).joints, atol=1e-4)


def test_a_row_without_a_stream_decodes_from_the_command_line(hands, tmp_path, capsys):
    hands.save(tmp_path / "codec")
    row = hands.streams.written(hands.encode(waving())) | {"right_hand": None}
    decode = ["decode", "--codec", str(tmp_path / "codec"), "--output", str(tmp_path / "clip.bvh"), "--tokens"]
    assert main([*decode, json.dumps(row)]) == 0 and len(read_bvh(tmp_path / "clip.bvh")) == 60
    for tokens, message in (("1 2 3", "expected an object of 3 streams"), ('{"body": "1"}', "has the streams body,"),
                            ('{"body"', "motion_tokens is broken"),
                            ('{"body": "1 2", "left_hand": "1", "right_hand": "1 2"}', "2 codes of body, 1 codes of")):
        assert main([*decode, tokens]) == 1
        assert message in capsys.readouterr().err


def test_a_plan_says_the_codes_of_each_stream_and_an_error_that_of_each_part(caplog):
    caplog.set_level("INFO")
    MotionCodec.fit(waves(8), {"upper": 32, "lower": 16}, kind="kmeans", parts=TWO, heldout=0.25, max_seq_len=100)
    said = caplog.text
    assert re.search(r"codes: 32 of upper, 16 of lower \(64 would suit so much motion\), 7.5 steps and 15 tokens a "
                     r"second, each used 3.8 times; the longest clip, motion 0, has 30; a model's row .* it fits", said)
    assert "fitting 32 + 16 codes of 4 frames (kmeans)" in said
    assert re.search(r"joints off by [\d.]+ mm \(upper [\d.]+, lower [\d.]+\) on 2 held-out clips, [\d.]+ mm \(u", said)


@pytest.mark.parametrize("kind", ["hands", "levels"])
def test_figures_of_several_streams_are_drawn_and_written(kind, request, tmp_path):
    codec = request.getfixturevalue(kind)
    codec.save(tmp_path / "codec")
    figures, motion = CodecFigures(tmp_path / "codec"), waving()
    row = figures.encode(motion)
    flat = codec.encode(motion)
    assert row == codec.streams.written(flat)
    for tokens in (row, json.dumps(row), flat, tuple(flat)):
        np.testing.assert_allclose(figures.motion(tokens).joints, codec.decode(flat).joints, atol=1e-5)
    clip = figures.clip(flat, "someone waves")
    assert clip.note == f"{len(flat)} tokens, 2.0 s"
    for name in ("clip.html", "clip.bvh", "clip.glb"):
        assert write(tmp_path / name, [clip])
    np.testing.assert_allclose(read_bvh(tmp_path / "clip.bvh").joints, clip.motion.joints, atol=1e-4)
    with pytest.raises(MotionError, match="another figure"):
        figures.encode(walk())
