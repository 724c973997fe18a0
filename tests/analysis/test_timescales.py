import pytest

from polyak.analysis.timescales import decay_timescales
from polyak.records.runs import EpochRecord, Score
from polyak.training.optim import OptimConfig, learning_rate

STEPS = 63


def logged(config, *, epochs):
    """A run's epochs as the loop logs them."""
    return [
        EpochRecord(
            epoch=epoch,
            step=epoch * STEPS,
            learning_rate=learning_rate(
                epoch * STEPS - 1, config, steps_per_epoch=STEPS, epochs=epochs
            ),
            train=Score(loss=1.0, accuracy=0.5),
            seconds=float(epoch),
        )
        for epoch in range(1, epochs + 1)
    ]


@pytest.mark.parametrize(
    "config",
    [
        OptimConfig(lr=0.2, warmup_epochs=3.0),
        OptimConfig(lr=1.2, weight_decay=5e-4, momentum=0.5),
        OptimConfig(warmup_epochs=3.0, schedule="step", milestones=(12.0, 24.0, 32.0)),
    ],
    ids=["ours", "another", "step"],
)
def test_they_are_the_sum_over_all_steps(config):
    rates = [learning_rate(s, config, steps_per_epoch=STEPS, epochs=40) for s in range(40 * STEPS)]
    slow = config.weight_decay * sum(rates) / (1 - config.momentum)
    fast = decay_timescales(
        logged(config, epochs=40), weight_decay=config.weight_decay, momentum=config.momentum
    )
    assert fast == pytest.approx(slow, rel=0.05)


def test_after_one_of_them_nothing_but_decay_leaves_a_weight_e_times_smaller():
    # SGD on a gradient of 0, at a constant learning rate, with momentum.
    rate, decay, momentum = 0.01, 0.02, 0.9
    weight, velocity, step = 1.0, 0.0, 0
    while weight > 1 / 2.718281828:
        velocity = momentum * velocity + decay * weight
        weight -= rate * velocity
        step += 1
    assert step * rate * decay / (1 - momentum) == pytest.approx(1, rel=0.02)


def test_no_epochs_are_none():
    assert decay_timescales([], weight_decay=1e-4, momentum=0.9) == 0
