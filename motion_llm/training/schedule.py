"""How far a stage is, by updates or by the clock, and what follows from that: minutes, learning rates, noise."""

import time
from collections.abc import Sequence

WARMUP = 0.03  # share of a stage, and at least
WARMUP_UPDATES = 20  # so many updates: of a short stage the share may be less than one
LR_BETWEEN = 0.3  # learning rate over its peak at the end of motion alone, where text follows
NOISE_LEFT = 1 / 6  # of HISTORY_NOISE, when training ends


class Clock:
    """How far a stage is: by its updates, or by the wall time that it may take (`seconds`; None: by updates). made: the
    share of the stage that an earlier part made, where it goes on."""

    def __init__(self, seconds: float | None, made: float = 0.0):
        self.seconds, self.made = seconds, made
        self.share = 0.0  # of the stage that is over, 0 to 1
        self.reserve = 0.0  # seconds that the last evaluation will take
        self._before, self._started = 0.0, time.monotonic()

    def of_whole(self, share: float) -> float:
        """The share of the whole stage that is over when `share` of this part is."""
        return self.made + (1 - self.made) * share

    def used(self) -> float:
        """Seconds so far, with those before a resume."""
        return self._before + time.monotonic() - self._started

    def resume(self, used: float) -> None:
        self._before, self._started = used, time.monotonic()

    def tick(self, step: int, most_steps: int) -> None:
        if self.seconds is None:
            self.share = step / most_steps
        else:
            self.share = min(1.0, self.used() / max(self.seconds - self.reserve, 1.0))


def share_of_minutes(minutes: float | None, used: float, epochs: Sequence[int]) -> float | None:
    """Seconds for the next stage: the time that the earlier stages left (used: seconds that they took) is shared by
    epochs among the stages still to come, `epochs` of them. At least one second, so that every stage makes an update.
    None without minutes."""
    if minutes is None:
        return None
    return max((60 * minutes - used) * epochs[0] / sum(epochs), 1.0)


def rates_of_stage(passes: Sequence[float], place: int, first: int) -> tuple[float, float]:
    """The learning rates over their peaks at the start and at the end of the stage at `place`. The stages from `first`
    on, those with text, share one fall to 0 by their passes, as going up again would undo some of what the one before
    learned (docs/log.md). Motion alone, before them, has a fall of its own."""
    if place < first:
        return 1.0, LR_BETWEEN if first < len(passes) else 0.0
    before, all_of_them = sum(passes[first:place]), sum(passes[first:])
    return 1 - before / all_of_them, 1 - (before + passes[place]) / all_of_them


def learning_rate_factor(updates: int, part: float, whole: float, rates: tuple[float, float]) -> float:
    """The learning rate over its peak: a linear warm-up, then a linear fall from the first to the second of `rates` (as
    Bergsma et al. 2025 advise). updates: made before the present one. part, whole: the shares of this part of the stage
    and of the whole stage that are over with it. They differ where a stage goes on: it comes back to the rate at which
    a stage as long as both parts would be by then, as the full one would undo what was learned."""
    warm_up = min(1.0, (updates + 1) / WARMUP_UPDATES, part / WARMUP if updates else 1.0)
    start, end = rates
    return warm_up * (start + (end - start) * whole)


def fall(part: float, whole: float, end: float) -> float:
    """Linear, from 1 to `end` while `part` grows to `whole`."""
    return 1 - (1 - end) * part / whole


def noise_left(last: bool, share: float) -> float:
    """The factor on the history noise when `share` of a stage is over: 1, and in the last stage a linear fall to
    NOISE_LEFT. The noise teaches the model to follow the caption; less noise at the end lets it trust the history
    again. With none at the end, it follows new combinations of action and style less (docs/log.md)."""
    return fall(share, 1.0, NOISE_LEFT) if last else 1.0
