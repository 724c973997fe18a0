"""Whatever stands where a setting is expected is taken, or refused by the setting's name."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

import polyak
from polyak.averaging.kinds import warmups
from polyak.errors import ConfigError

STRANGE = {
    "text": "x",
    "a number as text": "0.5",
    "nothing": None,
    "a tensor": torch.tensor(0.5),
    "not a number": float("nan"),
    "infinity": float("inf"),
    "negative": -1,
    "a truth value": True,
    "huge": 1e300,
    "too large for a float": 10**400,
    "a list": [0.5],
    "an object": object(),
    "numpy's float": np.float32(0.5),
    "numpy's integer": np.int64(3),
    "bytes": b"1",
    "complex": 1 + 0j,
    "empty text": "",
    "a mapping": {},
}
AVERAGER = partial(polyak.Averager, nn.Linear(2, 2))
SETTINGS = {
    "decay": polyak.EMA,
    "warmup": partial(polyak.EMA, 0.9),
    "warmup_counts": partial(polyak.EMA, 0.9),
    "start": partial(polyak.EMA, 0.9),
    "name": partial(polyak.EMA, 0.9),
    "sigma_rel": polyak.PowerEMA,
    "gamma": polyak.PowerEMA,
    "start of uniform": polyak.Uniform,
    "steps": polyak.EMA.halflife,
    "epochs": partial(polyak.EMA.halflife, steps_per_epoch=5),
    "steps_per_epoch": partial(polyak.EMA.halflife, epochs=2),
    "samples": partial(polyak.EMA.halflife, batch_size=5),
    "batch_size": partial(polyak.EMA.halflife, samples=2000),
    "decay of a step": polyak.EMA.per_step,
    "tau": polyak.EMA.tau,
    "start of a cosine": partial(polyak.EMA.cosine, steps=9),
    "end": partial(polyak.EMA.cosine, 0.9, steps=9),
    "steps of a cosine": partial(polyak.EMA.cosine, 0.9),
    "last": polyak.Window,
    "every of a window": partial(polyak.Window, 3),
    "every of a copy": polyak.HardCopy,
    "over": partial(polyak.Annealed, "linear"),
    "first": warmups.Ratio,
    "copies": warmups.Ratio,
    "gamma of a warm-up": warmups.InverseGamma,
    "power": warmups.InverseGamma,
    "min_decay": warmups.InverseGamma,
    "after": warmups.InverseGamma,
    "ratio": warmups.HalfLifeRamp,
    "tau of a warm-up": warmups.Exponential,
    "averages": AVERAGER,
    "every": partial(AVERAGER, 0.9),
    "total_steps": partial(AVERAGER, 0.9),
    "buffers": partial(AVERAGER, 0.9),
    "dtype": partial(AVERAGER, 0.9),
    "device": partial(AVERAGER, 0.9),
    "nonfinite": partial(AVERAGER, 0.9),
}


@pytest.mark.parametrize("value", STRANGE.values(), ids=STRANGE.keys())
@pytest.mark.parametrize("setting", SETTINGS)
def test_any_value_of_any_setting_works_or_is_refused_by_name(setting, value, tmp_path):
    name = setting.split(" of ")[0]
    said = ""
    try:
        made = SETTINGS[setting](**{name: value})
        if isinstance(made, warmups.Warmup):
            made = polyak.EMA(0.9, made)
        if isinstance(made, polyak.Average):
            averager = AVERAGER(made)
            averager.step()
            assert averager.explain()
            polyak.save(averager, tmp_path / "averages")
    except ConfigError as error:
        said = str(error)
    # One average of several names itself; lengths become decays, steps updates.
    assert not said or any(x in said for x in (name, "average", "decay is"))


def test_numbers_that_come_as_text_or_as_tensors_are_no_decays():
    for given in ("0.99", torch.tensor(0.99), np.array(0.99), b"0.99"):
        with pytest.raises(ConfigError, match=r"averages is .*; expected a list of decays or"):
            AVERAGER(given)


def test_decays_of_an_endless_run_are_refused_instead_of_being_1():
    with pytest.raises(ConfigError, match="expected fewer, since their decays would be 1"):
        AVERAGER([0.99], total_steps=10**30)


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu"), None])
def test_devices_are_taken_by_their_names(device):
    assert AVERAGER(0.9, device=device).tensors()["weight"].device.type == "cpu"


@pytest.fixture
def averager():
    return polyak.Averager(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), [0.9, 0.999])


BATCHES = [torch.ones(4, 2)]


@pytest.mark.parametrize(
    ("call", "refusal"),
    [
        (lambda a: a.tensors(0.999), r"average is 0\.999; .* Did you mean 'ema_0\.999'\?"),
        (lambda a: a.module(["ema_0.9"]), r"average is \['ema_0\.9'\]; expected one of"),
        (lambda a: a.live(0), "average is 0; expected one of"),
        (lambda a: a.applied(True).__enter__(), "average is True; expected one of"),
        (lambda a: a.refresh_batchnorm(BATCHES, 0.9), r"average is 0\.9; expected one of"),
        (lambda a: a.refresh_batchnorm(3), "batches is a int; expected a list or a loader"),
        (lambda a: a.refresh_batchnorm(BATCHES, max_samples="9"), "max_samples is '9'; expected"),
        (lambda a: a.refresh_batchnorm(BATCHES, forward=3), "forward is 3; expected a function"),
        (lambda a: a.load_state_dict("a.pt"), r"the state is a str; .* as with torch\.load"),
        (lambda a: polyak.refresh_batchnorm(BATCHES, a.model), "model is a list; .* Pass it first"),
        (lambda a: polyak.save(a.model, "x"), "weights is Sequential; expected an averager"),
        (lambda a: polyak.save(a.model.state_dict(), "x"), r"OrderedDict with '0\.weight'"),
        (lambda a: polyak.save({1: a.tensors("ema_0.9")}, "x"), "a dict with 1; expected"),
    ],
)
def test_what_is_read_loaded_or_saved_by_mistake_is_refused_in_words(averager, call, refusal):
    with pytest.raises(ConfigError, match=refusal):
        call(averager)


def test_averages_may_be_named_by_any_collection(averager):
    for names in (("ema_0.9",), {"ema_0.9": 1}.keys(), (name for name in averager.names), None):
        averager.refresh_batchnorm(BATCHES, names)


class Samples(torch.utils.data.Dataset):
    """What is iterated over by its indices alone."""

    def __getitem__(self, index):
        return BATCHES[index]


def test_a_data_set_without_an_iterator_gives_batches(averager):
    averager.refresh_batchnorm(Samples(), "ema_0.9")
