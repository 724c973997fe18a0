"""A study's own claims on its page: registered or not, changed or not, judged as registered."""

import json
import re
from dataclasses import replace

import pytest
from support.declared_claims import assumed_power, early_gain, gain
from support.small_study import whole_row, write_rows

from polyak.records.claims import Claim
from polyak.records.registration import (
    Registration,
    plan_of,
    read_registration,
    write_registration,
)
from polyak.records.studies import write_study
from polyak.report.archive import write_archive
from polyak.report.page import write_report
from polyak.report.sections.own_claims import own_claims, own_claims_line

ROW = "toy row"
GAIN = gain(ROW).settled()
EARLY = early_gain(ROW, metric="loss", side="below", unit="nats").settled()
CLAIM = Claim(id="annealed", sentence="It gains <much>.", comparisons=(GAIN, EARLY))
OTHER = Claim(id="early", sentence="It leads early.", comparisons=(EARLY,))


@pytest.fixture
def toy(tmp_path):
    """A whole study of two seeds that claims nothing."""
    return tmp_path, write_rows(tmp_path, whole_row(tmp_path, ROW))


def registered(out, study) -> Registration:
    said = "toy row: test accuracy, ema_acc_bn − sgd, is above 0 points"
    seen = assumed_power("annealed", said)
    made = Registration(
        study=study.name,
        date="2026-11-30T12:00:00+00:00",
        polyak="0.1.0",
        claims=study.claims,
        plan=plan_of(study),
        power=(seen,),
    )
    write_registration(out / study.name, made)
    return made


def page_of(out, study) -> str:
    write_study(out / study.name, study)
    return write_report(out, study.name).read_text(encoding="utf-8")


def ledger_of(out, study) -> dict:
    return json.loads((out / study.name / "report" / "claims.json").read_text())


def verdict(page: str, row: str) -> str:
    (found,) = re.findall(rf'<tr id="{row}">(.*?)</tr>', page, re.S)
    return re.search(r'<span class="verdict [\w-]+">([\w ]+)<', found)[1]


def notice(page: str) -> str:
    return "".join(re.findall(r'<div class="notice registration">(.*?)</div>', page, re.S))


def test_a_study_without_claims_of_its_own_has_no_section_for_them(toy):
    out, study = toy
    page = page_of(out, study)
    assert "own-claim" not in page
    assert "registration" not in page
    assert "own" not in ledger_of(out, study)
    assert own_claims(out / study.name / "report") is None


def test_claims_that_were_never_registered_are_called_so_at_the_top(toy):
    out, study = toy
    page = page_of(out, replace(study, claims=(CLAIM, OTHER)))
    assert "Its own claims are not registered" in notice(page)
    assert page.index("not registered") < page.index('id="short"')
    assert verdict(page, "later-claim-annealed") == "underpowered"
    assert '<tr id="own-claim-' not in page
    assert "It gains &lt;much&gt;." in page
    said = own_claims(out / study.name / "report")
    assert said["registered"] is None
    assert [claim["registered"] for claim in said["claims"]] == [False, False]
    assert own_claims_line(said) == (
        "its own claims, not registered: 0 reproduced, 0 not reproduced, 2 underpowered, 0 not run"
    )


def test_registered_claims_that_were_not_changed_have_no_notice(toy):
    out, study = toy
    study = replace(study, claims=(CLAIM, OTHER))
    made = registered(out, study)
    page = page_of(out, study)
    assert notice(page) == ""
    assert "2 claims registered on 2026-11-30 12:00:00 UTC, before any of these runs" in page
    assert made.digest[:12] in page
    assert verdict(page, "own-claim-early") == "underpowered"
    assert "later-claim" not in page
    # The paper's claim of that name is another line.
    assert page.count('<tr id="claim-annealed">') == 1
    assert page.index('class="own-claims"') < page.index('class="ledger"')
    assert "EMA (acc.) + BN" in page[page.index("could see, computed before") :]
    own = ledger_of(out, study)["own"]
    assert (own["registered"], own["changes"]) == (made.date, [])
    assert [claim["registered"] for claim in own["claims"]] == [True, True]
    said = own_claims_line(own_claims(out / study.name / "report"))
    assert said.startswith("its own claims, registered on 2026-11-30: ")


def test_what_was_registered_is_judged_whatever_the_study_says_now(toy):
    out, study = toy
    study = replace(study, claims=(CLAIM, OTHER))
    registered(out, study)
    moved = replace(CLAIM, comparisons=(replace(GAIN, bound=-90.0, refuted_at=-90.0), EARLY))
    fresh = replace(OTHER, id="fresh")
    (row,) = study.rows
    changed = replace(
        study,
        claims=(moved, fresh),
        rows=(replace(row, learning_rates=(*row.learning_rates, 9.0)),),
    )
    page = page_of(out, changed)
    said = notice(page)
    assert "Changed since its claims were registered on 2026-11-30" in said
    for phrase in (
        "claim fresh was added",
        "claim early was removed",
        "claim annealed: bound of comparison 1 was 0, is −90",
        "learning_rates was",
    ):
        assert phrase in said
    ids = re.findall(r'<tr id="((?:own|later)-claim-[\w-]+)"', page)
    assert ids == [
        "own-claim-annealed",
        "own-claim-early",
        "later-claim-annealed",
        "later-claim-fresh",
    ]
    bounds = {
        (claim["id"], claim["registered"]): claim["findings"][0]["bound"]
        for claim in ledger_of(out, changed)["own"]["claims"]
    }
    assert bounds["annealed", True] == 0.0
    assert bounds["annealed", False] == pytest.approx(-0.9)


def test_claims_made_later_change_no_verdict_on_those_registered(toy):
    out, study = toy
    one = replace(CLAIM, comparisons=(GAIN,))
    study = replace(study, claims=(one,))
    registered(out, study)
    page_of(out, study)
    before = ledger_of(out, study)
    assert before["own"]["claims"][0]["p_shown"] is not None
    easy = [replace(GAIN, bound=-50.0 - i, refuted_at=-50.0 - i) for i in range(3)]
    more = [replace(OTHER, id=f"more-{i}", comparisons=(each,)) for i, each in enumerate(easy)]
    page_of(out, replace(study, claims=(one, *more)))
    after = ledger_of(out, study)
    assert after["claims"] == before["claims"]
    assert after["own"]["claims"][0] == before["own"]["claims"][0]


def test_a_claim_of_seeds_that_are_still_to_come_says_so(toy):
    out, study = toy
    (row,) = study.rows
    more = replace(row, seeds=(*row.seeds, 7))
    page = page_of(out, replace(study, claims=(CLAIM,), rows=(more,)))
    assert "of 3 seeds 2 so far" in page


def test_seeds_that_a_row_was_given_later_do_not_count(toy):
    out, study = toy
    study = replace(study, claims=(replace(CLAIM, seeds=(0, 7)),))
    registered(out, study)
    page_of(out, study)
    (claim,) = ledger_of(out, study)["own"]["claims"]
    assert [set(found["values"]) for found in claim["findings"]] == [{"0"}, {"0"}]


def test_the_registration_is_kept_beside_the_results(toy, tmp_path_factory):
    out, study = toy
    study = replace(study, claims=(CLAIM,))
    made = registered(out, study)
    page_of(out, study)
    kept = tmp_path_factory.mktemp("kept")
    write_archive(out, study.name, kept)
    assert read_registration(kept) == made
    assert "1 claim registered on 2026-11-30" in (kept / "index.html").read_text(encoding="utf-8")
