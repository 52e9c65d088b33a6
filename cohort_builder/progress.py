"""One progress bar a stage on a terminal, one line a tenth in a log."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

logger = logging.getLogger("cohort_builder")

_QUIET_SECONDS = 15.0  # a stage in a log says something at least this often


class Stage:
    """A running stage: ``advance`` counts items. Made by ``Progress.stage``."""

    def __init__(self, name: str, total: int | None, *, unit: str, show: bool) -> None:
        self.name, self.total, self.unit, self.done = name, total, unit, 0
        self._show = show
        self._last_tenth, self._last_said = 0, monotonic()
        self._bar = None
        if show and (sys.stderr.isatty() or "ipykernel" in sys.modules):
            from tqdm import tqdm

            self._bar = tqdm(total=total, desc=name, unit=unit, dynamic_ncols=True)

    def advance(self, n: int = 1) -> None:
        """Count ``n`` more items."""
        self.done += n
        if self._bar is not None:
            self._bar.update(n)
            return
        tenth = 10 * self.done // self.total if self.total else 0
        if tenth > self._last_tenth or monotonic() - self._last_said > _QUIET_SECONDS:
            self._last_tenth, self._last_said = tenth, monotonic()
            of = f" of {self.total}" if self.total else ""
            self._say(f"{self.name}: {self.done}{of} {self.unit}")

    def _say(self, line: str) -> None:
        """Log; where nobody has set up logging (a script under nohup), say it on the standard error as well."""
        logger.info(line)
        if self._show and not logging.getLogger().handlers:
            sys.stderr.write(f"{line}\n")

    def close(self) -> None:
        """End the bar."""
        if self._bar is not None:
            self._bar.close()


class Progress:
    """Stages of a run; ``show=False`` is silent, and a stream that is no terminal gets log lines."""

    def __init__(self, *, show: bool = True) -> None:
        self.show = show
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str, total: int | None = None, *, unit: str = "items") -> Iterator[Stage]:
        """Open a stage; its wall time lands in ``seconds``."""
        start = monotonic()
        stage = Stage(name, total, unit=unit, show=self.show)
        try:
            yield stage
        finally:
            stage.close()
            self.seconds[name] = round(monotonic() - start, 3)
