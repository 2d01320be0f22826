"""The folders of a run's stages: which of them are to be trained, from what the first starts, what is saved."""

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from motion_llm.dataset.lengths import LengthModel
from motion_llm.dataset.prepared import PreparedChunks
from motion_llm.dataset.rows import caption_key, distinct_motions
from motion_llm.decoding.known_captions import FILE, MOST, KnownCaptions
from motion_llm.motion.codec import CODEBOOK_FILE, copy_codec
from motion_llm.network.folder import CODEC_FOLDER, read_motion_config, stage_history, update_settings
from motion_llm.training.forecast import advice, passes_made
from motion_llm.training.going_on import going_on
from motion_llm.training.work_folder import DATA_FOLDER, Run
from templates import PlainTextEncoder, text_start

log = logging.getLogger(__name__)


def part_to_train(run: Run, planned: list, place: int, results: Mapping) -> tuple[list, dict] | None:
    """None for a finished stage; else the stages, with the epochs to train, and the histories of what is finished, the
    stage's own among them where it goes on. results: of the stages before."""
    stage, folder = planned[place], run.folder / planned[place].folder
    if not folder.is_dir():
        return planned, dict(results)
    if place < len(planned) - 1:
        return None
    used = sum(history["seconds"] for history in results.values()) + stage_history(folder)["seconds"]
    more = going_on(folder, run.settings, stage.number, used)
    if more is None:
        return None
    history, epochs = more
    minutes = run.settings["MAX_MINUTES"]
    log.info("Stage %d goes on from %s: %s", stage.number, folder,
             f"{epochs} more pass{'es' * (epochs != 1)} after {passes_made(history):.3g}" if minutes is None else
             f"{minutes - used / 60:.1f} more minutes after {used / 60:.1f}")
    return [*planned[:place], replace(stage, epochs=epochs)], results | {stage.folder: history}


def save_stage(run: Run, planned: list, place: int, model, result, results: Mapping, earlier: Mapping | None) -> None:
    """Write the stage's folder. earlier: its history of before, if it went on: without a better held-out NLL the
    earlier values stay."""
    stage, folder = planned[place], run.folder / planned[place].folder
    history = result.to_dict()
    trained = [*((results[before.folder], before.t2m) for before in planned[:place]), (history, stage.t2m)]
    history["t2m_passes"], more = advice(trained, run.settings["MAX_MINUTES"], (stage.number, stage.epochs))
    history |= {"more": more} if more else {}
    facts = _stage_config(run, stage, history)
    if earlier and earlier["best"] and result.best == earlier["best"]:
        log.info("  held-out NLL did not get lower than %.3f: the values of before stay", earlier["best"]["mean"])
        update_settings(folder, facts.pop("settings"), **facts)
    else:
        model.save(folder, facts)
    save_codec(run.settings, folder)
    if place == len(planned) - 1 and stage.t2m:
        save_captions(run, folder)


def complete_stage(run: Run, planned: list, place: int) -> None:
    """What a finished stage's folder may lack, where a run was killed before it was written, or has got a codec since.
    """
    folder = run.folder / planned[place].folder
    save_codec(run.settings, folder)
    if place == len(planned) - 1 and planned[place].t2m and not (folder / FILE).is_file():
        save_captions(run, folder)


def save_captions(run: Run, folder: Path) -> None:
    """Keep, in a stage's folder, what the untrained base makes of the training captions, for sentences in other words.
    """
    from motion_llm.decoding.untrained_base import UntrainedBase  # these import torch, which takes seconds
    from motion_llm.network.base import ModelConfig
    from motion_llm.network.folder_tokenizer import FolderTokenizer
    from motion_llm.network.known_bases import UnknownToFastLoading

    counts: Counter[str] = Counter()
    texts: dict[str, str] = {}
    for chunk in PreparedChunks(run.folder / DATA_FOLDER, "train"):
        for text in chunk.texts.to_list():
            counts[caption_key(text)] += 1
            texts.setdefault(caption_key(text), text)
    kept = [texts[key] for key, _ in counts.most_common(MOST)]
    try:
        tokenizer, model = FolderTokenizer(folder), ModelConfig(**read_motion_config(folder)["model"])
        states = UntrainedBase(model, PlainTextEncoder(tokenizer), text_start(tokenizer)).states(kept)
    except UnknownToFastLoading as reason:
        log.info("  sentences in new words will be asked as they are written, because of %s", reason)
    else:
        KnownCaptions(tuple(kept), states).save(folder)


def save_codec(settings: Mapping, folder: Path) -> None:
    """Copy the codec of CODEC_PATH, if there is one, into a stage's folder."""
    if settings["CODEC_PATH"] is not None:
        copy_codec(settings["CODEC_PATH"], folder / CODEC_FOLDER)


def new_model(run: Run):
    """The base with new tokens and LoRA, as the first stage starts from it."""
    from model import ModelConfig, build  # imports torch, which takes seconds
    from motion_llm.network.code_vectors import codebook_vectors, cooccurrence_vectors, joined  # imports torch too

    settings, streams = run.settings, run.report.streams
    chunks = PreparedChunks(run.folder / DATA_FOLDER, "train")
    model_config = ModelConfig(
        settings["MODEL_NAME"], settings["MAX_SEQ_LEN"], settings["LORA_R"], settings["LORA_ALPHA"], settings["DTYPE"],
        settings["SEED"], settings["LOAD_IN_4BIT"])
    vectors = cooccurrence_vectors(distinct_motions(chunks), streams, settings["SEED"])
    codebook = settings["CODEBOOK_PATH"] or settings["CODEC_PATH"] and Path(settings["CODEC_PATH"]) / CODEBOOK_FILE
    if codebook:
        vectors = joined(vectors, codebook_vectors(codebook, streams))
    return build(model_config, streams, sorted(run.report.rows.participants), code_vectors=vectors)


def _stage_config(run: Run, stage, history: dict) -> dict:
    """What the model's motion_config.json says of its training, so that generation needs no other file of the run."""
    lengths = LengthModel.fit(PreparedChunks(run.folder / DATA_FOLDER, "train"), caption_key,
                              run.report.streams.count)
    # In-betweening and continuing are trained as variants of denoising, and edits as denoising with a caption.
    of_denoising = ["inbetween", "continue"] + ["edit"] * (run.settings["EDIT_CAPTIONS"] > 0)
    tasks = [*stage.task_mix, *(of_denoising if "denoise" in stage.task_mix else ())]
    return {"stage": stage.folder, "tasks": tasks, "settings": dict(run.settings), "history": history,
            "data_fingerprint": run.report.fingerprint, "length_model": lengths.to_dict()}
