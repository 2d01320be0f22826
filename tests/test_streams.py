"""Motions of several streams from the dataset to an answer: one tiny run of two streams, one of levels.

generate.py is imported inside the tests, as its fixtures need Unsloth, which must be imported before transformers.
"""

import json
import random

import numpy as np
import pytest
import torch
from conftest import ACTIONS, TINY_SETTINGS, run_script

import inference
import train_pipeline
from collators import collate, corrupt, with_lost_streams, with_noisy_history
from model import load
from motion_llm.decoding.request import GenerationError, MotionRequest
from motion_llm.streams import ABSENT, MASKED, OBJECT, STEPS, StreamError, Streams
from templates import MotionVocabulary

BODY_AND_HANDS = Streams(("body", "hands"), (16, 8))


def rows_of(form: str) -> list[dict]:
    """60 rows of two streams, 16 and 8 codes; every tenth has no hands."""
    rng, rows = random.Random(0), []
    for action in ACTIONS:
        body, hands = [rng.randrange(16) for _ in range(3)], [rng.randrange(8) for _ in range(2)]
        for clip in range(6):
            length = 5 + clip
            codes = [(body * 5)[:length], (hands * 6)[:length]]
            if not rows:
                codes[0][0], codes[1][0] = 15, 7  # so that the data has every codebook's last code
            motion = [list(step) for step in zip(*codes, strict=True)] if form == STEPS else {
                "body": " ".join(map(str, codes[0])),
                "hands": None if len(rows) % 10 == 3 else " ".join(map(str, codes[1]))}
            rows.append({"text_query": f"a person {action}", "motion_tokens": motion})
    return rows


@pytest.fixture(scope="module")
def runs(tiny_base, tmp_path_factory):
    """form -> WORK_DIR of a run on the tiny base."""
    folders = {}

    def of(form: str):
        if form not in folders:
            folder = tmp_path_factory.mktemp(form)
            (folder / "data.json").write_text(json.dumps(rows_of(form)), encoding="utf-8")
            assert run_script(train_pipeline, "--data_json_path", str(folder / "data.json"), "--model_name",
                              tiny_base("llama"), *TINY_SETTINGS, "--work_dir", str(folder / "output")) == 0
            folders[form] = folder / "output"
        return folders[form]

    return of


@pytest.fixture(scope="module")
def generators(runs):
    from generate import MotionGenerator

    made = {}

    def of(form: str, stage: str = "stage2_multitask"):
        if (form, stage) not in made:
            made[form, stage] = MotionGenerator(runs(form) / stage)
        return made[form, stage]

    return of


# The forms


def test_flat_codes_stand_step_by_step_in_one_codebook():
    flat = BODY_AND_HANDS.read({"body": "3 0", "hands": "7 1"})
    assert flat == (3, 16 + 7, 0, 16 + 1)
    assert BODY_AND_HANDS.steps(flat).tolist() == [[3, 7], [0, 1]]
    assert BODY_AND_HANDS.written(flat) == {"body": "3 0", "hands": "7 1"}
    assert [BODY_AND_HANDS.tokens()[code] for code in flat] == ["<body_3>", "<hands_7>", "<body_0>", "<hands_1>"]
    assert Streams(("q0", "q1"), (16, 8), STEPS).written(flat) == [[3, 7], [0, 1]]


def test_one_stream_is_its_own_flat_sequence():
    one = Streams.one(9)
    assert one.read("4 8 0") == one.read([4, 8, 0]) == (4, 8, 0)
    assert one.written([4, 8, 0]) == "4 8 0" and one.tokens()[8] == "<motion_8>"


def test_lost_and_absent_streams_are_read_and_written():
    lost = BODY_AND_HANDS.read({"body": "3 ?", "hands": "?"}, lost=True)
    assert lost == (3, MASKED, MASKED, MASKED)
    absent = BODY_AND_HANDS.read({"body": "3 4", "hands": None})
    assert absent == (3, ABSENT, 4, ABSENT)
    assert BODY_AND_HANDS.written(absent) == {"body": "3 4", "hands": None}


@pytest.mark.parametrize(("value", "message"), [
    ({"body": "3 4"}, "has the streams body, expected body, hands"),
    ({"body": "3 4", "hands": "1"}, "2 codes of body, 1 codes of hands"),
    ({"body": "3", "hands": "8"}, "code 8 at step 0 of hands is outside the codebook (0 to 7)"),
    ({"body": "3 x", "hands": "1 1"}, "motion_tokens of body: 'x' at position 1"),
    ({"body": None, "hands": None}, "expected an object of 2 streams"),
    ({"body": "?", "hands": "?"}, "expected an object of 2 streams"),
    ([[1, 2], [3]], "expected an object of 2 streams"),
    ("1 2", "expected an object of 2 streams"),
])
def test_a_motion_of_other_streams_is_refused_with_what_is_expected(value, message):
    with pytest.raises(StreamError) as error:
        BODY_AND_HANDS.read(value, lost=True)
    assert message in str(error.value)


@pytest.mark.parametrize(("names", "message"), [
    (("a b", "c"), "no spaces"), (("<a>", "c"), "no <"), (("PID", "c"), "reserved"), (("a", "a"), "each name once"),
    (("", "c"), "1 to 32 characters")])
def test_a_stream_that_cannot_have_its_name_is_refused(names, message):
    with pytest.raises(StreamError, match=message):
        Streams(names, (3, 3))


# Training


def test_noise_and_random_history_stay_in_the_codes_of_their_stream():
    codes = BODY_AND_HANDS.flat(np.tile([[3, 5]], (20, 1)))
    for seed in range(60):
        noisy = corrupt(codes, np.random.default_rng(seed), BODY_AND_HANDS)
        assert BODY_AND_HANDS.problem(noisy, [MASKED]) is None and (noisy != codes).any()
    vocabulary = MotionVocabulary(100, 24, (), BODY_AND_HANDS)

    class Shown:
        ids, loss_mask = [7, 7, *vocabulary.code_ids(codes)], [False] * 2 + [True] * len(codes)

    shown = with_noisy_history(Shown, np.random.default_rng(0), 1.0, vocabulary).shown
    assert BODY_AND_HANDS.problem([i - 100 for i in shown[2:]]) is None and shown[2:] != Shown.ids[2:]


def test_whole_streams_are_lost_but_never_all_and_never_those_that_are_absent():
    three = Streams(("a", "b", "c"), (4, 4, 4))
    codes = three.flat(np.tile([[1, ABSENT, 3]], (5, 1)))
    lost = {tuple(three.steps(with_lost_streams(codes, np.random.default_rng(seed), three))[0]) for seed in range(20)}
    assert lost == {(MASKED, ABSENT, 3), (1, ABSENT, MASKED)}


def test_the_loss_is_a_softmax_over_the_positions_own_stream(runs):
    model = load(runs(OBJECT) / "stage2_multitask")
    codes = BODY_AND_HANDS.read({"body": "3 0 9", "hands": "7 1 1"})
    example = model.template.render("t2m", text="a person bows", codes=codes)
    batch = collate([example], model.pad_id)
    with torch.no_grad():
        nll = model.answer_nll(**batch)
        hidden = model.hidden_states(batch["input_ids"], batch["attention_mask"])[0]
        logits = hidden[-len(codes) - 2:-1].float() @ model.answer_rows().float().T  # (7, 25), the end last
    for place, (code, value) in enumerate(zip([*codes, 24], nll.tolist(), strict=True)):
        own = [*range(16), 24] if place % 2 == 0 else list(range(16, 24))
        assert value == pytest.approx(-torch.log_softmax(logits[place][own], 0)[own.index(code)].item(), abs=1e-4)


def test_an_absent_stream_has_no_loss_but_that_the_motion_goes_on(runs):
    model = load(runs(OBJECT) / "stage2_multitask")

    def nll(motion):
        codes = BODY_AND_HANDS.read(motion)
        batch = collate([model.template.render("t2m", text="a person bows", codes=codes)], model.pad_id)
        with torch.no_grad():
            return model.answer_nll(**batch)

    assert len(nll({"body": "3 0 9", "hands": None})) == 4  # three codes and the end
    without_body = nll({"body": None, "hands": "1 2 3"})
    assert len(without_body) == 7 and (without_body > 0).all()  # three times "goes on", three codes, the end


# Answers


@pytest.mark.parametrize("form", [OBJECT, STEPS])
def test_answers_have_the_datasets_form_and_keep_their_limits_in_steps(generators, form):
    generator = generators(form)
    streams = generator.vocabulary.streams
    results = generator.answer([MotionRequest(text=f"a person {action}", num_samples=3) for action in ACTIONS], seed=1)
    for result in results:
        flat = streams.read(result.motion_tokens)
        assert flat == result.codes and streams.problem(flat) is None
        assert result.limits.min_tokens <= len(flat) // 2 <= result.limits.max_tokens
    exact = generator.answer(MotionRequest(text="a person bows", tokens=7), seed=0)[0]
    assert len(exact.codes) == 14
    assert len(generator.answer(MotionRequest(text="a person bows", min_tokens=9, max_tokens=9))[0].codes) == 18


def test_a_step_shifts_the_end_as_much_as_a_token_of_one_stream(generators):
    job, limits = generators(OBJECT)._job(MotionRequest(text="a person bows", end_logit_slope=0.8), (0,))
    assert job.sampling.slope == pytest.approx(0.4)  # a code, of which a step has two
    assert job.limits.soft_target == 2 * limits.soft_target


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_greedy_answers_are_those_of_model_generate_under_the_same_constraints(generators, runs, guidance):
    from transformers import GenerationConfig, LogitsProcessorList

    from generate import LengthAwareMotionLogitsProcessor
    from motion_llm.decoding.sampling import guided

    generator, vocabulary = generators(OBJECT), generators(OBJECT).vocabulary
    network = load(runs(OBJECT) / "stage2_multitask").merged()
    for prompt in ("a person bows", "a person runs", "something else"):
        request = MotionRequest(text=prompt, temperature=0, guidance=guidance)
        result = generator.answer(request)[0]
        ids, empty = (torch.tensor([generator.template.render("t2m", text=text, answer=False).ids])
                      for text in (prompt, ""))
        steer = LengthAwareMotionLogitsProcessor(vocabulary, [result.limits], ids.shape[1],
                                                 generator.settings["GEN_END_LOGIT_SLOPE"])

        def guide(input_ids, scores, ids=ids, empty=empty):
            answer = input_ids[:, ids.shape[1]:]
            without = network(torch.cat([empty, answer], 1)).logits[:, -1]
            return guided(scores, without, torch.tensor([[guidance]]))

        answer = network.generate(
            ids, attention_mask=torch.ones_like(ids), logits_processor=LogitsProcessorList([guide, steer]),
            generation_config=GenerationConfig(do_sample=False, max_new_tokens=60, eos_token_id=vocabulary.end_id,
                                               pad_token_id=0))[0, ids.shape[1]:].tolist()
        assert [i - vocabulary.first_motion_id for i in answer[:-1]] == list(result.codes)


def test_given_streams_stay_and_the_others_are_filled_in(generators):
    generator = generators(OBJECT)
    filled = generator.denoise({"body": "1 2 3 4", "hands": "?"}, seed=0)
    assert filled["body"] == "1 2 3 4" and len(filled["hands"].split()) == 4
    kept = generator.denoise({"body": "1 ? 3", "hands": None}, seed=0)
    assert kept["hands"] is None and kept["body"].split()[::2] == ["1", "3"]
    between = generator.inbetween({"body": "1", "hands": "2"}, {"body": "3", "hands": "4"}, length=5, seed=0)
    assert between["body"].split()[0] == "1" and between["hands"].split()[-1] == "4"
    further = generator.continue_motion({"body": "1 2", "hands": "2 2"}, seed=0, tokens=6)
    assert further["hands"].startswith("2 2 ") and len(further["body"].split()) == 6
    levels = generators(STEPS).denoise([[1, "?"], [2, "?"]], seed=0)
    assert [step[0] for step in levels] == [1, 2] and all(0 <= step[1] < 8 for step in levels)


@pytest.mark.parametrize("asked", ["body", "hands"])
def test_a_part_of_the_streams_can_be_asked_for(generators, asked):
    generator = generators(OBJECT)
    other = {"body": "hands", "hands": "body"}[asked]
    lengths = set()
    for result in generator.answer(MotionRequest(text="a person bows", streams=asked, num_samples=12), seed=0):
        assert result.motion_tokens[other] is None
        count = len(result.motion_tokens[asked].split())
        assert result.limits.min_tokens <= count <= result.limits.max_tokens
        lengths.add(count)
    assert len(lengths) > 1  # the model decides where it ends


def test_a_stream_comes_a_step_at_a_time(generators):
    generator = generators(OBJECT)
    request = MotionRequest(text="a person bows", temperature=0)
    steps = list(generator.stream(request))
    assert [list(step) for step in steps] == BODY_AND_HANDS.steps(generator.answer(request)[0].codes).tolist()
    alone = list(generator.stream(MotionRequest(text="a person bows", streams=["body"]), seed=0))
    assert all(hands is None and 0 <= body < 16 for body, hands in alone)


def test_a_batch_gives_what_each_request_gives_alone(generators):
    generator = generators(OBJECT)
    requests = [MotionRequest(text="a person bows", temperature=0), MotionRequest(text="a person runs", temperature=0,
                                                                                  streams="hands"),
                MotionRequest("denoise", motion={"body": "1 ? 3", "hands": "?"}, temperature=0)]
    assert [result.codes for result in generator.answer(requests)] == [generator.answer(request)[0].codes
                                                                        for request in requests]


def test_likelihoods_are_those_of_training(generators, runs):
    from model import sum_nll

    generator, model = generators(OBJECT), load(runs(OBJECT) / "stage2_multitask")
    rows = [{"text_query": "a person bows", "participant_id": None, "codes": BODY_AND_HANDS.read(motion)}
            for motion in ({"body": "3 0", "hands": "7 1"}, {"body": "3 0", "hands": None},
                           {"body": None, "hands": "7 1"})]
    for row in rows:
        assert -generator.motion_log_probabilities([row])[0] == pytest.approx(sum_nll(model, [row], "t2m", 1)[0],
                                                                             abs=1e-3)


def test_per_prompt_codes_are_those_of_each_stream(generators):
    generator = generators(OBJECT)
    seen = set(generator.length_model.codes("a person bows"))
    for result in generator.answer(MotionRequest(text="a person bows", per_prompt_vocab=True, temperature=5.0,
                                                 num_samples=9), seed=0):
        assert set(result.codes) <= seen


@pytest.mark.parametrize(("fields", "message"), [
    ({"task": "m2t", "motion": "1 2 3"}, "expected an object of 2 streams"),
    ({"text": "bows", "streams": "feet"}, "stream 'feet' is unknown; there are body, hands"),
    ({"text": "bows", "streams": []}, "expected names of streams"),
    ({"task": "m2t", "motion": {"body": "1", "hands": "1"}, "streams": "body"}, "streams of the question"),
    ({"task": "denoise", "motion": {"body": "1 99", "hands": "?"}}, "code 99 at step 1 of body"),
])
def test_requests_that_cannot_be_answered_say_why(generators, fields, message):
    with pytest.raises(GenerationError, match=message):
        generators(OBJECT).answer(MotionRequest(**fields))


def test_levels_have_no_names_to_ask_for_and_one_stream_has_none(generators):
    with pytest.raises(GenerationError, match="no named streams"):
        generators(STEPS).answer(MotionRequest(text="bows", streams="q0"))


def test_the_command_line_takes_and_gives_the_datasets_form(runs, capsys):
    path = str(runs(OBJECT) / "stage2_multitask")
    assert run_script(inference, "--model_path", path, "--task", "denoise", "--motion_tokens",
                      '{"body": "1 2 3", "hands": "?"}', "--seed", "0") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["body"] == "1 2 3" and len(answer["hands"].split()) == 3
    assert run_script(inference, "--model_path", path, "--prompt", "a person bows", "--streams", "body", "--seed",
                      "0") == 0
    assert json.loads(capsys.readouterr().out)["hands"] is None
    assert run_script(inference, "--model_path", path, "--task", "m2t", "--motion_tokens", '{"body": "1 2') == 1
    assert "is no JSON" in capsys.readouterr().err
