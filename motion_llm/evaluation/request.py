"""What an evaluation is asked for, and the names of the files that it writes."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

CLIPS, REQUEST, METRICS_FILE = "generated.jsonl", "request.json", "metrics.json"
BASELINES, DETAILS, PAGE, EVALUATOR = "baselines.json", "details.json", "report.html", "evaluator"
OUTPUT_FILES = (CLIPS, REQUEST, METRICS_FILE, BASELINES, DETAILS, PAGE)


@dataclass(frozen=True)
class Request:
    """What to evaluate. model_path: a stage's folder, None for clips from a file (`generated`). data: the rows to
    score, None for the run's own test set. output: a folder, None for evaluation/ beside the model. num_samples: how
    often to generate each clip. max_prompts: clips, None for all. train_data: training clips, None for those beside
    the model. fresh: remove the files of an earlier evaluation in output. split: which rows of data, None for its test
    rows if it has any, else all. codec: a codec's folder, None for the copy in the model's folder, if any. decoding:
    GEN_ settings that replace the model's. parts: "hands" or a file of joints' names by part, whose joints are also
    judged apart; None for the codec's own parts, if any."""

    model_path: str | None
    data: str | None = None
    output: str | None = None
    num_samples: int = 3
    max_prompts: int | None = None
    seed: int = 0
    include_train: bool = False
    generated: str | None = None
    train_data: str | None = None
    fresh: bool = False
    device: str | None = None
    split: str | None = None
    codec: str | None = None
    decoding: Mapping = field(default_factory=dict)
    parts: str | None = None

    def shown(self) -> dict:
        """The fields that the figures depend on, for details.json; parts where they are told."""
        return {name: value for name, value in asdict(self).items()
                if name not in ("fresh", "device") and (name, value) != ("parts", None)}
