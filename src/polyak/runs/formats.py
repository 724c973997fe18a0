"""A run's network with an arm's weights in a file for other tools, and a card beside it.

Shape suffixes: n images, c channels, h height, w width, k classes.
"""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from polyak.averaging.files.export import write_plain
from polyak.data.config import name_of
from polyak.errors import ConfigError
from polyak.files import replacing, write_json
from polyak.models.config import options_of
from polyak.runs.run import Run

_ONNX_NEEDS = ("onnx", "onnxscript")


def export(run: Run, arm: str, out: Path) -> Path:
    """Write an arm of a run in the format that the ending of `out` says, and its card.

    Networks take normalised float32 images (n, c, h, w), any n >= 1, and give logits (n, k).

    Args:
        run: Which run.
        arm: One of `run.arms`.
        out: Ends in .safetensors (the state dict), .pt2 (torch.export) or .onnx; a file that
            exists is replaced.

    Returns:
        Path of the card, `out` with .json appended.

    Raises:
        ConfigError: for another ending, or if what writes the format is not installed.
        FileError: if the run kept no such arm.
    """
    write = writer_for(out)
    card = card_of_arm(run, arm, out)
    write(run, arm, out)
    place = out.with_name(f"{out.name}.json")
    write_json(place, card)
    return place


def writer_for(out: Path) -> Callable[[Run, str, Path], None]:
    """What writes the format of an ending.

    Raises:
        ConfigError: for another ending, or if what writes the format is not installed.
    """
    ending = out.suffix.lower()
    if ending not in WRITERS:
        raise ConfigError(
            f"out is '{out}'; expected a file that ends in one of {', '.join(WRITERS)}. "
            "The ending decides what is written."
        )
    missing = [name for name in _ONNX_NEEDS if ending == ".onnx" and find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"out is '{out}' and {' and '.join(missing)} is not installed; expected the package's "
            'extra onnx. Run `pip install "polyak[onnx]"`.'
        )
    return WRITERS[ending]


def card_of_arm(run: Run, arm: str, out: Path) -> dict[str, Any]:
    """All that is to be known to use the file, as JSON values."""
    from polyak import __version__

    about = run.about(arm)
    channels, height, width = run.card.image_shape
    network, data = run.network(arm), run.config.data
    said = [None, *([height] if data.is_text else []), len(run.classes)]
    told = {"name", "conv_bias", *options_of(run.config.model.name)}
    return {
        "schema": "polyak-card",
        "version": 1,
        "file": out.name,
        "format": out.suffix.lower().removeprefix("."),
        "network": {
            **{k: x for k, x in asdict(run.config.model).items() if k in told and x is not None},
            "parameters": sum(x.numel() for x in network.parameters()),
        },
        "classes": list(run.classes),
        "input": {
            "shape": [None, channels, height, width],
            "dtype": "float32",
            "channels": "bytes" if data.is_text else "grey" if channels == 1 else "RGB",
            "normalisation": "(pixel / 255 - mean) / std",
            "mean": list(run.card.mean),
            "std": list(run.card.std),
            # How the run's own images were brought to that size, if they were.
            "resize": None if data.resize is None else data.resize_how,
        },
        "output": {"shape": said, "dtype": "float32", "holds": "logits"},
        "arm": {
            "name": arm,
            **{key: about.get(key) for key in ("source", "epoch", "rule")},
            "batchnorm": "recomputed" if about.get("refreshed_batchnorm") else "as kept",
        },
        "run": run.id,
        "studies": list(run.studies()),
        "data": {"name": name_of(data.source), "fingerprint": data.fingerprint},
        "seed": run.config.seed,
        "metrics": {"test": run.metrics(arm)},
        "commit": run.card.commit,
        "trained_with": {key: about.get(key) for key in ("polyak", "torch")},
        "exported_with": {"polyak": __version__, "torch": str(torch.__version__)},
    }


def _write_safetensors(run: Run, arm: str, out: Path) -> None:
    about = {key: x for key, x in run.about(arm).items() if key not in ("polyak", "torch")}
    write_plain(run.network(arm).state_dict(), out, {**about, "name": arm})


def _write_pt2(run: Run, arm: str, out: Path) -> None:
    with _tracing(run):
        program = torch.export.export(*_inputs(run, arm), dynamic_shapes=(_BATCH,))
    with replacing(out) as temporary, temporary.open("wb") as file:
        torch.export.save(program, file)


def _write_onnx(run: Run, arm: str, out: Path) -> None:
    with replacing(out) as temporary, _tracing(run):
        torch.onnx.export(
            *_inputs(run, arm),
            temporary,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=(_BATCH,),
            dynamo=True,
            # One file, that can be moved alone.
            external_data=False,
            verbose=False,
        )


@contextmanager
def _tracing(run: Run) -> Iterator[None]:
    """What torch cannot trace, as one sentence; its warnings to itself are dropped."""
    notices = logging.getLogger("torch.onnx")
    level = notices.level
    notices.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except Exception as error:  # any kind: what a user's network raises in there is open
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ConfigError(
            f"network {run.config.model.name!r} cannot be traced ({first}); expected one whose way "
            "does not depend on values. Export to .safetensors and load that into the network."
        ) from error
    finally:
        notices.setLevel(level)


def _inputs(run: Run, arm: str) -> tuple[nn.Module, tuple[torch.Tensor]]:
    network = run.network(arm).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # torch's stub omits it
    # A batch of one would be taken for a constant.
    return network, (torch.zeros(2, *run.card.image_shape),)


_BATCH = {0: torch.export.Dim("n", min=1)}
WRITERS: dict[str, Callable[[Run, str, Path], None]] = {
    ".safetensors": _write_safetensors,
    ".pt2": _write_pt2,
    ".onnx": _write_onnx,
}
"""By ending."""
