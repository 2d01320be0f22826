"""vllm_engine.py with a model of two streams: steps of the right streams, in the dataset's form."""

import pytest
import torch
from test_engine import CAPTIONS, likeliest

from motion_llm.benchmarks.vllm import Request
from motion_llm.dataset.lengths import LengthLimits
from motion_llm.decoding.request import GenerationError, MotionRequest, Sampling


@pytest.fixture(scope="module")
def generator(exported):
    from generate import MotionGenerator

    generator = MotionGenerator(exported("streams"), engine="vllm")
    yield generator
    generator.vllm.close()


def test_greedy_answers_of_two_streams_are_those_of_the_logits_processor(generator, exported):
    from transformers import AutoModelForCausalLM

    network = AutoModelForCausalLM.from_pretrained(exported("streams"), dtype=torch.float32)
    windows = [(1, 1, 1), (3, 9.5, 20), (6, 6, 6), (1, 15, 30)]
    prompts = [generator.template.render("t2m", text=caption, answer=False).ids for caption in CAPTIONS]
    in_steps = [Request(prompt, LengthLimits(*window, ""), None) for prompt in prompts for window in windows]
    in_codes = [Request(request.prompt_ids, request.limits.times(2), None) for request in in_steps]
    answers = generator.vllm.decode(in_codes, [Sampling(0, 0.9, 0, 0.5)] * len(in_codes), seed=0)
    assert answers == [likeliest(network, generator.vllm, request, 1.0) for request in in_steps]


def test_answers_have_the_datasets_form_and_length_in_steps(generator):
    results = generator.answer([MotionRequest(text=caption, tokens=5, num_samples=3) for caption in CAPTIONS], seed=1)
    for result in results:
        assert generator.vocabulary.streams.read(result.motion_tokens) == result.codes
        assert [len(result.motion_tokens[name].split()) for name in ("body", "hands")] == [5, 5]


def test_a_part_of_the_streams_is_refused(generator):
    with pytest.raises(GenerationError, match="not a part of the streams"):
        generator.answer(MotionRequest(text="a person bows", streams="body"))
