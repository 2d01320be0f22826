"""Whether training is enough: how many passes fit, foretold from the first updates, and what more of them would need.

A model learns to follow captions in text to motion, so its passes are counted. In stage 2 a pass has text to motion for
a share of the clips, and counts as that much.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# Passes of text to motion after which the models of docs/log.md followed captions ("How many passes are enough"): few
# clips have to be shown more often, and all of them twice.
NEEDED_CLIPS, NEEDED_PASSES = 4_000, 2.0
FIRST_UPDATES, FIRST_SECONDS = 10, 30.0  # after this many updates, or so long, the speed is known
LONG = 10  # minutes; a run of epochs that takes longer is told how to end in that time
STILL_FALLS = 0.02  # of the held-out NLL, from one evaluation to the last: then it has not levelled off


def passes_needed(clips: int) -> float:
    """Passes of text to motion that so many different training clips usually need."""
    return max(NEEDED_PASSES, NEEDED_CLIPS / max(1, clips))


@dataclass(frozen=True)
class StageAhead:
    """A stage still to come, or to be finished. epochs: its share of the minutes, or its passes. positions: of all
    examples in a pass; t2m: the share of them that is text to motion."""

    epochs: float
    positions: float
    t2m: float


@dataclass(frozen=True)
class Forecast:
    """passes: of text to motion, at the end. needed: see passes_needed. minutes: of training in all. more: what to set
    for the needed passes, as flags; None if it is enough. in_less: the passes that LONG minutes would make; None if
    the run takes no longer, or its minutes were set."""

    passes: float
    needed: float
    minutes: float
    more: str | None
    in_less: float | None = None

    def sentence(self, clips: int, speed: float) -> str:
        """speed: clips a second."""
        start = (f"{speed:.3g} clips a second: about {self.passes:.2g} passes of text to motion over {clips:,} clips "
                 f"in {max(1, round(self.minutes))} minutes")
        less = "" if self.in_less is None else (f"; --max_minutes {LONG} ends in that time, with {self.in_less:.2g} "
                                                "passes")
        if self.more is None:
            return f"{start} ({self.needed:.2g} are usually enough){less}"
        return (f"{start}, but about {self.needed:.2g} are usually needed before a model follows its captions: "
                f"{self.more} would do{less}")


def foretell(clips: int, made: float, used: float, ahead: Sequence[StageAhead], speed: float, minutes: float | None,
             last: tuple[int, float]) -> Forecast:
    """clips: different ones. made: passes of text to motion so far, `used` the seconds of training so far. speed:
    positions a second. minutes: of the whole run, None if epochs bound it. last: the last stage's number and its
    epochs. Evaluations are not in it."""
    epochs = sum(stage.epochs for stage in ahead)
    needed = passes_needed(clips)
    # In a second each stage makes speed / positions passes, and with minutes it gets epochs / all epochs of the time.
    a_second = sum(stage.epochs / epochs * speed / stage.positions * stage.t2m for stage in ahead)
    if minutes is None:
        passes = made + sum(stage.epochs * stage.t2m for stage in ahead)
        total = (used + sum(stage.epochs * stage.positions for stage in ahead) / speed) / 60
        in_less = None if used or total <= LONG else 60 * LONG * a_second
        return Forecast(passes, needed, total, None if passes >= needed - 1e-6 else
                        _more_epochs(last, (needed - passes) / max(ahead[-1].t2m, 0.01)), in_less)
    left = max(60 * minutes - used, 1.0)
    passes = made + left * a_second
    wanted = round_up((used + (needed - made) / max(a_second, 1e-9)) / 60)
    return Forecast(passes, needed, minutes, None if passes >= needed - 1e-6 else f"--max_minutes {wanted}")


def round_up(minutes: float) -> int:
    """To a number that people would choose: whole minutes up to 10, then steps of 5, above 120 of 30."""
    step = 1 if minutes <= 10 else 5 if minutes <= 120 else 30
    return max(step, math.ceil(minutes / step - 1e-9) * step)


def passes_made(history: Mapping) -> float:
    """Of a finished stage, from its history; of those of earlier versions by their last evaluation."""
    return history.get("passes", max((check["epoch"] for check in history["nll"]), default=0.0))


def advice(stages: Sequence[tuple[Mapping, float]], minutes: float | None, last: tuple[int, float]
           ) -> tuple[float, str | None]:
    """The passes of text to motion that a run has made, and what to give the same command for a better model; None if
    more training would gain little. stages: for each its history and the share of text to motion in it. minutes, None
    if epochs bound the run, and last: as in foretell()."""
    passes = sum(passes_made(history) * share for history, share in stages)
    history, share = stages[-1]
    clips = history.get("clips")
    if not clips or not share:
        return passes, None
    missing = passes_needed(clips) - passes
    if missing <= 0 and still_falls(history["nll"]):
        missing = passes / 2
    if missing <= 0:
        return passes, None
    if minutes is None:
        return passes, _more_epochs(last, missing / share)
    used = sum(history["seconds"] for history, _ in stages)
    a_pass = history["seconds"] / max(passes_made(history), 1e-3)
    wanted = (used + missing / share * a_pass) / 60
    return passes, f"--max_minutes {round_up(max(wanted, minutes + 1))}"  # no more minutes would train nothing


def _more_epochs(last: tuple[int, float], missing: float) -> str:
    number, epochs = last
    return f"--epochs_s{number} {math.ceil(epochs + missing - 1e-9)}"


def still_falls(checks: Sequence[Mapping]) -> bool:
    """Whether the last evaluation of a stage was its best by more than STILL_FALLS a pass."""
    means = [check["mean"] for check in checks if "mean" in check]
    if len(means) < 2 or means[-1] > min(means):
        return False
    passes = max(checks[-1]["epoch"] - checks[-2]["epoch"], 1e-3)
    return (means[-2] - means[-1]) / means[-2] / passes > STILL_FALLS
