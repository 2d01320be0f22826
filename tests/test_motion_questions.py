"""A motion as a question: files instead of tokens, in inference.py and in Python, by the codec in the model folder."""

import numpy as np
import pytest
from conftest import run_script
from walker import walk

import inference
from motion_llm.motion.bvh import write_bvh
from motion_llm.motion.codec import MotionCodec
from motion_llm.motion.features import features_of
from motion_llm.motion.files import read_motion
from motion_llm.motion.kinematics import resampled
from motion_llm.motion.skeleton import Motion, MotionError, Skeleton
from motion_llm.viewer.codec_figures import CodecFigures


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clips") / "walk.bvh"
    write_bvh(path, walk(frames=90))
    return path


@pytest.fixture
def ask(run_with_codec, capsys):
    """Run inference.py on the model of a stage; returns stdout's lines."""

    def run(stage: str, *arguments) -> list[str]:
        assert run_script(inference, "--model_path", str(run_with_codec / stage), *map(str, arguments)) == 0
        return capsys.readouterr().out.splitlines()

    return run


def codes_of(path, codec_folder) -> list[str]:
    return CodecFigures(codec_folder).encode(path).split()


def test_a_file_is_captioned_as_its_tokens_are(ask, clip, codec_folder):
    tokens = " ".join(codes_of(clip, codec_folder))
    assert ask("stage2_multitask", "--task", "m2t", "--bvh", clip) == ask(
        "stage2_multitask", "--task", "m2t", "--motion_tokens", tokens)


def test_a_file_is_continued(ask, clip, codec_folder):
    given = codes_of(clip, codec_folder)
    (line,) = ask("stage3_t2m_sft", "--task", "continue", "--motion", clip, "--prompt", "a person jumps", "--tokens",
                  len(given) + 6, "--seed", 1)
    assert line.split()[:len(given)] == given and len(line.split()) == len(given) + 6


def test_a_span_in_seconds_is_made_anew_and_the_rest_stays(ask, clip, codec_folder):
    given = codes_of(clip, codec_folder)  # 23 tokens, 7.5 a second, of 90 frames
    (line,) = ask("stage2_multitask", "--task", "denoise", "--bvh", clip, "--span", "0.8:1.6", "--seed", 1)
    answer = line.split()
    assert answer[:6] == given[:6] and answer[12:] == given[12:] and len(answer) == len(given)


def test_a_file_with_a_span_made_anew_stays_elsewhere_as_it_was_recorded(ask, clip, codec_folder, tmp_path):
    ask("stage2_multitask", "--task", "denoise", "--bvh", clip, "--span", "0.8:1.6", "--seed", 1, "--output",
        tmp_path / "edited.bvh")
    codec = CodecFigures(codec_folder).codec
    recorded, edited = resampled(read_motion(clip), codec.fps), read_motion(tmp_path / "edited.bvh")
    body = list(codec.layout.body)
    assert len(edited) == len(recorded) and edited.fps == pytest.approx(codec.fps, rel=1e-3)
    away = np.linalg.norm(edited.joints - recorded.joints, axis=-1)[:, body]
    assert away[:24].max() < 0.002 < 0.02 < away[24:48].max()
    poses = [features_of(motion, codec.layout)[48:, 3:] for motion in (edited, recorded)]
    assert poses[0] == pytest.approx(poses[1], abs=0.002)


def test_two_files_are_joined(ask, clip, codec_folder):
    given = codes_of(clip, codec_folder)
    (line,) = ask("stage2_multitask", "--task", "inbetween", "--bvh", clip, "--end_motion", clip, "--tokens",
                  2 * len(given) + 3, "--seed", 1)
    assert line.split()[:len(given)] == given and line.split()[-len(given):] == given


@pytest.mark.parametrize(("arguments", "message"), [
    (["--task", "m2t", "--bvh", "CLIP", "--motion_tokens", "1 2"], "--motion and --motion_tokens are the same thing"),
    (["--task", "m2t", "--bvh", "nowhere.bvh"], "nowhere.bvh"),
    (["--task", "m2t", "--motion", "clip.fbx"], "clip.fbx: expected a name that ends with .bvh"),
    (["--task", "m2t", "--bvh", "OTHER"], "other.bvh, for the codec in "),
    (["--task", "denoise", "--bvh", "CLIP", "--span", "2:1"], "the span is '2:1', expected START:END in seconds"),
    (["--task", "denoise", "--bvh", "CLIP", "--span", "1:9"], "the motion has 3.1 seconds (23 tokens)"),
    (["--task", "denoise", "--bvh", "CLIP", "--span", "1:2", "--loop"], "--loop adds tokens, and --span leaves a file"),
    (["--task", "denoise", "--bvh", "CLIP", "--span", "one"], "the span is 'one', expected START:END"),
    (["--prompt", "a", "--span", "1:2"], "--span is for --task denoise"),
    (["--prompt", "a", "--bvh", "CLIP"], "motion (--motion_tokens) was given, which t2m"),
    (["--task", "m2t", "--bvh", "CLIP", "--output", "CLIP"], "walk.bvh is a file that is read"),
])
def test_a_question_that_makes_no_sense_is_refused_before_the_model_is_loaded(
        arguments, message, run_with_codec, clip, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(inference, "_generator", lambda *args: pytest.fail("the model is loaded"))
    motion = walk()
    names = tuple(f"bone{i}" for i in range(len(motion.skeleton.names)))
    write_bvh(tmp_path / "other.bvh", Motion(motion.joints, 30, Skeleton(names, motion.skeleton.parents,
                                                                       motion.skeleton.offsets)))
    files = {"CLIP": str(clip), "OTHER": str(tmp_path / "other.bvh")}
    before = clip.read_bytes()
    assert run_script(inference, "--model_path", str(run_with_codec / "stage2_multitask"),
                      *(files.get(argument, argument) for argument in arguments)) == 1
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error and clip.read_bytes() == before


def test_a_file_for_a_model_without_a_codec_is_refused(tiny_run, clip, capsys):
    assert run_script(inference, "--model_path", str(tiny_run / "stage2_multitask"), "--task", "m2t",
                      "--bvh", str(clip)) == 1
    assert "stage2_multitask does not know the codec of its tokens" in capsys.readouterr().err


def test_python_takes_and_gives_motions(run_with_codec, codec_folder, clip):
    from generate import MotionGenerator  # imports transformers, which must follow Unsloth's start

    generator, codec = MotionGenerator(run_with_codec / "stage2_multitask"), MotionCodec.load(codec_folder)
    tokens = generator.encode(clip)
    assert generator.encode(walk(frames=90)) == tokens == " ".join(map(str, codec.encode(walk(frames=90))))
    motion = generator.motion(tokens)
    assert motion.joints.shape == (92, 11, 3) and motion.fps == 30 and motion.seconds == pytest.approx(92 / 30)
    assert np.array_equal(generator.motion([int(code) for code in tokens.split()]).joints, motion.joints)
    assert generator.caption(tokens, seed=0) == generator.caption(tokens)
    with pytest.raises(MotionError, match="for the codec in .*codec: "):
        generator.encode(Motion(walk().joints[:, :3], 30, Skeleton(("a", "b", "c"), (-1, 0, 1), np.ones((3, 3)))))
