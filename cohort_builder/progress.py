"""One progress bar a stage on a terminal, one line a tenth in a log."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import NamedTuple

logger = logging.getLogger("cohort_builder")

_QUIET_SECONDS = 15.0  # a stage in a log says something at least this often
_BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_noinv_fmt}{postfix}]"


class Stage:
    """A running stage: ``advance`` counts items. Made by ``Progress.stage``.

    ``before`` of them were done by an earlier run: they count as done, and not into the rate.
    """

    def __init__(self, name: str, total: int | None, *, unit: str, show: bool, before: int = 0) -> None:
        self.name, self.total, self.unit, self.before, self.done = name, total, unit, before, before
        self.exact = True
        self._show = show
        self._last_tenth, self._started = 0, monotonic()
        self._last_said = self._started
        self._bar = None
        if show and (sys.stderr.isatty() or "ipykernel" in sys.modules):
            from tqdm import tqdm

            self._bar = tqdm(
                total=total, initial=before, desc=name, unit=f" {unit}", dynamic_ncols=True, bar_format=_BAR
            )

    @property
    def rate(self) -> float:
        """Items of this run per second."""
        return (self.done - self.before) / max(monotonic() - self._started, 1e-3)

    def expect(self, total: int, *, exact: bool) -> None:
        """Set how many items there will be, as far as is known by now."""
        self.total, self.exact = total, exact
        if self._bar is not None:
            self._bar.total = total
            self._bar.set_postfix_str("" if exact else "total estimated", refresh=False)

    def advance(self, n: int = 1) -> None:
        """Count ``n`` more items."""
        if not n:
            return
        self.done += n
        if self._bar is not None:
            self._bar.update(n)
            return
        tenth = 10 * self.done // self.total if self.total else 0
        if tenth > self._last_tenth or monotonic() - self._last_said > _QUIET_SECONDS:
            self._last_tenth, self._last_said = tenth, monotonic()
            of = f" of {'' if self.exact else 'about '}{self.total}" if self.total else ""
            self._say(f"{self.name}: {self.done}{of} {self.unit}, {self.rate:.3g} a second")

    def _say(self, line: str) -> None:
        """Log; where nobody has set up logging (a script under nohup), say it on the standard error as well."""
        logger.info(line)
        if self._show and not logging.getLogger().handlers:
            sys.stderr.write(f"{line}\n")

    def close(self) -> None:
        """End the bar."""
        if self._bar is not None:
            self._bar.close()


class News(NamedTuple):
    """What a shard tells while it is built: so many more patients read, lesions found on them, lesions done with."""

    patients: int = 0
    lesions: int = 0
    done: int = 0


Tell = Callable[[News], None]


class LesionCount:
    """Keeps a stage that counts lesions right. How many there are is known of a patient when its drawings are read.

    Until then a patient counts as many as those read so far have on average, and the total is an estimate; what earlier
    runs finished is in the average.

    Parameters
    ----------
    stage
        With the lesions of earlier runs as ``before``.
    patients_before, patients
        Of finished shards, and still to be read.

    """

    def __init__(self, stage: Stage, patients_before: int, patients: int) -> None:
        self._stage = stage
        self._read, self._unread, self._lesions = patients_before, patients, stage.before
        self._expect()

    def hear(self, news: News) -> None:
        """Take in what a shard tells."""
        self._read += news.patients
        self._unread -= news.patients
        self._lesions += news.lesions
        self._expect()
        self._stage.advance(news.done)

    def _expect(self) -> None:
        if self._read or not self._unread:
            estimate = self._lesions + self._lesions / max(self._read, 1) * self._unread
            self._stage.expect(round(estimate), exact=not self._unread)


class Progress:
    """Stages of a run; ``show=False`` is silent, and a stream that is no terminal gets log lines."""

    def __init__(self, *, show: bool = True) -> None:
        self.show = show
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str, total: int | None = None, *, unit: str = "items", before: int = 0) -> Iterator[Stage]:
        """Open a stage; its wall time lands in ``seconds``."""
        start = monotonic()
        stage = Stage(name, total, unit=unit, show=self.show, before=before)
        try:
            yield stage
        finally:
            stage.close()
            self.seconds[name] = round(monotonic() - start, 3)
