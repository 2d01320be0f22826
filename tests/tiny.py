"""Small tokenizers built on the spot, each like a family of base models. transformers is imported only in the function,
because Unsloth must be imported before it."""

WORDS = ("user", "assistant", "system", "model", "person", "walks", "forward", "someone", "waves", "with", "the",
         "left", "hand", "jumps", "three", "times", "dance")
SENTENCES = ("a person walks forward", "someone waves with the left hand", "the person jumps three times", "a dance")

SYSTEM_PROMPT = "someone walks"
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
CHATML_WITH_DEFAULT_SYSTEM = (  # SmolLM2's
    "{% if messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\\n" + SYSTEM_PROMPT + "<|im_end|>\\n' }}{% endif %}" + CHATML
)
CHATML_WITH_THOUGHT = (  # Qwen3's: only the last reply gets an empty thought before it
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if loop.last and message['role'] == 'assistant' %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}"
    "{{ message['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}"
    "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)
LLAMA = (  # a header before each turn
    "{{ bos_token }}%s{%% for message in messages %%}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}"
    "{%% endfor %%}%s"
)
REPLY = "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
LLAMA3 = LLAMA % ("", REPLY)  # the older one: the header of the next reply comes whether it is asked for or not
LLAMA32 = LLAMA % ("{{ '<|start_header_id|>system<|end_header_id|>\n\n" + SYSTEM_PROMPT + "<|eot_id|>' }}",
                   "{% if add_generation_prompt %}" + REPLY + "{% endif %}")
LLAMA_TOKENS = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]

# kind -> special tokens (the first ids), plain added tokens (the last ids), chat template, roles of the special tokens
KINDS = {
    "chatml": (["<|endoftext|>", "<|im_start|>", "<|im_end|>"], [], CHATML_WITH_DEFAULT_SYSTEM,
               dict(unk_token="<|endoftext|>", bos_token="<|im_start|>", eos_token="<|im_end|>",
                    pad_token="<|im_end|>")),
    "qwen": (["<|endoftext|>", "<|im_start|>", "<|im_end|>"], ["<think>", "</think>"], CHATML_WITH_THOUGHT,
             dict(eos_token="<|im_end|>", pad_token="<|endoftext|>")),
    "gemma": (["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"], [], GEMMA,
              dict(pad_token="<pad>", eos_token="<eos>", bos_token="<bos>", unk_token="<unk>")),
    "llama3": (LLAMA_TOKENS, [], LLAMA3, dict(bos_token="<|begin_of_text|>", eos_token="<|end_of_text|>")),
    "llama32": (LLAMA_TOKENS, [], LLAMA32, dict(bos_token="<|begin_of_text|>", eos_token="<|eot_id|>")),
    "bare": (["<s>", "</s>"], [], None, dict(bos_token="<s>", eos_token="</s>")),
}


def tiny_tokenizer(kind: str):
    """A byte-level BPE tokenizer of about 350 entries; the words of WORDS are one token each.

    chatml: like SmolLM2, with a default system prompt; the end token is also the pad token. qwen: like Qwen3, no bos;
    <think> is an added token, but not a special one. gemma: bos first, the role "model", no system role.
    llama3, llama32: the tokenizer and the chat template both add bos, no pad token. bare: no chat template, bos added
    by the tokenizer, no pad token.
    """
    from model import start_unsloth  # imports torch, which takes seconds

    start_unsloth("cpu")  # must be before the import of transformers
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    special, plain, chat_template, roles = KINDS[kind]
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=special, show_progress=False,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    backend.train_from_iterator([*SENTENCES, " ".join(WORDS), *WORDS], trainer)
    if kind not in ("chatml", "qwen"):
        bos = roles["bos_token"]
        backend.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, backend.token_to_id(bos))])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False, **roles)
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in plain])
    tokenizer.chat_template = chat_template
    return tokenizer
