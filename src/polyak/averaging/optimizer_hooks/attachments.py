"""All optimizers whose steps one averager counts."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import Tensor

from polyak.averaging.optimizer_hooks.attachment import Attachment
from polyak.averaging.optimizer_hooks.nested import find_steppers
from polyak.errors import ConfigError, StateError, few


class Attachments:
    """What `attach` has been given so far.

    Args:
        admit: Takes what an attachment's optimizers write to, and may refuse it by raising.
        before_step: As in `Attachment`.
        on_step: As in `Attachment`.
    """

    def __init__(
        self,
        admit: Callable[[Iterator[Tensor]], None],
        before_step: Callable[[], None],
        on_step: Callable[[Tensor | None], None],
    ) -> None:
        self._admit = admit
        self._before_step = before_step
        self._on_step = on_step
        self._known: dict[Attachment, int] = {}
        """Each with the number of parameters that were admitted."""

    def add(self, optimizers: Sequence[Any]) -> Attachment:
        """Count the rounds of these.

        Raises:
            ConfigError: for none, and for what is no optimizer, nor a wrapper of one.
            StateError: if one of them is attached already.
        """
        if not optimizers:
            raise ConfigError("attach() got no optimizer; expected at least one. Pass it.")
        steppers = find_steppers(optimizers)
        known = set(map(id, self.optimizers))
        if any(id(x.optimizer) in known for root in steppers for x in root.steppers()):
            raise StateError(
                "the optimizer is attached already; expected one that is not, or each step would "
                "count twice. Call remove() of the handle that attach() gave first."
            )
        self._admit(x for root in steppers for x in root.parameters())
        attachment = Attachment(steppers, before_step=self._before_step, on_step=self._on_step)
        self._known[attachment] = attachment.size
        return attachment

    def admit_added(self) -> None:
        """Admit what was added to an attached optimizer since it was last looked at."""
        for attachment, size in self._known.items():
            if (now := attachment.size) != size:
                self._admit(attachment.parameters())
                self._known[attachment] = now

    @property
    def optimizers(self) -> list[Any]:
        """The attached optimizers that still exist, and those within them."""
        return [x for attachment in self._known for x in attachment.optimizers]

    def begun(self) -> bool:
        """Whether any optimizer has begun to step, be it one of a round that is not over."""
        return any(attachment.begun for attachment in self._known)

    def parameters(self) -> Iterator[Tensor]:
        """All that they write to."""
        for attachment in self._known:
            yield from attachment.parameters()

    def write_all(self, parameters: Sequence[Tensor]) -> bool:
        """Whether they hold all of these parameters, and write to them in their steps alone."""
        alone = not any(attachment.writes_between_steps for attachment in self._known)
        return alone and set(map(id, self.parameters())).issuperset(map(id, parameters))

    def refuse(self, call: str) -> None:
        """Refuse to count by hand what is counted already.

        Raises:
            StateError: while an attached optimizer exists.
        """
        if found := self.optimizers:
            raise StateError(
                f"{call} was called while {few({type(x).__name__ for x in found})} is attached; "
                "expected one of both, or each step would count twice. Drop the call, or call "
                "remove() of the handle that attach() gave."
            )
