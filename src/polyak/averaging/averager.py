"""The bank: several averages of one model's weights, updated together."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from threading import RLock
from typing import Any

import torch
from torch import Tensor, nn

from polyak.averaging.batchnorm.batches import Forward
from polyak.averaging.batchnorm.moments import groups_of
from polyak.averaging.batchnorm.refresh import statistics_of
from polyak.averaging.boards.board import Board, compare
from polyak.averaging.boards.runs import RunInBank
from polyak.averaging.boards.search import Score
from polyak.averaging.counting import Counting
from polyak.averaging.kinds import Average, as_averages
from polyak.averaging.kinds.counters import Counters
from polyak.averaging.kinds.records import to_record
from polyak.averaging.live.models import LiveModels
from polyak.averaging.model.buffers import Buffers
from polyak.averaging.model.copies import restored
from polyak.averaging.model.current import CurrentWeights
from polyak.averaging.model.swap import refuse_now
from polyak.averaging.model.weights import unwrap
from polyak.averaging.optimizer_hooks.attachment import Attachment
from polyak.averaging.readings import ReadableAverages
from polyak.averaging.resuming import Fitted, fit
from polyak.averaging.settings import NonFinite, check_module, check_settings, updates_in
from polyak.averaging.storage.state_dict import check_parts, check_state
from polyak.averaging.storage.store import Store
from polyak.averaging.updates import Updates
from polyak.errors import StateError, warn


class Averager(ReadableAverages):
    """Keeps averages of a model's weights beside a training loop, without touching the loop.

    Update t of every average is  m ← m + w_t·(x − m)  with the lerp weight of its kind, and
    m_0 = x_0. `step()` counts optimizer steps from 1; updates fall after steps every, 2·every, …

    Args:
        model: Any module. Wrappers of torch.compile and DDP are seen through.
        averages: Decays or kinds, or one of them; a plain number means `EMA(number)`. Names must
            differ; where there is one average, `name` may be left out of what reads it.
        every: Optimizer steps per update (the paper's T), ≥ 1.
        total_steps: Optimizer steps of the whole run. Plain decays are then taken as those of the
            paper's run, of 4,887 updates, and fitted to this one's length, d' = d^(4887/updates),
            so that each keeps its share of the run; names have the fitted ones. Kinds stay as
            they are. None takes decays as they are given.
        buffers: "average" treats floating-point buffers like parameters (Cai et al. 2021),
            "copy" takes over the model's at each update, "live" reads them from it. One word, or
            words by names and patterns of `state_dict()`: a name decides before patterns, of
            those the last that matches, then "*", else "average". Frozen parameters may be
            named, too. Integer and sparse buffers and vectors of spectral norm are never averaged.
        dtype: Of the averages; None keeps the weights', with float32 for half precision.
            bfloat16 keeps the rest of a float32 beside it, so that nothing is lost.
        device: Where the averages live; None means beside the weights. "cpu" for a model on a
            CUDA device: host memory, one copy of the model comes down at each update.
        nonfinite: What an update does with weights that hold NaN or infinity: "skip" leaves
            every average as it is and counts in `skipped` (on a CUDA device the host learns of
            it later), "raise" raises (and waits for the device), "allow" folds in.

    Raises:
        ConfigError: for settings outside their range, and a model without weights.
        NonFiniteError: unless "allow", for initial weights that hold NaN or infinity.
        StateError: for lazy modules that have no weights yet.

    Example:
        >>> model = nn.Linear(2, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> averager = Averager(model, [0.9, 0.99])
        >>> handle = averager.attach(optimizer)
        >>> for _ in range(3):
        ...     _ = optimizer.step()
        >>> averager.updates, averager.coinciding()  # warm-up still sets both decays
        (3, [['ema_0.9', 'ema_0.99']])
        >>> with averager.applied("ema_0.99"):
        ...     model.training
        False
    """

    def __init__(
        self,
        model: nn.Module,
        averages: float | Average | Sequence[float | Average],
        *,
        every: int = 1,
        total_steps: int | None = None,
        buffers: Buffers = "average",
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        nonfinite: NonFinite = "skip",
    ) -> None:
        check_module(model)
        length = updates_in(total_steps, every=every)
        kinds, faults = as_averages(averages, updates=length)
        check_settings(
            kinds,
            faults,
            every=every,
            buffers=buffers,
            dtype=dtype,
            device=device,
            nonfinite=nonfinite,
        )
        by_name = {kind.label: kind.at_period(every) for kind in kinds}
        self._snapshots = {n: k.snapshots for n, k in by_name.items() if k.snapshots}
        current = CurrentWeights(unwrap(model), buffers=buffers, device=device)
        shares = {n: by_name[n].snapshot_shares for n in self._snapshots}
        store = Store(
            current,
            list(by_name),
            snapshots=self._snapshots,
            shares=shares,
            dtype=dtype,
            device=device,
        )
        counters = Counters.at_start(by_name, every=every)
        updates = Updates(by_name, counters, current, store, nonfinite)
        # Whoever reads a snapshot from another thread waits for an update to end.
        lock = RLock()
        live_models = LiveModels(current, store, updates, lock)
        counting = Counting(current, store, updates, live_models, lock)
        super().__init__(by_name, current, store, updates, counting, live_models, lock)
        self._groups = groups_of(model, current.mesh)
        updates.check_start()

    def __repr__(self) -> str:
        # Without counts, for which a device would be waited for.
        held = ", ".join(f"{name!r}" for name in self._kinds)
        return f"Averager({type(self.model).__name__}, [{held}], every={self.every})"

    def attach(self, *optimizers: torch.optim.Optimizer) -> Attachment:
        """Count a step whenever the optimizer has stepped; of several, the last of each round.

        A round is one step of each, in the order of the first; optimizers that no longer exist
        are not waited for. Steps that gradient accumulation or GradScaler leave out are not
        counted, nor is their round. While an average is applied, a step is refused.

        Parameters that they hold are averaged from now on, frozen at any moment or not, and
        those of `add_param_group` from then on. The handle's `remove()` ends the counting.

        Raises:
            ConfigError, StateError: for what is no optimizer, or is attached already.
            WeightMismatchError: for parameters that were frozen and have moved since; for added
                ones at the optimizer's next step.
        """
        return self._counting.attach(optimizers)

    def step(self) -> None:
        """Count one optimizer step, and update when `every` steps have gone by.

        A step of which the update fails is not counted, and no average changes. Refused while an
        optimizer is attached, whose steps count without it.
        """
        self._counting.step()

    def update(self) -> None:
        """Fold the model's weights into every average now.

        Raises:
            WeightMismatchError: if weights appeared, vanished, changed shape, or moved frozen.
            NonFiniteError: for NaN or infinity under `nonfinite="raise"`.
        """
        self._counting.update()

    def track(self) -> None:
        """Average from now on also what trains now; what was averaged stays so, frozen or not.

        Call it when places were filled, and after unfreezing, before the first step: until then
        an average is what a parameter was. What has moved goes on from its values of now.
        """
        refuse_now("track()", self.model)
        with self._lock:
            self._updates.settle()
            self._store.track()
            self._counting.admit_held()
            self._live_models.changed()

    @torch.no_grad()
    def adopt(self, weights: Mapping[str, Mapping[str, Tensor]], *, steps: int) -> None:
        """Continue with averages that another tool has kept, as if they had been kept here.

        Args:
            weights: Of every average a state dict, such as `read_foreign(path, model)["average"]`.
                Buffers that it lacks, frozen weights and what is copied are the model's.
            steps: Optimizer steps so far, ≥ 0: a tool's updates times `every`.

        Raises:
            StateError: if this averager has counted a step.
            ConfigError: for other names or numbers, and for windows.
            WeightMismatchError, NonFiniteError: for weights not the model's, or not finite.
        """
        refuse_now("adopt()", self.model)
        with self._lock:
            self._updates.adopt(weights, steps=steps)
            self._counting.tried = True
            self._live_models.changed()

    def refresh_batchnorm(
        self,
        batches: Iterable[Any],
        names: str | Sequence[str] | None = None,
        *,
        max_samples: int | None = None,
        forward: Forward | None = None,
        progress: bool = False,
        pooled: bool = True,
        all_ranks: bool = True,
    ) -> None:
        """Compute BatchNorm statistics for averages, all in one pass over the data.

        They lie beside the averaged ones until the next update: no later average changes by a bit.

        Args:
            batches: And what follows but `names`, as in `polyak.refresh_batchnorm`.
            names: Which average or averages; None means all.
        """
        refuse_now("refresh_batchnorm()", self.model)
        chosen: Sequence[Any] = self.names
        if names is not None:
            one = isinstance(names, str) or not isinstance(names, Iterable)
            chosen = [names] if one else list(names)
        with self._lock:
            for name in chosen:
                self._begin_reading(name)
        statistics = statistics_of(
            self.model,
            batches,
            {name: partial(self._lent, name) for name in chosen},
            groups=self._groups if all_ranks else [],
            max_samples=max_samples,
            forward=forward,
            progress=progress,
            pooled=pooled,
        )
        with self._lock:
            self._store.refresh(statistics)
            self._live_models.changed()

    def drop_refreshed(self) -> None:
        """Go back to averaged BatchNorm statistics now instead of at the next update."""
        refuse_now("drop_refreshed()", self.model)
        with self._lock:
            self._updates.settle()
            self._store.drop_refreshed()
            self._live_models.changed()

    def board(self, score: Score, *, largest_error: float = 0.05) -> Board:
        """Compare the averages that can be made of those kept, now, by kind and width.

        As `polyak.board` of files, of the present moment alone: chosen on one half of the held-out
        items, scored on the other, in at most 40 scores. The score may load what it is given into
        the model, which is in eval mode then: afterwards the model is as it was.

        Args:
            score: As for `polyak.board`.
            largest_error: As for `polyak.synthesize`.

        Raises:
            ConfigError, NonFiniteError, StateError: as `polyak.board`.

        Example:
            >>> import polyak
            >>> model = nn.Linear(4, 1)
            >>> averager = Averager(model, [polyak.EMA(0.5, None), polyak.EMA(0.9, None)])
            >>> for _ in range(20):
            ...     _ = nn.init.normal_(model.weight)
            ...     averager.step()
            >>> found = averager.board(lambda state: state["weight"].square().expand(2, 4))
            >>> found.best.chosen <= found.kept.chosen
            True
        """
        refuse_now("board()", self.model)
        before = self.updates
        try:
            with restored(self.model, frozen=self._current.now().frozen.values()):
                return compare(RunInBank(self, self._kinds), score, largest_error=largest_error)
        finally:
            if self.updates != before:
                raise StateError(
                    f"the averager has gone from {before} to {self.updates} updates meanwhile; "
                    "expected none. Let neither the score nor another thread train."
                )

    def state_dict(self) -> dict[str, Any]:
        """Everything that an exact continuation needs; tensors are references, as in torch."""
        refuse_now("state_dict()", self.model)
        with self._lock:
            self._updates.settle()
            self._store.refuse_torn()
            self._current.refuse_unsound(values=True)
            return self._record()

    def _record(self) -> dict[str, Any]:
        return {
            "history": self._counters.record(),
            "averages": {name: to_record(kind) for name, kind in self._kinds.items()},
            **self._store.record(),
        }

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any], *, strict: bool = True) -> None:
        """Continue exactly where `state_dict()` was taken; what is frozen since stays averaged.

        Args:
            state: What it gave.
            strict: False lets a bank of other averages, or another period, go on with those that
                the state has under the same name, and warns of what does not go on as it was.
                The others begin anew at the model's weights of now: load the model before.

        Raises:
            ConfigError: for other averages or another period, unless `strict` is False and one
                goes on; for other `buffers`.
            WeightMismatchError: for other weights, or averages of another dtype.
        """
        refuse_now("load_state_dict()", self.model)
        with self._lock:
            own = self._record()
            check_parts(state, own)
            fitted = Fitted(state) if strict else fit(state, own, snapshots=self._snapshots)
            state = fitted.state
            check_state(state, own, snapshots=self._snapshots)
            self._store.restore(state)
            self._store.begin_anew(fitted.anew)
            self._counters.restore(state["history"])
            self._counting.tried = True
            self._live_models.changed()
        if fitted.said:
            warn(f"the state was loaded in part: {'; '.join(fitted.said)}.")

    def __reduce__(self) -> Any:  # deepcopy asks for this, too
        raise StateError(
            "an averager is bound to its model; expected no copy or pickle of it. Keep it outside "
            "the module if that is what you copy, and save its state_dict()."
        )
