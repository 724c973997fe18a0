"""Studies and runs that the first round left are read, resumed and reported as it did."""

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
import torch
from matplotlib.figure import Figure
from support.first_round_studies import (
    FOLDER,
    OUT,
    STOPPED,
    STUDIES,
    columns,
    digits,
    of_report,
    of_run,
    run,
    states,
)

from polyak.averaging import load, save
from polyak.cli.main import main
from polyak.errors import StateError
from polyak.records.predictions import Predictions
from polyak.records.runs import run_folder
from polyak.records.studies import read_study, write_study
from polyak.training.config_file import read_config
from polyak.training.jobs import carry_out
from polyak.training.machine import environment

RECORD: dict[str, Any] = json.loads((FOLDER / "studies.json").read_text(encoding="utf-8"))
CHANGES: dict[str, Any] = json.loads((FOLDER / "changes.json").read_text(encoding="utf-8"))
"""Where pages say otherwise than RECORD, on purpose, with the reasons."""

LATER_ARMS = {"sgd_bn", "sgd_stopped_bn", "sgd_at_ema_bn"}
"""Arms of runs since: what is made today has them beside the old ones."""

EACH_STUDY = pytest.mark.parametrize("name", STUDIES)


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POLYAK_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
    torch.set_num_threads(threads)


def unpacked(archive: Path, folder: Path) -> Path:
    shutil.unpack_archive(archive, folder)
    return folder


@pytest.fixture(scope="module")
def old(tmp_path_factory) -> Path:
    """The output folder as the first round left it; nobody writes to it."""
    return unpacked(OUT, tmp_path_factory.mktemp("old"))


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    """The same, for those who write to it."""
    return unpacked(OUT, tmp_path_factory.mktemp("out"))


@pytest.fixture
def said(capsys):
    """Runs a command that should succeed and have nothing to say on stderr."""

    def words(*arguments: object) -> str:
        assert main([str(argument) for argument in arguments]) == 0
        captured = capsys.readouterr()
        assert captured.err == ""
        return captured.out

    return words


def assert_holds(found: Any, wanted: Any) -> None:
    """All that was there is there; there may be more beside it."""
    if isinstance(wanted, dict):
        assert wanted.keys() <= found.keys()
        for key, value in wanted.items():
            assert_holds(found[key], value)
    elif isinstance(wanted, list):
        assert len(found) == len(wanted)
        for one, value in zip(found, wanted, strict=True):
            assert_holds(one, value)
    else:
        assert found == wanted


def content(study: Path) -> dict[str, Any]:
    """plan.json and choices.json, but for the time that it took."""
    found = {name: json.loads((study / f"{name}.json").read_text()) for name in ("plan", "choices")}
    del found["plan"]["seconds"]
    return found


@EACH_STUDY
def test_plan_and_choices_are_read_and_written_as_they_were(old, name, tmp_path):
    write_study(tmp_path, read_study(old / name))
    assert_holds(content(tmp_path), content(old / name))


@EACH_STUDY
def test_the_study_run_again_trains_nothing_and_chooses_the_same(old, out, name):
    outcome = run(STUDIES[name], out)
    ids = {line.split()[0] for line in RECORD["status"]}
    assert (outcome.done, outcome.failures, outcome.row_failures) == (0, {}, {})
    assert 0 < outcome.skipped <= len(ids)
    assert {path.name for path in (out / "runs").iterdir()} == ids
    assert_holds(content(out / name), content(old / name))


@pytest.fixture(scope="module", params=STUDIES)
def reported(request, old, tmp_path_factory) -> Path:
    """The folder of a study of which the page was made again; pictures are not the matter."""
    folder = tmp_path_factory.mktemp("reported")
    (folder / "runs").symlink_to(old / "runs")
    study = shutil.copytree(old / request.param, folder / request.param)
    (study / "results.parquet").unlink(missing_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", lambda self, file, **options: Path(file).touch())
        assert main(["report", str(study)]) == 0
    return study


def test_the_page_made_again_has_the_same_numbers(reported):
    assert of_report(reported) == expected_today(reported.name)


def expected_today(name: str) -> dict[str, Any]:
    """What RECORD has, but for CHANGES."""
    record, changed = RECORD["studies"][name], CHANGES["studies"].get(name, {})
    now = dict(changed.get("tables", []))
    assert now.keys() <= set(record["tables"])
    tables = [now.get(table, table) for table in record["tables"]]
    for place, table in changed.get("added", []):
        tables.insert(place, table)
    return {
        "tables": tables,
        "figures": record["figures"] | changed.get("figures", {}),
        "claims": record["claims"] | changed.get("claims", {}),
    }


def test_the_table_of_results_made_again_has_the_same_numbers(reported, old):
    wanted = results(old / reported.name / "results.parquet")
    # Fitted temperatures stop where the last digits do not matter.
    assert results(reported / "results.parquet") == pytest.approx(wanted, rel=1e-6, abs=1e-9)


def results(path: Path) -> dict[tuple[str, ...], float]:
    """A study's numbers, by all other columns in their order; a measurement has none."""
    if not path.exists():
        return {}
    table = pyarrow.parquet.read_table(path)
    *keys, value = table.column_names
    assert (value, keys) == ("value", ["row", "phase", "target", "arm", "seed", "metric"])
    return {tuple(line[key] for key in keys): line[value] for line in table.to_pylist()}


def test_status_shows_every_run(old, said):
    assert states(said("status", old)) == RECORD["status"]


def test_every_configuration_describes_its_run(old):
    for path in sorted((old / "runs").iterdir()):
        assert read_config(path / "config.json").id == path.name


def test_logs_are_read_and_written_as_they_were(old, tmp_path):
    for path in sorted((old / "runs").iterdir()):
        then, now = run_folder(old, path.name), run_folder(tmp_path, path.name)
        now.path.mkdir(parents=True)
        now.write_epochs(then.epochs())
        now.write_monitors(then.monitors())
        for log in ("log.jsonl", "monitor.jsonl"):
            if (path / log).exists():
                assert_holds(lines(now.path / log), lines(path / log))
        assert then.ending == "done"


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_inspect_says_of_each_arm_what_it_said(old, said):
    for place, wanted in RECORD["inspect"].items():
        run_id, arm = place.split("/")
        text = said("inspect", run_folder(old, run_id).arm(arm))
        assert text.splitlines()[1:] == wanted


def test_an_evaluation_of_then_is_taken_as_it_is(out, said):
    text = said("evaluate", out / "runs" / RECORD["run"], "--test-limit", "60")
    assert [digits(line) for line in text.splitlines()] == RECORD["evaluate"]


def test_old_weights_evaluated_now_say_what_they_said(old, tmp_path, capsys):
    (path,) = (old / "evaluations").glob(f"*/{RECORD['run']}.safetensors")
    shutil.copytree(old / "runs" / RECORD["run"], tmp_path / "runs" / RECORD["run"])
    arguments = ["--test-limit", "60", "--arms", "sgd", "ema_acc_bn"]
    assert main(["evaluate", str(tmp_path / "runs" / RECORD["run"]), *arguments]) == 0
    capsys.readouterr()
    then, now = Predictions(path), Predictions(tmp_path / path.relative_to(old))
    assert torch.equal(now.labels_n("test"), then.labels_n("test"))
    for arm in ("sgd", "ema_acc_bn"):
        # Another processor may add in another order.
        torch.testing.assert_close(
            now.logits_nk("test", arm), then.logits_nk("test", arm), rtol=1e-4, atol=1e-4
        )


def test_an_audit_of_then_gives_the_same_tables(old, out, said):
    text = said("audit", out / "runs" / RECORD["run"], "--top", "3")
    assert [digits(line) for line in text.splitlines()[:3]] == RECORD["audit"]
    for table in ("labels.csv", "scores.csv"):
        place = Path("audits", RECORD["run"], table)
        assert (out / place).read_text().splitlines()[0] == (old / place).read_text().splitlines()[
            0
        ]
        assert columns(out / place) == columns(old / place)


@pytest.fixture
def stopped(tmp_path) -> Path:
    return unpacked(STOPPED, tmp_path / "stopped")


def rewrite_environment(out: Path, facts: dict[str, Any]) -> None:
    """As if the run's checkpoints had been written where this is so."""
    for path in run_folder(out, RECORD["stopped"]["run"]).checkpoints.glob("at-*"):
        saved = load(path)
        saved.manifest["checkpoint"]["environment"] |= facts
        save(saved, path)


def test_an_interrupted_run_is_shown_as_one(stopped, said):
    assert states(said("status", stopped)) == RECORD["stopped"]["status"]


def test_an_interrupted_run_is_not_resumed_where_numbers_round_otherwise(stopped):
    folder = run_folder(stopped, RECORD["stopped"]["run"])
    rewrite_environment(stopped, environment(torch.device("cpu")) | {"processor": "another"})
    with pytest.raises(StateError, match="processor 'another'"):
        carry_out(read_config(folder.path / "config.json"), stopped)
    assert folder.ending is None


def prepared_digits() -> None:
    """The data of all runs here is in the cache."""
    main(["data", "prepare", "--source", "digits"])


def test_an_interrupted_run_goes_on_and_ends_as_it_did(stopped, capsys):
    """Bit for bit on the machine that it was begun on; on another it goes on from there."""
    prepared_digits()
    folder = run_folder(stopped, RECORD["stopped"]["run"])
    here = environment(torch.device("cpu"))
    if here != RECORD["ended"]["environment"]:
        rewrite_environment(stopped, here)
    carry_out(read_config(folder.path / "config.json"), stopped)
    assert_ends_like(folder.path, whole_epochs=3, alike=here == RECORD["ended"]["environment"])


def test_the_same_run_begun_now_ends_as_it_did(tmp_path, stopped):
    prepared_digits()
    folder = run_folder(stopped, RECORD["stopped"]["run"])
    carry_out(read_config(folder.path / "config.json"), tmp_path)
    alike = environment(torch.device("cpu")) == RECORD["ended"]["environment"]
    path = run_folder(tmp_path, RECORD["stopped"]["run"]).path
    assert_ends_like(path, whole_epochs=0, alike=alike)


def assert_ends_like(path: Path, *, whole_epochs: int, alike: bool) -> None:
    """The run of `stopped.zip` has ended; so many epochs of it are the old ones in any case."""
    found, wanted = of_run(path), RECORD["ended"]
    assert run_folder(path.parents[1], path.name).ending == "done"
    assert_holds(found["epochs"][:whole_epochs], wanted["epochs"][:whole_epochs])
    assert [len(found[key]) for key in ("epochs", "monitors")] == [5, 5]
    assert found["arms"].keys() == wanted["arms"].keys() | LATER_ARMS
    for one, other in zip(found["epochs"], wanted["epochs"], strict=True):
        assert one.keys() >= other.keys()
        assert one["step"] == other["step"]
        assert one["learning_rate"] == pytest.approx(other["learning_rate"])
    if alike:
        assert_holds(found, {key: wanted[key] for key in found})
