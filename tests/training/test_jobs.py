import errno
import json
import os
import socket
from dataclasses import replace

import pytest
import torch
from support.tensor_file_contents import contents

from polyak.averaging import load as load_weights
from polyak.averaging import save
from polyak.data import load, partition
from polyak.errors import ConfigError, DataError, FileError
from polyak.models import ModelConfig
from polyak.records.predictions import Predictions
from polyak.records.runs import run_folder
from polyak.records.vocabulary import Stop
from polyak.training.config import OverheadConfig
from polyak.training.interruption import InterruptedRun, Interruption
from polyak.training.jobs import carry_out, doubts
from polyak.training.optim import OptimConfig


@pytest.fixture(scope="module")
def done(tiny, tmp_path_factory):
    """The output folder of a search run, and the records that were shown."""
    out = tmp_path_factory.mktemp("out")
    shown = []
    carry_out(replace(tiny, monitors=("test",)), out, on_epoch=shown.append)
    return out, replace(tiny, monitors=("test",)), shown


def test_a_run_leaves_all_its_files(done):
    out, config, shown = done
    folder = run_folder(out, config.id)
    assert folder.ending == "done"
    assert folder.facts()["images"] == 72
    assert folder.config() == json.loads(json.dumps(config.record()))
    assert folder.epochs() == shown
    assert [record.epoch for record in folder.monitors()] == [1, 2, 3]
    assert "holdout" in Predictions(folder.predictions)
    assert not [path for path in folder.path.rglob(".*")]


def test_a_finished_run_is_not_run_again(done, monkeypatch):
    out, config, _ = done
    monkeypatch.setattr("polyak.training.jobs.Run", None)
    before = run_folder(out, config.id).predictions.stat().st_mtime_ns
    carry_out(config, out)
    assert run_folder(out, config.id).predictions.stat().st_mtime_ns == before


def test_an_interrupted_run_is_made_whole_and_equals_one_that_never_stopped(done, tiny, tmp_path):
    _, config, shown = done

    def stop(record):
        if record.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        carry_out(config, tmp_path, on_epoch=stop)
    folder = run_folder(tmp_path, config.id)
    assert folder.ending is None
    assert len(folder.epochs()) == 2
    carry_out(config, tmp_path)
    assert folder.ending == "done"
    assert [replace(r, seconds=0) for r in folder.epochs()] == [
        replace(r, seconds=0) for r in shown
    ]
    whole, again = (Predictions(run_folder(o, config.id).predictions) for o in (done[0], tmp_path))
    for arm in whole.arms("test"):
        assert torch.equal(whole.logits_nk("test", arm), again.logits_nk("test", arm))


@pytest.mark.parametrize("holdout", [True, False], ids=["search", "refit"])
def test_a_run_that_diverges_says_so_and_leaves_no_predictions(tiny, tmp_path, holdout):
    config = replace(tiny, holdout=holdout, optim=OptimConfig(lr=1e30, warmup_epochs=0))
    carry_out(config, tmp_path)
    folder = run_folder(tmp_path, config.id)
    assert folder.ending == "diverged"
    assert folder.facts()["epoch"] == len(folder.epochs()) + 1
    assert not folder.predictions.exists()
    assert all(record.train.loss == record.train.loss for record in folder.epochs())


def test_a_run_that_breaks_in_its_very_last_step_diverged(tiny, tmp_path, monkeypatch):
    from polyak.training import jobs

    class Breaks(jobs.Run):
        def train(self, on_epoch, **options):
            trained = super().train(on_epoch, **options)
            trained.last["sgd"]["head.weight"][0, 0] = float("nan")
            return trained

    monkeypatch.setattr(jobs, "Run", Breaks)
    stops = (Stop(rule="acc", epoch=1, average="ema_0.9"),)
    config = replace(tiny, holdout=False, stops=stops)
    carry_out(config, tmp_path)
    folder = run_folder(tmp_path, config.id)
    assert (folder.ending, folder.facts()["epoch"]) == ("diverged", 3)
    assert not folder.predictions.exists()


def test_a_faulty_job_leaves_no_folder(tiny, tmp_path):
    with pytest.raises(ConfigError, match="epochs is 0"):
        carry_out(replace(tiny, epochs=0), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_data_that_was_not_prepared_is_refused_with_the_command(tiny, tmp_path):
    config = replace(tiny, data=replace(tiny.data, fingerprint=None))
    with pytest.raises(DataError, match="polyak data prepare --source digits"):
        carry_out(config, tmp_path)
    assert list(tmp_path.iterdir()) == []


NET = """
from torch import nn

def build(classes, channels):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))

def few(classes, channels):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 1))

def frozen(classes, channels):
    return build(classes, channels).requires_grad_(False)

def sure(classes, channels):
    return build(classes, channels).append(nn.Softmax(1))

def log_sure(classes, channels):
    return build(classes, channels).append(nn.LogSoftmax(1))

def squashed(classes, channels):
    return build(classes, channels).append(nn.Sigmoid())

class Draws(nn.Dropout):
    def train(self, mode=True):
        return super().train()

def draws(classes, channels):
    return build(classes, channels).append(Draws())
"""


@pytest.fixture
def net(tmp_path):
    path = tmp_path / "net.py"
    path.write_text(NET)
    return path


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("{net}:few", r"expected \(16, 10\), one logit for each class"),
        ("{net}:frozen", "frozen"),
        ("{net}:fwe", "Did you mean 'few'"),
        ("vgg16", "image_size is 8; expected >= 32"),
    ],
)
def test_whatever_is_refused_is_refused_before_there_is_a_folder(tiny, tmp_path, net, name, error):
    config = replace(tiny, model=ModelConfig(name=name.format(net=net)))
    for job in (config, OverheadConfig(run=config, averages=(0, 1), every=(1,), rounds=1)):
        with pytest.raises(ConfigError, match=error):
            carry_out(job, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("function", "doubt"),
    [
        ("sure", "seems to end in softmax, by its outputs; expected logits"),
        ("log_sure", "seems to end in log_softmax"),
        ("squashed", "seems to end in sigmoid"),
        ("draws", "gives other outputs when it is evaluated again"),
        ("build", None),
    ],
)
def test_what_is_hardly_meant_is_a_doubt(tiny, net, function, doubt):
    config = replace(tiny, model=ModelConfig(name=f"{net}:{function}"))
    data = partition(load(tiny.data), tiny.data, holdout=True)
    found = doubts(config, data, torch.device("cpu"))
    assert len(found) == (doubt is not None)
    assert doubt is None or f"{net}:{function} {doubt}" in found[0]


@pytest.mark.filterwarnings("ignore:the rows of logits are >= 0")
def test_a_doubtful_network_is_trained_with_a_warning_at_its_first_sitting(tiny, tmp_path, net):
    config = replace(tiny, epochs=2, model=ModelConfig(name=f"{net}:sure"))
    softmax = pytest.warns(RuntimeWarning, match="seems to end in softmax")
    with softmax, pytest.raises(KeyboardInterrupt):
        carry_out(config, tmp_path, on_epoch=stop)
    carry_out(config, tmp_path)
    assert run_folder(tmp_path, config.id).ending == "done"


def stop(_epoch):
    raise KeyboardInterrupt


def test_the_result_does_not_depend_on_where_it_lies(done, tmp_path):
    out, config, _ = done
    carry_out(config, tmp_path / "elsewhere")
    a, b = (run_folder(o, config.id) for o in (out, tmp_path / "elsewhere"))
    one, other = (Predictions(folder.predictions) for folder in (a, b))
    for arm in one.arms("test"):
        assert torch.equal(one.logits_nk("test", arm), other.logits_nk("test", arm))
        x, y = (load_weights(folder.arm(arm)) for folder in (a, b))
        assert all(torch.equal(x[arm][key], y[arm][key]) for key in x[arm])
        assert x.manifest == y.manifest


def full(*_args, **_options):
    raise OSError(errno.ENOSPC, "No space left on device", "a file")


@pytest.mark.parametrize("what", ["log", "arm", "predictions", "DONE"])
def test_a_full_disk_is_named_and_the_run_goes_on_when_there_is_room(
    done, tmp_path, monkeypatch, what
):
    _, config, _ = done
    folder = run_folder(tmp_path, config.id)
    places = {
        "log": "polyak.records.runs._write_lines",
        "arm": "polyak.tensor_files.save_file",
        "predictions": "polyak.training.arms.write_predictions",
        "DONE": "polyak.records.runs.RunFolder.finish",
    }
    with monkeypatch.context() as patch:
        patch.setattr(places[what], full)
        with pytest.raises(FileError, match=r"No space left on device.*free space"):
            carry_out(config, tmp_path)
    assert folder.ending is None
    assert not (folder.path / "LOCK").exists()
    carry_out(config, tmp_path)
    assert folder.ending == "done"
    assert_same_results(done[0], tmp_path, config)


def assert_same_results(out, other, config):
    one, two = (Predictions(run_folder(o, config.id).predictions) for o in (out, other))
    for arm in one.arms("test"):
        assert torch.equal(one.logits_nk("test", arm), two.logits_nk("test", arm))
    logs = [run_folder(o, config.id).epochs() for o in (out, other)]
    timeless = [[replace(record, seconds=0) for record in log] for log in logs]
    assert timeless[0] == timeless[1]


def test_a_folder_that_cannot_be_written_to_is_named(done, tmp_path):
    """By its own name, also for a user who may write anywhere: a file stands in its place."""
    _, config, _ = done
    (tmp_path / "runs").write_text("")
    with pytest.raises(FileError, match=r"the run in .*runs.*expected a folder that can be writ"):
        carry_out(config, tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_named(done, tmp_path):
    _, config, _ = done
    tmp_path.chmod(0o500)
    with pytest.raises(FileError, match="Permission denied"):
        carry_out(config, tmp_path)


def test_what_killed_writers_left_is_removed(done, tmp_path):
    _, config, _ = done
    folder = run_folder(tmp_path, config.id)
    (folder.path / "averages").mkdir(parents=True)
    (folder.path / ".log.jsonl.x7").write_text("half")
    (folder.path / "averages" / ".sgd.safetensors.x7").write_text("half")
    carry_out(config, tmp_path)
    assert not list(folder.path.rglob(".*"))


def test_what_could_not_be_removed_of_an_ended_run_goes_when_it_is_asked_for_again(done):
    out, config, _ = done
    folder = run_folder(out, config.id)
    # No process has a number as large; the second is a process at work.
    dead, living = (f".polyak-{socket.gethostname()}-{n}-x7" for n in (2**30, os.getpid()))
    for name in (dead, f"averages/{dead}", living):
        (folder.path / name).mkdir()
    carry_out(config, out)
    assert [path.name for path in folder.path.rglob(".*")] == [living]
    (folder.path / living).rmdir()


def test_a_run_that_ended_has_no_checkpoint_nor_a_lock(done):
    out, config, _ = done
    left = {path.name for path in run_folder(out, config.id).path.iterdir()}
    files = {"config.json", "log.jsonl", "monitor.jsonl", "predictions.safetensors"}
    assert left == files | {"variants.safetensors", "averages", "card.json", "DONE"}


def test_a_run_asked_to_stop_leaves_at_the_next_step_and_goes_on_there(done, tmp_path):
    _, config, _ = done
    interruption = Interruption()
    folder = run_folder(tmp_path, config.id)

    def ask(record):
        interruption.signal_number = 15

    with pytest.raises(InterruptedRun):
        carry_out(config, tmp_path, on_epoch=ask, interruption=interruption)
    assert [path.stem for path in folder.checkpoints.glob("at-*")] == ["at-0001-00000"]
    for batch in range(1, 4):
        with pytest.raises(InterruptedRun):
            carry_out(config, tmp_path, interruption=interruption)
        newest = max(folder.checkpoints.glob("at-*"))
        assert newest.stem == f"at-0001-{batch:05}"
    shown = []
    carry_out(config, tmp_path, on_epoch=shown.append)
    assert [record.epoch for record in shown] == [2, 3]
    assert_same_results(done[0], tmp_path, config)


def leave_after_an_arm(config, out, arm=None):
    """A session that is asked to leave at an arm, by default its first; those it evaluated."""
    interruption, seen = Interruption(), []

    def ask(progress):
        seen.append(progress.arm)
        if arm in (None, progress.arm):
            interruption.signal_number = 15

    with pytest.raises(InterruptedRun):
        carry_out(config, out, on_arm=ask, interruption=interruption)
    return seen


def test_a_run_asked_to_stop_leaves_between_two_arms_and_goes_on_behind_them(done, tmp_path):
    _, config, _ = done
    folder = run_folder(tmp_path, config.id)
    # A model that holds an average then is not what the checkpoint must hold.
    assert leave_after_an_arm(config, tmp_path, "swa_bn") == ["sgd", "sgd_bn", "swa_bn"]
    (again,) = leave_after_an_arm(config, tmp_path)
    assert {path.stem[:4] for path in folder.checkpoints.iterdir()} == {"at-0", "kept", "arms"}
    seen = []
    carry_out(config, tmp_path, on_arm=seen.append)
    every = Predictions(folder.predictions).arms("test")
    assert {x.arm for x in seen if x.kind == "arms"} == set(every) - {
        "sgd",
        "sgd_bn",
        "swa_bn",
        again,
    }
    assert [x.number for x in seen if x.kind == "arms"] == list(range(5, len(every) + 1))
    assert not folder.checkpoints.exists()
    assert contents(folder.path) == contents(run_folder(done[0], config.id).path)
    assert_same_results(done[0], tmp_path, config)


@pytest.mark.parametrize("what", ["predictions", "weights", "other weights"])
def test_what_is_in_doubt_of_the_arms_before_is_evaluated_again(done, tmp_path, what):
    _, config, _ = done
    folder = run_folder(tmp_path, config.id)
    for _ in range(2):
        leave_after_an_arm(config, tmp_path)
    if what == "other weights":
        saved = load_weights(folder.arm("sgd"))
        saved["sgd"]["head.bias"] += 1
        save(saved, folder.arm("sgd"))
    else:
        arms = folder.checkpoints / "arms.safetensors"
        path = arms if what == "predictions" else folder.arm("sgd")
        path.write_bytes(path.read_bytes()[:-10])
    seen = []
    carry_out(config, tmp_path, on_arm=seen.append)
    assert seen[0].arm == "sgd"
    assert contents(folder.path) == contents(run_folder(done[0], config.id).path)
