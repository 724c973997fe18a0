import json
import re
import shutil
from dataclasses import replace

import pytest
from support.repository import DOCS

from polyak.analysis.claims.catalogue import CLAIMS
from polyak.analysis.claims.evidence import RowEvidence
from polyak.analysis.claims.ledger import ledger
from polyak.analysis.loaded import load_recorded_study
from polyak.analysis.results import Result, Results
from polyak.errors import FileError
from polyak.records.runs import run_folder
from polyak.records.studies import StudyRecord
from polyak.report.names import ARMS, arm_name
from polyak.report.page import write_page
from polyak.report.sections.claims import (
    claims_line,
    command_for,
    judge,
    ledger_part,
    words,
    write_ledger,
)

BY_ID = {claim.id: claim for claim in CLAIMS}


@pytest.fixture(scope="module")
def entries(toy):
    return judge(load_recorded_study(*toy))


@pytest.fixture(scope="module")
def lines(toy, entries):
    _, study = toy
    return {line.id: line for line in ledger_part(study, entries).lines}


def test_every_claim_stands_on_the_page_once_with_its_verdict(page, entries):
    for entry in entries:
        (row,) = re.findall(rf'<tr id="claim-{entry.claim.id}">(.*?)</tr>', page, re.S)
        assert entry.claim.sentence in row
        assert f">{entry.verdict}</span>" in row


def test_the_ledger_is_the_last_section_and_in_the_contents(page):
    assert page.rindex("<section") == page.index('<section class="ledger">')
    assert '<a href="#claims">' in page


def test_two_seeds_decide_little_and_say_what_they_could(lines):
    line = lines["better-than-sgd"]
    assert line.verdict == "underpowered"
    assert any(remark.startswith("detectable by 2 such seeds: ") for remark in line.because)
    assert [hypothesis.seeds for hypothesis in line.hypotheses] == [2, 2]


def test_claims_without_evidence_say_what_they_need_and_how_to_get_it(lines):
    line = lines["bootstrap"]
    assert (line.verdict, line.figures, line.hypotheses) == ("not run", "", ())
    assert line.command == "polyak study app-c --scale small"
    assert lines["without-batchnorm"].command == "polyak study table1 --scale paper"
    assert lines["churn"].verdict == "not run"  # two seeds make one pair


def test_figures_are_those_of_the_records(lines, toy):
    out, study = toy
    leads = []
    for run_id in study.rows[0].search["0.2"].values():
        record = run_folder(out, run_id).epochs()[0]
        scores = record.holdout
        leads.append(100 * (scores["ema_0.9"].accuracy - scores["sgd"].accuracy))
    first = lines["early-lead"].hypotheses[0]
    assert first.what.endswith("epoch 1 (25%)")  # of four epochs, so 5 and 10 % are the same
    assert first.mean == f"{sum(leads) / 2:.1f}"


def test_claims_json_holds_what_the_page_shows(toy, entries):
    out, _ = toy
    claims = json.loads((out / "toy" / "report" / "claims.json").read_text())["claims"]
    assert [(c["id"], c["verdict"]) for c in claims] == [(e.claim.id, e.verdict) for e in entries]
    found = next(c for c in claims if c["id"] == "early-lead")["findings"][0]
    assert found["values"].keys() == {"0", "1"}
    assert found["bound"] == 0.0


def test_the_terminal_counts_the_verdicts(toy, entries):
    out, _ = toy
    said = [entry.verdict for entry in entries]
    line = claims_line(out / "toy" / "report")
    assert line == "claims: " + ", ".join(
        f"{said.count(word)} {word}"
        for word in ("reproduced", "not reproduced", "underpowered", "not run")
    )
    assert sum(map(int, re.findall(r"\d+", line))) == len(CLAIMS)


def test_a_report_without_its_ledger_is_named(tmp_path):
    with pytest.raises(FileError, match="Write the report again"):
        claims_line(tmp_path)


def test_a_study_of_the_preset_itself_is_run_on_with_its_own_command():
    study = StudyRecord(
        name="table2-tiny",
        title="",
        command="polyak study mine",
        rows=(),
        preset="table2",
        scale="tiny",
    )
    assert command_for(BY_ID["noise"], study) == "polyak study mine"
    assert command_for(BY_ID["period"], study) == "polyak study app-d --scale tiny"


def test_a_network_without_running_statistics_has_no_batchnorm(toy, tmp_path):
    """Read from the weights, so that a network of one's own counts, too."""
    import torch
    from safetensors.torch import save_file

    out, study = toy
    shutil.copytree(out, tmp_path, dirs_exist_ok=True)
    for name, known in (("norm.running_var", True), ("linear.weight", False)):
        for run_id in study.rows[0].chosen_search.values():
            path = run_folder(tmp_path, run_id).arm("sgd")
            path.parent.mkdir(exist_ok=True)
            save_file({name: torch.ones(2)}, path)
        said = {e.claim.id: e.verdict for e in judge(load_recorded_study(tmp_path, study))}
        assert (said["without-batchnorm"] == "not run") is known
        assert (said["recomputing-helps"] == "not run") is not known


def test_damaged_weights_are_named(toy, tmp_path):
    out, study = toy
    shutil.copytree(out, tmp_path, dirs_exist_ok=True)
    for run_id in study.rows[0].chosen_search.values():
        path = run_folder(tmp_path, run_id).arm("sgd")
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"nothing")
    with pytest.raises(FileError, match="is damaged"):
        judge(load_recorded_study(tmp_path, study))


def test_a_verdict_is_not_told_by_colour_alone(page):
    text = re.sub(r"<[^>]*>", " ", page[page.index('<section class="ledger">') :])
    for word in ("not run", "underpowered"):
        assert text.count(word) > 1


def test_an_empty_study_has_a_ledger_too(toy):
    _, study = toy
    part = ledger_part(replace(study, rows=()), ledger([]))
    assert [count for _, _, count in part.counts] == [0, 0, 0, len(CLAIMS)]


def test_one_seed_says_so():
    results = [
        polyak_result(arm, metric, value)
        for arm, metric, value in (
            ("sgd", "accuracy", 0.7),
            ("ema_acc_bn", "accuracy", 0.8),
            ("sgd", "loss", 1.0),
            ("ema_acc_bn", "loss", 0.8),
        )
    ]
    row = RowEvidence(label="row", budget=2, averages=("ema_0.9",), results=Results(results))
    study = StudyRecord(name="mine", title="", command="", rows=())
    part = ledger_part(study, ledger([row], [BY_ID["better-than-sgd"]]))
    assert part.lines[0].verdict == "underpowered"
    assert "one seed: nothing tells chance from effect" in part.lines[0].because


def polyak_result(arm: str, metric: str, value: float):
    return Result(
        row="row", phase="refit", target="test", arm=arm, seed="0", metric=metric, value=value
    )


def test_the_documentation_explains_every_claim():
    text = (DOCS / "claims.md").read_text(encoding="utf-8")
    explained = re.findall(r"^\| `([a-z-]+)` \|", text, re.M)
    assert explained == [claim.id for claim in CLAIMS]
    assert f"{len(CLAIMS)} claims" in text


@pytest.fixture(scope="module")
def appendices(tmp_path_factory, by_hand):
    """A row with runs that follow its choice, and one that varies it by step decay."""
    whole_row, write_run = by_hand
    out = tmp_path_factory.mktemp("appendices")
    row = whole_row(out, "toy row")
    held = {s: write_run(out, f"held{s}", seed=int(s), holdout=True) for s in row.refit}
    annealed = {s: write_run(out, f"annealed{s}", seed=int(s), holdout=False) for s in row.refit}
    varied = whole_row(out, "toy row, step decay", against="toy row")
    for run_id in varied.chosen_search.values():
        folder = run_folder(out, run_id)
        config = folder.config()
        folder.write_config({**config, "optim": {**config["optim"], "schedule": "step"}})
    row = replace(row, follow_ups={"held": held, "annealed": annealed})
    study = StudyRecord(name="toy", title="", command="", rows=(row, varied))
    return {e.claim.id: e for e in judge(load_recorded_study(out, study))}


@pytest.mark.parametrize(
    ("claim", "row"),
    [
        ("memorisation", "toy row"),
        ("annealed", "toy row"),
        ("step-decay", "toy row, step decay"),
        ("early-lead", "toy row"),
    ],
)
def test_each_kind_of_run_is_found_for_its_claim_and_no_other(appendices, claim, row):
    assert {hypothesis.row for hypothesis, _ in appendices[claim].tested} == {row}


def test_a_run_held_from_its_choice_is_compared_with_its_own_seed(appendices):
    fell, grew = (hypothesis for hypothesis, _ in appendices["memorisation"].tested)
    assert fell.values == {"0": 0.0, "1": 0.0}  # written with the same scores
    assert grew.values.keys() == {"0", "1"}


@pytest.fixture(scope="module")
def strict(toy):
    """The study as if SGD's statistics had been recomputed and had changed nothing."""
    study = load_recorded_study(*toy)
    (row,) = study.rows
    twins = [replace(r, arm="sgd_bn") for r in row.results if r.arm == "sgd"]
    return replace(study, rows=(replace(row, results=Results([*row.results, *twins])),))


def test_a_claim_about_an_average_stands_with_both_verdicts(strict, entries, tmp_path):
    judged = judge(strict)
    part = ledger_part(strict.record, judged)
    lines = {line.id: line for line in part.lines}
    (own,) = (entry for entry in entries if entry.claim.id == "better-than-sgd")
    line = lines["better-than-sgd"]
    assert part.strict
    assert line.own.startswith("its own comparison, test ")
    assert line.own.endswith(f", {own.verdict}")
    assert any("EMA (acc.) + BN − SGD + BN" in found.what for found in line.hypotheses)
    assert {line.id for line in part.lines if line.own} == {"better-than-sgd", "noise"}
    write_ledger(tmp_path, judged)
    said = {c["id"]: c for c in json.loads((tmp_path / "claims.json").read_text())["claims"]}
    assert said["better-than-sgd"]["own_comparison"] == {
        "verdict": own.verdict,
        "p_shown": own.p_supported,
        "p_shown_corrected": own.p_supported_corrected,
        "p_refuted": own.p_refuted,
        "p_refuted_corrected": own.p_refuted_corrected,
        "findings": 2,
    }
    assert {claim for claim, c in said.items() if "own_comparison" in c} == {
        "better-than-sgd",
        "noise",
    }


def test_a_page_says_how_claims_about_averages_are_judged_where_they_are(strict, page, tmp_path):
    rule = "is judged against each arm of SGD"
    text = write_page(strict, tmp_path, interactive=False).read_text(encoding="utf-8")
    assert rule in text
    assert text.count("its own comparison, ") == 2
    assert rule not in page
    assert "its own comparison" not in page


@pytest.mark.parametrize("arm", ARMS)
def test_an_arm_in_a_hypothesis_is_called_as_tables_call_it(arm):
    said = words(f"test loss, {arm} − ema_0.998, of swa and ({arm}).")
    assert said == f"test loss, {arm_name(arm)} − EMA 0.998, of SWA and ({arm_name(arm)})."


def test_words_that_name_no_arm_are_left_as_they_are():
    plain = "hold-out accuracy of my_net, longest average on holdout_bn, lawa and a swad"
    assert words(plain) == plain
