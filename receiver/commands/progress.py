"""Progress bars."""

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

from receiver.commands.terminal import console


class _Name(ProgressColumn):
    """The task's description: what a narrow terminal has no room for is cropped."""

    def render(self, task: Task) -> Text:
        return Text(task.description, no_wrap=True, overflow="crop")


class _Speed(ProgressColumn):
    """Frames a second, of the last half minute."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("- fps" if speed is None else f"{speed:.1f} fps")


def frames_bar(*, quiet: bool) -> Progress:
    """Returns a `progress_bar` that counts frames: how many, how fast, and the time left."""
    counts = MofNCompleteColumn(table_column=_whole()), _Speed(_whole())
    return progress_bar(*counts, quiet=quiet)


def progress_bar(
    *columns: ProgressColumn, quiet: bool = False, refresh_per_second: float = 10
) -> Progress:
    """Returns a bar on standard error with the time left, which vanishes at its end.

    There is none if it is to be quiet or standard error is no terminal. Descriptions are plain
    text; `columns` stand before the time left.
    """
    to = console(stderr=True)
    left = TimeRemainingColumn(table_column=_whole())
    return Progress(
        *(_Name(), BarColumn(None if columns else 40), *columns, left),
        console=to,
        transient=True,
        redirect_stdout=False,
        refresh_per_second=refresh_per_second,
        disable=quiet or not to.is_interactive,
    )


def _whole() -> Column:
    """A column that a narrow terminal does not shorten before the others."""
    return Column(no_wrap=True)
