"""Every curve of a run has one name, whatever shows it."""

from polyak.loggers.curves import read_curves, scalars
from polyak.records.runs import EpochRecord, MonitorRecord, Score


def test_every_number_of_an_epoch_has_a_name():
    record = EpochRecord(
        epoch=3,
        step=30,
        learning_rate=0.2,
        train=Score(1.5, 0.4),
        seconds=9.0,
        holdout={"sgd": Score(1.2, 0.5), "ema_0.9": Score(1.1, 0.6)},
        holdout_bn={"ema_0.9": Score(1.0, 0.7)},
    )
    monitor = MonitorRecord(epoch=3, monitor="train_wrong", scores={"sgd": Score(3.0, 0.1)})
    assert scalars(record, [monitor]) == {
        "step": 30,
        "seconds": 9.0,
        "learning_rate": 0.2,
        "train/loss": 1.5,
        "train/accuracy": 0.4,
        "holdout/sgd/loss": 1.2,
        "holdout/sgd/accuracy": 0.5,
        "holdout/ema_0.9/loss": 1.1,
        "holdout/ema_0.9/accuracy": 0.6,
        "holdout_bn/ema_0.9/loss": 1.0,
        "holdout_bn/ema_0.9/accuracy": 0.7,
        "monitor/train_wrong/sgd/loss": 3.0,
        "monitor/train_wrong/sgd/accuracy": 0.1,
    }


def test_curves_are_what_the_runs_files_say(growing):
    growing.grow_to(4)
    curves = read_curves(growing.folder, name="a run")
    assert (curves.run, curves.name, curves.config["seed"]) == ("0123456789ab", "a run", 3)
    monitors = {m.epoch: [m] for m in growing.folder.monitors()}
    expected = {r.epoch: scalars(r, monitors[r.epoch]) for r in growing.folder.epochs()}
    assert curves.epochs == expected
    assert list(curves.epochs) == [1, 2, 3, 4]


def test_an_epoch_waits_for_its_monitors(growing):
    growing.grow_to(4, monitored=3)
    assert list(read_curves(growing.folder, name="").epochs) == [1, 2, 3]
    growing.monitors = ()
    growing.begin()
    growing.grow_to(4)
    assert list(read_curves(growing.folder, name="").epochs) == [1, 2, 3, 4]
