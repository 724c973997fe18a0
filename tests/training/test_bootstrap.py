"""SGD that goes on from an average after each epoch, against the recurrence written out."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from polyak.training.checkpoint import Checkpoints
from polyak.training.optim import learning_rate


@pytest.fixture(scope="module")
def config(tiny):
    return replace(tiny, bootstrap="ema_0.9", optim=replace(tiny.optim, warmup_epochs=0.5))


@pytest.fixture(scope="module")
def bootstrapped(config, start):
    run = start(config)
    run.train(lambda record: None)
    return run


def by_hand(run, config, *, bootstrap):
    """SGD with Nesterov momentum, an average of decay 0.9 every 2 steps, and the step back."""
    model, optim = run.model, config.optim
    weights = dict(model.named_parameters())
    buffers = {k: x for k, x in model.named_buffers() if x.is_floating_point()}
    average = {k: x.detach().clone() for k, x in {**weights, **buffers}.items()}
    momentum = {k: torch.zeros_like(x) for k, x in weights.items()}
    step = updates = 0
    for epoch in range(1, config.epochs + 1):
        model.train()
        batches = run.images.batches(config.batch_size, order=run.order, draws=run.draws)
        for x_bchw, labels_b in batches:
            rate = learning_rate(step, optim, steps_per_epoch=5, epochs=config.epochs)
            model.zero_grad()
            F.cross_entropy(model(x_bchw), labels_b).backward()
            with torch.no_grad():
                for k, x in weights.items():
                    g = x.grad + optim.weight_decay * x
                    momentum[k] = optim.momentum * momentum[k] + g
                    x -= rate * (g + optim.momentum * momentum[k])
            step += 1
            if step % 2 == 0:
                d = min(0.9, (updates + 1) / (updates + 10))
                with torch.no_grad():
                    for k, x in {**weights, **buffers}.items():
                        average[k] += (1 - d) * (x - average[k])
                updates += 1
        if bootstrap and epoch < config.epochs:
            with torch.no_grad():
                for k, x in {**weights, **buffers}.items():
                    x.copy_(average[k])
    return {k: x.detach() for k, x in {**weights, **buffers}.items()}, average


def test_each_epoch_but_the_first_starts_from_the_average_with_the_momentum_there_was(
    config, start, bootstrapped
):
    weights, average = by_hand(start(config), config, bootstrap=True)
    last, kept = bootstrapped.trained.last["sgd"], bootstrapped.averager.tensors("ema_0.9")
    for k, x in weights.items():
        assert torch.allclose(last[k], x, rtol=1e-3, atol=1e-5), k
        assert torch.allclose(kept[k], average[k], rtol=1e-3, atol=1e-5), k
    # The same by hand without the step back is another run.
    free, _ = by_hand(start(config), config, bootstrap=False)
    assert not any(torch.allclose(weights[k], x, rtol=1e-3) for k, x in free.items())


def test_the_first_epoch_is_as_without_it(config, start, bootstrapped):
    free = start(replace(config, bootstrap=None))
    free.train(lambda record: None)
    ours, theirs = (run.trained.epochs for run in (bootstrapped, free))
    assert ours[0].holdout == theirs[0].holdout
    assert ours[1].holdout != theirs[1].holdout


def test_a_bootstrapped_run_that_is_stopped_between_epochs_ends_as_if_it_had_not(
    config, start, bootstrapped, tmp_path
):
    class Paused(Exception):
        pass

    first, seen = start(config), []
    checkpoints = Checkpoints(tmp_path, seconds=1e9)

    def rest():
        seen.append(None)
        # Five steps and the rest after the epoch, once SGD stands where the average is.
        if len(seen) == 6:
            checkpoints.write(first)
            raise Paused

    with pytest.raises(Paused):
        first.train(lambda record: None, on_rest=rest)
    assert all(
        torch.equal(x, first.averager.tensors("ema_0.9")[k])
        for k, x in first.model.state_dict().items()
        if x.is_floating_point()
    )
    second = start(config)
    assert Checkpoints(tmp_path, seconds=1e9).resume(second)
    second.train(lambda record: None)
    for k, x in bootstrapped.trained.last["sgd"].items():
        assert torch.equal(second.trained.last["sgd"][k], x), k
