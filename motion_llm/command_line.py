"""What the commands share: the log on stderr, and a sentence instead of a traceback for what the user can mend."""

import argparse
import logging
import re
import sys
from collections.abc import Callable
from pathlib import Path

# Characters that a terminal obeys instead of showing: control characters, but for line break and tab, and those that
# turn the direction of writing; with lone surrogates, which it cannot be sent.
OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
LONG_WORD = re.compile(r"\S{301,}")
NOISY = ("datasets", "httpx", "transformers", "accelerate")  # libraries whose logs tell the user nothing


def printable(text: object) -> str:
    """Text for a terminal, from files that may be strangers': OBEYED characters as escapes such as \\x1b."""
    return OBEYED.sub(lambda match: ascii(match[0])[1:-1], str(text))


def printable_json(text: str) -> str:
    """The same for a line of JSON, which stays JSON and means the same: escapes such as \\u001b."""
    return OBEYED.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def shortened(text: object) -> str:
    """A message with words of over 300 characters, such as values of flags, by their start and end."""
    return LONG_WORD.sub(lambda word: f"{word[0][:120]}... ({len(word[0]):,} characters) ...{word[0][-40:]}", str(text))


class Parser(argparse.ArgumentParser):
    """Takes flags in full only: a mistyped one is refused instead of taken for a longer one."""

    def __init__(self, *args, **options):
        super().__init__(*args, **{"allow_abbrev": False} | options)

    def error(self, message: str):
        super().error(printable(shortened(message)))


class _Printable(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def start_log(level: int = logging.INFO) -> None:
    """Log this project's messages to stderr, as stdout carries the results. On a console that cannot show a character,
    such as a Japanese caption on one that is not UTF-8, both write its escape instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a test or a notebook may have put something else there
            stream.reconfigure(errors="backslashreplace")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Printable("%(message)s"))
    logging.basicConfig(level=level, handlers=[handler])
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)


def keep_inputs(output: str | Path, *inputs: str | Path | None) -> None:
    """Raises ValueError where --output is a file that the command reads, which would be lost."""
    for path in inputs:
        if path is not None and Path(output).exists() and Path(path).exists() and Path(output).samefile(path):
            raise ValueError(f"--output {output} is a file that is read, and would be lost: choose another name")


def exit_status(script: str, command: Callable[[], int | None], stopped: str = "stopped",
                usage_error: type[Exception] | tuple = ()) -> int:
    """Run a script's command and return the status to exit with: what it returned, 0 for None.

    ValueError, OSError and a missing package can be mended by the user: a line on stderr and status 1, or 2 for a
    usage_error. Ctrl-C: the line `stopped`, and 130. Any other exception is a defect and keeps its traceback.
    """
    try:
        return command() or 0
    except (ValueError, OSError) as error:
        message, status = error, 2 if isinstance(error, usage_error) else 1
    except ModuleNotFoundError as error:
        message, status = f"the package {error.name} is missing: run it with .venv/bin/python", 1
    except KeyboardInterrupt:
        message, status = stopped, 130
    sys.stderr.write(printable(f"{script}: {shortened(message)}\n"))
    return status
