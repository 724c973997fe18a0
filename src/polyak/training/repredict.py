"""What a finished run's weights say about other test images than those that it was judged by."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from polyak.data import Partition
from polyak.errors import DataError, FileError, few
from polyak.records.predictions import Predictions, write_predictions
from polyak.records.runs import RunFolder
from polyak.training.config import RunConfig
from polyak.training.logits import OnArm, logits_of_arms


def write_test_predictions(
    path: Path,
    folder: RunFolder,
    *,
    config: RunConfig,
    data: Partition,
    judged_by: Partition,
    arms: Sequence[str],
    device: torch.device,
    on_arm: OnArm = lambda arm: None,
) -> None:
    """Write what arms say about test images, the part "test"; see `logits_of_arms`.

    What a whole file says of other arms stays in it.

    Args:
        path: The file, in the format of `Predictions`.
        folder: Of the finished run.
        config: Of the run.
        data: What the run trained on; its normalisation is kept.
        judged_by: Whose test images these are, of the same classes and shape.
        arms: Which of its arms.
        device: Where to compute.
        on_arm: Called with each arm's name before its turn.

    Raises:
        DataError: for images of other classes or another shape than the run's.
        FileError: if the run kept no such arm.
    """
    refuse_others(data, judged_by)
    known = _known(path)
    said = logits_of_arms(
        folder,
        {"test": judged_by.test_images_nchw},
        config=config,
        data=data,
        arms=[arm for arm in arms if arm not in known],
        device=device,
        on_arm=on_arm,
    )["test"]
    both = {"test": {**known, **said}}
    write_predictions(path, arms=both, labels={"test": {"labels": judged_by.test_labels_n}})


def refuse_others(data: Partition, judged_by: Partition) -> None:
    """Refuse images that weights trained on `data` cannot be judged by.

    Raises:
        DataError: that names both faults at once.
    """
    found = _class_faults(judged_by.classes, data.classes)
    shape, wanted = (tuple(x.test_images_nchw.shape[1:]) for x in (judged_by, data))
    if shape != wanted:
        found.append(f"images are {_sides(shape)}; expected {_sides(wanted)}, as in training")
    if found:
        raise DataError(
            f"{'; '.join(found)}. Give a function file.py:load that returns them so as the source."
        )


def _known(path: Path) -> dict[str, Tensor]:
    """Logits that are there already; none of a damaged file."""
    try:
        there = Predictions(path) if path.exists() else None
        return {arm: there.logits_nk("test", arm) for arm in there.arms("test")} if there else {}
    except FileError:
        return {}


def _class_faults(got: tuple[str, ...], wanted: tuple[str, ...]) -> list[str]:
    if len(got) != len(wanted):
        return [
            f"the test images have {len(got)} classes ({few(got)}); expected {len(wanted)} "
            f"({few(wanted)})"
        ]
    for number, (found, expected) in enumerate(zip(got, wanted, strict=True)):
        if found != expected:
            return [f"class {number} is {found!r}; expected {expected!r}, as in training"]
    return []


def _sides(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))
