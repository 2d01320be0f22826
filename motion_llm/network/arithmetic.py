"""Which number format a processor multiplies fastest, measured with products of the model's own shape.

Processors with instructions for bfloat16 (AVX512-BF16, AMX, Arm's BF16) are several times faster with it; those
without make it up, about ten times slower than float32. Which of them gains is measured; one that oneDNN knows to be
without them is not asked, as other programs can disturb any measurement (docs/log.md).
"""

import time
from dataclasses import dataclass
from functools import cache

import torch
from torch.nn import functional

ROWS = 64  # positions: with fewer the memory is what is measured
OPERATIONS = 3e7  # of a product, a part of the weight's rows: less than a millisecond of float32
ROUNDS = 20  # of which the fastest counts, as other programs disturb
HOPELESS = 4.0  # times as slow as float32: then no more rounds
WORTH = 1.3  # times as fast bfloat16 has to be: it is less exact


@dataclass(frozen=True)
class Arithmetic:
    """10^9 operations a second in each format. has_bfloat16: whether the processor may have instructions for it."""

    float32: float
    bfloat16: float
    has_bfloat16: bool = True

    @property
    def dtype(self) -> torch.dtype:
        worth = self.has_bfloat16 and self.bfloat16 >= WORTH * self.float32
        return torch.bfloat16 if worth else torch.float32

    def __str__(self) -> str:
        chosen, other = ("bfloat16", "float32") if self.dtype == torch.bfloat16 else ("float32", "bfloat16")
        return (f"{chosen}, as this processor makes {getattr(self, chosen):,.0f} GFLOP/s of the model's products in "
                f"it, and {getattr(self, other):,.2g} in {other}")


@cache
def cpu_arithmetic(width: int, inner: int) -> Arithmetic:
    """Measured once in a process, in turn. width, inner: the hidden and the intermediate size of the model."""
    inner = max(1, min(inner, round(OPERATIONS / (2 * ROWS * width))))
    products = {dtype: (torch.ones(ROWS, width, dtype=dtype), torch.ones(inner, width, dtype=dtype))
                for dtype in (torch.float32, torch.bfloat16)}
    best = dict.fromkeys(products, float("inf"))  # seconds
    for number in range(ROUNDS + 1):
        for dtype, (x, weight) in list(products.items()):
            seconds = _seconds(x, weight)
            if number:  # the first round makes ready what later ones use
                best[dtype] = min(best[dtype], seconds)
        if best[torch.bfloat16] > HOPELESS * best[torch.float32]:
            products.pop(torch.bfloat16, None)
    operations = 2 * ROWS * width * inner / 1e9
    return Arithmetic(*(operations / seconds for seconds in best.values()), has_bfloat16())


def has_bfloat16() -> bool:
    """False where oneDNN finds that the processor has no instructions that it multiplies bfloat16 with."""
    return not torch.backends.mkldnn.is_available() or torch.ops.mkldnn._is_mkldnn_bf16_supported()


def _seconds(x: torch.Tensor, weight: torch.Tensor) -> float:
    started = time.perf_counter()
    with torch.inference_mode():
        functional.linear(x, weight)
    return time.perf_counter() - started
