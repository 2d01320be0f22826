"""Steps of fixed shapes, as CUDA graphs need them, give what the plain pass gives, without reading from the device."""

import pytest
import torch
from test_cached import random_network

from motion_llm.network.cached import CachedNetwork
from motion_llm.network.graphs import StepGraphs


class Captured:
    """In place of a CUDA graph: does the work again on the same tensors, and overwrites the same result."""

    def __init__(self):
        self.count = 0

    def __call__(self, work):
        self.count += 1
        result = work()
        return lambda: result.copy_(work()), result


def graphed(network, slots, positions, capture):
    cached = CachedNetwork(network, 256)
    cached.reserve(slots, positions)
    cached.graphs = StepGraphs(cached._step, cached.cache, capture)
    return cached


@pytest.mark.parametrize("kind", ["Llama", "Gemma2", "Gemma3Text", "Mistral", "Cohere"])
def test_steps_of_rounded_sizes_are_those_of_the_plain_pass(kind):
    plain, capture = CachedNetwork(random_network(kind), 256), Captured()
    fixed = graphed(random_network(kind), 8, 96, capture)
    plain.reserve(8, 96)
    generator = torch.Generator().manual_seed(1)
    prompts = torch.randint(30, (5, 70), generator=generator)
    past = torch.tensor([3, 60, 62, 10, 64])
    for network in (plain, fixed):
        network(prompts, torch.zeros(5, dtype=torch.long))
    for _ in range(4):  # over 64 positions
        ids = torch.randint(30, (5, 1), generator=generator)
        torch.testing.assert_close(fixed(ids, past), plain(ids, past), atol=1e-5, rtol=1e-4)
        past = past + 1
    assert capture.count == 1  # 5 rows as 8, 65 to 69 positions as 96
    torch.testing.assert_close(fixed(ids[:2], past[:2] - 2), plain(ids[:2], past[:2] - 2), atol=1e-5, rtol=1e-4)
    assert capture.count == 2


def test_rows_that_others_hold_are_not_touched():
    fixed = graphed(random_network("Llama"), 6, 64, Captured())
    fixed(torch.randint(30, (6, 20)), torch.zeros(6, dtype=torch.long))
    before = fixed.cache.clone()
    fixed(torch.tensor([[1], [2], [3]]), torch.tensor([20, 20, 20]))
    changed = (fixed.cache != before).any(dim=(0, 1, 3, 5))  # (slots, positions)
    assert changed[:3].nonzero()[:, 1].unique().tolist() == [20]
    assert changed[3:].nonzero().tolist() in ([], [[0, 0]])  # the free slot that rounds three rows up to four
