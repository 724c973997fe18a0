"""One job in a worker process, on whatever machine: what went wrong comes back as text."""

import time
import traceback
from pathlib import Path

from polyak.errors import PolyakError
from polyak.records.locks import HeldError
from polyak.training.checkpoint import SECONDS
from polyak.training.config import Job
from polyak.training.interruption import InterruptedRun, Interruption
from polyak.training.jobs import carry_out

HELD_SECONDS = 2.0
"""Between two looks at a run that somebody else is working on."""


def attempt(
    job: Job,
    out: Path,
    *,
    device: str,
    interruption: Interruption,
    checkpoint_seconds: float = SECONDS,
) -> str | None:
    """Carry out a job; a bug of one must not stop the others.

    A run that another study is working on is waited for: what that leaves is used, and where it
    stops this goes on.

    Returns:
        None, or the text of the error.

    Raises:
        InterruptedRun: if it was asked to leave and did.
    """
    while True:
        try:
            carry_out(
                job,
                out,
                device=device,
                interruption=interruption,
                checkpoint_seconds=checkpoint_seconds,
                on_doubt=_said_before,
            )
        except HeldError:
            if interruption.made:
                raise interruption.error() from None
            time.sleep(HELD_SECONDS)
        except InterruptedRun:
            raise
        except PolyakError as error:
            return str(error)
        except Exception:
            return traceback.format_exc()
        else:
            return None


def _said_before(_doubt: str) -> None:
    """A study says once, before anything runs, what is strange about its networks."""
