"""Averages of other kinds ride along: they are what they say, and nothing else changes."""

import math
from dataclasses import replace

import pytest
import torch

from polyak.averaging import load as load_weights
from polyak.errors import ConfigError
from polyak.records.runs import EpochRecord, Score, run_folder
from polyak.records.vocabulary import BESIDE_THE_BANK, WINDOWS, Stop
from polyak.training.arms import arms, write_arms
from polyak.training.checkpoint import Checkpoints
from polyak.training.config import RunConfig
from polyak.training.extra_averages import (
    LAWA_SNAPSHOTS,
    MEAN_AGES,
    build_extra_averager,
    gamma_of_age,
    uniform_between,
)
from polyak.training.selection import swad_interval

EPOCHS, EVERY = 8, 2
STOPS = (Stop(rule="acc", epoch=3, average="ema_0.9"), Stop(rule="loss", epoch=5, average="sgd"))


@pytest.fixture(scope="module")
def config(tiny) -> RunConfig:
    """A refit of 8 epochs of 6 steps, the SWAD interval from another run."""
    return replace(
        tiny,
        epochs=EPOCHS,
        holdout=False,
        stops=STOPS,
        more_averages=BESIDE_THE_BANK,
        swad=(3, 5),
    )


@pytest.fixture(scope="module")
def followed(config, start):
    """The run when it is over, and the SGD weights after each step."""
    run, seen = start(config), []
    batches = run._train_batch

    def noting(*batch):
        batches(*batch)
        seen.append({key: x.detach().clone() for key, x in run.model.state_dict().items()})

    run._train_batch = noting
    run.train(lambda record: None)
    return run, seen


def mean(weights, key):
    return torch.stack([w[key].double() for w in weights]).mean(dim=0)


def assert_mean(found, weights):
    for key, x in found.items():
        if x.is_floating_point():
            assert torch.allclose(x.double(), mean(weights, key), atol=1e-5), key


def at(seen, steps):
    """Weights at steps counted from 1."""
    return [seen[step - 1] for step in steps]


def test_each_average_is_the_mean_that_it_names(followed):
    run, seen = followed
    assert run.steps_per_epoch == 6
    assert len(seen) == 48
    last = run.trained.last
    assert set(last) == {"sgd", "swa", *BESIDE_THE_BANK}
    assert_mean(last["tail"], at(seen, range(38, 49, EVERY)))
    assert_mean(last["lawa"], at(seen, range(18, 49, 6)))
    # Epochs 3 to 5.
    assert_mean(last["swad"], at(seen, range(14, 31, EVERY)))


def test_the_power_average_is_its_recurrence(followed):
    run, seen = followed
    exponent = next(k for k in run.extra._kinds.values() if k.label == "power").exponent
    found = {key: x.double().clone() for key, x in seen[EVERY - 1].items()}
    for step in range(EVERY, 49, EVERY):
        d = (1 - EVERY / step) ** (exponent + 1)
        for key, x in found.items():
            x.lerp_(seen[step - 1][key].double(), 1 - d)
    for key, x in run.trained.last["power"].items():
        if x.is_floating_point():
            assert torch.allclose(x.double(), found[key], atol=1e-5), key


@pytest.mark.parametrize("name", WINDOWS)
def test_a_window_is_a_power_average_of_its_mean_age(followed, name):
    run, seen = followed
    age = {"window_1": 0.01, "window_7": 0.067, "window_10": 0.1}[name]
    kind = next(k for k in run.extra._kinds.values() if k.label == name)
    assert MEAN_AGES[name] == age
    # Of s^γ on (0, 1]: 1 − (γ + 1)/(γ + 2).
    assert 1 / (kind.exponent + 2) == pytest.approx(age)
    found = {key: x.double().clone() for key, x in seen[EVERY - 1].items()}
    for step in range(EVERY, 49, EVERY):
        d = (1 - EVERY / step) ** (kind.exponent + 1)
        for key, x in found.items():
            x.lerp_(seen[step - 1][key].double(), 1 - d)
    for key, x in run.trained.last[name].items():
        if x.is_floating_point():
            assert torch.allclose(x.double(), found[key], atol=1e-5), key


def test_the_papers_warm_up_is_the_window_of_a_tenth():
    """(t + 1)/(t + 10) leaves update i's weights the share 9·(i + 2)…(i + 9)/(n + 2)…(n + 10): a
    polynomial of degree 8, and γ = 8 is the mean age of a tenth."""
    updates = 2000
    d = [(t + 1) / (t + 10) for t in range(updates)]
    shares, left = [], 1.0
    for t in reversed(range(updates)):
        shares.append((1 - d[t]) * left)
        left *= d[t]
    shares.reverse()
    i, n = 700, updates - 1
    rising = math.prod(range(i + 2, i + 10)) * 9 / math.prod(range(n + 2, n + 11))
    assert shares[i] == pytest.approx(rising)
    age = sum(share * (n - t) for t, share in enumerate(shares)) / updates
    assert age == pytest.approx(0.1, rel=0.01)
    assert gamma_of_age(0.1) == pytest.approx(8)


def test_a_half_life_of_a_twentieth_of_the_time_elapsed_is_the_window_of_6_7_percent():
    """d = 2^(−1/(f·t)) at step t is (1 − 1/t)^(γ + 1), γ + 1 = ln 2/f, to first order in 1/t."""
    f = 0.05
    gamma = math.log(2) / f - 1
    assert 1 / (gamma + 2) == pytest.approx(0.067, abs=5e-4)
    for t in (1_000, 100_000):
        assert 2 ** (-1 / (f * t)) == pytest.approx((1 - 1 / t) ** (gamma + 1), rel=1e-5)


def test_at_stops_there_are_those_that_mean_something_there(followed):
    run, seen = followed
    kept = run.trained.kept["acc"].weights
    assert set(kept) == {"sgd", "ema_0.2", "ema_0.9", "lawa", "power", *WINDOWS}
    assert_mean(kept["lawa"], at(seen, (6, 12, 18)))


def test_training_and_the_bank_do_not_notice_them(followed, config, start):
    run, _ = followed
    plain = start(replace(config, more_averages=(), swad=None))
    plain.train(lambda record: None)
    assert plain.extra is None
    for name in ("sgd", "swa"):
        for key, x in plain.trained.last[name].items():
            assert torch.equal(run.trained.last[name][key], x)
    for name in plain.averager.names:
        for key, x in plain.averager.tensors(name).items():
            assert torch.equal(run.averager.tensors(name)[key], x)


def test_they_are_arms_with_files_that_say_what_they_are(followed, config, tmp_path):
    run, _ = followed
    folder = run_folder(tmp_path, config.id)
    write_arms(run, run.trained, folder)
    names = {arm.name for arm in arms(run.trained, config)}
    final = {f"{name}_bn" for name in BESIDE_THE_BANK}
    stopped = {
        f"{name}_{rule}_bn" for name in ("lawa", "power", *WINDOWS) for rule in ("acc", "loss")
    }
    assert final | stopped <= names
    assert {path.stem for path in (tmp_path / "runs" / config.id / "averages").iterdir()} == names
    saved = load_weights(folder.arm("lawa_acc_bn"))
    assert saved.manifest["source"] == "lawa"
    assert (saved.manifest["epoch"], saved.manifest["rule"]) == (3, "acc")
    assert saved.manifest["averages"]["lawa_acc_bn"]["last"] == LAWA_SNAPSHOTS
    assert saved.manifest["refreshed_batchnorm"] == ["lawa_acc_bn"]


@pytest.mark.parametrize("pause", [17, 20, 31])
def test_a_run_that_was_stopped_ends_with_the_same_averages(
    followed, config, start, tmp_path, pause
):
    class Paused(Exception):
        pass

    run, checkpoints, rests = start(config), Checkpoints(tmp_path, seconds=1e9), 0

    def rest():
        nonlocal rests
        rests += 1
        if rests == pause:
            checkpoints.write(run)
            raise Paused

    with pytest.raises(Paused):
        run.train(lambda record: None, on_rest=rest)
    again = start(config)
    assert Checkpoints(tmp_path).resume(again)
    again.train(lambda record: None)
    whole, _ = followed
    for name, weights in whole.trained.last.items():
        for key, x in weights.items():
            assert torch.equal(again.trained.last[name][key], x), (name, key)


def test_a_search_has_no_swad_and_a_short_run_no_empty_average(tiny, start):
    run = start(replace(tiny, more_averages=("swad",)))
    assert run.extra is None
    both = start(replace(tiny, more_averages=("swad", "tail")))
    assert both.extra is not None
    assert both.extra.names == ("tail",)
    # One update a run, in the first epoch: the tail takes in nothing.
    averaging = replace(tiny.averaging, every=8)
    short = start(replace(tiny, epochs=2, averaging=averaging, more_averages=("tail", "power")))
    short.train(lambda record: None)
    assert "tail" not in short.trained.last
    assert "power" in short.trained.last


def test_snapshots_are_an_epoch_apart_in_whole_periods(config):
    model = torch.nn.Linear(1, 1)
    for per_epoch, every, spacing in ((391, 16, 384), (6, 2, 6), (5, 16, 16)):
        averaging = replace(config.averaging, every=every)
        long = replace(config, averaging=averaging, more_averages=("lawa",), swad=None)
        bank = build_extra_averager(model, long, steps_per_epoch=per_epoch)
        assert bank is not None
        assert bank.state_dict()["averages"]["lawa"]["every"] == spacing


@pytest.mark.parametrize(("start_step", "end"), [(0, 10), (5, 11), (6, 12), (7, 7)])
def test_uniform_between_is_a_plain_mean_whatever_the_period(start_step, end):
    from polyak.averaging import Averager

    for every in (1, 3, 4):
        model = torch.nn.Linear(1, 1, bias=False).double()
        bank = Averager(model, [uniform_between(start_step, end)], every=every)
        counted = []
        for step in range(1, 21):
            torch.nn.init.normal_(model.weight)
            bank.step()
            if step % every == 0 and start_step < step <= end:
                counted.append(model.weight.detach().clone())
        if counted:
            found = bank.tensors("swad")["weight"]
            assert torch.allclose(found, torch.stack(counted).mean(dim=0))


def test_ids_of_runs_without_them_are_what_they_were(tiny):
    assert "more_averages" not in tiny.record()
    assert "swad" not in tiny.record()
    assert RunConfig().id == "ae216f5a3175"
    with_tail = replace(tiny, more_averages=("tail",))
    assert with_tail.id != tiny.id
    assert with_tail.record()["more_averages"] == ("tail",)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"more_averages": ("tial",)}, "Did you mean 'tail'"),
        ({"more_averages": ("tail", "tail")}, "expected no name twice"),
        ({"swad": (1, 2)}, "swad is given; expected only with"),
        (
            {"more_averages": ("swad",), "swad": (2, 1), "holdout": False},
            r"swad is \(2, 1\); expected rising epochs, 1 to 3",
        ),
    ],
)
def test_settings_that_cannot_be_are_refused(tiny, changes, message):
    with pytest.raises(ConfigError, match=message):
        replace(tiny, **changes).check()


def epochs(losses):
    return [
        EpochRecord(
            epoch=number,
            step=number,
            learning_rate=0.1,
            train=Score(1.0, 0.5),
            seconds=0.0,
            holdout={"sgd": Score(loss, 0.5)},
        )
        for number, loss in enumerate(losses, start=1)
    ]


@pytest.mark.parametrize(
    ("losses", "interval"),
    [
        # Converges at 3, never rises.
        ((3.0, 2.0, 1.0, 1.1, 1.2, 1.1, 1.2), (3, 7)),
        # The threshold is 1.3 · 1.1 = 1.43; epochs 6 to 11 are above it.
        ((3.0, 2.0, 1.0, 1.1, 1.2, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0), (3, 5)),
        # One epoch below it within the six puts the end off.
        ((3.0, 2.0, 1.0, 1.1, 1.2, 2.0, 2.0, 1.4, 2.0, 2.0, 2.0, 2.0), (3, 12)),
        # A first dip that two epochs undercut is passed over.
        ((2.0, 3.0, 1.0, 2.0, 0.9, 1.0, 1.0), (5, 7)),
        # Falls to the end: the last epoch alone.
        ((5.0, 4.0, 3.0, 2.0, 1.0), (5, 5)),
        ((1.0,), (1, 1)),
        # Ties count as no improvement.
        ((1.0, 1.0, 1.0, 1.0), (1, 4)),
    ],
)
def test_swad_averages_from_convergence_to_overfitting(losses, interval):
    assert swad_interval(epochs(losses)) == interval


def test_swad_equals_algorithm_1_read_line_by_line():
    """With the paper's indices from 1, on random losses."""
    draw = torch.Generator().manual_seed(0)
    for _ in range(300):
        n = int(torch.randint(3, 25, (), generator=draw))
        losses = (1 + torch.rand(n, generator=draw)).tolist()
        e = dict(enumerate(losses, start=1))
        first, last, limit = None, n, None
        for i in range(1, n + 1):
            if limit is None:
                if i >= 3 and e[i - 2] == min(e[i - j] for j in range(3)):
                    first, limit = i - 2, 1.1 / 3 * sum(e[i - j] for j in range(3))
            elif i >= 4 and limit < min(e[i - j] for j in range(4)):
                last = i - 4
                break
        expected = (n, n) if first is None else (first, last)
        assert swad_interval(epochs(losses), tolerance=4, ratio=1.1) == expected
