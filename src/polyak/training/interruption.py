"""Asking a run to leave at its next step, by a signal or because its time is up."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class InterruptedRun(Exception):
    """A run has written its checkpoint and left; the same command goes on from there."""

    def __init__(self, signal_number: int | None = None) -> None:
        """`signal_number` is None if the time was up."""
        super().__init__("stopped by a signal" if signal_number else "stopped at the time limit")
        self.signal_number = signal_number


class Interruption:
    """Whether to leave, and why.

    A signal cannot interrupt a step without leaving it half done, so it is noted and looked at
    when the step is over.

    Args:
        seconds: Time limit, counted from now by a clock that does not jump; None for none.
    """

    def __init__(self, seconds: float | None = None) -> None:
        self.signal_number: int | None = None
        self._deadline = None if seconds is None else time.monotonic() + before_limit(seconds)

    @property
    def made(self) -> bool:
        """Whether somebody asked, or the time is up."""
        late = self._deadline is not None and time.monotonic() >= self._deadline
        return self.signal_number is not None or late

    def error(self) -> InterruptedRun:
        """What a run raises when it leaves."""
        return InterruptedRun(self.signal_number)

    @contextmanager
    def by_signals(self) -> Iterator["Interruption"]:
        """Let SIGINT and SIGTERM ask, for the length of the block; a second one acts at once."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {number: signal.getsignal(number) for number in SIGNALS}

        def note(number: int, _frame: FrameType | None) -> None:
            self.signal_number = number
            for known, handler in before.items():
                signal.signal(known, handler)

        for number in SIGNALS:
            signal.signal(number, note)
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def before_limit(seconds: float) -> float:
    """When to begin to leave, so that all is written by the limit: a tenth before, at most 30 s."""
    return seconds - min(30.0, seconds / 10)
