"""A study on text, from its runs to its page."""

import math

import pyarrow.parquet as pq
import pytest
from support.small_runs import carry_through
from support.texts import text_run, write_texts

from polyak.data import DataConfig
from polyak.models import ModelConfig
from polyak.report.page import write_report
from polyak.study.plan import Row, Study
from polyak.training.config import RunConfig


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POLYAK_CACHE", str(tmp_path_factory.mktemp("cache")))
        config = text_run(
            write_texts(tmp_path_factory.mktemp("texts")), more_averages=("window_7",)
        )
        row = Row(
            label="bytes",
            dataset="text",
            architecture="GPT",
            config=config,
            learning_rates=(3e-3,),
            seeds=(0, 1),
            paper_decays=config.averaging.decays,
            refit_monitors=("test",),
        )
        study = Study(name="bytes", title="Bytes", cost="seconds", rows=(row,))
        out = tmp_path_factory.mktemp("out")
        outcome = carry_through(study, out, command="polyak study bytes")
        assert (outcome.done, outcome.failures, outcome.row_failures) == (4, {}, {})
        yield out


def test_the_page_has_the_loss_in_bits_per_byte_beside_nats(out):
    page = write_report(out, "bytes").read_text(encoding="utf-8")
    assert "bits per byte" in page
    numbers = [
        line["value"]
        for line in pq.read_table(out / "bytes" / "results.parquet").to_pylist()
        if (line["phase"], line["arm"], line["metric"]) == ("refit", "sgd", "loss")
    ]
    assert len(numbers) == 2
    mean = sum(numbers) / 2
    assert f"{mean:.3f}" in page
    assert f"{mean / math.log(2):.3f}" in page
    assert "window of 6.7 % + BN" in page
    assert "16 bytes" in page
    assert "training windows processed" in page
    assert "training images processed" not in page


def test_every_metric_of_images_is_there_for_text(out):
    found = {
        (line["phase"], line["metric"])
        for line in pq.read_table(out / "bytes" / "results.parquet").to_pylist()
    }
    for metric in ("accuracy", "loss", "brier", "ece", "ece_floor", "churn", "js", "flipped"):
        assert ("refit", metric) in found
    assert {("search", "temperature"), ("search", "ece_scaled")} <= found
    assert not any(metric == "memorised" for _, metric in found)


def test_text_has_no_linear_probe():
    data = DataConfig(source="text:stdlib")
    row = Row(
        label="bytes",
        dataset="text",
        architecture="GPT",
        config=RunConfig(data=data, model=ModelConfig(name="gpt")),
        learning_rates=(1e-3,),
        seeds=(0,),
        transfer=(data,),
    )
    assert row.faults() == ["transfer is given with text; expected images and targets of images"]
