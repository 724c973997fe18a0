"""An averager that somebody else's training loop builds, attaches, lends and saves, by hooks."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, TypedDict, get_args

import torch
from torch import Tensor, nn

from polyak.averaging import Average, Averager
from polyak.averaging.kinds import as_averages
from polyak.averaging.model.buffers import Buffers
from polyak.averaging.model.weights import unwrap
from polyak.averaging.optimizer_hooks.attachment import Attachment
from polyak.averaging.optimizer_hooks.nested import parameters_of
from polyak.averaging.settings import NonFinite, check_settings
from polyak.errors import ConfigError, StateError, unknown
from polyak.integrations.shards import spread
from polyak.integrations.trained import RAW, trained

Save = Literal["raw", "average"]
"""Which weights are saved as the model's: those that are trained, or the average that is lent."""


Loader = Callable[[Averager], None]
"""What reads averages into an averager, where they are not in memory at once."""


_LOGGED = "averages"
"""What the names of logged numbers begin with."""


class Options(TypedDict, total=False):
    """What is passed on to `polyak.Averager` as it is."""

    buffers: Buffers
    dtype: torch.dtype | None
    device: torch.device | str | None
    nonfinite: NonFinite


class Keeper:
    """The averager of a training loop, from before there is a model until after the last test.

    Args:
        averages: Decays or kinds, as of `Averager`.
        every: Optimizer steps per update, ≥ 1.
        apply: Name of the average that `lend` lends; None lends nothing, but the only average if
            `save` or `both` asks for one.
        save: Which weights are saved as the model's.
        both: Whether the model's own weights are evaluated beside the average.
        resume: Whether training that goes on from a checkpoint takes its averages over.
        options: Of `Averager`.

    Raises:
        ConfigError: for settings outside their range, at once and not when training begins.
    """

    def __init__(
        self,
        averages: float | Average | Sequence[float | Average],
        *,
        every: int,
        apply: str | None,
        save: Save,
        both: bool,
        resume: bool,
        options: Options,
    ) -> None:
        kinds, faults = as_averages(averages)
        check_settings(
            kinds,
            faults,
            every=every,
            buffers=options.get("buffers", "average"),
            dtype=options.get("dtype"),
            device=options.get("device"),
            nonfinite=options.get("nonfinite", "skip"),
        )
        self.averager: Averager | None = None
        self.save: Save = save
        names = [kind.label for kind in kinds]
        self.apply = applied_name(apply, names, save=save, both=both)
        self.both = both
        self.resume = resume
        self._kinds = kinds
        self._every = every
        self._options = options
        self._loaded: Mapping[str, Any] | Loader | None = None
        self._attachment: Attachment | None = None
        self._lent = ExitStack()
        self._lending = False

    def begin(self, model: nn.Module, *, resuming: bool) -> Averager:
        """The averager of a model that is about to train; the same one if it was kept before.

        Raises:
            StateError: if training goes on from a checkpoint without averages.
        """
        if not self.resume:
            self._loaded = None
        elif resuming and self._loaded is None:
            raise StateError(
                "the checkpoint holds no averages; expected those of the training that goes on. "
                "Pass one that was saved with them, or resume=False to begin them here."
            )
        if not self.keeps(model):
            self._build(model)
        self.take_over(model)
        assert self.averager is not None
        return self.averager

    def forget(self) -> None:
        """Begin anew with the next model, even if it is the same one."""
        self.detach()
        self.averager = self._loaded = None

    def keeps(self, model: nn.Module) -> bool:
        """Whether there are averages of this model."""
        return self.averager is not None and self.averager.model is unwrap(model)

    def load(self, state: Mapping[str, Any] | Loader) -> None:
        """Remember what `Averager.state_dict()` gave, or how it is read, until there is a model."""
        self._loaded = state

    def take_over(self, model: nn.Module) -> None:
        """Bring the averager to the state that was loaded, if one was."""
        if self._loaded is None:
            return
        if not self.keeps(model):
            self._build(model)
        assert self.averager is not None
        if isinstance(self._loaded, Mapping):
            own = self.averager.state_dict()
            self.averager.load_state_dict(spread(self._loaded, own))
        else:
            self._loaded(self.averager)
        self._loaded = None

    def state(self) -> Mapping[str, Any]:
        """What an exact continuation needs, also while one is lent; empty before training."""
        if self.averager is None or self._loaded is not None:
            return self._loaded if isinstance(self._loaded, Mapping) else {}
        with self.own_weights():
            return {**self.averager.state_dict(), **self._raw()}

    def attach(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        """Count a step when the last of the optimizers that train the model has stepped.

        Raises:
            ConfigError: if none of them does.
        """
        assert self.averager is not None
        self.detach()
        weights = set(map(id, self.averager.model.parameters()))
        training = [x for x in optimizers if weights.intersection(map(id, parameters_of(x)))]
        if not training:
            raise ConfigError(
                f"{len(optimizers)} optimizers train none of the averaged parameters; expected "
                "one that does. Average a module that is trained."
            )
        self._attachment = self.averager.attach(*training)

    def detach(self) -> None:
        """Count no further steps, and give the model its own weights back."""
        self.take_back()
        if self._attachment is not None:
            self._attachment.remove()
            self._attachment = None

    def lend(self) -> bool:
        """Let the model hold the average that `apply` names; False if it has yet to begin.

        An average that has taken in no weights so far still holds the initial ones, which
        nobody means to evaluate: the model then keeps its own.
        """
        if self._lending or not self._begun():
            return self._lending
        assert self.averager is not None
        self._lent.enter_context(self.averager.applied(self.apply))
        self._lending = True
        return True

    @contextmanager
    def lent(self) -> Iterator[None]:
        """The average in the model for the length of the block, if it has begun."""
        lending = self._lending
        self.lend()
        try:
            yield
        finally:
            if not lending:
                self.take_back()

    def take_back(self) -> None:
        """Give the model its own weights and modes back. May be called at any time."""
        self._lending = False
        self._lent.close()

    @property
    def lending(self) -> bool:
        """Whether the model holds the average at this moment."""
        return self._lending

    @contextmanager
    def own_weights(self) -> Iterator[None]:
        """Its own weights for the length of the block, whether an average is lent or not."""
        lending = self._lending
        self.take_back()
        try:
            yield
        finally:
            if lending:
                self.lend()

    def scalars(self) -> dict[str, float]:
        """What there is to log of the averages; nothing before training.

        Of a sharded model every process must call it.
        """
        if self.averager is None:
            return {}
        with self.own_weights():
            found = self.averager.scalars()
        return {f"{_LOGGED}/{key}": value for key, value in found.items()}

    def evaluate_only_one(self) -> None:
        """Lend the only average there is, unless another setting says what is lent."""
        if len(self._kinds) == 1:
            self.apply = self._kinds[0].label

    def write(self) -> None:
        """Let the model hold the average from now on."""
        assert self.averager is not None
        self.averager.model.load_state_dict(self.averager.tensors(self.apply), strict=False)

    def saves_average(self) -> bool:
        """Whether what is saved as the model's weights is an average at this moment."""
        return self.save == "average" and self._begun()

    def _begun(self) -> bool:
        """Whether the average that is lent has taken in some weights."""
        if self.apply is None or self.averager is None:
            return False
        return self.averager.has_begun(self.apply)

    def _raw(self) -> dict[str, dict[str, Tensor]]:
        """The weights that are trained, where the model's own files hold an average."""
        saved = self.averager if self.saves_average() else None
        return {} if saved is None else {RAW: trained(saved)}

    def _build(self, model: nn.Module) -> None:
        self.detach()
        self.averager = Averager(model, self._kinds, every=self._every, **self._options)


def applied_name(
    apply: str | None,
    names: Sequence[str],
    *,
    save: Save,
    both: bool = False,
    called: str = "apply",
) -> str | None:
    """The name of the average that is lent.

    Raises:
        ConfigError: for a name or a word that is none, and where it cannot be known.
    """
    if save not in get_args(Save):
        raise ConfigError(unknown("save", save, get_args(Save)))
    if apply is not None and apply not in names:
        raise ConfigError(unknown(called, apply, names))
    if apply is not None or not (both or save == "average"):
        return apply
    if len(names) > 1:
        asked = "both is True" if both else "save is 'average'"
        raise ConfigError(
            f"{called} is None and {asked}; expected one of {', '.join(names)}. "
            "It may be left out where there is one average."
        )
    return names[0]
