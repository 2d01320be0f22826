"""The commands that `bench.py faults` tries, with the files of the stock that each reads."""

from dataclasses import dataclass
from pathlib import Path

from motion_llm.benchmarks.fault_stock import EVALUATION, HALF, MODEL, MULTITASK, RUN, TRAINING

# Files that a user makes, or gets from elsewhere: they carry no digest, so that another result may be right.
OWN = ("data.json", "captions.json", "prompts.txt", "generated.jsonl", "clip.npy", "clips/", "layout/", "base/",
       "half_evaluation/generated.jsonl", "served/")
CODEC, OF_MODEL, DATA = ("codec/*",), (f"{MODEL}/*", f"{MODEL}/codec/*", "base/*"), ("data.json",)
OF_RUN = (f"{RUN}/*", f"{RUN}/prepared_data/*", f"{RUN}/stage*/*")
JUDGED = (f"{RUN}/prepared_data/*", f"{RUN}/evaluator/*")
WRITING = ("--output", "--work_dir")
TOKENS = "--motion_tokens=3 4 5 6 7"


@dataclass(frozen=True)
class Command:
    """A command line. reads: patterns of the files that it reads; slow: takes seconds, so that it is tried less."""

    name: str
    script: str
    arguments: tuple[str, ...]
    reads: tuple[str, ...]
    slow: bool = False

    def line(self, extra: list[str] | tuple[str, ...] = ()) -> str:
        return " ".join([f"{self.script}.py", *self.arguments, *extra])

    @property
    def outputs(self) -> list[str]:
        """The paths that it writes."""
        pairs = [argument.partition("=") for argument in self.arguments]
        return [] if "--check" in self.arguments else [path for flag, _, path in pairs if flag in WRITING]

    @property
    def subcommand(self) -> list[str]:
        """What stands before the flags: "fit" of codec.py."""
        return [argument for argument in self.arguments[:1] if not argument.startswith("-")]


def _asking(name: str, *arguments: str, reads: tuple[str, ...] = (), model: str = MODEL) -> Command:
    of_model = tuple(pattern.replace(MODEL, model) for pattern in OF_MODEL)
    return Command(f"inference {name}", "inference", (f"--model_path={model}", "--seed=0", *arguments),
                   of_model + reads)


PROMPT = "--prompt=a person jumps once"
COMMANDS = (
    Command("train", "train_pipeline", (*TRAINING, "--work_dir=new"), DATA + CODEC + ("base/*",), slow=True),
    Command("train resumed", "train_pipeline", (*TRAINING, "--seed=1", f"--work_dir={HALF}"),
            (f"{HALF}/*", f"{HALF}/prepared_data/*", f"{HALF}/stage*/*", f"{HALF}/checkpoints/*/*",
             f"{HALF}/checkpoints/*/*/*", *DATA, *CODEC, "base/*"), slow=True),
    Command("train again", "train_pipeline", (*TRAINING, f"--work_dir={RUN}"), OF_RUN + DATA + CODEC, slow=True),
    Command("train --check", "train_pipeline", (*TRAINING, "--check", "--work_dir=new"), DATA + CODEC),
    _asking("t2m", PROMPT, "--num_samples=2"),
    _asking("--stream", PROMPT, "--stream"),
    _asking("--prompts_file", "--prompts_file=prompts.txt", "--output=answers.jsonl", reads=("prompts.txt",)),
    _asking("--dataset_path", PROMPT, "--dataset_path=data.json", "--per_prompt_vocab", reads=DATA),
    _asking("html", PROMPT, "--output=clip.html"),
    _asking("bvh", PROMPT, "--output=clip.bvh"),
    _asking("m2t", "--task=m2t", TOKENS, model=MULTITASK),
    _asking("denoise", "--task=denoise", TOKENS.replace("5", "?"), model=MULTITASK),
    _asking("inbetween", "--task=inbetween", TOKENS, "--end_tokens=1 2", "--tokens=12", model=MULTITASK),
    _asking("continue", "--task=continue", TOKENS, PROMPT),
    Command("evaluate", "evaluate", (*EVALUATION, "--output=scores"), OF_MODEL + JUDGED + DATA, slow=True),
    Command("evaluate resumed", "evaluate", (*EVALUATION, "--output=half_evaluation"),
            ("half_evaluation/*", *JUDGED, *DATA), slow=True),
    Command("evaluate --generated", "evaluate",
            (*(part for part in EVALUATION if not part.startswith("--num_samples")), "--generated=generated.jsonl",
             "--output=scores"), ("generated.jsonl", *JUDGED, *DATA, f"{MODEL}/motion_config.json"), slow=True),
    Command("export", "export", (f"--model_path={MODEL}", "--output=new"), OF_MODEL),
    Command("export again", "export", (f"--model_path={MODEL}", "--output=served"), ("served/*", *OF_MODEL)),
    Command("codec fit", "codec", ("fit", "--motions=clips", "--codes=16", "--kind=kmeans", "--output=new"),
            ("clips/*",), slow=True),
    Command("codec encode", "codec", ("encode", "--codec=codec", "--motions=clips", "--captions=captions.json",
                                      "--output=new.json"), ("codec/*", "captions.json", "clips/*")),
    Command("codec decode", "codec", ("decode", "--codec=codec", "--tokens=3 4 5", "--output=new.bvh"), CODEC),
    Command("view tokens", "view", ("--tokens=3 4 5", "--codec=codec", "--output=new.html"), CODEC),
    Command("view bvh", "view", ("--bvh=clips/clip0_0.bvh", "--output=new.html"), ("clips/clip0_0.bvh",)),
    Command("view joints", "view", ("--joints=clip.npy", "--output=new.html"), ("clip.npy",)),
    Command("import_tokens", "import_tokens", ("--layout=t2m_gpt", "--root=layout", "--output=new.json"),
            ("layout/*", "layout/*/*")),
    Command("import_tokens --export", "import_tokens", ("--export=t2m_gpt", "--data=data.json", "--output=new"), DATA),
)
BY_NAME = {command.name: command for command in COMMANDS}


def is_own(path: str) -> bool:
    """Whether another content of this file may rightly give another result."""
    return any(path == own or own.endswith("/") and path.startswith(own) for own in OWN)


def files_read(command: Command, folder: Path) -> list[str]:
    """The command's files in the stock, relative and sorted."""
    return sorted({path.relative_to(folder).as_posix() for pattern in command.reads for path in folder.glob(pattern)
                   if path.is_file()})
