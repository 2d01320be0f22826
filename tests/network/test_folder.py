"""folder.py: a damaged motion_config.json is refused by the file's name, whatever is wrong with it."""

import copy
import json
from collections.abc import Iterator

import pytest

from motion_llm.dataset.lengths import LengthModel
from motion_llm.dataset.rows import caption_key
from motion_llm.json_files import check_form, read_json
from motion_llm.network.base import ModelConfig
from motion_llm.network.folder import MOTION_CONFIG, ModelError, read_motion_config
from templates import MotionVocabulary

WRONG = (None, "x", "", -1, 1.5, 1e300, 10**30, True, [], {}, [[]], {"a": 1}, ["a"])
CONFIG = {
    "stage": "stage3_t2m_sft", "tasks": ["t2m"],
    "settings": {"SEED": 0, "MAX_SEQ_LEN": 128, "EVAL_BATCH": 4, "DATA_JSON_PATH": "x.json"},
    "history": {"losses": [[1, 2.5]], "nll": [{}]},
    "model": {"model_name": "smollm2-135m", "max_seq_len": 512, "lora_r": 16, "lora_alpha": 32, "dtype": "auto",
              "seed": 0, "load_in_4bit": False},
    "vocabulary": {"first_motion_id": 49152, "codebook_size": 128, "participants": ["P001"]},
    "length_model": {"spread": 0.1, "overall": "3 2 4 6", "captions": {"a dance": "3 2 4.5 6"},
                     "participants": {"a dance": {"P001": "3 2 4 6"}}, "codes": {"a dance": "1 2 3"},
                     "regression": {"mean": 2.7, "deviation": 0.2, "weights": "0.1 -2e-05 0"}}}


def places(content, at=()) -> Iterator[tuple]:
    """The path of every value in nested lists and objects."""
    yield at
    if isinstance(content, dict | list):
        for key, value in content.items() if isinstance(content, dict) else enumerate(content):
            yield from places(value, (*at, key))


def used(folder) -> None:
    """What a model's folder is read for before its weights are."""
    content = read_motion_config(folder)
    ModelConfig(**content["model"])
    MotionVocabulary.from_dict(content["vocabulary"]).code_ids([0])
    LengthModel.from_dict(content["length_model"], caption_key).limits("a dance", "P001")


def write(folder, content) -> None:
    (folder / MOTION_CONFIG).write_text(content if isinstance(content, str) else json.dumps(content))


def test_a_whole_one_is_read(tmp_path):
    write(tmp_path, CONFIG)
    used(tmp_path)


@pytest.mark.parametrize("place", [
    place for place in places(CONFIG) if place and place[0] != "settings" and place[:2] != ("history", "losses")
    and place[:2] != ("history", "nll")], ids=str)
def test_a_wrong_value_is_refused_with_the_file_or_does_no_harm(tmp_path, place):
    refused = 0
    for wrong in WRONG:
        content = copy.deepcopy(CONFIG)
        owner = content
        for key in place[:-1]:
            owner = owner[key]
        owner[place[-1]] = wrong
        write(tmp_path, content)
        try:
            used(tmp_path)
        except ValueError as error:
            if "of an earlier version" in str(error):  # length statistics that lack a part
                continue
            assert str(tmp_path / MOTION_CONFIG) in str(error) and len(str(error)) < len(str(tmp_path)) + 400
            refused += 1
    assert refused >= 5, place


@pytest.mark.parametrize(("content", "message"), [
    ("[" * 100_000, "is broken"), ("{", "is broken"), ("[]", "holds a list"), ("1" * 5000, "is broken"),
    (json.dumps(CONFIG | {"model": CONFIG["model"] | {"lora": 3}}), "model has lora, which is unknown"),
    (json.dumps(CONFIG | {"files": ["adapter"]}), "files is a list of 1, expected an object"),
])
def test_a_file_that_is_broken_or_of_another_program(tmp_path, content, message):
    write(tmp_path, content)
    with pytest.raises(ModelError, match=f"{MOTION_CONFIG}.*{message}"):
        used(tmp_path)


def test_forms():
    for content, form, message in (
            ([1, "2"], [float], "x, item 1 is '2', expected a number"), (True, float, "x is True, expected a number"),
            (float("nan"), float, "x is nan, expected a finite number"), ({}, {"a": str}, "x has no a"),
            (5, range(1, 5), "x is 5, expected an integer from 1 to 4"), ("a", {}, "x is 'a', expected an object")):
        with pytest.raises(ValueError, match=message):
            check_form(content, form, "x", ValueError)
    check_form({"a": [1, 2.5], "b": None}, {"a": [float]}, "x", ValueError)


def test_a_huge_file_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr("motion_llm.json_files.MOST_BYTES", 10)
    write(tmp_path, CONFIG)
    with pytest.raises(ModelError, match="bytes, expected at most 10"):
        read_json(tmp_path / MOTION_CONFIG, ModelError)


def test_an_exports_head_in_a_stages_folder_is_refused(tmp_path):
    (tmp_path / MOTION_CONFIG).write_text(json.dumps(CONFIG | {"turns": {"user": [1], "assistant": [2]}}))
    assert read_motion_config(tmp_path)["turns"]  # an export has no adapter
    (tmp_path / "adapter_model.safetensors").touch()
    with pytest.raises(ModelError, match="motion_config.json is that of an export"):
        read_motion_config(tmp_path)


def test_a_blank_name_of_a_model_is_shown_in_quotes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match="model folder '  ' does not exist"):
        read_motion_config("  ")
