"""The studies beyond the paper at scale tiny: they run, and every claim is judged on a page."""

import json

import pytest

from polyak.report.page import write_report
from polyak.study.options import with_rows
from polyak.study.paper.presets import preset
from polyak.study.plan import planned
from polyak.study.runner import run_study
from polyak.training.jobs import carry_out


def in_process(jobs, out, on_tick):
    for job in jobs:
        carry_out(job, out)
        on_tick({job.id: "done"})
    return {}


def judged(study, out):
    """The page of a study that has run, and what it says of the study's own claims."""
    outcome = run_study(
        study,
        out,
        executor=in_process,
        on_progress=lambda progress: None,
        workers=1,
        command="polyak study",
    )
    assert (outcome.failures, outcome.row_failures, outcome.diverged) == ({}, {}, 0)
    assert outcome.done + outcome.skipped == planned(study)
    page = write_report(out, study.name)
    claims = json.loads((page.parent / "claims.json").read_text(encoding="utf-8"))
    return page.read_text(encoding="utf-8"), claims["own"]["claims"]


def test_muon_on_bytes_is_judged_by_its_searches(tmp_path):
    study = with_rows(preset("beyond-transformers", scale="tiny"), ["GPT, Muon"])
    page, claims = judged(study, tmp_path)
    assert [claim["id"] for claim in claims] == ["muon-early-lead", "muon-before-the-end"]
    assert all(claim["verdict"] != "not run" for claim in claims)
    assert "GPT, Muon, cosine: the best average leads at 10 and 25 % of the run." in page


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "rows"),
    [("beyond-transformers", ["GPT"]), ("beyond-transformers", ["ViT"]), ("beyond-norm", [])],
)
def test_every_claim_is_judged(name, rows, official, tmp_path):
    given = {place: str(official[place]) for place in ("cifar10", "cifar10n")}
    study = with_rows(preset(name, scale="tiny", places=given), rows)
    page, claims = judged(study, tmp_path)
    assert [claim["id"] for claim in claims] == [claim.id for claim in study.claims]
    assert not [claim["id"] for claim in claims if claim["verdict"] == "not run"]
    assert all(claim.sentence in page for claim in study.claims)
    assert all(row.label in page for row in study.rows)
