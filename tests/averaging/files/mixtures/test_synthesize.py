"""An average decided on afterwards is the one that would have been kept."""

from types import SimpleNamespace

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file
from support.small_networks import EVERY_KIND, Tied, generator, net
from torch import nn

import polyak
from polyak import EMA, Averager, PowerEMA, Schedule, Uniform, Window
from polyak.errors import (
    ConfigError,
    FileError,
    NonFiniteError,
    StateError,
    WeightMismatchError,
)

KEPT = [0.5, 0.8, 0.9, 0.96, 0.99]
EVERY, STEPS, SAVED = 2, 240, range(24, 241, 24)
WANTED = [
    EMA(0.85),
    EMA(0.93, warmup=None),
    PowerEMA(sigma_rel=0.12),
    Uniform(start=48),
    *EVERY_KIND,
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A bank saved ten times along a run, beside one that has what is wanted afterwards."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    model, noise = net(), generator()
    kept, live = Averager(model, KEPT, every=EVERY), Averager(model, WANTED, every=EVERY)
    files, truth, own = [], {}, {}
    for step in range(1, STEPS + 1):
        with torch.no_grad():
            for p in model.parameters():
                p += 0.05 * torch.randn(p.shape, generator=noise)
        model(torch.randn(8, 3, generator=noise))
        kept.step()
        live.step()
        truth[step] = {name: live.tensors(name) for name in live.names}
        own[step] = {key: x.clone() for key, x in model.state_dict().items()}
        if step in SAVED:
            files.append(folder / f"{step}.safetensors")
            polyak.save(kept, files[-1])
    return SimpleNamespace(model=model, files=files, truth=truth, own=own, names=live.names)


def off(found, truth, own):
    """Distance from the truth over the truth's from the model's own weights."""
    keys = [key for key, x in truth.items() if "weight" in key or "bias" in key]
    missed, reach = (
        sum(float((a[k].double() - truth[k].double()).square().sum()) for k in keys) ** 0.5
        for a in (found, own)
    )
    return missed / reach


@pytest.mark.parametrize("kind", WANTED, ids=lambda kind: kind.label)
def test_at_a_files_moment_it_is_off_by_what_is_expected_or_less(run, kind):
    found = polyak.synthesize(run.files, kind, steps=192, largest_error=1.0)
    error = found.manifest["synthesis"]["error"]
    assert off(found[kind.label], run.truth[192][kind.label], run.own[192]) < 2 * error + 1e-4


@pytest.mark.parametrize("step", [101, 150, 203])
def test_between_files_the_expected_error_is_the_real_one(run, step):
    kind = EMA(0.93, warmup=None)
    found = polyak.synthesize(run.files, kind, steps=step, largest_error=1.0)
    error = found.manifest["synthesis"]["error"]
    assert 0.01 < error < 0.2
    real = off(found[kind.label], run.truth[step][kind.label], run.own[step - step % EVERY])
    assert real == pytest.approx(error, rel=0.5)


def test_what_was_kept_comes_back(run):
    found = polyak.synthesize(run.files, 0.96, steps=120)
    kept = polyak.load(run.files[4])["ema_0.96"]
    for key, x in kept.items():
        torch.testing.assert_close(found["ema_0.96"][key], x, rtol=1e-5, atol=1e-6)


def test_without_a_moment_it_is_that_of_the_latest_file_in_any_order(run):
    shuffled = [run.files[n] for n in (9, 0, 5, 3, 1, 2, 4, 8, 7, 6)]
    found, other = (polyak.synthesize(files, 0.93) for files in (run.files, shuffled))
    assert found.manifest["steps"] == STEPS
    assert found.manifest["updates"] == STEPS // EVERY
    for key, x in found["ema_0.93"].items():
        torch.testing.assert_close(other["ema_0.93"][key], x)


def test_whole_numbers_are_those_of_the_latest_file_before_the_moment(run):
    found = polyak.synthesize(run.files, 0.99, steps=130, largest_error=1.0)
    assert found["ema_0.99"]["1.num_batches_tracked"].item() == 120


def test_the_result_says_what_it_is_and_is_saved_like_any_other(run, tmp_path):
    found = polyak.synthesize(run.files, EMA(0.93))
    polyak.save(found, tmp_path / "a.safetensors")
    read = polyak.load(tmp_path / "a.safetensors")
    assert read.manifest["averages"]["ema_0.93"]["decay"] == 0.93
    assert read.manifest["every"] == EVERY
    parts = read.manifest["synthesis"]["of"]
    assert len(parts) == len(SAVED) * len(KEPT)
    assert parts[0][:2] == ["24.safetensors", "ema_0.5"]
    assert sum(share for *_, share in parts) == pytest.approx(1)
    run.model.load_state_dict(read["ema_0.93"])
    with pytest.raises(FileError, match="is synthesised itself; expected averages that were kept"):
        polyak.synthesize([tmp_path / "a.safetensors"], 0.9)


def test_too_large_an_error_is_refused(run):
    with pytest.raises(ConfigError, match=r"expected error of 'window_3' at step 240 is 0\.\d+"):
        polyak.synthesize(run.files[-2:], Window(3))
    polyak.synthesize(run.files[-2:], Window(3), largest_error=1.0)


@pytest.mark.parametrize("steps", [-1, 241, True, 2.0])
def test_a_moment_outside_the_run_is_refused(run, steps):
    with pytest.raises(ConfigError, match="expected 0 to 240, the latest file's"):
        polyak.synthesize(run.files, 0.9, steps=steps)


def test_one_file_in_memory_at_a_time_is_each_read_once(run, monkeypatch):
    reads = []
    monkeypatch.setattr(
        "polyak.averaging.files.mixtures.stored.load",
        lambda path: reads.append(path) or polyak.load(path),
    )
    polyak.synthesize(run.files, 0.93)
    assert sorted(reads) == sorted(run.files)


def averager_after(steps, *, model=None, kinds=(0.9,), every=1, **settings):
    averager = Averager(model or nn.Linear(2, 2), list(kinds), every=every, **settings)
    for _ in range(steps):
        averager.step()
    return averager


def saved(averager, path):
    polyak.save(averager, path)
    return path


def test_files_that_do_not_say_what_they_are_made_of_are_refused(tmp_path):
    save_file({"w": torch.ones(2)}, tmp_path / "plain.safetensors")
    torch.save({"w": torch.ones(2)}, tmp_path / "plain.pt")
    polyak.save({"best": {"w": torch.ones(2)}}, tmp_path / "ours.safetensors")
    for name in ("plain.safetensors", "plain.pt", "ours.safetensors"):
        with pytest.raises(FileError, match="does not say what its averages are made of"):
            polyak.synthesize([tmp_path / name], 0.9)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_the_state_of_an_averager_in_a_checkpoint_is_as_good_as_a_file(tmp_path):
    torch.manual_seed(0)
    model = net()
    averager, files = Averager(model, [0.6, *EVERY_KIND], every=EVERY), []
    for step in range(1, 61):
        with torch.no_grad():
            for p in model.parameters():
                p += torch.randn(p.shape)
        averager.step()
        if step in (30, 60):
            files.append(tmp_path / f"{step}.safetensors")
            polyak.save(averager, files[-1])
            averager.refresh_batchnorm([torch.randn(8, 3)])
            inner = {"averager": averager.state_dict(), "model": model.state_dict()}
            torch.save({"trainer": inner}, tmp_path / f"{step}.pt")
            dcp.save(inner, checkpoint_id=tmp_path / f"{step}")
    expected = polyak.synthesize(files, 0.8, steps=50, largest_error=1.0)
    for like in ("{}.pt", "{}"):
        checkpoints = [tmp_path / like.format(step) for step in (30, 60)]
        found = polyak.synthesize(checkpoints, 0.8, steps=50, largest_error=1.0)
        for key, x in expected["ema_0.8"].items():
            torch.testing.assert_close(found["ema_0.8"][key], x)
        both = polyak.synthesize([*files, *checkpoints], 0.8, steps=50, largest_error=1.0)
        error, same, twice = (x.manifest["synthesis"]["error"] for x in (found, expected, both))
        assert error == pytest.approx(same)
        assert twice == pytest.approx(same, rel=0.05)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_a_checkpoint_of_several_averagers_or_none_is_named(tmp_path):
    model = nn.Linear(2, 2)
    states = {name: Averager(model, 0.9).state_dict() for name in ("slow", "fast")}
    torch.save(states, tmp_path / "both.pt")
    with pytest.raises(FileError, match=r"both\.pt holds the states of fast, slow"):
        polyak.synthesize([tmp_path / "both.pt"], 0.9)
    dcp.save({"model": model.state_dict()}, checkpoint_id=tmp_path / "none")
    with pytest.raises(FileError, match="none holds no averager's state; expected that of one"):
        polyak.synthesize(tmp_path / "none", 0.9)


@pytest.mark.parametrize(
    ("part", "altered", "said"),
    [
        ("history", {"every": 0}, "says every 0; expected counts"),
        ("history", {"updates": -1}, "says updates -1; expected counts"),
        ("averages", {"ema_0.9": {"kind": "ema", "speed": 3}}, "says of 'ema_0.9' what is no"),
        ("averages", {"ema_0.9": {"kind": "ema", "decay": "x"}}, "says of 'ema_0.9' what is no"),
    ],
)
def test_a_state_that_no_averager_has_is_named(tmp_path, part, altered, said):
    state = averager_after(9).state_dict()
    state[part] |= altered
    state["itself"] = state
    torch.save({"a": state, "b": {}}, tmp_path / "a.pt")
    with pytest.raises(FileError, match=rf"a\.pt {said}"):
        polyak.synthesize(tmp_path / "a.pt", 0.9)


def test_a_damaged_file_is_named(run, tmp_path):
    whole = run.files[0].read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FileError, match=r"cut\.safetensors is damaged"):
        polyak.synthesize([tmp_path / "cut.safetensors"], 0.9)


def test_other_networks_and_periods_are_refused(tmp_path):
    first = saved(averager_after(8), tmp_path / "a.safetensors")
    wider = saved(averager_after(9, model=nn.Linear(2, 3)), tmp_path / "b.safetensors")
    with pytest.raises(WeightMismatchError, match=r"differs from .*a\.safetensors in the"):
        polyak.synthesize([first, wider], 0.5, largest_error=9)
    slower = saved(averager_after(8, every=4), tmp_path / "c.safetensors")
    with pytest.raises(ConfigError, match="were updated every 1, 4 steps; expected one period"):
        polyak.synthesize([first, slower], 0.9)


def test_recomputed_statistics_are_refused(tmp_path):
    model = net()
    averager = averager_after(3, model=model)
    averager.refresh_batchnorm([torch.randn(8, 3)])
    path = saved(averager, tmp_path / "a.safetensors")
    with pytest.raises(StateError, match=r"recomputed BatchNorm statistics in 'ema_0\.9'"):
        polyak.synthesize([path], 0.9)
    averager.drop_refreshed()
    polyak.synthesize([saved(averager, path)], 0.9)


def test_skipped_updates_matter_only_where_steps_do(tmp_path):
    model = nn.Linear(2, 2)
    averager = averager_after(3, model=model, kinds=(EMA(0.9), EMA(0.5)))
    with torch.no_grad():
        model.bias.fill_(torch.nan)
    with pytest.warns(RuntimeWarning, match="hold NaN or infinity"):
        averager.step()
    path = saved(averager, tmp_path / "a.safetensors")
    assert polyak.synthesize([path], 0.9).manifest["updates"] == 3
    with pytest.raises(StateError, match="steps is 2, at which there is no file"):
        polyak.synthesize([path], 0.9, steps=2)
    with pytest.raises(StateError, match="the weights in 'uniform' depend on when they took place"):
        polyak.synthesize([path], Uniform(), largest_error=9)
    by_steps = averager_after(3, kinds=(PowerEMA(gamma=2.0),))
    by_steps.update()
    path = saved(by_steps, tmp_path / "b.safetensors")
    with pytest.raises(StateError, match="has 4 updates in 3 steps, 0 skipped; expected one every"):
        polyak.synthesize([path], 0.9)


def test_a_schedule_of_ones_own_is_left_out(tmp_path):
    own = Schedule(lambda update: 0.1, name="own")
    path = saved(averager_after(5, kinds=(own, EMA(0.9))), tmp_path / "a.safetensors")
    [part] = polyak.synthesize([path], 0.9).manifest["synthesis"]["of"]
    assert part[1] == "ema_0.9"
    path = saved(averager_after(5, kinds=(own,)), tmp_path / "b.safetensors")
    with pytest.raises(ConfigError, match="files hold no averages"):
        polyak.synthesize([path], 0.9)


def test_infinity_that_all_hold_is_taken_over(tmp_path):
    class Masked(nn.Linear):
        def __init__(self):
            super().__init__(2, 2)
            self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))

    averager = Averager(Masked(), [0.5, 0.9], nonfinite="allow")
    averager.step()
    path = saved(averager, tmp_path / "a.safetensors")
    assert torch.equal(polyak.synthesize([path], 0.9)["ema_0.9"]["mask"], averager.model.mask)
    averager.model.weight.data.fill_(torch.nan)
    averager.step()
    worse = saved(averager, tmp_path / "b.safetensors")
    with pytest.raises(NonFiniteError, match=r"b.safetensors holds values that are not finite"):
        polyak.synthesize([path, worse], 0.7, largest_error=9)


def test_tied_weights_stay_one(tmp_path):
    path = saved(averager_after(4, model=Tied(), kinds=(0.9, 0.5)), tmp_path / "a.safetensors")
    found = polyak.synthesize([path], 0.8, largest_error=9)["ema_0.8"]
    assert found["head.weight"] is found["embedding.weight"]


def test_half_precision_models_have_float32_averages_here_too(tmp_path):
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)).bfloat16()
    model[0].requires_grad_(False)
    path = saved(averager_after(6, model=model, kinds=(0.9, 0.5)), tmp_path / "a.safetensors")
    found = polyak.synthesize([path], 0.8, largest_error=9)
    assert found["ema_0.8"]["1.weight"].dtype == torch.float32
    assert torch.equal(found["ema_0.8"]["0.weight"], model[0].weight)


def test_files_that_say_they_are_of_two_runs_are_refused(tmp_path):
    files = []
    for seed in (1, 2):
        files.append(tmp_path / f"{seed}.safetensors")
        polyak.save(averager_after(10 * seed), files[-1], manifest={"seed": seed})
    with pytest.raises(StateError, match=r"2.safetensors is of seed 2, .* of seed 1; .* Leave it"):
        polyak.synthesize(files, 0.9)
