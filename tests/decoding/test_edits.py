"""Edits by words: denoising with a caption, in jobs.py, generate.py and inference.py.

generate.py is imported inside the fixtures, as it needs Unsloth, which must be imported before transformers.
"""

import json
import shutil

import pytest
from conftest import run_script

import inference
from motion_llm.decoding.request import GenerationError, MotionRequest
from motion_llm.streams import MASKED

MOTION, BOW = "3 1 ? ? ? 5 9", "a person bows"


@pytest.fixture(scope="module")
def generator(tiny_run):
    from generate import MotionGenerator

    return MotionGenerator(tiny_run / "stage2_multitask")


def altered(tiny_run, folder, **settings):
    """A copy of stage 2 that says it was trained with other settings."""
    from generate import MotionGenerator

    shutil.copytree(tiny_run / "stage2_multitask", folder)
    path = folder / "motion_config.json"
    content = json.loads(path.read_text())
    content["settings"] |= settings
    if not content["settings"]["EDIT_CAPTIONS"]:
        content["tasks"].remove("edit")
    path.write_text(json.dumps(content))
    return MotionGenerator(folder)


def test_what_is_outside_the_gap_comes_back_unchanged(generator):
    request = MotionRequest("edit", BOW, MOTION, num_samples=20, temperature=5.0)
    answers = [result.codes for result in generator.answer(request, seed=1)]
    assert all(codes[:2] == (3, 1) and codes[5:] == (5, 9) and len(codes) == 7 for codes in answers)
    assert len({codes[2:5] for codes in answers}) > 10
    (answer,) = generator.answer(MotionRequest("edit", BOW, MOTION), 4)
    assert generator.edit(MOTION, BOW, seed=4) == answer.motion_tokens


def test_the_prompt_has_the_sentence_and_guidance_compares_with_one_without(generator):
    noisy = (3, 1, MASKED, MASKED, MASKED, 5, 9)
    with_text, without = (generator.template.render("denoise", text=text, noisy=noisy, answer=False).ids
                          for text in (BOW, None))
    for request in (MotionRequest("edit", BOW, MOTION, guidance=2.0),
                    MotionRequest("denoise", BOW, MOTION, guidance=2.0),
                    MotionRequest("inbetween", BOW, "3 1", "5 9", tokens=7, guidance=2.0)):
        job, _ = generator._job(generator._jobs.resolved(request), (0,))
        assert (list(job.prompt_ids), list(job.unconditional_ids)) == (with_text, without)
    job, _ = generator._job(MotionRequest("denoise", motion=MOTION), (0,))
    assert (list(job.prompt_ids), list(job.unconditional_ids)) == (without, [])
    job, _ = generator._job(MotionRequest("edit", BOW, MOTION, guidance=1), (0,))
    assert (list(job.prompt_ids), list(job.unconditional_ids)) == (with_text, [])


def test_an_edit_may_be_kept_to_the_codes_of_its_caption(generator):
    allowed = set(generator.length_model.codes(BOW))
    request = MotionRequest("edit", BOW, " ".join(["127", *["?"] * 30]), per_prompt_vocab=True, temperature=5.0)
    codes = generator.answer(request, seed=0)[0].codes
    assert codes[0] == 127 and set(codes[1:]) <= allowed


@pytest.mark.parametrize("task", ["edit", "denoise"])
def test_an_edit_that_leaves_nothing_to_make_is_refused(generator, task):
    with pytest.raises(GenerationError, match=rf"{task} was given no lost token: write \? for those"):
        generator.answer(MotionRequest(task, BOW, "3 1 4"))


def test_a_stage_that_was_not_trained_for_edits_names_the_one_that_was(tiny_run, tmp_path):
    from generate import MotionGenerator

    with pytest.raises(GenerationError, match=r"not for making a part of a motion.*\(edit\); use .*stage2_multitask"):
        MotionGenerator(tiny_run / "stage3_t2m_sft").edit(MOTION, BOW)
    without_captions = altered(tiny_run, tmp_path / "model", EDIT_CAPTIONS=0.0)
    assert without_captions.denoise(MOTION, seed=0)
    for task in ("edit", "denoise"):
        with pytest.raises(GenerationError, match=r"was trained for .*, not for .*\(edit\)"):
            without_captions.answer(MotionRequest(task, BOW, MOTION))


def test_guidance_of_edits_needs_gaps_that_were_filled_without_words(tiny_run, tmp_path):
    always = altered(tiny_run, tmp_path / "model", EDIT_CAPTIONS=1.0)
    with pytest.raises(GenerationError, match="train with EDIT_CAPTIONS 0.5, or leave guidance at 1"):
        always.answer(MotionRequest("edit", BOW, MOTION, guidance=2))
    assert always.answer(MotionRequest("edit", BOW, MOTION, guidance=1))


def test_a_span_outside_the_clip_is_refused(tiny_run, capsys):
    assert run_script(inference, "--model_path", str(tiny_run / "stage2_multitask"), "--task", "edit", "--prompt", BOW,
                      "--motion_tokens", "1 2 3", "--span", "2:9", "--tokens_per_second", "1") == 1
    assert "the span is '2:9', expected START:END in seconds" in capsys.readouterr().err
