"""How BatchNorm statistics are recomputed, from the command line to the page."""

from polyak.analysis.loaded import load_recorded_study
from polyak.cli.main import main
from polyak.records.runs import run_folder
from polyak.records.studies import read_study
from polyak.report.page import render


def test_statistics_of_images_as_they_are_make_a_study_of_its_own(in_process, tmp_path, capsys):
    words = ["--batchnorm-augmentation", "off"]
    assert main(["study", "small", *words, "--out", str(tmp_path)]) == 0
    assert "failed 0" in capsys.readouterr().out
    study = read_study(tmp_path / "small-bn-augmentation-off")
    assert study.command == f"polyak study small {' '.join(words)} --out {tmp_path}"
    (row,) = study.rows
    for run_id in (*row.chosen_search.values(), *row.refit.values()):
        assert run_folder(tmp_path, run_id).config()["batchnorm_augmentation"] == "off"
    page = render(load_recorded_study(tmp_path, study), [])
    box = page[page.index("Not the default protocol") :].split("</div>")[0]
    assert "statistics are recomputed from the training images as they are" in box
