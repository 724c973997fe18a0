"""Live models beside FSDP2: they hold shards of the average, and gather them where FSDP2 does."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from polyak.averaging.model import places, sharded


def gather_in_forward_passes(model: nn.Module, copied: nn.Module) -> None:
    """Let each part of a copy gather its shards for its forward pass, as FSDP2 does in the model.

    Args:
        model: Parts of it are under `fully_shard`.
        copied: The same parts in the same order, none of them under it.
    """
    parts = dict(zip(model.modules(), copied.modules(), strict=True))
    own = {parts[part]: sharded.precision(part) for part in sharded.managed(parts)}
    for part, precision in own.items():
        gathering = Gathering(list(_group(part, own)), precision)
        part.register_forward_pre_hook(gathering.begin, prepend=True, with_kwargs=True)
        part.register_forward_hook(gathering.end, always_call=True)


class Gathering:
    """Whole tensors in place of shards, for the length of a forward pass.

    Args:
        parts: Modules whose shards are gathered together.
        precision: The mixed precision of FSDP2 there.
    """

    def __init__(self, parts: Sequence[nn.Module], precision: Any) -> None:
        self._precision = precision
        self._shards = [
            (mapping, key, x)
            for mapping in map(places.parameters, parts)
            for key, x in mapping.items()
            if sharded.is_sharded(x)
        ]

    @torch.no_grad()
    def begin(
        self, _: nn.Module, inputs: tuple[Any, ...], keywords: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Gather; every process must come here."""
        dtype = self._precision.param_dtype
        whole: dict[int, Tensor] = {}
        for mapping, key, x in self._shards:
            if id(x) not in whole:
                whole[id(x)] = nn.Parameter(sharded.gather(x, dtype), requires_grad=False)
            mapping[key] = whole[id(x)]
        if dtype is None or not self._precision.cast_forward_inputs:
            return inputs, keywords
        cast = _caster(dtype)
        return tuple(cast(x) for x in inputs), {k: cast(x) for k, x in keywords.items()}

    def end(self, _: nn.Module, __: Any, outputs: Any) -> Any:
        """Put the shards back, also where the forward pass raised."""
        for mapping, key, x in self._shards:
            mapping[key] = x
        dtype = self._precision.output_dtype
        return outputs if dtype is None else _caster(dtype)(outputs)


def _group(part: nn.Module, own: Mapping[nn.Module, Any]) -> Iterator[nn.Module]:
    """A part with those below it that gather no shards of their own."""
    yield part
    for child in part.children():
        if child not in own:
            yield from _group(child, own)


def _caster(dtype: torch.dtype) -> Callable[[Any], Any]:
    """Casts floating-point tensors, in lists, tuples and mappings too."""

    def cast(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.to(dtype) if value.is_floating_point() else value
        if isinstance(value, dict):
            return {key: cast(x) for key, x in value.items()}
        return type(value)(map(cast, value)) if type(value) in (list, tuple) else value

    return cast
