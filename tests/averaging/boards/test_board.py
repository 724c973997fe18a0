"""The board finds what an exhaustive one finds, and its score is of items that chose nothing."""

import math

import pytest
import torch
from torch import nn

import polyak
from polyak import EMA, Averager, Combination, Uniform
from polyak.averaging.boards.board import compare
from polyak.averaging.kinds.profiles.profile import contents
from polyak.averaging.saved_weights import SavedWeights
from polyak.errors import (
    ConfigError,
    FileError,
    NonFiniteError,
    StateError,
    WeightMismatchError,
)

ITEMS, STEPS = 400, 400


def trained(folder, seed=0, *, drift=2.0):
    """A bank saved along a noisy way towards 0, and the loss of each of many items."""
    generator = torch.Generator().manual_seed(seed)
    model = nn.Linear(30, 1, bias=False)
    averager, files = Averager(model, [EMA(d, None) for d in (0.6, 0.9, 0.97, 0.99)]), []
    for step in range(1, STEPS + 1):
        with torch.no_grad():
            way = drift * (1.0 - step / STEPS)
            model.weight.copy_(way + torch.randn(1, 30, generator=generator))
        averager.step()
        if step % 20 == 0:
            files.append(folder / f"{seed}-{step}.safetensors")
            polyak.save(averager, files[-1])
    targets = 0.3 * torch.randn(ITEMS, 30, generator=generator, dtype=torch.float64)
    return averager, files, lambda state: (state["weight"].double() - targets).square().mean(dim=1)


@pytest.mark.parametrize(
    "seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)]
)
def test_its_winner_is_hardly_behind_that_of_an_exhaustive_board(tmp_path, seed):
    averager, files, score = trained(tmp_path, seed)
    found = polyak.board(files, score)
    assert found.scores <= 40
    kinds = [EMA(1 - 1 / n, None) for n in (2, 3, 5, 8, 12, 18, 27, 40, 60, 90)]
    kinds += [Uniform(start=STEPS - n) for n in (20, 40, 60, 100, 150, 200)]
    kinds += [Combination.lag_free(n) for n in (5, 10, 15, 20, 30, 45, 70, 100, 150)]
    made = [polyak.synthesize(files[-8:], kind, largest_error=0.2) for kind in kinds]
    best = min(float(score(state).mean()) for each in made for state in each.values())
    raw = float(score(averager.model.state_dict()).mean())
    [state] = found.weights.values()
    assert float(score(state).mean()) - best <= 0.05 * (raw - best)


def test_it_finds_a_best_moment_where_the_best_width_is_another():
    class Memorising:
        """The loss of width n at step t is least at 240 and n = t / 4, in every kind."""

        every, moments, kept = 1, list(range(20, STEPS + 1, 20)), EMA(0.99, None)

        def make(self, kind, steps, _error):
            width = contents(kind, updates=steps).effective
            off = torch.tensor([(steps - 240) / 100, math.log(4 * width / steps)])
            return SavedWeights({kind.label: {"off": off}}, manifest={}), 0.0

    found = compare(Memorising(), lambda state: state["off"].square().sum().expand(ITEMS))
    assert found.best.steps == 240
    assert found.best.scored <= 0.05 * found.kept.scored


def test_the_score_is_that_of_items_that_chose_nothing(tmp_path):
    _, files, score = trained(tmp_path)
    found = polyak.board(files, score)
    order = torch.randperm(ITEMS, generator=torch.Generator().manual_seed(0))
    [state] = found.weights.values()
    losses = score(state)
    assert found.best.chosen == pytest.approx(float(losses[order[: ITEMS // 2]].mean()))
    assert found.best.scored == pytest.approx(float(losses[order[ITEMS // 2 :]].mean()))
    assert found.best.behind == found.best.interval == 0.0
    assert [row.chosen for row in found.rows] == sorted(row.chosen for row in found.rows)
    assert found.kept.average == EMA(0.99, None)
    assert "ema_0.99, which was kept, costs +" in str(found)


def test_an_averager_shows_what_it_can_make_now(tmp_path):
    averager, _, score = trained(tmp_path)
    before = {key: x.clone() for key, x in averager.tensors("ema_0.9").items()}
    found = averager.board(score)
    assert str(polyak.board(averager, score)) == str(found)
    assert {row.steps for row in found.rows} == {STEPS}
    assert found.best.scored <= found.kept.scored
    assert all(torch.equal(averager.tensors("ema_0.9")[key], x) for key, x in before.items())


@pytest.mark.parametrize("assign", [False, True])
def test_a_score_may_load_into_the_model_in_the_midst_of_training(assign):
    def run(*, boards):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 1))
        model[3].bias.requires_grad_(False)
        averager = Averager(model, [EMA(0.5, None), EMA(0.9, None)], buffers={"*mean": "live"})
        optimizer = torch.optim.SGD(model[:2].parameters(), lr=0.1, momentum=0.9)
        averager.attach(optimizer)
        x = torch.randn(20, 4)

        def score(state):
            model.load_state_dict(state, assign=assign)
            assert not model.training
            polyak.refresh_batchnorm(model, [x])
            return model(x).square()

        for step in range(30):
            model[0].weight.requires_grad_(step < 10)  # stays averaged
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
            if boards and step in (12, 20):
                averager.board(score, largest_error=0.5)
        return model.state_dict() | averager.tensors("ema_0.9")

    untouched, scored = run(boards=False), run(boards=True)
    assert all(torch.equal(x, scored[key]) for key, x in untouched.items())


def test_no_board_is_made_while_the_model_holds_an_average(tmp_path):
    averager, _, score = trained(tmp_path)
    refused = pytest.raises(StateError, match=r"board\(\) was called while the model holds")
    with averager.applied("ema_0.9"), refused:
        averager.board(score)


def test_scores_that_are_none_are_named(tmp_path):
    _, files, score = trained(tmp_path)
    generator = torch.Generator().manual_seed(0)

    def noisy(state):
        return score(state) + torch.randn(ITEMS, generator=generator)

    with pytest.raises(StateError, match=r"of the same weights; expected one number"):
        polyak.board(files, noisy)
    with pytest.raises(NonFiniteError, match=r"score gives NaN for 'ema_0.99'"):
        polyak.board(files, lambda state: score(state) * float("nan"))
    with pytest.raises(ConfigError, match="score gives 1 losses; expected that of each"):
        polyak.board(files, lambda state: score(state).mean())
    with pytest.raises(ConfigError, match="0 updates; expected at least 8"):
        polyak.board(Averager(nn.Linear(2, 2), 0.9), score)
    with pytest.raises(ConfigError, match="files hold no averages"):
        polyak.board([], score)
    with pytest.raises(ConfigError, match="score gives a NoneType, None; expected the loss of"):
        polyak.board(files, lambda state: None)
    with pytest.raises(StateError, match=r"the same losses of \d+ different averages"):
        polyak.board(files, lambda state: torch.arange(ITEMS))
    with pytest.raises(NonFiniteError, match="score gives infinity even for"):
        polyak.board(files, lambda state: (1e6 * (1 + score(state))).half())
    lengths = iter([ITEMS, *(ITEMS - 1 for _ in range(40))])
    with pytest.raises(ConfigError, match="score gives 399 losses; expected that of each"):
        polyak.board(files, lambda state: score(state)[: next(lengths)])
    with pytest.raises(ConfigError, match="score gives a Tensor"):
        polyak.board(files, lambda state: 1j * score(state))
    with pytest.raises(ConfigError, match="largest_error is nan; expected a number >= 0"):
        polyak.board(files, score, largest_error=float("nan"))


def test_a_score_that_keeps_something_for_the_next_weights_is_named(tmp_path):
    _, files, score = trained(tmp_path)
    before = {}

    def leaking(state):
        last = before.get("weight", state["weight"])
        before["weight"] = state["weight"]
        return score({"weight": 0.9 * state["weight"] + 0.1 * last})

    def altering(state):
        state["weight"].mul_(1.01)
        return score(state)

    for bad in (leaking, altering):
        with pytest.raises(StateError, match="of the same weights; expected one number"):
            polyak.board(files, bad)


def test_checkpoints_of_any_tool_are_averaged_as_written_out(tmp_path):
    generator, at, seen = torch.Generator().manual_seed(0), list(range(10, 301, 10)), []
    for step in at:
        seen.append(2 * (1 - step / 300) + torch.randn(1, 30, generator=generator))
        torch.save({"weight": seen[-1]}, tmp_path / f"{step}.pt")
    targets = torch.zeros(ITEMS, 30) + 0.1 * torch.randn(ITEMS, 30, generator=generator)

    def score(state):
        return (state["weight"] - targets).square().mean(dim=1)

    files = [tmp_path / f"{step}.pt" for step in at]
    found = polyak.board(files, score, at=at)
    best = found.best
    shares = polyak.profile(best.average, updates=best.steps // 10, every=10)
    exact = sum(s * x.double() for s, x in zip(shares[1:], seen, strict=False))
    [state] = found.weights.values()
    assert sum(shares[1:]) == pytest.approx(1.0, abs=0.05)
    torch.testing.assert_close(state["weight"].double(), exact, rtol=0.05, atol=0.05)
    assert found.kept.average.label == "raw"
    assert found.best.scored < found.kept.scored
    with pytest.raises(ConfigError, match="expected a run to choose from"):
        polyak.board(files[:4], score, at=at[:4])
    with pytest.raises(ConfigError, match="expected the optimizer step of each"):
        polyak.board(files, score, at=at[:4])


def test_a_score_in_half_precision_is_one(tmp_path):
    _, files, score = trained(tmp_path)
    found = polyak.board(files[-4:], lambda state: score(state).half())
    order = torch.randperm(ITEMS, generator=torch.Generator().manual_seed(0))
    [state] = found.weights.values()
    exact = score(state)[order[ITEMS // 2 :]].mean()
    assert found.best.scored == pytest.approx(float(exact), rel=1e-3)


def test_no_averager_is_updated_while_it_is_compared(tmp_path):
    averager, _, score = trained(tmp_path)

    def training(state):
        averager.step()
        return score(state)

    with pytest.raises(StateError, match=r"has gone from 400 to 4\d\d updates meanwhile"):
        averager.board(training)


def test_what_no_board_can_be_made_of_is_named(tmp_path):
    _, files, score = trained(tmp_path)
    (tmp_path / "other").mkdir()
    _, others, _ = trained(tmp_path / "other", seed=1)
    with pytest.raises(StateError, match=r"hold different weights of 'ema_0\.6' after 400"):
        polyak.board([*files, others[-1]], score)
    with pytest.raises(FileError, match="is a folder without averages; expected files of polyak"):
        polyak.board(tmp_path, score)
    with pytest.raises(FileError, match="is no file"):
        polyak.board(tmp_path / "gone", score)
    model = nn.Linear(30, 1, bias=False)
    alone = Averager(model, EMA(0.7, None))
    for _ in range(100):
        nn.init.normal_(model.weight)
        alone.step()
    polyak.save(alone, tmp_path / "alone.safetensors")
    with pytest.raises(ConfigError, match=r"nothing but 'ema_0\.7' can be made of what was kept"):
        polyak.board(str(tmp_path / "alone.safetensors"), score)
    network = Averager(nn.Linear(31, 1, bias=False), EMA(0.9, None))
    for _ in range(90):
        network.step()
    polyak.save(network, tmp_path / "network.safetensors")
    with pytest.raises(WeightMismatchError, match=r"alone|network"):
        polyak.board([tmp_path / "alone.safetensors", tmp_path / "network.safetensors"], score)
    slower = Averager(model, EMA(0.9, None), every=2)
    slower.step()
    polyak.save(slower, tmp_path / "slower.safetensors")
    with pytest.raises(ConfigError, match="updated every 1, 2 steps; expected one period"):
        polyak.board([*files, tmp_path / "slower.safetensors"], score)
