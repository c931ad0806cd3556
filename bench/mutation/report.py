"""Shows the results of `bench mutation`."""

from rich.table import Table

from bench.mutation.session import Survivor

Counts = dict[str, tuple[int, int, int]]
"""Numbers of mutations, of tested ones and of survivors by module."""


def table(counts: Counts) -> Table:
    """Returns the counts, a row per module and one of the sums."""
    shown = Table("module", "mutations", "tested", "noticed", "survived", title="mutations")
    total = tuple(map(sum, zip(*counts.values(), strict=True)))
    for module, (mutations, tested, survived) in [*counts.items(), ("all", total)]:
        noticed = f"{100 * (tested - survived) / tested:.0f} %" if tested else ""
        shown.add_row(module, str(mutations), str(tested), noticed, str(survived))
    return shown


def markdown(survivors: list[Survivor]) -> str:
    """Returns the survivors with file, line and diff."""
    shown = [f"`{one.module}:{one.line}`\n\n```diff\n{one.diff}\n```\n" for one in survivors]
    return "\n".join([f"# Survivors: {len(survivors)}\n", *shown])
