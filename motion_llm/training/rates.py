"""The peak learning rates where LR and LR_NEW_ROWS do not say.

Those of the bundled base are the best of a sweep. A wider base wants smaller ones, as a step of Adam changes a wide
layer's output more: with the reciprocal of the width (Yang et al. 2022, Tensor Programs V). The figures are in
docs/log.md.
"""

import math

from motion_llm.training.batch_size import LEARNS_MOST

LORA, NEW_ROWS = 1.5e-3, 7e-3  # for LEARNS_MOST examples an update and a base of WIDTH
WIDTH = 576  # the bundled base's hidden size; narrower ones take its rates


def rate_factor(width: int, examples: int) -> float:
    """The peaks over LORA and NEW_ROWS. width: the base's hidden size. examples: of an update; the rates grow with the
    square root of their number, as Malladi et al. (2022) derive it for Adam."""
    return min(1.0, WIDTH / width) * math.sqrt(examples / LEARNS_MOST)
