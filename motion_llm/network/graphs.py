"""One more token for every row as a CUDA graph. On a GPU, launching the hundreds of small kernels of a step takes
longer than their work; a graph launches them all at once.

A graph has fixed shapes and addresses: so many rows, so many positions to read, one cache. Both numbers are rounded up,
so that a decoding needs few graphs; rows without a job and positions that are not there yet are computed and not read.
Not run on a GPU yet.
"""

from collections.abc import Callable

import torch

POSITIONS = 64  # those to read are a multiple
WARM_UP = 2  # runs before a capture, in which libraries allocate what they need


def cuda_graph(work: Callable[[], torch.Tensor]) -> tuple[Callable[[], None], torch.Tensor]:
    """(run, result): run() does the work again, and overwrites the result."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = work()
    return graph.replay, result


class StepGraphs:
    """The graphs of one network and its cache (L, 2, slots, G, P, d).

    step(ids (B, 1), past (B,), seen) -> states (B, D), of rows that read `seen` cached positions, those behind their
    own masked. It must not wait for the GPU. capture: cuda_graph, or what stands in for it.
    """

    def __init__(self, step: Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor], cache: torch.Tensor,
                 capture: Callable = cuda_graph):
        self.slots, self.positions = cache.shape[2], cache.shape[4]
        self._step, self._capture = step, capture
        self._ids = torch.zeros(self.slots, 1, dtype=torch.long, device=cache.device)
        self._past = torch.zeros(self.slots, dtype=torch.long, device=cache.device)
        self._graphs: dict[tuple[int, int], tuple[Callable[[], None], torch.Tensor]] = {}

    def __call__(self, ids: torch.Tensor, past: torch.Tensor, seen: int) -> torch.Tensor:
        """As `step`, for the rows from slot 0 on. The rows behind them must not hold anything, as their first position
        may be overwritten. The result is overwritten by the next call."""
        count = len(ids)
        rows = min(1 << (count - 1).bit_length(), self.slots)
        seen = min(-(-seen // POSITIONS) * POSITIONS, self.positions)
        self._ids[:count], self._past[:count] = ids, past
        self._past[count:rows] = 0
        if (rows, seen) not in self._graphs:
            given, before = self._ids[:rows], self._past[:rows]
            self._graphs[rows, seen] = self._capture(lambda: self._step(given, before, seen))
        run, result = self._graphs[rows, seen]
        run()
        return result[:count]
