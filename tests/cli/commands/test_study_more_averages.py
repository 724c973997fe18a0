"""The switch of `polyak study`, from the command line to the page."""

from polyak.cli.main import main
from polyak.records.predictions import Predictions
from polyak.records.runs import run_folder
from polyak.records.studies import read_study
from polyak.report.page import write_report
from polyak.training.selection import swad_interval


def test_windows_are_arms_of_a_study_of_its_own(in_process, tmp_path):
    command = ["study", "small", "--windows", "--more-averages", "--out", str(tmp_path)]
    assert main(command) == 0
    study = read_study(tmp_path / "small-more-windows")
    assert study.command == f"polyak study small --more-averages --windows --out {tmp_path}"
    (row,) = study.rows
    (refit,) = (run_folder(tmp_path, i) for i in row.refit.values())
    arms = set(Predictions(refit.predictions).arms("test"))
    assert arms >= {"window_1_bn", "window_7_acc_bn", "window_10_loss_bn", "power_bn"}
    page = write_report(tmp_path, "small-more-windows").read_text(encoding="utf-8")
    assert "window of 6.7 % + BN" in page


FINAL = {"tail_bn", "lawa_bn", "power_bn"}


def test_a_study_with_more_averages_is_one_of_its_own_and_its_page_marks_them(
    in_process, tmp_path, capsys
):
    for more in ([], ["--more-averages"]):
        assert main(["study", "small", *more, "--out", str(tmp_path)]) == 0
        assert "failed 0" in capsys.readouterr().out
    plain, study = (read_study(tmp_path / name) for name in ("small", "small-more"))
    assert study.command == f"polyak study small --more-averages --out {tmp_path}"
    (row,), (plain_row,) = study.rows, plain.rows
    assert row.search != plain_row.search
    # The same training chooses the same.
    assert row.stops == plain_row.stops

    (searched,) = (run_folder(tmp_path, i) for i in row.chosen_search.values())
    (refit,) = (run_folder(tmp_path, i) for i in row.refit.values())
    assert refit.config()["swad"] == list(swad_interval(searched.epochs()))
    arms = {f: set(Predictions(f.predictions).arms("test")) for f in (searched, refit)}
    assert arms[searched] >= FINAL
    assert "swad_bn" not in arms[searched]
    assert arms[refit] >= FINAL | {"swad_bn", "lawa_acc_bn", "power_loss_bn"}
    (plain_refit,) = (run_folder(tmp_path, i) for i in plain_row.refit.values())
    assert not set(Predictions(plain_refit.predictions).arms("test")) & {*FINAL, "swad_bn"}

    page = write_report(tmp_path, "small-more").read_text(encoding="utf-8")
    marked = '<span class="badge">not in the paper</span>'
    assert f"SWAD + BN {marked}" in page
    assert f"LAWA at EMA (acc.)’s epoch + BN {marked}" in page
    assert f"SWA + BN {marked}" not in page
    assert "found by the search" in page
    assert marked not in write_report(tmp_path, "small").read_text(encoding="utf-8")
