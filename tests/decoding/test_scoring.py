"""scoring.py: captions of a motion are chosen by the motion's likelihood given them, and near ones by their codes.

generate.py is imported inside the fixtures, as it needs Unsloth, which must be imported before transformers.
"""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import run_script

import inference
from motion_llm.decoding.request import MotionRequest
from motion_llm.decoding.scoring import Scorer

MOTION = (3, 1, 4, 1, 5)


@pytest.fixture(scope="module")
def multitask(tiny_run):
    from generate import MotionGenerator

    return MotionGenerator(tiny_run / "stage2_multitask")


def scorer_of(codes_of_captions: dict[str, tuple[int, ...]], codebook: int = 20) -> Scorer:
    captions = {text: SimpleNamespace(codes=codes or None) for text, codes in codes_of_captions.items()}
    vocabulary, length_model = SimpleNamespace(codebook_size=codebook), SimpleNamespace(captions=captions)
    return Scorer(None, None, vocabulary, None, None, length_model, 64)


def test_near_captions_share_codes_and_rare_codes_count_more():
    """0 is in all captions and says nothing; 7 is in one."""
    scorer = scorer_of({"walks": (0, 1, 2), "runs": (0, 1, 3), "bows": (0, 7), "unknown": ()})
    assert scorer.near_captions([0, 0, 7], 1) == ["bows"]
    assert scorer.near_captions([1, 3, 0], 2) == ["runs", "walks"]
    assert set(scorer.near_captions([1], 9)) == {"walks", "runs", "bows"}
    assert scorer_of({"unknown": ()}).near_captions([1], 3) == []
    half = scorer_of({"walks": (0, 1), "runs": (0, 2), "bows": (3, 7)})  # each shares one of two codes, or none
    assert half.near_captions([0, 7], 3) == ["bows", "walks", "runs"]


def test_codes_that_are_absent_or_that_no_caption_has_do_not_count():
    scorer = scorer_of({"walks": (1, 2), "runs": (3,)})
    assert scorer.near_captions([-2, -1, 19, 3], 1) == ["runs"]


def test_the_log_probability_of_a_caption_is_that_of_its_tokens_one_by_one(multitask):
    """Against the network's own scores, one position after the other."""
    text, alphabet = "a person bows", multitask.text_alphabet
    (value,) = multitask._scorer.texts([{"text_query": text, "codes": MOTION, "participant_id": None}])
    example = multitask.template.render("m2t", text=text, codes=MOTION)
    network = multitask.decoder.network
    with torch.no_grad(), network.borrow(1, len(example.ids)) as borrowed:
        hidden = borrowed(torch.tensor([example.ids]), torch.zeros(1, dtype=torch.long))[0]
        scores = alphabet.scores(hidden).log_softmax(dim=1)
    places = {int(token): place for place, token in enumerate(alphabet.ids.tolist())}
    expected = sum(float(scores[position - 1, places[token]])
                   for position, token in enumerate(example.ids) if example.loss_mask[position])
    assert value == pytest.approx(expected, abs=1e-3)


def test_captions_that_do_not_fit_beside_the_motion_are_not_compared(multitask, monkeypatch):
    monkeypatch.setattr(Scorer, "near_captions", lambda self, codes, count: ["bows " * 200])
    scorer = multitask._scorer
    assert scorer.ranked_captions(MOTION, "jumps " * 200, 2, None, scorer) == [("jumps " * 200, 1.0)]
    assert [text for text, _ in scorer.ranked_captions(MOTION, "jumps", 2, None, scorer)] == ["jumps"]


def test_the_chosen_caption_explains_the_motion_best(multitask, monkeypatch):
    """The scores are put in by hand: the motion's likelihood given each caption, from the judge alone, and the
    caption's own."""
    motions, priors = {"a": -10.0, "b": -6.0, "c": -7.0}, {"a": -1.0, "b": -8.0, "c": -2.0}
    monkeypatch.setattr(Scorer, "near_captions", lambda self, codes, count: ["c", "a", " ", "b", "d"][:count])
    judge = SimpleNamespace(motions=lambda rows: [motions[row["text_query"]] for row in rows])
    monkeypatch.setattr(Scorer, "texts", lambda self, rows: [priors[row["text_query"]] for row in rows])
    ranked = multitask._scorer.ranked_captions(MOTION, "a", 5, None, judge)
    assert [text for text, _ in ranked] == ["c", "b", "a"]
    scores = np.exp([-7.6, -8.4, -10.3])
    assert [share for _, share in ranked] == pytest.approx((scores / scores.sum()).tolist())


def test_the_last_stage_of_the_run_judges_and_neither_an_export_nor_other_data_does(tiny_run, tmp_path):
    from generate import MotionGenerator

    def stage(name: str, **changes) -> None:
        shutil.copytree(tiny_run / "stage3_t2m_sft", tmp_path / name)
        path = tmp_path / name / "motion_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    shutil.copytree(tiny_run / "stage2_multitask", tmp_path / "stage2_multitask")
    alone = MotionGenerator(tmp_path / "stage2_multitask")
    assert alone.judge is alone
    stage("stage3_t2m_sft")
    stage("stage4", data_fingerprint="other")
    stage("stage5", tasks=["m2t"])
    (tmp_path / "vllm").mkdir()
    content = json.loads((tiny_run / "stage3_t2m_sft" / "motion_config.json").read_text()) | {"turns": {}}
    (tmp_path / "vllm" / "motion_config.json").write_text(json.dumps(content))
    generator = MotionGenerator(tmp_path / "stage2_multitask")
    assert generator.judge.model_path == tmp_path / "stage3_t2m_sft"
    assert generator.judge.judge is generator.judge


def test_a_caption_says_how_sure_it_is_and_what_else_it_could_be(multitask):
    caption = multitask.caption(MOTION, best_of=6)
    assert caption == multitask.caption(MOTION, best_of=6)
    assert caption.share >= max(share for _, share in caption.others)
    assert caption.share + sum(share for _, share in caption.others) == pytest.approx(1)
    assert len({caption.text, *(text for text, _ in caption.others)}) == 1 + len(caption.others) > 4
    first = multitask.answer(MotionRequest("m2t", motion=MOTION, temperature=0))[0]
    assert (first.score, first.others) == (None, ())


def test_the_command_prints_the_caption_and_logs_the_rest(tiny_run, capsys, caplog, multitask):
    caplog.set_level("INFO")
    said = ("--model_path", str(tiny_run / "stage2_multitask"), "--task", "m2t", "--motion_tokens",
            " ".join(map(str, MOTION)))
    assert run_script(inference, *said) == 0
    caption = multitask.caption(MOTION)
    assert capsys.readouterr().out == f"{caption}\n" and f"{caption.text!r}: {caption.share:.0%} sure" in caplog.text
    caplog.clear()
    assert run_script(inference, *said, "--best_of", "1") == 0
    assert "sure" not in caplog.text
