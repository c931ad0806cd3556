"""Text that a stranger chose, made fit for a terminal and a log."""

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
