"""What a caption may be: one list of rules for the check of a dataset, training, evaluation and requests."""

LONGEST_CAPTION = 10_000  # characters; the longest of HumanML3D has about 600
SPACES = "\t\n\r"


def caption_problem(text: object) -> str | None:
    """What keeps a text from being a caption, to stand behind "the caption "; None if nothing does."""
    if not isinstance(text, str):
        return f"is {str(text)[:60]!r}, expected text"
    if not any(character.isprintable() and not character.isspace() for character in text):
        return "has nothing that can be seen"
    if len(text) > LONGEST_CAPTION:
        return f"has {len(text):,} characters, expected at most {LONGEST_CAPTION:,}: shorten it"
    if text.isprintable():
        return None
    for position, character in enumerate(text):
        if 0xD800 <= ord(character) <= 0xDFFF:  # no tokenizer takes it, no UTF-8 file can store it
            return f"holds half a character (the lone surrogate {character!r}) at {position}"
        if (ord(character) < 32 or ord(character) == 127) and character not in SPACES:
            return f"holds the control character {character!r} at {position}: remove it"
    return None


def mistaken_characters(text: str) -> str:
    """Characters that come from Windows-1252 read as Latin-1, such as "\\x92", its apostrophe. They are no error: the
    tokenizer takes them, but they are not the letters that were meant."""
    return "" if text.isprintable() else "".join(sorted({c for c in text if 0x80 <= ord(c) < 0xA0}))
