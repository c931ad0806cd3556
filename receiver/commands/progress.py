"""Progress bars on standard error."""

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
    """Shows the task's description, cropped in a narrow terminal."""

    def render(self, task: Task) -> Text:
        return Text(task.description, no_wrap=True, overflow="crop")


class _Speed(ProgressColumn):
    """Shows the frames a second over the last half minute."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("- fps" if speed is None else f"{speed:.1f} fps")


def frames_bar(*, quiet: bool) -> Progress:
    """Returns a `progress_bar` with the number of frames, their rate, and the time left."""
    counts = MofNCompleteColumn(table_column=_whole()), _Speed(_whole())
    return progress_bar(*counts, quiet=quiet)


def progress_bar(
    *columns: ProgressColumn, quiet: bool = False, refresh_per_second: float = 10
) -> Progress:
    """Returns a bar on standard error that shows the time left and disappears at its end.

    It shows nothing if `quiet`, or if standard error is not a terminal. Descriptions are plain
    text, without markup.

    Args:
        columns: shown before the time left.
        refresh_per_second: redraws a second.
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
    """Returns a column that a narrow terminal shortens last."""
    return Column(no_wrap=True)
