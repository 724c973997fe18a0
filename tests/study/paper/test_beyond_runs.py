"""The studies beyond the paper at scale tiny: they run, and every claim is judged on a page."""

import json

import pytest
from support.small_runs import run_in_process

from polyak.analysis.loaded import load_study
from polyak.report.page import write_page
from polyak.report.sections.own_claims import judge_own
from polyak.study.options import with_rows
from polyak.study.paper.presets import preset
from polyak.study.plan import planned


def carried_to_the_end(study, out):
    """A study whose runs all ended well, with what was read of their files."""
    outcome = run_in_process(study, out)
    assert (outcome.failures, outcome.row_failures, outcome.diverged) == ({}, {}, 0)
    assert outcome.done + outcome.skipped == planned(study)
    return load_study(out, study.name)


def test_muon_on_bytes_is_judged_by_its_searches(tmp_path):
    study = with_rows(preset("beyond-transformers", scale="tiny"), ["GPT, Muon"])
    own = judge_own(carried_to_the_end(study, tmp_path))
    assert [entry.claim.id for entry in own.later] == ["muon-early-lead", "muon-before-the-end"]
    assert all(entry.verdict != "not run" for entry in own.later)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("beyond-transformers", ["GPT"]),
        ("beyond-transformers", ["ViT"]),
        ("beyond-norm", []),
        ("beyond-averages", ["ResNet", "ViT"]),
    ],
)
def test_every_claim_is_judged(name, rows, official, tmp_path):
    given = {place: str(official[place]) for place in ("cifar10", "cifar10n")}
    study = with_rows(preset(name, scale="tiny", places=given), rows)
    loaded = carried_to_the_end(study, tmp_path)
    page = write_page(loaded, tmp_path / "report").read_text(encoding="utf-8")
    claims = json.loads((tmp_path / "report" / "claims.json").read_text(encoding="utf-8"))
    claims = claims["own"]["claims"]
    assert [claim["id"] for claim in claims] == [claim.id for claim in study.claims]
    assert not [claim["id"] for claim in claims if claim["verdict"] == "not run"]
    assert all(claim.sentence in page for claim in study.claims)
    assert all(row.label in page for row in study.rows)
    assert "What each average costs" in page
