"""How many examples an update sees where BATCH_TRAIN does not say, and the learning rates that go with it.

Small batches learn more from a clip, large ones keep a GPU busy (docs/log.md). A pass keeps enough updates all the
same. Not run on a GPU yet.
"""

import math

LEARNS_MOST = 8  # examples an update: fewer learn a little more from a clip, and keep two cores less busy
UPDATES = 100  # in a pass, at least, before an update sees more examples
BUSY = 8192  # positions that keep a GPU busy


def examples_of_update(clips: int, positions: float, gpus: int) -> int:
    """Of all processes together. clips: in a pass. positions: of an example, in the mean. gpus: 0 on a CPU."""
    most = min(gpus * BUSY / positions, clips / UPDATES)
    return max(LEARNS_MOST, 8 * int(most // 8))


def rate_factor(examples: int) -> float:
    """The learning rates over those for LEARNS_MOST examples an update: with the square root of their number, as
    Malladi et al. (2022) derive it for Adam."""
    return math.sqrt(examples / LEARNS_MOST)
