"""What one version has done since it was loaded, as Triton's statistics extension tells it."""

import time
from collections import defaultdict

from serving.messages import BatchStatistics, Spent, Timings, VersionStatistics


class _Sum:
    __slots__ = ("count", "total_s")

    def __init__(self) -> None:
        self.count = 0
        self.total_s = 0.0

    def add(self, seconds: float) -> None:
        self.count += 1
        self.total_s += seconds

    def spent(self) -> Spent:
        return Spent(self.count, self.total_s)


class Tally:
    """Counts for one servable; used from the event loop alone."""

    def __init__(self) -> None:
        self._rows = 0
        self._last_unix_s = 0.0
        self._by_rows: dict[int, _Sum] = defaultdict(_Sum)
        self._success, self._failure, self._queue = _Sum(), _Sum(), _Sum()
        self._decode, self._execute = _Sum(), _Sum()

    def batch(self, rows: int, seconds: float) -> None:
        """A batch has run."""
        self._by_rows[rows].add(seconds)
        self._execute.add(seconds)

    def answered(self, rows: int, seconds: float, timings: Timings) -> None:
        """A request got its answer."""
        self._rows += rows
        self._last_unix_s = time.clock_gettime(time.CLOCK_REALTIME)
        self._success.add(seconds)
        self._queue.add(timings.queue_s)
        self._decode.add(timings.decode_s)

    def failed(self, seconds: float) -> None:
        """A request got an error."""
        self._last_unix_s = time.clock_gettime(time.CLOCK_REALTIME)
        self._failure.add(seconds)

    def told(self, model: str, version: int) -> VersionStatistics:
        """The counts so far."""
        return VersionStatistics(
            model,
            version,
            rows=self._rows,
            batches=sum(each.count for each in self._by_rows.values()),
            by_rows=tuple(
                BatchStatistics(rows, each.spent()) for rows, each in sorted(self._by_rows.items())
            ),
            last_unix_s=self._last_unix_s,
            success=self._success.spent(),
            failure=self._failure.spent(),
            queue=self._queue.spent(),
            decode=self._decode.spent(),
            execute=self._execute.spent(),
            encode=_Sum().spent(),
        )
