"""Chooses the quality level that this machine has time for, at the start and during calls."""

import asyncio
import logging
from collections.abc import Coroutine, Iterable
from threading import Lock
from typing import Any, Literal, TypeAlias, TypeVar
from weakref import WeakSet

from receiver.enhance.capacity import FRAME_S, Measured, generator_seconds
from receiver.enhance.enhancer import Enhancer
from receiver.enhance.faces.generator import Generator
from receiver.enhance.faces.levels import BALANCED, LEVELS, Level
from receiver.inference.model_files import MODELS, Model

logger = logging.getLogger(__name__)

Result = TypeVar("Result")
Choice: TypeAlias = Literal["auto", "best", "fast"]
"""`auto`: the best level that there is time for; `best`, `fast`: the best and the cheapest one."""


ROOM = 0.6
"""Share of a frame's time that a better level may take: a busy machine needs the rest."""
LOOK_EVERY = 2.0
"""Seconds between checks of the statistics."""
TOO_MANY = 0.1
"""Share of skipped frames since the last check above which the level goes down."""
FEW = 0.01
"""Share of skipped frames since the last check up to which the level may go up."""
CALM = 5
"""Checks in a row with few skipped frames before the level goes up, at first. The number doubles
with every upgrade that was reverted, and is reset once an upgrade has lasted for longer than the
wait before it."""
SETTLES = 1
"""Checks after a change that do not count: their timings are partly older than the change."""
TIMINGS = 60
"""Newest timings that a check takes into account: two seconds."""


class Ladder:
    """Chooses the next level: down when frames are late, up when few were for a while.

    Attributes:
        level: index of the current level; 0 is the cheapest.
        costs: seconds for a frame by level; their ratios count.
    """

    def __init__(self, costs: Iterable[float], level: int) -> None:
        """
        Args:
            costs: seconds for a frame by level, the cheapest first, measured on an idle machine.
            level: the first one.
        """
        self.level = level
        self.costs = tuple(costs)
        self._climbed = False  # by the last change
        self._calm_checks = 0
        self._patience = CALM
        self._held = 0  # checks since the last change

    def step(self, skipped_share: float, seconds: float) -> int:
        """Takes the statistics of a check; returns the new level, at most one from the last.

        Args:
            skipped_share: of the frames since the last check, those skipped as too late, 0 to 1.
            seconds: current time of enhancement per frame; 0 if none ran.
        """
        self._held += 1
        if self._held <= SETTLES:
            return self.level
        busy = skipped_share > TOO_MANY or seconds > FRAME_S
        calm = skipped_share <= FEW and not busy
        self._calm_checks = self._calm_checks + 1 if calm else 0
        if self._climbed and self._held > self._patience:
            self._climbed, self._patience = False, CALM
        if busy and self.level > 0:
            if self._climbed:
                self._patience *= 2
            self._go_to(self.level - 1)
        elif self._calm_checks >= self._patience and self._fits_above(seconds):
            self._go_to(self.level + 1)
        return self.level

    def stay(self, level: int) -> None:
        """Goes back to a level because the one from `step` failed to open."""
        self._patience *= 2
        self._go_to(level)

    def _fits_above(self, seconds: float) -> bool:
        if seconds <= 0.0 or self.level + 1 >= len(self.costs):
            return False
        above = seconds * self.costs[self.level + 1] / max(self.costs[self.level], 1e-6)
        return above <= ROOM * FRAME_S

    def _go_to(self, level: int) -> None:
        self._climbed = level > self.level
        self.level, self._held, self._calm_checks = level, 0, 0


def best_that_fits(costs: Iterable[float]) -> int:
    """Returns the highest level whose cost leaves room in a frame's time; 0 if none does."""
    return max((i for i, cost in enumerate(costs) if cost <= ROOM * FRAME_S), default=0)


class Quality:
    """Sets the level of all enhancers that share a generator.

    Attributes:
        generator: the shared one.
        changes: how often the level has changed.
        is_fixed: whether the user chose the level.
    """

    def __init__(self, generator: Generator, choice: Choice, measured: Measured | None) -> None:
        """Chooses the first level and switches to it.

        Args:
            generator: the shared one.
            choice: of the user.
            measured: with this generator, see `capacity.measure`; needed for `auto`.

        Raises:
            ValueError: for `auto` without a measurement.
            ModelError: if the best level's file is unusable and was asked for.
        """
        self.changes = 0
        self.is_fixed = choice != "auto"
        self.generator = generator
        self._has_both = generator.name in MODELS and generator.device == "cpu"
        self._enhancers: WeakSet[Enhancer] = WeakSet()
        self._joining = Lock()  # calls start while another thread checks
        self._last = 0, 0  # frames skipped and received, at the last check
        costs = [0.0] * len(LEVELS)
        if choice == "auto":
            if measured is None:
                raise ValueError("auto needs a measurement of this machine")
            costs = self._costs(measured)
            first = best_that_fits(costs)
        else:
            first = 0 if choice == "fast" else len(LEVELS) - 1
        self._face_costs = costs
        self._ladder = Ladder(costs, first)
        self._level = BALANCED
        self._apply(LEVELS[first])

    @property
    def level(self) -> Level:
        """The current level."""
        return self._level

    def snapshot(self) -> dict[str, Any]:
        """Returns the level and how often it changed, ready for JSON."""
        return {"level": self._level.name, "changes": self.changes}

    def watch(self, enhancer: Enhancer) -> Enhancer:
        """Sets the level of an enhancer, now and when it changes; returns the enhancer."""
        with self._joining:
            _set(enhancer, self._level)
            self._enhancers.add(enhancer)
            others = _costs_of_other_stages(enhancer)
            self._ladder.costs = tuple(map(sum, zip(self._face_costs, others, strict=True)))
        return enhancer

    async def beside(self, call: Coroutine[Any, Any, Result]) -> Result:
        """Awaits a call or a server, and adapts the level while it runs."""
        checking = None if self.is_fixed else asyncio.ensure_future(self._keep_checking())
        try:
            return await call
        finally:
            if checking is not None:
                checking.cancel()
                await asyncio.wait((checking,))

    def look(self) -> None:
        """Checks the statistics once and changes the level if necessary, which opens a file."""
        wanted = self._ladder.step(*self._seen())
        now = LEVELS.index(self._level)
        if wanted == now:
            return
        try:
            self._apply(LEVELS[wanted])
        except Exception:
            logger.exception("quality %s is not available", LEVELS[wanted].name)
            self._ladder.stay(now)
            return
        self.changes += 1
        logger.info("quality changed to %s from %s", self._level.name, LEVELS[now].name)

    async def _keep_checking(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY)
            await asyncio.to_thread(self.look)

    def _seen(self) -> tuple[float, float]:
        """Returns the share of frames skipped since the last check, and the slowest enhancer's
        seconds per frame."""
        with self._joining:
            enhancers = list(self._enhancers)
        skipped = sum(one.stats.frames.skipped for one in enhancers)
        received = sum(one.stats.frames.received for one in enhancers)
        # Fewer than before if an enhancer has ended: then nothing is known.
        more = max(0, skipped - self._last[0]), max(0, received - self._last[1])
        self._last = skipped, received
        if not more[1]:
            return 0.0, 0.0
        return min(1.0, more[0] / more[1]), max(
            one.stats.enhancement.median(TIMINGS) for one in enhancers
        )

    def _apply(self, level: Level) -> None:
        if self._has_both and self.generator.device == "cpu":
            self.generator.switch(Model.find(self.generator.name, on_gpu=level.floats))
        with self._joining:
            for enhancer in self._enhancers:
                _set(enhancer, level)
            self._level = level

    def _costs(self, measured: Measured) -> list[float]:
        """Returns seconds per frame by level. Does not change the generator."""
        floats = measured.generator_s
        if self._has_both:
            other = Generator(
                str(Model.find(self.generator.name, on_gpu=True).path),
                "cpu",
                self.generator.threads,
            )
            floats = generator_seconds(other)
        return [
            measured.rest_s + (floats if level.floats else measured.generator_s) for level in LEVELS
        ]


def _set(enhancer: Enhancer, level: Level) -> None:
    enhancer.set_detection(level.detection)
    enhancer.set_level(LEVELS.index(level))


def _costs_of_other_stages(enhancer: Enhancer) -> list[float]:
    """Returns the measured seconds per frame of all stages but the face stage, by level."""
    costs = [0.0] * len(LEVELS)
    for stage in enhancer.stages:
        known = [level.seconds or 0.0 for level in stage.levels]
        for rank in range(len(LEVELS)) if known else ():
            costs[rank] += known[min(rank, len(known) - 1)]
    return costs
