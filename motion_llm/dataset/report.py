"""The report on a dataset: its rows, facts and problems, and the same as text."""

import textwrap
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from motion_llm.dataset.reader import SHOWN
from motion_llm.dataset.rows import Rows, distinct
from motion_llm.streams import ABSENT, TEXT, Streams

FEW_VALIDATION_CLIPS = 20  # with fewer, a single clip changes a metric by more than 5 %


class DataError(ValueError):
    """The dataset has errors; the message lists all of them."""


@dataclass(frozen=True)
class Problem:
    """kind: a short name ("missing-field"). message: the file, the rows and what was found there."""

    kind: str
    message: str


@dataclass
class Report:
    """The result of read_rows(). rows: the valid rows in file order; all rows only where errors is empty.

    form: "JSON list" or "JSON Lines". fingerprint: sha256 of the content in order, whatever the path and the JSON
    formatting ("" with errors). file_sha256: of the file's bytes as they were read. streams: with codebooks as set,
    else of the largest code + 1; used: how many codes of each occur. ignored_fields: unknown fields and the number of
    rows that have them.
    """

    path: str
    max_seq_len: int
    form: str = ""
    rows: Rows = field(default_factory=Rows)
    errors: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    fingerprint: str = ""
    file_sha256: str = ""
    streams: Streams = field(default_factory=lambda: Streams.one(0))
    codebook_size_is_set: bool = False
    used: list[int] = field(default_factory=list)
    ignored_fields: dict[str, int] = field(default_factory=dict)

    @property
    def codebook_size(self) -> int:
        """Codes of all streams."""
        return self.streams.size

    @property
    def codes_used(self) -> int:
        return sum(self.used)

    def name_of(self, index: int) -> str:
        """How messages name the row at this position in the file: "row 17", or "line 18" for JSON Lines, for which the
        file is read again, as blank lines are no rows."""
        if self.form != "JSON Lines":
            return f"row {index}"
        with open(self.path, encoding="utf-8-sig", newline="\n") as file:
            numbers = (number for number, line in enumerate(file, 1) if line.strip())
            number = next(islice(numbers, index, None), None)
        return f"row {index}" if number is None else f"line {number}"  # a pipe is not there again


def raise_on_errors(report: Report) -> None:
    """Raise DataError with every error of the report, if it has any."""
    if report.errors:
        raise DataError("\n".join([f"{report.path}: {_kinds(report.errors, 'error')}{_numbering(report)}",
                                   *(f"  ERROR: {problem.message}" for problem in report.errors)]))


def _kinds(problems: list[Problem], word: str) -> str:
    return f"{count_of(len(problems), 'kind')} of {word}" if problems else f"no {word}s"


def count_of(number: int, unit: str) -> str:
    return f"{number:,} {unit}{'s' * (number != 1)}"


def _numbering(report: Report) -> str:
    """How messages number the rows."""
    return {"JSON list": "; rows count from 0", "JSON Lines": "; lines count from 1", "": ""}[report.form]


def check_split(report: Report, split) -> None:
    """Add an error to the report if the split (a splits.Split) leaves nothing to train."""
    sizes = split.sizes()
    if not sizes["train"]:
        report.errors.append(Problem("nothing-to-train", f"{report.path}: no row is left for training, expected some; "
                                     f"the split is {_named(split)}, {sizes['unused']:,} of them left out"))


def _spread(values: np.ndarray) -> str:
    return (f"min {min(values):,}, median {np.median(values):,.0f}, mean {np.mean(values):,.1f}, "
            f"max {max(values):,}")


def format_report(report: Report, split=None) -> str:
    """The report as aligned text: what is in the dataset, how it is split (a splits.Split), and every problem."""
    facts = _facts(report) if len(report.rows) else []
    if split is not None:
        facts += _split_facts(split, report.rows.motions)
    texts = [(f"  {name:<14} {text}", 17) for name, text in facts]
    texts += [(f"  {title}: {problem.message}", 4) for title, problems in (
        ("ERROR", report.errors), ("warning", report.warnings)) for problem in problems]
    lines = [report.path, *(textwrap.fill(text, 110, subsequent_indent=" " * indent, break_on_hyphens=False,
                                          break_long_words=False) for text, indent in texts)]
    return "\n".join([*lines, f"  {_kinds(report.errors, 'error')}, {_kinds(report.warnings, 'warning')}"])


def _named(split) -> str:
    """The rows of each split as the file names them."""
    return ", ".join(f"{name} {count:,}" for name, count in split.named.items())


def _split_facts(split, motions) -> list[tuple[str, str]]:
    """motions: the rows' Groups of the same motion."""
    sizes, many = split.sizes(), len(motions.ids) > motions.count

    def size(part: str) -> str:
        if not many:
            return f"{sizes[part]:,}"
        return f"{count_of(sizes[part], 'row')} of {count_of(_distinct(motions, split.places(part)), 'motion')}"

    facts = [("split", f"train {size('train')}")] if split.named is None else [
        ("split", f"as the file says: {_named(split)}"), ("  training", size("train"))]
    facts += [("  validation", f"seen {size('seen')}, unseen {size('unseen')}"),
              ("  test", f"seen {size('test seen')}, unseen {size('test unseen')}")]
    if sizes["unused"]:
        facts.append(("  left out", f"{sizes['unused']:,}, whose clip is in a later split too"))
    return [*facts, ("", "(seen: other clips with the same caption are trained; unseen: none is)"),
            *(("", f"note: {note}") for note in [*split.notes, *_few_for_validation(split, motions)])]


def _distinct(motions, places: list[int]) -> int:
    return len(np.unique(motions.ids[places]))


def _few_for_validation(split, motions) -> list[str]:
    clips = _distinct(motions, split.seen + split.unseen)
    if not 0 < clips < FEW_VALIDATION_CLIPS:
        return []
    chosen = not (split.named or {}).get("val")  # rows that the file names as val are held out whatever the share
    return [f"validation has {count_of(clips, 'clip')}: too few to choose an epoch by, or to say how good the model is"
            + "; --heldout_share 0 trains on everything to the end" * chosen]


def _facts(report: Report) -> list[tuple[str, str]]:
    rows = report.rows
    motions, keys, clips = rows.motions, rows.keys, rows.clips
    pairs = distinct(keys.ids * motions.count + motions.ids)  # a caption with each of its motions
    motions_of_key = np.bincount(pairs // motions.count)
    motion_sizes = np.bincount(motions.ids)
    counts = np.bincount(rows.participant + 1, minlength=1)
    without, counts = counts[0], counts[1:]
    order = np.argsort(-counts, kind="stable")
    names = [f"{rows.participants[place]} {counts[place]:,}" for place in order[:SHOWN]]
    names += [f"and {len(counts) - SHOWN:,} more"] if len(counts) > SHOWN else []
    names += [f"without one {without:,}"] if without else []
    size_source = "CODEBOOK_SIZE" if report.codebook_size_is_set else "the largest code + 1"
    return [
        ("form", report.form + _numbering(report)),
        ("rows", f"{len(rows):,}" + (" without errors" if report.errors else "")),
        ("motions", f"{motions.count:,} distinct" + (
            f"; captions for each: {_spread(motion_sizes)} (each time that a motion is shown in training, it "
            "is under the next of them)" if motion_sizes.max() > 1 else "")),
        *_motion_facts(report, size_source),
        ("captions", f"{keys.count:,} distinct; motions for each: {_spread(motions_of_key)}"),
        ("participants", f"{len(counts):,} (rows: {', '.join(names)})" if len(counts) else "none given"),
        ("clip_id", f"{clips.count:,} distinct, in {int((clips.ids >= 0).sum()):,} rows" if clips.count else
                    "not given"),
    ]


def _motion_facts(report: Report, size_source: str) -> list[tuple[str, str]]:
    """The motion tokens and their codebooks, those of each stream."""
    streams, lengths = report.streams, report.rows.lengths

    def codebook(size: int, used: int) -> str:
        return f"{size:,} codes ({size_source}): {used:,} used, {size - used:,} never used"

    if streams.form == TEXT:
        return [("motion tokens", f"{_spread(lengths)} a row"), ("codebook", codebook(streams.size, report.used[0]))]
    facts = [("motion tokens", f"steps of {count_of(streams.count, 'code')}, one of each stream: "
                               f"{_spread(lengths // streams.count)} steps a row")]
    for stream, (name, size, used) in enumerate(zip(streams.names, streams.sizes, report.used, strict=True)):
        without = sum(int((chunk.codes[chunk.ends[:-1] + stream] == ABSENT).sum()) for chunk in report.rows.chunks)
        absent = f"; without it {count_of(without, 'row')}" if without else ""
        facts.append((f"  {name}", codebook(size, used) + absent))
    return facts
