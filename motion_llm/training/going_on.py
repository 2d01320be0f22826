"""When a run that is finished trains further: the same command with more minutes or epochs."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from motion_llm.network.folder import read_motion_config, stage_history
from motion_llm.training.forecast import passes_made

EPOCHS = ("EPOCHS_S1", "EPOCHS_S2", "EPOCHS_S3")


def changeable_limits(before: Mapping, now: Mapping, folder: Path, stages: Sequence[str]) -> set[str]:
    """The limits that a run in `folder` can take other values of: those of stages still to come, and more for the last
    one. before, now: its settings. stages: the folders of all stages, in order."""
    finished = [name for name in stages if (folder / name).is_dir()]
    if not finished:
        return {*EPOCHS, "MAX_MINUTES"}
    number = stages.index(finished[-1])
    names = set(EPOCHS[number + 1:])
    if any(now[name] for name in EPOCHS[number + 1:]):
        return names | {"MAX_MINUTES"}
    used = sum(stage_history(folder / name)["seconds"] for name in finished)
    if epochs_to_come(before, now, number + 1, stage_history(folder / finished[-1]), used):
        names |= {"MAX_MINUTES"} | ({EPOCHS[number]} if now["MAX_MINUTES"] is None else set())
    return names


def epochs_to_come(before: Mapping, now: Mapping, number: int, history: Mapping, used: float) -> int | None:
    """The passes that a finished last stage makes beyond those of its history, or, where minutes bound it, its share of
    them; None if it is finished by the settings of now too. before: the settings that it was trained with. used:
    seconds of training so far."""
    epochs, minutes = EPOCHS[number - 1], now["MAX_MINUTES"]
    earlier_minutes = before.get("MAX_MINUTES")
    if minutes is not None:
        more = earlier_minutes is None or minutes > earlier_minutes
        return now[epochs] if more and 60 * minutes - used >= 1 else None
    if earlier_minutes is None and now[epochs] <= before.get(epochs, 0):
        return None
    return max(0, math.ceil(now[epochs] - passes_made(history) - 0.05)) or None


def going_on(folder: Path, now: Mapping, number: int, used: float) -> tuple[dict, int] | None:
    """The history of a finished last stage, and epochs_to_come() where there are any. used: seconds of training so far,
    its own among them."""
    history = stage_history(folder)
    epochs = epochs_to_come(read_motion_config(folder)["settings"], now, number, history, used)
    return (history, epochs) if epochs else None
