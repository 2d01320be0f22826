"""loop.py: the answers are those of `model.generate` with our processor, however rows come, leave and share slots.

loop.py is imported inside the tests: it imports transformers, which must follow Unsloth's start (parts).
"""

import contextlib
import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from model import ModelConfig, build
from motion_llm.dataset.lengths import LengthLimits
from motion_llm.decoding.request import GenerationError, Sampling

CODES = 12


@pytest.fixture(scope="module")
def parts(unsloth, tiny_base):
    """kind -> (function that makes a decoder, alphabet, network that transformers decodes, vocabulary)."""
    cache = {}

    def of(kind: str = "llama"):
        if kind not in cache:
            from motion_llm.decoding.alphabet import Alphabet
            from motion_llm.decoding.loop import Decoder
            from motion_llm.network.cached import CachedNetwork

            config = ModelConfig(tiny_base(kind), 128, 4, 8, "float32")
            plain, ours = (build(config, CODES, []).merged().eval() for _ in range(2))
            with torch.no_grad():
                for network in (plain, ours):
                    torch.manual_seed(1)
                    for parameter in network.get_decoder().parameters():
                        if parameter.dim() == 2 and len(parameter) < 90:
                            parameter.mul_(8)  # with fresh weights all codes are about equally likely
            vocabulary = build(config, CODES, []).vocabulary
            alphabet, cached = Alphabet.of_motion(ours, vocabulary), CachedNetwork(ours, 128)
            cache[kind] = (lambda slots: Decoder(cached, slots)), alphabet, plain, vocabulary
        return cache[kind]

    return of


def limits(low: int, target: float, high: int) -> LengthLimits:
    return LengthLimits(low, target, high, "")


def jobs_of(count: int = 9, *sampling):
    """Prompts of several lengths, some shared, with different limits; each of `sampling` in turn."""
    from motion_llm.decoding.loop import Job

    sampling = [Sampling(*values) for values in sampling or [(1, 1, 0, 0)]]
    prompts = [[5, 6, 7], [8, 9, 10, 11, 12], [13] * 8]
    windows = [(1, 3, 6), (4, 4, 4), (2, 9, 14)]
    return [Job(prompts[i // 2 % 3], limits(*windows[i % 3]), sampling[i % len(sampling)],
                codes=(1, 3, 5) if i == 4 else None, random_key=(7, i)) for i in range(count)]


def by_transformers(network, vocabulary, job, slope: float) -> list[int]:
    from transformers import GenerationConfig, LogitsProcessorList

    from motion_llm.decoding.constraints import LengthAwareMotionLogitsProcessor

    allowed = torch.zeros(1, CODES, dtype=torch.bool)
    allowed[0, list(range(CODES) if job.codes is None else job.codes)] = True
    processor = LengthAwareMotionLogitsProcessor(vocabulary, [job.limits], len(job.prompt_ids), slope, allowed)
    config = GenerationConfig(do_sample=False, max_new_tokens=job.limits.max_tokens + 1,
                              eos_token_id=vocabulary.end_id, pad_token_id=0)
    ids = torch.tensor([job.prompt_ids])
    answer = network.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config,
                              logits_processor=LogitsProcessorList([processor]))[0, ids.shape[1]:].tolist()
    return [i - vocabulary.first_motion_id for i in answer[:answer.index(vocabulary.end_id)]]


@pytest.mark.parametrize("kind", ["llama", "llama_untied", "llama_padded", "qwen3", "gemma2", "gemma3", "granite",
                                  "cohere"])
def test_greedy_answers_are_those_of_model_generate_with_our_processor(parts, kind):
    decoder, alphabet, network, vocabulary = parts(kind)
    for slope in (0.0, 0.4):
        jobs = jobs_of(9, (0, 1, 0, slope))
        answers = decoder(4).decode(jobs, alphabet)
        assert [answer.indices for answer in answers] == [by_transformers(network, vocabulary, job, slope)
                                                         for job in jobs]


def test_scores_are_those_of_the_whole_head(parts):
    _, alphabet, network, vocabulary = parts("gemma2")
    hidden = torch.randn(5, 32)
    logits = network(inputs_embeds=torch.randn(1, 4, 32)).logits  # soft-capped within its bounds
    assert float(logits.abs().max()) <= network.config.final_logit_softcapping
    whole = network.get_output_embeddings()(hidden) / network.config.final_logit_softcapping
    whole = torch.tanh(whole) * network.config.final_logit_softcapping
    torch.testing.assert_close(alphabet.scores(hidden), whole[:, vocabulary.first_motion_id:vocabulary.end_id + 1])


def test_answers_do_not_depend_on_the_other_jobs(parts):
    decoder, alphabet, _, _ = parts("llama")
    jobs = jobs_of(12, (1.0, 0.9, 0, 0.2), (0, 1, 0, 1.0), (2.0, 1, 3, 0), (0.5, 1, 0, 0), (1.0, 0.4, 9, 0.5))
    alone = [decoder(1).decode([job], alphabet)[0] for job in jobs]
    for slots in (1, 3, 5, 64):
        for order in (range(12), reversed(range(12))):
            order = list(order)
            answers = decoder(slots).decode([jobs[i] for i in order], alphabet)
            for i, answer in zip(order, answers, strict=True):
                assert answer.indices == alone[i].indices
                assert answer.log_probability == pytest.approx(alone[i].log_probability, abs=1e-4)


def exact_distribution(scores: torch.Tensor, sampling) -> torch.Tensor:
    """The distribution that transformers draws from: scores (A,) through its own warpers."""
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    scores = TemperatureLogitsWarper(sampling.temperature)(None, scores[None])
    if sampling.top_k:
        scores = TopKLogitsWarper(sampling.top_k)(None, scores)
    if sampling.top_p < 1:
        scores = TopPLogitsWarper(sampling.top_p)(None, scores)
    return torch.softmax(scores, dim=-1)[0]


@pytest.mark.parametrize(("temperature", "top_p", "top_k"), [
    (1.0, 1.0, 0), (0.5, 1.0, 0), (2.0, 0.9, 0), (1.0, 0.3, 0), (1.0, 1e-9, 0), (1.0, 1.0, 3), (0.7, 0.8, 5),
    (1.0, 1.0, 500), (0.01, 0.95, 0)])
def test_draws_cover_the_warped_distribution_and_nothing_else(unsloth, temperature, top_p, top_k):
    from motion_llm.decoding.sampling import draw

    scores = 2 * torch.randn(3, 40, generator=torch.Generator().manual_seed(0))
    scores[:, 7:20] = -torch.inf
    scores[1, 3] = scores[1, 4] = 9.0  # a tie at the top
    sampling = Sampling(temperature, top_p, top_k, 0.0)
    count = 4000
    grid = (torch.arange(count) + 0.5) / count
    for row in scores:
        frequencies = torch.bincount(draw(row.expand(count, -1), draws(grid, sampling)), minlength=40) / count
        # A grid of uniform numbers meets each share to within one of its steps; top-p may cut either of two ties.
        if row[3] != row[4]:
            torch.testing.assert_close(frequencies, exact_distribution(row, sampling), atol=1.5 / count, rtol=1e-3)
        assert (frequencies[torch.isinf(row)] == 0).all() and float(frequencies.sum()) == pytest.approx(1)
    assert torch.equal(draw(scores, draws(torch.rand(3), Sampling(0, 1, 0, 0))), scores.argmax(1))


def draws(uniform: torch.Tensor, *sampling):
    """Draws whose rows take each of `sampling` in turn."""
    from motion_llm.decoding.sampling import Draws

    rows = [sampling[i % len(sampling)] for i in range(len(uniform))]
    return Draws(torch.tensor([float(row.temperature) for row in rows]),
                 torch.tensor([float(row.top_p) for row in rows]), torch.tensor([row.top_k for row in rows]), uniform)


def test_rows_with_different_sampling_draw_as_they_would_alone(unsloth):
    from motion_llm.decoding.sampling import draw

    scores = 2 * torch.randn(8, 30, generator=torch.Generator().manual_seed(2))
    uniform = torch.rand(8, generator=torch.Generator().manual_seed(3))
    kinds = [Sampling(1, 1, 0, 0), Sampling(0, 1, 0, 0), Sampling(0.5, 0.6, 0, 0), Sampling(2, 1, 4, 0)]
    together = draw(scores, draws(uniform, *kinds))
    for row in range(8):
        alone = draw(scores[row:row + 1], draws(uniform[row:row + 1], kinds[row % 4]))
        assert int(alone[0]) == int(together[row])


def test_the_largest_uniform_number_draws_a_place_that_has_a_share(unsloth):
    from motion_llm.decoding.sampling import draw

    scores = torch.full((1, 600), -torch.inf)
    scores[0, [5, 9]] = torch.tensor([30.0, 0.0])
    almost = torch.tensor([np.nextafter(np.float32(1), np.float32(0))])
    for top_p in (1.0, 0.99):
        assert int(draw(scores, draws(almost, Sampling(1, top_p, 0, 0)))) in (5, 9)


def test_sampled_frequencies_pass_a_chi_square_test(parts):
    """The first two tokens of 6,000 answers against their probabilities under transformers."""
    from motion_llm.decoding.constraints import Bounds, constrained_scores
    from motion_llm.decoding.loop import Job

    decoder, alphabet, network, vocabulary = parts("llama")
    sampling, window, prompt = Sampling(1.3, 0.95, 10, 0.5), limits(1, 2, 3), [5, 6, 7, 8]
    jobs = [Job(prompt, window, sampling, random_key=(11, i)) for i in range(6000)]
    answers = decoder(512).decode(jobs, alphabet)

    def distribution_after(places):
        ids = torch.tensor([prompt + [vocabulary.first_motion_id + place for place in places]])
        with torch.no_grad():
            scores = network(input_ids=ids).logits[:, -1, vocabulary.first_motion_id:vocabulary.end_id + 1].float()
        bounds = Bounds.of([window], sampling.slope)
        return exact_distribution(constrained_scores(scores, torch.tensor([len(places)]), bounds)[0], sampling)

    first = distribution_after([])
    expected = {(a, b): float(first[a] * share) for a in range(CODES) if first[a] > 0
                for b, share in enumerate(distribution_after([a]))}
    counts = dict.fromkeys(expected, 0)
    for answer in answers:
        counts[tuple([*answer.indices, CODES][:2])] += 1  # a KeyError means an impossible pair
    pairs = [pair for pair in expected if expected[pair] * len(jobs) >= 5]
    assert all(counts[pair] == 0 for pair in expected if expected[pair] == 0)
    statistic = sum((counts[pair] - len(jobs) * expected[pair]) ** 2 / (len(jobs) * expected[pair]) for pair in pairs)
    freedom = len(pairs) - 1
    assert freedom > 30
    # Wilson and Hilferty (1931): the cube root of chi-square over its degrees of freedom is about normal.
    deviation = ((statistic / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / (2 / (9 * freedom)) ** 0.5
    assert abs(deviation) < 4


class Counting:
    """A network that records (first row, rows, positions) of each pass."""

    def __init__(self, network, passes=None):
        self.network, self.passes = network, [] if passes is None else passes
        self.device, self.copy_row = network.device, network.copy_row

    @contextlib.contextmanager
    def borrow(self, slots, positions):
        with self.network.borrow(slots, positions) as network:
            yield Counting(network, self.passes)

    def __call__(self, ids, past, first=0, span=None):
        assert span is None or span == (int(past.min()), int(past.max()))
        self.passes.append((first, *ids.shape))
        return self.network(ids, past, first, span)


def test_finished_rows_leave_the_batch_and_new_ones_take_their_place(parts):
    from motion_llm.decoding.loop import Decoder

    decoder, alphabet, _, _ = parts("llama")
    counting = Counting(decoder(1).network)
    jobs = jobs_of(40, (1, 1, 0, 0.2), (0, 1, 0, 0))
    answers = Decoder(counting, 8).decode(jobs, alphabet)
    steps = [rows for first, rows, width in counting.passes if (first, width) == (0, 1)]
    # No finished row is computed: each token and each end is one row of one step.
    assert sum(steps) == sum(len(answer.indices) + 1 for answer in answers)
    assert max(steps) == 8 and len(steps) < sum(steps) / 5


def test_the_prompt_of_several_samples_is_computed_once(parts):
    from motion_llm.decoding.loop import Decoder, Job

    decoder, alphabet, _, _ = parts("llama")
    counting = Counting(decoder(1).network)
    jobs = [Job([9] * 20, limits(3, 4, 5), Sampling(1, 1, 0, 0), random_key=(i,)) for i in range(30)]
    answers = Decoder(counting, 8).decode(jobs, alphabet)
    starts = [(rows, width) for _, rows, width in counting.passes if width > 1]
    # If all rows end in one step, the next jobs have no row to copy from: at most once for each filling of the slots.
    assert starts[0] == (1, 19) and all(rows == 1 for rows, _ in starts) and len(starts) <= 30 // 8 + 1
    assert len({tuple(answer.indices) for answer in answers}) > 5


def test_given_tokens_are_returned_and_only_the_others_are_scored(parts):
    from motion_llm.decoding.loop import FREE, Job

    decoder, alphabet, _, _ = parts("llama")
    given = [4, 4, FREE, FREE, 7, FREE, 1]
    free = Sampling(1, 1, 0, 0)
    jobs = [Job([5, 6], limits(7, 7, 7), free, given, random_key=(1,)),
            Job([5, 6], limits(2, 5, 9), free, [3, 2], random_key=(2,)),
            Job([5, 6], limits(1, 5, 9), free, random_key=(3,))]
    answers = decoder(2).decode(jobs, alphabet)
    assert [place for place in answers[0].indices if place in (4, 7, 1)] and len(answers[0].indices) == 7
    assert all(fixed in (FREE, place) for fixed, place in zip(given, answers[0].indices, strict=True))
    assert answers[1].indices[:2] == [3, 2]
    for job, answer in zip(jobs, answers, strict=True):
        values = decoder(2).log_probabilities([job.prompt_ids], [[*answer.indices, CODES]], alphabet)[0]
        fixed = [position for position, place in enumerate(job.fixed) if place != FREE]
        assert answer.log_probability == pytest.approx(values.sum() - values[fixed].sum(), abs=1e-4)


@pytest.mark.parametrize("name", ["qwen3", "gemma3"])
@pytest.mark.parametrize("prompts", [[[5, 6, 7], [9] * 11, [4, 4]], [[5, 6, 7, 8], [5, 6, 7, 8], [5, 6]],
                                     [[4], [4], [4]], [[*range(3, 30)], [*range(3, 29), 7], [*range(3, 12)]]])
def test_log_probabilities_are_those_of_the_restricted_softmax_in_any_batch(parts, name, prompts):
    decoder, alphabet, network, vocabulary = parts(name)
    answers = [[1, 2, CODES], [CODES], [3, 3, 3, 3, 5, 6, CODES]]
    log_probabilities = decoder(3).log_probabilities(prompts, answers, alphabet)
    for prompt, answer, values in zip(prompts, answers, log_probabilities, strict=True):
        ids = torch.tensor([prompt + [vocabulary.first_motion_id + place for place in answer[:-1]]])
        with torch.no_grad():
            logits = network(input_ids=ids).logits[0, len(prompt) - 1:].float()
        restricted = torch.log_softmax(logits[:, vocabulary.first_motion_id:vocabulary.end_id + 1], dim=1)
        assert values == pytest.approx([float(restricted[i, place]) for i, place in enumerate(answer)], abs=1e-4)


def test_answers_are_the_same_by_steps_of_fixed_shapes(parts, monkeypatch):
    """As CUDA graphs make them, with a stand-in for the graph."""
    from motion_llm.network import graphs

    def captured(work):
        result = work()
        return lambda: result.copy_(work()), result

    made, alphabet, *_ = parts("llama")
    jobs = [*jobs_of(9, (1, 1, 0, 0), (0, 1, 0, 0)), guided(jobs_of()[0], 3.0), replace(jobs_of()[1], fixed=[2, 5, 1])]
    expected = made(4).decode(jobs, alphabet)
    network = copy.copy(made(4).network)
    network._caches, network.cache, network.graphed = [], None, True
    monkeypatch.setattr("motion_llm.network.cached.StepGraphs",
                        lambda step, cache: graphs.StepGraphs(step, cache, captured))
    answers = type(made(4))(network, 4).decode(jobs, alphabet)
    assert network._caches[0][1]._graphs  # they were used
    assert [answer.indices for answer in answers] == [answer.indices for answer in expected]
    assert [answer.log_probability for answer in answers] == pytest.approx(
        [answer.log_probability for answer in expected], abs=1e-4)


@pytest.mark.parametrize("row", [0, 1])
def test_scores_that_are_nan_end_the_answer_in_either_row_of_guidance(parts, monkeypatch, row):
    made, alphabet, *_ = parts("llama")
    usual = type(alphabet).scores

    def broken(self, hidden):
        scores = usual(self, hidden)
        scores[row, 3] = torch.nan  # 0: with the caption, 1: without
        return scores

    monkeypatch.setattr(type(alphabet), "scores", broken)
    with pytest.raises(GenerationError, match=r"NaN\) for row 0 at token 0"):
        made(4).decode([guided(jobs_of()[0], 3.0)], alphabet)


def test_no_jobs_no_answers(parts):
    decoder, alphabet, _, _ = parts("llama")
    assert decoder(4).decode([], alphabet) == []


# Guidance


def guided(job, weight: float, unconditional=(20, 21, 7)):
    """The job with guidance away from another prompt that ends as its own does."""
    return replace(job, sampling=replace(job.sampling, guidance=weight),
                   unconditional_ids=[*unconditional[:-1], job.prompt_ids[-1]])


def step_by_step(network, vocabulary, job) -> tuple[list[int], float]:
    """The greedy answer by two whole passes per token, and its log-probability without guidance."""
    rows, answer, log_probability = slice(vocabulary.first_motion_id, vocabulary.end_id + 1), [], 0.0
    while not answer or answer[-1] != CODES:
        ids = [vocabulary.first_motion_id + place for place in answer]
        with torch.no_grad():
            scores, without = (network(input_ids=torch.tensor([[*prompt, *ids]])).logits[0, -1, rows]
                               for prompt in (job.prompt_ids, job.unconditional_ids))
        guided_scores = without + job.sampling.guidance * (scores - without)
        if len(answer) < job.limits.min_tokens:
            guided_scores[CODES] = -torch.inf
        place = CODES if len(answer) == job.limits.max_tokens else int(guided_scores.argmax())
        log_probability += float(torch.log_softmax(scores, 0)[place])
        answer.append(place)
    return answer[:-1], log_probability


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_guided_answers_are_those_of_two_passes_a_token(parts, kind):
    decoder, alphabet, network, vocabulary = parts(kind)
    jobs = [guided(job, weight) for job, weight in zip(jobs_of(4, (0, 1, 0, 0)), (2.0, 0.5, 3.0, 0.0), strict=True)]
    expected = [step_by_step(network, vocabulary, job) for job in jobs]
    unguided = decoder(4).decode(jobs_of(4, (0, 1, 0, 0)), alphabet)
    assert [places for places, _ in expected] != [answer.indices for answer in unguided]  # guidance changes something
    for slots in (1, 3, 8):
        for answer, (places, log_probability) in zip(decoder(slots).decode(jobs, alphabet), expected, strict=True):
            assert answer.indices == places
            assert answer.log_probability == pytest.approx(log_probability, abs=1e-3)


def test_a_job_without_guidance_is_not_changed_by_one_with_it(parts):
    decoder, alphabet, _, _ = parts("llama")
    plain = jobs_of(9, (1.0, 0.9, 0, 0.2))
    alone = decoder(1).decode(plain, alphabet)
    mixed = [guided(job, 2.5) if i % 2 else job for i, job in enumerate(plain)]
    for slots in (2, 4, 16):
        answers = decoder(slots).decode(mixed, alphabet)
        for i in range(0, 9, 2):
            assert answers[i].indices == alone[i].indices


def test_a_joint_leaves_what_goes_on_and_always_one_code_that_is_allowed():
    """Row 0 joins: code 2 is too unlikely without the caption. Row 1 joins, and the likeliest code is forbidden. Row 2
    does not join. The end, the last one, is not touched."""
    from motion_llm.decoding.sampling import joined

    inf = math.inf
    scores = torch.tensor([[1.0, 2.0, 9.0, 0.0], [-inf, 1.0, 2.0, -inf], [1.0, 2.0, 9.0, 0.0]])
    without = torch.tensor([[5.0, 4.0, 1.0, 9.0], [9.0, 3.0, 2.5, 0.0], [5.0, 4.0, 1.0, 9.0]])
    left = joined(scores, without, torch.tensor([True, True, False]))
    assert left.tolist() == [[1.0, 2.0, -inf, 0.0], [-inf, 1.0, 2.0, -inf], [1.0, 2.0, 9.0, 0.0]]
    nothing = torch.tensor([[-inf, -inf, 0.0]])
    assert joined(nothing, torch.zeros(1, 3), torch.tensor([True])).tolist() == nothing.tolist()
