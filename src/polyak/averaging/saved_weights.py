"""Weights by name, with what is known of them."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor


class SavedWeights(dict[str, dict[str, Tensor]]):
    """State dicts by name, and in `manifest` what the file says about them.

    Of the manifest, as far as the file says: `tool` that averaged, `averages` (name → kind and
    decay), `every`, `steps`, `updates`, `skipped`, `buffers`, `refreshed_batchnorm` (names),
    `dtypes`, `model_class`, and the versions `polyak` and `torch`.
    """

    def __init__(
        self, weights: Mapping[str, dict[str, Tensor]], *, manifest: Mapping[str, Any]
    ) -> None:
        super().__init__(weights)
        self.manifest = dict(manifest)
