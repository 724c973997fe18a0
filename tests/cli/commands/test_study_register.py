"""polyak study --register on a command line: before the first run, once, and said afterwards."""

from dataclasses import replace

import pytest
from support.declared_claims import claim_of, gain
from support.repository import DOCS

from polyak.analysis.results import Result, write_results
from polyak.cli.main import main
from polyak.records.registration import read_registration
from polyak.records.studies import read_study
from polyak.study.paper import presets

KEPT = DOCS / "results" / "2026-11-24-fashion"


@pytest.fixture
def claiming(small, in_process, monkeypatch):
    """The small study with two seeds and a claim; calls of the function change its bound."""
    (row,) = small.rows

    def study(bound=0.0):
        claim = claim_of(gain(row.label, bound=bound))
        return replace(small, rows=(replace(row, seeds=(0, 1)),), claims=(claim,))

    def use(bound=0.0):
        monkeypatch.setitem(presets.PRESETS, "small", lambda: study(bound))

    use()
    return use


def test_registered_then_run_then_changed(claiming, tmp_path, capsys):
    here = ["study", "small", "--out", str(tmp_path)]
    assert main([*here, "--register"]) == 0
    said = capsys.readouterr().out
    assert "gain: It gains." in said
    assert "2 seeds show what is 11 points beyond the bound in 80 % of cases" in said
    assert "spread 0.97, from the kept studies’ median (docs/results)" in said
    assert "registered: 1 claim of study small, none of 2 runs of its search begun" in said
    made = read_registration(tmp_path / "small")
    assert [each.seeds for each in made.power] == [2]

    assert main(["status", str(tmp_path)]) == 0
    heading, *_ = capsys.readouterr().out.splitlines()
    day = made.date[:10]
    assert heading.endswith(f"2 waiting, 2 yet to be chosen; claims registered on {day}")

    assert main(here) == 0
    assert main([*here, "--register"]) == 0
    assert f"registered already, on {made.date}" in capsys.readouterr().out
    assert read_study(tmp_path / "small").claims == made.claims

    claiming(bound=0.5)
    capsys.readouterr()
    assert main([*here, "--register"]) == 2
    assert "2 of the 2 runs of the search have begun" in capsys.readouterr().err
    assert main(here) == 0
    assert main(["status", str(tmp_path)]) == 0
    assert f"claims registered on {day}, changed since" in capsys.readouterr().out
    assert read_registration(tmp_path / "small") == made


def test_an_earlier_study_gives_the_spread(claiming, tmp_path, capsys):
    values = {"sgd": (0.7, 0.72, 0.71), "ema_acc_bn": (0.71, 0.735, 0.722)}
    keys = {"row": "old", "phase": "refit", "target": "test", "metric": "accuracy"}
    results = [
        Result(arm=arm, seed=str(seed), value=value, **keys)
        for arm, of in values.items()
        for seed, value in enumerate(of)
    ]
    write_results(tmp_path / "results.parquet", results)
    (tmp_path / "old").mkdir()
    (tmp_path / "results.parquet").rename(tmp_path / "old" / "results.parquet")
    words = ["study", "small", "--dry-run", "--spread-from"]
    assert main([*words, str(tmp_path / "old")]) == 0
    assert "spread 0.25, from old" in capsys.readouterr().out
    assert main([*words, str(KEPT)]) == 0
    assert f"from {KEPT.name}" in capsys.readouterr().out
    assert main([*words, str(tmp_path / "none")]) == 2
    assert "expected a study's folder or its results.parquet" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--register", "--dry-run"], "dry-run and register are given"),
        (["--spread-from", "x"], "spread-from is given; expected it with --register"),
    ],
)
def test_what_does_not_fit_together_is_refused(claiming, tmp_path, capsys, words, message):
    assert main(["study", "small", "--out", str(tmp_path), *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "small").exists()


def test_a_study_without_claims_registers_nothing(in_process, tmp_path, capsys):
    assert main(["study", "small", "--out", str(tmp_path), "--register"]) == 2
    assert "has no claims; expected some of its own" in capsys.readouterr().err
