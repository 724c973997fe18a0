"""What torch memorises of weights by their tensor or module, and must not know after an exchange.

An open `torch.autocast` region keeps the cast of a weight by the tensor object, and
`torch.nn.utils.parametrize.cached()` keeps a parametrized weight by its module, each until its
outermost region ends. Neither looks at values again, so a forward pass would run on weights that
are no longer in the model.
"""

from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn.utils import parametrize


def forget(modules: Sequence[nn.Module]) -> None:
    """Drop what is memorised of weights, of autocast all, of parametrizations these modules'."""
    # Costs nothing outside autocast. Dropped for all models: torch cannot drop a part.
    torch.clear_autocast_cache()
    _take(modules)


def set_aside(modules: Sequence[nn.Module]) -> Callable[[], None]:
    """Drop what is memorised of weights that are about to be exchanged.

    Returns:
        What to call when they are back: drops what was memorised meanwhile, and lets a cached
        region that is still open go on with the values, and their graphs, that it had.
    """
    region, own = parametrize._cache, _take(modules)
    torch.clear_autocast_cache()

    def put_back() -> None:
        forget(modules)
        if region is parametrize._cache:
            region.update(own)

    return put_back


def _take(modules: Sequence[nn.Module]) -> dict[tuple[int, str], torch.Tensor | None]:
    """Remove these modules' parametrized weights from the cache of an open region."""
    cache = parametrize._cache
    if not cache:
        return {}
    ids = {id(module) for module in modules}
    return {key: cache.pop(key) for key in list(cache) if key[0] in ids}
