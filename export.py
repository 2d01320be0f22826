"""A trained model as a folder that serving engines read: `python export.py --model_path output/stage3_t2m_sft --output
served`.

It holds merged weights in the base's own architecture, the tokenizer, the data of the model's folder (lengths,
vocabulary, settings), a grammar, a client, a plugin for vLLM, and a README with the commands.
"""

import argparse
import json
import logging
import shutil
import sys
from pathlib import Path

import config
from motion_llm.command_line import Parser, exit_status, printable, start_log
from motion_llm.dataset.caption_rules import caption_problem
from motion_llm.dataset.lengths import LengthModel
from motion_llm.dataset.rows import caption_key
from motion_llm.json_files import read_json, write_json
from motion_llm.network.folder import MOTION_CONFIG, ModelError, read_motion_config
from motion_llm.saving import saving_folder
from motion_llm.serving.client import Client, Clip
from motion_llm.serving.grammar import motion_grammar
from motion_llm.serving.quoting import code_span, filled, shell_word
from templates import MotionVocabulary

log = logging.getLogger("export")

HERE = Path(__file__).parent
SERVING = HERE / "motion_llm" / "serving"
# The files that an export's client.py imports, in the same folders as here.
CLIENT_MODULES = ("templates.py", "motion_llm/__init__.py",
                  *(f"motion_llm/{name}.py"
                    for name in ("command_line", "input_files", "json_files", "saving", "streams")),
                  *(f"motion_llm/network/{name}.py" for name in ("__init__", "folder")),
                  *(f"motion_llm/serving/{name}.py" for name in ("__init__", "client", "grammar")),
                  *(f"motion_llm/dataset/{name}.py" for name in ("__init__", "lengths", "length_regression", "rows")))
CLIENT = '''"""Motions for sentences, from a server that decodes this folder: see README.md."""

import sys
from pathlib import Path

from motion_llm.serving.client import main

if __name__ == "__main__":
    sys.exit(main(Path(__file__).parent))
'''
PLUGIN = "end_shift.py"  # in a separate folder, which is put on the server's path
README = SERVING / "export_readme.md"


def check_output(folder: Path) -> None:
    """Raises ValueError for a file, and for a folder with anything but an earlier export in it."""
    if folder.is_file():
        raise ValueError(f"--output {folder} is a file, expected a folder")
    if folder.is_dir() and any(folder.iterdir()):
        config_file = folder / MOTION_CONFIG
        if not config_file.is_file() or "turns" not in read_json(config_file, ModelError):
            raise ValueError(f"--output {folder} is a folder with other things in it, expected an empty one, a new "
                             "one or an earlier export")


def export(model_path: str | Path, output: str | Path) -> Path:
    """Write the model in `model_path` to `output`, which never holds half an export.

    Raises ModelError for a model that cannot be exported, ValueError for an output that holds something else.
    """
    output = Path(output).resolve()
    content = read_motion_config(model_path)
    if "t2m" not in content["tasks"]:
        raise ModelError(f"{model_path} was trained for {', '.join(content['tasks'])}, expected a stage that turns "
                         "text to motion (t2m)")
    check_output(output)
    config.check(content["settings"], f"{model_path}/{MOTION_CONFIG}")
    if content["settings"].get("GEN_GUIDANCE", 1.0) != 1:
        log.warning("GEN_GUIDANCE is %g, but serving engines decode without guidance: the export has 1",
                    content["settings"]["GEN_GUIDANCE"])
        content["settings"]["GEN_GUIDANCE"] = 1.0
    from model import load  # imports torch, which takes seconds that an error above should not

    model = load(model_path)
    network = plain(model.merged(), content["settings"], model.vocabulary, model.pad_id)
    markers = model.template.markers
    turns = {"user": list(markers.user), "assistant": list(markers.assistant)}
    content.pop("files", None)  # digests of the stage's files, which are others here
    with saving_folder(output) as temporary:
        network.save_pretrained(temporary)
        model.tokenizer.save_pretrained(temporary)
        write_json(temporary / MOTION_CONFIG, content | {"turns": turns})
        write_companions(temporary, network.config.get_text_config())
    return output


def plain(network, settings: dict, vocabulary: MotionVocabulary, pad_id: int):
    """The merged network with a configuration that no longer mentions quantisation or training, and with our sampling
    as its generation config."""
    from transformers import GenerationConfig

    for holder in (network.config, network):  # merging has turned 4-bit weights into 16-bit ones
        if getattr(holder, "quantization_config", None) is not None:
            del holder.quantization_config
    network.hf_quantizer = None
    network.config.get_text_config().use_cache = True  # training turns it off
    network.config.get_text_config().vocab_size = network.get_input_embeddings().weight.shape[0]
    sampling = dict(temperature=float(settings["GEN_TEMPERATURE"]), top_p=float(settings["GEN_TOP_P"]),
                    top_k=settings["GEN_TOP_K"]) if settings["GEN_TEMPERATURE"] > 0 else {}
    network.generation_config = GenerationConfig(do_sample=bool(sampling), eos_token_id=vocabulary.end_id,
                                                 pad_token_id=pad_id, **sampling)
    return network


def write_companions(folder: Path, text_config) -> None:
    """The example grammar, the client with its modules, the plugin and the README, beside a model in `folder`."""
    content = read_motion_config(folder)
    vocabulary = MotionVocabulary.from_dict(content["vocabulary"])
    overall = LengthModel.from_dict(content["length_model"], caption_key).overall
    longest = max(1, min(overall.longest, content["settings"]["MAX_SEQ_LEN"] // 2 // vocabulary.streams.count))
    grammar = motion_grammar(vocabulary, min(overall.shortest, longest), longest)
    (folder / "grammar.lark").write_text(grammar, encoding="utf-8")
    (folder / "client.py").write_text(CLIENT, encoding="utf-8")
    for name in CLIENT_MODULES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(HERE / name, folder / name)
    (folder / "plugin").mkdir()
    shutil.copyfile(SERVING / PLUGIN, folder / "plugin" / PLUGIN)
    caption = next((text for text in content["length_model"]["captions"] if not caption_problem(text)), None)
    if caption is None:
        raise ModelError(f"{folder}: its length model has no caption that can be asked for, expected those of training")
    request = Client(folder).request(Clip(caption))
    heads, groups = text_config.num_attention_heads, text_config.num_key_value_heads
    sizes = [n for n in range(2, heads + 1) if heads % n == 0 and (groups % n == 0 or n % groups == 0)]
    values = {
        "MAX_SEQ_LEN": content["settings"]["MAX_SEQ_LEN"], "FIRST": vocabulary.first_motion_id,
        "LAST": vocabulary.end_id - 1, "END": vocabulary.end_id, "CODES": vocabulary.codebook_size,
        "GRAMMAR": grammar.strip(), "CAPTION": shell_word(caption), "REQUEST": json.dumps(request),
        "HEADS": heads, "SIZES": ", ".join(map(str, sizes)) or "none", "SIZE": sizes[0] if sizes else 1,
        "BASE": code_span(content["model"]["model_name"]), "STAGE": code_span(content["stage"]),
    }
    (folder / "README.md").write_text(filled(README.read_text(encoding="utf-8"), values), encoding="utf-8")


def _parser() -> Parser:
    parser = Parser(description="A trained model as a folder for serving engines.")
    parser.add_argument("--model_path", help="a trained stage's folder. Default: WORK_DIR/stage3_t2m_sft")
    parser.add_argument("--output", required=True, help="the folder to write: new, empty, or an earlier export")
    return parser


def main() -> int:
    args = _parser().parse_args()
    start_log()
    return exit_status("export.py", lambda: print(printable(run(args))))


def run(args: argparse.Namespace) -> str:
    """The text to print. Raises ValueError (subclasses included) and OSError."""
    output = export(args.model_path or str(Path(config.resolve({})["WORK_DIR"]) / "stage3_t2m_sft"), args.output)
    size = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
    return f"{output}: {size / 1e6:.0f} MB; its README.md has the commands that serve it"


if __name__ == "__main__":
    sys.exit(main())
