"""What is said, once each, where an average that is about to be read is not what one thinks."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from polyak.averaging import kernels
from polyak.averaging.kinds import Average
from polyak.averaging.kinds.counters import Counters
from polyak.averaging.kinds.profiles.explain import equal_groups, equal_until
from polyak.averaging.model.current import CurrentWeights
from polyak.averaging.model.swap import holds_lent_weights
from polyak.averaging.storage.store import Store
from polyak.errors import warn

_SAMPLES = 64
"""Values of a weight that are looked at, to see if training has moved it."""


class Notices:
    """Warns of steps that nobody counts, and of averages that are still equal.

    Args:
        kinds: The averages by name, decays per update.
        current: The weights that are averaged.
        store: The averages' tensors.
        begun: Whether there was anything to count so far.
    """

    def __init__(
        self,
        kinds: Mapping[str, Average],
        current: CurrentWeights,
        store: Store,
        begun: Callable[[], bool],
    ) -> None:
        self._begun = begun
        self._kinds = kinds
        self._current = current
        self._store = store
        self._dtypes = {name: x.dtype for name, x in current.here.averaged.items()}
        self._warned = False
        self.told = False
        """Whether the user knows which averages are equal so far, or none is."""

    def check(self, name: str, counters: Counters) -> None:
        """Look at an average that is about to be read; the counts must be settled."""
        if not (self._warned or self._begun()):
            self._check_counted()
        elif not self.told and counters.updates:
            self._check_equal(name, counters)

    def _check_counted(self) -> None:
        self._current.check(values=True)  # what is refused by name needs no warning
        if holds_lent_weights(self._current.model):
            return
        [held, *_] = self._store.rows.values()
        found, here = self._current.found.averaged, self._current.here.averaged
        # Forward passes move buffers, and a cast rounds.
        own = [n for n, x in found.items() if isinstance(x, nn.Parameter) and n in here]
        names = [n for n in own if here[n].dtype is self._dtypes.get(n)]
        reshaped = any(x.shape != held[n].shape for n, x in here.items() if n in held)
        if reshaped or not _differ([held[n] for n in names], [here[n] for n in names]):
            return
        # Of another thread's step the weights may have been seen, and its beginning not.
        if self._begun():
            return
        self._warned = True
        warn(
            "no step has been counted although the weights have moved; every average is still the "
            "initial weights. Call attach(optimizer), or step() after each optimizer step, or "
            "build the averager once the weights are loaded."
        )

    def _check_equal(self, name: str, counters: Counters) -> None:
        steps, updates = counters.position, counters.updates
        groups = equal_groups(self._kinds, steps=steps, updates=updates, begun=counters.begun)
        self.told = not groups
        for reason, names in groups:
            if name in names:
                self.told = True
                until = equal_until([self._kinds[n] for n in names], counters)
                end = "" if until is None else f", all of them until step {until}"
                warn(
                    f"{' = '.join(names)}: equal so far, {reason}{end}. To compare them tells "
                    "nothing; coinciding() says which averages are one."
                )
                return


@torch.no_grad()
def _differ(held: Sequence[Tensor], current: Sequence[Tensor]) -> bool:
    """Whether samples of the first differ from those of the second, as they would be stored."""
    flags = []
    for m, x in zip(held, current, strict=True):
        if not m.numel():
            continue
        stride = max(1, m.numel() // _SAMPLES)
        kept, now = (y.detach().reshape(-1)[::stride] for y in (m, x))
        if kernels.needs_remainder(m.dtype):
            now, _ = kernels.split(now.float())
        flags.append((kept != now.to(kept)).any())
    # One look at each device, which is waited for once.
    by_device: dict[torch.device, list[Tensor]] = {}
    for flag in flags:
        by_device.setdefault(flag.device, []).append(flag)
    return any(bool(torch.stack(found).any()) for found in by_device.values())
