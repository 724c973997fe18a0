"""Runs that are stopped anywhere and go on, for the tests of resuming.

`Paused` stands for whatever ends a session; the next one begins with a run that was just built.
"""

from dataclasses import replace

import torch
from torch import nn

from polyak.training.checkpoint import Checkpoints

MONITORS = ("test", "test_bn", "holdout_bn", "train_wrong")


class Paused(Exception):
    pass


def session(run, folder, *, rests=None, seconds=1e9):
    """Go on from the checkpoint and train; after `rests` places to stop write one and leave."""
    checkpoints = Checkpoints(folder, seconds=seconds)
    checkpoints.resume(run)
    seen = 0

    def rest():
        nonlocal seen
        seen += 1
        if seen == rests:
            checkpoints.write(run)
            raise Paused
        if checkpoints.due():
            checkpoints.write(run)

    run.train(lambda record: None, on_rest=rest)
    return run


def in_sessions(build, folder, lengths):
    """Train in sessions that end after so many places to stop each, then to the end."""
    for rests in lengths:
        try:
            return session(build(), folder, rests=rests)
        except Paused:
            # What other code draws between two sessions must not matter.
            torch.rand(7)
    return session(build(), folder)


def assert_same_run(run, whole):
    for name, weights in whole.trained.last.items():
        assert_same(run.trained.last[name], weights)
    assert run.trained.kept.keys() == whole.trained.kept.keys()
    for rule, kept in whole.trained.kept.items():
        assert run.trained.kept[rule].stop == kept.stop
        for name, weights in kept.weights.items():
            assert_same(run.trained.kept[rule].weights[name], weights)
    for name in whole.averager.names:
        assert_same(run.averager.tensors(name), whole.averager.tensors(name))
    timeless = [[replace(r, seconds=0.0) for r in x.trained.epochs] for x in (run, whole)]
    assert timeless[0] == timeless[1]
    assert run.trained.monitors == whole.trained.monitors


def assert_same(one, other):
    assert one.keys() == other.keys()
    for key, x in other.items():
        assert torch.equal(one[key], x), key


def with_dropout(build, *args, **options):
    """A model as built, with dropout before its head."""
    model = build(*args, **options)
    model.head = nn.Sequential(nn.Dropout(0.5), model.head)
    return model
