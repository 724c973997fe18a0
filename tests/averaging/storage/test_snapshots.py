"""Copies of the last weights, and their mean."""

import torch

from polyak.averaging.storage.snapshots import Snapshots


def weights(*values, dtype=torch.float32):
    return {"w": torch.tensor(values, dtype=dtype)}


def mean_of(snapshots, dtype=torch.float32):
    return dict(snapshots.mean({"w": dtype}))["w"]


def test_the_mean_is_that_of_the_last_ones_taken():
    snapshots = Snapshots(2, None)
    for value in (1.0, 2.0, 4.0):
        snapshots.take(weights(value))
    assert mean_of(snapshots).item() == 3.0


def test_they_are_copies_in_memory_of_their_own_that_is_used_again():
    snapshots = Snapshots(1, None)
    own = weights(1.0)
    snapshots.take(own)
    own["w"].fill_(5.0)
    [first] = snapshots.record().values()
    assert first.item() == 1.0
    snapshots.take(own)
    [second] = snapshots.record().values()
    assert second.data_ptr() == first.data_ptr()
    assert second.item() == 5.0


def test_a_mean_of_half_precision_is_summed_in_float32():
    """In float16 the sum of two is infinite."""
    snapshots = Snapshots(2, None)
    for _ in range(2):
        snapshots.take(weights(60000.0, dtype=torch.float16))
    assert mean_of(snapshots, torch.float16).item() == 60000.0


def test_they_come_back_from_their_record_in_order():
    snapshots, other = Snapshots(3, None), Snapshots(3, None)
    for value in (1.0, 2.0, 4.0, 8.0):
        snapshots.take(weights(value))
    record = snapshots.record()
    assert list(record) == ["0/w", "1/w", "2/w"]
    other.restore(dict(reversed(record.items())), weights(0.0))
    for each in (snapshots, other):
        each.take(weights(16.0))
    assert {k: x.item() for k, x in other.record().items()} == {"0/w": 4, "1/w": 8, "2/w": 16}
    assert mean_of(other) == mean_of(snapshots)


def test_a_weight_that_is_new_counts_as_it_is_now_in_all():
    snapshots = Snapshots(2, None)
    snapshots.take(weights(1.0))
    snapshots.take(weights(3.0))
    both = {**weights(9.0), "new": torch.tensor(5.0)}
    snapshots.track(both)
    means = dict(snapshots.mean(dict.fromkeys(both, torch.float32)))
    assert {key: x.item() for key, x in means.items()} == {"w": 2.0, "new": 5.0}
    assert {k: x.item() for k, x in snapshots.record().items() if "new" in k} == {
        "0/new": 5,
        "1/new": 5,
    }
