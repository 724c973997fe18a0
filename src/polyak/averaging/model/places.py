"""Where a module keeps its tensors and parts, of TorchScript's modules too.

Those hold them in C++, and show them through mappings that lack what a dict has.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn


class ScriptPlaces:
    """A mapping of TorchScript with the methods of a dict that are used here.

    Args:
        places: What stands as `_parameters`, `_buffers` or `_modules` in a scripted module.
    """

    def __init__(self, places: Any) -> None:
        self._places = places

    def __len__(self) -> int:
        return len(self._places)

    def get(self, key: str) -> Any:
        """What stands in a place; None if it is gone."""
        return dict(self._places.items()).get(key)

    def keys(self) -> list[str]:
        """The names of the places."""
        return [key for key, _ in self._places.items()]

    def items(self) -> list[tuple[str, Any]]:
        """The places with what stands there."""
        return list(self._places.items())

    def __getitem__(self, key: str) -> Any:
        return self._places[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self._places[key] = value

    def update(self, values: Mapping[str, Any]) -> None:
        """Put values back that are no longer in their places."""
        for key, value in values.items():
            if self._places[key] is not value:
                self._places[key] = value


def parameters(module: nn.Module) -> Any:
    """A module's own parameters by name: a dict, or for TorchScript what acts as one."""
    return _dict_like(module._parameters)


def buffers(module: nn.Module) -> Any:
    """A module's own buffers by name."""
    return _dict_like(module._buffers)


def children(module: nn.Module) -> Any:
    """A module's direct parts by name."""
    return _dict_like(module._modules)


def replace_buffer(modules: Iterable[nn.Module], own: Tensor, value: Tensor) -> None:
    """Put another tensor into every place where a buffer stands."""
    for module in modules:
        mapping = buffers(module)
        for key, x in list(mapping.items()):
            if x is own:
                mapping[key] = value


def _dict_like(places: Any) -> Any:
    return places if type(places) is dict or isinstance(places, dict) else ScriptPlaces(places)
