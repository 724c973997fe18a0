"""polyak merge: the mean of the weights in several files."""

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import polyak


@pytest.fixture
def soups(tmp_path):
    """Three plain state dicts of one network, with BatchNorm."""
    paths = []
    for seed in range(3):
        torch.manual_seed(seed)
        paths.append(tmp_path / f"{seed}.pt")
        torch.save(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).state_dict(), paths[-1])
    return paths


def test_a_merge_is_a_plain_state_dict_that_says_what_it_is(soups, tmp_path, told):
    out = tmp_path / "soup.safetensors"
    said = told("merge", *soups, "--out", out)
    assert f"merged of 3 files -> {out}" in said
    assert "refresh_batchnorm before use" in said
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    model.load_state_dict(load_file(out))
    states = [torch.load(path) for path in soups]
    torch.testing.assert_close(
        model[0].weight.detach(), torch.stack([s["0.weight"] for s in states]).mean(dim=0)
    )
    shown = told("inspect", out)
    assert "merged: averaged" in shown
    assert "mean, of ['0.pt', '1.pt', '2.pt']" in shown
    assert "BatchNorm statistics not fresh: averaged" in shown


def test_shares_weigh_the_files(soups, tmp_path, told):
    out = tmp_path / "soup.safetensors"
    told("merge", soups[0], soups[1], "--out", out, "--shares", 3, 1)
    a, b = (torch.load(path)["0.weight"] for path in soups[:2])
    torch.testing.assert_close(load_file(out)["0.weight"], 0.75 * a + 0.25 * b)


def test_one_average_of_each_of_several_files_is_merged(tmp_path, told, refused):
    paths = [tmp_path / f"{i}.safetensors" for i in range(2)]
    for path in paths:
        polyak.save(polyak.Averager(nn.Linear(2, 2), [0.5, 0.9]), path)
    out = tmp_path / "soup.safetensors"
    said = refused("merge", *paths, "--out", out)
    assert "holds ema_0.5, ema_0.9; expected weights of one name" in said
    assert not out.exists()
    told("merge", *paths, "--out", out, "--name", "ema_0.9")
    assert set(load_file(out)) == {"weight", "bias"}


def test_files_of_two_runs_are_merged_only_if_told_so(tmp_path, told, refused):
    paths = [tmp_path / f"{i}.safetensors" for i in range(2)]
    for run, path in zip("ab", paths, strict=True):
        polyak.save({"ema": nn.Linear(2, 2).state_dict()}, path, manifest={"run": run})
    out = tmp_path / "soup.safetensors"
    said = refused("merge", *paths, "--out", out)
    assert "is of run b" in said
    assert "--across-runs" in said
    assert not out.exists()
    told("merge", *paths, "--out", out, "--across-runs")
    assert set(load_file(out)) == {"weight", "bias"}


@pytest.mark.parametrize("place", [0, 2])
def test_no_file_that_is_merged_is_written_over(soups, refused, place):
    before = soups[place].read_bytes()
    assert "expected another file" in refused("merge", *soups, "--out", soups[place])
    assert soups[place].read_bytes() == before


def test_a_file_of_another_network_leaves_the_last_merge_in_place(soups, tmp_path, told, refused):
    out = tmp_path / "soup.safetensors"
    told("merge", *soups, "--out", out)
    before = out.read_bytes()
    torch.save(nn.Linear(3, 4).state_dict(), soups[1])
    assert "differs from" in refused("merge", *soups, "--out", out)
    assert out.read_bytes() == before


def test_a_dtype_that_the_format_lacks_is_refused_by_name(tmp_path, refused):
    paths = [tmp_path / "0.pt", tmp_path / "1.pt"]
    for path in paths:
        torch.save({"w": torch.ones(2, dtype=torch.complex128)}, path)
    out = tmp_path / "soup.safetensors"
    assert "the dtype of 'w' is complex128" in refused("merge", *paths, "--out", out)
    assert not out.exists()


@pytest.mark.parametrize("name", ["soup.pt", "soup.onnx"])
def test_the_ending_says_what_is_written_or_is_refused(soups, tmp_path, refused, name):
    assert "safetensors" in refused("merge", *soups, "--out", tmp_path / name)
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize("options", [["--shard-size", "100B"], ["--distributed"]])
def test_a_folder_is_written_where_one_is_asked_for(soups, tmp_path, told, options):
    told("merge", *soups, "--out", tmp_path / "file.safetensors")
    told("merge", *soups, "--out", tmp_path / "folder", *options)
    [found] = polyak.read_foreign(tmp_path / "folder").values()
    wanted = load_file(tmp_path / "file.safetensors")
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[key], x) for key, x in wanted.items())
    assert "parameters" in told("inspect", tmp_path / "folder")


def test_shards_say_what_they_are_the_mean_of(soups, tmp_path, told):
    told("merge", *soups, "--out", tmp_path / "folder", "--shard-size", "100B")
    assert "merged: averaged\n  mean, of ['0.pt'" in told("inspect", tmp_path / "folder")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--shard-size", "much"], "shard-size is 'much'; expected bytes, such as"),
        (["--shard-size", "0GB"], "shard-size is '0GB'; expected bytes"),
        (["--shard-size", "1GB", "--distributed"], "expected one of them"),
    ],
)
def test_a_folder_that_cannot_be_meant_is_refused(soups, tmp_path, refused, options, said):
    assert said in refused("merge", *soups, "--out", tmp_path / "out", *options)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_exists_is_left_alone(soups, tmp_path, refused):
    said = refused("merge", *soups, "--out", tmp_path, "--distributed")
    assert "exists; expected a new folder" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.pt", "1.pt", "2.pt"]
