"""The JSON that a model's folder keeps beside its weights; read here without the imports that a model needs."""

import json
from collections.abc import Mapping
from pathlib import Path

MOTION_CONFIG = "motion_config.json"


class ModelError(ValueError):
    """A base model or a model folder that cannot be used; the text says what was found and what is needed."""


def write_json(path: Path, content: object) -> None:
    """Written aside and renamed, so that the file is always whole."""
    aside = path.with_name(f".{path.name}.saving")
    aside.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    aside.replace(path)


def read_motion_config(folder: str | Path) -> dict:
    """motion_config.json: stage, tasks, model, vocabulary, settings, length_model, history.

    Raises ModelError, saying what is there instead.
    """
    folder = Path(folder)
    if not folder.is_dir():
        siblings = sorted(path.parent.name for path in folder.parent.glob(f"*/{MOTION_CONFIG}"))
        there = f"{folder.parent} has {', '.join(siblings)}" if siblings else "train with python train_pipeline.py"
        raise ModelError(f"model folder {folder} does not exist; {there}")
    if not (folder / MOTION_CONFIG).is_file():
        inside = sorted(path.parent.name for path in folder.glob(f"*/{MOTION_CONFIG}"))
        there = f"; it has the models {', '.join(inside)}: choose one" if inside else ""
        raise ModelError(f"{folder} has no {MOTION_CONFIG}, so it is no model folder{there}")
    try:
        return json.loads((folder / MOTION_CONFIG).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{folder / MOTION_CONFIG} is broken: {error}") from None


def update_settings(folder: Path, changes: Mapping) -> None:
    """Put settings that need no training (how to decode) into a finished model's folder."""
    content = read_motion_config(folder)
    content["settings"] |= changes
    write_json(folder / MOTION_CONFIG, content)
