"""What a fit of a codec will be: rate, codes, clips and figures of a folder, told before anything long begins."""

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from motion_llm.motion.features import Layout
from motion_llm.motion.kinematics import frames_at
from motion_llm.motion.skeleton import MotionError
from motion_llm.motion.survey import Survey, codec_rate
from motion_llm.streams import ONE

log = logging.getLogger(__name__)
MOST_CODES, MOST_WINDOW = 1_000_000, 1024
FEWEST_CHOSEN, MOST_CHOSEN, USES = 64, 512, 16  # codes that are chosen; times that motions use a code in the mean
CAPTION = 64  # tokens of a caption and of the words around it, roughly
Codes = int | Mapping[str, int] | None  # told for all streams, for each, or chosen
SAME_BONES = 0.002  # metres; skeletons whose bones differ by less are one
FEATURE_MEMORY = 0.4  # of the free memory, for the features that a codec is fitted to
FEWEST_HELD, MOST_HELD, FEWEST_CLIPS = 5, 100, 4  # clips that are held out, and clips to hold any out of


class CodecError(ValueError):
    """An invalid codec, codec folder or code; the text says what was found and what was expected."""


@dataclass(frozen=True)
class Plan:
    """Of a fit. fps, window: those told, or chosen. sizes: codes of each stream, told or chosen. lengths: frames of
    each motion at fps. fitted, held_out: indices of the motions that the codec is fitted to and measured on. suitable:
    codes for so much motion. names: of the streams."""

    common: Survey = field(repr=False)
    fps: float
    sizes: tuple[int, ...]
    window: int
    lengths: tuple[int, ...] = field(repr=False)
    fitted: tuple[int, ...] = field(repr=False)
    held_out: tuple[int, ...]
    suitable: int
    names: tuple[str, ...] = (ONE,)

    @staticmethod
    def of(common: Survey, codes: Codes, window: int, fps: float | None, heldout: float, seed: int,
           names: tuple[str, ...] = (ONE,)) -> "Plan":
        """codes, fps: None to choose them. heldout: share of the motions. names: of the streams. Raises CodecError
        where the motions hold too few windows, and where `codes` names other streams."""
        told = _told_of(codes, names)
        fps = codec_rate(common.fps) if fps is None else fps
        lengths = tuple(frames_at(fps, count, rate) for count, rate in zip(common.lengths, common.rates, strict=True))
        held_out = held_out_of(len(lengths), heldout, seed)
        others = [i for i in range(len(lengths)) if i not in set(held_out)]
        fitted = _that_fit(common.layout, lengths, others, seed)
        images = 2 if common.layout.mirror else 1
        windows = images * sum(max(lengths[i] - window + 1, 0) for i in fitted)
        wanted = codes_for(sum(lengths) / window)
        least = max(size or 2 for size in told)
        if windows < least:
            raise CodecError(f"{len(fitted)} motions hold {windows} windows of {window} frames, expected at least as "
                             f"many as codes, {least}, at {fps:g} frames a second: take more or longer clips, or "
                             + ("fewer --codes" if codes else "a smaller --window"))
        sizes = tuple(size or min(wanted, windows) for size in told)
        return Plan(common, fps, sizes, window, lengths, fitted, held_out, wanted, names)

    @property
    def codes(self) -> int:
        """Of all streams together."""
        return sum(self.sizes)

    @property
    def seconds(self) -> float:
        return sum(self.lengths) / self.fps

    def lines(self, names: Sequence[str], max_seq_len: int | None = None) -> list[str]:
        """Three lines: figures; rates and seconds; codes. names: of the motions. max_seq_len: tokens of a model's row.
        """
        return [self._figures(), self._rates(), self._codes(names, max_seq_len)]

    def _figures(self) -> str:
        bones, skeletons = self.common.bones, _skeletons(self.common.bones)
        skeleton = self.common.layout.skeleton
        joints = f"{len(skeleton.names)} joints" + (f", {len(skeleton.ends)} of them tips" if skeleton.ends else "")
        if len(skeletons) == 1:
            return f"figures: {len(bones)} clips of one skeleton, {joints}"
        mean = bones.mean(0)
        apart = np.abs(bones - mean).sum(1).max() / mean.sum()
        largest = ", ".join(map(str, skeletons[:3])) + (", ..." if len(skeletons) > 3 else "")
        return (f"figures: {len(bones)} clips of {len(skeletons)} skeletons ({largest} clips), {joints}; their bones "
                f"are up to {apart:.1%} longer or shorter than the mean, to which all are decoded")

    def _rates(self) -> str:
        rates = Counter(self.common.rates).most_common(3)
        found = " and ".join(f"{rate:g}" + (f" ({count} clips)" if len(rates) > 1 else "") for rate, count in rates)
        taken = "as they are" if self.fps == self.common.fps else f"{self.fps:g} of them for the codec"
        return f"frames a second: {found}, {taken}; {self.seconds:,.0f} seconds of motion"

    def _codes(self, names: Sequence[str], max_seq_len: int | None) -> str:
        rate, longest = self.fps / self.window, int(np.argmax(self.lengths))
        tokens = -(-self.lengths[longest] // self.window)
        total = sum(-(-length // self.window) for length in self.lengths)
        advice = "" if set(self.sizes) == {self.suitable} else f" ({self.suitable} would suit so much motion)"
        sizes, rates, streams = f"{self.codes}", f"{rate:g} a second", len(self.names)
        if streams > 1:
            sizes = ", ".join(f"{size} of {name}" for size, name in zip(self.sizes, self.names, strict=True))
            rates, tokens = f"{rate:g} steps and {rate * streams:g} tokens a second", tokens * streams
        text = (f"codes: {sizes}{advice}, {rates}, each used {total / max(self.sizes):,.1f} times; the longest clip, "
                f"{names[longest][:60]}, has {tokens}")
        if max_seq_len is None:
            return text
        fits = "which it fits" if tokens + CAPTION <= max_seq_len else (
            "too few for it: caption parts of it (start, end), raise MAX_SEQ_LEN, or take a larger --window")
        return f"{text}; a model's row holds {max_seq_len} tokens with its caption (MAX_SEQ_LEN), {fits}"


def codes_for(windows: float) -> int:
    """Codes for motions of so many windows."""
    # Twice as many codes lower the held-out error of real clips by 5 %, but a code that one clip has teaches a language
    # model nothing: at 16 uses that is half of them, at 3 nine in ten (docs/motion.md). A power of two, as is usual.
    return min(max(2 ** round(math.log2(max(windows / USES, 1))), FEWEST_CHOSEN), MOST_CHOSEN)


def held_out_of(count: int, share: float, seed: int) -> tuple[int, ...]:
    """Indices of the motions that are held out: that share, at least FEWEST_HELD of them, but no more than a quarter.
    None of fewer than FEWEST_CLIPS."""
    if not share or count < FEWEST_CLIPS:
        return ()
    held = min(max(round(share * count), FEWEST_HELD), count // 4, MOST_HELD)
    return tuple(sorted(np.random.default_rng(seed).permutation(count)[:held].tolist()))


def codes_of_text(text: str) -> Codes:
    """Codes of a flag: "128", or of each stream, "body=128,left_hand=64". Raises CodecError."""
    if text.strip().isdecimal() and text.isascii():
        return int(text)
    codes = {}
    for entry in text.split(","):
        name, _, size = entry.strip().rpartition("=")
        if not name or name in codes or not (size.isascii() and size.isdecimal() and len(size) < 10):
            raise CodecError(f"--codes {text[:80]!r}: {entry.strip()[:40]!r}, expected a number, or one for each "
                             "stream, such as body=128,left_hand=64")
        codes[name] = int(size)
    return codes


def _told_of(codes: Codes, names: tuple[str, ...]) -> list[int | None]:
    """Of each stream the codes told, None to choose them."""
    if not isinstance(codes, Mapping):
        return [codes] * len(names)
    if set(codes) != set(names):
        raise CodecError(f"codes of the streams {', '.join(codes)[:120]}, expected of {', '.join(names)[:120]}"
                         + (": a number alone, as the codec has one stream" if names == (ONE,) else ""))
    return [codes[name] for name in names]


def check_told(codes: Codes, window: int, fps: float | None, heldout: float) -> None:
    """Raises CodecError and MotionError for values that no codec has."""
    for size in codes.values() if isinstance(codes, Mapping) else [codes]:
        if not (size is None or 2 <= size <= MOST_CODES) or not 1 <= window <= MOST_WINDOW:
            raise CodecError(f"{size or 'chosen'} codes of {window} frames: expected 2 to {MOST_CODES:,} codes, of 1 "
                             f"to {MOST_WINDOW} frames")
    if fps is not None and not 0 < fps < 1e5:
        raise MotionError(f"{fps} frames a second: expected more than 0, and less than 100,000")
    if not 0 <= heldout <= 0.5:
        raise CodecError(f"a share of {heldout:g} of the clips held out: expected 0 to 0.5")


def _skeletons(bones: np.ndarray) -> list[int]:
    """How many motions each skeleton has, the most frequent first; of the bones (N, B) of N motions, in metres."""
    kinds, counts = np.empty((0, bones.shape[1])), []
    for lengths in bones:
        same = np.flatnonzero((np.abs(kinds - lengths) < SAME_BONES).all(1))
        if len(same):
            counts[same[0]] += 1
        else:
            kinds = np.concatenate([kinds, lengths[None]])
            counts.append(1)
    return sorted(counts, reverse=True)


def _that_fit(layout: Layout, lengths: Sequence[int], motions: Sequence[int], seed: int) -> tuple[int, ...]:
    """Those of the motions whose features fit into memory; a sample where not all do. lengths: frames of each."""
    import psutil  # imported here, as only a fit needs it

    images = 2 if layout.mirror else 1
    needed = sum(lengths[i] for i in motions) * layout.width * 4 * images  # float32
    free = psutil.virtual_memory().available * FEATURE_MEMORY
    if needed <= free:
        return tuple(motions)
    fitting = max(1, int(len(motions) * free / needed))
    log.warning("the features of %d clips would take %.1f GB, %.1f GB are free for them: the codec is fitted to %d "
                "clips drawn by the seed. A lower --fps takes more of them", len(motions), needed / 1e9, free / 1e9,
                fitting)
    return tuple(sorted(np.random.default_rng(seed).permutation(motions)[:fitting].tolist()))
