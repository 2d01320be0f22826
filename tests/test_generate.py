"""generate.py: every task, every way to set a length, and refused requests; every answer is valid.

generate.py is imported inside the tests, as its fixtures need Unsloth, which must be imported before transformers.
"""

import importlib.util
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from export import export
from model import load, sum_nll
from motion_llm.decoding.request import GenerationError, MotionRequest, MotionResult
from motion_llm.network.folder_tokenizer import FolderTokenizer


@pytest.fixture(scope="module")
def generator(tiny_run):
    from generate import MotionGenerator

    return MotionGenerator(tiny_run / "stage3_t2m_sft")


@pytest.fixture(scope="module")
def multitask(tiny_run):
    from generate import MotionGenerator

    return MotionGenerator(tiny_run / "stage2_multitask")


def codes_of(motion: str) -> list[int]:
    assert re.fullmatch(r"\d+( \d+)*", motion)
    return [int(code) for code in motion.split()]


def test_motions_keep_their_limits_in_the_datasets_format(generator):
    prompts = ["a person jumps", "a person walks forward", "nothing anyone ever wrote", "ein Mensch tanzt 💃"] * 3
    for prompt, motion in zip(prompts, generator.generate_batch(prompts, seed=1), strict=True):
        limits = generator.length_model.limits(prompt)
        codes = codes_of(motion)
        assert limits.min_tokens <= len(codes) <= limits.max_tokens
        assert max(codes) < generator.vocabulary.codebook_size


def test_a_batch_gives_what_each_prompt_gives_alone(generator):
    prompts = ["a person jumps", "a person waves with the left hand", "bows"]
    people = ["P001", None, "P002"]
    alone = [generator.generate(prompt, participant_id=person, temperature=0)
             for prompt, person in zip(prompts, people, strict=True)]
    assert generator.generate_batch(prompts, people, temperature=0) == alone


def test_a_seed_repeats_and_leaves_the_callers_random_state_alone(generator):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first = generator.generate_batch(["a person kicks"], num_samples=6, seed=3)
    assert torch.equal(torch.rand(1), expected)
    assert generator.generate_batch(["a person kicks"], num_samples=6, seed=3) == first
    assert generator.generate_batch(["a person kicks"], num_samples=6, seed=4) != first


def test_without_a_seed_motions_differ_from_call_to_call(generator):
    def motions():
        torch.manual_seed(0)  # as building a model does
        return tuple(generator.generate_batch(["a person kicks"], num_samples=6))

    assert len({motions() for _ in range(3)}) == 3


@pytest.mark.parametrize("temperature", [2, 1e-300, 100.0])
def test_any_temperature_in_its_range_works(generator, temperature):
    assert codes_of(generator.generate("a person kicks", temperature=temperature))


def test_samples_follow_one_another_in_the_order_of_the_prompts(generator):
    prompts = ["a person runs", "a person jumps", "a person runs"]
    motions = generator.generate_batch(prompts, num_samples=2, temperature=0)
    alone = [generator.generate(prompt, temperature=0) for prompt in prompts]
    assert motions == [motion for motion in alone for _ in range(2)]


def test_a_cap_is_kept_and_lowered_to_what_fits_with_a_note(generator, caplog):
    assert len(codes_of(generator.generate("a person walks forward", max_new_tokens=3))) <= 3
    with caplog.at_level("INFO"):
        generator.generate("a person walks forward", max_new_tokens=512)
    assert re.search(r"max_new_tokens 512 lowered to \d+: MAX_SEQ_LEN is 128", caplog.text)


def test_per_prompt_vocab_allows_the_captions_codes_alone_and_says_when_it_has_none(generator, caplog):
    allowed = set(generator.length_model.codes("a person bows"))
    assert allowed < set(range(generator.vocabulary.codebook_size))
    motions = generator.generate_batch(["a person bows"], per_prompt_vocab=True, temperature=5.0, num_samples=9, seed=0)
    assert {code for motion in motions for code in codes_of(motion)} <= allowed
    with caplog.at_level("WARNING"):
        generator.generate("unheard of", per_prompt_vocab=True)
    assert "'unheard of' was never seen in training" in caplog.text


@pytest.mark.parametrize(("fields", "message"), [
    (dict(prompt="a person bows", participant_id="P009"), "participant 'P009' is unknown; there are P001, P002"),
    (dict(prompt="  "), "expected a sentence"),
    (dict(prompt="a person bows", max_new_tokens=0), "max_new_tokens is 0"),
    (dict(prompt="a person bows", temperature=-1), "temperature is -1"),
    (dict(prompt="a person bows", temperature=float("nan")), "temperature is nan"),
    (dict(prompt="a person bows", top_p=0), "top_p is 0"),
    (dict(prompt="a person bows", top_k=-1), "top_k is -1"),
    (dict(prompt="a person bows", top_k=True), "top_k is True"),
    (dict(prompt="a person bows", temperature="0.5"), "temperature is '0.5'"),
    (dict(prompt="a person bows", max_new_tokens=1.5), "max_new_tokens is 1.5"),
    (dict(prompt="a person bows", end_logit_slope=float("inf")), "end_logit_slope is inf"),
    (dict(prompt="a person bows", seed=2**70), "seed is"),
    (dict(prompt="a person \ud83d bows"), "half a character"),
    (dict(prompt="long " * 200), "of the model's 128 positions"),
])
def test_a_request_that_cannot_be_answered_is_refused(generator, fields, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        generator.generate(**fields)


def test_a_stage_without_text_refuses_text_and_names_those_that_can(tiny_run):
    from generate import MotionGenerator

    with pytest.raises(GenerationError, match="trained for lm, not for text to motion.*stage2_multitask or.*stage3"):
        MotionGenerator(tiny_run / "stage1_mlm").generate("a person bows")


def test_captions_are_plain_words(multitask):
    for motion in ("1 2 3", [4, 5, 6]):
        caption = multitask.caption(motion)
        assert caption.text and not any(token in caption.text for token in multitask.tokenizer.get_added_vocab())
        assert multitask.caption(motion) == caption and str(caption) == caption.text
        assert multitask.caption(motion, best_of=1).share is None
    with pytest.raises(ValueError, match="code 999 at position 1"):
        multitask.caption("1 999")
    with pytest.raises(ValueError, match="200 motion tokens and 64 for the caption do not fit"):
        multitask.caption([1] * 200)


# Loading


def test_answers_are_those_of_the_usual_loading(generator, multitask, monkeypatch, tiny_run):
    import generate

    monkeypatch.setattr(generate, "load_for_decoding", load)
    prompts = ["a person jumps", "a person waves with the left hand", "nobody knows"]
    for fast, stage in ((generator, "stage3_t2m_sft"), (multitask, "stage2_multitask")):
        usual = generate.MotionGenerator(tiny_run / stage)
        assert isinstance(fast.tokenizer, FolderTokenizer) and not isinstance(usual.tokenizer, FolderTokenizer)
        options = dict(participant_ids=["P001", None, "P002"], num_samples=4, seed=1)
        assert fast.generate_batch(prompts, **options) == usual.generate_batch(prompts, **options)
    motions = ["1 2 3", "4 5 6 7", "8 8"]
    assert [multitask.caption(motion) for motion in motions] == [usual.caption(motion) for motion in motions]
    assert multitask.denoise("5 ? 7 ?", seed=0) == usual.denoise("5 ? 7 ?", seed=0)


def test_a_model_is_loaded_and_answers_without_slow_imports(tiny_run):
    code = ("import sys; from inference import MotionGenerator; "
            f"generator = MotionGenerator({str(tiny_run / 'stage3_t2m_sft')!r}, device='cpu'); "
            "generator.generate('a person jumps', seed=0); "
            "print({'unsloth', 'transformers', 'peft', 'trl', 'datasets', 'accelerate'} & set(sys.modules))")
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent.parent, stdout=subprocess.PIPE,
                          text=True, check=True)
    assert done.stdout == "set()\n"


# Denoise, inbetween, continue


def test_denoising_keeps_what_is_given_and_fills_in_the_rest(multitask):
    assert re.fullmatch(r"5 \d+ 7 \d+", multitask.denoise("5 ? 7 ?", seed=0))
    assert multitask.denoise("5 6 7") == "5 6 7"
    free = {multitask.denoise("5 6 7", keep_given=False, temperature=5.0, seed=seed) for seed in range(5)}
    assert len(free) > 1 and all(len(codes_of(motion)) == 3 for motion in free)
    with pytest.raises(ValueError, match="code 999 at position 1"):
        multitask.denoise("? 999")
    with pytest.raises(ValueError, match="60 motion tokens, in the prompt and in the answer, take"):
        multitask.denoise("? " * 60)


def test_going_over_a_gap_keeps_both_ends_and_the_length(multitask):
    codes = codes_of(multitask.inbetween("5 6", [7, 8, 9], 11, seed=1))
    assert len(codes) == 11 and codes[:2] == [5, 6] and codes[-3:] == [7, 8, 9]
    with pytest.raises(ValueError, match="5 tokens are given and the answer has 5: nothing is left to fill in"):
        multitask.inbetween("5 6", [7, 8, 9], 5)


def test_going_on_keeps_the_start(multitask, generator):
    median = round(multitask.length_model.overall.median)
    assert len(codes_of(multitask.continue_motion("5 6", seed=1))) == median
    long = codes_of(multitask.continue_motion([5] * median, seed=1))
    assert len(long) == median + 1 and long[:-1] == [5] * median
    assert len(codes_of(multitask.continue_motion("5 6", tokens=9, seed=1))) == 9
    for stage in (generator, multitask):  # with a caption the task is text to motion
        result, = stage.answer([MotionRequest(task="continue", text="a person jumps", motion="5 6 7")], seed=1)
        assert result.codes[:3] == (5, 6, 7) and result.text == "a person jumps"
        assert max(result.limits.min_tokens, 4) <= len(result.codes) <= result.limits.max_tokens
    with pytest.raises(ValueError, match="3 motion tokens were asked for, 4 or more are needed"):
        generator.continue_motion("5 6 7", "a person jumps", tokens=3)


def test_requests_of_every_kind_are_answered_together_in_their_order(multitask):
    requests = [MotionRequest(text="a person jumps", num_samples=2), MotionRequest(task="m2t", motion="1 2"),
                MotionRequest(task="denoise", motion="? 3"),
                MotionRequest(text="a person bows", temperature=0, tokens=6)]
    results = multitask.answer(requests, seed=2)
    assert [result.text for result in results[:2]] == ["a person jumps"] * 2
    assert results[2].motion_tokens == "1 2" and results[2].text and results[2].limits is None
    assert results[3].codes[1] == 3 and len(results[4].codes) == 6
    assert all(result.log_probability < 0 for result in results)
    alone = [multitask.answer([request], seed=2) for request in requests]
    assert alone[0] == results[:2] or alone[0][0].codes == results[0].codes


def test_answers_come_one_by_one_and_are_those_of_a_whole_call(generator, monkeypatch):
    """Some clips, some as the best of several, in parts of three samples that are decoded one after the other."""
    requests = [MotionRequest(text="a person jumps", num_samples=4), MotionRequest(text="a person bows", best_of=3),
                MotionRequest(text="someone walks", best_of=2, num_samples=2)]
    whole = generator.answer(requests, seed=6)
    parts, decode = [], generator._decode
    monkeypatch.setattr("motion_llm.decoding.answerer.SAMPLES_AT_ONCE", 3)
    monkeypatch.setattr(generator, "_decode",
                        lambda requests, jobs, tries, seed: parts.append(len(tries)) or decode(requests, jobs, tries,
                                                                                               seed))
    results = generator.answers(requests, seed=6)
    first = [next(results) for _ in range(3)]
    assert parts == [3]  # the rest was not decoded yet
    assert [result.codes for result in [*first, *results]] == [result.codes for result in whole]
    assert parts == [3, 1 + 3 + 2, 2]


def test_the_first_answers_come_while_later_ones_wait(generator, monkeypatch):
    monkeypatch.setattr("motion_llm.decoding.loop.WINDOW", 1)
    monkeypatch.setattr(generator.decoder, "slots", 2)
    steps, decoder = [], type(generator.decoder)
    step = decoder._step
    monkeypatch.setattr(decoder, "_step", lambda self, *arguments: steps.append(1) or step(self, *arguments))
    results = generator.answers([MotionRequest(text="a person jumps", tokens=6, num_samples=20)], seed=1)
    next(results)
    assert len(steps) <= 8
    assert len(list(results)) == 19 and len(steps) > 60


def test_more_than_a_call_can_decode_is_refused_at_once(generator):
    request = MotionRequest(text="a person jumps", tokens=30, num_samples=1_000_000, best_of=4)
    with pytest.raises(GenerationError, match="4,000,000 answers .* of up to 30 tokens .* 120,000,000 tokens in all"):
        generator.answers(request)


def test_a_very_long_motion_is_refused_in_a_moment(multitask):
    motion = [1, 2] * 100_000
    started = time.monotonic()
    for request in (MotionRequest("m2t", motion=motion), MotionRequest("denoise", motion=motion),
                    MotionRequest("continue", motion=motion), MotionRequest("continue", text="bows", motion=motion),
                    MotionRequest("inbetween", motion=motion, end=[3], tokens=200_010)):
        with pytest.raises(GenerationError, match=r"200,?0\d\d (motion tokens|or more)"):
            multitask.answer(request, seed=0)
    assert time.monotonic() - started < 5


def test_a_task_that_a_stage_was_not_trained_for_is_refused_by_name(generator):
    for call in (lambda: generator.caption("1 2"), lambda: generator.denoise("1 ?"),
                 lambda: generator.inbetween("1", "2", 5), lambda: generator.continue_motion("1 2")):
        with pytest.raises(ValueError, match="was trained for t2m, not for .*; use .*stage2_multitask"):
            call()


def test_an_engine_that_cannot_run_is_refused_with_the_reason(tiny_run, tmp_path):
    from generate import MotionGenerator

    with pytest.raises(GenerationError, match="engine 'turbo' is unknown; there are own, vllm"):
        MotionGenerator(tiny_run / "stage3_t2m_sft", engine="turbo")
    with pytest.raises(ValueError, match="vLLM needs an exported one: python export.py"):
        MotionGenerator(tiny_run / "stage3_t2m_sft", engine="vllm")
    served = export(tiny_run / "stage3_t2m_sft", tmp_path / "served")
    with pytest.raises(GenerationError, match="was exported for serving engines"):
        MotionGenerator(served)
    if importlib.util.find_spec("vllm") is None:
        with pytest.raises(ValueError, match="the package vllm is not installed here"):
            MotionGenerator(served, engine="vllm")


# Lengths


@pytest.mark.parametrize(("lengths", "low", "high"), [
    (dict(tokens=1), 1, 1), (dict(tokens=40), 40, 40), (dict(min_tokens=30, max_tokens=33), 30, 33),
    (dict(min_tokens=25), 25, 25), (dict(max_tokens=2), 2, 2), (dict(seconds=3.5), 26, 26),
    (dict(seconds=0.01), 1, 1), (dict(min_tokens=3, max_new_tokens=5), 3, 5)])
def test_a_requested_length_is_kept_exactly(generator, monkeypatch, lengths, low, high):
    monkeypatch.setitem(generator.settings, "TOKENS_PER_SECOND", 7.5)
    request = MotionRequest(text="a person jumps", num_samples=12, temperature=2.0, end_logit_slope=0, **lengths)
    for result in generator.answer(request, seed=0):
        assert low <= len(result.codes) <= high
        assert (result.limits.min_tokens, result.limits.max_tokens) == (
            low if set(lengths) != {"max_tokens"} else result.limits.min_tokens, high)


def test_the_source_of_a_length_is_given(generator, monkeypatch):
    monkeypatch.setitem(generator.settings, "TOKENS_PER_SECOND", 7.5)

    def source(**lengths):
        return generator.answer(MotionRequest(text="a person jumps", **lengths), seed=0)[0].limits.source

    assert source(tokens=9) == "9 tokens, as asked"
    assert source(seconds=2) == "2 s at 7.5 tokens a second"
    assert "clips of this caption" in source()


def test_seconds_need_a_rate(generator):
    with pytest.raises(ValueError, match="does not know its tokens' rate: set TOKENS_PER_SECOND"):
        generator.generate("a person jumps", seconds=2)


@pytest.mark.parametrize("lengths", [dict(tokens=125), dict(min_tokens=125), dict(max_tokens=125),
                                     dict(min_tokens=2, max_tokens=125)])
def test_an_explicit_length_that_cannot_fit_is_refused(generator, lengths):
    with pytest.raises(ValueError, match=r"125 motion tokens were asked for; the prompt takes \d+ of the model's 128"):
        generator.generate("a person jumps", **lengths)


def test_the_longest_length_that_fits_is_answered(generator):
    with pytest.raises(ValueError) as error:
        generator.generate("a person jumps", tokens=125)
    most = int(re.search(r"leaves (\d+)", str(error.value))[1])
    assert len(codes_of(generator.generate("a person jumps", tokens=most, seed=0))) == most
    with pytest.raises(ValueError, match="were asked for"):
        generator.generate("a person jumps", tokens=most + 1)


# Streaming


def test_a_stream_gives_the_tokens_of_the_same_answer_one_by_one(generator):
    request = MotionRequest(text="a person jumps", tokens=6)
    tokens = generator.stream(request, seed=4)
    assert isinstance(tokens, Iterator)
    assert tuple(tokens) == generator.answer(request, seed=4)[0].codes
    assert list(generator.stream(MotionRequest(task="continue", text="bows", motion="5 6"), seed=4))[:2] == [5, 6]
    for request in (MotionRequest(text="x", num_samples=2), MotionRequest(text="x", best_of=2),
                    MotionRequest(task="m2t", motion="1")):
        with pytest.raises(ValueError, match="one motion"):
            generator.stream(request)


def test_a_stream_does_not_wait_for_the_end(generator, monkeypatch):
    passes, network = [], type(generator.decoder.network)
    forward = network.__call__
    monkeypatch.setattr(network, "__call__",
                        lambda self, *given, **named: passes.append(1) or forward(self, *given, **named))
    tokens = generator.stream(MotionRequest(text="a person jumps", tokens=20, guidance=1), seed=4)
    next(tokens)
    assert len(passes) == 2  # the prompt and one token
    passes.clear()
    guided = generator.stream(MotionRequest(text="a person jumps", tokens=20, guidance=3), seed=4)
    assert len(list(guided)) == 20 and len(passes) <= 22  # both prompts in one pass, then one pass per token


def test_streams_in_turn_and_a_request_between_their_tokens_give_the_answers_that_each_alone_gives(generator):
    requests = [MotionRequest(text=text, tokens=12) for text in ("a person jumps", "a person bows", "someone walks")]
    alone = [generator.answer(request, seed=5)[0].codes for request in requests]
    first, second = (generator.stream(request, seed=5) for request in requests[:2])
    codes = ([], [])
    for _ in range(12):
        codes[0].append(next(first))
        assert generator.answer(requests[2], seed=5)[0].codes == alone[2]
        codes[1].append(next(second))
    assert (tuple(codes[0]), tuple(codes[1])) == (alone[0], alone[1])


def test_threads_get_the_answers_of_one_after_the_other(generator):
    requests = [MotionRequest(text=f"a person jumps {i} times", tokens=20 + i, num_samples=2) for i in range(8)]
    alone = [[result.codes for result in generator.answer(request, seed=5)] for request in requests]
    for _ in range(3):
        with ThreadPoolExecutor(8) as pool:
            together = list(pool.map(lambda request: generator.answer(request, seed=5), requests))
        assert [[result.codes for result in results] for results in together] == alone


# The best of several


def test_the_best_of_several_is_the_one_that_fits_its_caption_best(multitask):
    several = multitask.answer(MotionRequest(text="a person jumps", num_samples=6), seed=3)
    scores = multitask.caption_scores(several)
    best, = multitask.answer(MotionRequest(text="a person jumps", best_of=6), seed=3)
    assert best.codes == several[max(range(6), key=lambda i: scores[i])].codes
    assert best.score == pytest.approx(max(scores))
    pair = multitask.answer(MotionRequest(text="a person jumps", best_of=3, num_samples=2), seed=3)
    assert [result.score for result in pair] == pytest.approx([max(scores[:3]), max(scores[3:])])


def test_a_caption_is_scored_among_training_captions_by_bayes_rule(generator, monkeypatch):
    result = MotionResult("", "a person jumps", codes=(3, 1, 2))
    distractors = generator._scorer._distractors(result)
    trained = set(generator.length_model.captions)
    assert len(set(distractors)) == len(distractors) and set(distractors) == trained - {"a person jumps"}
    rows = [{"text_query": text, "codes": (3, 1, 2), "participant_id": "P001"}
            for text in ("a person jumps", *distractors)]
    likelihoods = generator.motion_log_probabilities(rows)
    shares = torch.softmax(torch.tensor(likelihoods, dtype=torch.float64), dim=0)
    assert generator.caption_scores([result], "P001") == [pytest.approx(float(shares[0].log()), abs=1e-4)]
    # A caption that was never seen has distractors too; beside a motion as long as the model allows none fits.
    assert set(generator._scorer._distractors(MotionResult("", "unheard of", codes=(1,)))) == trained
    assert generator._scorer._distractors(MotionResult("", "bows", codes=(1,) * 125)) == []


def test_nll_is_what_training_measures(multitask, tiny_run):
    rows = [{"text_query": "a person jumps", "codes": [1, 2, 3], "participant_id": None},
            {"text_query": "bows", "codes": [7], "participant_id": "P001"}]
    total, count = sum_nll(load(tiny_run / "stage2_multitask"), rows, "t2m", 2)
    assert multitask.motion_nll(rows) == (pytest.approx(total / count, abs=1e-4), count)


def test_lengths_and_codes_come_from_a_dataset_where_one_is_given(tiny_run, tmp_path):
    from generate import MotionGenerator

    path = tmp_path / "other.json"
    path.write_text(json.dumps([{"text_query": "a person bows", "motion_tokens": [3] * n} for n in (30, 31, 31, 32)]))
    generator = MotionGenerator(tiny_run / "stage3_t2m_sft", dataset_path=path)
    codes = codes_of(generator.generate("a person bows", per_prompt_vocab=True))
    assert set(codes) == {3} and 29 <= len(codes) <= 33
    path.write_text(json.dumps([{"text_query": "a person bows", "motion_tokens": [3, 4000]}]))
    with pytest.raises(ValueError, match="4000"):
        MotionGenerator(tiny_run / "stage3_t2m_sft", dataset_path=path)


def test_guidance_changes_motions_and_keeps_their_limits(generator, monkeypatch):
    prompts = ["a person jumps", "a person walks forward"] * 3
    plain = generator.generate_batch(prompts, seed=1, guidance=1.0)
    guided = generator.generate_batch(prompts, seed=1, guidance=4.0)
    assert guided != plain
    for prompt, motion in zip(prompts, guided, strict=True):
        limits = generator.length_model.limits(prompt)
        assert limits.min_tokens <= len(codes_of(motion)) <= limits.max_tokens
    monkeypatch.setitem(generator.settings, "GEN_GUIDANCE", 4.0)
    assert generator.generate_batch(prompts, seed=1) == guided


def test_a_folder_from_before_guidance_is_decoded_without_it(generator, monkeypatch):
    plain = generator.generate("a person jumps", seed=1, guidance=1.0)
    monkeypatch.delitem(generator.settings, "CAPTION_DROPOUT")
    monkeypatch.delitem(generator.settings, "GEN_GUIDANCE")
    assert generator.generate("a person jumps", seed=1) == plain


def test_guidance_is_refused_where_it_cannot_work(generator, monkeypatch):
    monkeypatch.setitem(generator.settings, "CAPTION_DROPOUT", 0.0)
    with pytest.raises(GenerationError, match="guidance is 2, but .* was trained with every caption"):
        generator.generate("a person jumps", guidance=2)
    with pytest.raises(GenerationError, match="guidance makes a motion follow its caption, and m2t was given none"):
        MotionRequest("m2t", motion="1 2 3", guidance=2)
    with pytest.raises(GenerationError, match="guidance is -1"):
        generator.generate("a person jumps", guidance=-1)


def test_tasks_without_a_caption_go_without_the_folders_guidance(multitask, monkeypatch):
    assert multitask.settings["GEN_GUIDANCE"] != 1
    decoded, decode = [], multitask.decoder.answers
    monkeypatch.setattr(multitask.decoder, "answers",
                        lambda jobs, alphabet: decoded.extend(jobs) or decode(jobs, alphabet))
    multitask.denoise("1 2 ? 4 5", seed=0)
    assert [(job.sampling.guidance, list(job.unconditional_ids)) for job in decoded] == [(1.0, [])]
