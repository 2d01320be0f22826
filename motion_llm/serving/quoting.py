"""Text from a model's folder, such as a caption, quoted for where it goes in an export's README."""

import re
import shlex


def shell_word(text: str) -> str:
    """One word for bash and zsh, on one line; what cannot be seen becomes escapes of its UTF-8 bytes: $'a\\x0ab'."""
    if text.isprintable():
        return shlex.quote(text)
    escaped = "".join(c if c.isprintable() and c not in "\\'" else f"\\{c}" if c in "\\'" else
                      "".join(f"\\x{byte:02x}" for byte in c.encode()) for c in text)
    return f"$'{escaped}'"


def code_span(text: str) -> str:
    """Markdown's `code`, on one line, with more backticks around it than stand together in it."""
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    ticks = "`" * (max(map(len, re.findall("`+", shown)), default=0) + 1)
    space = " " if shown.startswith("`") or shown.endswith("`") or not shown.strip() else ""
    return f"{ticks}{space}{shown}{space}{ticks}"


def filled(template: str, values: dict[str, object]) -> str:
    """The template with each @NAME@ replaced, once: a value that spells another name stays as it is."""
    return re.sub("@([A-Z_]+)@", lambda match: str(values[match[1]]), template)
