"""Time and memory of preparing a large dataset: reading, splitting, the length model, the first batch, and a second
start. The dataset is synthetic; each measurement runs in its own process, so that it has its own memory peak."""

import json
import logging
import multiprocessing
import tempfile
import time
from pathlib import Path

import numpy as np

from data import read_rows
from motion_llm.dataset.lengths import LengthModel
from motion_llm.dataset.prepared import PreparedChunks, load_prepared, prepare, prepared_matches, prepared_report
from motion_llm.dataset.report import format_report
from motion_llm.dataset.rows import caption_key, row_lengths
from motion_llm.dataset.sequence_lengths import find_unfit
from motion_llm.dataset.splits import PARTS, split_rows
from motion_llm.json_files import write_json
from motion_llm.network.folder import BUNDLED_MODEL
from templates import MotionTemplate

log = logging.getLogger(__name__)

CODEBOOK, PARTICIPANTS, COMMON = 512, 20, 2000
QUERIES = 100
WORDS = [
    ["a person", "someone", "the man", "a woman", "the person"],
    ["slowly", "quickly", "carefully", "happily", "suddenly", "calmly", "lazily", "proudly"],
    ["walks", "runs", "jumps", "crawls", "hops", "turns", "dances", "kicks", "bows", "waves", "sits down", "stretches",
     "throws a ball", "picks something up", "climbs the stairs", "plays the drums"],
    ["forward", "backward", "to the left", "to the right", "in a circle", "on the spot", "to the door", "sideways"],
    ["once", "twice", "three times", "for a while", "again and again", "without a break"],
    ["and then", "before it", "while one arm", "and at last", "as someone else"],
    ["stops", "lies down", "raises a hand", "looks around", "falls over", "turns around", "claps", "nods",
     "stands still", "shakes the head", "scratches the ear", "goes away", "comes back", "sighs", "laughs", "stumbles"],
]
MAKE_WITH = {"max_seq_len": 512, "codebook_size": CODEBOOK, "denoise": True}


def add_arguments(parser) -> None:
    parser.add_argument("--rows", type=int, default=100_000, help="rows of the dataset that is made up (100000)")


def write_dataset(path: Path, rows: int, seed: int = 0) -> None:
    """A JSON list: about 50 codes a row; every third row has the clip of the row before under another caption; a third
    of the captions come from COMMON shared ones, the others are nearly all distinct."""
    rng = np.random.default_rng(seed)

    def captions(count: int) -> list[str]:
        return [" ".join(words) for words in zip(*(rng.choice(words, count) for words in WORDS), strict=True)]

    common = captions(COMMON)
    with open(path, "w", encoding="utf-8") as file:
        for start in range(0, rows, 10_000):
            count = min(10_000, rows - start)
            common_ids, lengths = rng.integers(0, 3 * COMMON, count), rng.integers(20, 81, count)
            participants = rng.integers(0, PARTICIPANTS, count)
            codes = rng.integers(0, CODEBOOK, (count, 80)).tolist()
            for i, text in enumerate(captions(count)):
                clip = i - 1 if i % 3 == 2 else i
                row = {"text_query": common[common_ids[i]] if common_ids[i] < COMMON else text,
                       "motion_tokens": " ".join(map(str, codes[clip][:lengths[clip]])),
                       "participant_id": f"P{participants[clip]:03}", "clip_id": f"clip{start + clip:08}"}
                file.write(("[\n" if start + i == 0 else ",\n") + json.dumps(row))
        file.write("\n]\n")


# ---------------------------------------------------------------- one measurement, in its own process


def _memory(name: str) -> float:
    """VmRSS (current) or VmHWM (peak so far) of this process in MB; nan where there is no /proc."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return float("nan")
    line = next(line for line in status.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024 / 1e6


class _Watch:
    """Wall and processor seconds of each step, and how far the memory peak is above the memory in use when the watch
    was created (imports)."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.processor_seconds: dict[str, float] = {}
        self._before = _memory("VmRSS")
        self._started = time.perf_counter(), time.process_time()

    def step(self, name: str) -> None:
        now = time.perf_counter(), time.process_time()
        self.seconds[name], self.processor_seconds[name] = (
            end - start for start, end in zip(self._started, now, strict=True))
        self._started = now

    def figures(self) -> dict:
        return {"seconds": self.seconds, "processor_seconds": self.processor_seconds,
                "peak_mb": _memory("VmHWM") - self._before}


def _prepare(folder: Path, made_with: dict) -> dict:
    """Read and validate, split, write the table."""
    import pyarrow  # noqa: F401  so that its import is not counted as memory of the steps

    watch = _Watch()
    report = read_rows(folder / "data.json", **MAKE_WITH)
    watch.step("read_and_validate")
    split = split_rows(report.rows, made_with["seed"], made_with["share"], made_with["cap"])
    watch.step("split")
    text = format_report(report, split)
    watch.step("report")
    prepare(report, split, folder / "prepared", made_with, text)
    watch.step("write_table")
    return watch.figures() | {"captions": report.rows.keys.count, "tokens": int(report.rows.lengths.sum())}


def _lengths(folder: Path, made_with: dict) -> dict:
    """The length model, stored and loaded as in a model's folder, and its limits for unseen captions."""
    import pyarrow.compute  # noqa: F401  so that its import is not counted as memory of the steps

    load_prepared(folder / "prepared")  # imports `datasets`
    watch = _Watch()
    model = LengthModel.fit(PreparedChunks(folder / "prepared", "train"), caption_key)
    watch.step("length_model")
    write_json(folder / "lengths.json", model.to_dict())
    model = LengthModel.from_dict(json.loads((folder / "lengths.json").read_text()), caption_key)
    model.limits("the first question makes the index")
    watch.step("load_and_index")
    rng, times = np.random.default_rng(1), []
    figures = watch.figures()
    for _ in range(QUERIES):
        started = time.perf_counter()
        model.limits(" ".join(rng.choice(words) for words in WORDS[::-1]) + " with a drum")
        times.append(time.perf_counter() - started)
    return figures | {"file_mb": (folder / "lengths.json").stat().st_size / 1e6,
                      "query_ms": 1e3 * float(np.mean(times)), "slowest_query_ms": 1e3 * max(times)}


def _first_batch(folder: Path, made_with: dict) -> dict:
    """From the prepared table to the first batch of stage 2, with every row checked against MAX_SEQ_LEN."""
    # These import torch, which takes seconds.
    from collators import DrawnExamples, EpochBatches, ExampleDrawer, collate
    from model import add_motion_tokens, load_tokenizer

    tokenizer = load_tokenizer(BUNDLED_MODEL)
    load_prepared(folder / "prepared")
    watch = _Watch()
    report = prepared_report(folder / "prepared")
    vocabulary = add_motion_tokens(tokenizer, report.streams, sorted(report.rows.participants))
    template, mix = MotionTemplate(tokenizer, vocabulary), {"t2m": 0.5, "m2t": 0.3, "denoise": 0.2}
    watch.step("template")
    find_unfit(report.rows.chunks, template, set(mix), report.max_seq_len)
    watch.step("check_that_all_fit")
    table = load_prepared(folder / "prepared", "train")
    drawer = ExampleDrawer(template, mix, 0.2, 0)
    batches, examples = EpochBatches(*row_lengths(table), drawer, 16), DrawnExamples(table, drawer)
    watch.step("open_table")
    collate([examples[place] for place in next(iter(batches))], tokenizer.pad_token_id)
    watch.step("first_batch")
    return watch.figures()


def _second_start(folder: Path, made_with: dict) -> dict:
    """A later start with the same file and settings."""
    load_prepared(folder / "prepared")
    watch = _Watch()
    if not prepared_matches(folder / "prepared", folder / "data.json", made_with):
        raise RuntimeError("the prepared data is not recognised as that of the unchanged file")
    watch.step("file_is_unchanged")
    prepared_report(folder / "prepared")
    for part in PARTS:
        load_prepared(folder / "prepared", part)
    watch.step("open_table")
    return watch.figures()


MEASUREMENTS = {"prepare": _prepare, "lengths": _lengths, "first_batch": _first_batch, "second_start": _second_start}


def _child(name: str, folder: Path, made_with: dict) -> None:
    figures = MEASUREMENTS[name](folder, made_with)
    (folder / f"{name}.json").write_text(json.dumps(figures))


def run(args, settings) -> dict:
    """measurement -> seconds (of each step), peak_mb, counts. Raises ValueError for fewer than 1,000 rows."""
    if args.rows < 1000:
        raise ValueError(f"--rows is {args.rows}, expected 1000 or more")
    made_with = MAKE_WITH | {"seed": settings["SEED"], "share": settings["HELDOUT_SHARE"],
                             "cap": settings["HELDOUT_MAX"]}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_dataset(folder / "data.json", args.rows)
        figures = {"rows": args.rows, "file_mb": (folder / "data.json").stat().st_size / 1e6}
        for measurement in MEASUREMENTS:
            log.info("measuring: %s", measurement)
            process = multiprocessing.get_context("spawn").Process(target=_child, args=(measurement, folder, made_with))
            process.start()
            process.join()
            if process.exitcode:
                raise RuntimeError(f"the measurement {measurement} ended with status {process.exitcode}")
            figures[measurement] = json.loads((folder / f"{measurement}.json").read_text())
        figures["table_mb"] = (folder / "prepared" / "rows.arrow").stat().st_size / 1e6
    return figures


def format_figures(figures: dict) -> str:
    rows, first_steps, lengths = figures["rows"], figures["prepare"], figures["lengths"]
    lines = [f"{rows:,} rows, {first_steps['captions']:,} captions, {first_steps['tokens']:,} tokens; file "
             f"{figures['file_mb']:.0f} MB, table {figures['table_mb']:.0f} MB", "",
             f"{'step':<36}{'seconds':>9}{'processor s':>13}{'rows/s':>12}{'peak MB over the imports':>27}"]
    totals = {}
    for name in MEASUREMENTS:
        seconds, processor = figures[name]["seconds"], figures[name]["processor_seconds"]
        totals[name] = sum(seconds.values())
        for i, (step, value) in enumerate(seconds.items()):
            peak = "" if i else f"{figures[name]['peak_mb']:.0f}"
            lines.append(f"{name + ': ' + step:<36}{value:>9.2f}{processor[step]:>13.2f}"
                         f"{rows / max(value, 1e-9):>12,.0f}{peak:>27}")
    second = totals.pop("second_start")
    first = sum(totals.values())
    processor_total = sum(sum(figures[name]["processor_seconds"].values()) for name in totals)
    return "\n".join([*lines, "", f"first start, all steps: {first:.1f} s, {rows / first:,.0f} rows/s; in processor "
                      f"time {processor_total:.1f} s, {rows / processor_total:,.0f} rows/s",
                      f"second start: {second:.2f} s instead of {totals['prepare']:.1f} s for 'prepare'",
                      f"length model: {lengths['file_mb']:.1f} MB in a model's folder; for a caption that was never "
                      f"trained {lengths['query_ms']:.1f} ms, at most {lengths['slowest_query_ms']:.1f}"])
