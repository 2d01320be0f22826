"""generate.py: whatever the scores are, an answer is never empty, never outside the codebook or its limits."""

import json
import re

import pytest
import torch


@pytest.fixture(scope="module")
def modules(unsloth):
    import generate
    import lengths

    return generate, lengths


@pytest.fixture(scope="module")
def generator(tiny_run):
    from generate import MotionGenerator

    return MotionGenerator(tiny_run / "stage3_t2m_sft")


FIRST, CODES, VOCABULARY = 50, 6, 60  # ids 50..55 are codes, 56 the end, the rest text and other tokens


def adversary(kind: str, generator: torch.Generator, size: int) -> torch.Tensor:
    scores = torch.randn(size, VOCABULARY, generator=generator)
    end = FIRST + CODES
    if kind == "all mass on text":
        scores[:, :FIRST] += 1e4
    elif kind == "all mass on the end":
        scores[:, end] += 1e6
    elif kind == "the end impossible":
        scores[:, end] = -torch.inf
    elif kind == "codes impossible":
        scores[:, FIRST:end] = -torch.inf
    elif kind == "everything impossible":
        scores[:] = -torch.inf
    elif kind == "infinite":
        scores[:, ::2] = torch.inf
    elif kind == "one code forever":
        scores[:, FIRST + 1] += 1e30
    return scores


@pytest.mark.parametrize("slope", [0.0, 0.5, 1000.0])
@pytest.mark.parametrize("kind", ["random", "all mass on text", "all mass on the end", "the end impossible",
                                  "codes impossible", "everything impossible", "infinite", "one code forever"])
def test_every_answer_is_valid_under_adversarial_scores(modules, kind, slope):
    generate, lengths = modules
    from templates import MotionVocabulary

    draw = torch.Generator().manual_seed(0)
    vocabulary = MotionVocabulary(FIRST, CODES)
    limits = [lengths.LengthLimits(1, 1, 1, ""), lengths.LengthLimits(2, 3.5, 7, ""), lengths.LengthLimits(5, 5, 5, ""),
              lengths.LengthLimits(1, 12, 12, "")]
    allowed = torch.ones(len(limits), CODES, dtype=torch.bool)
    allowed[1, 2:] = False
    for _ in range(5):
        processor = generate.LengthAwareMotionLogitsProcessor(vocabulary, limits, 3, slope, allowed)
        ids = torch.zeros(len(limits), 3, dtype=torch.long)
        while ids.shape[1] < 3 + 13:
            shares = torch.softmax(processor(ids, adversary(kind, draw, len(limits))), dim=-1)
            ids = torch.cat([ids, torch.multinomial(shares, 1, generator=draw)], dim=1)
        for row, (answer, limit) in enumerate(zip(ids[:, 3:].tolist(), limits, strict=True)):
            codes = answer[:answer.index(vocabulary.end_id)]
            assert limit.min_tokens <= len(codes) <= limit.max_tokens
            assert all(FIRST <= code < FIRST + CODES and allowed[row, code - FIRST] for code in codes)


def test_a_score_that_is_no_number_is_an_error(modules):
    generate, lengths = modules
    from templates import MotionVocabulary

    processor = generate.LengthAwareMotionLogitsProcessor(
        MotionVocabulary(FIRST, CODES), [lengths.LengthLimits(1, 2, 3, "")] * 2, 3, 0.5)
    scores = torch.zeros(2, VOCABULARY)
    scores[1, FIRST + 2] = torch.nan
    with pytest.raises(generate.GenerationError, match=r"NaN\) for row 1 at token 1"):
        processor(torch.zeros(2, 4, dtype=torch.long), scores)


def test_slope_zero_leaves_the_models_own_distribution_and_a_slope_shifts_the_end_alone(modules):
    generate, lengths = modules
    from templates import MotionVocabulary

    vocabulary, limits = MotionVocabulary(FIRST, CODES), [lengths.LengthLimits(1, 4, 30, "")]
    scores = torch.randn(1, VOCABULARY)
    answer = slice(FIRST, FIRST + CODES + 1)
    for tokens, shift in ((2, -1.0), (4, 0.0), (7, 1.5), (29, 10.0)):
        ids = torch.zeros(1, 3 + tokens, dtype=torch.long)
        own = generate.LengthAwareMotionLogitsProcessor(vocabulary, limits, 3, 0.0)(ids, scores)
        torch.testing.assert_close(own[:, answer], scores[:, answer])
        assert torch.isinf(own[:, :FIRST]).all() and torch.isinf(own[:, FIRST + CODES + 1:]).all()
        shifted = generate.LengthAwareMotionLogitsProcessor(vocabulary, limits, 3, 0.5)(ids, scores)
        expected = scores[:, answer].clone()
        expected[:, -1] += shift
        torch.testing.assert_close(shifted[:, answer], expected)


@pytest.mark.parametrize(("low", "high"), [(0, 3), (4, 3)])
def test_impossible_limits_are_refused(modules, low, high):
    generate, lengths = modules
    from templates import MotionVocabulary

    with pytest.raises(generate.GenerationError, match="expected 1 <= min_tokens <= max_tokens"):
        generate.LengthAwareMotionLogitsProcessor(MotionVocabulary(FIRST, CODES),
                                                  [lengths.LengthLimits(low, 2, high, "")], 3, 0.5)


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
    alone = [generator.generate(p, participant_id=q, temperature=0) for p, q in zip(prompts, people, strict=True)]
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
    def fresh():
        torch.manual_seed(0)  # what building a model does
        return tuple(generator.generate_batch(["a person kicks"], num_samples=6))

    assert len({fresh() for _ in range(3)}) == 3


@pytest.mark.parametrize("temperature", [2, 1e-300, 100.0])
def test_any_temperature_of_its_range_works(generator, temperature):
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


@pytest.mark.parametrize(("request_", "said"), [
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
def test_a_request_that_cannot_be_answered_is_refused(generator, request_, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        generator.generate(**request_)


def test_no_samples_are_refused(generator):
    with pytest.raises(ValueError, match="num_samples is 0"):
        generator.generate_batch(["a person bows"], num_samples=0)


def test_a_stage_without_text_refuses_text_and_names_those_that_can(tiny_run):
    from generate import GenerationError, MotionGenerator

    with pytest.raises(GenerationError, match="trained for lm, not for text to motion.*stage2_multitask or.*stage3"):
        MotionGenerator(tiny_run / "stage1_mlm").generate("a person bows")


def test_captions_are_plain_words(tiny_run):
    from generate import MotionGenerator

    generator = MotionGenerator(tiny_run / "stage2_multitask")
    tokenizer = generator.model.tokenizer
    for motion in ("1 2 3", [4, 5, 6]):
        text = generator.caption(motion)
        assert not any(token in text for token in tokenizer.get_added_vocab())
    with pytest.raises(ValueError, match="code 999 at position 1"):
        generator.caption("1 999")
    for odd in ("", "1,2", [1.7], "1 -1"):
        with pytest.raises(ValueError, match="expected codes such as"):
            generator.caption(odd)
    with pytest.raises(ValueError, match="200 motion tokens and 64 for the caption do not fit"):
        generator.caption([1] * 200)


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
