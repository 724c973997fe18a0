"""Weights of any known tool, known by name, dtype and shape, and read one tensor at a time."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from polyak.averaging.files.on_disk.sources import Source, StandIns
from polyak.averaging.saved_weights import SavedWeights


@dataclass(frozen=True, slots=True)
class OnDisk:
    """Weights whose tensors are stand-ins, as far as they are still on the disk."""

    weights: SavedWeights
    made: StandIns

    @property
    def is_whole(self) -> bool:
        """Whether all is in memory already, as of a pickled file."""
        return not self.made

    def read(self, state: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        """The tensors of a state dict of stand-ins, each to be used before the next is asked for.

        Each file is opened once, and what is tied is read once for each of its names.

        Raises:
            FileError: for a file that was damaged, and values that are not what was written.
        """
        places: dict[Source, dict[str, list[str]]] = {}
        for key, x in state.items():
            if (place := self.made.place(x)) is None:
                yield key, x
            else:
                source, name = place
                places.setdefault(source, {}).setdefault(name, []).append(key)
        for source, keys in places.items():
            for name, tensor in source.read(keys):
                source.verify({name: tensor})
                for key in keys[name]:
                    yield key, tensor

    def load(self, names: Collection[str] | None = None) -> SavedWeights:
        """Those of some names, or all, in memory of their own; what is stored once is one."""
        chosen = {name: self.weights[name] for name in (self.weights if names is None else names)}
        held: dict[tuple[Source, str], Tensor] = {}
        for source, places in self._places(chosen).items():
            # The file may be written to later, so what is verified is the copy.
            copies = {name: tensor.clone() for name, tensor in source.read(places)}
            source.verify(copies)
            held |= {(source, name): x for name, x in copies.items()}
        loaded = {
            name: {key: self._held(x, held) for key, x in state.items()}
            for name, state in chosen.items()
        }
        return SavedWeights(loaded, manifest=self.weights.manifest)

    def verify(self) -> None:
        """Compare all tensors with their checksums, where a file has some.

        Raises:
            FileError: naming those that differ.
        """
        for source, names in self._places(self.weights).items():
            if source.has_checksums:
                for name, tensor in source.read(names):
                    source.verify({name: tensor})

    def _places(self, weights: Mapping[str, Mapping[str, Tensor]]) -> dict[Source, dict[str, None]]:
        """Where stand-ins' tensors are: by source their names, each once."""
        found: dict[Source, dict[str, None]] = {}
        for state in weights.values():
            for x in state.values():
                if (place := self.made.place(x)) is not None:
                    found.setdefault(place[0], {})[place[1]] = None
        return found

    def _held(self, tensor: Tensor, held: Mapping[tuple[Source, str], Tensor]) -> Tensor:
        place = self.made.place(tensor)
        return tensor if place is None else held[place]
