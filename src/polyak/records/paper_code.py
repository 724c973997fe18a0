"""What the authors' code does where the default is otherwise, by name.

Training, analysis and report use the same names; a page says which are on.
"""

from collections.abc import Iterable

from polyak.errors import ConfigError, unknown

PAPER_CODE = {
    "wide-resnet": "Convolutions of WRN-28-10 have biases, and the running statistics of its last "
    "BatchNorm follow almost only the newest batch (momentum 0.9).",
    "holdout-images": "Images of the hold-out are cropped and flipped like training images, drawn "
    "anew for every evaluation.",
    "loss-decay": "At the epoch of lowest loss the most accurate decay is taken, not the one of "
    "lowest loss.",
    "learning-rate": "Every seed has a learning rate of its own, where plain SGD was best.",
    "batchnorm": "Recomputed BatchNorm variances are the plain mean of the batches’ variances, "
    "not pooled.",
    "probe": "BatchNorm of the frozen networks normalises by the batch and adapts to the target "
    "while the linear probe is trained.",
    "js": "What stands as JS divergence is not one: the softmax is over the samples of a batch and "
    "the arguments are swapped.",
    "temperature": "The temperature is what L-BFGS with learning rate 0.01 reaches in 50 "
    "iterations from 1.5: not converged.",
    "sd": "Standard deviations over seeds divide by the number of runs (ddof 0).",
}
"""What the authors' code does where the default is otherwise, a sentence each for the page."""

OF_RUNS = ("holdout-images", "loss-decay", "batchnorm")
"""Those that change what a run leaves; the others act between and after runs."""


def parse_paper_code(words: Iterable[str]) -> tuple[str, ...]:
    """Names of `PAPER_CODE` in its order, from texts such as `js,temperature` or `all`.

    Raises:
        ConfigError: for an unknown name, with the choices.

    Example:
        >>> parse_paper_code(["temperature,js"])
        ('js', 'temperature')
    """
    given = [name.strip() for word in words for name in word.split(",")]
    for name in given:
        if name != "all" and name not in PAPER_CODE:
            raise ConfigError(unknown("paper-code", name, ("all", *PAPER_CODE)))
    return tuple(PAPER_CODE) if "all" in given else in_order(given)


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Known names, each once, in the order of `PAPER_CODE`, so that equal sets are equal."""
    wanted = set(names)
    return tuple(name for name in PAPER_CODE if name in wanted)
