"""polyak inspect FILE: which weights are these? Of a run's predictions: which arms, on what?"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest
from math import log
from pathlib import Path
from typing import Annotated, Any

import tyro
from torch import Tensor

from polyak.averaging.files.foreign import open_weights
from polyak.averaging.files.manifest import dtypes
from polyak.averaging.kinds import Average
from polyak.averaging.kinds.profiles.profile import Contents, contents
from polyak.averaging.kinds.records import from_record, is_whole
from polyak.averaging.saved_weights import SavedWeights
from polyak.cli.json_output import print_json
from polyak.cli.predictions_file import check_is_no_output_folder, parts_lines, parts_of
from polyak.errors import PolyakError, few, printable

_PLAIN = ("number", "text")
_SHOWN = 20
"""Lines on what a file holds beside weights, at most."""

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True)
class InspectCommand:
    """Say which weights a file holds, whatever tool wrote it."""

    file: Annotated[Path, tyro.conf.Positional]
    """A checkpoint of polyak, torch, timm, ema-pytorch, torch-ema, diffusers or Lightning, or a
    folder of `save_pretrained` or of torch.distributed.checkpoint."""

    json: bool = False
    """One JSON object on stdout instead, see docs/json.md."""

    def run(self) -> int:
        """Exit code 0."""
        check_is_no_output_folder(self.file)
        parts = parts_of(self.file)
        if self.json:
            found = {"about": None, "weights": None} if parts else values(self.file)
            said = {"file": self.file, "predictions": parts or None, **found}
            print_json("polyak-inspect", said)
            return 0
        lines = parts_lines(self.file, parts) if parts else description(self.file)
        print("\n".join(printable(line) for line in lines))
        return 0


def description(path: Path) -> list[str]:
    """The lines that say what a file of weights holds."""
    saved = _known(path)
    manifest = saved.manifest
    rows = {
        "file": str(path),
        "tool": manifest.get("tool"),
        "versions": _versions(manifest),
        "model class": manifest.get("model_class"),
        "epoch": manifest.get("epoch"),
        "steps": manifest.get("steps"),
        "updates": _updates(manifest),
        "buffers": manifest.get("buffers"),
        "names": _names(manifest),
        "synthesised": _synthesis(manifest),
    }
    lines = [f"{key:<12} {value}" for key, value in rows.items() if value is not None]
    headed = zip_longest(["left out"], _left_out(manifest), fillvalue="")
    lines += [f"{key:<12} {entry}" for key, entry in headed if entry]
    lines.append(f"{'checksums':<12} {_checksums(saved)}")
    for name, state in saved.items():
        lines += ["", f"{name}: {nature(manifest, name)}"]
        facts = (
            _average(manifest, name),
            _lag_and_noise(manifest, name),
            _batchnorm(manifest, name, state),
            _size(state),
        )
        lines += [f"  {fact}" for fact in facts if fact]
    return lines


def _known(path: Path) -> SavedWeights:
    """What is in a file, by names, dtypes and shapes; values are read for their checksums only."""
    disk = open_weights(path)
    disk.verify()
    return disk.weights


def values(path: Path) -> dict[str, Any]:
    """The same as JSON values."""
    saved = _known(path)
    manifest = saved.manifest
    weights = []
    for name, state in saved.items():
        said, found = nature(manifest, name), lag_and_noise(manifest, name)
        weights.append(
            {
                "name": name,
                "nature": said if said in ("averaged", "raw") else "unknown",
                "average": _object(manifest, "averages").get(name),
                "mean_age": found and found.mean_age,
                "effective_weights": found and found.effective,
                "batchnorm": _batchnorm(manifest, name, state),
                "dtypes": dtypes(state) or None,
                "tensors": len(state),
                "parameters": _parameters(state),
            }
        )
    keys = ("tool", "model_class", "epoch", "steps", "updates", "every", "skipped", "buffers")
    about = {
        **{key: manifest.get(key) for key in keys},
        "polyak": manifest.get("polyak"),
        "torch": manifest.get("torch"),
        "named": manifest.get("names") != "order",
        # A file of ours is only read if they agree.
        "checksums": "polyak" in manifest,
        "left_out": _left_out(manifest),
    }
    return {"about": about, "weights": weights}


def nature(manifest: Mapping[str, Any], name: str) -> str:
    """Whether the weights of a name are averaged, raw, or unknown."""
    if name in _object(manifest, "averages"):
        return "averaged"
    said = _object(manifest, "weights").get(name)
    known = isinstance(said, str) and said != "unknown"
    return str(said) if known else "unknown whether averaged or raw"


def _average(manifest: Mapping[str, Any], name: str) -> str | None:
    """The kind of an average with its settings, and the half-life where there is a decay."""
    record = _object(manifest, "averages").get(name)
    if not isinstance(record, Mapping):
        return None
    settings = [
        f"{key} {value}"
        for key, value in record.items()
        if key not in ("kind", "name") and value is not None
    ]
    if record.get("decay") is None and record.get("kind") == "ema":
        settings.append("decay not stored")
    half = _halflife(record.get("decay"), manifest.get("every"))
    return ", ".join([str(record.get("kind")), *settings, *half])


def _lag_and_noise(manifest: Mapping[str, Any], name: str) -> str | None:
    """How old the weights in an average are in the mean, and of how many they are worth a mean."""
    found = lag_and_noise(manifest, name)
    if found is None:
        return None
    every = manifest["every"]
    age = f"mean age {found.mean_age:.1f} updates ({found.mean_age * every:.0f} steps)"
    return f"{age}, {found.effective:.1f} effective weights"


def lag_and_noise(manifest: Mapping[str, Any], name: str) -> Contents | None:
    """The sums of an average's shares; None where a file does not say enough of it."""
    record = _object(manifest, "averages").get(name)
    keys = ("updates", "every", "steps", "skipped")
    counts = [x for key in keys if type(x := manifest.get(key)) is int]
    if not isinstance(record, Mapping) or len(counts) < len(keys):
        return None
    updates, every, steps, skipped = counts
    begun, folded = (_object(manifest, key).get(name, 0) for key in ("begun", "folded"))
    try:
        kind: Average | None = from_record(record) if is_whole(record) else None
        if kind is not None and (skipped or steps // every != updates):
            kind = kind.regular(updates=updates, folded=folded or updates, every=every)
        if kind is None or begun:
            return None
        return contents(kind, updates=updates, every=every)
    except (PolyakError, TypeError, ValueError, ArithmeticError):
        return None  # a file may hold anything


def _halflife(decay: object, every: object) -> list[str]:
    if isinstance(decay, bool) or not isinstance(decay, float) or not 0.0 < decay < 1.0:
        return []
    updates = log(0.5) / log(decay)
    known = isinstance(every, int) and every >= 1
    steps = f" = {updates * every:.4g} steps" if known and isinstance(every, int) else ""
    return [f"half-life {updates:.4g} updates{steps}"]


def _batchnorm(manifest: Mapping[str, Any], name: str, state: Mapping[str, Tensor]) -> str | None:
    if not any(key.endswith("running_mean") for key in state):
        stored = manifest.get("buffers") != "not stored"
        return None if stored else "BatchNorm statistics, if any, are not stored"
    fresh = manifest.get("refreshed_batchnorm")
    if isinstance(fresh, list) and name in _object(manifest, "averages"):
        how = {"average": "averaged", "copy": "copied"}.get(
            str(manifest.get("buffers")), "averaged or copied"
        )
        return f"BatchNorm statistics {'fresh' if name in fresh else f'not fresh: {how}'}"
    if nature(manifest, name) == "raw":
        return "BatchNorm statistics of training"
    return "BatchNorm statistics: unknown whether fresh"


def _size(state: Mapping[str, Tensor]) -> str:
    """Tensors, and elements of those that are not BatchNorm statistics."""
    return f"{dtypes(state) or 'integers'}, {len(state)} tensors, {_parameters(state):,} parameters"


def _parameters(state: Mapping[str, Tensor]) -> int:
    learnt = (x for key, x in state.items() if key.rpartition(".")[2] not in _STATISTICS)
    # Tied weights count once.
    once = {(x.data_ptr(), x.shape): x.numel() for x in learnt}
    return sum(once.values())


def _checksums(saved: SavedWeights) -> str:
    if "polyak" not in saved.manifest:
        return "none in the file"
    # A file of ours is only read if they agree.
    return f"agree, {sum(map(len, saved.values()))} tensors"


def _versions(manifest: Mapping[str, Any]) -> str | None:
    found = [f"{name} {manifest[name]}" for name in ("polyak", "torch") if name in manifest]
    return ", ".join(found) or None


def _updates(manifest: Mapping[str, Any]) -> str | None:
    if manifest.get("updates") is None:
        return None
    words = [str(manifest["updates"])]
    if manifest.get("every") is not None:
        words.append(f"one every {manifest['every']} steps")
    if manifest.get("skipped"):
        words.append(f"{manifest['skipped']} skipped")
    return ", ".join(words)


def _synthesis(manifest: Mapping[str, Any]) -> str | None:
    synthesis = _object(manifest, "synthesis")
    of, error = synthesis.get("of"), synthesis.get("error")
    if not isinstance(of, list) or not isinstance(error, float):
        return None
    return f"from {len(of)} averages that were kept, expected error {100 * error:.2g} %"


def _left_out(manifest: Mapping[str, Any]) -> list[str]:
    """What in the file is no weights, a line each; numbers and texts have one line together."""
    entries = manifest.get("left_out")
    if not isinstance(entries, list):
        return [] if entries is None else [str(entries)]
    found = [entry for entry in entries if isinstance(entry, Mapping)]
    plain = [str(entry.get("path")) for entry in found if entry.get("kind") in _PLAIN]
    lines = [_line_of(entry) for entry in found if entry.get("kind") not in _PLAIN]
    more = len(lines) - _SHOWN
    shown = [*lines[:_SHOWN], *([f"and {more} more"] if more > 0 else [])]
    if plain:
        shown.append(f"numbers and texts: {few(plain, _SHOWN)}")
    return shown


def _line_of(entry: Mapping[str, Any]) -> str:
    why = str(entry.get("why"))
    # The averages of an averager of ours are all shown; what they lack needs no place in the file.
    own = entry.get("kind") == "averager"
    return why if own else f"{entry.get('path')}: {entry.get('kind')} {entry.get('detail')}, {why}"


def _names(manifest: Mapping[str, Any]) -> str | None:
    by_order = manifest.get("names") == "order"
    return "not stored: parameters in the model's order" if by_order else None


def _object(manifest: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """A part of a manifest that should be an object; a file may hold anything."""
    value = manifest.get(key)
    return value if isinstance(value, Mapping) else {}
