"""Tables for a terminal and for Markdown."""

from rich.table import Table


def markdown(table: list[list[str]]) -> str:
    """A table whose first row is its header."""
    header, *body = table
    lines = [header, ["---"] * len(header), *body]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def shown(table: list[list[str]], title: str) -> Table:
    """The same for a terminal."""
    header, *body = table
    drawn = Table(title=title)
    for name in header:
        drawn.add_column(name, justify="left" if name == header[0] else "right")
    for line in body:
        drawn.add_row(*(cell.replace(" [", "\n[", 1).replace("[", r"\[") for cell in line))
    return drawn
