"""The checkpoint folders of a stage in training: their files, and which of them are whole."""

import os
import re
from pathlib import Path

from motion_llm.digests import damage, say_unchecked
from motion_llm.json_files import check_form, read_json

WEIGHTS, TIME_USED, DIGESTS = "trainable.safetensors", "time_used.json", "files.json"
TIME_FORM = {"seconds": slice(0, 1e9), "loss?": float, "logged_at?": range(2**53), "examples?": range(1, 2**53)}
CHECKPOINT_FILES = (WEIGHTS, TIME_USED, "optimizer.pt", "scheduler.pt", "trainer_state.json")
BEST = "best-{}.safetensors"  # with the update whose values it holds


class TrainingError(ValueError):
    """Training that cannot go on with these settings; the text says where it stopped, why and what to change."""


def check_checkpoint(folder: Path) -> None:
    """Raises TrainingError for a checkpoint with a damaged or missing file: Trainer would go on without an optimizer's
    state, to other weights."""
    digests = {}
    if (folder / DIGESTS).is_file():
        digests = read_json(folder / DIGESTS, TrainingError)
    else:
        say_unchecked(folder)
    check_form(digests, {str: str}, str(folder / DIGESTS), TrainingError)
    gone = [name for name in CHECKPOINT_FILES if not (folder / name).is_file() or not (folder / name).stat().st_size]
    if wrong := f"{gone[0]} is missing or empty" if gone else damage(folder, digests):
        raise TrainingError(f"{folder} is damaged: {wrong}. Remove the folder, and the same command goes on without it")


def sync(path: Path) -> None:
    """Flush a file or folder to disk, so that a rename after it survives a power failure."""
    if path.is_dir() and os.name == "nt":  # Windows cannot sync a folder
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def whole_checkpoints(folder: Path) -> list[Path]:
    """The checkpoint-N folders by N; only complete ones get that name."""
    checkpoints = [path for path in folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    return sorted(checkpoints, key=lambda path: int(path.name.split("-")[1]))


def begun_with(folder: Path) -> int | None:
    """The examples of a batch, of all processes, that a stage's last checkpoint was trained with; None without one, and
    for one of an earlier version. Raises TrainingError for a damaged file."""
    checkpoints = whole_checkpoints(folder)
    if not checkpoints or not (checkpoints[-1] / TIME_USED).is_file():  # missing: `check_checkpoint` says so
        return None
    content = read_json(checkpoints[-1] / TIME_USED, TrainingError)
    check_form(content, TIME_FORM, str(checkpoints[-1] / TIME_USED), TrainingError)
    return content.get("examples")
