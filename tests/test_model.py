"""model.py on tiny random bases of each family: trainable parameters, the loss, saving and loading, errors."""

import importlib.util
import multiprocessing
import resource
import shutil
import socket

import pytest
import torch
from tiny import tiny_tokenizer
from torch.nn import functional

import collators
import model as model_module
from model import ModelConfig, ModelError, build, load, sum_nll, unfreeze

KINDS = ["llama", "llama_untied", "llama_padded", "qwen3", "gemma2", "gemma3", "granite", "cohere"]
ROWS = [
    {"text_query": "a person walks", "codes": [1, 2, 3, 3], "participant_id": "P0"},
    {"text_query": "someone waves with the left hand", "codes": [5, 0, 7], "participant_id": None},
    {"text_query": "a dance", "codes": [4, 6], "participant_id": "P1"},
]
SETTINGS = {"MAX_SEQ_LEN": 128, "EVAL_BATCH": 4, "DATA_JSON_PATH": "x.json"}
EXTRA = {"stage": "test", "tasks": ["t2m"], "settings": SETTINGS, "length_model": {}, "history": {}}


def tiny_model(base: str, seed: int = 0):
    return build(ModelConfig(base, 128, 4, 8, "float32", seed), codebook=8, participants=["P0", "P1"])


def batch(model, *tasks):
    examples = [model.template.render(task, text=row["text_query"], codes=row["codes"], noisy=[-1, *row["codes"][1:]],
                                      participant_id=row["participant_id"]) for task in tasks for row in ROWS]
    return collators.collate(examples, model.pad_id)


def trained(model, steps: int = 2):
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01, weight_decay=0.0)
    for _ in range(steps):
        model(**batch(model, "t2m", "m2t", "denoise", "lm"))["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_only_lora_and_new_rows_train_and_each_of_them_moves(tiny_base, kind):
    model = tiny_model(tiny_base(kind))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    trained(model)
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert moved == trainable
    assert all(".lora_" in name or "trainable_tokens_delta" in name for name in trainable)
    assert {name.split(".lora_")[0].rsplit(".", 1)[-1] for name in trainable if ".lora_" in name} \
        == set(model_module.PROJECTIONS)


@pytest.mark.parametrize("kind", KINDS)
def test_old_rows_stay_bit_identical_and_every_used_new_row_moves(tiny_base, kind):
    from transformers import AutoModelForCausalLM

    original = AutoModelForCausalLM.from_pretrained(tiny_base(kind)).get_input_embeddings().weight.detach()
    model = tiny_model(tiny_base(kind))
    first = model.vocabulary.first_motion_id
    start = model.network.get_input_embeddings().weight.detach().clone()
    network = trained(model).merged()
    for layer in (network.get_input_embeddings(), network.get_output_embeddings()):
        weight = layer.weight.detach()
        assert len(weight) == max(len(original), first + len(model.vocabulary))
        if kind != "llama_untied" or layer is network.get_input_embeddings():
            assert torch.equal(weight[:first], original[:first])
    used = [i for row in batch(model, "t2m", "m2t", "denoise", "lm")["input_ids"].tolist() for i in row if i >= first]
    rows = network.get_input_embeddings().weight.detach()
    unmoved = [i for i in set(used) if torch.equal(rows[i], start[i])]
    assert not unmoved, model.tokenizer.convert_ids_to_tokens(unmoved)


@pytest.mark.parametrize("kind", ["llama", "llama_untied"])
def test_new_rows_train_after_unsloths_gpu_preparation(tiny_base, kind):
    from unsloth_zoo.training_utils import prepare_model_for_training

    model = tiny_model(tiny_base(kind))
    prepare_model_for_training(model.network, use_gradient_checkpointing=False)
    rows = {name: p for name, p in model.network.named_parameters() if "trainable_tokens_delta" in name}
    assert rows and not any(p.requires_grad for p in rows.values())  # what Unsloth does, and why build calls unfreeze
    unfreeze(model.network)
    before = {name: p.detach().clone() for name, p in rows.items()}
    trained(model)
    assert all(not torch.equal(p, before[name]) for name, p in rows.items())


def mean_nll(model) -> tuple[float, int]:
    total, count = sum_nll(model, ROWS, "t2m", 2)
    return total / count, count


@pytest.mark.parametrize("kind", KINDS)
def test_motion_loss_is_the_softmax_over_codes_and_end_of_the_whole_model(tiny_base, kind):
    """Against the base's own forward, with its soft-capping and scaling, on the merged model."""
    model = trained(tiny_model(tiny_base(kind)))
    scaling = {"gemma2": "final_logit_softcapping", "granite": "logits_scaling", "cohere": "logit_scale"}
    assert kind not in scaling or getattr(model.network.config, scaling[kind]) not in (None, 1.0)
    inputs = batch(model, "t2m")
    ours = model.answer_nll(**inputs).detach()
    rows_nll, count = mean_nll(model)
    vocabulary, labels = model.vocabulary, inputs.pop("labels")
    logits = model.merged()(**inputs).logits.detach()[:, :-1].float()
    loss_mask = labels[:, 1:] != collators.IGNORED
    answers = logits[loss_mask][:, vocabulary.first_motion_id:vocabulary.end_id + 1]
    codes = labels[:, 1:][loss_mask] - vocabulary.first_motion_id
    expected = functional.cross_entropy(answers, codes, reduction="none")
    torch.testing.assert_close(ours, expected, atol=2e-4, rtol=2e-4)
    assert rows_nll == pytest.approx(expected.mean().item(), abs=2e-4)
    assert count == sum(len(row["codes"]) + 1 for row in ROWS)


@pytest.mark.parametrize("kind", ["llama", "llama_untied", "gemma2"])
def test_text_loss_is_the_softmax_over_the_whole_vocabulary(tiny_base, kind):
    model = trained(tiny_model(tiny_base(kind)))
    inputs = batch(model, "m2t")
    ours = model.answer_nll(**inputs).detach()
    labels = inputs.pop("labels")
    logits = model.merged()(**inputs).logits.detach()[:, :-1].float()
    loss_mask = labels[:, 1:] != collators.IGNORED
    expected = functional.cross_entropy(logits[loss_mask], labels[:, 1:][loss_mask], reduction="none")
    torch.testing.assert_close(ours, expected, atol=2e-4, rtol=2e-4)


def test_a_mixed_batch_has_the_losses_of_its_parts(tiny_base):
    model = tiny_model(tiny_base())
    mixed = model.answer_nll(**batch(model, "t2m", "m2t")).detach()
    parts = [model.answer_nll(**batch(model, task)).detach() for task in ("t2m", "m2t")]
    torch.testing.assert_close(mixed, torch.cat(parts), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["llama", "llama_untied", "qwen3", "gemma3"])
def test_a_moved_folder_reloads_to_the_same_values(tiny_base, kind, tmp_path):
    model = trained(tiny_model(tiny_base(kind)))
    expected = model.answer_nll(**batch(model, "t2m", "m2t")).detach()
    model.save(tmp_path / "stage", EXTRA)
    shutil.move(tmp_path / "stage", tmp_path / "elsewhere")
    reloaded = load(tmp_path / "elsewhere")
    torch.testing.assert_close(reloaded.answer_nll(**batch(reloaded, "t2m", "m2t")).detach(), expected, atol=0, rtol=0)
    state = reloaded.trainable_state()
    assert state.keys() == model.trainable_state().keys()
    assert all(torch.equal(value, state[name]) for name, value in model.trainable_state().items())


def test_a_folder_grows_with_the_new_rows_not_with_the_vocabulary(tiny_base, tmp_path):
    from safetensors import safe_open

    model = tiny_model(tiny_base("llama_padded"))
    model.save(tmp_path / "stage", EXTRA)
    with safe_open(tmp_path / "stage" / model_module.ADAPTER_WEIGHTS, framework="pt") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    rows = {name: shape for name, shape in shapes.items() if "lora" not in name}
    assert [shape[0] for shape in rows.values()] == [len(model.vocabulary)]
    assert not list((tmp_path / "stage").glob("*.bin")) and not (tmp_path / "stage" / "model.safetensors").exists()


def test_merged_is_equal_within_rounding(tiny_base):
    model = trained(tiny_model(tiny_base()))
    before = model.answer_nll(**batch(model, "t2m")).detach()
    model.merged()
    torch.testing.assert_close(model.answer_nll(**batch(model, "t2m")).detach(), before, atol=1e-4, rtol=1e-4)


def test_a_local_base_needs_no_network(tiny_base, monkeypatch):
    def fail(*args, **kwargs):
        raise AssertionError(f"a connection was tried: {args}")

    monkeypatch.setattr(socket.socket, "connect", fail)
    monkeypatch.setattr(socket, "getaddrinfo", fail)
    tiny_model(tiny_base())


def test_a_missing_folder_is_refused_with_the_names_of_its_models(tiny_base, tmp_path):
    tiny_model(tiny_base()).save(tmp_path / "stage2_multitask", EXTRA)
    with pytest.raises(ModelError, match="does not exist.*stage2_multitask"):
        load(tmp_path / "stage3_t2m_sft")
    with pytest.raises(ModelError, match="no motion_config.json.*stage2_multitask"):
        load(tmp_path)


@pytest.mark.parametrize(("name", "message"), [
    ("no-such-model", "neither 'smollm2-135m', nor an existing folder, nor a hub id"),
    ("./nowhere/at-all", "nor an existing folder"),
])
def test_a_wrong_base_is_refused_by_name(unsloth, name, message):
    with pytest.raises(ModelError, match=message):
        tiny_model(name)


def test_a_folder_without_a_model_is_refused(unsloth, tmp_path):
    with pytest.raises(ModelError, match="without config.json"):
        tiny_model(str(tmp_path))


def test_a_base_that_knows_our_tokens_is_refused(tiny_base):
    model = tiny_model(tiny_base())
    with pytest.raises(ModelError, match="knows '<motion_0>' already"):
        model_module.add_motion_tokens(model.tokenizer, 8, [])


def test_more_positions_than_the_base_has_are_refused(tiny_base):
    with pytest.raises(ModelError, match="MAX_SEQ_LEN is 100000.*512 positions"):
        build(ModelConfig(tiny_base(), 100000, 4, 8, "float32"), 8, [])


def test_a_base_without_the_projections_is_refused(unsloth, tmp_path):
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = tiny_tokenizer("bare")
    config = GPT2Config(vocab_size=len(tokenizer), n_positions=256, n_embd=32, n_layer=1, n_head=2)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="no q_proj.*Llama-, Qwen- or Gemma-like"):
        tiny_model(str(tmp_path))


def _save_with_little_space(model, folder, path) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
    try:
        model.save(folder, EXTRA)
    except OSError as error:
        path.write_text(str(error))


def test_a_full_disk_names_the_folder_and_leaves_nothing_there(tiny_base, tmp_path):
    """A limit on the size of a file fails as a full disk does."""
    model = tiny_model(tiny_base())
    child = multiprocessing.get_context("fork").Process(
        target=_save_with_little_space, args=(model, tmp_path / "stage", tmp_path / "said.txt"))
    child.start()
    child.join(60)
    assert (tmp_path / "said.txt").read_text().startswith(f"{tmp_path / 'stage'}: ")
    assert [path.name for path in tmp_path.iterdir()] == ["said.txt"]


# Four bits


def test_four_bits_without_bitsandbytes_are_refused(tiny_base, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "bitsandbytes" else find(name))
    with pytest.raises(ModelError, match="LOAD_IN_4BIT is True, but the package bitsandbytes is not installed"):
        build(ModelConfig(tiny_base(), 128, 4, 8, "float32", load_in_4bit=True), 8, [])


def test_four_bits_that_silently_became_sixteen_are_refused(tiny_base, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if name == "bitsandbytes" else find(name))
    monkeypatch.setattr("unsloth_zoo.cpu.loader.cpu_bnb_4bit_supported", lambda: False)
    with pytest.raises(ModelError, match="LOAD_IN_4BIT is True, but bitsandbytes cannot do it on this machine"):
        build(ModelConfig(tiny_base(), 128, 4, 8, "float32", load_in_4bit=True), 8, [])


def test_a_model_in_four_bits_trains_and_keeps_what_it_learned_when_merged(tiny_base, tmp_path):
    pytest.importorskip("bitsandbytes")
    model = build(ModelConfig(tiny_base(), 128, 4, 8, "float32", load_in_4bit=True), 8, ["P0", "P1"])
    untrained = mean_nll(model)[0]
    trained(model, steps=8)
    nll = mean_nll(model)[0]
    assert nll < untrained
    model.save(tmp_path / "saved", EXTRA)
    reloaded = load(tmp_path / "saved")
    assert mean_nll(reloaded)[0] == pytest.approx(nll, abs=1e-5)
    reloaded.merged()
    assert mean_nll(reloaded)[0] == pytest.approx(nll, abs=0.01)
