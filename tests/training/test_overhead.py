from dataclasses import replace

import pytest
import torch

from polyak.data import load, partition
from polyak.errors import ConfigError
from polyak.records.runs import run_folder
from polyak.records.timings import read_timings
from polyak.training import loop
from polyak.training.config import OverheadConfig
from polyak.training.interruption import InterruptedRun, Interruption
from polyak.training.jobs import carry_out
from polyak.training.overhead import measure


@pytest.fixture(scope="module")
def config(tiny) -> OverheadConfig:
    return OverheadConfig(run=tiny, averages=(0, 1, 2), every=(1, 4), rounds=2)


@pytest.fixture(scope="module")
def measured(config, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    carry_out(config, out)
    return run_folder(out, config.id), read_timings(run_folder(out, config.id).timings)


def test_every_bank_is_timed_with_every_period_and_none_once(measured):
    folder, timings = measured
    cases = [(case.averages, case.every) for case in timings.cases]
    assert cases == [(0, None), (1, 1), (1, 4), (2, 1), (2, 4)]
    assert folder.ending == "done"
    assert timings.baseline is timings.cases[0]
    for case in timings.cases:
        assert len(case.steps_seconds) == len(case.evaluation_seconds) == 2
        assert min(*case.steps_seconds, *case.evaluation_seconds) > 0
    # 72 images by 16.
    assert (timings.steps, timings.batch_size, timings.clock) == (5, 16, "CPU")
    assert (timings.train_images, timings.holdout_images) == (72, 18)


def test_storage_is_that_of_so_many_copies_of_parameters_and_statistics(measured, start, tiny):
    _, timings = measured
    model = start(tiny).model
    floats = [x for x in model.state_dict().values() if x.is_floating_point()]
    for case in timings.cases:
        assert case.bytes == case.averages * 4 * sum(x.numel() for x in floats)
    assert timings.parameters == sum(p.numel() for p in model.parameters())


def test_what_is_timed_is_the_studys_own_loop(config, tiny, start):
    """The weights after the rounds are those of as many epochs of training."""
    longer = replace(tiny, epochs=3)
    plain = start(longer)
    plain.train(lambda record: None)
    from polyak.training import overhead

    data = partition(load(tiny.data), tiny.data, holdout=True)
    for size, every in ((0, None), (2, 1)):
        case = overhead._Case(config, size, every, data, torch.device("cpu"))
        for number in (1, 2, 3):
            case.round(number, lambda: 0.0)
        weights = case.run.model.state_dict()
        assert all(torch.equal(x, weights[key]) for key, x in plain.model.state_dict().items())
        # Each epoch has five steps.
        assert case.run.averager.updates == (15 if size else 0)


def test_several_averages_are_several_from_the_first_update_on(config, tiny):
    """In warm-up they would be one, and evaluated once."""
    from polyak.training import overhead

    data = partition(load(tiny.data), tiny.data, holdout=True)
    case = overhead._Case(config, 2, 1, data, torch.device("cpu"))
    case.round(1, lambda: 0.0)
    assert list(case.run.averager.coinciding()) == []


def test_a_measurement_that_is_asked_to_stop_leaves_nothing_half_done(config, tmp_path):
    interruption = Interruption()
    interruption.signal_number = 15
    with pytest.raises(InterruptedRun):
        carry_out(config, tmp_path, interruption=interruption)
    folder = run_folder(tmp_path, config.id)
    assert folder.ending is None
    assert not folder.timings.exists()


def test_all_cases_take_their_steps_in_the_way_that_the_first_has_chosen(config, tiny, monkeypatch):
    """Each choosing for itself by a trial, they might be compared across ways."""
    chosen = []
    monkeypatch.setattr(loop, "choose_backend", lambda *a, **o: chosen.append(1) or "eager")
    data = partition(load(tiny.data), tiny.data, holdout=True)
    short = replace(config, rounds=1)
    measure(short, data, device=torch.device("cpu"), on_round=lambda: None)
    assert chosen == [1]


def test_rounds_are_reported_as_they_end(config, tiny):
    data = partition(load(tiny.data), tiny.data, holdout=True)
    ended = []
    measure(
        replace(config, averages=(0,)),
        data,
        device=torch.device("cpu"),
        on_round=lambda: ended.append(1),
    )
    assert len(ended) == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"averages": (1, 2)}, "expected 0 and sizes up to 2"),
        ({"averages": (0, 3)}, "expected 0 and sizes up to 2"),
        ({"every": (0,)}, "expected steps >= 1"),
        ({"every": ()}, "expected steps >= 1"),
        ({"rounds": 0}, "rounds is 0; expected >= 1"),
    ],
)
def test_faults_are_named(config, changes, message):
    with pytest.raises(ConfigError, match=message):
        replace(config, **changes).check()


def test_a_run_without_holdout_has_nothing_to_evaluate_on(config):
    with pytest.raises(ConfigError, match="run is without hold-out"):
        replace(config, run=replace(config.run, holdout=False)).check()


def test_every_field_changes_the_id_and_none_is_a_runs(config, tiny):
    changes = {"run": replace(tiny, seed=5), "averages": (0, 1), "every": (2,), "rounds": 3}
    ids = {config.id, tiny.id, *(replace(config, **{k: v}).id for k, v in changes.items())}
    assert len(ids) == len(changes) + 2
    assert changes.keys() == set(OverheadConfig.__slots__)
