"""Tables of text for a terminal and for Markdown: the first row is the header."""

from rich.table import Table
from rich.text import Text

from receiver.text import escaped


def markdown(table: list[list[str]]) -> str:
    """Returns a table in Markdown; names may have any character."""
    header, *body = [[escaped(cell).replace("|", "\\|") for cell in line] for line in table]
    lines = [header, ["---"] * len(header), *body]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def terminal_table(table: list[list[str]], title: str) -> Table:
    """Returns a table for a terminal; an interval and a worst value go on separate lines."""
    header, *body = table
    drawn = Table(title=title)
    for name in header:
        drawn.add_column(name, justify="left" if name == header[0] else "right")
    for line in body:
        lines = (cell.replace(" [", "\n[", 1).replace(", worst", "\nworst", 1) for cell in line)
        drawn.add_row(*map(Text, lines))  # without markup: brackets are meant
    return drawn


def with_interval(value: float, interval: tuple[float, float], form: str) -> str:
    """Returns a cell such as `3.00 [2.50, 3.50]`; `form` formats each number."""
    low, high = interval
    return f"{value:{form}} [{low:{form}}, {high:{form}}]"
