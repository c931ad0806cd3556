"""Text that a stranger chose, made fit for a terminal and a log."""

from unicodedata import category

MOST_TEXT = 200
"""Characters of a stranger's text in one sentence."""


def printable(text: object, most: int = MOST_TEXT) -> str:
    """Returns `text` on one line, without control characters, `most` characters long at most.

    Control characters (C0, DEL, C1: among them what begins an ANSI escape), format characters
    (bidirectional overrides, zero-width ones), surrogates, private and unassigned characters and
    all separators become a space; several spaces become one.
    """
    head = str(text)[: 4 * most]
    line = " ".join("".join(one if one.isprintable() else " " for one in head).split())
    return line if len(line) <= most else line[: most - 1] + "…"


def escaped(text: object) -> str:
    """Returns `text` on one line with nothing left out: for names that the user has to find again.

    Of what `printable` replaces, all but spaces (category Zs) becomes its Python escape: `\\n`,
    `\\x1b`, `\\u202e`, and `\\udcff` for the byte 0xFF of a name that is no UTF-8.
    """
    return "".join(
        one
        if one.isprintable() or category(one) == "Zs"
        else one.encode("unicode_escape").decode("ascii")
        for one in str(text)
    )
