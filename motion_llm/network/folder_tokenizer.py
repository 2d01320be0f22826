"""The tokenizer in a model's folder, by the package `tokenizers` alone: importing transformers takes seconds, and it
must not be imported before Unsloth, which a later training in the same process needs.

It has the methods that templates.py and generate.py call; the tests compare them with those of transformers.
"""

import json
import re
from datetime import datetime
from pathlib import Path

from motion_llm.json_files import check_form, read_json, read_text
from motion_llm.network.folder import ModelError
from motion_llm.network.known_bases import UnknownToFastLoading


def count_tokens(folder: Path) -> int:
    """Of the tokenizer in a folder, without loading it. Raises as FolderTokenizer."""
    if not (folder / "tokenizer.json").is_file():
        raise UnknownToFastLoading(f"{folder} has no tokenizer.json")
    state = read_json(folder / "tokenizer.json", ModelError)
    check_form(state, {"model": {}, "added_tokens": [{"content": str}]}, str(folder / "tokenizer.json"), ModelError)
    vocabulary = state["model"].get("vocab")  # an object, or a list of [token, score]
    if isinstance(vocabulary, dict):
        tokens = [*vocabulary]
    else:
        check_form(vocabulary, [[]], f"{folder / 'tokenizer.json'}: model vocab", ModelError)
        tokens = [str(pair[0]) for pair in vocabulary if pair]
    return len({*tokens, *(token["content"] for token in state["added_tokens"])})


class _PlainErrors:
    """Around tokenizers, which raises a plain Exception, of no class of its own, for whatever is wrong with a file."""

    def __init__(self, path: Path):
        self.path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind, error, traceback) -> None:
        if kind in (Exception, ValueError):
            raise ModelError(f"{self.path} is broken: {str(error)[:200]}") from error


class FolderTokenizer:
    """Raises UnknownToFastLoading for a folder whose tokenizer needs more than its tokenizer.json, ModelError for a
    broken file."""

    is_fast = True  # what PlainTextEncoder of templates.py asks for

    def __init__(self, folder: str | Path):
        from tokenizers import Tokenizer

        folder = Path(folder)
        if not (folder / "tokenizer.json").is_file():
            raise UnknownToFastLoading(f"{folder} has no tokenizer.json")
        with _PlainErrors(folder / "tokenizer.json"):
            self.backend_tokenizer = Tokenizer.from_str(read_text(folder / "tokenizer.json", ModelError))
        self.backend_tokenizer.no_truncation()
        self.backend_tokenizer.no_padding()
        config = read_json(folder / "tokenizer_config.json", ModelError)
        # {"content": ..., "lstrip": ...} is an AddedToken, as older versions of transformers save it.
        contents = {name: value["content"] if isinstance(value, dict) and "content" in value else value
                    for name, value in config.items() if name.endswith("_token")}
        self.special_tokens = {name: value for name, value in contents.items() if isinstance(value, str)}
        self.bos_token, self.eos_token = self.special_tokens.get("bos_token"), self.special_tokens.get("eos_token")
        if unknown := [token for token in self.special_tokens.values() if self.token_to_id(token) is None]:
            raise UnknownToFastLoading(f"{folder}: tokenizer.json lacks {unknown[0]!r} of tokenizer_config.json")
        is_bpe = type(self.backend_tokenizer.model).__name__ == "BPE"  # for which transformers ignores the setting
        if config.get("clean_up_tokenization_spaces") and not is_bpe:
            raise UnknownToFastLoading(f"{folder}: its tokenizer cleans up spaces")
        template = folder / "chat_template.jinja"
        self.chat_template = read_text(template, ModelError) if template.is_file() else config.get("chat_template")
        generation = r"\{%-?\s*generation\b"  # a tag of transformers' own
        if not isinstance(self.chat_template, str | None) or re.search(generation, self.chat_template or ""):
            raise UnknownToFastLoading(f"{folder}: its chat template is of an unknown kind")

    def __len__(self) -> int:
        return self.backend_tokenizer.get_vocab_size(with_added_tokens=True)

    def __call__(self, text: str) -> dict[str, list[int]]:
        return {"input_ids": self.encode(text, add_special_tokens=True)}

    def token_to_id(self, token: str) -> int | None:
        return self.backend_tokenizer.token_to_id(token)

    @property
    def bos_token_id(self) -> int | None:
        return None if self.bos_token is None else self.token_to_id(self.bos_token)

    @property
    def added_tokens_decoder(self) -> dict:
        """Id -> AddedToken."""
        return self.backend_tokenizer.get_added_tokens_decoder()

    def get_added_vocab(self) -> dict[str, int]:
        return {token.content: token_id for token_id, token in self.added_tokens_decoder.items()}

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        return self.backend_tokenizer.encode(text, add_special_tokens=add_special_tokens).ids

    def decode(self, ids: list[int]) -> str:
        return self.backend_tokenizer.decode(ids, skip_special_tokens=False)

    def apply_chat_template(self, messages: list[dict], tokenize: bool, add_generation_prompt: bool = False) -> str:
        """The text of a chat, rendered as transformers does. tokenize: False, as no one here needs the ids."""
        assert not tokenize
        import jinja2  # here, as bases without a chat template do not need it
        from jinja2.ext import loopcontrols
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        def raise_exception(message: str):
            raise jinja2.exceptions.TemplateError(message)

        def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False) -> str:
            return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators,
                              sort_keys=sort_keys)

        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        environment.filters["tojson"] = tojson
        environment.globals |= {"raise_exception": raise_exception,
                                "strftime_now": lambda form: datetime.now().strftime(form)}
        return environment.from_string(self.chat_template).render(
            messages=messages, tools=None, documents=None, add_generation_prompt=add_generation_prompt,
            **self.special_tokens)
