import shutil
from dataclasses import replace
from functools import partial

import pytest
import torch
from support.tensor_file_contents import contents

from polyak.averaging import load as load_weights
from polyak.models import build
from polyak.records.predictions import Predictions
from polyak.records.runs import run_folder
from polyak.records.vocabulary import CONTROLS, Stop
from polyak.training import arms as module
from polyak.training.arms import arms, write_arms
from polyak.training.config import PRECISIONS
from polyak.training.later_predictions import write_controls
from polyak.training.logits import controls_of, logits_of_arms
from polyak.training.prediction import predict, recompute_statistics
from polyak.training.run_state import Trained

ALL = {
    "sgd",
    "swa_bn",
    "sgd_bn",
    "sgd_stopped",
    "sgd_stopped_bn",
    "sgd_at_ema",
    "sgd_at_ema_bn",
    "ema_acc",
    "ema_loss",
    "ema_acc_bn",
    "ema_loss_bn",
}
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


@pytest.fixture(scope="module")
def finished(tiny, start, tmp_path_factory):
    """A refit with three different stops, its arms in memory, and its folder."""
    stops = (
        Stop(rule="sgd", epoch=1, average="sgd"),
        Stop(rule="acc", epoch=2, average="ema_0.2"),
        Stop(rule="loss", epoch=3, average="ema_0.9"),
    )
    run = start(replace(tiny, holdout=False, stops=stops))
    trained = run.train(lambda record: None)
    folder = run_folder(tmp_path_factory.mktemp("out"), run.config.id)
    by_name = {arm.name: arm for arm in arms(trained, run.config)}
    write_arms(run, trained, folder)
    return run, trained, by_name, folder


@pytest.fixture
def as_before(tmp_path):
    """Makes a finished run one of before there was SGD with recomputed statistics."""

    def strip(folder):
        copy = run_folder(tmp_path, folder.path.name)
        shutil.copytree(folder.path, copy.path)
        for arm in CONTROLS:
            copy.arm(arm).unlink()
        copy.finish("done", images=72, seconds=1.0)
        return copy

    return strip


def _saved(folder, name):
    return load_weights(folder.arm(name))[name]


def test_a_run_with_all_stops_has_all_arms_and_a_file_for_each(finished):
    _, _, by_name, folder = finished
    assert by_name.keys() == ALL
    assert {path.stem for path in (folder.path / "averages").iterdir()} == ALL


@pytest.mark.parametrize(
    ("name", "rule", "weights"),
    [
        ("sgd_stopped", "sgd", "sgd"),
        ("sgd_stopped_bn", "sgd", "sgd"),
        ("sgd_at_ema_bn", "acc", "sgd"),
        ("sgd_at_ema", "acc", "sgd"),
        ("ema_acc", "acc", "ema_0.2"),
        ("ema_acc_bn", "acc", "ema_0.9"),
        ("ema_loss", "loss", "ema_0.9"),
        ("ema_loss_bn", "loss", "ema_0.9"),
    ],
)
def test_arms_at_a_stop_are_the_weights_kept_there(finished, name, rule, weights):
    _, trained, by_name, _ = finished
    expected = trained.kept[rule].weights[weights]
    assert all(torch.equal(by_name[name].weights[key], x) for key, x in expected.items())
    assert by_name[name].origin == {
        "source": weights,
        "epoch": trained.kept[rule].stop.epoch,
        "rule": rule,
    }


def test_sgd_and_swa_are_the_last_weights(finished):
    _, trained, by_name, _ = finished
    assert by_name["sgd"].weights is trained.last["sgd"]
    assert by_name["swa_bn"].weights is trained.last["swa"]
    assert by_name["sgd"].origin["epoch"] == 3


def test_recomputed_arms_differ_from_their_source_in_statistics_only(finished):
    _, _, by_name, folder = finished
    for name, arm in by_name.items():
        assert arm.refresh == name.endswith("_bn")
        for key, saved in _saved(folder, name).items():
            statistic = key.endswith(STATISTICS[:2])
            if arm.refresh and statistic:
                assert not torch.equal(saved, arm.weights[key]), (name, key)
            else:
                assert torch.equal(saved, arm.weights[key]), (name, key)


def test_recomputed_statistics_are_those_of_one_pass_over_the_training_part(finished):
    """Of the stem, whose inputs do not depend on other statistics."""
    from polyak.training.randomness import generator

    run, _, by_name, folder = finished
    weight = by_name["ema_acc_bn"].weights["stem.weight"]
    batches = run.images.batches(
        128,
        order=generator(run.config.seed, "final batchnorm order"),
        draws=generator(run.config.seed, "final batchnorm augmentation"),
    )
    x_nchw = torch.cat([x for x, _ in batches])
    assert len(x_nchw) == 90
    seen = torch.nn.functional.conv2d(x_nchw, weight, padding=1).transpose(0, 1).flatten(1).double()
    saved = _saved(folder, "ema_acc_bn")
    assert torch.allclose(saved["norm.running_mean"].double(), seen.mean(dim=1), atol=1e-5)
    assert torch.allclose(saved["norm.running_var"].double(), seen.var(dim=1), rtol=1e-4)


def test_equal_weights_get_equal_statistics_whatever_arm_they_are(tiny, start, tmp_path):
    """Every arm's pass sees the same augmented images."""
    stops = tuple(Stop(rule=rule, epoch=2, average="ema_0.9") for rule in ("acc", "loss"))
    run = start(replace(tiny, holdout=False, stops=stops))
    folder = run_folder(tmp_path, run.config.id)
    write_arms(run, run.train(lambda record: None), folder)
    a, b = (_saved(folder, name) for name in ("ema_acc_bn", "ema_loss_bn"))
    assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.fixture(scope="module")
def stopped_at_the_end(tiny, start):
    """All stops are at the last epoch."""
    stops = tuple(Stop(rule=rule, epoch=3, average="ema_0.9") for rule in ("sgd", "acc", "loss"))
    run = start(replace(tiny, holdout=False, stops=stops))
    return run, run.train(lambda record: None)


def test_equal_arms_are_evaluated_once_and_leave_the_same_bytes_as_each_alone(
    stopped_at_the_end, tmp_path, monkeypatch
):
    run, trained = stopped_at_the_end
    passes = []
    for name in ("predict", "recompute_statistics"):
        original = getattr(module, name)
        counted = partial(_counted, passes, name, original)
        monkeypatch.setattr(module, name, counted)
    folders = [run_folder(tmp_path / how, run.config.id) for how in ("once", "alone")]
    for folder, twin in zip(folders, (module._twin, lambda arm, evaluated: None), strict=True):
        monkeypatch.setattr(module, "_twin", twin)
        write_arms(run, trained, folder)
        if folder is folders[0]:
            # sgd, its statistics recomputed, swa_bn, ema_acc and ema_acc_bn: test and training.
            assert passes.count("predict") == 2 * 5
            assert passes.count("recompute_statistics") == 3
            passes.clear()
    assert passes.count("predict") == 2 * len(ALL)
    once, alone = (contents(folder.path) for folder in folders)
    assert len(once) == len(ALL) + 1
    assert once == alone


def _counted(passes, name, original, *args, **options):
    passes.append(name)
    return original(*args, **options)


def test_progress_names_every_arm_and_the_one_that_it_equals(stopped_at_the_end, tmp_path):
    run, trained = stopped_at_the_end
    seen = []
    write_arms(run, trained, run_folder(tmp_path, run.config.id), on_arm=seen.append)
    assert [x.arm for x in seen] == [arm.name for arm in arms(trained, run.config)]
    assert [x.number for x in seen] == list(range(1, len(ALL) + 1))
    assert {(x.kind, x.total, x.images["test"], x.images["train"]) for x in seen} == {
        ("arms", len(ALL), 40, 90)
    }
    assert {x.arm: x.equal_to for x in seen if x.equal_to} == {
        "sgd_stopped": "sgd",
        "sgd_stopped_bn": "sgd_bn",
        "sgd_at_ema": "sgd",
        "sgd_at_ema_bn": "sgd_bn",
        "ema_loss": "ema_acc",
        "ema_loss_bn": "ema_acc_bn",
    }


def test_predictions_are_what_the_saved_weights_say(finished):
    run, _, _, folder = finished
    said = Predictions(folder.predictions)
    data = run.data
    test_nchw, train_nchw = (
        run.images.normalise(x) for x in (data.test_images_nchw, data.train_images_nchw)
    )
    assert set(said.arms("test")) == set(said.arms("train")) == ALL
    for name in ALL:
        model = build(run.config.model, classes=10, channels=1, image_size=8, generator_seed=0)
        model = model.to(memory_format=torch.channels_last)
        model.load_state_dict(_saved(folder, name))
        assert torch.allclose(said.logits_nk("test", name), predict(model, test_nchw), atol=1e-5)
        # Of training samples only the verdict is kept.
        assert said.logits_nk("train", name).ndim == 1
        verdicts_n = predict(model, train_nchw).argmax(dim=1)
        assert (said.predicted_n("train", name) == verdicts_n).double().mean() > 0.97
    assert torch.equal(said.labels_n("test"), data.test_labels_n)
    assert torch.equal(said.labels_n("train", "given"), data.train_given_n)
    assert torch.equal(said.labels_n("train", "clean"), data.train_clean_n)
    assert "holdout" not in said


def test_a_search_run_also_says_what_its_arms_make_of_the_holdout(tiny, start, tmp_path):
    run = start(tiny)
    folder = run_folder(tmp_path, run.config.id)
    write_arms(run, run.train(lambda record: None), folder)
    said = Predictions(folder.predictions)
    assert set(said.arms("holdout")) == ALL
    assert said.logits_nk("holdout", "ema_acc").shape == (18, 10)
    assert torch.equal(said.labels_n("holdout", "given"), run.data.holdout_given_n)
    assert torch.equal(said.labels_n("holdout", "clean"), run.data.holdout_clean_n)
    # The arm at its stop says what the log says of it.
    stop = run.trained.kept["acc"].stop
    right = said.predicted_n("holdout", "ema_acc") == run.data.holdout_given_n
    logged = run.trained.epochs[stop.epoch - 1].holdout[stop.average].accuracy
    assert right.double().mean().item() == pytest.approx(logged)


def test_a_manifest_says_which_weights_a_file_holds(finished):
    run, _, _, folder = finished
    manifest = load_weights(folder.arm("ema_acc_bn")).manifest
    assert (manifest["run"], manifest["seed"]) == (run.config.id, run.config.seed)
    assert manifest["source"] == "ema_0.9"
    assert (manifest["epoch"], manifest["rule"]) == (2, "acc")
    assert manifest["averages"]["ema_acc_bn"]["decay"] == 0.9
    assert manifest["weights"] == {"ema_acc_bn": "averaged"}
    assert manifest["refreshed_batchnorm"] == ["ema_acc_bn"]
    sgd = load_weights(folder.arm("sgd")).manifest
    assert sgd["weights"] == {"sgd": "raw"}
    assert sgd["refreshed_batchnorm"] == []
    assert "averages" not in sgd


def test_without_stops_and_swa_there_is_only_sgd_with_both_statistics(tiny, start):
    config = replace(tiny, holdout=False, averaging=replace(tiny.averaging, swa=False))
    run = start(config)
    assert [arm.name for arm in arms(run.train(lambda record: None), config)] == [
        "sgd",
        "sgd_bn",
    ]


def test_a_network_without_batchnorm_has_no_sgd_with_recomputed_statistics(tiny):
    trained = Trained(torch.nn.Linear(1, 1), {"sgd": {"weight": torch.ones(1)}}, {})
    assert [arm.name for arm in arms(trained, tiny)] == ["sgd"]


@pytest.mark.parametrize("paper_code", [(), ("holdout-images", "batchnorm")])
def test_sgd_of_a_run_of_before_gets_the_statistics_that_the_run_would_have_given_it(
    tiny, start, tmp_path, as_before, paper_code
):
    run = start(replace(tiny, paper_code=paper_code, epochs=2))
    folder = run_folder(tmp_path / "now", run.config.id)
    write_arms(run, run.train(lambda record: None), folder)
    then = as_before(folder)
    assert controls_of(then) == ["sgd_bn", "sgd_stopped_bn", "sgd_at_ema_bn"]
    folder.finish("done", images=72, seconds=1.0)
    assert controls_of(folder) == []
    path = tmp_path / "controls.safetensors"
    common = {"config": run.config, "data": run.data, "device": run.device}
    write_controls(path, then, arms=controls_of(then), **common)
    now, later = Predictions(folder.predictions), Predictions(path)
    for arm in CONTROLS:
        for part in ("test", "holdout"):
            assert torch.equal(later.logits_nk(part, arm), now.logits_nk(part, arm))
        # Chunks of images may end elsewhere; verdicts are what counts.
        assert torch.equal(later.predicted_n("train", arm), now.predicted_n("train", arm))
    for part, kind in (("test", "labels"), ("holdout", "given"), ("train", "clean")):
        assert torch.equal(later.labels_n(part, kind), now.labels_n(part, kind))


def test_statistics_of_the_images_as_they_are_are_an_option_of_the_run(tiny, start):
    """Of the stem, whose inputs do not depend on other statistics."""
    run = start(replace(tiny, batchnorm_augmentation="off", epochs=2))
    x_nchw = run.images.normalise(run.data.train_images_nchw)
    seen = torch.nn.functional.conv2d(x_nchw, run.model.stem.weight, padding=1)
    recompute_statistics(run.model, run.images, run.config)
    mean = run.model.norm.running_mean.clone()
    assert torch.allclose(mean, seen.mean(dim=(0, 2, 3)), atol=1e-5)
    recompute_statistics(run.model, run.images, run.config, augmentation="on")
    assert not torch.allclose(run.model.norm.running_mean, mean, atol=1e-5)
    # Statistics after an epoch, for selection and monitors, are made in the same way.
    batches = [x for x, _ in run.evaluation.batchnorm_batches()]
    drawn = torch.cat(batches).flatten(1).sum(dim=1).sort().values
    assert torch.allclose(drawn, x_nchw.flatten(1).sum(dim=1).sort().values, atol=1e-4)


def test_statistics_are_recomputed_again_for_all_arms_alike(finished):
    run, _, _, folder = finished
    ask = {"images_nchw": {"test": run.data.test_images_nchw}, "arms": ("sgd", "swa_bn", "sgd_bn")}
    ask |= {"config": run.config, "data": run.data, "device": run.device}
    saved, on, off = (
        logits_of_arms(folder, **ask, augmentation=how)["test"] for how in (None, "on", "off")
    )
    assert torch.equal(saved["sgd"], off["sgd"])
    for arm in ("swa_bn", "sgd_bn"):
        assert torch.equal(saved[arm], on[arm])
        assert not torch.equal(saved[arm], off[arm])


@pytest.mark.parametrize("precision", PRECISIONS)
def test_saved_predictions_are_computed_in_the_runs_precision_and_asked_for_again_alike(
    tiny, start, tmp_path, precision
):
    run = start(replace(tiny, precision=precision, epochs=2))
    folder = run_folder(tmp_path, run.config.id)
    write_arms(run, run.train(lambda record: None), folder)
    names = ("sgd", "ema_acc_bn")
    again = logits_of_arms(
        folder,
        {"test": run.data.test_images_nchw},
        config=run.config,
        data=run.data,
        arms=names,
        device=run.device,
    )["test"]
    for name in names:
        saved = _saved(folder, name)
        assert {x.dtype for x in saved.values()} == {torch.float32, torch.int64}
        logits_nk = Predictions(folder.predictions).logits_nk("test", name)
        assert logits_nk.dtype == torch.float32
        assert torch.equal(logits_nk, again[name])
        rounded = logits_nk.bfloat16().float()
        assert torch.equal(logits_nk, rounded) == (precision == "bfloat16")
