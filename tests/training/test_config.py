import dataclasses
import json
from dataclasses import replace

import pytest
import tyro
from hypothesis import given
from hypothesis import strategies as st

from polyak.data import DataConfig, NoiseConfig
from polyak.errors import ConfigError
from polyak.models import ModelConfig
from polyak.records.vocabulary import MONITORS, Stop
from polyak.training.config import LATER, PAPER_DECAYS, AveragingConfig, RunConfig, digest
from polyak.training.optim import OptimConfig

SOME, OTHER = "a" * 64, "b" * 64
STOP = Stop(rule="acc", epoch=3, average="ema_0.998")

# A value other than the default for every field that determines the result.
CHANGED = {
    "data": {
        "source": "digits-parity",
        "image_column": "image",
        "label_column": "label",
        "train_limit": 100,
        "test_limit": 100,
        "holdout": 0.25,
        "split_seed": 43,
        "crop_padding": 2,
        "flip": False,
        "test_split": 0.2,
        "test_split_seed": 1,
        "validation": "ignore",
        "resize": 32,
        "resize_how": "squash",
        "context": 64,
        "fingerprint": SOME,
        "noise": NoiseConfig(kind="symmetric", rate=0.5),
    },
    "model": {
        "name": "resnet18",
        "width": 8,
        "norm": "group",
        "patch": 2,
        "depth": 3,
        "conv_bias": True,
        "final_norm_momentum": 0.9,
        "file_sha256": SOME,
    },
    "optim": {
        "name": "adamw",
        "betas": (0.9, 0.95),
        "decayed": "matrices",
        "clip": 1.0,
        "decay_share": 0.1,
        "decay_shape": "1-sqrt",
        "lr": 0.8,
        "momentum": 0.0,
        "weight_decay": 5e-4,
        "warmup_epochs": 2.5,
        "schedule": "constant",
        "milestones": (60,),
        "drop": 10.0,
        "hold_epoch": 100,
    },
    "averaging": {
        "decays": (0.9,),
        "every": 1,
        "warmup": "none",
        "warmup_counts": "steps",
        "buffers": "copy",
        "swa": False,
    },
    "run": {
        "epochs": 150,
        "batch_size": 256,
        "seed": 1,
        "holdout": False,
        "stops": (STOP,),
        "monitors": ("test",),
        "bootstrap": "ema_0.992",
        "keep": "chosen",
        "selection": "bn_safe",
        "holdout_labels": "clean",
        "paper_code": ("batchnorm",),
        "more_averages": ("tail",),
        "swad": (2, 3),
        "batchnorm_images": 512,
        "batchnorm_augmentation": "off",
        "fp32": True,
        "precision": "bfloat16",
    },
}
NOISE = {
    "kind": "asymmetric",
    "rate": 0.25,
    "seed": 1,
    "file": "labels.pt",
    "key": "worse_label",
    "fingerprint": SOME,
}
CASES = [(part, field) for part, values in CHANGED.items() for field in values]


def _changed(part: str, field: str) -> RunConfig:
    default = RunConfig()
    change = {field: CHANGED[part][field]}
    if part == "run":
        return replace(default, **change)
    return replace(default, **{part: replace(getattr(default, part), **change)})


def test_no_field_is_missing_from_these_tests():
    kinds = {
        "data": DataConfig,
        "model": ModelConfig,
        "optim": OptimConfig,
        "averaging": AveragingConfig,
    }
    for part, kind in kinds.items():
        assert {f.name for f in dataclasses.fields(kind)} == CHANGED[part].keys()
    assert {f.name for f in dataclasses.fields(RunConfig)} == CHANGED["run"].keys() | kinds.keys()
    assert {f.name for f in dataclasses.fields(NoiseConfig)} == NOISE.keys()


def test_every_field_changes_the_id_and_no_two_alike():
    ids = [RunConfig().id, *(_changed(part, field).id for part, field in CASES)]
    ids += [
        RunConfig(data=DataConfig(noise=NoiseConfig(**{field: value}))).id
        for field, value in NOISE.items()
    ]
    assert len(set(ids)) == len(CASES) + len(NOISE) + 1


def test_what_came_later_is_not_in_the_id_where_it_is_as_before():
    """The ids of runs that were made before there was more to say."""
    assert RunConfig().id == "ae216f5a3175"
    refit = RunConfig(holdout=False, stops=(STOP,), optim=OptimConfig(lr=1.2), seed=2)
    assert refit.id == "3b9036438c33"
    assert _changed("run", "bootstrap").record()["bootstrap"] == "ema_0.992"


@pytest.mark.parametrize("change", [{"rule": "loss"}, {"epoch": 4}, {"average": "sgd"}])
def test_every_field_of_a_stop_changes_the_id(change):
    config = RunConfig(holdout=False, stops=(STOP,))
    assert replace(config, stops=(replace(STOP, **change),)).id != config.id


def test_the_id_is_the_same_in_every_process_and_version():
    # Raw material of all output folders: if this must change, say so in the change log.
    assert digest({"kind": "train", "lr": 0.5, "decays": [0.9]}) == "bacdf02db024"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("js",), "paper_code is 'js'; expected one of holdout-images"),
        (("batchnorm", "loss-decay"), "expected \\('loss-decay', 'batchnorm'\\)"),
        (("batchnorm", "batchnorm"), "expected \\('batchnorm',\\)"),
    ],
)
def test_paper_code_is_known_and_in_one_order_so_that_equal_runs_have_one_id(names, message):
    with pytest.raises(ConfigError, match=message):
        RunConfig(paper_code=names).check()


def test_equal_configurations_have_equal_ids():
    assert RunConfig().id == RunConfig().id
    assert len(RunConfig().id) == 12


def test_a_whole_number_is_the_same_setting_with_and_without_a_point():
    whole = RunConfig(optim=OptimConfig(lr=1, warmup_epochs=5))
    assert whole.id == RunConfig(optim=OptimConfig(lr=1.0, warmup_epochs=5.0)).id


def test_the_path_does_not_count_where_a_fingerprint_says_what_the_data_is():
    here = RunConfig(data=DataConfig(source="/here/cifar10", fingerprint=SOME))
    there = RunConfig(data=DataConfig(source="/there/cifar10", fingerprint=SOME))
    other = RunConfig(data=DataConfig(source="/there/cifar10", fingerprint=OTHER))
    assert here.id == there.id != other.id
    # Without one nothing says that they are the same.
    paths = [RunConfig(data=DataConfig(source=source)).id for source in ("/here", "/there")]
    assert paths[0] != paths[1]


def test_the_path_of_a_noise_file_does_not_count_where_a_fingerprint_says_what_it_is():
    def config(file: str, fingerprint: str | None) -> RunConfig:
        noise = NoiseConfig(kind="file", file=file, key="worse", fingerprint=fingerprint)
        return RunConfig(data=DataConfig(noise=noise))

    assert config("/here.pt", SOME).id == config("/there.pt", SOME).id
    assert config("/here.pt", SOME).id != config("/here.pt", OTHER).id
    assert config("/here.pt", None).id != config("/there.pt", None).id


def test_a_record_is_plain_json():
    record = _changed("run", "stops").record()
    assert json.loads(json.dumps(record)) == json.loads(json.dumps(record, sort_keys=True))
    assert record["stops"] == ({"rule": "acc", "epoch": 3, "average": "ema_0.998"},)


def test_the_default_is_the_papers():
    config = RunConfig()
    config.check()
    assert config.averaging.decays == PAPER_DECAYS
    assert (config.epochs, config.batch_size, config.averaging.every) == (200, 128, 16)
    assert (config.optim.momentum, config.optim.weight_decay, config.optim.warmup_epochs) == (
        0.9,
        1e-4,
        5,
    )
    assert config.data.split_seed == 42


def test_all_faults_come_in_one_message():
    config = RunConfig(
        data=DataConfig(holdout=1.5, crop_padding=-1),
        model=ModelConfig(name="resnet19"),
        optim=OptimConfig(lr=-1.0, momentum=1.0, weight_decay=float("nan")),
        averaging=AveragingConfig(decays=(0.9, 1.0), every=0),
        epochs=0,
        batch_size=0,
        monitors=("tset",),  # type: ignore[arg-type]
        stops=(Stop(rule="acc", epoch=9, average="ema_0.99"),),
    )
    with pytest.raises(ConfigError) as caught:
        config.check()
    message = str(caught.value)
    for part in (
        "holdout is 1.5",
        "crop_padding is -1",
        "Did you mean 'resnet18'",
        "lr is -1.0",
        "momentum is 1.0",
        "weight_decay is nan",
        "decay is 1.0",
        "every is 0",
        "epochs is 0",
        "batch_size is 0",
        "Did you mean 'test'",
        "epoch 9",
    ):
        assert part in message


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (RunConfig(model=ModelConfig(name="vgg61")), r"'vgg61'; expected one of resnet8, .*'vgg16"),
        (
            RunConfig(monitors=("train_worng",)),  # type: ignore[arg-type]
            r"'train_worng'; expected one of test, .*Did you mean 'train_wrong'\?",
        ),
        (
            RunConfig(optim=OptimConfig(schedule="cosin")),  # type: ignore[arg-type]
            r"schedule is 'cosin'; expected one of cosine, step, held, constant.*'cosine'",
        ),
        (
            RunConfig(averaging=AveragingConfig(warmup="papr")),  # type: ignore[arg-type]
            r"warmup is 'papr'; expected one of paper, none.*'paper'",
        ),
        (
            RunConfig(averaging=AveragingConfig(warmup_counts="step")),  # type: ignore[arg-type]
            r"warmup_counts is 'step'; expected one of updates, steps.*'steps'",
        ),
        (
            RunConfig(averaging=AveragingConfig(buffers="averaged")),  # type: ignore[arg-type]
            r"buffers is 'averaged'; expected one of average, copy.*'average'",
        ),
        (
            RunConfig(holdout=False, stops=(replace(STOP, rule="accuracy"),)),  # type: ignore[arg-type]
            r"rule of a stop is 'accuracy'; expected one of sgd, acc, loss",
        ),
        (RunConfig(holdout=False, stops=(STOP, STOP)), r"stops .*one for each rule"),
        (
            RunConfig(holdout=False, stops=(replace(STOP, average="ema_0.98"),)),
            r"average of stop 'acc' is 'ema_0.98'; expected one of sgd, ema_0.968, .*Did you mean",
        ),
        (RunConfig(averaging=AveragingConfig(decays=(0.9, 0.8))), "rising"),
        (RunConfig(averaging=AveragingConfig(decays=(0.9, 0.9))), "rising"),
        (RunConfig(averaging=AveragingConfig(decays=())), "at least one"),
        (RunConfig(epochs=5), r"warmup_epochs is 5\.0; expected < epochs \(5\)"),
        (RunConfig(holdout=False, monitors=("holdout_bn",)), "expected a run that keeps a hold"),
        (RunConfig(stops=(STOP,)), "expected none where the hold-out chooses"),
        (RunConfig(holdout=False, stops=(replace(STOP, epoch=0),)), "epoch 0; expected 1 to 200"),
        (RunConfig(holdout=False, stops=(replace(STOP, epoch=201),)), "epoch 201; expected 1 to"),
        (
            RunConfig(bootstrap="ema_0.99"),
            r"bootstrap is 'ema_0.99'; expected one of ema_0.968, .*Did you mean",
        ),
        (
            RunConfig(keep="all"),  # type: ignore[arg-type]
            "keep is 'all'; expected one of every, chosen",
        ),
        (
            RunConfig(precision="bf16"),  # type: ignore[arg-type]
            r"precision is 'bf16'; expected one of float32, bfloat16, auto",
        ),
        (
            RunConfig(precision="bfloat16", fp32=True),
            "precision is 'bfloat16' with fp32; expected one of the two",
        ),
        (RunConfig(precision="float32", fp32=True), "expected one of the two"),
        (RunConfig(optim=OptimConfig(schedule="step")), "milestones"),
        (RunConfig(optim=OptimConfig(milestones=(60,))), "milestones"),
        (RunConfig(optim=OptimConfig(schedule="held")), "hold_epoch"),
        (RunConfig(optim=OptimConfig(hold_epoch=60)), "hold_epoch"),
        (
            RunConfig(optim=OptimConfig(schedule="held", hold_epoch=4)),
            r"hold_epoch is 4; expected >= warmup_epochs \(5\.0\)",
        ),
    ],
)
def test_each_fault_says_what_was_expected(config, message):
    with pytest.raises(ConfigError, match=message):
        config.check()


def test_a_bank_is_named_by_its_decays():
    assert AveragingConfig().names == (
        "ema_0.968",
        "ema_0.984",
        "ema_0.992",
        "ema_0.996",
        "ema_0.998",
    )


@given(st.lists(st.floats(0, 0.999), min_size=1, max_size=5, unique=True))
def test_different_decays_have_different_names(decays):
    config = AveragingConfig(decays=tuple(sorted(decays)))
    assert config.faults() == []
    assert len(set(config.names)) == len(decays)


def test_flags_build_the_same_configuration():
    flags = (
        "--data.source digits-parity --data.noise.kind symmetric --data.noise.rate 0.4 "
        "--model.name vgg16 --optim.lr 0.2 --optim.schedule step --optim.milestones 60 120 "
        "--averaging.decays 0.9 0.99 --averaging.no-swa --epochs 150 --seed 3 --no-holdout "
        "--monitors test train_wrong"
    )
    expected = RunConfig(
        data=DataConfig(source="digits-parity", noise=NoiseConfig(kind="symmetric", rate=0.4)),
        model=ModelConfig(name="vgg16"),
        optim=OptimConfig(lr=0.2, schedule="step", milestones=(60, 120)),
        averaging=AveragingConfig(decays=(0.9, 0.99), swa=False),
        epochs=150,
        seed=3,
        holdout=False,
        monitors=("test", "train_wrong"),
    )
    assert tyro.cli(RunConfig, args=flags.split()) == expected
    assert tyro.cli(RunConfig, args=[]) == RunConfig()


@pytest.mark.parametrize(
    ("config", "on_cpu", "on_gpu"),
    [
        (RunConfig(), "float32", "bfloat16"),
        (RunConfig(fp32=True), "float32", "float32"),
        (RunConfig(precision="bfloat16"), "bfloat16", "bfloat16"),
        (RunConfig(precision="float32"), "float32", "float32"),
    ],
)
def test_a_precision_that_is_given_holds_on_every_device(config, on_cpu, on_gpu):
    config.check()
    assert (config.precision_on("cpu"), config.precision_on("cuda")) == (on_cpu, on_gpu)


def test_a_precision_is_a_flag_and_read_back_from_a_record():
    config = tyro.cli(RunConfig, args=["--precision", "bfloat16"])
    assert config == RunConfig(precision="bfloat16")
    assert config.record()["precision"] == "bfloat16"


def test_an_unknown_monitor_is_refused_by_the_flags_with_the_choices(capsys):
    with pytest.raises(SystemExit) as caught:
        tyro.cli(RunConfig, args=["--monitors", "tset"])
    assert caught.value.code == 2
    err = capsys.readouterr().err
    assert all(monitor in err for monitor in MONITORS)


def test_settings_that_came_later_leave_the_ids_of_earlier_runs_alone():
    """The id of the default run as it was before any setting of `LATER` was there."""
    assert not LATER.keys() & keys(RunConfig().record())
    assert RunConfig().id == "ae216f5a3175"


def keys(record):
    inner = [keys(value) for value in record.values() if isinstance(value, dict)]
    return set(record).union(*inner)
