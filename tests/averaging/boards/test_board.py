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
from polyak.errors import ConfigError, NonFiniteError, StateError

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
