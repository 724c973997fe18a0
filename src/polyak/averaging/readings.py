"""Reading a bank: its averages, and what it says about them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from threading import RLock
from typing import Any, Literal

import torch
from torch import Tensor, nn

from polyak.averaging.counting import Counting
from polyak.averaging.kernels import refuse_negative_variances
from polyak.averaging.kinds import Average
from polyak.averaging.kinds.combination import CURRENT, shares_by_name
from polyak.averaging.kinds.counters import Counters
from polyak.averaging.kinds.profiles.explain import coinciding, explain
from polyak.averaging.kinds.profiles.profile import profile_in_bank
from polyak.averaging.live.models import LiveModels
from polyak.averaging.model.buffers import Buffers, described
from polyak.averaging.model.copies import copy_holding
from polyak.averaging.model.current import CurrentWeights
from polyak.averaging.model.swap import lending, refuse_now
from polyak.averaging.notices import Notices
from polyak.averaging.scalars import Scalars
from polyak.averaging.storage.store import Store
from polyak.averaging.updates import Updates
from polyak.errors import ConfigError, unknown


class ReadableAverages:
    """What can be read of one bank; what is open is closed before.

    Args:
        kinds: The averages by name.
        current: The weights that are averaged.
        store: The averages' tensors.
        updates: The counts.
        counting: What is counted.
        live_models: Models that are averages.
        lock: Held while a reading must not meet an update.
    """

    def __init__(
        self,
        kinds: Mapping[str, Average],
        current: CurrentWeights,
        store: Store,
        updates: Updates,
        counting: Counting,
        live_models: LiveModels,
        lock: RLock,
    ) -> None:
        self._kinds = kinds
        self._current = current
        self._store = store
        self._updates = updates
        self._counting = counting
        self._live_models = live_models
        self._lock = lock
        self._notices = Notices(kinds, current, store, counting.begun)
        self._scalars = Scalars(kinds, current, store)

    @property
    def names(self) -> tuple[str, ...]:
        """The averages' names, in the order given."""
        return tuple(self._kinds)

    @property
    def every(self) -> int:
        """Optimizer steps per update."""
        return self._updates.every

    @property
    def steps(self) -> int:
        """Optimizer steps counted so far; waits for a device if it must."""
        return self._counters.steps

    @property
    def updates(self) -> int:
        """Updates so far: steps // every, less those skipped, plus those made by hand."""
        return self._counters.updates

    @property
    def skipped(self) -> int:
        """Updates skipped because weights held NaN or infinity."""
        return self._counters.skipped

    @property
    def buffers(self) -> Buffers:
        """What happens to floating-point buffers: "average", "copy", or which by name."""
        return self._current.buffers

    @property
    def model(self) -> nn.Module:
        """The module whose weights are averaged, without wrappers."""
        return self._current.model

    def has_begun(self, name: str | None = None) -> bool:
        """Whether an average has taken in weights; until then it holds the initial ones.

        Example:
            >>> import polyak
            >>> averager = polyak.Averager(nn.Linear(2, 1), polyak.Uniform(start=1))
            >>> averager.step(), averager.has_begun()
            (None, False)
            >>> averager.step(), averager.has_begun()
            (None, True)
        """
        name = self._named(name)
        self._require(name)
        return self._counters.folded[name] > 0

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Let no other thread update an average, or read one, for the length of the block."""
        with self._lock:
            yield

    @contextmanager
    def applied(self, name: str | None = None) -> Iterator[nn.Module]:
        """Let the model hold an average, in eval mode, for the length of the block.

        On leaving, also by an exception, its own weights and every module's train flag are back.
        Inside, `step`, `update` and `state_dict` are refused. Blocks nest; of those that overlap
        otherwise the latest counts, and another thread's are refused.

        Parameters are lent, not copied: whoever writes to them inside writes to the average.
        Buffers may be written to. Run backward where forward ran, inside or outside: gradients
        are taken at the weights held then.
        """
        name = self._named(name)
        with self._lock:
            self._begin_reading(name)
        with self._lent(name, evaluating=True):
            yield self.model

    @torch.no_grad()
    def module(self, name: str | None = None, *, share_frozen: bool = False) -> nn.Module:
        """A copy of the model that holds an average, in eval mode and without gradients.

        It has the model's own dtypes. Later updates and steps do not reach it.

        Args:
            name: The average's.
            share_frozen: Let the copy's frozen parameters lie in the model's memory, which saves
                the copy of a large base. What is written to either is then in both.

        Raises:
            StateError: for a model that is spread over processes.
        """
        with self._lock:
            name = self._named(name)
            self._begin_reading(name)
            return copy_holding(
                self.model,
                self._store.weights(name),
                current=self._current.check(values=True),
                buffers=self.buffers,
                owner=self,
                share_frozen=share_frozen,
            )

    def live(self, name: str | None = None) -> nn.Module:
        """A second model beside the first that is an average, at any time: a teacher, a target.

        Its parameters lie in the average's memory, so that an update of the average is one of
        this model, and nothing is copied; frozen ones lie in the model's. In eval mode and
        without gradients at first. What is no weight, such as a buffer that is not persistent, is
        its own. `docs/teachers.md` shows it in loops.

        Of a model under FSDP2 it holds shards, and gathers them where that does: all processes run
        it together. `fully_shard` needs not be called of it.

        Where an average has another dtype or device than the model, one copy is refreshed before
        a forward pass or `state_dict()` that follows an update. So it is with a live model that is
        cast or moved, spectral norm's vectors, and the parameters of modules with a `train` of
        their own.

        It may be compiled, hooked, wrapped, put in train mode: buffers that its forward passes
        write to are copies then, forgotten at the next. Whoever writes to its parameters writes
        to the average. An update between its forward and backward pass makes that backward pass
        raise, as with any module whose weights are written to.

        Args:
            name: The average's.

        Raises:
            StateError: for a model that is spread over processes otherwise than by FSDP2.

        Example:
            >>> import polyak
            >>> student = nn.Linear(2, 1)
            >>> averager = polyak.Averager(student, polyak.EMA(0.5, warmup=None))
            >>> teacher = averager.live()
            >>> with torch.no_grad():
            ...     _ = student.bias.fill_(1.0), teacher.bias.fill_(0.0)
            >>> averager.update()
            >>> teacher.bias.item()
            0.5
        """
        with self._lock:
            name = self._named(name)
            self._begin_reading(name)
            return self._live_models.build(name, owner=self)

    @torch.no_grad()
    def tensors(self, name: str | None = None) -> dict[str, Tensor]:
        """Independent copies of an average's weights under the keys of `state_dict()`.

        Averaged tensors keep its dtype, but bfloat16 ones of a wider model are float32. Extra
        states are the model's, if tensors. Of a sharded model they are DTensors.
        """
        name = self._named(name)
        return self.all_tensors([name])[name]

    @torch.no_grad()
    def all_tensors(
        self, names: Sequence[str] | None = None, *, copy: Callable[[Tensor], Any] = torch.clone
    ) -> dict[str, dict[str, Any]]:
        """`tensors` of several averages at one moment, in which what they share is one tensor.

        That is frozen weights, such as the base that adapters are trained on, and copied buffers.

        Args:
            names: Which averages; None means all.
            copy: What makes a copy of a tensor; called once for each, also of a sharded model.
        """
        chosen = self.names if names is None else names
        with self._lock:
            for name in chosen:
                self._begin_reading(name)
            return self._store.tensors(chosen, copy=copy)

    @torch.no_grad()
    def combine(
        self,
        shares: Mapping[str, float] | Average,
        *,
        statistics: Literal["combine", "current"] = "combine",
    ) -> dict[str, Tensor]:
        """The sum of kept averages with shares that sum to one, under the keys of `state_dict()`.

            m = Σ_k c_k·m_k,   Σ_k c_k = 1

        Sums are float64, tensors as those of `tensors`; what is copied is copied. BatchNorm
        statistics are sums of the averaged ones, never of refreshed ones: recompute them.

        Args:
            shares: By name of an average, negative ones included, "current" for the model's
                weights of now; or a kind such as `Combination.lag_free(100)` whose parts are kept.
            statistics: "current" takes BatchNorm statistics as the model has them now.

        Raises:
            ConfigError: for names and parts that are not kept, shares that do not sum to one, and
                negative ones that make a variance negative.

        Example:
            >>> import polyak
            >>> averager = polyak.Averager(nn.Linear(2, 1), [0.99, 0.998])
            >>> list(averager.combine({"ema_0.99": 2, "ema_0.998": -1}))
            ['weight', 'bias']
        """
        found = shares_by_name(shares, self._kinds)
        if statistics not in ("combine", "current"):
            raise ConfigError(unknown("statistics", statistics, ("combine", "current")))
        now = 0.0 if CURRENT in self._kinds else found.pop(CURRENT, 0.0)
        with self._lock:
            for name in found or self.names[:1]:
                self._begin_reading(name)
            refuse_now("combine()", self.model)
            state = self._store.combined(found, current=now, own=statistics == "current")
        if min([now, *found.values()]) < 0:
            remedy = "Take the model's own, by statistics='current'"
            refuse_negative_variances(state, remedy=remedy)
        return state

    @torch.no_grad()
    def standstill(self, name: str | None = None) -> float:
        """Share of an average's values that the next update would leave as they are.

        Of the values that differ from the model's, in [0, 1]: near 1 for a decay too slow for the
        average's dtype, whose step w·(x − m) is lost in rounding; 0 if none differs.
        """
        name = self._named(name)
        kind = self._require(name)
        refuse_now("standstill()", self.model)
        with self._lock:
            counters = self._counters
            w = kind.weight(counters.next_update(), counters.folded[name])
            return self._store.standstill(name, w)

    @torch.no_grad()
    def scalars(self) -> dict[str, float]:
        """Numbers for the curves of a logger, by `<average>/<what>`, and `skipped`.

        `decay` is the one in force, that of the next update; `age` the mean age of what is in the
        average, in optimizer steps, left out where skipped or additional updates made it unknown;
        `distance` that to the current weights over their norm, ‖m − x‖/‖x‖, of all averaged
        parameters. `skipped` counts updates that bad weights had skipped.

        Reads every weight once and waits for the device. Of a sharded model each process must
        call it. Refused while the model holds an average.

        Example:
            >>> import polyak
            >>> averager = polyak.Averager(nn.Linear(2, 1), 0.9)
            >>> averager.update()
            >>> round(averager.scalars()["ema_0.9/decay"], 3)
            0.182
        """
        refuse_now("scalars()", self.model)
        with self._lock:
            counters = self._counters
            self._current.now()
            return self._scalars.of(counters)

    def profile(self, name: str | None = None) -> tuple[float, ...]:
        """Weights of the initial weights and of each update so far in an average; they sum to 1.

        Raises:
            StateError: if they depend on steps that skipped or additional updates left unknown.
        """
        with self._lock:
            name = self._named(name)
            kind, counters = self._require(name), self._counters
            folded, begun = counters.folded[name], counters.begun.get(name, 0)
            return profile_in_bank(kind, counters, folded=folded, begun=begun)

    def explain(self, *, total_steps: int | None = None) -> str:
        """In words: half-lives, end of warm-up, mean ages, share of the initial weights left.

        Args:
            total_steps: Of a whole run, to say the same of its end; None says how it is now.
        """
        with self._lock:
            counters = self._counters
            self._notices.told |= counters.updates > 0
            said = explain(self._kinds, counters, total_steps=total_steps)
        rules = self.buffers
        return said if isinstance(rules, str) else f"{said}\nbuffers: {described(rules)}"

    def coinciding(self) -> list[list[str]]:
        """Groups of averages that are equal so far, mostly because warm-up still sets their decays.

        To compare them tells nothing. Who has not asked is warned at the first reading.
        """
        with self._lock:
            self._notices.told = True
            counters = self._counters
            steps, updates = counters.position, counters.updates
            return coinciding(self._kinds, steps=steps, updates=updates, begun=counters.begun)

    @property
    def _counters(self) -> Counters:
        """The counts, nothing being open any more."""
        with self._lock:
            return self._updates.counters

    def _named(self, name: str | None) -> str:
        """The name of an average, which may be left out where there is one.

        Raises:
            ConfigError: if there are several.
        """
        if name is None and len(self._kinds) > 1:
            raise ConfigError(
                f"name is None; expected one of {', '.join(self._kinds)}. "
                "It may be left out where there is one average."
            )
        return next(iter(self._kinds)) if name is None else name

    def _require(self, name: str) -> Average:
        """The kind of an average.

        Raises:
            ConfigError: if there is none of that name.
        """
        # Not everything that is given for a name can be looked up, such as a list.
        if not isinstance(name, str) or name not in self._kinds:
            raise ConfigError(unknown("average", name, self._kinds))
        return self._kinds[name]

    def _begin_reading(self, name: str) -> None:
        """Say what there is to say before an average is read."""
        self._require(name)
        self._counting.admit_added()
        self._notices.check(name, self._updates.counters)

    def _lent(self, name: str, *, evaluating: bool = False) -> AbstractContextManager[None]:
        """A block in which the model holds an average, if `evaluating` in eval mode."""
        current = self._current.check(values=True) if evaluating else self._current.now()
        weights = self._store.weights(name)
        return lending(self._current.modules, current, weights, owner=self, evaluating=evaluating)
