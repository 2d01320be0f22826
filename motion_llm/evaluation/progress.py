"""One bar for each long part of an evaluation, with the time left, on stderr."""

import sys
from collections.abc import Iterable, Iterator

SHOWN_AFTER = 1.0  # seconds; what is shorter has no bar


def progress_bar(total: int, what: str, unit: str = "clip", initial: int = 0):
    """A bar that leaves no line. To a file it writes a line twice a minute at most."""
    from tqdm import tqdm  # not needed for --help

    return tqdm(total=total, initial=initial, desc=what, unit=unit, file=sys.stderr, dynamic_ncols=True, leave=False,
                delay=SHOWN_AFTER, mininterval=0.5 if sys.stderr.isatty() else 30)


def with_bar(items: Iterable, total: int, what: str, unit: str = "clip") -> Iterator:
    """The items as they come, with such a bar."""
    with progress_bar(total, what, unit) as bar:
        for item in items:
            yield item
            bar.update()
