"""The folder of a run, WORK_DIR: its files, the checks before a run writes there, and a lock for one run at a time."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from motion_llm.dataset.report import Report
from motion_llm.dataset.splits import Split
from motion_llm.json_files import check_form, read_json, write_json
from motion_llm.motion.codec import codec_fingerprint
from motion_llm.network.folder import CODEC_FOLDER, read_motion_config
from motion_llm.saving import clear_leftovers, locked, remove
from motion_llm.training.going_on import changeable_limits
from motion_llm.training.processes import process_count

SETTINGS_FILE, METRICS_FILE, DATA_FOLDER, WORK_FOLDER = "settings.json", "metrics.json", "prepared_data", "checkpoints"
STAGE_FOLDERS = ("stage1_mlm", "stage2_multitask", "stage3_t2m_sft")
EVALUATION_FOLDER, JUDGE_FOLDER, GALLERY_FILE = "evaluation", "evaluator", "gallery.html"
# Everything that a run writes beside settings.json.
RUN_FILES = (EVALUATION_FOLDER, JUDGE_FOLDER, DATA_FOLDER, WORK_FOLDER, *STAGE_FOLDERS, METRICS_FILE, GALLERY_FILE)


# Of settings.json; those of earlier versions lack what is marked by "?".
FORM = {"settings": {"DATA_JSON_PATH?": str, "STAGE2_MIX?": {str: float}, "STAGE3_MIX?": {str: float}},
        "data_fingerprint": str,
        "data_rows?": range(2**53), "processes?": range(1, 2**20)}
OR_NULL = {"codec_fingerprint": str}
SIZE = range(1, 2_000_000)  # of a codebook; settings.json has one, or one for each stream


class PipelineError(ValueError):
    """A run that cannot start with these settings; the text says why and what can be done."""


@dataclass(frozen=True)
class Run:
    """The settings and data of a run. split: None if the report has errors, or an earlier start prepared the data.
    text: the report on the data, for people."""

    settings: Mapping
    report: Report
    split: Split | None
    folder: Path
    text: str


def check_work_folder(run: Run, fresh: bool, differences: Callable[[Mapping, Mapping], list[str]]) -> None:
    """Refuse a WORK_DIR with files that no run wrote, or of a run with other settings or other data.

    differences(before, now): a line for each setting that differs and that training depends on. Raises PipelineError,
    ModelError.
    """
    if run.folder.exists() and not run.folder.is_dir():
        raise PipelineError(f"WORK_DIR {run.folder} is a file, expected a folder or a new name")
    present = [name for name in RUN_FILES if os.path.lexists(run.folder / name)]
    if not (run.folder / SETTINGS_FILE).is_file():
        if present:
            raise PipelineError(f"WORK_DIR {run.folder} holds {', '.join(present)} but no {SETTINGS_FILE}, so no run "
                                "of this program is known to have left them: choose another --work_dir, or move them "
                                "away")
        return
    earlier = read_json(run.folder / SETTINGS_FILE, PipelineError)
    check_form(earlier, FORM, f"{run.folder / SETTINGS_FILE} is damaged, or was not written by this program "
                              "(choose another --work_dir):", PipelineError)
    sizes = earlier.get("codebook_size")
    forms = OR_NULL | {"codebook_size": {str: SIZE} if isinstance(sizes, dict) else
                       [SIZE] if isinstance(sizes, list) else SIZE}
    for name, form in forms.items():
        if earlier.get(name) is not None:
            check_form(earlier[name], form, f"{run.folder / SETTINGS_FILE} is damaged: {name}", PipelineError)
    inside = [name for name in present if Path(run.settings["DATA_JSON_PATH"]).resolve().is_relative_to(
        (run.folder / name).resolve())]
    if fresh and inside:
        raise PipelineError(f"--fresh would remove {run.folder / inside[0]}, and the dataset with it: move it away")
    if not fresh:
        _check_earlier_run(run, earlier, differences)


def _check_earlier_run(run: Run, earlier: Mapping, differences: Callable) -> None:
    """earlier: the content of the settings.json that an earlier start wrote."""
    finished = [name for name in STAGE_FOLDERS if (run.folder / name).exists()]
    if not finished and not list((run.folder / WORK_FOLDER).glob("*/checkpoint-*")):
        return  # nothing was trained yet, so nothing depends on the settings
    # CODEBOOK_SIZE None, with the size taken from the data, and the same size set or from a codec are no difference.
    before, of_processes = _same_updates(earlier["settings"], earlier.get("processes"), run.settings)
    limits = changeable_limits(before, run.settings, run.folder, STAGE_FOLDERS)
    changed = differences(before | {"CODEBOOK_SIZE": earlier.get("codebook_size")} | {
        name: run.settings[name] for name in limits}, {**run.settings, "CODEBOOK_SIZE": run.report.streams.setting()})
    if earlier["data_fingerprint"] != run.report.fingerprint:
        changed.append(f"the data: {earlier['settings'].get('DATA_JSON_PATH')} with {earlier.get('data_rows')} rows "
                       f"before, {run.settings['DATA_JSON_PATH']} with {len(run.report.rows)} rows of other content "
                       "now")
    changed += of_processes + _codec_difference(run, earlier)
    if changed:
        shown = [line[:400] for line in changed[:10]] + [f"and {len(changed) - 10} more"] * (len(changed) > 10)
        lines = "\n  ".join(shown)
        raise PipelineError(f"{run.folder} was made with other settings or data, says {SETTINGS_FILE}:\n  {lines}\n"
                            "Go back to what it was made with, choose another --work_dir, or give --fresh to "
                            "remove it and start anew. A run trains further with a higher MAX_MINUTES, or with more "
                            "epochs of its last stage.")
    for name in finished:
        read_motion_config(run.folder / name)
    planned = [name for name, epochs in zip(STAGE_FOLDERS, ("EPOCHS_S1", "EPOCHS_S2", "EPOCHS_S3"), strict=True)
               if run.settings[epochs]]
    if missing := [name for name in planned[:len(finished)] if name not in finished]:
        raise PipelineError(f"{run.folder} has {', '.join(finished)}, but {missing[0]}, which came before, is gone: "
                            "put it back, remove them too, or give --fresh")


def _same_updates(before: Mapping, processes: int | None, now: Mapping) -> tuple[Mapping, list[str]]:
    """The settings of an earlier start by so many processes (None: not known), and a line if an update of this start
    would see other examples because of their number. Where BATCH_TRAIN makes up for it, there is no difference."""
    count = process_count()
    if processes in (None, count) or None in (before.get("BATCH_TRAIN"), now["BATCH_TRAIN"]):  # None: see train.py
        return before, []
    same = before | {"BATCH_TRAIN": now["BATCH_TRAIN"]}
    whole = before["BATCH_TRAIN"] * processes
    if whole == now["BATCH_TRAIN"] * count:
        return same, []
    ways = f"torchrun --nproc_per_node {processes}" if processes > 1 else "one process, without torchrun,"
    batch = f", or give --batch_train {whole // count}" if whole % count == 0 else ""
    return same, [f"the examples of a batch: {processes} x {before['BATCH_TRAIN']} before (processes x BATCH_TRAIN), "
                  f"{count} x {now['BATCH_TRAIN']} now; go on by {ways}{batch}"]


def _codec_difference(run: Run, earlier: Mapping) -> list[str]:
    """A line if an earlier start had a codec and this one has another. No codec then or now is no difference."""
    now = run.settings["CODEC_PATH"]
    before, fingerprint = earlier["settings"].get("CODEC_PATH"), earlier.get("codec_fingerprint")
    if fingerprint is None:  # the last start had no codec, or its settings.json is older than the fingerprint
        before = next((path for name in reversed(STAGE_FOLDERS)
                       if (path := run.folder / name / CODEC_FOLDER).is_dir()), None)
        fingerprint = before and codec_fingerprint(before)
    if now is None or fingerprint is None or codec_fingerprint(now) == fingerprint:
        return []
    return [f"the codec: {before} before, {now} of other content now"]


def claim_work_folder(run: Run, fresh: bool) -> None:
    """Remove an earlier run if `fresh`, and write settings.json. To be called when every check of the run has passed.
    """
    codec = run.settings["CODEC_PATH"]
    fingerprint = codec and codec_fingerprint(codec)
    if fresh and (run.folder / SETTINGS_FILE).is_file():
        for name in (*RUN_FILES, SETTINGS_FILE):  # settings.json last: without it the folder would not be known
            remove(run.folder / name)
    for name in RUN_FILES:
        clear_leftovers(run.folder / name)
    write_json(run.folder / SETTINGS_FILE, {
        "settings": run.settings, "data_fingerprint": run.report.fingerprint, "data_rows": len(run.report.rows),
        "codebook_size": run.report.streams.setting(), "codec_fingerprint": fingerprint,
        "processes": process_count()})


def working_in(folder: Path):
    """Hold the folder for one run at a time. Raises PipelineError where another run holds it."""
    return locked(folder / ".lock", PipelineError(f"another run is using {folder}: wait for it, or choose another "
                                                  "--work_dir"))
