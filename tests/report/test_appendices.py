"""Pages for appendices and controls, from runs written by hand."""

from dataclasses import replace

import pytest
import torch
from support.slow_results import values
from support.small_study import write_again

from polyak.analysis.loaded import load_recorded_study
from polyak.analysis.seeds import paired_difference
from polyak.metrics import (
    accuracy,
    agreement,
    ece,
    fit_temperature,
    fit_temperature_paper_code,
)
from polyak.records.predictions import Predictions, write_predictions
from polyak.records.runs import MonitorRecord, Score, run_folder
from polyak.records.studies import StudyRecord
from polyak.records.vocabulary import STATISTICS, variant_name
from polyak.report.page import render
from polyak.report.sections.appendix import APPENDICES, appendix, with_comparisons
from polyak.report.sections.claims import judge
from polyak.report.sections.remarks import matched
from polyak.report.sections.row import row_part
from polyak.report.tables.arms import arms_in
from polyak.report.tables.comparisons import against_table, budget_table
from polyak.report.tables.measures import CHURN_PARTS
from polyak.report.tables.memorisation import held_table, memorised_table
from polyak.report.tables.paper_methods import paper_table
from polyak.report.tables.variants import variants_table

SEEDS = ("0", "1")


def number(cell) -> float:
    return float(cell.text.replace("−", "-"))


def with_rows(study, *rows):
    """The record of a loaded study with other rows."""
    return replace(study.record, rows=rows)


def of_preset(study, preset):
    return replace(study, record=replace(study.record, preset=preset))


def load_row(out, record):
    study = StudyRecord(name="toy", title="Toy", command="again", rows=(record,))
    return load_recorded_study(out, study).rows[0]


def write_variants(folder, seed, *, holdout):
    """Logits of all averages at two stops; the longest window, recomputed, is the best."""
    draw = torch.Generator().manual_seed(100 + seed)
    labels_n = torch.arange(60) % 3
    signal_nk = torch.nn.functional.one_hot(labels_n, 3).float()
    names = [
        variant_name(rule, average, statistics)
        for rule in ("acc", "loss")
        for average in ("ema_0.5", "ema_0.9")
        for statistics in STATISTICS
    ]
    logits = {
        name: 0.5 * (1 + i) * signal_nk + torch.randn(60, 3, generator=draw)
        for i, name in enumerate(names)
    }
    parts = {"test": logits} | ({"holdout": dict(logits)} if holdout else {})
    arms = {part: {n: x.clone() for n, x in by_arm.items()} for part, by_arm in parts.items()}
    write_predictions(folder.variants, arms=arms, labels={"test": {"labels": labels_n}})


@pytest.fixture(scope="module")
def written(written_by_hand, tmp_path_factory):
    """A row, one that varies it, and the first one's runs after the choice."""
    out = tmp_path_factory.mktemp("appendix")
    base = written_by_hand.row(out, "base row")
    follow_ups = {}
    for name, shift in (("held", 20), ("annealed", 30)):
        ids = {}
        for seed in SEEDS:
            run_id = f"{name}{seed}"
            written_by_hand.run(out, run_id, seed=shift + int(seed), holdout=name == "held")
            folder = run_folder(out, run_id)
            config = folder.config()
            optim = {**config["optim"]}
            if name == "held":
                optim |= {"schedule": "held", "hold_epoch": 3}
            stops = [{"rule": "acc", "epoch": 2, "average": "ema_0.9"}]
            folder.write_config({**config, "optim": optim, "epochs": 3, "stops": stops})
            ids[seed] = run_id
        follow_ups[name] = ids
    for runs, holdout in ((base.chosen_search, True), (base.refit, False)):
        for seed, run_id in runs.items():
            write_variants(run_folder(out, run_id), int(seed), holdout=holdout)
    base = replace(base, follow_ups=follow_ups, variants=True)
    other = written_by_hand.row(
        out, "base row, warmer", architecture="tiny, warmer", against="base row"
    )
    study = StudyRecord(name="toy", title="Toy", command="again", rows=(base, other))
    return out, load_recorded_study(out, study)


def test_a_row_stands_beside_the_one_it_varies_and_differences_are_paired(written):
    _, study = written
    table = against_table(study.rows)
    assert [group.label for group in table.groups] == ["base row, warmer"]
    line = table.groups[0].lines[0]
    base, other = (
        values(study.results, row=row.label, arm="sgd", metric="accuracy", phase="refit")
        for row in study.rows
    )
    assert number(line.cells[0]) == pytest.approx(100 * sum(base.values()) / 2, abs=0.051)
    assert number(line.cells[1]) == pytest.approx(100 * sum(other.values()) / 2, abs=0.051)
    sides = ({int(s): v for s, v in x.items()} for x in (other, base))
    expected = paired_difference(*sides)
    assert number(line.cells[2]) == pytest.approx(100 * expected.mean, abs=0.051)
    assert line.cells[2].spread.startswith("[")
    assert against_table(study.rows[:1]) is None


def test_the_budgets_table_has_both_schedules_and_how_long_each_trained(written):
    _, study = written
    table = budget_table(study.rows)
    (group,) = table.groups
    lines = {line.label: line for line in group.lines}
    assert list(lines) == [
        "SGD, whole schedule",
        "SGD at EMA’s epoch, whole schedule",
        "EMA (acc.) + BN, whole schedule",
        "SGD annealed early",
        "EMA (acc.) + BN, annealed early",
    ]
    assert lines["SGD, whole schedule"].cells[0].text == "4"
    assert lines["SGD annealed early"].cells[0].text == "3"
    assert lines["EMA (acc.) + BN, annealed early"].cells[0].text == "2"
    ours, theirs = (
        values(study.results, row="base row", arm=arm, metric="accuracy", phase=phase)
        for arm, phase in (("ema_acc_bn", "refit"), ("sgd", "annealed"))
    )
    difference = 100 * sum(ours[s] - theirs[s] for s in SEEDS) / 2
    found = lines["EMA (acc.) + BN, whole schedule"].cells[2]
    assert number(found) == pytest.approx(difference, abs=0.051)
    assert lines["SGD annealed early"].cells[2].text == "–"


def test_every_variant_has_a_line_with_the_mean_over_seeds(written):
    out, study = written
    table = variants_table(study.rows[:1], "refit")
    (group,) = table.groups
    assert len(group.lines) == 8
    folders = [run_folder(out, run_id) for run_id in study.rows[0].record.refit.values()]
    for line, (rule, statistics, average) in zip(
        group.lines,
        (
            (rule, statistics, average)
            for rule in ("acc", "loss")
            for statistics in STATISTICS
            for average in ("ema_0.5", "ema_0.9")
        ),
        strict=True,
    ):
        arm = variant_name(rule, average, statistics)
        said = [Predictions(folder.variants) for folder in folders]
        found = [accuracy(p.logits_nk("test", arm), p.labels_n("test")) for p in said]
        assert number(line.cells[0]) == pytest.approx(100 * sum(found) / 2, abs=0.051)
        # Bold is what was fixed beforehand, not what is best.
        assert line.emphasis is (average == "ema_0.9" and statistics == "recomputed")


def test_variants_are_in_no_table_of_arms_and_only_of_rows_that_want_them(written):
    out, study = written
    assert any("." in r.arm for r in study.results)
    assert not any("." in arm for arm in arms_in(study.rows, "refit"))
    plain = with_rows(study, *(replace(row.record, variants=False) for row in study.rows))
    assert not any("." in r.arm for r in load_recorded_study(out, plain).results)


@pytest.mark.parametrize("labels", ["given", "clean"])
@pytest.mark.parametrize("code", [(), ("temperature",)])
def test_variants_get_their_temperature_as_the_rows_arms_do(written, labels, code):
    out, study = written
    row = replace(study.rows[0].record, paper_code=code, holdout_labels=labels)
    found = load_recorded_study(out, with_rows(study, row)).results
    seed, run_id = next(iter(row.chosen_search.items()))
    folder, arm = run_folder(out, run_id), variant_name("acc", "ema_0.5", "averaged")
    said = Predictions(folder.variants)
    fit = fit_temperature_paper_code if code else fit_temperature
    temperature = fit(
        said.logits_nk("holdout", arm),
        Predictions(folder.predictions).labels_n("holdout", labels),
    )
    expected = ece(
        said.logits_nk("test", arm).double() / temperature, said.labels_n("test"), bins=3
    )
    scaled = values(found, row=row.label, arm=arm, metric="ece_scaled", phase="search")
    assert scaled[seed] == pytest.approx(expected)


def test_runs_from_before_there_were_variants_say_so(toy):
    out, study = toy
    record = replace(study, rows=(replace(study.rows[0], variants=True),))
    (row,) = load_recorded_study(out, record).rows
    assert not any("." in r.arm for r in row.variants)
    table = variants_table([row], "search")
    assert table.groups[0].lines[0].cells[0].text == "the run is older than this table"


def memorising(out, run_id, clean, wrong, sgd_wrong):
    write_again(
        run_folder(out, run_id),
        monitors=[
            MonitorRecord(
                epoch=epoch,
                monitor=monitor,
                scores={
                    "sgd": Score(loss=1.0, accuracy=clean[i] if monitor != "train_wrong" else s),
                    "ema_0.5": Score(loss=1.0, accuracy=0.0),
                    "ema_0.9": Score(
                        loss=1.0, accuracy=clean[i] if monitor != "train_wrong" else w
                    ),
                },
            )
            for i, (epoch, w, s) in enumerate(zip((1, 2, 3, 4), wrong, sgd_wrong, strict=True))
            for monitor in ("test", "train_clean", "train_wrong")
        ],
    )


@pytest.fixture(scope="module")
def memorised(written_by_hand, tmp_path_factory):
    out = tmp_path_factory.mktemp("memorised")
    row = written_by_hand.row(out, "noisy row", paper_averages=("ema_0.968", "ema_0.992"))
    clean = (0.4, 0.55, 0.75, 0.95)
    for i, run_id in enumerate(row.chosen_search.values()):
        memorising(out, run_id, clean, (0.1, 0.2, 0.3 + 0.02 * i, 0.5), (0.1, 0.3, 0.5, 0.9))
    held = {
        seed: written_by_hand.run(out, f"still{seed}", seed=int(seed), holdout=True)
        for seed in SEEDS
    }
    for run_id in held.values():
        memorising(out, run_id, clean, (0.1, 0.2, 0.2, 0.2), (0.1, 0.3, 0.3, 0.4))
    return out, replace(row, follow_ups={"held": held})


def test_memorising_is_read_off_at_the_first_epoch_that_has_learnt_enough(memorised):
    (group,) = memorised_table([load_row(*memorised)], with_paper=True).groups
    by_level = {line.label[:2]: line.cells for line in group.lines}
    assert (number(by_level["70"][0]), number(by_level["70"][1])) == (3, 50)
    assert (number(by_level["70"][2]), number(by_level["70"][3])) == (3, 31)
    assert number(by_level["70"][4]) == -19
    assert number(by_level["90"][0]) == 4
    # The paper's figure 7 has the one level.
    assert by_level["90"][5].published[0][0] == "epoch 142: 68.2"
    assert by_level["90"][6].published[0][0] == "epoch 99: 28.8"
    assert by_level["70"][5].published == ()
    assert [number(cell) for cell in by_level["af"][:4]] == [4, 90, 4, 50]


def test_a_level_that_a_seed_never_reached_has_no_mean(memorised):
    out, row = memorised
    first = next(iter(row.chosen_search.values()))
    kept = run_folder(out, first).monitors()
    memorising(out, first, (0.4, 0.5, 0.6, 0.65), (0.1, 0.2, 0.3, 0.4), (0.1, 0.2, 0.3, 0.4))
    (group,) = memorised_table([load_row(out, row)], with_paper=False).groups
    by_level = {line.label[:2]: line.cells for line in group.lines}
    assert by_level["90"][0].text == "1 of 2 never"
    assert by_level["90"][0].missing
    assert by_level["90"][4].text == "–"
    write_again(run_folder(out, first), monitors=kept)


def test_held_and_cosine_are_compared_after_the_last_epoch(memorised):
    (group,) = held_table([load_row(*memorised)]).groups
    sgd, average = group.lines
    assert [number(cell) for cell in sgd.cells[6:9]] == [90, 40, -50]
    assert [number(cell) for cell in average.cells[6:9]] == [50, 20, -30]
    assert average.label == "EMA 0.9"


def test_the_churn_split_is_that_of_the_metric(written):
    out, study = written
    a, b = (
        Predictions(run_folder(out, r).predictions) for r in study.rows[0].record.refit.values()
    )
    expected = agreement(a.logits_nk("test", "sgd"), b.logits_nk("test", "sgd"), a.labels_n("test"))
    for measure in CHURN_PARTS[:-1]:
        (found,) = values(
            study.results, row="base row", arm="sgd", metric=measure.metric, phase="refit"
        ).values()
        assert found == getattr(expected, measure.metric)


def test_the_average_that_is_matched_is_the_nearest_on_the_hold_out(written):
    _, study = written
    (told,) = matched(study.rows[0])
    means = {}
    for arm in ("sgd", "ema_acc", "ema_acc_bn", "ema_loss", "ema_loss_bn"):
        found = values(
            study.results, row="base row", arm=arm, metric="holdout_accuracy", phase="search"
        )
        means[arm] = sum(found.values()) / len(found)
    sgd = means.pop("sgd")
    nearest = min(means, key=lambda arm: (abs(means[arm] - sgd), arm))
    names = {"ema_acc": "EMA (acc.)", "ema_loss": "EMA (loss)"}
    name = names[nearest.removesuffix("_bn")] + (" + BN" if nearest.endswith("_bn") else "")
    assert f"of the averages {name} is nearest to SGD" in told


@pytest.mark.parametrize("name", APPENDICES)
def test_every_appendix_has_a_page_that_names_the_papers_figures(written, memorised, name):
    _, study = written
    if name in ("app-e1", "app-e2"):
        study = replace(study, rows=(load_row(*memorised),))
    found = appendix(of_preset(study, name))
    assert found.blocks
    assert all("igure" in text or "able" in text for text in found.papers)


@pytest.mark.parametrize(
    ("preset", "words"),
    [
        ("app-c", ("As in the paper: appendix C", "75.83 %", "As it is and warmer")),
        ("app-b", ("Every average at the epochs chosen", "and is no result")),
        ("table1", ("The same budget for SGD", "Other settings", "matched in")),
    ],
)
def test_the_page_has_the_sections_of_its_kind(written, preset, words):
    _, study = written
    study = of_preset(study, preset)
    parts = [row_part(row, anchor=f"row{i}") for i, row in enumerate(study.rows)]
    parts = with_comparisons(study, [replace(part, charts={}) for part in parts])
    assert [list(part.charts) for part in parts] == [["compared"], ["compared"]]
    page = " ".join(render(study, parts, judge(study), interactive=False).split())
    for word in words:
        assert word in page


def test_no_row_that_varies_another_is_in_the_papers_form(written):
    _, study = written
    form = paper_table(of_preset(study, "table1"))
    assert not any("warmer" in head for line in form.lines for head in line.heads)


def test_no_study_of_another_kind_begins_with_an_appendix(written):
    _, study = written
    assert appendix(of_preset(study, "table1")) is None
    assert appendix(study) is None
