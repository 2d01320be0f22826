"""vllm_engine.py on vLLM itself: token for token the answers of the logits processor in generate.py."""

from collections import Counter

import pytest
import torch

from motion_llm.benchmarks.vllm import Request, measure
from motion_llm.dataset.lengths import LengthLimits
from motion_llm.decoding.request import Sampling
from motion_llm.network.folder import ModelError
from motion_llm.serving.vllm_engine import VllmEngine

CAPTIONS = ["a person walks forward", "a person jumps", "someone waves with the left hand", "ein Mensch tanzt 💃"]


@pytest.fixture(scope="module")
def engine(exported):
    engine = VllmEngine(exported("tiny"), dtype="float32", enforce_eager=True)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def requests_(engine):
    """24 requests: windows of one length and of many; all codes, a few, and one."""
    windows = [(1, 1, 1), (3, 9.5, 20), (12, 12, 12), (1, 30, 60), (1, 2, 60), (25, 40.5, 80)]
    codes = [None, (3,), (0, 1, 2, 7, 15), None]
    return [Request(engine.template.render("t2m", text=caption, participant_id=person, answer=False).ids,
                    LengthLimits(*window, ""), codes[(i + j) % 4])
            for i, window in enumerate(windows)
            for j, (caption, person) in enumerate(zip(CAPTIONS, [None, "P001", "P002", None], strict=True))]


@pytest.fixture(scope="module")
def network(exported):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(exported("tiny"), dtype=torch.float32)


def likeliest(network, engine, request: Request, slope: float) -> list[int]:
    """The greedy answer under generate.py's processor, computed from scratch at every step."""
    from motion_llm.decoding.constraints import LengthAwareMotionLogitsProcessor  # imports transformers

    allowed = None
    if request.codes is not None:
        allowed = torch.zeros(1, engine.vocabulary.codebook_size, dtype=torch.bool)
        allowed[0, list(request.codes)] = True
    ids = torch.tensor([request.prompt_ids])
    processor = LengthAwareMotionLogitsProcessor(engine.vocabulary, [request.limits], ids.shape[1], slope, allowed)
    while True:
        with torch.no_grad():
            scores = processor(ids, network(ids).logits[:, -1])
        ids = torch.cat([ids, scores.argmax(dim=1, keepdim=True)], dim=1)
        if ids[0, -1] == engine.vocabulary.end_id:
            return [i - engine.vocabulary.first_motion_id for i in ids[0, len(request.prompt_ids):-1].tolist()]


@pytest.mark.parametrize("slope", [0.0, 0.1, 1.0])
def test_greedy_answers_are_those_of_the_logits_processor(engine, requests_, network, slope):
    answers = engine.decode(requests_, [Sampling(0, 0.9, 0, slope)] * len(requests_), seed=0)
    assert answers == [likeliest(network, engine, request, slope) for request in requests_]


def test_tokens_are_drawn_as_often_as_the_processor_says(engine, network, requests_):
    """The shift comes before the temperature, top-p after it. Compares how often each token (and the end) follows a
    first code with transformers' own warpers after the processor."""
    from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper

    from motion_llm.decoding.constraints import LengthAwareMotionLogitsProcessor  # imports transformers

    first, end = engine.vocabulary.first_motion_id, engine.vocabulary.end_id
    prompt, limits, codes = requests_[0].prompt_ids, LengthLimits(1, 6.0, 40, ""), (3, 5, 7)
    allowed = torch.zeros(1, engine.vocabulary.codebook_size, dtype=torch.bool)
    allowed[0, list(codes)] = True
    ids = torch.tensor([[*prompt, first + 3]])
    warpers = LogitsProcessorList([
        LengthAwareMotionLogitsProcessor(engine.vocabulary, [limits], len(prompt), 0.25, allowed),
        TemperatureLogitsWarper(2.0), TopPLogitsWarper(0.95)])
    with torch.no_grad():
        shares = warpers(ids, network(ids).logits[:, -1]).softmax(dim=1)[0]
    answers = engine.decode([Request(prompt, limits, codes)] * 3000, [Sampling(2.0, 0.95, 0, 0.25)] * 3000, seed=1)
    counts = Counter([*(first + code for code in answer), end][1] for answer in answers if answer[0] == 3)
    count = sum(counts.values())
    assert count > 400 and 0.05 < shares[end] < 0.5
    for i in [*(first + code for code in codes), end]:
        share = shares[i].item()
        assert abs(counts[i] / count - share) <= 4 * (share * (1 - share) / count) ** 0.5, (i, share, counts)


def test_a_seed_repeats_and_another_differs(engine, requests_):
    samplings = [Sampling(1.0, 0.95, 0, 1.0)] * len(requests_)
    first = engine.decode(requests_, samplings, seed=3)
    assert engine.decode([], [], seed=3) == []
    assert engine.decode(requests_, samplings, seed=3) == first
    assert engine.decode(requests_, samplings, seed=4) != first


def test_a_measurement_has_both_figures(engine, requests_):
    figures = measure(engine, requests_[:2], Sampling(0.8, 0.95, 0, 1.0), repeats=1)
    assert figures.keys() == {"tokens_per_second", "seconds_to_first_token"} and min(figures.values()) > 0


def test_a_stages_folder_is_refused_with_the_command_to_export_it(exported):
    with pytest.raises(ModelError, match="is a stage's folder.*python export.py --model_path"):
        VllmEngine(exported("tiny").parent / "stage")


def test_motion_generator_answers_in_the_same_form(exported, monkeypatch):
    import generate  # imports transformers

    class Quick(generate.VllmEngine):
        def __init__(self, folder):
            super().__init__(folder, dtype="float32", enforce_eager=True)

    monkeypatch.setattr(generate, "VllmEngine", Quick)
    generator = generate.MotionGenerator(exported("tiny"), engine="vllm")
    try:
        motion = generator.generate("a person jumps", tokens=7, seed=0)
        assert len(motion.split()) == 7
        requests = [generate.MotionRequest(text="a person bows", min_tokens=3, max_tokens=9, num_samples=4),
                    generate.MotionRequest(text="a person bows", per_prompt_vocab=True, temperature=0)]
        results = generator.answer(requests, seed=1)
        assert len(results) == 5 and all(3 <= len(result.codes) <= 9 for result in results[:4])
        assert all(result.limits.source and result.log_probability is None for result in results)
        for request in (generate.MotionRequest(task="continue", text="x", motion="1 2"),
                        generate.MotionRequest(text="x", best_of=2)):
            with pytest.raises(generate.GenerationError, match="vLLM answers text to motion alone"):
                generator.answer(request)
        with pytest.raises(generate.GenerationError, match="vLLM answers text to motion alone, not stream"):
            generator.stream("a person jumps")
    finally:
        generator.vllm.close()
