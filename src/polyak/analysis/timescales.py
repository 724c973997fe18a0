"""How often weight decay renews a network's weights in a run."""

from collections.abc import Sequence

from polyak.records.runs import EpochRecord


def decay_timescales(
    epochs: Sequence[EpochRecord], *, weight_decay: float, momentum: float
) -> float:
    """Length of a run in timescales of its weight decay.

        λ·Σ_s η_s / (1 − μ)

    After one timescale a weight's past counts e times less. What lies before a BatchNorm has a
    direction only, and turns at a steady pace once a few have gone by: runs that differ in this
    number have averages that behave differently, whatever share of the run they average.

    Args:
        epochs: Of the whole run. The sum over steps s is taken by trapezoids between the ends of
            epochs, from 0 at the start.
        weight_decay: λ, ≥ 0.
        momentum: μ, in [0, 1); 0 where decay is decoupled, as in AdamW, since it is not summed up.

    Returns:
        A number ≥ 0; 0 for no epochs.

    Source:
        The timescale 1/(ηλ): Wang and Aitchison 2024 (arXiv:2405.13698). With momentum: ours.
    """
    step, rate, total = 0, 0.0, 0.0
    for record in epochs:
        total += (record.step - step) * (rate + record.learning_rate) / 2
        step, rate = record.step, record.learning_rate
    return weight_decay * total / (1 - momentum)
