"""Counting steps and making updates, also where a device tells only later what came of them.

A step may turn out to have been skipped (a fused optimizer under GradScaler), an update to have
met NaN, and weights on their way to host memory have not arrived. None of them makes the host
wait for the device: such an update stays open, and is closed when its outcome is there, at the
latest before the next one that may be due and before anybody reads.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from polyak.averaging import adoption
from polyak.averaging.kinds import Average, Update, lerp_weights
from polyak.averaging.kinds.counters import Counters
from polyak.averaging.model.current import CurrentWeights
from polyak.averaging.model.transfer import Lagged
from polyak.averaging.settings import NonFinite
from polyak.averaging.storage.store import Store
from polyak.errors import ConfigError, NonFiniteError, StateError, few, warn


@dataclass(slots=True)
class _Open:
    """An update of which something is not known or not done yet."""

    moment: Update
    steps: int
    weights: Mapping[str, float]
    left_out: Lagged | None
    """Whether the step that it follows was skipped; None: it was not."""

    finite: Lagged | None = None
    folded: bool = False
    """Whether a device has folded the weights in, if it was to."""


class Updates:
    """The updates of one bank.

    Args:
        kinds: The averages by name.
        counters: Counts so far.
        current: The weights to average.
        store: The averages' tensors.
        nonfinite: What an update does with weights that are not finite.
    """

    def __init__(
        self,
        kinds: Mapping[str, Average],
        counters: Counters,
        current: CurrentWeights,
        store: Store,
        nonfinite: NonFinite,
    ) -> None:
        self._kinds = kinds
        self._counters = counters
        self._current = current
        self._store = store
        self._nonfinite: NonFinite = nonfinite
        self._windows = [name for name, kind in kinds.items() if kind.snapshots is not None]
        self._unknown: list[Lagged] = []
        """Steps after those counted, each with whether it was skipped."""
        self._open: _Open | None = None

    def check_start(self) -> None:
        """Refuse initial weights that are not finite, on all processes if on one.

        Raises:
            NonFiniteError: unless NaN and infinity are allowed.
        """
        bad = [] if self._nonfinite == "allow" else self._current.nonfinite()
        if self._nonfinite != "allow" and not self._current.all_agree(not bad):
            raise NonFiniteError(
                f"{few(bad) if bad else _ELSEWHERE} hold NaN or infinity; expected finite initial "
                "weights, since every average starts from them. Build the averager after "
                "initialising the model, or with buffers='copy' if they are buffers."
            )

    @property
    def every(self) -> int:
        """Optimizer steps per update."""
        return self._counters.every

    @property
    def counters(self) -> Counters:
        """The counts, with everything settled."""
        self.settle()
        return self._counters

    def step(self, found_inf: Tensor | None = None) -> bool:
        """Count a step, and update if it is due.

        Args:
            found_inf: Not zero where the optimizer skipped the step; it may lag on a device.

        Returns:
            Whether an update was begun.
        """
        if found_inf is not None or self._unknown or self._open is not None:
            return self._step_after_unknown(found_inf)
        # All is known: most steps only count, and do hardly more.
        counters = self._counters
        counters.steps += 1
        if counters.steps % counters.every:
            return False
        try:
            self._begin(None, counters.steps)
        except BaseException:
            self._uncount(None)
            raise
        return True

    @torch.no_grad()
    def _step_after_unknown(self, found_inf: Tensor | None) -> bool:
        """The same where this step or one before it may have been skipped, or an update is open."""
        left_out = None if found_inf is None else Lagged(found_inf)
        # Processes that vote must do so at the same steps, whatever has arrived at which of them.
        if left_out is not None and (self._votes or left_out.arrived()):
            if left_out.value():
                return False
            left_out = None
        every = self._counters.every
        reach = self._counters.steps + len(self._unknown) + 1
        if reach // every > self._counters.steps // every or self._over():
            self.settle()
        if left_out is None:
            self._counters.steps += 1
        else:
            self._unknown.append(left_out)
        # Without unknown steps before it this is exact; with them no update is in reach.
        steps = self._counters.steps + len(self._unknown)
        due = steps % every == 0
        if due:
            try:
                self._begin(left_out, steps)
            except BaseException:
                self._uncount(left_out)
                raise
        return due

    def _uncount(self, left_out: Lagged | None) -> None:
        """Take back a step of which the update failed, so that the next one is due again."""
        if left_out is not None and left_out in self._unknown:
            self._unknown.remove(left_out)
        elif left_out is None:
            self._counters.steps -= 1

    @torch.no_grad()
    def update(self) -> None:
        """Fold the weights in now."""
        self.settle()
        self._begin(None, self._counters.steps)

    @torch.no_grad()
    def adopt(self, weights: Mapping[str, Mapping[str, Tensor]], *, steps: int) -> None:
        """Let tensors and counts be those of a bank that has taken so many steps; all or nothing.

        Raises:
            StateError: if a step was counted, and what `adoption` raises.
        """
        if self.counters.steps or self.counters.updates:
            raise StateError(
                f"adopt() was called after {self.counters.steps} steps and {self.counters.updates} "
                "updates; expected an averager that has counted none. Build a new one."
            )
        kinds, every = self._kinds, self._counters.every
        counts = adoption.counters_after(steps, kinds, every=every)
        if weights.keys() != kinds.keys():
            raise ConfigError(
                f"weights are those of {few(weights) if weights else 'no average'}; expected "
                f"{few(kinds)}. Keep averages that begin now in an averager of their own."
            )
        current = self._current.now()
        taken = {n: adoption.select_averaged(weights[n], current, name=n) for n in kinds}
        bad = [] if self._nonfinite == "allow" else adoption.find_nonfinite(taken)
        if self._nonfinite != "allow" and not self._current.all_agree(not bad):
            raise NonFiniteError(
                f"{few(bad) if bad else _ELSEWHERE} hold NaN or infinity; expected finite "
                "weights. Take an earlier checkpoint."
            )
        self._store.adopt(taken)
        self._counters.restore(counts.record())

    def settle(self) -> None:
        """Close what is open and learn what is unknown; waits for the device if it must."""
        if self._unknown or self._open is not None:
            self._settle()

    @torch.no_grad()
    def _settle(self) -> None:
        for left_out in self._unknown:
            self._counters.steps += not left_out.value()
        self._unknown.clear()
        if self._open is not None:
            begun, self._open = self._open, None
            self._close(begun)

    def _over(self) -> bool:
        """Whether closing what is open would not wait."""
        begun = self._open
        outcomes = [] if begun is None else [begun.left_out, begun.finite]
        arrived = all(outcome is None or outcome.arrived() for outcome in outcomes)
        return begun is not None and arrived and (begun.folded or self._current.sent())

    def _begin(self, left_out: Lagged | None, steps: int) -> None:
        self._store.refuse_torn()
        moment = self._counters.next_update(steps=steps)
        weights = lerp_weights(self._kinds, moment, self._counters.folded)
        begun = _Open(moment, steps, weights, left_out)
        if left_out is None and not (self._current.offloaded or self._current.lags):
            # All that is read is detached, so no gradients need to be turned off.
            self._close(begun)
        else:
            self._begin_open(begun)

    @torch.no_grad()
    def _begin_open(self, begun: _Open) -> None:
        """Begin an update of which something may not be known, or done, at once."""
        left_out, weights = begun.left_out, begun.weights
        if self._current.offloaded:
            self._current.send()
            self._open = begun
            if self._votes:
                self.settle()
            return
        if self._must_know(weights):
            self._open = begun
            self.settle()
            return
        guarded = self._nonfinite == "skip" and self._current.lags
        if left_out is None and not guarded:
            self._close(begun)
            return
        self._fold_on_device(begun, guarded=guarded)
        self._open = begun

    @property
    def _votes(self) -> bool:
        """Whether processes that hold shards ask each other if all of them are finite."""
        return self._current.mesh is not None and self._nonfinite != "allow"

    def _must_know(self, weights: Mapping[str, float]) -> bool:
        """Whether the update cannot be undone by a lerp weight of 0, so that the host waits."""
        return self._nonfinite == "raise" or any(weights[n] > 0 for n in self._windows)

    def _fold_on_device(self, begun: _Open, *, guarded: bool) -> None:
        """Fold with a lerp weight that the device makes 0 where the update must not count."""
        self._store.gather()
        keep = None if begun.left_out is None else ~begun.left_out.flag
        if guarded:
            begun.finite = Lagged(self._store.finite_flag())
            fine = begun.finite.flag
            keep = fine if keep is None else keep.to(fine.device, non_blocking=True) & fine
        self._store.fold(begun.weights, keep=keep)
        begun.folded = True

    def _close(self, begun: _Open) -> None:
        if begun.left_out is not None and begun.left_out.value():
            return
        if not self._fine(begun):
            self._meet_nonfinite(self._current.nonfinite(sent=True))
            return
        if not begun.folded:
            self._store.fold(begun.weights)
        self._store.drop_refreshed()
        self._counters.count(begun.moment, begun.weights, steps=begun.steps, kinds=self._kinds)

    def _fine(self, begun: _Open) -> bool:
        """Whether the weights may be folded in; of those not folded yet, having taken them in."""
        if begun.folded:
            return begun.finite is None or begun.finite.value()
        self._store.gather()
        if self._nonfinite == "allow":
            return True
        return self._current.all_agree(self._store.finite())

    def _meet_nonfinite(self, bad: Sequence[str]) -> None:
        message = (
            f"{few(bad) if bad else _ELSEWHERE} hold NaN or infinity; expected finite weights."
        )
        if self._nonfinite == "raise":
            raise NonFiniteError(f"{message} Lower the learning rate.")
        if not self._counters.skipped:
            warn(
                f"{message} The averages skip such updates; `skipped` counts them."
                f"{_remedy([name for name in bad if name in self._current.found.buffers])}"
            )
        self._counters.skipped += 1


def _remedy(buffers: Sequence[str]) -> str:
    """What to do about buffers that are no statistics, such as masks."""
    if not buffers:
        return ""
    return (
        f" If it is to hold such values, let it be copied: build the averager with "
        f"buffers={{{buffers[0]!r}: 'copy'}}."
    )


_ELSEWHERE = "weights of another process, or overwritten since,"
