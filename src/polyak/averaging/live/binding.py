"""What keeps a live model right: its tensors lie in their sources' memory, or follow them."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from threading import RLock
from weakref import ref

import torch
from torch import Tensor, nn

from polyak.averaging.live.hooks import BuffersHook, RefreshHook, ShowHook, fits
from polyak.averaging.model import places, sharded
from polyak.averaging.model.current import CurrentWeights
from polyak.averaging.model.modes import own_train, renewing
from polyak.averaging.model.weights import sort_weights
from polyak.averaging.storage.store import Store
from polyak.averaging.updates import Updates
from polyak.errors import few, warn


class Binding:
    """Binds a copy of a model to an average.

    A parameter of the copy lies in the memory of its source: the average's tensor, or the model's
    where that is frozen. Where its dtype or device is another, or its module may write to it, it
    has memory of its own and follows: it is refreshed before a forward pass, and before
    `state_dict()`, of any part, if the average has moved since.

    Args:
        module: The copy, modules with a `train` of their own in train mode; it is not kept alive.
        name: The average's.
        current: The weights that are averaged.
        store: The averages' tensors.
        updates: What may be open.
        lock: Held during an update.
    """

    def __init__(
        self,
        module: nn.Module,
        name: str,
        *,
        current: CurrentWeights,
        store: Store,
        updates: Updates,
        lock: RLock,
    ) -> None:
        self._module = ref(module)
        self._name = name
        self._current = current
        self._store = store
        self._updates = updates
        self._lock = lock
        self.stale = False
        """Whether what follows must be refreshed before it is read."""
        parts = list(module.modules())
        found = sort_weights(module, buffers=current.buffers, like=current.layout)
        named = {**found.frozen, **found.live, **found.stored}
        self._names = named.keys()
        # TorchScript's copies of parameters are no Parameters.
        buffers = {id(x) for part in parts for _, x in places.buffers(part).items()}
        parameters = {k: x for k, x in named.items() if id(x) not in buffers}
        private = private_ids(parts)
        self._private = {name for name, x in parameters.items() if id(x) in private}
        self._parameters = {name: sharded.inner(x) for name, x in parameters.items()}
        # Kept as they were before their module wrote to them, as it does to merge an adapter.
        unwritten = self._private & found.frozen.keys()
        self._unwritten = {name: self._parameters[name].clone() for name in unwritten}
        self._bound: dict[str, tuple[Tensor, int, int]] = {}
        """Of each parameter its source, and where that and it lay when it was bound."""
        self._following: set[str] = set()
        hooks = dict(_buffer_hooks(parts, {id(x): k for k, x in named.items()}))
        self._buffers = list(hooks.values())
        self._scripted = not all(map(_takes_hooks, parts))
        self._hooked = self._warned = False
        self._seen: tuple[list[int], ...] = ()
        self._in_place: list[Tensor] = []
        _show_before_state_dict(self, parts, hooks)
        self.changed()

    def changed(self) -> None:
        """Look where the sources lie now that averages have moved; the lock must be held."""
        sources = self._sources()
        if self._places(sources) != self._seen or not all(hook.stands() for hook in self._buffers):
            self._bind_all(sources)
            self._seen = self._places(sources)
        # A graph that has saved them must notice, as if they had been written to by themselves.
        torch.autograd.graph.increment_version(self._in_place)
        torch.clear_autocast_cache()
        # Of averages in host memory the update may be open until somebody asks.
        open_still = self._current.offloaded
        self.stale = bool(self._following) or self._store.computes or open_still
        if self.stale and not self._hooked:
            self._hook()
        if self._scripted:
            self.show()

    def _places(self, sources: Mapping[str, Tensor]) -> tuple[list[int], ...]:
        """Equal as long as every tensor is, and lies, where it was."""
        return (
            list(map(id, sources.values())),
            [x.data_ptr() for x in sources.values() if x.layout is torch.strided],
            [x.data_ptr() for x in self._parameters.values()],
        )

    @torch.inference_mode(False)
    @torch.no_grad()
    def _bind_all(self, sources: Mapping[str, Tensor]) -> None:
        for name, parameter in self._parameters.items():
            if name in sources and not self._is_bound(name, parameter, sources[name]):
                self._bind(name, parameter, sources[name])
        for hook in self._buffers:
            hook.follow(sources)
        if sources.keys() != self._names:
            self._warn_of_other_names(sources)
        self._in_place = [x for k, x in self._parameters.items() if k not in self._following]

    def _sources(self) -> dict[str, Tensor]:
        found = self._current.found
        own = {name: sharded.inner(x) for name, x in {**found.frozen, **found.live}.items()}
        return own | self._store.stored(self._name)

    def _is_bound(self, name: str, parameter: Tensor, source: Tensor) -> bool:
        bound = self._bound.get(name)
        if bound is None or bound[0] is not source:
            return False
        return bound[1:] == (source.data_ptr(), parameter.data_ptr())

    def _bind(self, name: str, parameter: Tensor, source: Tensor) -> None:
        """Let a parameter lie in its source's memory, or follow it."""
        if name in self._unwritten or type(source) not in (Tensor, nn.Parameter):
            return
        if name not in self._private and fits(source, parameter):
            parameter.data = source.detach()
            self._following.discard(name)
        else:
            if self._lies_with_source(name, parameter):
                parameter.data = torch.empty_like(parameter)
            self._following.add(name)
        self._bound[name] = (source, source.data_ptr(), parameter.data_ptr())

    def _lies_with_source(self, name: str, parameter: Tensor) -> bool:
        """Whether it is in the memory of what was its source until now."""
        bound = self._bound.get(name)
        return bound is not None and parameter.data_ptr() == bound[0].data_ptr()

    @torch.inference_mode(False)
    @torch.no_grad()
    def refresh(self) -> None:
        """Give what follows the average's values of now."""
        module = self._module()
        if module is None:
            return
        with self._lock, ExitStack() as undo:
            # Halves of float32 and spectral norm's vectors are computed here.
            self._updates.settle()
            values = {**self._sources(), **self._store.weights(self._name)}
            before, after = renewing(undo, list(module.modules()))
            # What modules make of the weights stays.
            undo.pop_all()
            before()
            for name, x in self._unwritten.items():
                self._parameters[name].data.copy_(x)
            for name in self._following & values.keys():
                self._parameters[name].data.copy_(values[name])
            for hook in self._buffers:
                hook.follow(values)
            after()
            self.stale = False

    def show(self) -> None:
        """Let the copy hold the average itself, whatever forward passes have written to buffers."""
        if self.stale:
            self.refresh()
        for hook in self._buffers:
            hook.show_sources()

    def _hook(self) -> None:
        """Refresh what follows before any part of the copy runs, for parts may run alone."""
        module = self._module()
        self._hooked = True
        for part in [] if module is None else filter(_takes_hooks, module.modules()):
            part.register_forward_pre_hook(RefreshHook(self), prepend=True)

    def _warn_of_other_names(self, sources: Mapping[str, Tensor]) -> None:
        if not self._warned:
            self._warned = True
            warn(
                f"{few(sources.keys() ^ self._names)} came to the model or left it after live() "
                f"was called for {self._name!r}; that live model is as the model was then. "
                "Call live() again."
            )


def private_ids(parts: list[nn.Module]) -> set[int]:
    """Ids of the parameters of modules that may write to them in a `train` of their own."""
    own = own_train(parts)
    return {id(x) for part in own for _, x in places.parameters(part).items() if x is not None}


def _takes_hooks(module: nn.Module) -> bool:
    """TorchScript's modules do not; they are shown the average at every update."""
    return not isinstance(module, torch.jit.ScriptModule)


def _show_before_state_dict(
    binding: Binding, parts: list[nn.Module], buffers: Mapping[int, BuffersHook]
) -> None:
    """Show the average before the state of any part is read, for parts may be saved alone."""
    root, *_ = parts
    scripted = [buffers[id(x)] for x in parts if id(x) in buffers and not _takes_hooks(x)]
    for part in filter(_takes_hooks, parts):
        own = [buffers[id(part)]] if id(part) in buffers else []
        hook = ShowHook(binding, own + scripted if part is root else own)
        # torch leaves it without types.
        part.register_state_dict_pre_hook(hook)  # type: ignore[no-untyped-call]


def _buffer_hooks(
    parts: list[nn.Module], names: Mapping[int, str]
) -> Iterator[tuple[int, BuffersHook]]:
    """The id of each module that has buffers of the average's, and its hook, registered there."""
    for part in parts:
        known = {key: names[id(x)] for key, x in places.buffers(part).items() if id(x) in names}
        if known:
            hook = BuffersHook(part, known)
            if _takes_hooks(part):
                # Spectral norm has hooks of its own that read them.
                part.register_forward_pre_hook(hook, prepend=True)
            yield id(part), hook
