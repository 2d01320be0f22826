"""How many examples an update sees where BATCH_TRAIN does not say.

Small batches learn more from a clip, large ones keep a GPU busy (docs/log.md). A pass keeps enough updates all the
same. Not run on a GPU yet.
"""

LEARNS_MOST = 8  # examples an update: fewer learn a little more from a clip, and keep two cores less busy
UPDATES = 100  # in a pass, at least, before an update sees more examples
BUSY = 8192  # positions that keep a GPU busy


def examples_of_update(clips: int, positions: float, gpus: int) -> int:
    """Of all processes together. clips: in a pass. positions: of an example, in the mean. gpus: 0 on a CPU."""
    most = min(gpus * BUSY / positions, clips / UPDATES)
    return max(LEARNS_MOST, 8 * int(most // 8))
