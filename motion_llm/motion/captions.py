"""A dataset from clips and their captions: each caption with the codes of its clip, or of the part that it names."""

import logging
from collections import Counter
from pathlib import Path

from motion_llm.json_files import parse_json, read_text
from motion_llm.motion.clip_files import MotionFiles, clip_id_of
from motion_llm.motion.codec import CodecError, MotionCodec
from motion_llm.motion.kinematics import body_size
from motion_llm.motion.names import listed
from motion_llm.motion.skeleton import Motion, MotionError
from motion_llm.motion.survey import Measures, check_jumps, check_rates, check_sizes, check_upright

log = logging.getLogger(__name__)
TIMES, FRAMES = ("start", "end"), ("start_frame", "end_frame")  # in seconds; in frames of the file
KEPT = ("participant_id", "split")
FIELDS = ("file", "text_query", *KEPT, *TIMES, *FRAMES)
EXPECTED = 'JSON, a list of objects such as {"file": "walk.bvh", "text_query": "a person walks"}'
MOST = 1e9  # seconds or frames that an entry may name
LONG = 30.0  # seconds; one caption rarely says what happens in more


def encode_captions(codec: MotionCodec, folder: str | Path, captions: str | Path, **options) -> list[dict]:
    """Rows of a dataset, in the captions' order; clip_id is the file's path in the folder, without its suffix.

    An entry with start and end, in seconds (or start_frame and end_frame, in frames of its file), gets the codes from
    int(start * fps / window) up to, not including, int(end * fps / window), as T2M-GPT cuts them; 0 and 0 mean the
    whole clip. options: those of read_motion. Raises CodecError naming the row, MotionError naming the file.
    """
    entries = _read_captions(Path(captions))
    files = MotionFiles(folder, **options)
    paths, encoded, measured = [], {}, {}
    for place, entry in enumerate(entries):
        try:
            i = files.find(entry["file"])
        except MotionError as error:
            raise CodecError(f"{captions}, row {place}: {error}") from None
        path = files.paths[i]
        paths.append(path)
        if path not in encoded:
            encoded[path], measured[path] = _encoded(codec, files[i], path)
    _check_figures(codec, measured)
    rows = []
    for place, (entry, path) in enumerate(zip(entries, paths, strict=True)):
        motion_codes, fps, seconds = encoded[path]
        try:
            codes = _part(entry, motion_codes, fps, seconds, codec)
        except CodecError as error:
            raise CodecError(f"{captions}, row {place} ({entry['file']}): {error}") from None
        row = {"text_query": entry["text_query"], "motion_tokens": " ".join(map(str, codes))}
        rows.append(row | {key: entry[key] for key in KEPT if key in entry}
                    | {"clip_id": clip_id_of(path.relative_to(files.folder))})
    _warn(entries, {path: seconds for path, (_, _, seconds) in encoded.items()}, paths)
    return rows


def _encoded(codec: MotionCodec, motion: Motion, path: Path) -> tuple[tuple, tuple]:
    """(codes, frames a second, seconds) of a file's motion, and (its Measures, frames a second)."""
    try:
        measures = Measures.of(motion, codec.layout)
        codes = codec.encode(motion)
    except MotionError as error:
        raise MotionError(f"{path}: {error}") from None
    log.info("%s: %d frames, %d codes", path, len(motion), len(codes))
    return (codes, motion.fps, motion.seconds), (measures, motion.fps)


def _check_figures(codec: MotionCodec, measured: dict[Path, tuple[Measures, float]]) -> None:
    names, measures = [path.name for path in measured], [measures for measures, _ in measured.values()]
    skeleton, body = codec.layout.skeleton, codec.layout.body[1:]
    lengths = (skeleton.offsets ** 2).sum(1) ** 0.5
    expected = body_size([lengths[i] if i in body else 0.0 for i in range(len(lengths))], skeleton.parents)
    check_sizes([measure.size for measure in measures], names, expected)
    check_upright(measures, names)
    check_jumps(measures, names)
    check_rates([fps for _, fps in measured.values()], codec.fps, names)


def _part(entry: dict, codes: list[int], fps: float, seconds: float, codec: MotionCodec) -> list[int]:
    """The codes between the entry's start and end. Raises CodecError."""
    times = {name: entry[name] for name in (*TIMES, *FRAMES) if entry.get(name) is not None}
    if not times:
        return codes
    names = FRAMES if set(times) & set(FRAMES) else TIMES
    if not set(times) <= set(names):
        raise CodecError(f"it has {' and '.join(times)}, expected {' and '.join(TIMES)} in seconds, or "
                         f"{' and '.join(FRAMES)}")
    for name, value in times.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < MOST:
            raise CodecError(f"{name} is {value!r}, expected a number from 0 on")
    unit = 1 / fps if names is FRAMES else 1.0
    start, end = times.get(names[0], 0) * unit, times.get(names[1], seconds / unit) * unit
    if start == end == 0:
        return codes
    if end <= start or start >= seconds:
        raise CodecError(f"it goes from {start:g} to {end:g} s, and the clip has {seconds:.1f} s")
    rate = codec.fps / codec.window
    part = codes[int(start * rate):int(end * rate)]
    if not part:
        raise CodecError(f"{start:g} to {end:g} s hold no whole code of {1 / rate:.2g} s")
    return part


def _warn(entries: list[dict], seconds: dict[Path, float], paths: list[Path]) -> None:
    late = [place for place, (entry, path) in enumerate(zip(entries, paths, strict=True))
            if isinstance(entry.get("end"), int | float) and entry["end"] > seconds[path] + 0.5]
    if late:
        end, clip = entries[late[0]]["end"], paths[late[0]]
        log.warning("%d captions end after their clips, such as row %d: %g s of %s, which has %.1f s: up to the clip's "
                    "end. Are these frames? Then call them start_frame and end_frame", len(late), late[0], end,
                    clip.name, seconds[clip])
    unknown = Counter(name for entry in entries for name in entry if name not in FIELDS)
    if unknown:
        log.warning("fields that are not used: %s; expected %s", listed(list(unknown)), ", ".join(FIELDS))
    long = [path.name for entry, path in zip(entries, paths, strict=True)
            if seconds[path] > LONG and not any(entry.get(name) for name in (*TIMES, *FRAMES))]
    if long:
        log.warning("%d captions without start and end are of clips longer than %g s, such as %s: such a row rarely "
                    "fits a model, and a caption says little of it", len(long), LONG, long[0])


def _read_captions(path: Path) -> list[dict]:
    text = read_text(path, CodecError)
    if text.lstrip().startswith("{"):  # JSON Lines
        rows = [parse_json(line, f"{path}: line {number}", CodecError, EXPECTED, finite=False)
                for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    else:
        rows = parse_json(text, str(path), CodecError, EXPECTED, finite=False)
    if not isinstance(rows, list) or not rows or rows == [{}]:
        raise CodecError(f"{path}: expected a list of objects with file and text_query")
    for place, row in enumerate(rows):
        for name in ("file", "text_query"):
            if not isinstance(row, dict) or not isinstance(row.get(name), str) or not row[name].strip():
                raise CodecError(f"{path}, row {place}: {str(row)[:80]}, expected an object with {name}, a text")
        person = row.get("participant_id")
        if isinstance(person, bool) or not isinstance(person, str | int | None):
            raise CodecError(f"{path}, row {place}: participant_id is {str(person)[:60]}, expected text or an integer")
    return rows
