"""merged.py, known_bases.py, folder_tokenizer.py: bit by bit what the usual loading gives, or that loading itself."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import model as model_module
from model import MergedModel, ModelConfig, ModelError, build, load, load_for_decoding
from motion_llm.network import cached, cached_layers
from motion_llm.network.cached import CachedNetwork, decoding_network

SETTINGS = {"MAX_SEQ_LEN": 128, "EVAL_BATCH": 4, "DATA_JSON_PATH": "x.json"}
EXTRA = {"stage": "test", "tasks": ["t2m"], "settings": SETTINGS, "history": {}, "length_model": {
    "captions": {}, "overall": "1 2 2 2", "spread": 0.1, "participants": {}, "codes": {},
    "regression": {"mean": 0.0, "deviation": 1.0, "weights": ""}}}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 32}
# name -> kind of base in conftest.py, changes to its config.json
BASES = {kind: (kind, {}) for kind in ("llama", "llama_untied", "llama_padded", "llama_biased", "mistral", "qwen2",
                                       "qwen3", "gemma2", "gemma3", "granite", "cohere")} | {
    "llama with scaled positions": ("llama", {"rope_parameters": LLAMA3 | {"rope_theta": 500.0}}),
    "llama with linear positions": ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 99.0,
                                                                  "factor": 3.0}}),
    "llama of an older version": ("llama", {"rope_parameters": None, "rope_theta": 700.0, "rope_scaling": LLAMA3,
                                            "head_dim": None}),
    "qwen3 with a window": ("qwen3", {"use_sliding_window": True, "sliding_window": 6,
                                      "layer_types": ["sliding_attention", "full_attention"]}),
    "qwen2 with a window that is not used": ("qwen2", {"use_sliding_window": False, "sliding_window": 6,
                                                       "layer_types": None}),
    "gemma2 with a window": ("gemma2", {"sliding_window": 6, "query_pre_attn_scalar": 20}),
    "gemma3 with a window": ("gemma3", {"sliding_window": 6, "layer_types": ["sliding_attention", "full_attention"]}),
    "granite with other factors": ("granite", {"residual_multiplier": 0.5, "attention_multiplier": 0.2}),
}


@pytest.fixture(scope="module")
def base_folder(tiny_base, tmp_path_factory):
    """name of BASES -> folder of that base, in which norms and biases have an effect."""
    def make(name: str):
        kind, changes = BASES[name]
        folder = tmp_path_factory.mktemp("base") / "base"
        shutil.copytree(tiny_base(kind), folder)
        weights = load_file(folder / "model.safetensors")
        generator = torch.Generator().manual_seed(0)
        weights = {key: tensor + 0.3 * torch.randn(tensor.shape, generator=generator) if tensor.dim() == 1 else
                   tensor * 3 for key, tensor in weights.items()}
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
        edit_config(folder, **changes)
        return folder

    return make


def edit_config(folder, **changes) -> None:
    """Change settings of config.json; None removes one."""
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({name: value for name, value in config.items()
                                if value is not None or name not in changes}))


def save_trained(base, folder, dtype: str = "float32") -> None:
    """A stage's folder with random trained values."""
    model = build(ModelConfig(str(base), 128, 4, 8, dtype), codebook=8, participants=["P0", "P1"])
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.network.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.1)
    model.save(folder, EXTRA)


@pytest.fixture(scope="module")
def stage(base_folder, tmp_path_factory):
    """A stage's folder on the base "llama", and its base's folder; not to be changed."""
    base, folder = base_folder("llama"), tmp_path_factory.mktemp("stage") / "stage"
    save_trained(base, folder)
    return folder, base


def parts(value, path="") -> dict:
    """All tensors and numbers inside a CachedNetwork, by their place; functions by their effect."""
    if isinstance(value, torch.Tensor | int | float | str | None):
        return {path: value}
    if isinstance(value, dict):
        return {key: part for name, item in value.items() for key, part in parts(item, f"{path}.{name}").items()}
    if isinstance(value, list | tuple):
        return parts(dict(enumerate(value)), path)
    if path.endswith("activation"):
        return {path: value(torch.linspace(-3, 3, 50))}
    if path.endswith("embed"):
        return {path: value(torch.arange(len(value.weight)))}
    return parts(vars(value), path) if type(value).__module__ in (cached.__name__, cached_layers.__name__) else {}


def assert_equal(ours: dict, theirs: dict) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        if isinstance(value, torch.Tensor):
            assert value.dtype == theirs[name].dtype and torch.equal(value, theirs[name]), name
        else:
            assert value == theirs[name], name


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", BASES)
def test_all_values_and_hidden_states_are_those_of_the_usual_loading(base_folder, tmp_path, monkeypatch, name, dtype):
    monkeypatch.setattr(cached_layers, "packs", lambda _: False)  # packed weights cannot be compared
    save_trained(base_folder(name), tmp_path / "stage", dtype)
    ours, theirs = load_for_decoding(tmp_path / "stage"), load(tmp_path / "stage")
    assert isinstance(ours, MergedModel)
    network = theirs.merged()
    with torch.no_grad():
        assert torch.equal(ours.merged().get_output_embeddings().weight, network.get_output_embeddings().weight)
    scaled = [model_module.scale_logits(part.config, torch.linspace(-60, 60, 50)) for part in (network, ours.merged())]
    assert torch.equal(*scaled)
    fast, usual = decoding_network(ours.merged(), 64), decoding_network(network, 64)
    assert isinstance(usual, CachedNetwork)
    usual.cache = None
    with torch.no_grad():
        assert_equal(parts(fast), parts(usual))
    assert {".layers.1.down.weight", ".layers.0.query_key_value.weight", ".norm.weight", ".embed"} <= parts(fast).keys()
    ids, start = torch.arange(24)[None], torch.zeros(1, dtype=torch.long)
    hidden = []
    for part in (fast, usual):
        part.reserve(1, 24)
        hidden.append(part(ids, start))
    assert torch.equal(*hidden)


@pytest.mark.parametrize("kind", ["llama", "llama_untied", "qwen3", "gemma2"])  # tokenizers chatml, bare, qwen, gemma
def test_the_tokenizer_is_that_of_transformers(base_folder, tmp_path, kind):
    save_trained(base_folder(kind), tmp_path / "stage")
    ours, theirs = load_for_decoding(tmp_path / "stage"), load(tmp_path / "stage")
    assert (ours.vocabulary, ours.template.markers) == (theirs.vocabulary, theirs.template.markers)
    assert len(ours.tokenizer) == len(theirs.tokenizer)
    assert ours.tokenizer.get_added_vocab() == theirs.tokenizer.get_added_vocab()
    assert {i: str(token) for i, token in ours.tokenizer.added_tokens_decoder.items()} == {
        i: str(token) for i, token in theirs.tokenizer.added_tokens_decoder.items()}
    assert ours.tokenizer("a")["input_ids"] == theirs.tokenizer("a")["input_ids"]
    for text in ("a person walks  forward, naïve 💃", "<motion_3> <|im_end|><eos>\n", " , . ' s"):
        ids = ours.tokenizer.encode(text, add_special_tokens=False)
        assert ids == theirs.tokenizer.encode(text, add_special_tokens=False)
        assert ours.tokenizer.decode(ids) == theirs.tokenizer.decode(ids)
        assert ours.template.encode_text(text) == theirs.template.encode_text(text)
    example = dict(text="a person walks", codes=[1, 2], participant_id="P1")
    assert ours.template.render("m2t", **example) == theirs.template.render("m2t", **example)


def test_tokens_without_a_row_in_the_base_get_one(base_folder, tmp_path):
    """As in Gemma 3, whose tokenizer has a token more than its base has rows; that token is never used."""
    base = base_folder("llama")
    weights = load_file(base / "model.safetensors")
    rows = len(weights["model.embed_tokens.weight"]) - 1
    weights["model.embed_tokens.weight"] = weights["model.embed_tokens.weight"][:rows].clone()
    save_file(weights, base / "model.safetensors", {"format": "pt"})
    edit_config(base, vocab_size=rows)
    save_trained(base, tmp_path / "stage")
    ours, theirs = (way(tmp_path / "stage").merged().get_output_embeddings().weight.detach()
                    for way in (load_for_decoding, load))
    assert ours.shape == theirs.shape
    differing = (ours != theirs).any(dim=1)
    differing[rows] = False
    assert not differing.any()


# What is not known goes the usual way


@pytest.fixture
def loaded_as_usual(monkeypatch):
    """The folders that were given to `load`, which does nothing."""
    folders = []
    monkeypatch.setattr(model_module, "load", lambda folder, device: folders.append(folder))
    return folders


@pytest.mark.parametrize(("changes", "reason"), [
    ({"model_type": "llama4"}, "a base of the type 'llama4'"),
    ({"quantization_config": {"bits": 4}}, "the setting 'quantization_config'"),
    ({"hidden_act": "relu"}, "activation 'relu'"),
    ({"rms_norm_eps": None}, "does not say rms_norm_eps"),
    ({"num_hidden_layers": 1}, "other tensors, such as model.layers.1.input_layernorm.weight"),
    ({"intermediate_size": 48}, "other tensors, such as model.layers.0.mlp.down_proj.weight"),
    ({"attention_bias": True}, "other tensors, such as model.layers.0.self_attn.k_proj.bias"),
    ({"tie_word_embeddings": False}, "other tensors, such as lm_head.weight"),
    ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0}}, "of the type 'yarn'"),
    ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}}, "partial_rotary"),
    ({"max_position_embeddings": 64}, "fewer positions than 128"),
])
def test_an_unknown_setting_of_a_base_is_left_to_the_usual_loading(stage, loaded_as_usual, tmp_path, caplog, changes,
                                                                  reason):
    folder = moved_to_a_copy_of_its_base(*stage, tmp_path)
    edit_config(tmp_path / "base", **changes)
    with caplog.at_level("INFO"):
        load_for_decoding(folder)
    assert loaded_as_usual == [folder] and reason in caplog.text


def moved_to_a_copy_of_its_base(stage, base, tmp_path):
    """A copy of a stage's folder whose base is a copy as well."""
    shutil.copytree(stage, tmp_path / "stage")
    shutil.copytree(base, tmp_path / "base")
    path = tmp_path / "stage" / "motion_config.json"
    content = json.loads(path.read_text())
    content["model"]["model_name"] = str(tmp_path / "base")
    path.write_text(json.dumps(content))
    return tmp_path / "stage"


def test_weights_in_another_format_and_other_tokens_are_left_to_the_usual_loading(stage, loaded_as_usual, tmp_path,
                                                                                  caplog):
    folder = moved_to_a_copy_of_its_base(*stage, tmp_path)
    shutil.move(tmp_path / "base" / "model.safetensors", tmp_path / "base" / "model.bin")
    with caplog.at_level("INFO"):
        load_for_decoding(folder)
        shutil.move(tmp_path / "base" / "model.bin", tmp_path / "base" / "model.safetensors")
        edit_tokenizer(tmp_path / "base", lambda state: state["added_tokens"].append(
            state["added_tokens"][0] | {"id": 10_000, "content": "<one more>"}))
        load_for_decoding(folder)
    assert len(loaded_as_usual) == 2
    assert "model.safetensors" in caplog.text and "tokens in the base, where new ones start at" in caplog.text


def edit_tokenizer(folder, change) -> None:
    path = folder / "tokenizer.json"
    state = json.loads(path.read_text())
    change(state)
    path.write_text(json.dumps(state))


def test_a_template_with_a_tag_of_transformers_is_left_to_the_usual_loading(stage, loaded_as_usual, tmp_path, caplog):
    folder = moved_to_a_copy_of_its_base(*stage, tmp_path)
    without_digests(folder)
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text() + "{%- generation %}{% endgeneration %}")
    with caplog.at_level("INFO"):
        load_for_decoding(folder)
    assert len(loaded_as_usual) == 1 and "its chat template is of an unknown kind" in caplog.text


def test_a_gpu_and_four_bits_are_left_to_the_usual_loading(stage, loaded_as_usual, monkeypatch, tmp_path):
    folder, _ = stage
    load_for_decoding(folder, "cuda")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.delenv("UNSLOTH_FORCE_CPU", raising=False)
    load_for_decoding(folder)
    assert len(loaded_as_usual) == 2
    assert isinstance(load_for_decoding(folder, "cpu"), MergedModel)
    path = moved_to_a_copy_of_its_base(*stage, tmp_path) / "motion_config.json"
    path.write_text(path.read_text().replace('"load_in_4bit": false', '"load_in_4bit": true'))
    load_for_decoding(path.parent, "cpu")
    assert len(loaded_as_usual) == 3


# Refusals


def test_a_damaged_file_is_refused_by_its_digest(stage, tmp_path):
    folder = moved_to_a_copy_of_its_base(*stage, tmp_path)
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    with pytest.raises(ModelError, match="adapter_model.safetensors is not the file that was saved"):
        load_for_decoding(folder)


def without_digests(folder) -> None:
    path = folder / "motion_config.json"
    content = json.loads(path.read_text())
    del content["files"]
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("place", ["stage/adapter_model.safetensors", "base/model.safetensors"])
def test_broken_weights_are_named(stage, tmp_path, place):
    without_digests(moved_to_a_copy_of_its_base(*stage, tmp_path))
    (tmp_path / place).write_bytes((tmp_path / place).read_bytes()[:-20])
    with pytest.raises(ModelError, match=f"the weights in .*{place} are broken"):
        load_for_decoding(tmp_path / "stage")


def test_trained_values_of_another_model_are_refused(stage, tmp_path):
    folder = moved_to_a_copy_of_its_base(*stage, tmp_path)
    without_digests(folder)
    path = folder / "adapter_model.safetensors"
    values = load_file(path)
    name = sorted(values)[-1]
    save_file({key: value for key, value in values.items() if key != name}, path)
    with pytest.raises(ModelError, match="holds 28 tensors, of which 0 have no place in the model; expected 29"):
        load_for_decoding(folder)
    save_file(values | {name: values[name][:, :3].clone()}, path)
    with pytest.raises(ModelError, match=r"is \(\d+, 3\), expected \(\d+, 4\): it is damaged, or of another model"):
        load_for_decoding(folder)


def damaged(values: dict, name: str, how: str) -> dict:
    """The trained values with one of them changed."""
    change = {"NaN": lambda tensor: tensor.index_fill(0, torch.tensor([0]), float("nan")),
              "infinite": lambda tensor: tensor.index_fill(0, torch.tensor([1]), float("-inf")),
              "rank": lambda tensor: tensor[:2] if "lora_A" in name else tensor[:, :2],
              "integers": lambda tensor: tensor.to(torch.int32),
              "float64": lambda tensor: tensor.double()}[how]
    return values | {name: change(values[name]).contiguous()}


@pytest.mark.parametrize("loading", [load, load_for_decoding])
@pytest.mark.parametrize(("how", "message"), [
    ("NaN", r"values of \S+ are NaN or infinite, expected finite numbers"),
    ("infinite", r"values of \S+ are NaN or infinite, expected finite numbers"),
    ("rank", r"is \(\d+, \d+\), expected \(\d+, \d+\)"),
    ("integers", r"is I32, expected F32 or BF16 or F16"),
    ("float64", r"is F64, expected F32 or BF16 or F16")])
@pytest.mark.parametrize("part", ["lora_A", "lora_B", "trainable_tokens_delta"])
def test_damaged_trained_values_of_an_older_folder_are_named(stage, tmp_path, loading, how, message, part):
    folder = moved_to_a_copy_of_its_base(*stage, tmp_path)
    without_digests(folder)
    path = folder / "adapter_model.safetensors"
    values = load_file(path)
    save_file(damaged(values, next(name for name in sorted(values) if part in name), how), path)
    with pytest.raises(ModelError, match=f"adapter_model.safetensors: .*{message}"):
        loading(folder)


def test_an_older_folder_in_half_precision_loads_with_one_line(stage, tmp_path, caplog):
    folder = moved_to_a_copy_of_its_base(*stage, tmp_path)
    without_digests(folder)
    path = folder / "adapter_model.safetensors"
    save_file({name: value.bfloat16() for name, value in load_file(path).items()}, path)
    with caplog.at_level("INFO"):
        for loading in (load_for_decoding, load, load_for_decoding):
            loading(folder)
    assert caplog.text.count("was saved before folders kept digests of their files") == 1


def test_a_tokenizer_of_an_older_folder_that_cannot_be_read_is_named(stage, tmp_path):
    folder = moved_to_a_copy_of_its_base(*stage, tmp_path)
    without_digests(folder)
    edit_tokenizer(folder, lambda state: state["model"].update(merges=[["a"]]))
    with pytest.raises(ModelError, match="stage/tokenizer.json is broken"):
        load_for_decoding(folder)


@pytest.mark.parametrize("change", [lambda state: state.update(model=None), lambda state: state.pop("added_tokens"),
                                    lambda state: state["model"].update(vocab=[7])])
def test_a_tokenizer_of_a_base_that_cannot_be_counted_is_named(stage, tmp_path, change):
    folder = moved_to_a_copy_of_its_base(*stage, tmp_path)
    edit_tokenizer(tmp_path / "base", change)
    with pytest.raises(ModelError, match="base/tokenizer.json"):
        load_for_decoding(folder)


def test_another_bases_vocabulary_is_refused(stage, base_folder, tmp_path):
    folder = moved_to_a_copy_of_its_base(*stage, tmp_path)
    shutil.rmtree(tmp_path / "base")
    shutil.copytree(base_folder("llama_untied"), tmp_path / "base")
    with pytest.raises(ModelError, match="was trained on a base whose new tokens start at id"):
        load_for_decoding(folder)
