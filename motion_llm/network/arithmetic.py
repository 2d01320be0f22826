"""Which number format a processor multiplies fastest, measured with products of the model's own shape.

Processors with instructions for bfloat16 (AVX512-BF16, AMX, Arm's BF16) are several times faster with it; those
without make it up, a hundred times slower than float32. Their names and flags say less than a tenth of a second does.
"""

import logging
import time
from dataclasses import dataclass
from functools import cache

import torch
from torch.nn import functional

log = logging.getLogger(__name__)

ROWS = 64  # positions: with fewer the memory is what is measured
OPERATIONS = 1e8  # of a product, a part of the weight's rows: a millisecond of float32
REPEATS = 15  # of which the fastest counts, as other programs disturb
HOPELESS = 4.0  # times as slow as float32: then no more repeats
WORTH = 1.3  # times as fast bfloat16 has to be: it is less exact


@dataclass(frozen=True)
class Arithmetic:
    """10^9 operations a second in each format."""

    float32: float
    bfloat16: float

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.bfloat16 >= WORTH * self.float32 else torch.float32

    def __str__(self) -> str:
        chosen, other = ("bfloat16", "float32") if self.dtype == torch.bfloat16 else ("float32", "bfloat16")
        return (f"{chosen}, as this processor makes {getattr(self, chosen):,.0f} GFLOP/s of the model's products in "
                f"it, and {getattr(self, other):,.2g} in {other}")


@cache
def cpu_arithmetic(width: int, inner: int) -> Arithmetic:
    """Measured once in a process. width, inner: the hidden and the intermediate size of the model."""
    inner = max(1, min(inner, round(OPERATIONS / (2 * ROWS * width))))
    float32 = _seconds(torch.float32, width, inner, float("inf"))
    bfloat16 = _seconds(torch.bfloat16, width, inner, HOPELESS * float32)
    operations = 2 * ROWS * width * inner / 1e9
    return Arithmetic(operations / float32, operations / bfloat16)


def _seconds(dtype: torch.dtype, width: int, inner: int, hopeless: float) -> float:
    """Of a product. hopeless: so slow that it need not be known exactly."""
    x, weight, best = torch.ones(ROWS, width, dtype=dtype), torch.ones(inner, width, dtype=dtype), float("inf")
    with torch.inference_mode():
        functional.linear(x, weight)  # makes ready what later ones use
        for _ in range(REPEATS):
            started = time.perf_counter()
            functional.linear(x, weight)
            best = min(best, time.perf_counter() - started)
            if best > hopeless:
                break
    return best
