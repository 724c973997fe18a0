import re
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from support.small_runs import run_in_process

from polyak.errors import ConfigError
from polyak.records.runs import run_folder
from polyak.records.studies import read_study
from polyak.records.vocabulary import Stop
from polyak.report.page import write_report
from polyak.report.paper.published import numbers_for
from polyak.study import plan
from polyak.study.fitting import scaled_decays
from polyak.study.paper.datasets import PLACES
from polyak.study.paper.presets import PAPER_STUDIES, paper_study, preset
from polyak.study.paper.scales import SCALES
from polyak.study.plan import planned
from polyak.study.record import new_record
from polyak.training.config import PAPER_DECAYS

STOP = Stop(rule="sgd", epoch=1, average="sgd")
EVERY_SIZE = [(name, scale) for name in PAPER_STUDIES for scale in SCALES]


def searches(study):
    return {
        run.id: run
        for row in study.rows
        for by_seed in plan.search(row).values()
        for run in by_seed.values()
    }


def refits(study):
    return {
        run.id
        for row in study.rows
        if row.refits
        for rate in row.learning_rates
        for run in plan.refit(row, rate, {seed: (STOP,) for seed in row.seeds}).values()
    }


def unvaried(study):
    """Search ids of the rows that vary no other."""
    return searches(replace(study, rows=tuple(r for r in study.rows if r.against is None))).keys()


@pytest.mark.parametrize(("name", "scale"), EVERY_SIZE)
def test_every_preset_is_sound_at_every_scale_and_names_it(name, scale):
    study = preset(name, scale=scale)
    study.check()
    assert study.name == f"{name}-{scale}"
    assert scale in study.title
    assert bool(study.rows) != bool(study.measurement)
    assert re.search(" on (two cores|one core), ", study.cost)


@pytest.mark.parametrize("scale", SCALES)
def test_studies_plan_the_same_runs_for_a_common_row(scale):
    studies = {name: paper_study(name, scale) for name in PAPER_STUDIES}
    ids = {name: searches(study).keys() for name, study in studies.items()}
    assert ids["table1"] == ids["table3"] == ids["table5"]
    assert ids["table4"] < ids["table1"]
    assert ids["figure2"] < ids["table2"]
    assert refits(studies["table1"]) == refits(studies["table3"]) > refits(studies["table4"])
    assert refits(studies["table5"]) == set()
    assert ids["app-b"] == ids["table1"] | ids["table2"]
    assert refits(studies["app-b"]) == refits(studies["table1"]) | refits(studies["table2"])
    assert ids["app-e1"] == ids["app-e2"]
    assert unvaried(studies["app-a"]) < ids["app-b"]
    assert unvaried(studies["app-c"]) == unvaried(studies["app-g"]) < ids["table1"]
    # At scale tiny averages are updated after each step as it is.
    assert (unvaried(studies["app-d"]) < ids["table1"]) is (scale != "tiny")


@pytest.mark.parametrize("scale", SCALES)
def test_controls_train_the_same_rows_as_without_and_more(scale):
    for name in ("table1", "table2", "table3", "table4"):
        plain, more = paper_study(name, scale), paper_study(name, scale, controls=True)
        more.check()
        assert unvaried(more) == searches(plain).keys()
        annealed = [row for row in more.rows if row.follow_ups == ("annealed",)]
        assert [row.label for row in annealed] == [row.label for row in plain.rows]
        heavier = [row for row in more.rows if row.against]
        assert {row.config.optim.weight_decay for row in heavier} == {5e-4}
        lighter = [row for row in plain.rows if row.config.optim.weight_decay == 1e-4]
        assert [row.against for row in heavier] == [row.label for row in lighter]


def test_controls_of_what_refits_nothing_are_refused():
    with pytest.raises(ConfigError, match="expected a study with models of all training data"):
        preset("table5", scale="tiny", controls=True)
    with pytest.raises(ConfigError, match="expected none for study 'demo'"):
        preset("demo", controls=True)


@pytest.mark.parametrize(("name", "scale"), EVERY_SIZE)
def test_a_row_that_varies_another_differs_in_one_respect(name, scale):
    rows = {row.label: row for row in paper_study(name, scale).rows}
    for row in rows.values():
        if row.against is None:
            continue
        ours, theirs = (asdict(r.config) for r in (row, rows[row.against]))
        other = {k for k in ours if ours[k] != theirs[k]}
        assert (
            other
            == {
                "app-a": {"optim"},
                "app-c": {"bootstrap"},
                "app-d": {"averaging"},
                "app-g": {"selection"},
            }[name]
        )
        assert (row.learning_rates, row.seeds) == (
            rows[row.against].learning_rates,
            rows[row.against].seeds,
        )
        # Nothing of the paper's stands beside it.
        assert numbers_for(row.dataset, row.architecture) == ()


def test_step_decay_drops_at_the_papers_epochs_and_at_their_shares_elsewhere():
    found = {}
    for scale in SCALES:
        row = paper_study("app-a", scale).rows[-1]
        optim = row.config.optim
        assert (optim.schedule, optim.drop) == ("step", 5.0)
        found[scale] = optim.milestones
    assert found == {"paper": (60, 120, 160), "small": (9, 18, 24), "tiny": (0.6, 1.2, 1.6)}


def test_sgd_is_bootstrapped_with_the_average_that_stands_for_0_992():
    for scale in SCALES:
        row = paper_study("app-c", scale).rows[-1]
        place = row.paper_decays.index(0.992)
        assert row.config.bootstrap == row.config.averaging.names[place]


def test_after_every_step_each_decay_is_its_root():
    for scale in SCALES:
        base, row = paper_study("app-d", scale).rows
        every = base.config.averaging.every
        assert (every > 1, row.config.averaging.every) == (True, 1)
        for ours, theirs in zip(
            row.config.averaging.decays, base.config.averaging.decays, strict=True
        ):
            # A short run's decays have three decimals only.
            assert ours == pytest.approx(theirs ** (1 / every), abs=2e-6 if every == 16 else 6e-4)


@pytest.mark.parametrize("scale", SCALES)
def test_figure_1_trains_as_table_1_does_but_watches_more(scale):
    watched = searches(paper_study("figure1", scale))
    assert all(run.monitors == ("holdout_bn",) for run in watched.values())
    unwatched = {replace(run, monitors=()).id for run in watched.values()}
    assert unwatched < searches(paper_study("table1", scale)).keys()
    # What a folder holds depends on its monitors, so its name does too.
    assert unwatched.isdisjoint(watched)


@pytest.mark.parametrize(("name", "scale"), EVERY_SIZE)
def test_no_monitor_of_test_data_is_in_a_study_but_that_of_figure_2s_row(name, scale):
    for row in paper_study(name, scale).rows:
        assert ("test" in row.search_monitors) == (row.dataset == "CIFAR-100N")


def test_table_4_has_the_papers_four_pairs():
    rows = preset("table4", scale="paper").rows
    assert {(row.dataset, target.source) for row in rows for target in row.transfer} == {
        ("TinyImageNet", "cifar10"),
        ("CIFAR-100", "cifar10"),
        ("TinyImageNet", "cifar100"),
        ("CIFAR-10", "cifar100"),
    }
    assert {row.architecture for row in rows} == {"ResNet-18"}


@pytest.mark.parametrize("name", ["table1", "table2", "table3", "table4", "table5"])
def test_the_papers_numbers_are_found_for_every_row_as_published(name):
    for row in preset(name, scale="paper").rows:
        tables = {number.table for number in numbers_for(row.dataset, row.architecture)}
        assert int(name[-1]) in tables
        assert " for " not in row.label


@pytest.mark.parametrize("name", PAPER_STUDIES)
def test_no_stand_in_stands_beside_the_papers_numbers(name):
    for scale in ("small", "tiny"):
        for row in preset(name, scale=scale).rows:
            assert numbers_for(row.dataset, row.architecture) == ()
            assert " for " in row.label


def test_as_published_means_the_papers_settings():
    """Section 4.1, appendix F and table 21."""
    rows = {row.label: row for row in preset("table1", scale="paper").rows}
    assert list(rows) == [
        "CIFAR-100, ResNet-18",
        "CIFAR-100, VGG-16",
        "CIFAR-100, WRN-28-10",
        "CIFAR-10, ResNet-18",
        "TinyImageNet, ResNet-18",
    ]
    for label, row in rows.items():
        config = row.config
        assert config.epochs == (150 if label.startswith("Tiny") else 200)
        assert config.optim.weight_decay == (1e-4 if "ResNet" in label else 5e-4)
        assert (config.batch_size, config.averaging.every, row.seeds) == (128, 16, (0, 1, 2))
        assert (config.optim.warmup_epochs, config.optim.schedule) == (5, "cosine")
        assert config.averaging.decays == row.paper_decays == PAPER_DECAYS
        assert (config.data.train_limit, config.data.test_limit) == (None, None)
    assert rows["CIFAR-100, ResNet-18"].learning_rates == (0.4, 0.8, 1.2, 1.6)
    assert rows["CIFAR-100, WRN-28-10"].learning_rates == (0.1,)


@pytest.mark.parametrize("scale", ["small", "tiny"])
def test_below_the_papers_scale_decays_keep_their_share_of_the_run(scale):
    for name, papers in (("table1", 4_887), ("table2", 4_887)):
        for row in preset(name, scale=scale).rows:
            config = row.config
            steps = -(-config.data.train_limit // config.batch_size)
            length = config.epochs * steps // config.averaging.every
            # Tiny-ImageNet: 150 epochs of 782 steps.
            expected = 7_331 if row.dataset == "TinyImageNet" else papers
            decays = scaled_decays(length, paper_updates=expected)
            assert config.averaging.decays == decays
            assert row.paper_decays == PAPER_DECAYS


def test_what_is_put_in_a_place_is_called_by_its_own_name():
    given = {"cifar10": "fashion-mnist", "cifar100": "data/CIFAR-100"}
    rows = preset("table1", scale="paper", places=given).rows
    assert rows[0].label == "CIFAR-100, ResNet-18"
    assert rows[0].config.data.source == "data/CIFAR-100"
    assert rows[3].label == "fashion-mnist for CIFAR-10, ResNet-18"
    assert numbers_for(rows[3].dataset, rows[3].architecture) == ()
    noisy = preset("table2", scale="paper", places={"cifar10": "jpegs", "cifar10n": "n.pt"}).rows
    assert noisy[0].label == "jpegs, worse_label for CIFAR-10N(Worse), ResNet-34"
    assert noisy[0].config.data.noise.file == "n.pt"


def test_one_data_set_in_every_place_makes_no_two_rows_one(official):
    given = dict.fromkeys(PLACES[:3], "digits")
    preset("table1", scale="tiny", places=given).check()


# In this order, how many runs each adds to those before it. None: as many as the choices ask for.
NEW = {
    "table1": 22,
    "table3": 0,
    "table5": 0,
    "table4": 4,
    "figure1": 2,
    "table2": 8,
    "figure2": 0,
    "overhead": 1,
    "app-a": 2,
    "app-b": 0,
    "app-c": 2,
    "app-d": 4,
    "app-e1": 2,
    "app-e2": 2,
    "app-g": None,
}

# With probes, without refits, with wrong labels: the kinds of page, on few rows; and of those of
# appendices, all of which tests/report has, one with follow-ups and one with a row that varies
# another.
PAGES = ("table4", "figure1", "table2", "overhead", "app-e2", "app-g")


def test_every_preset_is_run_below():
    assert sorted(NEW) == sorted(PAPER_STUDIES)


@pytest.mark.long
def test_every_preset_runs_on_files_in_the_official_formats(official, tmp_path):
    """One test, since they share their runs: what one has trained, no other trains again."""
    given = {place: str(path) for place, path in official.items()}
    for name in NEW:
        _check_runs(name, given, tmp_path)


def test_the_controls_run_after_the_choice(official, tmp_path):
    given = {place: str(path) for place, path in official.items()}
    study = preset("table2", scale="tiny", places=given, controls=True)
    study = replace(study, rows=(study.rows[0], study.rows[2]))
    outcome = run_in_process(study, tmp_path)
    assert (outcome.failures, outcome.row_failures) == ({}, {})
    # Search, refit and annealed; search and refit with the other weight decay. Where the last
    # epoch was chosen, the shorter schedule is the whole one and is not trained again.
    assert outcome.done + outcome.skipped == planned(study) == 2 * 3 + 2 * 2
    base, varied = read_study(tmp_path / study.name).rows
    assert varied.against == base.label
    for seed, run_id in base.follow_ups["annealed"].items():
        config = run_folder(tmp_path, run_id).config()
        chosen = next(stop.epoch for stop in base.stops[seed] if stop.rule == "acc")
        # Warm-up is one epoch, so two are the shortest schedule.
        assert config["epochs"] == max(2, chosen)
        assert not config["holdout"]
    page = write_report(tmp_path, study.name).read_text()
    assert "SGD annealed early" in page
    assert "weight decay 5e-4" in page
    assert run_in_process(study, tmp_path).skipped == planned(study)


def _check_runs(name, given, out):
    study = preset(name, scale="tiny", places=given)
    assert study.name.startswith(f"{name}-tiny")
    outcome = run_in_process(study, out)
    assert (outcome.failures, outcome.row_failures, outcome.diverged) == ({}, {}, 0)
    assert outcome.done + outcome.skipped == planned(study)
    assert NEW[name] in (None, outcome.done)
    record = read_study(out / study.name)
    for planned_row, row in zip(study.rows, record.rows, strict=True):
        # The folders have the data sets' own names.
        assert row.dataset == planned_row.dataset
        assert row.refits == planned_row.refits
        assert set(row.refit) == ({"0", "1"} if row.refits else set())
        assert len(row.transfer) == len(planned_row.transfer)
        # Fewer images than the scale asks for: other decays, still a bank.
        assert len(set(row.averages)) == 5
        assert row.averages != planned_row.config.averaging.names
        assert row.paper_averages[-1] == "ema_0.998"
        for run_id in row.chosen_search.values():
            monitors = {m.monitor for m in run_folder(out, run_id).monitors()}
            assert monitors == set(planned_row.search_monitors)
    assert run_in_process(study, out).skipped == planned(study)
    if name in PAGES:
        page = write_report(out, study.name).read_text()
        assert all(row.label in page for row in (*study.rows, *_measured(study)))


def _measured(study):
    return () if study.measurement is None else (study.measurement,)


@pytest.mark.slow
def test_table_1_runs_on_real_images_in_every_place(real_data, tmp_path):
    source = str(real_data / "cifar10-jpeg")
    study = preset("table1", scale="tiny", places=dict.fromkeys(PLACES[:3], source))
    outcome = run_in_process(study, tmp_path)
    assert (outcome.failures, outcome.row_failures) == ({}, {})
    assert outcome.done == planned(study)
    assert write_report(tmp_path, study.name).exists()


@pytest.mark.parametrize(("name", "scale"), EVERY_SIZE)
def test_a_study_of_the_paper_knows_which_it_is_and_its_record_keeps_it(name, scale):
    study = paper_study(name, scale)
    assert (study.preset, study.scale) == (name, scale)
    renamed = replace(study, name="renamed")
    record = new_record(renamed, Path("out"), workers=1, command="again")
    assert (record.preset, record.scale) == (name, scale)


def test_the_demo_is_no_study_of_the_paper():
    record = new_record(preset("demo"), Path("out"), workers=1, command="again")
    assert (record.preset, record.scale) == (None, None)
