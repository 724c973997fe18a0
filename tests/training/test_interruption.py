import os
import signal
import time

import pytest

from polyak.training import interruption
from polyak.training.interruption import Interruption


@pytest.fixture(autouse=True)
def handlers():
    """The handlers of before are back afterwards, and KeyboardInterrupt is Ctrl-C's."""
    before = {number: signal.getsignal(number) for number in interruption.SIGNALS}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", interruption.SIGNALS)
def test_a_signal_is_noted_and_interrupts_nothing(number):
    with Interruption().by_signals() as request:
        assert not request.made
        os.kill(os.getpid(), number)
        assert request.made
        assert request.error().signal_number == number


def test_a_second_signal_acts_at_once():
    request = Interruption()
    with request.by_signals():
        os.kill(os.getpid(), signal.SIGINT)
        assert request.made
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_after_the_block_signals_mean_what_they_meant():
    with Interruption().by_signals():
        assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_clock_that_is_set_changes_no_limit(monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 4e9)
    request = Interruption(3600)
    assert not request.made
    begun = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: begun + 3570 + 1)
    assert request.made
    assert request.error().signal_number is None
