"""The averages that can be made of what a run kept, compared on its hold-out.

Shape suffixes: n items, k classes.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from polyak.averaging import EMA, Average, SavedWeights
from polyak.averaging.boards.board import Board, compare
from polyak.averaging.boards.search import Score
from polyak.averaging.files.manifest import dtypes
from polyak.averaging.files.mixtures.board import RunInFiles
from polyak.averaging.files.mixtures.stored import Stored
from polyak.averaging.kinds.profiles.profile import profile
from polyak.averaging.kinds.records import from_record, is_whole
from polyak.errors import ConfigError
from polyak.records.vocabulary import BASELINE
from polyak.runs.run import Run
from polyak.training.logits import arm_weights, has_statistics


def board(
    run: Run,
    score: Score | None = None,
    *,
    largest_error: float = 0.05,
    device: str | torch.device = "cpu",
) -> Board:
    """`polyak.board` of the averages that a run kept at its stops.

    They are few: those that were chosen, with the longest, so of most runs little more than
    widths between these can be made. What is made has recomputed BatchNorm statistics.

    Args:
        run: A finished one.
        score: As for `polyak.board`; None for the cross-entropy of each sample of the hold-out,
            with the labels that chose in the run. Of text a sample is a window.
        largest_error: As for `polyak.synthesize`.
        device: Where networks compute.

    Raises:
        ConfigError: for a run without a hold-out unless there is a score, one that kept too
            little, and as `polyak.board`.
        DataError: if the run's data set is not there.
        FileError: for weights that are damaged.
    """
    score = score or _HoldOut(run, device)
    return compare(_KeptByRun(run, device), score, largest_error=largest_error)


class _KeptByRun:
    """What can be made of the averages of a run, with statistics of their own."""

    def __init__(self, run: Run, device: str | torch.device) -> None:
        self._run, self._network = run, run.network(BASELINE, device=device)
        stored = list(_averages_in(run))
        if not stored:
            raise ConfigError(
                f"the run in {run.path} kept no averages of its bank; expected some, of a run with "
                "a hold-out or stops. `polyak inspect` says what lies in its averages/."
            )
        self._averages = RunInFiles(stored)
        self.every, self.moments = self._averages.every, self._averages.moments
        self.kept = self._averages.kept

    def make(self, kind: Average, steps: int, largest_error: float) -> tuple[SavedWeights, float]:
        found, error = self._averages.make(kind, steps, largest_error)
        [(name, state)] = found.items()
        if not has_statistics(state):
            return found, error
        self._network.load_state_dict(state)
        self._run.recompute_statistics(self._network)
        state = {key: x.cpu().clone() for key, x in self._network.state_dict().items()}
        manifest = {**found.manifest, "refreshed_batchnorm": [name]}
        return SavedWeights({name: state}, manifest=manifest), error


class _HoldOut:
    """The cross-entropy of each held-out sample."""

    def __init__(self, run: Run, device: str | torch.device) -> None:
        data = run.data
        clean = run.config.holdout_labels == "clean"
        labels_n = data.holdout_clean_n if clean else data.holdout_given_n
        if data.holdout_images_nchw is None or labels_n is None:
            raise ConfigError(
                f"the run in {run.path} kept no hold-out, since it trained on all images; expected "
                "one that did, or a score. Name the run that searched."
            )
        self._images_nchw, self._labels_n = data.holdout_images_nchw, labels_n
        self._run, self._positions = run, data.positions or 1
        self._network = run.network(BASELINE, device=device)

    def __call__(self, state: dict[str, Tensor]) -> Tensor:
        self._network.load_state_dict(state)
        logits_nk = self._run.predict(self._network, self._images_nchw).double()
        losses_n = cross_entropy(logits_nk, self._labels_n, reduction="none")
        # Positions of a window are no independent items.
        return losses_n.reshape(-1, self._positions).mean(dim=1)


def _averages_in(run: Run) -> Iterator[Stored]:
    """Those with the period of the run's bank, each once, and the weights at the same moments."""
    every = run.config.averaging.every
    steps_at = {record.epoch: record.step for record in run.epochs}
    found: dict[tuple[str, int], Stored] = {}
    for arm in run.arms:
        state, about = arm_weights(run.folder, arm)
        record, steps = about.get("averages", {}).get(arm), steps_at[about["epoch"]]
        if record is None and about["source"] == BASELINE and steps % every == 0:
            kind: Average = EMA(0.0, warmup=None, name=BASELINE)
        elif record is not None and is_whole(record) and about["every"] == every:
            kind = from_record(record)
        else:
            continue
        manifest = {
            "tool": "polyak",
            "run": run.id,
            "seed": run.config.seed,
            "every": every,
            "steps": steps,
            "updates": steps // every,
            "skipped": 0,
            "buffers": run.config.averaging.buffers,
            "dtypes": {arm: dtypes(state)},
        }
        shares = profile(kind, updates=steps // every, every=every)
        stored = Stored(run.folder.arm(arm), arm, manifest, shares, kind)
        found.setdefault((about["source"], steps), stored)
    moments = {steps for source, steps in found if source != BASELINE}
    return (s for (_, steps), s in found.items() if steps in moments)
