"""What `bench.py faults` thinks of an answer: the same result, a clear refusal, or a defect."""

import hashlib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from motion_llm.benchmarks.fault_commands import Command
from motion_llm.benchmarks.fault_server import Outcome
from motion_llm.benchmarks.fault_stock import CODES

# same: as without the fault. accepted: a valid result of a user's own input. refused: status 1 or 2 with a few lines
# that name the file or the flag; unnamed: a refusal without that, or one that no terminal shows well. different:
# status 0 and another result, or something lost or left over.
VERDICTS = ("same", "accepted", "refused", "unnamed", "traceback", "hung", "different")
FINE = ("same", "accepted", "refused")
OUT_OF_MEMORY = re.compile(r"MemoryError|[Cc]annot allocate memory|can't allocate memory|bad_alloc|Unable to allocate")
COLOUR = re.compile(r"\x1b\[(?!31mred)[0-9;]*m")  # of a library's log; red is that of fault_kinds.VALUES
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
MOST_LINES, MOST_CHARACTERS = 12, 3000  # of a refusal
TIMES = {"seconds", "minutes", "files"}  # files: digests, also of files with times in them


@dataclass(frozen=True)
class Expected:
    """An undamaged run: what became of it, and the files afterwards."""

    outcome: Outcome
    tree: Mapping[str, str]


def other_text(expected: str, actual: str) -> str:
    """The first line that differs, in words; "" if none does."""
    before, now = (re.sub(r"\d+\.\d minutes", "some minutes", text).splitlines() for text in (expected, actual))
    for i in range(max(len(before), len(now))):
        pair = [lines[i][:100] if i < len(lines) else "nothing" for lines in (now, before)]
        if pair[0] != pair[1]:
            return f"stdout has {pair[0]!r} instead of {pair[1]!r}"
    return ""


@dataclass(frozen=True)
class Judgement:
    verdict: str
    why: str = ""


def tree_of(folder: Path) -> dict[str, str]:
    """Relative path -> digest of the content, without times, of every file; "folder" for an empty folder."""
    tree = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir() and not path.is_symlink():
            if not any(path.iterdir()):
                tree[name] = "folder"
        else:
            tree[name] = hashlib.sha256(_content(path)).hexdigest()
    return tree


def _content(path: Path) -> bytes:
    if path.is_symlink() or not path.is_file():
        return b"no file"
    content = path.read_bytes()
    if path.suffix == ".json" and len(content) < 1 << 20:
        if path.name in ("files.json", "time_used.json"):
            return b""
        try:
            return json.dumps(_without_times(json.loads(content))).encode()
        except (ValueError, RecursionError):
            return content
    return content


def _without_times(content: object) -> object:
    if isinstance(content, dict):
        return {name: _without_times(value) for name, value in content.items() if name not in TIMES}
    return [_without_times(value) for value in content] if isinstance(content, list) else content


def changes(expected: Mapping[str, str], actual: Mapping[str, str], but: Collection[str] = ()) -> str:
    """The first differences of two trees, in words; "" if there are none but those of the paths in `but`."""
    told = []
    for name in sorted({*expected, *actual} - {*but}):
        if name not in actual:
            told.append(f"{name} is missing")
        elif name not in expected:
            told.append(f"{name} is left over")
        elif expected[name] != actual[name]:
            told.append(f"{name} has other content")
    return "; ".join(told[:3]) + (f" and {len(told) - 3} more" if len(told) > 3 else "")


def judge(outcome: Outcome, script: str, names: Sequence[str], difference: str, own: bool, invalid: str = "",
          own_flag: bool = False) -> Judgement:
    """names: texts of which a refusal must have one. difference: from the undamaged result, in words, "" if none.
    own: the user's own input, whose other result is right if nothing is `invalid` about it. own_flag: the fault is a
    flag, which may ask for something that takes long, if progress is shown."""
    text = f"{outcome.stdout}\n{outcome.stderr}"
    if outcome.timed_out:
        if own_flag and outcome.silent_seconds < 15:
            return Judgement("accepted", "takes long, and shows its progress")
        return Judgement("hung", f"no end after {outcome.seconds:.0f} seconds")
    if outcome.status < 0:
        return Judgement("traceback", f"ended by signal {-outcome.status}")
    if "Traceback (most recent call last)" in text or "Exception ignored in" in text:
        memory = OUT_OF_MEMORY.search(text)
        return Judgement("hung", "out of memory") if memory else Judgement("traceback", _last_line(outcome.stderr))
    if control := CONTROL.search(COLOUR.sub("", text)):
        return Judgement("unnamed", f"a control character is printed raw: {ascii(control[0])}")
    if outcome.status == 0:
        if not difference:
            return Judgement("same")
        if own:
            return Judgement("different", f"accepted, but {invalid}") if invalid else Judgement("accepted", difference)
        return Judgement("different", difference)
    if outcome.status not in (1, 2):
        return Judgement("traceback", f"status {outcome.status}")
    return _judge_refusal(outcome, script, names)


def _judge_refusal(outcome: Outcome, script: str, names: Sequence[str]) -> Judgement:
    message = refusal_of(outcome, script)
    if message is None and f"{script}.py: " in outcome.stderr:
        return Judgement("unnamed", "the message does not begin on a line of its own")
    if message is None and not outcome.stdout.strip():
        return Judgement("unnamed", f"no message of {script}.py")
    message = message or outcome.stdout  # `train_pipeline.py --check` prints its errors
    if len(message.splitlines()) > MOST_LINES + outcome.stdout.count("\n") or len(message) > MOST_CHARACTERS:
        return Judgement("unnamed", f"a message of {len(message.splitlines())} lines, {len(message)} characters")
    if not any(re.search(rf"(?<!\w){re.escape(name)}(?!\w)", message) for name in names):
        return Judgement("unnamed", f"none of {', '.join(names[:4])} in: {message.strip()[:300]}")
    return Judgement("refused", message.strip()[:300])


def refusal_of(outcome: Outcome, script: str) -> str | None:
    """The message with which a script ends, without the log before it; None where there is none."""
    lines = outcome.stderr.replace("\r", "\n").split("\n")
    starts = [i for i, line in enumerate(lines) if re.match(rf"{script}\.py( \w+)?: ", line)]  # codec.py fit: error
    return "\n".join(lines[starts[-1]:]) if starts else None


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""


# ---------------------------------------------------------------- a user's own input


def invalid_result(command: Command, outcome: Outcome, folder: Path) -> str:
    """What is wrong with the result of a command that took an odd input; "" if nothing is."""
    if command.script == "inference" and "m2t" not in command.name:
        lines = [line for line in outcome.stdout.splitlines() if line.strip()]
        tokens = [json.loads(line)["motion_tokens"] if line.startswith("{") else line for line in lines]
        wrong = [line for line in tokens if not _are_codes(line, CODES)]
        return f"it printed {ascii(wrong[0])[:80]}" if wrong else "" if tokens else "it printed nothing"
    if command.name in ("codec encode", "import_tokens"):
        path = folder / ("new.json" if "--output=new.json" in command.arguments else "")
        if path.is_file():
            rows, codes = json.loads(path.read_text(encoding="utf-8")), CODES if command.script == "codec" else 10**9
            wrong = [row for row in rows if not _are_codes(row["motion_tokens"], codes)]
            return f"a row is {ascii(wrong[0])[:80]}" if wrong else ""
    if command.script == "evaluate" and (folder / "scores" / "metrics.json").is_file():
        if "NaN" in (folder / "scores" / "metrics.json").read_text(encoding="utf-8"):
            return "metrics.json holds NaN"
    return ""


def _are_codes(text: object, codes: int) -> bool:
    return isinstance(text, str) and bool(re.fullmatch(r"\d+( \d+)*", text, re.ASCII)) and all(
        int(code) < codes for code in text.split())
