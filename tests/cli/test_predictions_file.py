"""What inspect says of what has no weights: predictions by their parts, folders by their files."""

from support.small_study import whole_row, write_rows

from polyak.records.runs import run_folder


def test_predictions_are_said_to_be_logits(tmp_path, told):
    row = whole_row(tmp_path, "a")
    (run, *_) = row.search["0.1"].values()
    lines = told("inspect", run_folder(tmp_path, run).predictions).splitlines()
    assert lines[1].endswith("predictions, no weights: what a run's arms said about images")
    assert "test: logits of 3 classes, 60 images" in lines
    assert "train: classes, 30 images" in lines
    assert any(line.startswith("  arms: ema_acc, ema_acc_bn, ") for line in lines)
    assert not any("parameters" in line for line in lines)


def test_a_probes_predictions_are_those_of_several_runs(tmp_path, told):
    row = whole_row(tmp_path, "a")
    probe = run_folder(tmp_path, row.transfer["elsewhere"])
    assert "test: logits of 3 classes" in told("inspect", probe.predictions)


def test_a_file_of_half_the_predictions_is_damaged(tmp_path, refused):
    row = whole_row(tmp_path, "a")
    path = run_folder(tmp_path, row.refit["0"]).predictions
    path.write_bytes(path.read_bytes()[:-1])
    assert "damaged" in refused("inspect", path)


def test_a_runs_folder_is_refused_by_its_weights(tmp_path, refused):
    run = run_folder(tmp_path, whole_row(tmp_path, "a").refit["0"])
    run.arm("sgd").parent.mkdir()
    run.arm("sgd").write_bytes(b"")
    said = refused("inspect", run.path)
    assert f"expected a file of weights. Give one of '{run.arm('sgd')}'" in said


def test_output_and_study_folders_are_refused_by_their_runs(tmp_path, refused):
    write_rows(tmp_path, whole_row(tmp_path, "a"))
    for folder in (tmp_path, tmp_path / "toy"):
        said = refused("inspect", folder)
        assert "holds runs; expected a file of weights" in said
        assert f"'{tmp_path / 'runs'}" in said


def test_report_names_the_studies_of_an_output_folder(tmp_path, refused):
    write_rows(tmp_path, whole_row(tmp_path, "a"))
    said = refused("report", tmp_path)
    assert f"which holds studies; expected one of '{tmp_path / 'toy'}'" in said


def test_commands_on_a_run_name_the_runs_of_a_folder(tmp_path, refused):
    write_rows(tmp_path, whole_row(tmp_path, "a"))
    for command in (["audit"], ["predict"], ["evaluate"]):
        words = [*command, str(tmp_path), *(["x.png"] if command == ["predict"] else [])]
        assert f"Give one of '{tmp_path / 'runs'}" in refused(*words)
