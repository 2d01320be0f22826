"""scene.py, scene_plan.py, timeline.py: several sentences as one motion, in time, longer than the model, and refused
where they cannot be.

generate.py is imported inside the fixtures, as it needs Unsloth, which must be imported before transformers.
"""

import json
import math
from dataclasses import replace

import pytest
import torch
from conftest import run_script

import inference
from motion_llm.decoding import scene_plan
from motion_llm.decoding.jobs import JOINING
from motion_llm.decoding.request import GenerationError, MotionRequest
from motion_llm.decoding.scene import Segment, token_counts
from motion_llm.decoding.scene_plan import OVERLAP
from motion_llm.decoding.timeline import read_timeline, segments_of

WALK, TURN, SIT = "a person walks forward", "a person turns around", "a person sits down"


@pytest.fixture(scope="module")
def generator(tiny_run):
    from generate import MotionGenerator

    generator = MotionGenerator(tiny_run / "stage3_t2m_sft")
    generator.settings["TOKENS_PER_SECOND"] = 7.5
    return generator


def test_spans_are_exact_and_follow_each_other(generator):
    made = generator.compose([Segment(WALK, tokens=9), Segment(TURN, seconds=2), SIT], seed=3)
    assert [(span.text, span.start) for span in made.spans] == [(WALK, 0), (TURN, 9), (SIT, 24)]
    assert made.spans[1].seconds == (9 / 7.5, 24 / 7.5)
    assert made.spans[-1].end == len(made.codes) == len(made.motion_tokens.split())
    limits = generator.length_model.limits(SIT)
    assert limits.min_tokens <= made.spans[-1].end - 24 <= limits.max_tokens
    assert made.to_dict()["segments"][1] == {"text": TURN, "tokens": [9, 24], "seconds": [1.2, 3.2]}


def test_a_segment_is_text_to_motion_behind_the_last_tokens_of_the_one_before(generator):
    first, second = [WALK, Segment(TURN, tokens=7)], Segment(TURN, tokens=7)
    made = generator.compose(first, seed=5, temperature=0)
    start = made.codes[:made.spans[0].end]
    alone = generator.answer(MotionRequest(text=TURN, tokens=7, before=" ".join(map(str, start[-OVERLAP:])),
                                           temperature=0))[0]
    assert made.codes[made.spans[1].start:] == alone.codes
    job, limits = generator._job(MotionRequest(text=second.text, tokens=7, before=[*start[-OVERLAP:]]), (0,))
    assert job.prompt_ids[-OVERLAP:] == generator.vocabulary.code_ids(start[-OVERLAP:])
    assert limits.max_tokens == 7


def test_the_first_tokens_of_a_segment_do_not_jump(generator, monkeypatch):
    """Each is likely as what comes next without any caption, at any temperature; later ones need not be."""
    least_likely = 0.7  # of a tiny model, whose codes are about equally likely
    monkeypatch.setattr("motion_llm.decoding.sampling.LEAST_LIKELY", least_likely)
    made = generator.compose([Segment(WALK, tokens=9), Segment(TURN, tokens=30)], seed=5, temperature=20.0)
    before, codes = made.codes[9 - OVERLAP:9], made.codes[9:]
    example = generator.template.render("t2m", text="", codes=codes, before=before)
    network = generator.decoder.network
    with torch.no_grad(), network.borrow(1, len(example.ids)) as borrowed:
        hidden = borrowed(torch.tensor([example.ids]), torch.zeros(1, dtype=torch.long))[0]
        scores = generator.motion_alphabet.scores(hidden)[-len(codes) - 2:-2, :-1]
    below = scores.max(dim=1).values - scores.gather(1, torch.tensor(codes)[:, None])[:, 0]
    assert (below[:JOINING] < -math.log(least_likely) + 1e-4).all()
    assert (below[JOINING:] > -math.log(least_likely)).any()


@pytest.mark.parametrize("rate, tokens", [(5, 4), (20, 16), (0.3, 1), (None, JOINING)])
def test_joining_takes_less_than_a_second(generator, monkeypatch, rate, tokens):
    monkeypatch.setitem(generator.settings, "TOKENS_PER_SECOND", rate)
    request = generator._jobs.resolved(MotionRequest(text=TURN, before="1 2"))
    assert generator._job(request, (0,))[0].joining == tokens
    assert generator._job(MotionRequest(text=TURN), (0,))[0].joining == 0


def test_a_model_that_knows_no_motion_without_caption_joins_without_that(generator, monkeypatch):
    monkeypatch.setitem(generator.settings, "CAPTION_DROPOUT", 0.0)
    request = MotionRequest(text=TURN, before="1 2", guidance=1)
    job, _ = generator._job(generator._jobs.resolved(request), (0,))
    assert (job.joining, len(job.unconditional_ids)) == (0, 0)
    assert len(generator.compose([WALK, TURN], seed=0, guidance=1).spans) == 2


def test_seconds_do_not_drift():
    """0.3 seconds are 2.25 tokens: a hundred of them are 225 tokens, not 200."""
    counts = token_counts([Segment(WALK, seconds=0.3)] * 100, 7.5)
    assert sum(counts) == 225
    assert set(counts) == {2, 3}
    assert token_counts([Segment(WALK, tokens=5), Segment(TURN), Segment(SIT, seconds=1)], 2) == [5, None, 2]


def test_a_segment_longer_than_the_model_is_decoded_in_parts(generator):
    most = generator.settings["MAX_SEQ_LEN"]
    made = generator.compose([Segment(WALK, tokens=3 * most), Segment(SIT, tokens=4)], seed=1)
    assert [(span.start, span.end) for span in made.spans] == [(0, 3 * most), (3 * most, 3 * most + 4)]
    plan = generator._plan([Segment(WALK, tokens=3 * most)], {})
    assert len(plan.requests) == 4
    assert max(request.tokens for request in plan.requests) - min(request.tokens for request in plan.requests) <= 1


def test_a_stream_gives_the_codes_of_the_scene(generator):
    timeline = [Segment(WALK, tokens=200), TURN, Segment(SIT, tokens=1), SIT]
    assert tuple(generator.stream(timeline, seed=9)) == generator.compose(timeline, seed=9).codes
    greedy = tuple(generator.stream(timeline, temperature=0))
    assert greedy == generator.compose(timeline, seed=1, temperature=0).codes
    with pytest.raises(GenerationError, match="one scene: no best_of"):
        generator.stream(timeline, best_of=2)


def test_a_stream_takes_a_request_as_it_is(tiny_run, generator):
    """Its lost tokens were read already, and are not read again."""
    from generate import MotionGenerator

    multitask = MotionGenerator(tiny_run / "stage2_multitask")
    codes = list(multitask.stream(MotionRequest("denoise", motion="5 ? 7"), seed=0))
    assert len(codes) == 3 and (codes[0], codes[2]) == (5, 7)
    assert len(list(generator.stream(WALK, tokens=4))) == 4
    with pytest.raises(GenerationError, match="tokens was given beside a request"):
        generator.stream(MotionRequest(text=WALK), tokens=4)


def test_scenes_are_decoded_together_and_differ(generator):
    made = list(generator.scenes([[WALK, SIT], [WALK], [WALK, SIT, TURN]], seed=2))
    assert [len(one.spans) for one in made] == [2, 1, 3]
    assert made[0].codes == generator.compose([WALK, SIT], seed=2).codes
    parts = list(generator.scenes([[Segment(WALK, tokens=20)] * 2], seed=2))[0].codes
    assert parts[:20] != parts[20:]
    assert list(generator.scenes([])) == []


def test_each_segment_may_have_its_own_participant(generator):
    plan = generator._plan([Segment(WALK, participant_id="P002"), SIT], {"participant_id": "P001"})
    assert [request.participant_id for request in plan.requests] == ["P002", "P001"]


@pytest.mark.parametrize("timeline, fields, message", [
    ([], {}, "the timeline is [], expected one segment or more"),
    (WALK, {}, "expected one segment or more"),
    ([WALK, "  "], {}, "segment 2: the prompt is '  ', expected a sentence"),
    ([Segment(WALK, seconds=0.01)], {}, "segment 1 has 0.01 seconds, less than a token, which has 0.13"),
    ([WALK], {"tokens": 4}, "tokens was given for a scene"),
    ([WALK, Segment(SIT, participant_id="Bob")], {}, "segment 2: participant 'Bob' is unknown; there are P001, P002"),
    ([WALK, "walks " * 400], {}, "segment 2: the prompt takes"),
    ([WALK] * 10_001, {}, "10,001 segments, at most 10,000"),
    ([Segment(WALK, tokens=900_000)] * 100, {}, "the timeline has 90,000,000 tokens in all; at most 20,000,000"),
])
def test_what_cannot_be_answered_is_refused_before_anything_is_decoded(generator, monkeypatch, timeline, fields,
                                                                       message):
    monkeypatch.setattr(generator.decoder, "steps", None)
    asks = [lambda: generator.compose(timeline, **fields)]
    if not fields and timeline != WALK:  # a stream of one sentence is no scene
        asks.append(lambda: generator.stream(timeline))
    for ask in asks:
        with pytest.raises(GenerationError) as error:
            ask()
        assert message in str(error.value)


def test_seconds_need_the_rate_of_tokens(generator, monkeypatch):
    monkeypatch.setitem(generator.settings, "TOKENS_PER_SECOND", None)
    with pytest.raises(GenerationError, match="segment 2 has seconds, but the model does not know its tokens' rate"):
        generator.compose([WALK, Segment(SIT, seconds=2)])
    assert generator.compose([Segment(WALK, tokens=3)]).spans[0].seconds is None


def test_overlap_is_of_the_last_part_alone(generator, monkeypatch):
    """A part of one token leaves one token to go on from."""
    monkeypatch.setattr(scene_plan, "OVERLAP", 5)
    assert scene_plan.going_on(MotionRequest(text=WALK), (7,), 1).before == (7,)
    assert scene_plan.going_on(MotionRequest(text=WALK), (), 1).before is None
    assert scene_plan.going_on(replace(MotionRequest(text=WALK)), tuple(range(30)), 2).before == tuple(range(20, 30))


# ---- the command line


def asked(tiny_run, capsys, *arguments: str) -> tuple[int, str, str]:
    status = run_script(inference, "--model_path", str(tiny_run / "stage3_t2m_sft"), "--tokens_per_second", "10",
                        *arguments)
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def test_a_scene_is_a_json_line_with_its_spans(tiny_run, capsys, caplog, tmp_path):
    caplog.set_level("INFO")
    path, out = tmp_path / "scene.json", tmp_path / "out" / "scene.jsonl"
    path.write_text(json.dumps([{"text": WALK, "seconds": 1.5}, {"text": SIT, "tokens": 4}]))
    status, printed, _ = asked(tiny_run, capsys, "--timeline", str(path), "--num_samples", "3", "--output", str(out))
    lines = [json.loads(line) for line in printed.splitlines()]
    assert status == 0 and out.read_text() == printed and len(lines) == 3
    for line in lines:
        assert line["segments"] == [{"text": WALK, "tokens": [0, 15], "seconds": [0.0, 1.5]},
                                    {"text": SIT, "tokens": [15, 19], "seconds": [1.5, 1.9]}]
        assert len(line["motion_tokens"].split()) == 19
    assert len({line["motion_tokens"] for line in lines}) == 3
    assert f"{SIT!r}: tokens 15 to 18, 1.5 to 1.9 s" in caplog.text


def test_then_is_what_happens_next_and_a_stream_prints_tokens_alone(tiny_run, capsys):
    said = ("--prompt", WALK, "--then", SIT, "--then", TURN, "--seed", "4", "--temperature", "0")
    _, printed, _ = asked(tiny_run, capsys, *said)
    scene_line = json.loads(printed)
    assert [segment["text"] for segment in scene_line["segments"]] == [WALK, SIT, TURN]
    _, streamed, _ = asked(tiny_run, capsys, *said, "--stream")
    assert streamed.split() == scene_line["motion_tokens"].split()


@pytest.mark.parametrize("arguments, message", [
    (["--then", SIT], "--then is what happens behind --prompt"),
    (["--prompt", WALK, "--then", SIT, "--seconds", "3"], "--seconds is the length of one sentence, not of a scene"),
    (["--prompt", WALK, "--timeline", "x.json"], "--timeline has all sentences of a scene"),
    (["--timeline", "x.json", "--task", "m2t"], "--timeline is for t2m"),
    (["--timeline", "missing.json"], "missing.json"),
    (["--prompt", WALK, "--then", SIT, "--num_samples", "0"], "num_samples is 0, expected an integer from 1"),
    (["--prompt", WALK, "--then", " "], "the prompt is ' ', expected a sentence"),
    (["--prompt", WALK, "--then", SIT, "--stream", "--best_of", "2"], "--stream prints one motion"),
])
def test_a_scene_that_cannot_be_is_refused_by_the_command(tiny_run, capsys, arguments, message):
    status, printed, log = asked(tiny_run, capsys, *arguments)
    assert status and not printed and message in log


# ---- a timeline in a file


def test_a_timeline_says_its_times_in_several_ways():
    expected = [Segment(WALK, 3.0), Segment(TURN, 1.5), Segment(SIT, 2.0)]
    assert segments_of([{"text": WALK, "seconds": 3}, {"text": TURN, "seconds": 1.5},
                        {"text": SIT, "seconds": 2}]) == expected
    assert segments_of([{"text": WALK, "start": 0}, {"text": TURN, "start": 3},
                        {"text": SIT, "start": 4.5, "end": 6.5}]) == expected
    assert segments_of({"seconds": 6.5, "segments": [{"text": WALK, "end": 3}, {"text": TURN, "end": 4.5},
                                                     {"text": SIT, "start": 4.5, "seconds": 2}]}) == expected
    assert segments_of({"participant_id": "B", "segments": [WALK, {"text": SIT, "participant_id": "A", "tokens": 3}]}
                       ) == [Segment(WALK, participant_id="B"), Segment(SIT, tokens=3, participant_id="A")]


@pytest.mark.parametrize("content, message", [
    ([], "segments is an empty list, expected one segment or more"),
    ({"seconds": 3}, "segments is None, expected a list"),
    ({"scenes": []}, "the timeline has 'scenes', expected some of segments, seconds, participant_id"),
    ([{"seconds": 3}], "segment 1: has no text"),
    ([WALK, {"text": SIT, "duration": 3}], "segment 2 has 'duration', expected some of text, seconds"),
    ([WALK, 3], "segments, item 1 is 3, expected an object"),
    ([{"text": WALK, "seconds": "3"}], "segment 1: seconds is '3', expected a number"),
    ([{"text": WALK, "seconds": 0}], "segment 1 has 0 seconds, expected more than 0"),
    ([{"text": WALK, "end": 3}, {"text": SIT, "start": 3.5}],
     "segment 2 starts at 3.5 s and the one before ends at 3 s"),
    ([{"text": WALK, "start": 0, "seconds": 2, "end": 3}], "segment 1 starts at 0 s, has 2 seconds and ends at 3 s"),
    ([{"text": WALK, "start": 0, "end": 3}, {"text": SIT, "start": 3, "end": 2}], "segment 2 has -1 seconds"),
    ([WALK, {"text": SIT, "end": 5}], "segment 2 ends at 5 s, and nothing says when it starts"),
    ({"seconds": 5, "segments": [{"text": WALK, "seconds": 3}, SIT]}, "segment 2 does not say its own"),
    ({"seconds": 5, "segments": [{"text": WALK, "seconds": 3}]}, "the scene has 5 seconds, and its segments 3"),
    ([{"text": WALK, "seconds": 3, "tokens": 3}], "segment 1: tokens and seconds were given"),
    ([{"text": "", "seconds": 3}], "segment 1: the prompt is ''"),
])
def test_times_that_do_not_add_up_are_refused_by_name(tmp_path, content, message):
    path = tmp_path / "timeline.json"
    path.write_text(json.dumps(content))
    with pytest.raises(GenerationError) as error:
        read_timeline(path)
    assert str(error.value).startswith(f"{path}: ")
    assert message in str(error.value)
