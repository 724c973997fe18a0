"""Batches of all forms, and how many of them are read."""

from collections.abc import Callable, Iterator

import pytest
import torch
from support.small_networks import assert_same_bits, batch, net, snapshot
from torch import Tensor, nn

from polyak.averaging.batchnorm.refresh import refresh_batchnorm
from polyak.errors import ConfigError, DataError


class Named(nn.Module):
    """Takes its input by keyword, as language models do."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        return self.norm(x * scale)


class Own:
    """A batch of a class that nobody knows; not even iterable."""

    def __init__(self, x: Tensor) -> None:
        self.x = x


@pytest.mark.parametrize(
    ("wrap", "forward"),
    [
        (lambda x: x, None),
        (lambda x: (x, torch.zeros(len(x))), None),
        (lambda x: [x, "labels"], None),
        (lambda x: {"x": x}, None),
        (lambda x: {"scale": 1.0, "x": x}, None),
        (Own, lambda model, b: model(b.x)),
        (lambda x: ({"x": x}, 0), lambda model, b: model(**b[0])),
    ],
    ids=["tensor", "tuple", "list", "dict", "dict with a number", "own class", "nested"],
)
def test_batches_of_every_form_are_read(wrap, forward):
    """C8: torch raises TypeError for a dict."""
    model = Named()
    refresh_batchnorm(model, [wrap(batch(0)), wrap(batch(1))], forward=forward)
    torch.testing.assert_close(model.norm.running_mean, torch.cat([batch(0), batch(1)]).mean(0))


@pytest.mark.parametrize("odd", [None, "text", 3, [], ("a", "b")])
def test_a_form_that_needs_forward_is_named(odd):
    with pytest.raises(DataError, match=rf"type '{type(odd).__name__}'.* Pass forward="):
        refresh_batchnorm(net(), [odd])


@pytest.mark.parametrize(("limit", "read"), [(1, 1), (8, 1), (9, 2), (16, 2), (999, 4), (None, 4)])
@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: (x, 0), lambda x: {"input": x}])
def test_the_pass_ends_after_max_samples_with_a_whole_batch(limit, read, wrap):
    reads = []

    def batches() -> Iterator[object]:
        for seed in range(4):
            reads.append(seed)
            yield wrap(batch(seed, 8))

    refresh_batchnorm(net(), batches(), max_samples=limit, forward=_first_of)
    assert len(reads) == read


def _first_of(model: Callable[[Tensor], Tensor], value: object) -> Tensor:
    values = value.values() if isinstance(value, dict) else [value]
    [x] = values
    return model(x if isinstance(x, Tensor) else x[0])


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_below_one_is_refused(limit):
    with pytest.raises(ConfigError, match=f"max_samples is {limit}; expected >= 1"):
        refresh_batchnorm(net(), [batch(0)], max_samples=limit)


def test_no_batch_at_all_is_refused_and_changes_nothing():
    model = net()
    own = snapshot(model)
    with pytest.raises(DataError, match="batches is empty"):
        refresh_batchnorm(model, iter([]))
    assert_same_bits(snapshot(model), own)


def test_progress_goes_to_stderr(capsys):
    pytest.importorskip("rich")
    refresh_batchnorm(net(), [batch(0), batch(1)], progress=True)
    out, _ = capsys.readouterr()
    assert out == ""
