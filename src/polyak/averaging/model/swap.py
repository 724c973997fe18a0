"""Lending other weights to a model for the length of a block.

Nothing of the model is copied: its tensors are made to point at other storage and back. What a
block found is given back by an `ExitStack` of plain calls, so that it can be handed on to
another block.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from threading import RLock, get_ident
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from polyak.averaging.model import memorised, places, sharded
from polyak.averaging.model.modes import evaluate, renewing
from polyak.averaging.model.weights import Weights
from polyak.errors import StateError


def lend(
    undo: ExitStack,
    modules: Sequence[nn.Module],
    tensors: Mapping[str, Tensor],
    weights: Mapping[str, Tensor],
    *,
    sparse: Collection[str] = (),
) -> None:
    """Let each of a model's `tensors` hold the value of the same name in `weights`.

    Where dtype and device agree the storage itself is lent, so writing to the model before it is
    undone writes to `weights`; pass clones of what may be written to.

    Args:
        undo: Gets what gives the model's own back.
        modules: The model and all its parts.
        tensors: Its parameters and buffers by name.
        weights: What they shall hold.
        sparse: Names of buffers that have no storage to exchange: others are put in their places.
    """
    own = {name: tensors[name].data for name in weights if name not in sparse}
    filled = [places.buffers(module) for module in modules if module._buffers]
    buffers = [(mapping, dict(mapping)) for mapping in filled]
    put_back = memorised.set_aside(modules)

    def give_back() -> None:
        for name, data in own.items():
            tensors[name].data = data
        # Undoes `self.seen = self.seen + 1`, with which a forward pass replaces a buffer.
        for mapping, before in buffers:
            mapping.update(before)
        put_back()

    forget, renew = renewing(undo, modules)
    for call in (renew, give_back, forget):
        undo.callback(call)
    forget()
    for name, weight in weights.items():
        if name in sparse:
            places.replace_buffer(modules, tensors[name], weight)
            continue
        data = own[name]
        same = weight.dtype is data.dtype and weight.device == data.device
        tensors[name].data = weight if same else weight.to(data)
    renew()


@contextmanager
def lending(
    modules: Sequence[nn.Module],
    current: Weights,
    weights: Mapping[str, Tensor],
    *,
    owner: object,
    evaluating: bool = False,
) -> Iterator[None]:
    """Let a model hold an average inside the block; in eval mode if `evaluating`.

    Args:
        modules: The model and all its parts.
        current: The model's weights at this moment.
        weights: What they shall hold, by name; of sharded ones this process's shards.
        owner: Whose weights these are; see `owning`.
        evaluating: Whether the modes are lent, too.
    """
    # Forward passes may write to buffers, so the model gets copies of those.
    given = {**weights, **{name: weights[name].clone() for name in current.buffers}}
    spread = current.spread
    plain = {name: x for name, x in given.items() if name not in spread} if spread else given
    with owning(modules, owner) as undo:
        sharded.lend(undo, modules, spread, given)
        lend(undo, modules, current.stored, plain, sparse=current.sparse)
        if evaluating:
            evaluate(undo, modules)
        yield


class _Block:
    """An open block: what gives back the weights that it found."""

    def __init__(self) -> None:
        self.undo = ExitStack()


class _Loan:
    """The open blocks in which a model holds weights of one owner, the latest last.

    Args:
        owner: Whose weights.
    """

    def __init__(self, owner: object) -> None:
        self.owner = owner
        self.thread = get_ident()
        self.blocks: list[_Block] = []
        self.modules: list[nn.Module] = []

    def begin(self, modules: Sequence[nn.Module]) -> _Block:
        """Open a block and mark what it lends to."""
        self.blocks.append(_Block())
        fresh = [module for module in modules if module not in _loans] if _loans else modules
        self.modules += fresh
        for module in fresh:
            _loans[module] = self
        return self.blocks[-1]

    def end(self, block: _Block) -> None:
        """Close a block, the latest or not; the last one gives back the model's own weights."""
        try:
            if block is self.blocks[-1]:
                _close(block)
            else:
                # The later block stays in the model, and gives back in place of this one.
                self.blocks[self.blocks.index(block) + 1].undo = block.undo
        finally:
            self.blocks.remove(block)
            if not self.blocks:
                for module in self.modules:
                    del _loans[module]


def _close(block: _Block) -> None:
    done = None
    # An earlier block may end meanwhile, by garbage collection, and hand its own on to this one.
    while done is not block.undo:
        done = block.undo
        done.close()


_loans: WeakKeyDictionary[nn.Module, _Loan] = WeakKeyDictionary()
"""What is lent to which module at this moment, the parts of a model included."""

_lock = RLock()


@contextmanager
def owning(modules: Sequence[nn.Module], owner: object) -> Iterator[ExitStack]:
    """Mark modules as holding weights of `owner`, and run what `undo` gets at the end.

    Blocks of an owner may end in any order. The model holds what the latest open one lent.

    Yields:
        The `undo` for `lend`.

    Raises:
        StateError: while another owner's weights are in the modules, or another thread's.
    """
    with _lock:
        refuse_others(modules, owner)
        block = (loan := _loan(modules, owner)).begin(modules)
    try:
        yield block.undo
    finally:
        with _lock:
            loan.end(block)


def refuse_others(modules: Sequence[nn.Module], owner: object) -> None:
    """Raise a StateError while another owner's weights are in the modules."""
    if any(loan.owner is not owner for loan in _open(modules)):
        raise StateError(
            "another averager's weights are in the model; expected the model's own. "
            "Leave that averager's `applied` block first."
        )


def refuse_now(call: str, model: nn.Module) -> None:
    """Refuse a call while the model holds an average, or a CUDA graph is captured.

    Raises:
        StateError: then.
    """
    if holds_lent_weights(model):
        raise StateError(
            f"{call} was called while the model holds an average; expected its own weights. "
            "Leave the `applied` block first."
        )
    # torch leaves it without types.
    begun = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    if begun and torch.cuda.is_current_stream_capturing():
        raise StateError(
            f"{call} was called while a CUDA graph is captured; expected outside of it, since "
            "replays call no Python. Attach no optimizer that the graph steps, and call "
            "averager.step() after each replay."
        )


def _loan(modules: Sequence[nn.Module], owner: object) -> _Loan:
    """The open loan of an owner to these modules, or a new one."""
    loan = next(_open(modules), None)
    if loan is not None and loan.thread != get_ident():
        raise StateError(
            "the model holds an average for another thread; expected `applied` blocks in one "
            "thread at a time. Leave that block first, or evaluate copies, from module()."
        )
    return loan or _Loan(owner)


def _open(modules: Sequence[nn.Module]) -> Iterator[_Loan]:
    """The loans that are open, of each of these modules."""
    return (_loans[module] for module in modules if module in _loans) if _loans else iter(())


def holds_lent_weights(model: nn.Module) -> bool:
    """Whether the model, or a part of it, holds an average instead of its own weights."""
    return bool(_loans) and any(module in _loans for module in model.modules())
