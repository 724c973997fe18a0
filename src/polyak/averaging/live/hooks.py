"""What a live model calls before forward passes: they see the average of now, and only read it."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from polyak.averaging.model import places


class RefreshHook:
    """Refreshes what is not in place, if the average has moved since.

    Args:
        binding: Has `stale` and `refresh()`.
    """

    def __init__(self, binding: Any) -> None:
        self._binding = binding

    def __call__(self, *_: object) -> None:
        """Look at one flag: of a count, torch.compile would compile anew for every value."""
        if self._binding.stale:
            self._binding.refresh()

    def __reduce__(self) -> Any:
        return without_hook, ()


class BuffersHook:
    """Keeps forward passes of one module from writing to an average's buffers.

    In eval mode BatchNorm only reads its statistics, so they stand in it as they are. In train
    mode, and in modules that are not known to read only, each forward pass begins with copies.

    Args:
        module: Whose buffers; it is not kept alive.
        names: Of the weights that they are, by their names in the module.
    """

    def __init__(self, module: nn.Module, names: Mapping[str, str]) -> None:
        self._buffers = places.buffers(module)
        self._names = dict(names)
        self._only_reads = isinstance(module, _NormBase)
        self._sources: dict[str, Tensor] = {}
        self._in_place = False
        self._copies_shown = False
        self._stale = True

    def __call__(self, module: nn.Module, *_: object) -> None:
        """Put what the forward pass may see into the module."""
        if module.training or not self._only_reads:
            self.show_copies()
        elif self._in_place and self._copies_shown:
            self.show_sources()
        elif self._stale:
            self.show_copies()

    def follow(self, sources: Mapping[str, Tensor]) -> None:
        """Read these from now on, by the names of weights."""
        self._sources = {key: sources[name] for key, name in self._names.items() if name in sources}
        self._in_place = self._only_reads and all(
            fits(source, self._buffers[key]) for key, source in self._sources.items()
        )
        self._stale = not self._in_place
        if self._in_place and not self._copies_shown:
            self.show_sources()

    def stands(self) -> bool:
        """Whether the average's own buffers stand in the module, so that it follows by itself."""
        if not self._in_place or self._copies_shown:
            return False
        return all(self._buffers[key] is source for key, source in self._sources.items())

    def show_sources(self) -> None:
        """Let the average's own buffers stand in the module, or copies if they cannot."""
        if not self._in_place:
            self.show_copies()
            return
        self._buffers.update(self._sources)
        self._copies_shown = False

    def show_copies(self) -> None:
        """Let copies stand in the module, in the dtype and place of what stands there."""
        for key, source in self._sources.items():
            here = self._buffers[key]
            self._buffers[key] = source.to(device=here.device, dtype=here.dtype, copy=True)
        self._copies_shown, self._stale = True, False

    def __reduce__(self) -> Any:
        return without_hook, ()


class ShowHook(RefreshHook):
    """Lets a part of a live model hold the average itself before its state is read.

    Args:
        binding: As for `RefreshHook`.
        buffers: Hooks whose copies of buffers, which forward passes wrote to, are forgotten.
    """

    def __init__(self, binding: Any, buffers: Sequence[BuffersHook]) -> None:
        super().__init__(binding)
        self._buffers = buffers

    def __call__(self, *_: object) -> None:
        """Forget also what forward passes wrote to copies of buffers."""
        super().__call__()
        for hook in self._buffers:
            hook.show_sources()


def fits(source: Tensor, place: Tensor) -> bool:
    """Whether a tensor can stand for another as it is."""
    return source.dtype is place.dtype and source.device == place.device


def without_hook() -> Any:
    """What stands for a hook in copies and pickles of a live model, which are just models."""
    return _nothing


def _nothing(*_: object) -> None:
    """Of a copy nothing has to be kept right."""
