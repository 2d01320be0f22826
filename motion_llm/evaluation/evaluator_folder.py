"""The evaluator beside a model: trained once, then loaded by every evaluation of the same clips."""

import hashlib
import logging
import os
from collections.abc import Mapping
from pathlib import Path

from motion_llm.dataset.rows import caption_key
from motion_llm.evaluation import evaluator as evaluator_module
from motion_llm.evaluation.clips import evaluator_material
from motion_llm.evaluation.evaluator import INFO, Evaluator
from motion_llm.evaluation.rows import EvaluationInputs
from motion_llm.json_files import check_form
from motion_llm.network.folder import ModelError
from motion_llm.saving import clear_leftovers, locked

log = logging.getLogger(__name__)

FACTS = {"trained_on": str, "clips": range(2**53), "source": str}


def evaluator_of(inputs: EvaluationInputs, folder: Path, seed: int) -> Evaluator | None:
    """The evaluator saved in `folder`, if it was trained on the same clips; else a new one. None without training
    clips, and, with a note, for a single caption. Raises EvaluationError for too few clips, OSError."""
    if inputs.training is None:
        return None
    material = evaluator_material(inputs.training, seed)
    if len({caption_key(text) for text in material[1]}) < 2:
        inputs.notes.append("the training clips have a single caption, so no evaluator can be trained")
        return None
    facts = {"trained_on": hashlib.sha256(repr(material).encode()).hexdigest(), "clips": len(material[0]),
             "source": inputs.training.source}
    config = evaluator_module.EvaluatorConfig(inputs.codebook_size, seed=seed, in_step=inputs.streams.count)
    if not os.access(folder.parent, os.W_OK):  # someone else's, which is only read
        return _loaded_or_trained(folder, config, facts, material)
    # Of two evaluations of one run, the second waits for the evaluator of the first.
    with locked(folder.parent / f".{folder.name}.preparing", busy=None):
        clear_leftovers(folder)
        return _loaded_or_trained(folder, config, facts, material)


def _loaded_or_trained(folder: Path, config, facts: Mapping, material: tuple[list, list, list, list]) -> Evaluator:
    if not folder.is_dir():
        log.info("evaluator: trained once, then kept in %s", folder)
    else:
        try:
            evaluator = Evaluator.load(folder)
            check_form(evaluator.facts, FACTS, f"{folder / INFO}: facts", ModelError)
            if evaluator.config == config and evaluator.facts["trained_on"] == facts["trained_on"]:
                log.info("evaluator: loaded from %s", folder)
                evaluator.facts = dict(facts)  # of the same clips, wherever they lie today
                return evaluator
        except ModelError as error:  # damaged, or of an earlier version
            log.info("%s: training a new one", error)
    evaluator = evaluator_module.train_evaluator(*material, config)
    evaluator.facts = dict(facts)
    evaluator.save(folder)
    return evaluator
