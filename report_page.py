"""The evaluation as a page."""

from pathlib import Path


def write_page(path: Path, *content) -> None:
    path.write_text("", encoding="utf-8")
