"""Steps as they come in: by hand, or from the optimizers that are attached."""

from collections.abc import Iterable, Sequence
from threading import RLock
from typing import Any

import torch
from torch import Tensor

from polyak.averaging.live.models import LiveModels
from polyak.averaging.model.current import CurrentWeights
from polyak.averaging.model.swap import holds_lent_weights, refuse_now
from polyak.averaging.optimizer_hooks.attachment import Attachment
from polyak.averaging.optimizer_hooks.attachments import Attachments
from polyak.averaging.storage.store import Store
from polyak.averaging.updates import Updates


class Counting:
    """Tells one bank's updates of each step, once.

    While an average is applied, steps and updates are refused.

    Args:
        current: The weights that are averaged.
        store: The averages' tensors.
        updates: Where steps are counted.
        live_models: Told of every update.
        lock: Held during an update.
    """

    def __init__(
        self,
        current: CurrentWeights,
        store: Store,
        updates: Updates,
        live_models: LiveModels,
        lock: RLock,
    ) -> None:
        self._current = current
        self._store = store
        self._updates = updates
        self._live_models = live_models
        self._lock = lock
        self._attachments = Attachments(self._admit, self._before_step, self._on_step)
        self.tried = False
        """Whether a step or an update was begun here, or counts were taken over."""

    def begun(self) -> bool:
        """Whether there was anything to count so far, if only an optimizer that has begun."""
        return self.tried or self._attachments.begun()

    def attach(self, optimizers: Sequence[Any]) -> Attachment:
        """Count the steps of these, and average from now on what they hold."""
        return self._attachments.add(optimizers)

    def admit_added(self) -> None:
        """Average from now on also what was added to an attached optimizer."""
        self._attachments.admit_added()

    def admit_held(self) -> None:
        """Average all that attached optimizers hold, frozen at this moment or not."""
        self._attachments.admit_held()

    def step(self) -> None:
        """Count a step by hand, which is refused while an optimizer is attached."""
        refuse_now("step()", self._current.model)
        self._attachments.refuse("step()")
        self._count(None)

    @torch.no_grad()
    def update(self) -> None:
        """Fold the weights in now."""
        refuse_now("update()", self._current.model)
        self.admit_added()
        self._begin()
        with self._lock:
            self._updates.update()
            self._live_models.changed()
            self._fence_unless_attached()

    def _admit(self, parameters: Iterable[Tensor]) -> None:
        with self._lock:
            self._updates.settle()
            self._store.admit(parameters)
            self._live_models.changed()

    def _before_step(self) -> None:
        refuse_now("optimizer.step()", self._current.model)
        self._attachments.admit_added()
        if self._current.staging is not None:
            self._current.fence()

    def _on_step(self, found_inf: Tensor | None) -> None:
        # Whether a graph is captured was looked at before the step.
        if holds_lent_weights(self._current.model):
            refuse_now("step()", self._current.model)
        self._count(found_inf)

    def _count(self, found_inf: Tensor | None) -> None:
        self._begin()
        with self._lock:
            if self._updates.step(found_inf):
                self._live_models.changed()
                self._fence_unless_attached()

    def _begin(self) -> None:
        self.tried = True
        self._current.end_loading()

    def _fence_unless_attached(self) -> None:
        """Hold the device back while weights come down, unless its next step will do so itself."""
        if self._current.offloaded and not self._attachments.write_all(self._current.parameters):
            self._current.fence()
