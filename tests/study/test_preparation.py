from dataclasses import replace

import pytest

from polyak.data import DataConfig, NoiseConfig
from polyak.errors import DataError
from polyak.study import preparation
from polyak.study.paper.datasets import LABELS, hints
from polyak.study.preparation import prepare_rows, prepare_some


def _noise(row, file):
    noise = NoiseConfig(kind="file", file=file, key="worse_label")
    return replace(row, config=replace(row.config, data=replace(row.config.data, noise=noise)))


def test_rows_come_back_with_fingerprints_and_nothing_else_changed(row):
    (ready,) = prepare_rows([row])
    assert ready.config.data.fingerprint
    assert ready.transfer[0].fingerprint
    stripped = replace(
        ready,
        config=replace(ready.config, data=replace(ready.config.data, fingerprint=None)),
        transfer=(replace(ready.transfer[0], fingerprint=None),),
    )
    assert stripped == row


def test_all_that_is_missing_comes_in_one_message_and_once(row, monkeypatch):
    asked = []

    def unreachable(config, **_):
        asked.append(config.source)
        if config.noise.file or config.source != "digits":
            raise DataError(f"{config.noise.file or config.source} is not to be had.")
        return config

    monkeypatch.setattr(preparation, "prepare", unreachable)
    cifar = replace(row, config=replace(row.config, data=DataConfig(source="cifar10")))
    rows = [
        cifar,
        replace(cifar, transfer=(DataConfig(source="cifar100", train_limit=5),)),
        _noise(cifar, "of no use"),
        _noise(row, LABELS["cifar10n"].file),
    ]
    with pytest.raises(DataError) as caught:
        prepare_rows(rows, hint=hints({}))
    lines = str(caught.value).splitlines()
    assert lines == [
        "cifar10 is not to be had. Give it with --data cifar10=FOLDER.",
        "digits-parity is not to be had.",
        "cifar100 is not to be had. Give it with --data cifar100=FOLDER.",
        "CIFAR-10_human.pt is not to be had. Give it with --data "
        "cifar10n=path/to/CIFAR-10_human.pt.",
    ]
    # Labels are not asked for where their images are missing already.
    assert asked.count("cifar10") == asked.count("cifar100") == 1


def test_rows_with_data_are_ready_while_others_wait(row):
    lacking = replace(
        row, label="lacking", config=replace(row.config, data=DataConfig(source="digit"))
    )
    ready, missing = prepare_some([row, lacking])
    assert set(ready) == {row.label}
    assert len(missing) == 1
    assert "source is 'digit'" in missing[0]


def test_limits_above_what_there_is_mean_all_of_it(row):
    data = replace(row.config.data, train_limit=1_437, test_limit=361)
    (ready,) = prepare_rows([replace(row, config=replace(row.config, data=data))])
    assert (ready.config.data.train_limit, ready.config.data.test_limit) == (None, None)
    data = replace(data, train_limit=1_436, test_limit=359)
    (ready,) = prepare_rows([replace(row, config=replace(row.config, data=data))])
    assert (ready.config.data.train_limit, ready.config.data.test_limit) == (1_436, 359)


def test_decays_are_fitted_to_the_images_that_there_are(row):
    data = replace(row.config.data, train_limit=50_000)
    row = replace(row, config=replace(row.config, data=data), paper_updates=1_000)
    (ready,) = prepare_rows([row])
    # 1,437 digits are 45 batches of 32; 3 epochs; an update every 2 steps.
    expected = tuple(round(d ** (1_000 / (3 * 45 // 2)), 3) for d in row.paper_decays)
    assert ready.config.averaging.decays == expected
    assert ready.paper_decays == row.paper_decays
