"""The weights that a finished run kept, read back, and their logits of images.

Shape suffixes: n samples, c channels, h height, w width, k classes.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from polyak.averaging import load as load_weights
from polyak.data import Partition
from polyak.data.device_images import DeviceImages
from polyak.errors import FileError, StateError, unknown
from polyak.models import build
from polyak.records.runs import RunFolder
from polyak.records.vocabulary import BASELINE, CONTROLS, Switch
from polyak.training.config import Precision, RunConfig
from polyak.training.machine import memory_format_for
from polyak.training.prediction import predict, recompute_statistics

CHUNK = 4096
"""Images that are normalised at a time: a whole training set as float32 may not fit."""

OnArm = Callable[[str], None]


def kept_arms(folder: RunFolder) -> list[str]:
    """The arms whose weights a finished run kept, sorted.

    Raises:
        StateError: if the run has not ended, or diverged.
    """
    if folder.ending != "done":
        raise StateError(
            f"the run in {folder.path} is {folder.ending or 'not finished'}; expected one that is "
            "done. Its averages are written when it ends."
        )
    return sorted(path.stem for path in folder.arm(BASELINE).parent.glob("*.safetensors"))


def controls_of(folder: RunFolder) -> list[str]:
    """SGD's arms with recomputed statistics that a run has not kept and whose weights it has."""
    kept = kept_arms(folder)
    return [
        arm
        for arm, source in CONTROLS.items()
        if arm not in kept and source in kept and has_statistics(arm_weights(folder, source)[0])
    ]


def has_statistics(weights: Mapping[str, Any]) -> bool:
    """Whether weights are of a network that has BatchNorm with running statistics."""
    return any(key.endswith("running_var") for key in weights)


def arm_weights(folder: RunFolder, arm: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The state dict of an arm, and what its file says of it: source, epoch, rule.

    Raises:
        FileError: if the run kept no such arm, or its file is damaged.
    """
    if not folder.arm(arm).exists():
        raise FileError(unknown("arm", arm, kept_arms(folder)))
    saved = load_weights(folder.arm(arm))
    return saved[arm], saved.manifest


def logits_of_arms(
    folder: RunFolder,
    images_nchw: Mapping[str, Tensor],
    *,
    config: RunConfig,
    data: Partition,
    arms: Sequence[str],
    device: torch.device,
    augmentation: Switch | None = None,
    on_arm: OnArm = lambda arm: None,
) -> dict[str, dict[str, Tensor]]:
    """Ask arms about images, without crop or flip, normalised like the run's own.

    Arms are as saved: those with recomputed BatchNorm statistics have them; those of
    `controls_of` get them now, as the run would have given them. What is computed in is what the
    run's own predictions were.

    Args:
        folder: Of the finished run.
        images_nchw: uint8 images by part, of the shape that the run trained on.
        config: Of the run.
        data: What the run trained on, for the normalisation.
        arms: Which of its arms.
        device: Where to compute.
        augmentation: All recomputed statistics are recomputed again, from training images with
            crops and flips or as they are. None: only those that are missing, as the run has it.
        on_arm: Called with each arm's name before its turn.

    Returns:
        Part → arm → logits (n, k), on the CPU.

    Raises:
        FileError: if the run kept no such arm.
    """
    channels, size = data.train_images_nchw.shape[1:3]
    model = build(
        config.model,
        classes=len(data.classes),
        channels=channels,
        image_size=size,
        generator_seed=0,
    )
    layout = memory_format_for(model, image_size=size, device=device)
    images = DeviceImages(data, config.data.crop_padding, config.data.flip, device, layout)
    model = model.to(device, memory_format=layout)  # type: ignore[call-overload]  # torch's stub omits it
    said: dict[str, dict[str, Tensor]] = {part: {} for part in images_nchw}
    for arm in arms:
        on_arm(arm)
        missing = arm in CONTROLS and not folder.arm(arm).exists()
        weights, manifest = arm_weights(folder, CONTROLS[arm] if missing else arm)
        model.load_state_dict(weights)
        again = augmentation is not None and bool(manifest.get("refreshed_batchnorm"))
        if missing or again:
            recompute_statistics(model, images, config, augmentation=augmentation)
        for part, pixels_nchw in images_nchw.items():
            said[part][arm] = _logits(model, images, pixels_nchw, config.saved_precision)
    return said


def _logits(
    model: nn.Module, images: DeviceImages, images_nchw: Tensor, precision: Precision
) -> Tensor:
    ready = (images.normalise(chunk) for chunk in torch.split(images_nchw, CHUNK))
    return torch.cat([predict(model, chunk, precision=precision).cpu() for chunk in ready])
