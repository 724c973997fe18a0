"""Files of weights of any tool that is known: which weights are they, and what made them?"""

import json
import os
from collections.abc import Callable, Collection, Mapping
from itertools import product
from pathlib import Path as Folder
from typing import Any

from torch import Tensor, nn

from polyak import tensor_files
from polyak.averaging.files.averager_state import is_state
from polyak.averaging.files.averages import named_by
from polyak.averaging.files.file_format import Path, file_format
from polyak.averaging.files.layouts.foreign_formats import diffusers_facts
from polyak.averaging.files.layouts.recognition import recognise
from polyak.averaging.files.on_disk.distributed import DistributedFolder, is_distributed
from polyak.averaging.files.on_disk.pickles import read_pickled, refusal
from polyak.averaging.files.on_disk.sources import SafetensorsFile, StandIns
from polyak.averaging.files.on_disk.weights import OnDisk
from polyak.averaging.saved_weights import SavedWeights
from polyak.errors import FileError, WeightMismatchError, one_line, quote

EXPORTED = "polyak_export"
"""Key of the metadata in which an exported average keeps its manifest."""

_KNOWN = (
    "expected weights of polyak, torch AveragedModel, timm, ema-pytorch, torch-ema, diffusers, "
    "transformers or Lightning, or a plain state dict"
)
_STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
"""What diffusers and transformers call the weights in a folder of `save_pretrained`."""


def read_foreign(path: Path, model: nn.Module | None = None) -> SavedWeights:
    """Read weights that any known tool wrote, and what the file says they are.

    Files are told apart by content. Pickles are read with torch's restricted unpickler, which
    runs nothing that a file asks for: objects of other classes are left out unread. State dicts
    are found at any depth, an average is told apart from raw weights inside one, and prefixes of
    wrappers are taken off the names.

    Args:
        path: A file of polyak, torch or any tool of docs/switching.md, a plain state dict, or a
            folder of `save_pretrained` of diffusers or transformers, in shards too, or of
            torch.distributed.checkpoint.
        model: Names the parameters of states that are stored as a list; without it their names
            are "0", "1", …, and `manifest["names"]` is "order". Of a state dict that has the
            model's names after one prefix, only those are taken.

    Returns:
        State dicts on the CPU by name: `average`, `raw` and, where the file does not say which
        they are, `weights`; for polyak's files their own names. In a training script's checkpoint
        names are paths, such as `ema` or `trainer.ema.average`.
        `manifest["tool"]` is the tool, `manifest["weights"]` says of each name "averaged", "raw"
        or "unknown", with ", by its name" where nothing else says it; what the file does not store
        is absent. `manifest["left_out"]` lists what is no weights: `path` in the file, `kind`,
        `detail` (shape, size or class) and `why`.

    Raises:
        FileError: for anything else, for pickles that name what can run commands, and for whole
            pickled modules without weights beside them.
        WeightMismatchError: if the parameters in a list are not the model's.
    """
    return open_weights(path, model).load()


def open_weights(path: Path, model: nn.Module | None = None) -> OnDisk:
    """The same weights, known by names, dtypes and shapes; tensors are read when asked for.

    Of pickled files all is read at once.
    """
    made = StandIns()
    known = _folder(Folder(path), model, made) if os.path.isdir(path) else _file(path, model, made)
    return OnDisk(known, made)


def _file(path: Path, model: nn.Module | None, made: StandIns) -> SavedWeights:
    found = file_format(path)
    if found == "safetensors":
        return _safetensors(path, model, made)
    if found in ("zip", "pickle"):
        content, unread = read_pickled(path)
        return _required(path, content, model, unread=unread)
    words = {"empty": "is empty", "unknown": "is of an unknown format"}
    raise FileError(
        f"{os.fspath(path)} {words.get(found, f'is a {found} file')}; {_KNOWN}. Check the path."
    )


def _safetensors(path: Path, model: nn.Module | None, made: StandIns) -> SavedWeights:
    file = SafetensorsFile(path)
    tensors = file.tensors(made)
    if file.record is not None:
        return named_by(file.record, tensors)
    weights = _required(path, tensors, model)
    if EXPORTED in file.metadata and list(weights) == ["weights"]:
        return _exported(path, file.metadata[EXPORTED], weights["weights"])
    return weights


def _exported(path: Path, text: str, state: dict[str, Tensor]) -> SavedWeights:
    manifest = _json(path, lambda: text)
    name = manifest.get("name")
    if not isinstance(name, str):
        raise tensor_files.damaged(path, "what it says of its average has no name")
    return SavedWeights({name: state}, manifest=manifest)


def _required(
    path: Path, content: object, model: nn.Module | None, *, unread: Collection[str] = ()
) -> SavedWeights:
    if is_state(content):
        raise FileError(
            f"{os.fspath(path)} is an averager's state_dict(); {_KNOWN}. Give it to "
            "load_state_dict() of an averager, or write files for reading with polyak.save."
        )
    try:
        weights = recognise(content, model)
    except (FileError, WeightMismatchError) as error:
        raise type(error)(f"{os.fspath(path)}: {error}") from error
    if weights is None and unread:
        raise refusal(path, unread)
    if weights is None:
        raise FileError(
            f"{os.fspath(path)} holds a {type(content).__name__} without weights; {_KNOWN}. "
            "Save a state_dict()."
        )
    return weights


def _folder(folder: Folder, model: nn.Module | None, made: StandIns) -> SavedWeights:
    """`EMAModel.save_pretrained` leaves the average as a model, the decay in its config."""
    if is_distributed(folder):
        return _required(folder, DistributedFolder(folder).content(made), model)
    described = folder / "config.json"
    config = _json(folder, described.read_text) if described.is_file() else {}
    found = _folder_weights(folder, model, made)
    if list(found) != ["weights"] or found.manifest["tool"] != "state dict":
        return found
    own = _maker(config)
    if not {"decay", "optimization_step"} <= config.keys():
        return SavedWeights(found, manifest={**found.manifest, **own})
    facts = {key: value for key, value in diffusers_facts(config).items() if value is not None}
    manifest = {**own, "weights": {"average": "averaged"}, **facts}
    return SavedWeights({"average": found["weights"]}, manifest=manifest)


def _maker(config: Mapping[str, Any]) -> dict[str, str]:
    """The tool whose configuration this is, and the class of the model, as far as it says."""
    if "_class_name" in config or "_diffusers_version" in config or "decay" in config:
        tool, cls = "diffusers", config.get("_class_name")
    elif "model_type" in config or "architectures" in config:
        names = config.get("architectures")
        tool, cls = "transformers", names[0] if isinstance(names, list) and names else None
    else:
        return {}
    return {"tool": tool, **({"model_class": cls} if isinstance(cls, str) else {})}


def _folder_weights(folder: Folder, model: nn.Module | None, made: StandIns) -> SavedWeights:
    """The weights in a folder's one file, or in all that its index names."""
    for stem, ending in product(_STEMS, ("safetensors", "bin")):
        index = folder / f"{stem}.{ending}.index.json"
        if index.is_file():
            described = _json(index, index.read_text)
            weights = _required(folder, _parts(index, described, made), model)
            about = described.get("metadata")
            if isinstance(about, dict) and EXPORTED in about and list(weights) == ["weights"]:
                return _exported(index, str(about[EXPORTED]), weights["weights"])
            return weights
        if (folder / f"{stem}.{ending}").is_file():
            return _file(folder / f"{stem}.{ending}", model, made)
    raise FileError(
        f"{folder} is a folder without {', '.join(_STEMS)} in .safetensors or .bin; {_KNOWN}. "
        "Name the file."
    )


def _parts(index: Folder, described: Mapping[str, Any], made: StandIns) -> dict[str, Any]:
    """The tensors of all files that an index names."""
    places = described.get("weight_map")
    places = places if isinstance(places, dict) else {}
    tensors: dict[str, Any] = {}
    for name in sorted({str(name) for name in places.values()}):
        # An index is text from elsewhere: it names files of its own folder only.
        if Folder(name).name != name:
            raise tensor_files.damaged(index, f"it names {name!r}, outside its folder")
        part = index.parent / name
        if not part.is_file():
            raise FileError(
                f"{index.parent} lacks {name!r}, which its index names; expected all parts. Copy "
                "the whole folder."
            )
        if file_format(part) == "safetensors":
            tensors |= SafetensorsFile(part).tensors(made)
        elif isinstance(content := read_pickled(part)[0], dict):
            tensors |= content
    if missing := places.keys() - tensors.keys():
        raise tensor_files.damaged(index, f"its files lack {quote(missing)}")
    return tensors


def _json(path: Path, read: Callable[[], str]) -> dict[str, Any]:
    """A JSON object from text that `read` gives."""
    try:
        value = json.loads(read())
    except (OSError, ValueError, RecursionError) as error:
        raise tensor_files.damaged(
            path, f"its description is no JSON: {one_line(error)}"
        ) from error
    if not isinstance(value, dict):
        raise tensor_files.damaged(path, "its description is no JSON object")
    return value
