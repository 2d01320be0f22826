"""templates.py: every task in the families of bases, token by token; ids of new tokens; captions are plain text."""

import json
import re

import numpy as np
import pytest
from tiny import CHATML as CHATML_TEMPLATE
from tiny import LLAMA as LLAMA_TEMPLATE
from tiny import REPLY as REPLY_TEMPLATE
from tiny import SYSTEM_PROMPT, tiny_tokenizer

import model
from motion_llm.streams import MASKED, Streams
from templates import (
    MotionTemplate,
    MotionVocabulary,
    PlainTextEncoder,
    new_tokens,
    turn_markers,
)

KINDS = ["chatml", "qwen", "gemma", "llama3", "llama32", "bare"]
TEXT, CODES, NOISY = "a person walks forward", [2, 0, 3], [MASKED, 0, 1]
MOTION = "<motion_2> <motion_0> <motion_3> <MOT_END>"
CHATML = {
    "t2m": ("<|im_start|> user Ċ <T2M> <PID_ana> a Ġperson Ġwalks Ġforward"
            " <|im_end|> Ċ <|im_start|> assistant Ċ <MOT_BEGIN>", MOTION),
    "m2t": ("<|im_start|> user Ċ <M2T> <PID_ana> <MOT_BEGIN> <motion_2> <motion_0> <motion_3> <MOT_END>"
            " <|im_end|> Ċ <|im_start|> assistant Ċ", "a Ġperson Ġwalks Ġforward <|im_end|>"),
    "denoise": ("<|im_start|> user Ċ <DENOISE> <PID_ana> <MOT_BEGIN> <MOTION_MASK> <motion_0> <motion_1> <MOT_END>"
                " <|im_end|> Ċ <|im_start|> assistant Ċ <MOT_BEGIN>", MOTION),
    "lm": ("<|im_start|> user Ċ <MOTION_LM> <PID_ana> <|im_end|> Ċ <|im_start|> assistant Ċ <MOT_BEGIN>", MOTION),
}
HEADER = "<|start_header_id|> %s <|end_header_id|> Ċ Ċ"
QUESTION, REPLY = f"<|begin_of_text|> {HEADER % 'user'}", f"<|eot_id|> {HEADER % 'assistant'}"
LLAMA = {
    "t2m": (f"{QUESTION} <T2M> <PID_ana> a Ġperson Ġwalks Ġforward {REPLY} <MOT_BEGIN>", MOTION),
    "m2t": (f"{QUESTION} <M2T> <PID_ana> <MOT_BEGIN> <motion_2> <motion_0> <motion_3> <MOT_END> {REPLY}",
            "a Ġperson Ġwalks Ġforward <|eot_id|>"),
    "denoise": (f"{QUESTION} <DENOISE> <PID_ana> <MOT_BEGIN> <MOTION_MASK> <motion_0> <motion_1> <MOT_END> {REPLY}"
                " <MOT_BEGIN>", MOTION),
    "lm": (f"{QUESTION} <MOTION_LM> <PID_ana> {REPLY} <MOT_BEGIN>", MOTION),
}
RENDERED = {  # kind -> task -> (prompt, answer)
    "chatml": CHATML,
    "qwen": CHATML,
    "llama3": LLAMA,
    "llama32": LLAMA,
    "gemma": {
        "t2m": ("<bos> <start_of_turn> user Ċ <T2M> <PID_ana> a Ġperson Ġwalks Ġforward"
                " <end_of_turn> Ċ <start_of_turn> model Ċ <MOT_BEGIN>", MOTION),
        "m2t": ("<bos> <start_of_turn> user Ċ <M2T> <PID_ana>"
                " <MOT_BEGIN> <motion_2> <motion_0> <motion_3> <MOT_END>"
                " <end_of_turn> Ċ <start_of_turn> model Ċ", "a Ġperson Ġwalks Ġforward <end_of_turn>"),
        "denoise": ("<bos> <start_of_turn> user Ċ <DENOISE> <PID_ana>"
                    " <MOT_BEGIN> <MOTION_MASK> <motion_0> <motion_1> <MOT_END>"
                    " <end_of_turn> Ċ <start_of_turn> model Ċ <MOT_BEGIN>", MOTION),
        "lm": ("<bos> <start_of_turn> user Ċ <MOTION_LM> <PID_ana>"
               " <end_of_turn> Ċ <start_of_turn> model Ċ <MOT_BEGIN>", MOTION),
    },
    "bare": {
        "t2m": ("<s> <T2M> <PID_ana> a Ġperson Ġwalks Ġforward Ċ <MOT_BEGIN>", MOTION),
        "m2t": ("<s> <M2T> <PID_ana> <MOT_BEGIN> <motion_2> <motion_0> <motion_3> <MOT_END> Ċ",
                "a Ġperson Ġwalks Ġforward </s>"),
        "denoise": ("<s> <DENOISE> <PID_ana> <MOT_BEGIN> <MOTION_MASK> <motion_0> <motion_1> <MOT_END> Ċ <MOT_BEGIN>",
                    MOTION),
        "lm": ("<s> <MOTION_LM> <PID_ana> Ċ <MOT_BEGIN>", MOTION),
    },
}


def template_of(tokenizer) -> MotionTemplate:
    return MotionTemplate(tokenizer, model.add_motion_tokens(tokenizer, 4, ["ana", "bo"]))


@pytest.fixture(scope="module")
def templates():
    """kind -> (tokenizer with motion tokens, template), each built once."""
    pairs = {}
    for kind in KINDS:
        tokenizer = tiny_tokenizer(kind)
        pairs[kind] = tokenizer, template_of(tokenizer)
    return pairs


def render(template, task, **changes):
    text = None if task == "denoise" else TEXT
    return template.render(task, **dict(text=text, codes=CODES, noisy=NOISY, participant_id="ana") | changes)


# Rendered examples


@pytest.mark.parametrize("kind", KINDS)
def test_an_edit_is_denoising_with_the_caption_before_the_motion(templates, kind):
    tokenizer, template = templates[kind]
    without, edit = render(template, "denoise"), render(template, "denoise", text=TEXT)
    caption = template.encode_text(TEXT)
    at = without.ids.index(template.vocabulary.begin_id)
    assert edit.ids == [*without.ids[:at], *caption, *without.ids[at:]]
    assert edit.loss_mask == [*without.loss_mask[:at], *[False] * len(caption), *without.loss_mask[at:]]
    assert len(edit.ids) == template.length("edit", len(caption), len(CODES))
    assert render(template, "denoise", text=TEXT, answer=False).ids == edit.ids[:-len(CODES) - 1]


@pytest.mark.parametrize("kind", KINDS)
def test_text_to_motion_goes_on_from_codes_that_have_no_loss(templates, kind):
    _, template = templates[kind]
    alone, behind = render(template, "t2m"), render(template, "t2m", before=[3, 1])
    at = alone.ids.index(template.vocabulary.begin_id) + 1
    assert behind.ids == [*alone.ids[:at], *template.vocabulary.code_ids([3, 1]), *alone.ids[at:]]
    assert sum(behind.loss_mask) == sum(alone.loss_mask) == len(CODES) + 1
    with pytest.raises(ValueError, match="code 9"):
        render(template, "t2m", before=[9])


@pytest.mark.parametrize("task", ["t2m", "m2t", "denoise", "lm"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_task_token_by_token_with_the_loss_on_the_answer_and_its_end_alone(templates, kind, task):
    tokenizer, template = templates[kind]
    prompt, answer = (side.split() for side in RENDERED[kind][task])
    example = render(template, task)
    assert tokenizer.convert_ids_to_tokens(example.ids) == prompt + answer
    assert example.ids == tokenizer.convert_tokens_to_ids(prompt + answer)
    assert example.loss_mask == [False] * len(prompt) + [True] * len(answer)


@pytest.mark.parametrize("task", ["t2m", "m2t", "denoise", "lm"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_prompt_of_decoding_is_the_training_examples_beginning(templates, kind, task):
    tokenizer, template = templates[kind]
    example = render(template, task)
    hidden = {"text": None} if task == "m2t" else {"codes": None}  # the answer is not known when decoding
    prompt = render(template, task, answer=False, **hidden)
    assert tokenizer.convert_ids_to_tokens(prompt.ids) == RENDERED[kind][task][0].split()
    assert prompt.ids == example.ids[:example.loss_mask.index(True)]
    assert prompt.loss_mask == [False] * len(prompt.ids)


def test_the_default_system_prompt_of_a_base_is_left_out(templates):
    tokenizer, template = templates["chatml"]
    assert SYSTEM_PROMPT in tokenizer.apply_chat_template([{"role": "user", "content": TEXT}], tokenize=False)
    assert tokenizer.convert_tokens_to_ids("system") not in render(template, "t2m").ids
    assert template.markers.user == tuple(tokenizer.convert_tokens_to_ids(["<|im_start|>", "user", "Ċ"]))


def test_the_empty_thought_of_a_last_reply_is_left_out(templates):
    tokenizer, template = templates["qwen"]
    turns = [{"role": "user", "content": TEXT}, {"role": "assistant", "content": TEXT}]
    assert "<think>" in tokenizer.apply_chat_template(turns, tokenize=False)
    thought = tokenizer.convert_tokens_to_ids("<think>")
    assert all(thought not in render(template, task).ids for task in ("t2m", "m2t", "denoise", "lm"))


def test_a_base_that_adds_no_bos_and_has_no_chat_template_gets_none():
    from tokenizers import processors

    tokenizer = tiny_tokenizer("bare")
    tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokens = tokenizer.convert_ids_to_tokens(render(template_of(tokenizer), "t2m", answer=False).ids)
    assert tokens == "<T2M> <PID_ana> a Ġperson Ġwalks Ġforward Ċ <MOT_BEGIN>".split()


@pytest.mark.parametrize("template, problem", [
    (LLAMA_TEMPLATE % ("{{ '<|start_header_id|>system<|end_header_id|>\n\nx<|eot_id|>' }}", REPLY_TEMPLATE),
     "and of its markers '<|eot_id|><|start_header_id|>user"),  # what closes the system's turn may open the user's
    ("{% for message in messages %}{{ loop.index ~ message['content'] }}{% endfor %}",
     "of its markers '3', '2' and ''"),
])
def test_a_chat_template_that_cannot_be_taken_apart_is_refused(template, problem):
    tokenizer = tiny_tokenizer("llama3")
    tokenizer.chat_template = template
    with pytest.raises(ValueError, match=f"^the chat template .* cannot be taken apart: .*{re.escape(problem)}"):
        turn_markers(tokenizer)


@pytest.mark.parametrize("template", ["{% for message in %}", "{{ raise_exception('no users') }}"])
def test_a_chat_template_that_cannot_be_rendered_is_refused(template):
    tokenizer = tiny_tokenizer("llama3")
    tokenizer.chat_template = template
    with pytest.raises(ValueError, match="^the chat template of the base model cannot be rendered"):
        turn_markers(tokenizer)


def test_an_end_of_text_behind_the_last_reply_is_no_part_of_a_turn():
    tokenizer = tiny_tokenizer("chatml")
    whole = turn_markers(tokenizer)
    behind = "{% if not add_generation_prompt %}{{ '<|endoftext|>' }}{% endif %}"  # as Phi 3 has it
    tokenizer.chat_template = CHATML_TEMPLATE + behind
    assert turn_markers(tokenizer) == whole


def test_a_base_with_no_end_of_turn_and_no_end_of_text_is_refused():
    tokenizer = tiny_tokenizer("bare")
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="neither an end-of-turn nor an end-of-text token: change MODEL_NAME"):
        turn_markers(tokenizer)


def test_without_a_participant_the_null_participant_is_named(templates):
    tokenizer, template = templates["chatml"]
    example = render(template, "lm", participant_id=None)
    assert tokenizer.convert_ids_to_tokens(example.ids)[3:5] == ["<MOTION_LM>", "<PID_NULL>"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_tokenizer_renders_the_same(templates, kind, tmp_path):
    from transformers import PreTrainedTokenizerFast

    tokenizer, template = templates[kind]
    tokenizer.save_pretrained(tmp_path)
    reloaded = MotionTemplate(PreTrainedTokenizerFast.from_pretrained(tmp_path), template.vocabulary)
    for task in ("t2m", "m2t", "denoise", "lm"):
        assert render(reloaded, task, text="a <think> <MOT_END>") == render(template, task, text="a <think> <MOT_END>")


# The ids of the new tokens


def test_the_new_tokens_in_order():
    assert new_tokens(Streams.one(2), ["ana", "bo"]) == [
        "<motion_0>", "<motion_1>", "<MOT_END>", "<MOT_BEGIN>", "<MOTION_MASK>",
        "<MOTION_LM>", "<T2M>", "<M2T>", "<DENOISE>", "<PID_NULL>", "<PID_ana>", "<PID_bo>"]


def test_ids_by_arithmetic():
    vocabulary = MotionVocabulary(1000, 128, ("ana", "bo"))
    assert vocabulary.code_ids([0, 1, 127, MASKED], masked=True) == [1000, 1001, 1127, 1130]
    assert (vocabulary.end_id, vocabulary.begin_id, vocabulary.mask_id) == (1128, 1129, 1130)
    assert [vocabulary.task_id(task) for task in ("lm", "t2m", "m2t", "denoise")] == [1131, 1132, 1133, 1134]
    assert [vocabulary.participant_token_id(p) for p in (None, "ana", "bo")] == [1135, 1136, 1137]
    assert vocabulary.new_ids == range(1000, 1138) and len(vocabulary) == 138


@pytest.mark.parametrize("kind", KINDS)
def test_the_arithmetic_gives_the_ids_that_the_tokenizer_gave(kind):
    tokenizer = tiny_tokenizer(kind)
    first_new_id = len(tokenizer)
    vocabulary = model.add_motion_tokens(tokenizer, 4, ["ana", "bo"])
    id_of = tokenizer.convert_tokens_to_ids
    assert vocabulary == MotionVocabulary(first_new_id, 4, ("ana", "bo"))
    assert id_of(new_tokens(Streams.one(4), ["ana", "bo"])) == list(vocabulary.new_ids)
    code_ids = id_of([*(f"<motion_{n}>" for n in range(4)), "<MOTION_MASK>"])
    assert vocabulary.code_ids([0, 1, 2, 3, MASKED], masked=True) == code_ids
    assert [vocabulary.begin_id, vocabulary.end_id] == id_of(["<MOT_BEGIN>", "<MOT_END>"])
    tasks = {"lm": "<MOTION_LM>", "t2m": "<T2M>", "m2t": "<M2T>", "denoise": "<DENOISE>"}
    assert [vocabulary.task_id(task) for task in tasks] == id_of(list(tasks.values()))
    assert [vocabulary.participant_token_id(p) for p in (None, "ana", "bo")] == id_of(
        ["<PID_NULL>", "<PID_ana>", "<PID_bo>"])


def test_a_masked_code_is_allowed_in_denoisings_prompt_alone():
    with pytest.raises(ValueError, match="code -1 at position 1"):
        MotionVocabulary(1000, 128).code_ids([5, MASKED])


def test_codes_of_an_array_become_plain_ints():
    ids = MotionVocabulary(1000, 128).code_ids(np.array([5, MASKED, 127], dtype=np.int32), masked=True)
    assert ids == [1005, 1130, 1127] and {type(n) for n in ids} == {int}


def test_the_layout_survives_json():
    vocabulary = MotionVocabulary(1000, 128, ("ana", "bo"))
    assert vocabulary.to_dict() == {"first_motion_id": 1000, "codebook_size": 128, "participants": ["ana", "bo"]}
    reloaded = MotionVocabulary.from_dict(json.loads(json.dumps(vocabulary.to_dict())))
    assert reloaded == vocabulary and hash(reloaded) == hash(vocabulary)


# Errors


@pytest.mark.parametrize("code", [4, -2, 999])
@pytest.mark.parametrize("task, side", [("t2m", "codes"), ("lm", "codes"), ("m2t", "codes"), ("denoise", "codes"),
                                        ("denoise", "noisy")])
def test_a_code_outside_the_codebook_is_refused(templates, task, side, code):
    with pytest.raises(ValueError, match=rf"^code {code} at position 1 is outside the codebook \(0 to 3\)$"):
        render(templates["chatml"][1], task, **{side: [0, code, 9]})


def test_an_unknown_task_is_refused(templates):
    with pytest.raises(ValueError, match="^task 'dance' is unknown; there are lm, t2m, m2t, denoise$"):
        render(templates["chatml"][1], "dance")


@pytest.mark.parametrize("name", ["cy", "NULL", "", "Ana"])
def test_an_unknown_participant_is_refused(templates, name):
    with pytest.raises(ValueError, match=f"^participant '{name}' is unknown; there are ana, bo$"):
        render(templates["chatml"][1], "t2m", participant_id=name)


def test_a_participant_is_refused_where_the_data_named_none():
    with pytest.raises(ValueError, match=r"'ana' is unknown; there are none \(the training data names no"):
        MotionVocabulary(1000, 4).participant_token_id("ana")


def test_a_participant_called_null_is_refused():
    with pytest.raises(ValueError, match="participant_id 'NULL' is reserved for clips without one: rename it"):
        new_tokens(Streams.one(4), ["ana", "NULL"])


# Captions are plain text


SPELLINGS = ["<MOT_END>", "<MOT_BEGIN>", "<motion_3>", "<MOTION_MASK>", "<T2M>", "<PID_ana>", "<|im_start|>",
             "<|im_end|>", "<start_of_turn>", "<end_of_turn>", "<think>", "</think>", "<bos>", "<pad>", "<s>", "</s>"]


@pytest.mark.parametrize("text", [*SPELLINGS, "a person" + "".join(SPELLINGS) + " walks"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_caption_that_spells_control_tokens_stays_characters(templates, kind, text):
    tokenizer, template = templates[kind]
    ids = template.encode_text(text)
    assert not set(ids) & (set(tokenizer.added_tokens_decoder) | set(tokenizer.all_special_ids))
    assert tokenizer.decode(ids) == text
    prompt, plain = (render(template, "t2m", text=t, answer=False).ids for t in (text, "a"))
    i = plain.index(template.encode_text("a")[0])
    assert prompt == [*plain[:i], *ids, *plain[i + 1:]]
    example = render(template, "m2t", text=text)
    assert [n for n, is_answer in zip(example.ids, example.loss_mask, strict=True) if is_answer] == [
        *ids, template.markers.text_end]


def test_the_tokenizers_own_encoding_would_give_control_tokens(templates):
    tokenizer, template = templates["qwen"]
    tokens = tokenizer.convert_ids_to_tokens(tokenizer.encode("a <think><MOT_END>", split_special_tokens=True))
    assert "<think>" in tokens  # else the test above proves nothing for tokens that were not added as special
    assert tokenizer.convert_ids_to_tokens(tokenizer.encode("<MOT_END>")) == ["<MOT_END>"]
    assert template.encode_text("a person walks") == tuple(tokenizer.encode("a person walks"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", ["two  spaces", "the čardáš, 踊る, naïve\u200d", " leads", "trails ", "l1\nl2\t"])
def test_a_caption_decodes_back_to_the_same_characters(templates, kind, text):
    tokenizer, template = templates[kind]
    assert tokenizer.decode(template.encode_text(text)) == text


def test_no_bos_and_no_end_token_come_along_with_a_caption(templates):
    tokenizer, template = templates["bare"]
    assert tokenizer.convert_ids_to_tokens(tokenizer("a dance")["input_ids"]) == ["<s>", "a", "Ġdance"]
    assert tokenizer.convert_ids_to_tokens(template.encode_text("a dance")) == ["a", "Ġdance"]


def test_a_tokenizer_that_was_last_used_to_cut_and_pad_does_not_cut_captions():
    tokenizer = tiny_tokenizer("chatml")
    tokenizer(["a person walks forward"], truncation=True, max_length=2, padding="max_length")
    encode = PlainTextEncoder(tokenizer)
    assert tokenizer.convert_ids_to_tokens(encode("a person walks")) == ["a", "Ġperson", "Ġwalks"]


def test_a_caption_that_only_a_control_id_can_write_is_refused():
    from tokenizers import AddedToken

    tokenizer = tiny_tokenizer("chatml")
    tokenizer.add_tokens([AddedToken("person", special=True, normalized=False)])  # a word that BPE reaches as well
    control = tokenizer.convert_tokens_to_ids("person")
    with pytest.raises(ValueError, match=rf"caption 'person' cannot be written without the control ids \[{control}\]"):
        PlainTextEncoder(tokenizer)("person")


def test_a_tokenizer_without_a_tokenizers_backend_is_refused():
    with pytest.raises(ValueError, match="object has no `tokenizers` backend: choose a base model with a tokenizer"):
        PlainTextEncoder(object())


def test_plain_pieces_among_the_added_tokens_do_not_make_a_caption_unwritable():
    """Gemma lists line breaks and runs of spaces as added tokens, which ordinary merges reach too."""
    from tokenizers import AddedToken

    tokenizer = tiny_tokenizer("gemma")
    piece = tokenizer.convert_ids_to_tokens(tokenizer.encode("walks", add_special_tokens=False))[0]
    tokenizer.add_tokens([AddedToken(piece, special=False, normalized=False)])
    assert PlainTextEncoder(tokenizer)("walks  forward")
