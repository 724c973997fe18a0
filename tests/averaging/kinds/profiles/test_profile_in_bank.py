"""Profiles of banks whose updates were not regular, and of resumed ones."""

import pytest
import torch
from support.small_networks import OneHot, Scalar

from polyak import EMA, Averager, PowerEMA, Schedule, Uniform
from polyak.errors import ConfigError, StateError


def test_manual_updates_alone_are_as_good_as_counted_steps():
    model = OneHot(6)
    kind = PowerEMA(gamma=2.0)
    averager = Averager(model, [kind], every=4)
    for i in range(1, 7):
        model.mark(i)
        averager.update()
    got = averager.profile(kind.label)
    assert got == pytest.approx(averager.tensors(kind.label)["w"].tolist(), abs=1e-14)


def irregular(kinds, *, skip):
    """A bank of period 2 whose third update was skipped, or that had one more within a period."""
    model = OneHot(5 if skip else 7)
    averager = Averager(model, kinds, every=2)
    done = 0
    for t in range(6):
        done += 1
        model.mark(done)
        averager.step()
        if skip and t == 2:
            with torch.no_grad():
                model.w[0] = torch.nan
            with pytest.warns(RuntimeWarning):
                averager.step()
            done -= 1
            continue
        if not skip and t == 3:
            averager.update()
            done += 1
            model.mark(done)
        averager.step()
    return averager


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize(
    "kind",
    [
        EMA(0.8),
        EMA(0.8, None),
        EMA(0.8, "edm2"),
        EMA(0.8, start=3),
        EMA(0.8, start=7),
        EMA(0.8, start=40),
        Uniform(start=5),
    ],
)
def test_profiles_that_do_not_need_the_steps_stay_exact(kind, skip):
    averager = irregular([kind], skip=skip)
    expected = averager.tensors(kind.label)["w"].tolist()
    assert averager.updates == len(expected) - 1
    assert averager.profile(kind.label) == pytest.approx(expected, abs=1e-14)


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize(
    "kind",
    [
        EMA(0.8, warmup_counts="steps"),
        EMA(0.8, "edm2", "steps", start=4),
        PowerEMA(gamma=2.0),
        Schedule(lambda _: 0.5, name="half"),
    ],
)
def test_a_profile_that_needs_unknown_steps_is_refused(kind, skip):
    averager = irregular([kind], skip=skip)
    with pytest.raises(StateError, match="expected one every 2 steps"):
        averager.profile(kind.label)
    assert "mean age unknown" in averager.explain()


def test_a_skip_and_an_addition_that_cancel_are_not_taken_for_regular():
    model = Scalar(1.0)
    averager = Averager(model, [PowerEMA(gamma=2.0, name="m")], every=4)
    for step in range(1, 9):
        model.set(torch.nan if step == 4 else 1.0)
        if step == 4:
            with pytest.warns(RuntimeWarning):
                averager.step()
        else:
            averager.step()
        if step == 6:
            averager.update()
    assert (averager.updates, averager.steps) == (2, 8)
    with pytest.raises(StateError, match="1 were skipped"):
        averager.profile("m")


def test_a_profile_goes_on_after_a_resume():
    kind = EMA(0.8, warmup_counts="steps")
    first = Averager(OneHot(5), [kind], every=3)
    for _ in range(15):
        first.step()
    second = Averager(OneHot(5), [kind], every=3)
    second.load_state_dict(first.state_dict())
    assert second.profile(kind.label) == first.profile(kind.label)


def test_a_profile_of_an_unknown_average_names_the_known_ones():
    averager = Averager(Scalar(), [0.9])
    with pytest.raises(ConfigError, match=r"expected one of ema_0\.9"):
        averager.profile("ema_0.99")
