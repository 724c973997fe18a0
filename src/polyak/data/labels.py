"""Hold-out splits, stratified draws and label noise: labels and a seed in, indices or labels out.

Shape suffix: n images.
"""

import hashlib

import torch
from torch import Generator, Tensor

from polyak.errors import ConfigError, DataError


def split(n: int, *, holdout: float, seed: int) -> tuple[Tensor, Tensor]:
    """Draw the hold-out: indices of the part to train on and of the part kept for selection.

    The first round((1 − holdout)·n) entries of one random permutation train, the others are
    held out: what `torch.utils.data.random_split` gives for these two lengths and this seed.

    Args:
        n: Number of images.
        holdout: Share held out, in [0, 1].
        seed: Seed of the permutation.

    Returns:
        Two int64 vectors that together hold each of 0..n-1 once, in random order.

    Source:
        The paper holds out 20 %; seed 42 and `random_split` are the authors' code.

    Example:
        >>> train, held = split(10, holdout=0.2, seed=42)
        >>> len(train), len(held)
        (8, 2)
    """
    if not 0 <= holdout <= 1:
        raise ConfigError(f"holdout is {holdout!r}; expected 0 <= holdout <= 1.")
    order = torch.randperm(n, generator=Generator().manual_seed(seed))
    train = round((1 - holdout) * n)
    return order[:train], order[train:]


def stratified_order(labels_n: Tensor, *, generator: Generator) -> Tensor:
    """A random order of which every beginning has nearly the class shares of the whole.

    The j-th member of a class of m, shuffled, is placed at (j + ½)/m, and all are sorted by
    place. Within a balanced set each class's count in a beginning is off by at most 1.

    Args:
        labels_n: Labels, int64, shape (n,).
        generator: Source of the draws.

    Returns:
        A permutation of 0..n-1, int64. The draw of a smaller number is a subset of a larger one.

    Source:
        Ours.
    """
    shuffled = torch.randperm(len(labels_n), generator=generator)
    counts = torch.bincount(labels_n)
    # Class by class, the members of each in shuffled order.
    members = shuffled[labels_n[shuffled].argsort(stable=True)]
    label_n = labels_n[members]
    rank_n = torch.arange(len(labels_n)) - (counts.cumsum(0) - counts)[label_n]
    place = torch.empty(len(labels_n), dtype=torch.float64)
    place[members] = (rank_n.double() + 0.5) / counts[label_n]
    # Stable, so that classes of one size take turns in random order.
    return shuffled[place[shuffled].argsort(stable=True)]


def symmetric_noise(labels_n: Tensor, *, classes: int, rate: float, generator: Generator) -> Tensor:
    """Send exactly round(rate·n) labels, drawn without replacement, each to another class.

    The new class is uniform over the classes − 1 others, so that `rate` is the share of wrong
    labels. (Some papers draw over all classes; then only rate·(1 − 1/classes) are wrong.)

    Args:
        labels_n: Clean labels, int64 in [0, classes), shape (n,).
        classes: Number of classes, at least 2.
        rate: Share of labels that become wrong, in [0, 1].
        generator: Source of the draws.

    Returns:
        The noisy labels, a new tensor.

    Source:
        Ours; the usual definition of symmetric noise without self-transitions.

    Example:
        >>> clean = torch.zeros(10, dtype=torch.int64)
        >>> noisy = symmetric_noise(clean, classes=3, rate=0.4, generator=Generator())
        >>> int((noisy != clean).sum())
        4
    """
    chosen = _chosen(len(labels_n), classes=classes, rate=rate, generator=generator)
    shift = torch.randint(1, classes, chosen.shape, generator=generator)
    noisy_n = labels_n.clone()
    noisy_n[chosen] = (labels_n[chosen] + shift) % classes
    return noisy_n


def asymmetric_noise(
    labels_n: Tensor, *, classes: int, rate: float, generator: Generator
) -> Tensor:
    """Send exactly round(rate·n) labels, drawn without replacement, each to the next class.

    Class c becomes c + 1, and the last becomes 0 ("pair flip").

    Args:
        labels_n: Clean labels, int64 in [0, classes), shape (n,).
        classes: Number of classes, at least 2.
        rate: Share of labels that become wrong, in [0, 1].
        generator: Source of the draws.

    Returns:
        The noisy labels, a new tensor.
    """
    chosen = _chosen(len(labels_n), classes=classes, rate=rate, generator=generator)
    noisy_n = labels_n.clone()
    noisy_n[chosen] = (labels_n[chosen] + 1) % classes
    return noisy_n


def _chosen(n: int, *, classes: int, rate: float, generator: Generator) -> Tensor:
    if not 0 <= rate <= 1:
        raise ConfigError(f"noise.rate is {rate!r}; expected 0 <= rate <= 1.")
    if classes < 2:
        raise DataError(f"the number of classes is {classes}; expected at least 2 for label noise.")
    return torch.randperm(n, generator=generator)[: round(rate * n)]


def limited(labels_n: Tensor, limit: int | None) -> Tensor:
    """Places to keep of a set with these labels, in the set's own order; None keeps all.

    A smaller limit keeps a part of what a larger one keeps.
    """
    if limit is None:
        return torch.arange(len(labels_n))
    order = stratified_order(labels_n, generator=generator_for("limit", 0))
    return order[:limit].sort().values


def generator_for(purpose: str, seed: int) -> Generator:
    """A generator that shares no draw with another purpose's, even of the same seed.

    With one seed, noise and split would draw one permutation, and all wrong labels would fall on
    the training part.
    """
    digest = hashlib.sha256(f"polyak {purpose} {seed}".encode()).digest()
    # torch's CPU generator uses 32 bits of a seed.
    return Generator().manual_seed(int.from_bytes(digest[:4], "big"))
