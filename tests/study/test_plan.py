from dataclasses import replace

import pytest

from polyak.data import DataConfig
from polyak.errors import ConfigError
from polyak.records.vocabulary import PROBED_ARMS, Stop
from polyak.study import plan
from polyak.study.paper.presets import PRESETS, preset

STOPS = tuple(
    Stop(rule=rule, epoch=epoch, average=average)
    for rule, epoch, average in (("sgd", 3, "sgd"), ("acc", 2, "ema_0.9"), ("loss", 1, "ema_0.2"))
)


def test_the_search_is_every_rate_with_every_seed_on_the_part_that_selects(row):
    row = replace(row, search_monitors=("test",), refit_monitors=("train_wrong",))
    runs = plan.search(row)
    assert {rate: set(by_seed) for rate, by_seed in runs.items()} == {0.05: {0, 1}, 0.1: {0, 1}}
    for rate, by_seed in runs.items():
        for seed, run in by_seed.items():
            assert run == replace(
                row.config,
                optim=replace(row.config.optim, lr=rate),
                seed=seed,
                holdout=True,
                monitors=("test",),
            )
            run.check()


def test_the_refit_has_the_searchs_seed_and_its_whole_schedule(row):
    search = plan.search(row)
    refits = plan.refit(row, 0.1, {0: STOPS, 1: STOPS[:2]})
    assert set(refits) == {0, 1}
    for seed, run in refits.items():
        before = search[0.1][seed]
        assert (run.optim, run.epochs, run.seed) == (before.optim, before.epochs, before.seed)
        assert (run.averaging, run.model, run.data) == (
            before.averaging,
            before.model,
            before.data,
        )
        assert not run.holdout
        run.check()
    # Epochs carry over as they are, not as steps.
    assert refits[0].stops == STOPS
    assert refits[1].stops == STOPS[:2]


def test_the_transfer_probes_all_refits_of_a_row_on_each_target(row):
    refits = tuple(plan.refit(row, 0.1, {0: STOPS, 1: STOPS}).values())
    probes = plan.transfer(row, refits)
    assert set(probes) == {"digits-parity"}
    probe = probes["digits-parity"]
    assert (probe.backbones, probe.arms, probe.data) == (refits, PROBED_ARMS, row.transfer[0])
    probe.check()


def test_all_faults_of_all_rows_come_in_one_message(row, study):
    bad = replace(
        row,
        label="bad",
        config=replace(row.config, epochs=0, batch_size=0),
        learning_rates=(0.1, 0.0),
        seeds=(1, 1),
        paper_decays=(0.998,),
        transfer=(DataConfig(holdout=3.0),),
    )
    rates = replace(row, label="rates", learning_rates=(0.1, 0.1), seeds=())
    study = replace(study, rows=(row, bad, row, rates))
    with pytest.raises(ConfigError) as caught:
        study.check()
    for part in (
        "epochs is 0",
        "batch_size is 0",
        "bad: learning_rates",
        "bad: seeds is (1, 1)",
        "bad: paper_decays",
        "holdout is 3.0",
        "rates: learning_rates is (0.1, 0.1)",
        "rates: seeds is ()",
        "two rows have one label",
    ):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"search_monitors": ("tset",)}, "Did you mean 'test'"),
        ({"refit_monitors": ("holdout_bn",)}, "expected a run that keeps a hold-out"),
    ],
)
def test_what_only_a_later_phase_would_refuse_is_refused_at_the_door(row, study, change, message):
    with pytest.raises(ConfigError, match=message):
        replace(study, rows=(replace(row, **change),)).check()


def test_rows_with_stops_of_their_own_are_refused(row, study):
    config = replace(row.config, holdout=False, stops=STOPS)
    with pytest.raises(ConfigError, match="stops are given"):
        replace(study, rows=(replace(row, config=config),)).check()


@pytest.mark.parametrize(
    "name", ["", "runs", "audits", ".", "..", "../x", "a/b", "/x", "-x", "a\n"]
)
def test_a_name_that_is_no_folder_of_its_own_is_refused(study, name):
    with pytest.raises(ConfigError, match=r"name is .*; expected letters"):
        replace(study, name=name).check()


def test_rates_that_a_record_could_not_tell_apart_are_refused(row, study):
    row = replace(row, learning_rates=(0.05, 0.05000001))
    with pytest.raises(ConfigError, match="expected them to differ in six digits"):
        replace(study, rows=(row,)).check()


def test_a_sound_study_passes(study):
    study.check()


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_sound_and_says_what_it_costs(name):
    study = preset(name)
    study.check()
    assert study.name == name
    assert study.cost
    assert study.title


@pytest.mark.parametrize(("name", "nearest"), [("dmeo", "demo"), ("Demo", "demo")])
def test_an_unknown_study_gets_the_choices_and_the_nearest(name, nearest):
    with pytest.raises(ConfigError, match=rf"study is '{name}'; expected one of .*'{nearest}'\?"):
        preset(name)
