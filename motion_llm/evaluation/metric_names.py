"""The names of the evaluation's table: its splits, its rows (sets of clips) and its metrics, as in metrics.json."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from motion_llm.evaluation.intervals import NOT_AVAILABLE, Estimate
from motion_llm.evaluation.lost_tokens import COPYING, REPEATING, WITH_WORDS, WRONG_WORDS

SPLITS = ("seen", "unseen", "all")
MODEL, REAL, ANOTHER, NEAREST, RANDOM, SHUFFLED = ("model", "real", "another_real_clip", "nearest_caption_clip",
                                                   "random_clip", "shuffled_captions")
NEAREST_TOLD, RANDOM_TOLD = "nearest_clip_caption", "random_clip_caption"  # rows of other tasks, as REPEATING, COPYING
TITLES = {
    MODEL: "this model",
    REAL: "real held-out clips",
    ANOTHER: "another real clip, same caption",
    NEAREST: "training clip, most similar caption",
    RANDOM: "random training clip",
    SHUFFLED: "real clips, captions shuffled (floor)",
    NEAREST_TOLD: "caption of the nearest training clip",
    RANDOM_TOLD: "caption of a random training clip (floor)",
    REPEATING: "the token before, repeated",
    COPYING: "the tokens before, copied",
    WITH_WORDS: "this model, told the caption",
    WRONG_WORDS: "this model, told another clip's caption",
}
SHORT = {MODEL: "model", REAL: "real", ANOTHER: "another", NEAREST: "nearest", RANDOM: "random", SHUFFLED: "shuffled",
         NEAREST_TOLD: "near clip", RANDOM_TOLD: "any clip", REPEATING: "repeating", COPYING: "copying",
         WITH_WORDS: "told", WRONG_WORDS: "told wrong"}


@dataclass(frozen=True)
class Metric:
    """title: for people. better: "up", "down", or "real" if it should be as for real clips. digits: decimals shown.
    task: tasks.py scores all but t2m."""

    title: str
    better: str
    digits: int = 3
    task: str = "t2m"


METRICS = {
    "r_precision_top1": Metric("R-Precision top 1", "up"),
    "r_precision_top2": Metric("R-Precision top 2", "up"),
    "r_precision_top3": Metric("R-Precision top 3", "up"),
    "mm_dist": Metric("MM-Dist", "down"),
    "fid": Metric("FID", "down"),
    "kid": Metric("KID", "down", 4),
    "diversity": Metric("Diversity", "real"),
    "multimodality": Metric("MModality", "real"),
    "nll_per_token": Metric("NLL a motion token (nats)", "down"),
    "edit_distance": Metric("edit distance (tokens)", "down", 1),
    "normalised_edit_distance": Metric("edit distance, normalised", "down"),
    "length_accuracy": Metric("length within 10 %", "up"),
    "length_ratio": Metric("length ratio", "real", 2),
    "length_error": Metric("length error (tokens)", "down", 2),
    "dtw_joint_error": Metric("DTW joint error (mm)", "down", 1),
    "fid_joints": Metric("FID of joints", "down", 2),
    "unigram_jsd": Metric("divergence of codes (bits)", "down"),
    "bigram_jsd": Metric("divergence of code pairs (bits)", "down"),
    "codebook_usage": Metric("codebook used", "real"),
    "codebook_perplexity": Metric("codebook perplexity", "real", 1),
    "repetition_rate": Metric("repetition rate", "real"),
    "distinct_1": Metric("distinct-1", "real"),
    "distinct_2": Metric("distinct-2", "real"),
    "novelty": Metric("novelty", "real"),
    "valid_share": Metric("valid clips", "up"),
    "participant_accuracy": Metric("participant recognised", "up"),
    "bleu_1": Metric("BLEU-1", "up", 1, "m2t"),
    "bleu_4": Metric("BLEU-4", "up", 1, "m2t"),
    "rouge_l": Metric("ROUGE-L", "up", 1, "m2t"),
    "chrf": Metric("chrF", "up", 1, "m2t"),
    "denoising_accuracy": Metric("put right, lost anywhere", "up", 3, "denoise"),
    "denoising_accuracy_gap": Metric("put right in a gap", "up", 3, "inbetween"),
    "denoising_accuracy_end": Metric("put right at the end", "up", 3, "continue"),
}
# Of each stream's own codes, where a motion has several.
STREAM_METRICS = ("nll_per_token", "edit_distance", "normalised_edit_distance", "unigram_jsd", "bigram_jsd",
                  "codebook_usage", "codebook_perplexity", "repetition_rate", "denoising_accuracy",
                  "denoising_accuracy_gap", "denoising_accuracy_end")
PART_METRICS = {  # of the joints of each part of the figure
    "dtw_jpe": Metric("DTW-JPE (mm)", "down", 1),
    "dtw_pa_jpe": Metric("DTW-PA-JPE (mm)", "down", 1),
    "speed_ratio": Metric("speed over the real clips'", "real", 2),
    "spread_ratio": Metric("spread in time over theirs", "real", 2),
}
TOLD = METRICS | PART_METRICS
GROUPS = {"text to motion": ("t2m",), "motion to text": ("m2t",), "lost tokens": ("denoise", "inbetween", "continue")}
FROM_CAPTIONS = ("r_precision_top1", "r_precision_top2", "r_precision_top3", "mm_dist")
FROM_EMBEDDINGS = (*FROM_CAPTIONS, "fid", "kid", "diversity", "multimodality")
FROM_REFERENCES = ("edit_distance", "normalised_edit_distance", "length_accuracy", "length_ratio", "length_error")
FROM_JOINTS = ("dtw_joint_error", "fid_joints")
OF_PAIRED_SETS = ("fid", "kid", "fid_joints", "unigram_jsd", "bigram_jsd")  # with the real clips
RESAMPLED = (*OF_PAIRED_SETS, "diversity")  # metrics of a set that have an interval without repeated generation

Table = dict[str, dict[str, dict[str, Estimate]]]  # row of the table -> split -> metric -> Estimate


def blank(names: Iterable[str]) -> dict[str, dict[str, Estimate]]:
    """A row of a table without any value: split -> metric -> NOT_AVAILABLE."""
    return {split: dict.fromkeys(names, NOT_AVAILABLE) for split in SPLITS}


def rows_with(table: Table, names: Iterable[str]) -> list[str]:
    """The rows of the table, other than the model's, that have a value for one of the metrics."""
    return [row for row, splits in table.items() if row != MODEL and any(
        estimates[name].value is not None for estimates in splits.values() for name in names if name in estimates)]


@dataclass(frozen=True)
class Block:
    """Tables of parts of the motions, such as of their streams. name: in details.json. tables: part -> its table."""

    name: str
    title: str
    tables: Mapping[str, Table]

    def to_dict(self) -> dict:
        """part -> row -> split -> metric -> figures, for metrics that have a value."""
        return {part: {row: {split: {name: estimate.to_dict() for name, estimate in estimates.items()
                                     if estimate.value is not None} for split, estimates in splits.items()}
                       for row, splits in table.items()} for part, table in self.tables.items()}

    def parts(self) -> list[tuple[list[str], dict[str, list[str]]]]:
        """For each table that is shown of it: its rows but the model's, and part -> metrics that have a value. Metrics
        of lost tokens have other rows than those of text to motion."""
        shown = []
        for tasks in GROUPS.values():
            names = [name for name, metric in TOLD.items() if metric.task in tasks]
            rows = list(dict.fromkeys(row for table in self.tables.values() for row in rows_with(table, names)))
            lines = {part: [name for name in names if name in table[MODEL]["all"] and any(
                table[row]["all"][name].value is not None for row in (MODEL, *rows) if row in table)]
                for part, table in self.tables.items()}
            if any(lines.values()):
                shown.append((rows, {part: metrics for part, metrics in lines.items() if metrics}))
        return shown


def group_metrics(group: str) -> list[str]:
    return [name for name, metric in METRICS.items() if metric.task in GROUPS[group]]


def group_rows(table: Table, group: str) -> list[str]:
    """The rows of the table, other than the model's, that have a value for a metric of the group."""
    return rows_with(table, group_metrics(group))
