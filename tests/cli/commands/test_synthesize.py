"""polyak synthesize: an average decided on afterwards."""

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import polyak

# The banks that are saved here are young: some of their averages are equal, which is said.
pytestmark = pytest.mark.filterwarnings("ignore:.*equal so far:RuntimeWarning")


@pytest.fixture
def kept(tmp_path):
    """Three files of one run of a network with BatchNorm."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    averager = polyak.Averager(model, [0.5, 0.8, 0.9, 0.95], every=2)
    paths = []
    for step in range(1, 61):
        with torch.no_grad():
            model[0].weight += 0.1 * torch.randn(4, 3)
        averager.step()
        if step % 20 == 0:
            paths.append(tmp_path / f"{step}.safetensors")
            polyak.save(averager, paths[-1])
    return paths


def test_it_is_what_the_library_makes_and_says_what_it_is(kept, tmp_path, told):
    out = tmp_path / "later.safetensors"
    said = told("synthesize", *kept, "--decay", 0.7, "--out", out, "--steps", 40)
    assert "ema_0.7 at step 40 of 3 files, expected error 0." in said
    assert "refresh_batchnorm before use" in said
    expected = polyak.synthesize(kept, 0.7, steps=40)["ema_0.7"]
    found = load_file(out)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], x) for key, x in expected.items())
    shown = told("inspect", out)
    assert "ema_0.7: averaged" in shown
    assert "from 12 averages that were kept, expected error 0." in shown
    assert "decay 0.7" in shown


@pytest.mark.parametrize(
    ("option", "name"),
    [
        (("--sigma-rel", 0.2), "power_0.2"),
        (("--uniform-from", 20), "uniform_from_20"),
        (("--annealed", "1-sqrt", "--over", 10), "annealed_1-sqrt_10"),
        (("--lag-free", 20), "lag_free_20"),
    ],
)
def test_other_kinds_of_averages_are_named_by_their_setting(kept, tmp_path, told, option, name):
    out = tmp_path / "later.safetensors"
    said = told("synthesize", *kept, *option, "--out", out, "--largest-error", 1)
    assert said.startswith(f"{name} at step 60")


@pytest.mark.parametrize("options", [(), ("--decay", 0.7, "--sigma-rel", 0.1)])
def test_one_average_has_to_be_named(kept, tmp_path, refused, options):
    said = refused("synthesize", *kept, "--out", tmp_path / "later.safetensors", *options)
    assert "are given; expected exactly one. Say which average" in said
    assert "of decay, sigma-rel, uniform-from, annealed, lag-free and shares" in said


def test_no_file_that_is_read_is_written_over(kept, refused):
    before = kept[1].read_bytes()
    refused("synthesize", *kept, "--decay", 0.7, "--out", kept[1])
    assert kept[1].read_bytes() == before


def test_too_large_an_error_writes_nothing(kept, tmp_path, refused):
    out = tmp_path / "later.safetensors"
    said = refused("synthesize", *kept[:1], "--decay", 0.2, "--out", out)
    assert "expected at most 0.05" in said
    assert not out.exists()


def test_an_ending_of_another_format_is_refused(kept, tmp_path, refused):
    out = tmp_path / "later.pt"
    said = refused("synthesize", *kept, "--decay", 0.7, "--out", out)
    assert "what is written is safetensors" in said
    assert not out.exists()


@pytest.mark.filterwarnings("ignore:.*was asked for:RuntimeWarning")
def test_a_folder_of_another_tool_is_read_with_the_widths_that_it_has(tmp_path, told, refused):
    theirs, out = tmp_path / "theirs", tmp_path / "later.safetensors"
    theirs.mkdir()
    generator = torch.Generator().manual_seed(0)
    for step in range(50, 401, 50):
        for number in range(2):
            state = {"ema_model.weight": torch.randn(3, generator=generator)}
            torch.save(state, theirs / f"{number}.{step}.pt")
    words = ["synthesize", theirs, "--sigma-rel", 0.25, "--largest-error", 0.5, "--out", out]
    given = [*words, "--update-every", 10, "--kept-sigma-rels", 0.05, 0.28]
    said = told(*given)
    assert "of 16 files" in said
    assert "kept as sigma_rel: 0.05 is 0.24, 0.28 is 0.21" in said
    expected = polyak.synthesize_post_hoc(
        theirs,
        polyak.PowerEMA(sigma_rel=0.25),
        every=10,
        sigma_rels=(0.05, 0.28),
        largest_error=0.5,
    )
    assert torch.equal(load_file(out)["weight"], expected["power_0.25"]["weight"])
    out.unlink()
    assert "update-every is not given; expected what PostHocEMA was given" in refused(*words)
    ours = ["synthesize", tmp_path / "a.safetensors", "--decay", 0.9, "--out", out]
    assert "update-every is not given" in refused(*ours, "--kept-gammas", 3)
    assert "without at and shares" in refused(*given, "--at", 10)
    assert "does not say its width" in refused(*words, "--update-every", 10)
    assert not out.exists()
