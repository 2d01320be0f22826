"""The dataset: read it, and refuse what is wrong with it.

A row is a caption with a motion, which is a list of codes (motion tokens). Nothing is silently dropped,
cropped or repaired: read_rows() collects every error, raise_on_errors() raises them together. Problems
name rows as `row 17`, counted from 0, for a JSON list, and as `line 18` of the file for JSON Lines.
"""

import hashlib
import textwrap
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from checks import FIELDS, LARGEST_CODE, Checker, Found
from reader import SHOWN, Bad, Records, show
from rows import SPLITS, Marks, Row, Rows, caption_key, distinct, group

__all__ = ["DataError", "Problem", "Report", "Row", "Rows", "caption_key", "check_split", "format_report",
           "raise_on_errors", "read_rows"]

FEW_VALIDATION_ROWS = 20  # below this a single clip moves the figures by 5 % and more
_ERRORS = {
    "not-an-object": "not an object",
    "duplicate-key": "a key given twice",
    "json-constant": "NaN or Infinity, which JSON does not have",
    "missing-field": "a missing field",
    "text": "text_query that is not text, or is blank",
    "codes-type": 'motion_tokens that is neither text ("42 18 91") nor a list ([42, 18, 91])',
    "no-codes": "no motion tokens",
    "negative-code": "a negative motion token",
    "non-integer-code": "a motion token that is not an integer",
    "code-too-large": "a motion token that is too large (at most {largest:,} is allowed{codebook})",
    "participant": "a participant_id that cannot be used",
    "clip-id": "a clip_id that cannot be used",
    "split": "a split that is none of train (training), val (valid, validation, dev) and test",
    "too-long": "a clip that cannot fit MAX_SEQ_LEN ({max_seq_len:,}); raise MAX_SEQ_LEN or shorten the clip",
}
_WARNINGS = {
    "may-not-fit": "a clip that may not fit MAX_SEQ_LEN ({max_seq_len:,}); checked exactly once the "
                   "tokenizer is loaded",
    "duplicate": "an exact duplicate of an earlier row",
    "same-motion": "the motion of an earlier row under another caption (they stay on one side of the split)",
    "similar-captions": "a caption that differs from an earlier one only by case, spaces or full stop (they "
                        "count as one)",
    "split-leak": "a clip (same tokens or same clip_id) that is in a later split too; the row is left out, neither "
                  "trained on nor scored",
    "no-split": "a row without a split among others that have one (it counts as train)",
}


class DataError(ValueError):
    """The dataset has errors; the text is the whole list of them."""


@dataclass(frozen=True)
class Problem:
    """kind: a short name ("missing-field"). message: the file, the rows and what was found there."""

    kind: str
    message: str


@dataclass
class Report:
    """What read_rows() found. rows: the good rows in file order; all of them only where errors is empty.

    form: "JSON list" or "JSON Lines". fingerprint: sha256 of the content in order, whatever the path and the
    JSON formatting ("" with errors). file_sha256: of the file's bytes, as they were read. codebook_size: as set, else
    the largest code + 1; codes_used: how many of them occur. ignored_fields: unknown fields and the number of rows
    that have them.
    """

    path: str
    max_seq_len: int
    form: str = ""
    rows: Rows = field(default_factory=Rows)
    errors: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    fingerprint: str = ""
    file_sha256: str = ""
    codebook_size: int = 0
    codebook_size_is_set: bool = False
    codes_used: int = 0
    ignored_fields: dict[str, int] = field(default_factory=dict)


def raise_on_errors(report: Report) -> None:
    """Raise DataError with every error of the report, if it has any."""
    if report.errors:
        raise DataError("\n".join([f"{report.path}: {_kinds(report.errors, 'error')}{_counting(report)}",
                                   *(f"  ERROR: {problem.message}" for problem in report.errors)]))


def _kinds(problems: list[Problem], word: str) -> str:
    return f"{_count(len(problems), 'kind')} of {word}" if problems else f"no {word}s"


def _count(number: int, unit: str) -> str:
    return f"{number:,} {unit}{'s' * (number != 1)}"


def _counting(report: Report) -> str:
    """How messages number the rows."""
    return {"JSON list": "; rows count from 0", "JSON Lines": "; lines count from 1", "": ""}[report.form]


# ---------------------------------------------------------------- reading and comparing


def _word(what: str, found: Found, report: Report, records: Records) -> str:
    shown = ", ".join(f"{records.unit} {records.number(record)} ({text})" for record, text in found.first)
    more = f", and {found.count - SHOWN:,} more" if found.count > SHOWN else ""
    return f"{report.path}: {what}, in {_count(found.records, records.unit)}: {shown}{more}"


def _type_errors(checker: Checker, report: Report, records: Records) -> list[Problem]:
    problems = []
    for name, kinds in checker.types.items():
        if len(kinds) == 2:
            found = " and ".join(
                f"{word} in {_count(count, records.unit)} (first: {records.unit} {records.number(first)}, "
                f"{show(value)})"
                for word, (count, first, value) in (("text", kinds[str]), ("an integer", kinds[int])))
            problems.append(Problem(f"{name.split('_')[0]}-types",
                                    f"{report.path}: {name} is {found}; make them all one type"))
    return problems


def _compare(rows: Rows, checker: Checker, records: Records) -> None:
    """Add what rows have in common: duplicates, one motion under several captions, similar captions."""
    if not len(rows):
        return
    motions, captions, keys = rows.motions, rows.captions, rows.keys

    def add(kind: str, which: np.ndarray, earlier: np.ndarray, name_texts: bool = True) -> None:
        """which: (N,) bool; earlier: (N,), the row that each has something in common with."""
        places = np.flatnonzero(which)

        def text(place: int) -> str:
            one, other = rows[places[place]], rows[earlier[places[place]]]
            where = f"as {records.unit} {records.number(other.index)}"
            return f"{show(one.text_query)}, {where}, {show(other.text_query)}" if name_texts else where

        if len(places):
            checker.findings.add_all(kind, rows.index[places], text)

    alike = group(np.stack([captions.ids * motions.count + motions.ids, rows.participant], 1).astype(np.uint64))
    place = np.arange(len(rows))
    add("duplicate", alike.first[alike.ids] != place, alike.first[alike.ids], name_texts=False)
    same_motion = motions.first[motions.ids]
    add("same-motion", keys.ids[same_motion] != keys.ids, same_motion)
    same_key = keys.first[keys.ids]
    new = captions.first[captions.ids] == place
    add("similar-captions", new & (captions.ids[same_key] != captions.ids), same_key)
    _compare_splits(rows, checker, records)


def _compare_splits(rows: Rows, checker: Checker, records: Records) -> None:
    """Add the rows whose clip is in a later split too, and those without a split where others have one."""
    leaks, without = np.flatnonzero(rows.later_copy >= 0), np.flatnonzero(rows.splits < 0)

    def text(place: int) -> str:
        own, other = rows[leaks[place]], rows[rows.later_copy[leaks[place]]]
        return f"{own.split or SPLITS[0]}, as {records.unit} {records.number(other.index)}, {other.split}"

    if len(leaks):
        checker.findings.add_all("split-leak", rows.index[leaks], text)
    if 0 < len(without) < len(rows):
        checker.findings.add_all("no-split", rows.index[without], lambda place: show(rows[without[place]].text_query))


def check_split(report: Report, split) -> None:
    """Add an error to the report if the split (a splits.Split) leaves nothing to train."""
    sizes = split.sizes()
    if not sizes["train"]:
        report.errors.append(Problem("nothing-to-train", f"{report.path}: no row is left for training, expected some; "
                                     f"the split is {_named(split)}, {sizes['unused']:,} of them left out"))


def read_rows(path: str | Path, max_seq_len: int, codebook_size: int | None = None,
              denoise: bool = True) -> Report:
    """Read a dataset and check all of it; nothing is raised for what is wrong with it, see raise_on_errors().

    The file is a JSON list of objects or JSON Lines (told apart by content), UTF-8, each object with text_query,
    motion_tokens ("42 18 91" or [42, 18, 91]) and optionally participant_id and clip_id (text or integers) and split
    (train, val or test). max_seq_len: positions; denoise: whether stage 2's denoising task is trained, whose examples
    hold the motion twice. The file is read in chunks; what stays in memory are 4 bytes a code, the texts and about 150
    bytes a row.
    """
    report = Report(str(path), max_seq_len, codebook_size_is_set=codebook_size is not None)
    largest = min(LARGEST_CODE, codebook_size - 1) if codebook_size else LARGEST_CODE
    checker, records, seen = Checker(max_seq_len, largest, denoise), Records(), np.zeros(LARGEST_CODE + 1, bool)
    chunks, marks = [], []
    try:
        for chunk in records.chunks(Path(path), FIELDS):
            columns = checker(chunk)
            seen[columns.codes] = True
            marks.append(Marks.of(columns))
            chunks.append(columns)
    except Bad as bad:  # of a file that cannot be read to its end nothing else is said
        report.form = records.form
        report.errors.append(Problem(bad.kind, f"{path}: {bad.found}"))
        return report
    report.form, report.file_sha256, report.rows = records.form, records.sha256, Rows(chunks, marks)
    report.codes_used = int(seen.sum())
    report.codebook_size = codebook_size or (int(np.flatnonzero(seen)[-1]) + 1 if report.codes_used else 0)
    _add_problems(report, checker, records)
    if not report.errors:
        report.fingerprint = hashlib.sha256(report.rows.digests.tobytes()).hexdigest()
    return report


def _add_problems(report: Report, checker: Checker, records: Records) -> None:
    left = records.broken_count - len(records.broken)
    broken = records.broken + [f"and {left:,} more broken lines"] * (left > 0)
    report.errors += [Problem("json", f"{report.path}: {found}") for found in broken]
    report.errors += _type_errors(checker, report, records)
    _compare(report.rows, checker, records)
    codebook = f", CODEBOOK_SIZE is {report.codebook_size:,}" if report.codebook_size_is_set else ""
    values = {"max_seq_len": report.max_seq_len, "largest": checker.largest, "codebook": codebook}
    for wording, problems in ((_ERRORS, report.errors), (_WARNINGS, report.warnings)):
        problems += [Problem(kind, _word(text.format(**values), checker.findings.found[kind], report, records))
                     for kind, text in wording.items() if kind in checker.findings.found]
    report.ignored_fields = dict(sorted(checker.ignored.items()))
    if report.ignored_fields:
        names = ", ".join(f"{name} ({_count(count, records.unit)})" for name, count in report.ignored_fields.items())
        report.warnings.append(Problem("ignored-field", f"{report.path}: unknown fields, ignored: {names}"))


# ---------------------------------------------------------------- the report that people read


def _spread(values: np.ndarray) -> str:
    return (f"min {min(values):,}, median {np.median(values):,.0f}, mean {np.mean(values):,.1f}, "
            f"max {max(values):,}")


def format_report(report: Report, split=None) -> str:
    """The report as aligned text: what is in the dataset, how it is split (a splits.Split), and every problem."""
    facts = _facts(report) if len(report.rows) else []
    if split is not None:
        facts += _split_facts(split)
    texts = [(f"  {name:<14} {text}", 17) for name, text in facts]
    texts += [(f"  {title}: {problem.message}", 4) for title, problems in (
        ("ERROR", report.errors), ("warning", report.warnings)) for problem in problems]
    lines = [report.path, *(textwrap.fill(text, 110, subsequent_indent=" " * indent, break_on_hyphens=False,
                                          break_long_words=False) for text, indent in texts)]
    return "\n".join([*lines, f"  {_kinds(report.errors, 'error')}, {_kinds(report.warnings, 'warning')}"])


def _named(split) -> str:
    """The rows of each split as the file names them."""
    return ", ".join(f"{name} {count:,}" for name, count in split.named.items())


def _split_facts(split) -> list[tuple[str, str]]:
    sizes = split.sizes()
    facts = [("split", f"train {sizes['train']:,}")] if split.named is None else [
        ("split", f"as the file says: {_named(split)}"), ("  training", f"{sizes['train']:,}")]
    facts += [("  validation", f"seen {sizes['seen']:,}, unseen {sizes['unseen']:,}"),
              ("  test", f"seen {sizes['test seen']:,}, unseen {sizes['test unseen']:,}")]
    if sizes["unused"]:
        facts.append(("  left out", f"{sizes['unused']:,}, whose clip is in a later split too"))
    return [*facts, ("", "(seen: other clips with the same caption are trained; unseen: none is)"),
            *(("", f"note: {note}") for note in [*split.notes, *_few_for_validation(split, sizes)])]


def _few_for_validation(split, sizes: dict[str, int]) -> list[str]:
    rows = sizes["seen"] + sizes["unseen"]
    if not 0 < rows < FEW_VALIDATION_ROWS:
        return []
    ours = not (split.named or {}).get("val")  # what the file names is held out whatever the share
    return [f"validation has {_count(rows, 'row')}: too few to choose an epoch by, or to say how good the model is"
            + "; --heldout_share 0 trains on everything to the end" * ours]


def _facts(report: Report) -> list[tuple[str, str]]:
    rows, size = report.rows, report.codebook_size
    motions, keys, ids = rows.motions, rows.keys, rows.clips
    pairs = distinct(keys.ids * motions.count + motions.ids)  # a caption with each of its motions
    clips = np.bincount(pairs // motions.count)
    counts = np.bincount(rows.participant + 1, minlength=1)
    nobody, counts = counts[0], counts[1:]
    order = np.argsort(-counts, kind="stable")
    names = [f"{rows.participants[place]} {counts[place]:,}" for place in order[:SHOWN]]
    names += [f"and {len(counts) - SHOWN:,} more"] if len(counts) > SHOWN else []
    names += [f"without one {nobody:,}"] if nobody else []
    how = "CODEBOOK_SIZE" if report.codebook_size_is_set else "the largest code + 1"
    return [
        ("form", report.form + _counting(report)),
        ("rows", f"{len(rows):,}" + (" without errors" if report.errors else "")),
        ("motions", f"{motions.count:,} distinct"),
        ("motion tokens", f"{_spread(rows.lengths)} a row"),
        ("codebook", f"{size:,} codes ({how}): {report.codes_used:,} used, {size - report.codes_used:,} never used"),
        ("captions", f"{keys.count:,} distinct; motions for each: {_spread(clips)}"),
        ("participants", f"{len(counts):,} (rows: {', '.join(names)})" if len(counts) else "none given"),
        ("clip_id", f"{ids.count:,} distinct, in {int((ids.ids >= 0).sum()):,} rows" if ids.count else "not given"),
    ]
