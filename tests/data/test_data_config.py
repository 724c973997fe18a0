from dataclasses import replace

import pytest
import tyro

from polyak.data import DataConfig, NoiseConfig

GOOD_FILE = NoiseConfig(kind="file", file="a.pt", key="worse_label")


def test_defaults_have_no_faults():
    assert DataConfig().faults() == []
    assert replace(DataConfig(), noise=GOOD_FILE).faults() == []


@pytest.mark.parametrize(
    ("change", "phrase"),
    [
        ({"source": ""}, "source is ''"),
        ({"train_limit": 0}, "train_limit is 0; expected >= 1 or None"),
        ({"test_limit": -1}, "test_limit is -1"),
        ({"holdout": 0.0}, "holdout is 0.0; expected 0 < holdout < 1"),
        ({"holdout": float("nan")}, "holdout is nan"),
        ({"split_seed": -1}, "split_seed is -1"),
        ({"crop_padding": -1}, "crop_padding is -1"),
        ({"label_column": ""}, "label_column is ''"),
        ({"fingerprint": "../../etc"}, "fingerprint is '../../etc'"),
        ({"noise": NoiseConfig(kind="pink")}, "noise.kind is 'pink'; expected one of none, sym"),
        ({"noise": NoiseConfig(kind="symmetric", rate=1.5)}, "noise.rate is 1.5"),
        ({"noise": NoiseConfig(rate=0.4)}, "expected 0 where kind is 'none'"),
        (
            {"noise": NoiseConfig(kind="symmetric")},
            "rate is 0.0; expected 0 < rate <= 1 where",
        ),
        ({"noise": NoiseConfig(kind="asymmetric")}, "noise.rate is 0.0; expected 0 < rate <= 1"),
        ({"test_split": 1.0}, "test_split is 1.0; expected 0 < test_split < 1 or None"),
        ({"test_split_seed": 1}, "test_split_seed is 1; expected 0 where test_split is None"),
        ({"test_split_seed": -1}, "test_split_seed is -1; expected >= 0"),
        ({"validation": "train"}, "validation is 'train'; expected one of holdout, ignore"),
        ({"resize": 0}, "resize is 0; expected >= 1 pixel or None"),
        ({"resize_how": "pad"}, "resize_how is 'pad'; expected one of shorter-side-crop, squash"),
        ({"noise": NoiseConfig(seed=-1)}, "noise.seed is -1"),
        ({"noise": NoiseConfig(kind="file", file="a.pt")}, "noise.key is None"),
        ({"noise": NoiseConfig(key="worse_label")}, "expected None where kind is 'none'"),
        ({"noise": replace(GOOD_FILE, fingerprint="x")}, "noise.fingerprint is 'x'"),
    ],
)
def test_each_fault_is_named(change, phrase):
    found = replace(DataConfig(), **change).faults()
    assert len(found) == 1
    assert phrase in found[0]


def test_all_faults_come_together():
    config = DataConfig(holdout=2.0, crop_padding=-1, noise=NoiseConfig(kind="symmetric", rate=-1))
    assert len(config.faults()) == 3


def test_the_command_line_takes_every_field():
    arguments = "--source cifar10 --train-limit 100 --no-flip --noise.kind symmetric"
    config = tyro.cli(DataConfig, args=[*arguments.split(), "--noise.rate", "0.4"])
    noise = NoiseConfig(kind="symmetric", rate=0.4)
    assert config == DataConfig(source="cifar10", train_limit=100, flip=False, noise=noise)
