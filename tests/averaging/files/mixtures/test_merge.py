import weakref
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

import polyak
from polyak.averaging.files.export import open_named
from polyak.averaging.files.mixtures.merge import merge
from polyak.errors import ConfigError, NonFiniteError, StateError, WeightMismatchError


def files_of(folder, values, dtype=torch.float32):
    """One file for each list of values."""
    paths = [folder / f"{i}.safetensors" for i in range(len(values))]
    for path, each in zip(paths, values, strict=True):
        save_file({"w": torch.tensor(each, dtype=dtype)}, path)
    return paths


def network(seed):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    model(torch.randn(8, 3))
    return model


@given(
    values=st.lists(
        st.lists(st.floats(-100, 100, width=32), min_size=3, max_size=3), min_size=2, max_size=6
    ),
    data=st.data(),
)
def test_a_merge_is_the_exact_weighted_mean_within_float32(tmp_path_factory, values, data):
    n = len(values)
    shares = data.draw(st.lists(st.integers(1, 50), min_size=n, max_size=n))
    state, _ = merge(files_of(tmp_path_factory.mktemp("f"), values), shares=shares)
    for i, got in enumerate(state["w"].tolist()):
        exact = sum(Fraction(v[i]) * a for v, a in zip(values, shares, strict=True)) / sum(shares)
        assert got == pytest.approx(float(exact), abs=1e-4)


def test_equal_shares_agree_with_torchs_own_average(tmp_path):
    models = [network(seed) for seed in range(4)]
    averaged = AveragedModel(models[0], use_buffers=False)
    paths = []
    for i, model in enumerate(models):
        averaged.update_parameters(model)
        paths.append(tmp_path / f"{i}.pt")
        torch.save(model.state_dict(), paths[-1])
    state, _ = merge(paths)
    for key, expected in averaged.module.named_parameters():
        torch.testing.assert_close(state[key], expected.detach())


def test_statistics_are_means_and_counters_the_last_files(tmp_path):
    models = [network(seed) for seed in range(2)]
    models[1](torch.randn(8, 3))
    paths = [tmp_path / f"{i}.pt" for i in range(2)]
    for model, path in zip(models, paths, strict=True):
        torch.save(model.state_dict(), path)
    state, _ = merge(paths)
    both = [model[1].running_mean for model in models]
    torch.testing.assert_close(state["1.running_mean"], (both[0] + both[1]) / 2)
    assert state["1.num_batches_tracked"].item() == 2


def test_half_precision_is_summed_in_float32_and_comes_back_as_it_was(tmp_path):
    # In bfloat16 itself 1 + 1/256 is 1, and so would be the mean of many.
    paths = files_of(tmp_path, [[1.0]] + [[1.0078125]] * 15, dtype=torch.bfloat16)
    state, _ = merge(paths)
    assert state["w"].dtype == torch.bfloat16
    assert state["w"].item() == torch.tensor(1 + 15 / 16 * 0.0078125, dtype=torch.bfloat16).item()


def test_float64_stays_exact_to_its_own_precision(tmp_path):
    state, _ = merge(files_of(tmp_path, [[1.0], [1.0 + 2**-40]], dtype=torch.float64))
    assert state["w"].item() == 1.0 + 2**-41


def test_the_first_file_is_not_changed_by_the_second(tmp_path):
    paths = files_of(tmp_path, [[1.0], [3.0]])
    before = paths[0].read_bytes()
    state, _ = merge(paths)
    assert state["w"].item() == 2.0
    assert paths[0].read_bytes() == before


def test_pickled_files_are_read_one_after_another_and_only_one_is_in_memory(tmp_path, monkeypatch):
    seen, alive = [], []

    def opened(path, name):
        # What was read before is gone by now.
        assert not any(tensor() is not None for tensor in alive)
        found = open_named(path, name)
        seen.append(path)
        alive.extend(weakref.ref(x) for x in found[1].values())
        return found

    monkeypatch.setattr("polyak.averaging.files.mixtures.merge.open_named", opened)
    paths = [tmp_path / f"{i}.pt" for i in range(3)]
    for i, path in enumerate(paths):
        torch.save({"w": torch.full((2, 3), float(i)), "b": torch.zeros(2)}, path)
    state, _ = merge(paths)
    assert torch.equal(state["w"], torch.ones(2, 3))
    assert seen == paths * 2  # for names and shapes, and for values


def test_averages_of_several_runs_are_merged_by_name(tmp_path):
    paths = []
    for seed in range(3):
        averager = polyak.Averager(network(seed), [0.5, 0.9])
        paths.append(tmp_path / f"{seed}.safetensors")
        polyak.save(averager, paths[-1])
    state, about = merge(paths, name="ema_0.9")
    expected = torch.stack([network(seed)[0].weight for seed in range(3)]).mean(dim=0)
    torch.testing.assert_close(state["0.weight"], expected.detach())
    assert about["averages"]["merged"]["of"] == [path.name for path in paths]
    with pytest.raises(ConfigError, match=r"holds ema_0.5, ema_0.9; expected weights of one name"):
        merge(paths)


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"v": torch.ones(2)}, "differs from .*0.safetensors in the names of 'v', 'w'"),
        ({"w": torch.ones(3)}, "differs from .*0.safetensors in the shapes of 'w'"),
    ],
)
def test_files_of_another_network_are_named(tmp_path, tensors, said):
    paths = files_of(tmp_path, [[1.0, 2.0]])
    save_file(tensors, tmp_path / "other")
    with pytest.raises(WeightMismatchError, match=said):
        merge([*paths, tmp_path / "other"])


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (torch.float32, torch.int64),
        (torch.int64, torch.float32),
        (torch.float32, torch.complex64),
        (torch.complex64, torch.float32),
        (torch.bool, torch.float32),
    ],
)
def test_numbers_of_another_kind_are_refused_rather_than_converted(tmp_path, first, second):
    paths = [tmp_path / "0", tmp_path / "1"]
    for path, dtype in zip(paths, (first, second), strict=True):
        torch.save({"w": torch.ones(2, dtype=dtype)}, path)
    with pytest.raises(WeightMismatchError, match=r"differs from .* the kinds of number of 'w'"):
        merge(paths)


def test_another_width_of_the_same_kind_is_merged(tmp_path):
    wide, narrow = tmp_path / "0", tmp_path / "1"
    save_file({"w": torch.tensor([1.0])}, wide)
    save_file({"w": torch.tensor([2.0], dtype=torch.float16)}, narrow)
    assert merge([wide, narrow])[0]["w"].item() == 1.5
    assert merge([narrow, wide])[0]["w"].dtype == torch.float16


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("place", [0, 1])
def test_a_diverged_file_is_named(tmp_path, bad, place):
    values = [[1.0], [2.0]]
    values[place] = [bad]
    with pytest.raises(NonFiniteError, match=rf"{place}.safetensors holds .* not finite in 'w'"):
        merge(files_of(tmp_path, values))


def masked(fill):
    model = nn.Linear(1, 1)
    model.register_buffer("mask", torch.tensor([0.0, fill]))
    return model


def test_a_mask_that_all_files_hold_alike_is_taken_over(tmp_path):
    paths = [tmp_path / str(i) for i in range(3)]
    models = [masked(float("-inf")) for _ in paths]
    for model, path in zip(models, paths, strict=True):
        polyak.save(polyak.Averager(model, [0.9]), path)
    state, _ = merge(paths)
    assert state["mask"].tolist() == [0.0, float("-inf")]
    torch.testing.assert_close(
        state["weight"], torch.stack([model.weight.detach() for model in models]).mean(0)
    )


@pytest.mark.parametrize(
    ("fills", "named"),
    [
        ((float("-inf"), float("inf")), 1),
        ((float("-inf"), 0.0), 0),
        ((float("-inf"), float("-inf"), 1.0), 0),
        ((float("nan"), float("nan")), 0),
    ],
    ids=str,
)
def test_infinity_that_files_do_not_share_and_nan_are_refused(tmp_path, fills, named):
    paths = [tmp_path / f"{i}.pt" for i in range(len(fills))]
    for fill, path in zip(fills, paths, strict=True):
        torch.save(masked(fill).state_dict(), path)
    with pytest.raises(NonFiniteError, match=rf"{named}.pt holds .* not finite in 'mask'"):
        merge(paths)


@pytest.mark.parametrize("shares", [[1.0], [1.0, 0.0], [1.0, -1.0], [1.0, float("inf")]])
def test_shares_that_do_not_fit_are_refused(tmp_path, shares):
    with pytest.raises(ConfigError, match=r"shares is .* for 2 files"):
        merge(files_of(tmp_path, [[1.0], [2.0]]), shares=shares)


def test_one_file_is_no_mean(tmp_path):
    with pytest.raises(ConfigError, match=r"files has 1; expected at least two"):
        merge(files_of(tmp_path, [[1.0]]))


def file_of(path, **about):
    polyak.save({"average": network(0).state_dict()}, path, manifest=about)
    return path


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ({"run": "a"}, {"run": "b"}, "1 is of run b, .*0 of run a"),
        ({"run": "a", "seed": 0}, {"run": "a", "seed": 1}, "1 is of seed 1, .*0 of seed 0"),
        ({"seed": 0}, {"run": "b", "seed": 1}, "of seed 1, .* of seed 0"),
        ({"run": ["a", "b"]}, {"run": "a"}, "of run a, .* of run a, b"),
    ],
)
def test_files_of_other_runs_or_seeds_are_merged_only_if_told_so(tmp_path, first, second, said):
    paths = [file_of(tmp_path / "0", **first), file_of(tmp_path / "1", **second)]
    with pytest.raises(StateError, match=f"{said}; expected files of one run.*across_runs=True"):
        merge(paths)
    state, about = merge(paths, across_runs=True)
    torch.testing.assert_close(state["0.weight"], network(0)[0].weight.detach())
    assert about["averages"]["merged"]["of"] == ["0", "1"]


def test_the_third_file_is_compared_with_each_before_it(tmp_path):
    """The first says nothing, as files of other tools do."""
    paths = [file_of(tmp_path / "0"), file_of(tmp_path / "1", run="a")]
    assert merge(paths)[1]["run"] == "a"
    paths.append(file_of(tmp_path / "2", run="b"))
    with pytest.raises(StateError, match=r"2 is of run b, .*1 of run a"):
        merge(paths)


def test_a_mean_says_of_which_runs_it_is(tmp_path):
    origins = [{"run": "a", "seed": 3}, {"run": "b", "seed": 3}]
    paths = [file_of(tmp_path / str(i), **about) for i, about in enumerate(origins)]
    about = merge(paths, across_runs=True)[1]
    assert (about["run"], about["seed"]) == (["a", "b"], 3)
    assert "run" not in merge([file_of(tmp_path / "2"), file_of(tmp_path / "3")])[1]


@given(
    values=st.lists(
        st.lists(st.floats(-100, 100, width=32), min_size=2, max_size=2), min_size=2, max_size=6
    ),
    data=st.data(),
)
def test_negative_shares_are_the_exact_sum_within_float32(tmp_path_factory, values, data):
    n = len(values)
    drawn = data.draw(st.lists(st.integers(-40, 40), min_size=n - 1, max_size=n - 1))
    shares = [x / 10 for x in drawn]
    shares.append(1 - sum(shares))
    files = files_of(tmp_path_factory.mktemp("f"), values)
    state, about = merge(files, shares=shares, extrapolate=True)
    for i, got in enumerate(state["w"].tolist()):
        exact = sum(Fraction(v[i]) * Fraction(a) for v, a in zip(values, shares, strict=True))
        assert got == pytest.approx(float(exact), abs=5e-2, rel=1e-4)
    record = about["averages"]["merged"]
    said = dict(zip(record["of"], record["shares"], strict=True))
    assert said == {path.name: a for path, a in zip(files, shares, strict=True)}


def test_extra_merge_goes_on_along_the_line_of_merges(tmp_path):
    paths = files_of(tmp_path, [[3.0, 1.0], [1.0, 2.0]])
    state, _ = merge(paths, shares=[1.5, -0.5], extrapolate=True)
    assert state["w"].tolist() == [4.0, 0.5]


@pytest.mark.parametrize(
    ("shares", "extrapolate", "said"),
    [
        ([2.0, -1.0], False, r"ask for them with --extrapolate"),
        ([2.0, -0.9], True, r"which sum to 1.1; expected a sum of 1"),
        ([2.0], True, r"for 2 files; expected one finite number > 0 for each"),
        ([float("inf"), 1.0], True, "expected finite numbers that sum to 1"),
    ],
)
def test_shares_beyond_the_files_are_asked_for_and_sum_to_one(tmp_path, shares, extrapolate, said):
    with pytest.raises(ConfigError, match=said):
        merge(files_of(tmp_path, [[1.0], [2.0]]), shares=shares, extrapolate=extrapolate)


def test_a_variance_that_would_be_negative_is_refused_and_may_be_the_last_files(tmp_path):
    paths = [tmp_path / f"{i}.safetensors" for i in range(2)]
    for path, variance in zip(paths, (0.1, 1.0), strict=True):
        save_file({"1.running_var": torch.tensor([variance]), "n": torch.tensor([3])}, path)
    with pytest.raises(ConfigError, match=r"'1.running_var' would be negative .*statistics='last'"):
        merge(paths, shares=[2.0, -1.0], extrapolate=True)
    state, _ = merge(paths, shares=[2.0, -1.0], extrapolate=True, statistics="last")
    assert state["1.running_var"].item() == 1.0


def test_a_first_file_without_a_share_is_no_division_by_zero(tmp_path):
    paths = files_of(tmp_path, [[5.0], [1.0], [3.0]])
    state, about = merge(paths, shares=[0.0, 2.0, -1.0], extrapolate=True)
    assert state["w"].item() == -1.0
    assert about["averages"]["merged"]["shares"] == [2.0, 0.0, -1.0]
