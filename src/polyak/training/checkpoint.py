"""Checkpoints of a run: the newest two, each verified before an older one goes.

checkpoint/
  at-0007-00042.safetensors   after 7 epochs and 42 batches: model, momentum, averages,
                              generators; in its manifest the rest
  kept-0007.safetensors       weights kept at the end of an epoch, for the stops; written once
  arms.safetensors            what arms have said in a sitting that left between two of them
                              (`arms`)
"""

import shutil
import time
from pathlib import Path
from typing import Any

import torch

from polyak.averaging import load, save
from polyak.averaging.saved_weights import SavedWeights
from polyak.errors import FileError, StateError, warn
from polyak.records.runs import sync_folder
from polyak.records.vocabulary import Stop
from polyak.training.loop import Run
from polyak.training.machine import differences
from polyak.training.run_state import Kept, RunState

FORMAT = 1
SECONDS = 60.0
"""Time between checkpoints, unless one costs more than a hundredth of it."""


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: Where they lie; made with the first.
        seconds: Time between two, at least. Whatever it is, writing takes at most a hundredth
            of the run's time; only 0, meant for tests, writes one after every step.
    """

    def __init__(self, folder: Path, *, seconds: float = SECONDS) -> None:
        self._folder = folder
        self._seconds = seconds
        self._cost = 0.0
        self._last = time.monotonic()
        self._newest: Path | None = None
        self._referred: dict[Path, set[str]] = {}
        """By checkpoint: names of the files with kept weights that it needs."""
        self._whole: set[str] = set()
        """Names of files with kept weights that this process has read or written."""

    def due(self) -> bool:
        """Whether enough time has gone by since the last one."""
        interval = max(self._seconds, 100 * self._cost) if self._seconds else 0.0
        return time.monotonic() - self._last >= interval

    def write(self, run: Run) -> None:
        """Write where the run is, read it back, and remove all but it and the one before.

        Raises:
            FileError: if it cannot be written; the one before is still there.
        """
        started = time.monotonic()
        path = self._folder / f"at-{len(run.trained.epochs):04}-{run.batch:05}.safetensors"
        if path == self._newest:
            return
        try:
            self._write(run, path)
        except OSError as error:
            reason = error.strerror or str(error)
            raise FileError(
                f"{path} cannot be written ({reason}); expected a folder that can be written to, "
                "with room for a checkpoint. Fix that and give the same command again: it goes "
                "on from the checkpoint before."
            ) from error
        self._last = time.monotonic()
        self._cost = self._last - started

    def resume(self, run: Run) -> bool:
        """Bring a run that was just built to its newest checkpoint that is whole.

        A damaged one is named in a warning, and the one before is taken.

        Returns:
            Whether there was one; if not the run is as it was.

        Raises:
            StateError: if it was written where numbers round differently.
        """
        for path in sorted(self._folder.glob("at-*.safetensors"), reverse=True):
            try:
                saved = load(path)
                facts = _facts(saved, path)
                kept = self._read_kept(facts["kept"], run.device)
            except FileError as error:
                warn(
                    f"the checkpoint {path} is left out: {error} The run goes on from the one "
                    "before, or from its start."
                )
                continue
            self._check_environment(path, facts["environment"], run.environment())
            run.load_state_dict(RunState(tensors=saved, facts=facts, kept=kept))
            self._newest = path
            self._referred[path] = _files(facts["kept"])
            return True
        return False

    def remove(self) -> None:
        """Remove them all, when the run's results are on disk."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _write(self, run: Run, path: Path) -> None:
        state = run.state_dict()
        kept = {rule: self._write_kept(found) for rule, found in state["kept"].items()}
        facts = {
            "format": FORMAT,
            "environment": run.environment(),
            "kept": kept,
            **state["facts"],
        }
        save(state["tensors"], path, manifest={"checkpoint": facts})
        sync_folder(self._folder)
        load(path)
        before, self._newest = self._newest, path
        self._referred[path] = _files(kept)
        self._remove_all_but({path} if before is None else {path, before})

    def _write_kept(self, kept: Kept) -> dict[str, Any]:
        """Kept weights never change, so each epoch's are written once."""
        path = self._folder / f"kept-{kept.stop.epoch:04}.safetensors"
        if path.name not in self._whole:
            save(kept.weights, path)
            load(path)
            self._whole.add(path.name)
        stop = kept.stop
        return {"rule": stop.rule, "epoch": stop.epoch, "average": stop.average, "file": path.name}

    def _read_kept(
        self, recorded: dict[str, dict[str, Any]], device: torch.device
    ) -> dict[str, Kept]:
        """Where the run keeps those of its own: they are compared with each other."""
        weights = {
            name: {
                source: {key: x.to(device) for key, x in state.items()}
                for source, state in load(self._folder / name).items()
            }
            for name in _files(recorded)
        }
        self._whole |= weights.keys()
        return {
            rule: Kept(
                Stop(rule=facts["rule"], epoch=facts["epoch"], average=facts["average"]),
                weights[facts["file"]],
            )
            for rule, facts in recorded.items()
        }

    def _remove_all_but(self, retained: set[Path]) -> None:
        self._referred = {path: self._referred[path] for path in retained}
        names = {path.name for path in retained}.union(*self._referred.values())
        for pattern in ("at-*.safetensors", "kept-*.safetensors"):
            for path in self._folder.glob(pattern):
                if path.name not in names:
                    path.unlink()

    def _check_environment(self, path: Path, then: dict[str, Any], now: dict[str, Any]) -> None:
        found = differences(then, now)
        if found:
            raise StateError(
                f"the checkpoint {path} was written with {', '.join(found)}; expected the same "
                "here, or the run would not end as if it had never been interrupted. Go on where "
                f"it was begun, or remove {self._folder} to begin this run anew here."
            )


def _facts(saved: SavedWeights, path: Path) -> dict[str, Any]:
    facts = saved.manifest.get("checkpoint")
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        raise FileError(f"{path} is not a checkpoint of format {FORMAT}; expected one.")
    return facts


def _files(kept: dict[str, dict[str, Any]]) -> set[str]:
    return {facts["file"] for facts in kept.values()}
