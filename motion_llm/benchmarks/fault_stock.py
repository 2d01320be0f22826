"""The folder that `bench.py faults` damages copies of: clips, a codec, a dataset, a tiny base, runs, an evaluation.

Its files are made by the commands of the checkout that is tried, and named by relative paths, so that a copy is as good
as the folder itself.
"""

import json
import logging
import shutil
from pathlib import Path

import numpy as np

from motion_llm.benchmarks.fault_server import FaultServer
from motion_llm.json_files import write_json, write_text
from motion_llm.motion.bvh import write_bvh
from motion_llm.motion.skeleton import Motion
from motion_llm.sample.build import PARTICIPANTS, all_motions
from motion_llm.sample.stick_figure import FPS, make_clip, skeleton

log = logging.getLogger(__name__)

ACTIONS, TAKES, CODES, TOKENS_A_SECOND = 10, 5, 16, 5
RUN, HALF, MODEL, MULTITASK = "run", "half", "run/stage3_t2m_sft", "run/stage2_multitask"
EVALUATION = [f"--model_path={MODEL}", "--data=data.json", "--include_train", "--max_prompts=12", "--num_samples=1"]
TRAINING = ["--data_json_path=data.json", "--codec_path=codec", "--model_name=base", "--max_seq_len=128",
            "--epochs_s1=1", "--epochs_s2=1", "--epochs_s3=1", "--batch_train=4", "--lora_r=4", "--heldout_share=0.1",
            "--save_steps=4", "--dtype=float32", "--report_page=false"]
STEPS = [  # script, arguments, the pattern of a path at whose appearance it is killed
    ("codec", ["fit", "--motions=clips", f"--codes={CODES}", "--kind=kmeans", "--output=codec"], ""),
    ("codec", ["fit", "--motions=clips", f"--codes={CODES}", "--kind=kmeans", "--seed=3", "--output=other_codec"], ""),
    ("codec", ["encode", "--codec=codec", "--motions=clips", "--captions=captions.json", "--output=data.json"], ""),
    ("train_pipeline", [*TRAINING, f"--work_dir={RUN}"], ""),
    ("train_pipeline", [*TRAINING, f"--work_dir={HALF}", "--seed=1"],
     f"{HALF}/checkpoints/stage2_multitask/checkpoint-8"),
    ("evaluate", [*EVALUATION, f"--output={RUN}/evaluation"], ""),
    ("export", [f"--model_path={MODEL}", "--output=served"], ""),
    ("import_tokens", ["--export=t2m_gpt", "--data=data.json", "--output=layout"], ""),
]


def make_stock(server: FaultServer, evaluated: bool = True) -> None:
    """Make everything in the server's folder; evaluated: with an evaluation, which takes the longest. Raises ValueError
    with the end of a command's stderr if it fails."""
    make_clips(server.folder)
    make_base(server.folder / "base")
    for script, arguments, kill_when in STEPS:
        if script == "evaluate" and not evaluated:
            continue
        log.info("  %s.py %s", script, " ".join(arguments))
        outcome = server.run(script, arguments, seconds=600, kill_when=kill_when)
        if outcome.status != (-9 if kill_when else 0):
            raise ValueError(f"the undamaged {script}.py {' '.join(arguments)} ended with status {outcome.status}: "
                             f"{outcome.stderr[-2000:]}")
    if evaluated:
        _half_an_evaluation(server.folder)


def _half_an_evaluation(folder: Path) -> None:
    """generated.jsonl, as of another program, and half_evaluation/, as a kill leaves it."""
    evaluation, half = folder / RUN / "evaluation", folder / "half_evaluation"
    half.mkdir()
    shutil.copy(evaluation / "request.json", half)
    shutil.copy(evaluation / "generated.jsonl", folder)
    lines = (evaluation / "generated.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    write_text(half / "generated.jsonl", "".join(lines[:len(lines) // 2]))


def make_clips(folder: Path) -> None:
    """clips/*.bvh of the sample's stick figure, captions.json, prompts.txt and a clip of joints, clip.npy."""
    rng, figure, entries = np.random.RandomState(0), skeleton(), []
    people = list(PARTICIPANTS.items())[:2]
    (folder / "clips").mkdir()
    for number, script in enumerate(all_motions()[:ACTIONS]):
        for take in range(TAKES):
            name, person = people[take % len(people)]
            joints = make_clip(script, person, rng)
            path = f"clip{number}_{take}.bvh"
            write_bvh(folder / "clips" / path, Motion(joints, FPS, figure))
            entries.append({"file": path, "text_query": f"a person {script.wordings[0]}", "participant_id": name})
    np.save(folder / "clip.npy", joints.astype(np.float32))
    write_json(folder / "captions.json", entries)
    write_text(folder / "prompts.txt", "a person jumps once\nsomeone walks backward\n")


def make_base(folder: Path) -> None:
    """A Llama of two layers with random weights and a byte-level tokenizer of some 400 entries."""
    from safetensors.numpy import save_file
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    folder.mkdir()
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = {"unk_token": "<|endoftext|>", "bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
    tokenizer.train_from_iterator(
        ["a person walks forward", "user assistant someone jumps and waves with the left hand three times"],
        trainers.BpeTrainer(vocab_size=400, special_tokens=list(special.values()), show_progress=False,
                            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())))
    tokenizer.save(str(folder / "tokenizer.json"))
    ids = {name.replace("token", "token_id"): tokenizer.token_to_id(token) for name, token in special.items()}
    write_json(folder / "tokenizer_config.json", special | {
        "tokenizer_class": "PreTrainedTokenizerFast", "pad_token": special["eos_token"], "chat_template":
        "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' +"
        " '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"})
    size, inner, rows = 32, 64, tokenizer.get_vocab_size()
    write_json(folder / "config.json", {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": rows, "hidden_size": size,
        "intermediate_size": inner, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": 8, "max_position_embeddings": 512, "tie_word_embeddings": True, "rms_norm_eps": 1e-6,
        "hidden_act": "silu", "dtype": "float32", "bos_token_id": ids["bos_token_id"],
        "eos_token_id": ids["eos_token_id"], "pad_token_id": ids["eos_token_id"]})
    shapes = {"model.embed_tokens": (rows, size), "model.norm": (size,)}
    for layer in ("model.layers.0", "model.layers.1"):
        shapes |= {f"{layer}.input_layernorm": (size,), f"{layer}.post_attention_layernorm": (size,),
                   f"{layer}.mlp.gate_proj": (inner, size), f"{layer}.mlp.up_proj": (inner, size),
                   f"{layer}.mlp.down_proj": (size, inner), f"{layer}.self_attn.q_proj": (size, size),
                   f"{layer}.self_attn.k_proj": (size // 2, size), f"{layer}.self_attn.v_proj": (size // 2, size),
                   f"{layer}.self_attn.o_proj": (size, size)}
    rng = np.random.default_rng(0)
    weights = {f"{name}.weight": np.ones(shape, np.float32) if len(shape) == 1
               else 0.02 * rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def read_rows_of(folder: Path) -> list[dict]:
    """The rows of the stock's dataset."""
    return json.loads((folder / "data.json").read_text(encoding="utf-8"))
