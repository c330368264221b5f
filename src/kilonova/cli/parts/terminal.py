"""Words of users on somebody's terminal: shown, and never obeyed."""

from __future__ import annotations

from rich.text import Text


def plain(words: str, style: str = "") -> Text:
    """The same without a meaning for rich (``[red]``) or for the terminal (escape sequences)."""
    return Text("".join(letter if letter.isprintable() else "�" for letter in words), style=style)
