"""Makes untrusted text safe for terminals and logs."""

from unicodedata import category

MOST_TEXT = 200
"""Characters of untrusted text in one sentence."""


def printable(text: object, most: int = MOST_TEXT) -> str:
    """Returns `text` on one line, without control characters, `most` characters long at most.

    Control characters (C0, DEL and C1, including those that start ANSI escapes), format characters
    (bidirectional overrides, zero-width characters), surrogates, private and unassigned characters
    and all separators become a space; several spaces become one.
    """
    head = str(text)[: 4 * most]
    line = " ".join("".join(one if one.isprintable() else " " for one in head).split())
    return line if len(line) <= most else line[: most - 1] + "…"


def escaped(text: object) -> str:
    """Returns `text` on one line with nothing left out, for names that the user has to find again.

    Each character that `printable` replaces, except spaces (category Zs), becomes a Python escape:
    `\\n`, `\\x1b`, `\\u202e`, and `\\udcff` for the byte 0xFF of a name that is not UTF-8.
    """
    return "".join(
        one
        if one.isprintable() or category(one) == "Zs"
        else one.encode("unicode_escape").decode("ascii")
        for one in str(text)
    )
