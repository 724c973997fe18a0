"""Averages of anybody's checkpoints: irregular steps, negative shares, and what is refused."""

from functools import partial

import pytest
import torch
import torch.distributed.checkpoint as dcp
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

import polyak
from polyak import Annealed, Averager, Uniform, profile
from polyak.averaging.files.on_disk.writing import write_shards
from polyak.averaging.nearest import nearest_mixture, nearest_snapshots
from polyak.errors import ConfigError, StateError, WeightMismatchError

DOUBTED = pytest.mark.filterwarnings("ignore:.*stands for a decay over:RuntimeWarning")

moments = st.lists(st.integers(1, 60), min_size=1, max_size=8, unique=True).map(sorted)


@given(at=moments, over=st.integers(1, 40), data=st.data())
def test_the_closed_form_is_the_least_squares_of_any_mixture(at, over, data):
    updates = data.draw(st.integers(1, at[-1]))
    rates = [1.0 + (i % 3) for i in range(60)]
    target = profile(Annealed("1-sqrt", over=over), updates=updates)
    raw = [tuple(float(i == m) for i in range(m + 1)) for m in at]
    found = nearest_snapshots(target, at, rates=rates)
    general = nearest_mixture(target, raw, rates=rates)
    assert sum(found.shares) == pytest.approx(1.0, abs=1e-12)
    assert found.error == pytest.approx(general.error, abs=1e-7)


def run(folder, at, *, steps=300):
    """Checkpoints of a walk, its weights at every step."""
    generator = torch.Generator().manual_seed(0)
    x, seen, files = torch.zeros(400), [torch.zeros(400, dtype=torch.float64)], []
    for step in range(1, steps + 1):
        x = x + torch.randn(400, generator=generator)
        seen.append(x.double())
        if step in at:
            files.append(folder / f"checkpoint-{step}.safetensors")
            save_file({"w": x, "count": torch.tensor(step)}, files[-1])
    return files, torch.stack(seen)


@DOUBTED
@pytest.mark.parametrize("shape", ["linear", "1-sqrt", "cosine"])
def test_at_irregular_steps_it_is_off_by_what_is_expected(tmp_path, shape):
    at = [101, 130, 133, 150, 171, 188, 207, 214, 233, 250, 262, 281, 300]
    files, seen = run(tmp_path, at)
    kind = Annealed(shape, over=180)
    mixed = list(reversed(files)), list(reversed(at))
    found = polyak.synthesize(mixed[0], kind, at=mixed[1], largest_error=0.2)
    shares = torch.tensor(profile(kind, updates=300), dtype=torch.float64)
    truth = shares @ seen
    off = (found[kind.label]["w"].double() - truth).norm() / (truth - seen[-1]).norm()
    error = found.manifest["synthesis"]["error"]
    assert 0.5 * error < float(off) < 1.5 * error
    assert found[kind.label]["count"] == 300
    assert found.manifest["averages"][kind.label]["kind"] == "annealed"


def test_where_every_wanted_weight_is_there_it_is_the_written_out_sum(tmp_path):
    at = list(range(281, 301))
    files, seen = run(tmp_path, at)
    for kind in (Annealed("1-sqrt", over=20), Uniform(start=285)):
        found = polyak.synthesize(files, kind, at=at)
        wanted = torch.tensor(profile(kind, updates=300), dtype=torch.float64) @ seen
        assert found.manifest["synthesis"]["error"] < 1e-12
        torch.testing.assert_close(found[kind.label]["w"].double(), wanted, atol=1e-5, rtol=1e-6)


@DOUBTED
@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_checkpoints_in_folders_are_read_as_those_in_files(tmp_path):
    files, _ = run(tmp_path, at := [100, 150, 210, 300])
    wanted = polyak.synthesize(files, Uniform(start=100), at=at, largest_error=1.0)
    folders = []
    for path in files:
        state = load_file(path)
        folders.append(tmp_path / f"{path.stem}-folder")
        if len(folders) % 2:
            dcp.save({"model": state}, checkpoint_id=folders[-1], no_dist=True)
        else:
            read = partial(map, lambda key, state=state: (key, state[key]))
            write_shards(folders[-1], state, read, {"format": "pt"}, most=1000)
    found = polyak.synthesize(folders, Uniform(start=100), at=at, largest_error=1.0)
    [[x], [y]] = [[state["w"] for state in each.values()] for each in (found, wanted)]
    assert torch.equal(x, y)


def test_a_moment_before_the_last_checkpoint_can_be_asked_for(tmp_path):
    at = list(range(200, 301, 5))
    files, _ = run(tmp_path, at)
    found = polyak.synthesize(files, Annealed("linear", over=55), at=at, steps=290)
    assert found.manifest["steps"] == 290
    assert found["annealed_linear_55"]["count"] == 290


def test_too_few_for_the_width_asked_for_are_refused(tmp_path):
    files, _ = run(tmp_path, [100, 200, 300])
    with pytest.raises(ConfigError, match=r"expected error of 'annealed_linear_50' at step 300 is"):
        polyak.synthesize(files, Annealed("linear", over=50), at=[100, 200, 300])


@pytest.mark.parametrize(
    ("at", "said"),
    [
        ([100, 200], r"at is \[100, 200\] for 3 files; expected the optimizer step of each"),
        ([100, 200, 200], "none twice"),
        ([100, 200, 0], "whole numbers >= 1"),
        ([100, 200, 250.0], "whole numbers >= 1"),
    ],
)
def test_steps_that_fit_no_files_are_named(tmp_path, at, said):
    files, _ = run(tmp_path, [100, 200, 300])
    with pytest.raises(ConfigError, match=said):
        polyak.synthesize(files, Annealed("linear", over=50), at=at)


@DOUBTED
def test_averages_checkpoints_of_other_runs_and_other_networks_are_refused(tmp_path):
    files, _ = run(tmp_path, [100, 200, 300])
    kind, settings = Annealed("linear", over=200), {"at": [100, 200], "largest_error": 9.0}
    averager = Averager(nn.Linear(2, 2), 0.9)
    averager.step()
    polyak.save(averager, tmp_path / "averages.safetensors")
    with pytest.raises(StateError, match=r"holds an average, 'ema_0.9'; expected raw weights"):
        polyak.synthesize([tmp_path / "averages.safetensors", files[1]], kind, **settings)
    save_file({"w": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightMismatchError, match="expected files of one network"):
        polyak.synthesize([files[0], tmp_path / "other.safetensors"], kind, **settings)
    for name, origin in (("a", 1), ("b", 2)):
        weights = {"w": {"w": torch.zeros(400)}}
        polyak.save(weights, tmp_path / f"{name}.safetensors", manifest={"seed": origin})
    two = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    with pytest.raises(StateError, match=r"is of seed 2, .*a.safetensors of seed 1; expected"):
        polyak.synthesize(two, kind, **settings)


@DOUBTED
def test_a_checkpoint_that_says_another_step_is_refused(tmp_path):
    content = {"pytorch-lightning_version": "2", "state_dict": {"w": torch.ones(2)}}
    for step in (10, 20):
        torch.save({**content, "global_step": step, "epoch": 1}, tmp_path / f"{step}.ckpt")
    files = [tmp_path / "10.ckpt", tmp_path / "20.ckpt"]
    kind = Annealed("linear", over=20)
    polyak.synthesize(files, kind, at=[10, 20], largest_error=9.0)
    with pytest.raises(StateError, match=r"says that it is of step 10; expected 15, as at says"):
        polyak.synthesize(files, kind, at=[15, 20], largest_error=9.0)


def test_shares_by_name_need_averages_and_a_period_needs_checkpoints(tmp_path):
    files, _ = run(tmp_path, [100, 200, 300])
    with pytest.raises(ConfigError, match="expected a kind, such as Annealed"):
        polyak.synthesize(files, {"a": 1}, at=[100, 200, 300])
    with pytest.raises(ConfigError, match="every is 2; expected None without at"):
        polyak.synthesize(files, Uniform(), every=2)


def test_a_decay_that_is_long_beside_the_run_is_warned_of(tmp_path):
    at = list(range(100, 301, 5))
    files, _ = run(tmp_path, at)
    with pytest.warns(RuntimeWarning, match="stands for a decay over 100 of 300 steps; expected"):
        polyak.synthesize(files, Annealed("linear", over=100), at=at)
