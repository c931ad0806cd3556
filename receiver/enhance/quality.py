"""How much is done for a frame: the most that this machine has time for, at the start and later."""

import asyncio
import logging
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass
from statistics import median
from threading import Lock
from typing import Any, Literal, TypeAlias, TypeVar
from weakref import WeakSet

from receiver.enhance.capacity import FRAME_S, Measured, generator_seconds
from receiver.enhance.enhancer import STAGES, Enhancer
from receiver.enhance.faces.generator import MODELS, Generator, Model
from receiver.enhance.faces.tracking import MAX_FACES, DetectionRate

logger = logging.getLogger(__name__)

Result = TypeVar("Result")
Choice: TypeAlias = Literal["auto", "best", "fast"]
"""The most that there is time for; the best and the cheapest level, whatever they cost."""


@dataclass(frozen=True)
class Level:
    """How much is done for a frame.

    Attributes:
        name: of the level.
        floats: whether the generator runs in floating point rather than in 8-bit integers.
        detection: how often faces are searched for and checked.
        faces: that are restored in a frame at most, the nearest ones: rather these always than all
            now and then.
    """

    name: str
    floats: bool
    detection: DetectionRate
    faces: int = MAX_FACES


BALANCED = Level("balanced", False, DetectionRate())
LEVELS = (
    Level("fast", False, DetectionRate(search_every=90, check_every=25), faces=2),
    BALANCED,
    Level("best", True, DetectionRate(search_every=15, check_every=5)),
)
"""From the cheapest to the best. A GPU runs them all in floating point, and a file given by its
path as it is: then the detection alone tells them apart."""

ROOM = 0.6
"""Of the budget that a better level may take: it has to stay below it when the machine is busy."""
LOOK_EVERY = 2.0
"""Seconds from one look at the figures to the next."""
TOO_MANY = 0.1
"""Share of the frames skipped in a look with which the level goes down."""
FEW = 0.01
"""Share of the frames skipped up to which a look is a calm one."""
CALM = 5
"""Calm looks in a row before the level goes up, at first. They double with every climb that was one
too many, and are these few again once one has been held for longer than it was waited for."""
SETTLES = 1
"""Looks after a change that do not count: they show what was before, or the change itself."""
TIMINGS = 60
"""Of each stage, as the newest that are looked at: two seconds."""


class Ladder:
    """Which level is next: down at the first trouble, up after a calm time.

    Attributes:
        level: the index of the present one; 0 is the cheapest.
    """

    def __init__(self, costs: Iterable[float], level: int) -> None:
        """
        Args:
            costs: seconds for a frame by level, the cheapest first, measured when nothing else ran;
                what counts is how they compare.
            level: where it begins.
        """
        self.level = level
        self._costs = tuple(costs)
        self._climbed = False  # by the last change
        self._calm_looks = 0
        self._patience = CALM
        self._held = 0  # looks since the last change

    def step(self, skipped_share: float, seconds: float) -> int:
        """Takes what one look saw; returns the level from now on, one from the last at most.

        Args:
            skipped_share: of the frames since the last look, those skipped as too late, 0 to 1.
            seconds: that a frame's enhancement takes now; 0 where none ran.
        """
        self._held += 1
        if self._held <= SETTLES:
            return self.level
        busy = skipped_share > TOO_MANY or seconds > FRAME_S
        calm = skipped_share <= FEW and not busy
        self._calm_looks = self._calm_looks + 1 if calm else 0
        if self._climbed and self._held > self._patience:
            self._climbed, self._patience = False, CALM
        if busy and self.level > 0:
            if self._climbed:
                self._patience *= 2
            self._go_to(self.level - 1)
        elif self._calm_looks >= self._patience and self._fits_above(seconds):
            self._go_to(self.level + 1)
        return self.level

    def stay(self, level: int) -> None:
        """Goes back to a level, since the one that `step` gave could not be had."""
        self._patience *= 2
        self._go_to(level)

    def _fits_above(self, seconds: float) -> bool:
        if seconds <= 0.0 or self.level + 1 >= len(self._costs):
            return False
        above = seconds * self._costs[self.level + 1] / max(self._costs[self.level], 1e-6)
        return above <= ROOM * FRAME_S

    def _go_to(self, level: int) -> None:
        self._climbed = level > self.level
        self.level, self._held, self._calm_looks = level, 0, 0


def best_that_fits(costs: Iterable[float]) -> int:
    """The highest level that leaves room in the budget; the cheapest where none does."""
    return max((i for i, cost in enumerate(costs) if cost <= ROOM * FRAME_S), default=0)


class Quality:
    """The level of all enhancers that share a generator, and who looks after it.

    Attributes:
        generator: the one.
        changes: of the level since the start.
        is_fixed: whether the level was chosen rather than left to this class.
    """

    def __init__(self, generator: Generator, choice: Choice, measured: Measured | None) -> None:
        """Measures, chooses the first level and goes over to it.

        Args:
            measured: with the generator as it is, see `capacity.measure`; needed for `auto`.

        Raises:
            ValueError: for `auto` without a measure.
            ModelError: if the best level's file is unusable and was asked for.
        """
        self.changes = 0
        self.is_fixed = choice != "auto"
        self.generator = generator
        self._has_both = generator.name in MODELS and generator.device == "cpu"
        self._enhancers: WeakSet[Enhancer] = WeakSet()
        self._joining = Lock()  # calls come while another thread looks
        self._last = 0, 0  # frames skipped and received, at the last look
        costs = [0.0] * len(LEVELS)
        if choice == "auto":
            if measured is None:
                raise ValueError("auto needs a measure of this machine")
            costs = self._costs(measured)
            first = best_that_fits(costs)
        else:
            first = 0 if choice == "fast" else len(LEVELS) - 1
        self._ladder = Ladder(costs, first)
        self._level = BALANCED
        self._apply(LEVELS[first])

    @property
    def level(self) -> Level:
        """The present one."""
        return self._level

    def snapshot(self) -> dict[str, Any]:
        """The level and how often it changed, ready for JSON."""
        return {"level": self._level.name, "changes": self.changes}

    def watch(self, enhancer: Enhancer) -> Enhancer:
        """Gives an enhancer the level, from now on, and returns it."""
        with self._joining:
            _set(enhancer, self._level)
            self._enhancers.add(enhancer)
        return enhancer

    async def beside(self, call: Coroutine[Any, Any, Result]) -> Result:
        """Runs a call, or a server, and keeps looking after its level meanwhile."""
        looking = None if self.is_fixed else asyncio.ensure_future(self._keep_looking())
        try:
            return await call
        finally:
            if looking is not None:
                looking.cancel()
                await asyncio.wait((looking,))

    def look(self) -> None:
        """Looks at the figures once and changes the level if need be; opens a file then."""
        wanted = self._ladder.step(*self._seen())
        now = LEVELS.index(self._level)
        if wanted == now:
            return
        try:
            self._apply(LEVELS[wanted])
        except Exception:
            logger.exception("%s quality cannot be had", LEVELS[wanted].name)
            self._ladder.stay(now)
            return
        self.changes += 1
        logger.info("quality is %s now, it was %s", self._level.name, LEVELS[now].name)

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY)
            await asyncio.to_thread(self.look)

    def _seen(self) -> tuple[float, float]:
        """The share of frames skipped since the last look, and seconds a frame, the slowest's."""
        with self._joining:
            enhancers = list(self._enhancers)
        skipped = sum(one.stats.frames.skipped for one in enhancers)
        received = sum(one.stats.frames.received for one in enhancers)
        # Less than before where an enhancer has gone with its frames: then nothing is known.
        more = max(0, skipped - self._last[0]), max(0, received - self._last[1])
        self._last = skipped, received
        if not more[1]:
            return 0.0, 0.0
        return min(1.0, more[0] / more[1]), max(map(seconds_a_frame, enhancers))

    def _apply(self, level: Level) -> None:
        if self._has_both and self.generator.device == "cpu":
            self.generator.switch(Model.find(self.generator.name, on_gpu=level.floats))
        with self._joining:
            for enhancer in self._enhancers:
                _set(enhancer, level)
            self._level = level

    def _costs(self, measured: Measured) -> list[float]:
        """Seconds a frame by level. Leaves the generator as it is."""
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
    enhancer.most_faces = level.faces


def seconds_a_frame(enhancer: Enhancer) -> float:
    """What a frame's enhancement takes now: the sum of its stages' medians; 0 where none ran."""
    stages = (enhancer.stats.seconds(name)[-TIMINGS:] for name in STAGES)
    return sum(median(seconds) for seconds in stages if seconds)
