"""Fixtures: tiny random base models of several families, so that tests need no download, and a tiny run."""

import importlib.util
import json
import os
import random
import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent))
os.environ["UNSLOTH_DISABLE_STATISTICS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"  # threads do not help tiny models, and are slow on a busy machine

# Run by `make test-vllm`, in an environment of its own.
collect_ignore = [] if importlib.util.find_spec("vllm") else ["serving/engines"]


def pytest_configure(config):
    config.addinivalue_line("markers", "gpu: needs an NVIDIA GPU; run alone, by `pytest tests -m gpu`")


def pytest_collection_modifyitems(config, items):
    """Unsloth uses a GPU or the CPU for the whole process, so tests of the two do not run together."""
    import torch

    if config.option.markexpr == "gpu" and torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no GPU, or not run by -m gpu"))


@pytest.fixture(scope="session")
def unsloth(request):
    """Unsloth, which must be imported before transformers."""
    from model import start_unsloth  # imports torch, which takes seconds

    return start_unsloth("cuda" if request.config.option.markexpr == "gpu" else "cpu")


@pytest.fixture(scope="session")
def tiny_base(unsloth, tmp_path_factory):
    """kind -> folder of a tiny random base model with its tokenizer."""
    folders = {}

    def base(kind: str = "llama") -> str:
        if kind not in folders:
            folders[kind] = str(tmp_path_factory.mktemp(kind))
            make_base(kind, folders[kind])
        return folders[kind]

    return base


def make_base(kind: str, folder: str) -> None:
    import torch
    from tiny import tiny_tokenizer
    from transformers import (
        AutoModelForCausalLM,
        CohereConfig,
        Gemma2Config,
        Gemma3TextConfig,
        GraniteConfig,
        LlamaConfig,
        MistralConfig,
        Qwen2Config,
        Qwen3Config,
    )

    config_class, tokenizer_kind, changes = {
        "llama": (LlamaConfig, "chatml", {}),
        "llama_untied": (LlamaConfig, "bare", {"tie_word_embeddings": False}),
        "llama_served": (LlamaConfig, "chatml", {"hidden_size": 128, "head_dim": 32}),  # vLLM has no smaller head size
        "llama_padded": (LlamaConfig, "chatml", {"padded": 64}),
        "llama_biased": (LlamaConfig, "chatml", {"attention_bias": True, "mlp_bias": True}),
        "mistral": (MistralConfig, "chatml", {"sliding_window": 8}),
        "qwen2": (Qwen2Config, "qwen", {}),  # its queries, keys and values have biases
        "qwen3": (Qwen3Config, "qwen", {}),
        "gemma2": (Gemma2Config, "gemma", {}),  # soft-capped logits
        "gemma3": (Gemma3TextConfig, "gemma", {}),
        "granite": (GraniteConfig, "chatml", {"logits_scaling": 4.0, "embedding_multiplier": 3.0}),
        "cohere": (CohereConfig, "chatml", {"logit_scale": 0.25}),
    }[kind]
    tokenizer = tiny_tokenizer(tokenizer_kind)
    shape = dict(vocab_size=len(tokenizer) + changes.pop("padded", 0), hidden_size=32,
                 intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
                 max_position_embeddings=512, tie_word_embeddings=True,
                 bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
                 pad_token_id=tokenizer.pad_token_id)
    config = config_class(**shape | changes)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


ACTIONS = ["walks forward", "walks backward", "jumps", "waves with the left hand", "waves with the right hand",
           "sits down", "turns around", "bows", "kicks", "runs"]


def tiny_rows(clips_per_caption: int = 6) -> list[dict]:
    """60 rows in the dataset's format: each caption has its own pattern of codes, repeated a few times; one row has the
    last code of a codebook of 128."""
    rng = random.Random(0)
    rows = []
    for action in ACTIONS:
        pattern = [rng.randrange(16) for _ in range(3)]
        for clip in range(clips_per_caption):
            codes = (pattern * 5)[:6 + clip] + [rng.randrange(16)]
            rows.append({"text_query": f"a person {action}", "motion_tokens": " ".join(map(str, codes)),
                         "participant_id": f"P00{1 + clip % 2}"})
    rows[0]["motion_tokens"] += " 127"
    return rows


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("data") / "tiny.json"
    path.write_text(json.dumps(tiny_rows()), encoding="utf-8")
    return str(path)


TINY_SETTINGS = ["--max_seq_len", "128", "--epochs_s1", "1", "--epochs_s2", "1", "--epochs_s3", "2",
                 "--batch_train", "4", "--lora_r", "4", "--heldout_share", "0.1", "--save_steps", "5",
                 "--dtype", "float32", "--report_page", "false",
                 # Two folders for different tasks, as many tests look at what a stage was not trained for.
                 "--stage2_mix", "t2m=0.5,m2t=0.3,denoise=0.2", "--stage3_mix", "t2m=1,m2t=0,denoise=0"]


def run_script(module, *arguments: str) -> int:
    """Run main() of an entry script with these arguments; returns its exit status."""
    argv = sys.argv
    sys.argv = [f"{module.__name__}.py", *arguments]
    try:
        return module.main()
    except SystemExit as error:
        return error.code
    finally:
        sys.argv = argv


@pytest.fixture(scope="session")
def tiny_arguments(tiny_base, tiny_dataset):
    return ["--data_json_path", tiny_dataset, "--model_name", tiny_base("llama"), *TINY_SETTINGS]


@pytest.fixture(scope="session")
def tiny_run(tiny_arguments, tmp_path_factory):
    """The WORK_DIR of a whole run on the tiny base."""
    import train_pipeline  # not at the top, because the project's path is added to sys.path above

    folder = tmp_path_factory.mktemp("run") / "output"
    assert run_script(train_pipeline, *tiny_arguments, "--work_dir", str(folder)) == 0
    return folder


@pytest.fixture(scope="session")
def codec_folder(tmp_path_factory):
    """A codec with as many codes as the tiny dataset has."""
    from walker import walks

    from motion_llm.motion.codec import MotionCodec  # see tiny_run

    folder = tmp_path_factory.mktemp("codec")
    MotionCodec.fit(walks(), codes=128, kind="kmeans").save(folder)
    (folder / "notes.txt").write_text("no file of the codec")
    return folder


@pytest.fixture(scope="session")
def run_with_codec(tiny_run, tiny_arguments, codec_folder, tmp_path_factory):
    """A finished run that gets a codec afterwards."""
    import train_pipeline  # see tiny_run

    folder = tmp_path_factory.mktemp("with_codec") / "output"
    shutil.copytree(tiny_run, folder)
    assert run_script(train_pipeline, *tiny_arguments, "--work_dir", str(folder), "--codec_path",
                      str(codec_folder)) == 0
    return folder
