"""known_captions.py, untrained_base.py: sentences with new words are asked as the nearest training caption, and say so.

generate.py is imported inside the tests, as its fixtures need Unsloth, which must be imported before transformers.
"""

import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from conftest import ACTIONS, run_script

import inference
import train_pipeline
from motion_llm.decoding.known_captions import CANDIDATES, FILE, KnownCaptions, Rewording
from motion_llm.decoding.request import MotionRequest
from motion_llm.decoding.untrained_base import UntrainedBase
from motion_llm.network.base import ModelConfig
from motion_llm.network.folder import ModelError
from motion_llm.network.folder_tokenizer import FolderTokenizer
from motion_llm.network.known_bases import UnknownToFastLoading
from templates import PlainTextEncoder, text_start

WORDS = [f"word{i}" for i in range(12)]


def known(seed: int = 0) -> KnownCaptions:
    return KnownCaptions(tuple(WORDS), np.random.default_rng(seed).normal(size=(12, 2, 8)).astype(np.float32))


def nearest(captions: KnownCaptions, states: np.ndarray) -> list[str]:
    return [captions.texts[place] for place in captions.similarities(states).argmax(1)]


def base_of(generator):
    return generator._base(json.loads((generator.model_path / "motion_config.json").read_text())["model"])


class Base:
    """An untrained base whose states are those of word7, and that gives each caption so many nats of information."""

    def __init__(self, **nats: float):
        self.nats, self.asked = nats, []

    def states(self, texts):
        return known().states[[7]] * 1.01

    def information(self, text, captions):
        self.asked.append(captions)
        return np.array([self.nats.get(caption, 0.0) for caption in captions])


@pytest.fixture(scope="module")
def generator(tiny_run):
    from generate import MotionGenerator

    return MotionGenerator(tiny_run / "stage3_t2m_sft")


def test_the_nearest_caption_is_that_of_the_most_similar_states():
    captions = known()
    noise = np.random.default_rng(1).normal(size=captions.states.shape) * 0.2
    assert nearest(captions, captions.states + noise) == WORDS


def test_dimensions_that_all_captions_share_do_not_count():
    """States of language models have a few dimensions that are large for every sentence (as in Timkey and van Schijndel
    2021)."""
    captions = known()
    shifted = captions.states.copy()
    shifted[..., 0] = 1000 + 0.01 * shifted[..., 0]
    asked = shifted[[4]].copy()
    asked[..., 0] += 0.001
    assert nearest(KnownCaptions(captions.texts, shifted), asked) == ["word4"]


def test_a_folder_keeps_captions_and_states(tmp_path):
    captions = KnownCaptions(("a bow", "ein \u00dcberschlag\nund mehr"), known().states[:2])
    captions.save(tmp_path)
    loaded = KnownCaptions.load(tmp_path)
    assert loaded.texts == captions.texts
    np.testing.assert_allclose(loaded.states, captions.states, rtol=1e-3, atol=1e-3)
    assert KnownCaptions.load(tmp_path / "elsewhere") is None


@pytest.mark.parametrize("arrays", [
    {"texts": np.frombuffer(b"[1, 2]", np.uint8), "states": np.zeros((2, 2, 8), np.float16)},
    {"texts": np.frombuffer(b'["a", "b"]', np.uint8), "states": np.zeros((3, 2, 8), np.float16)},
    {"texts": np.frombuffer(b'["a", "b"', np.uint8), "states": np.zeros((2, 2, 8), np.float16)},
    {"texts": np.frombuffer(b'["a", "b"]', np.uint8), "states": np.zeros((2, 2, 8))},
])
def test_a_damaged_file_is_refused_by_name(tmp_path, arrays):
    np.savez(tmp_path / FILE, **arrays)
    with pytest.raises(ModelError, match=f"{FILE}.*damaged"):
        KnownCaptions.load(tmp_path)


def test_only_sentences_with_new_words_are_reworded_and_the_base_is_read_for_the_first_of_them():
    made = []

    def base():
        made.append(1)
        return Base()

    rewording = Rewording(known(), base, lambda text: set(text.split()) - {*WORDS})
    assert rewording.of("word1 word2") is None and not made
    assert rewording.of("word1 quickly") == rewording.of("something else") == "word7" and len(made) == 1


def test_of_the_nearest_captions_the_one_is_taken_that_the_base_would_say_the_sentence_means():
    order = [WORDS[place] for place in known().similarities(Base().states([""]))[0].argsort()[::-1]]
    near, far = order[2], order[CANDIDATES]
    for nats, taken in (({near: 1000.0, far: 2000.0}, near), ({near: 0.05}, "word7"), ({"word7": -1000.0}, order[1])):
        base = Base(**nats)
        assert Rewording(known(), lambda base=base: base, lambda text: {text}).of("new") == taken
        assert base.asked == [order[:CANDIDATES]]


def test_a_base_that_cannot_be_read_leaves_sentences_as_they_are():
    rewording = Rewording(known(), lambda: None, lambda text: {text})
    assert rewording.of("new") is None and rewording.of("newer") is None


def test_a_base_that_only_transformers_can_read_is_told_once(generator, monkeypatch, caplog):
    from motion_llm.decoding import answerer

    def refuse(*arguments):
        raise UnknownToFastLoading("a strange base")

    monkeypatch.setattr(answerer, "UntrainedBase", refuse)
    with caplog.at_level("INFO"):
        assert base_of(generator) is None
    assert "asked as they are written, because of a strange base" in caplog.text


KINDS = pytest.mark.parametrize("kind", ["llama", "gemma3"])  # Gemma's tokenizer puts its bos before a text


def read_twice(folder: str):
    """An untrained base by our reader and by transformers, with its tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    ours = FolderTokenizer(folder)
    base = UntrainedBase(ModelConfig(folder, 64, 4, 8, "float32", 0, False), PlainTextEncoder(ours), text_start(ours))
    return base, AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


@KINDS
def test_states_of_the_base_are_those_of_transformers(tiny_base, kind):
    base, network, tokenizer = read_twice(tiny_base(kind))
    texts = ["a person bows", "somebody else waves with both hands", "x"]
    early, late = base.layers
    first = len(tokenizer.encode("x")) - len(tokenizer.encode("x", add_special_tokens=False))
    assert first == (kind == "gemma3")
    for text, (words, meaning) in zip(texts, base.states(texts), strict=True):
        with torch.no_grad():
            of_words, of_question = (
                network.model(torch.tensor([tokenizer.encode(asked)]), output_hidden_states=True).hidden_states
                for asked in (text, f'This sentence: "{text}" means in one word: "'))
        np.testing.assert_allclose(words, of_words[early][0][first:].mean(0), atol=2e-3)
        hidden = of_question[late][0, -1]
        if late == len(network.model.layers):  # transformers gives the last layer's states behind the norm
            meaning = network.model.norm(torch.from_numpy(meaning)).detach()
        np.testing.assert_allclose(meaning, hidden, atol=2e-3)


def test_threads_that_ask_the_base_at_once_get_what_each_would_get_alone(tiny_base):
    base, *_ = read_twice(tiny_base("llama"))
    texts = [" ".join(["a person bows"] * count) for count in (1, 9, 3, 7)]
    alone, start = [base.states([text]) for text in texts], threading.Barrier(len(texts))

    def asked(text: str) -> list[np.ndarray]:
        start.wait(60)
        return [base.states([text]) for _ in range(30)]

    with ThreadPoolExecutor(len(texts)) as threads:
        for expected, answers in zip(alone, threads.map(asked, texts), strict=True):
            for states in answers:
                np.testing.assert_allclose(states, expected, atol=1e-4)


@KINDS
def test_information_is_what_a_sentence_and_a_caption_add_to_each_others_likelihood(tiny_base, kind):
    base, network, tokenizer = read_twice(tiny_base(kind))

    def said(prompt: str, caption: str) -> float:
        start, answer = tokenizer.encode(prompt), tokenizer.encode(caption + '"', add_special_tokens=False)
        with torch.no_grad():
            scores = network(torch.tensor([start + answer])).logits[0, len(start) - 1:-1].float().log_softmax(-1)
        return float(scores.gather(1, torch.tensor(answer)[:, None]).sum())

    def information(text: str, caption: str) -> float:
        """How much likelier the one is as the meaning of the other than as that of any sentence."""
        return said(f'This sentence: "{caption}" means: "', text) - said('This sentence means: "', text)

    captions = ["a person bows", "a person turns around twice", "x"]
    for text in ("somebody leaps", "the old one " * 3):  # the second finds the captions' own likelihoods known
        expected = [(information(text, caption) + information(caption, text)) / 2 for caption in captions]
        np.testing.assert_allclose(base.information(text, captions), expected, atol=5e-3)


@pytest.mark.parametrize("text, caption", [("word " * 2000, "a person bows"), ("somebody leaps", "a bow " * 2000)])
def test_texts_that_are_longer_than_the_base_reads_have_information(generator, text, caption):
    values = base_of(generator).information(text, [caption, "a person turns"])
    assert np.isfinite(values).all()


def test_a_run_keeps_its_training_captions_and_asks_new_words_as_one_of_them(generator):
    kept = KnownCaptions.load(generator.model_path)
    assert set(kept.texts) <= {f"a person {action}" for action in ACTIONS} and len(kept.texts) >= 8
    generator._jobs.rewording.known = KnownCaptions(kept.texts * 2, np.tile(kept.states, (2, 1, 1)))  # LEAST of them
    text = "somebody leaps"
    result, as_it_is, trained = generator.answer(
        [MotionRequest(text=text, temperature=0), MotionRequest(text=text, temperature=0, as_written=True),
         MotionRequest(text="a person bows", temperature=0)])
    assert result.text == text and result.taken_for in kept.texts
    assert result.codes == generator.answer(MotionRequest(text=result.taken_for, temperature=0))[0].codes
    assert as_it_is.taken_for is None and trained.taken_for is None


def test_a_run_that_was_killed_before_it_kept_its_captions_makes_up_for_it(tiny_run, tiny_arguments, tmp_path):
    folder = tmp_path / "output"
    shutil.copytree(tiny_run, folder)
    kept = (folder / "stage3_t2m_sft" / FILE).read_bytes()
    (folder / "stage3_t2m_sft" / FILE).unlink()
    assert run_script(train_pipeline, *tiny_arguments, "--work_dir", str(folder)) == 0
    assert (folder / "stage3_t2m_sft" / FILE).read_bytes() == kept


def test_the_command_says_what_a_sentence_was_taken_for(tiny_run, tmp_path, capsys, caplog):
    kept = KnownCaptions.load(tiny_run / "stage3_t2m_sft")
    many = KnownCaptions(kept.texts * 2, np.tile(kept.states, (2, 1, 1)))
    (tmp_path / "prompts.txt").write_text("somebody leaps\na person bows\n")
    with pytest.MonkeyPatch.context() as patch, caplog.at_level("INFO"):
        patch.setattr(KnownCaptions, "load", lambda folder: many)
        assert run_script(inference, "--model_path", str(tiny_run / "stage3_t2m_sft"), "--prompts_file",
                          str(tmp_path / "prompts.txt"), "--seed", "0") == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first["taken_for"] in kept.texts and "taken_for" not in second
    assert f"'somebody leaps': taken for the training caption {first['taken_for']!r}" in caplog.text
