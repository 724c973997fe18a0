"""Averages of other tools' post-hoc EMAs have the width that they really have."""

import copy
from itertools import accumulate

import pytest
import torch
from torch import nn

import polyak
from polyak import EMA, PowerEMA
from polyak.averaging.files.mixtures.post_hoc import kept_profile, real_sigma_rel
from polyak.errors import ConfigError, FileError

STEPS, EVERY = 400, 10


class Theirs:
    """What both packages do, written out: KarrasEMA and when PostHocEMA updates and saves it."""

    def __init__(self, model, sigma, every):
        self.gamma, self.every, self.calls, self.ema = PowerEMA(sigma).exponent, every, 0, None
        self.model, self.sigma = model, sigma

    def update(self):
        before, self.calls = self.calls, self.calls + 1
        if before % self.every:
            return
        if self.ema is None:
            self.ema = copy.deepcopy(self.model)
        beta = (1.0 - 1.0 / (self.calls + 1.0)) ** (1.0 + self.gamma)
        for m, x in zip(self.ema.parameters(), self.model.parameters(), strict=True):
            m.data.lerp_(x.data, 1.0 - beta)

    def saved(self, path, *, says, dtype=torch.float32):
        state = {f"ema_model.{key}": x.to(dtype) for key, x in self.ema.state_dict().items()}
        state |= {"initted": torch.tensor(1.0), "step": torch.tensor(float(self.calls))}
        torch.save(state | ({"sigma_rel": self.sigma} if says else {}), path)


@pytest.fixture(scope="module", params=[(True, torch.float32), (False, torch.float16)])
def run(request, tmp_path_factory):
    """A folder of theirs, and all weights at their updates."""
    says, dtype = request.param
    folder, model = tmp_path_factory.mktemp("theirs"), nn.Linear(4, 3)
    both = [Theirs(model, sigma, EVERY) for sigma in (0.05, 0.28)]
    generator, seen = torch.Generator().manual_seed(0), []
    with torch.no_grad():
        for step in range(1, STEPS + 1):
            for p in model.parameters():
                p += 0.05 * torch.randn(p.shape, generator=generator)
            if (step - 1) % EVERY == 0:
                seen.append(model.weight.detach().double().clone())
            for number, average in enumerate(both):
                average.update()
                if step % 25 == 0:
                    average.saved(folder / f"{number}.{step}.pt", says=says, dtype=dtype)
    widths = {} if says else {"sigma_rels": (0.05, 0.28)}
    return folder, torch.stack(seen), widths


def test_the_shares_are_those_of_their_recurrence(run):
    folder, seen, _ = run
    for number, sigma in enumerate((0.05, 0.28)):
        shares = kept_profile(PowerEMA(sigma).exponent, steps=STEPS, every=EVERY)
        stored = torch.load(folder / f"{number}.{STEPS}.pt", weights_only=True)
        wanted = torch.einsum("j,jab->ab", torch.tensor(shares[1:], dtype=torch.float64), seen)
        assert sum(shares) == pytest.approx(1.0)
        atol = 1e-5 if stored["ema_model.weight"].dtype is torch.float32 else 2e-3
        assert torch.allclose(stored["ema_model.weight"].double(), wanted, atol=atol)


@pytest.mark.parametrize(("every", "real"), [(1, 0.05), (10, 0.246), (100, 0.243)])
def test_a_width_of_a_twentieth_is_a_quarter_at_a_period_of_ten(every, real):
    shares = kept_profile(PowerEMA(0.05).exponent, steps=20_000, every=every)
    assert real_sigma_rel(shares, steps=20_000, every=every) == pytest.approx(real, abs=0.005)


@pytest.mark.parametrize("kind", [PowerEMA(sigma_rel=0.2), EMA(0.8, warmup=None)])
@pytest.mark.filterwarnings("ignore:.*was asked for:RuntimeWarning")
def test_what_is_made_of_them_is_the_average_that_was_wanted(run, kind):
    folder, seen, widths = run
    found = polyak.synthesize_post_hoc(folder, kind, every=EVERY, **widths, largest_error=1.0)
    weights = [1.0] + [
        kind.weight(polyak.Update(j, 1 + j * EVERY, EVERY if j else 1), j) for j in range(len(seen))
    ]
    left = list(accumulate(reversed(weights), lambda a, w: a * (1 - w), initial=1.0))
    shares = [w * a for w, a in zip(reversed(weights), left, strict=False)][::-1][1:]
    truth = torch.einsum("j,jab->ab", torch.tensor(shares, dtype=torch.float64), seen)
    state = found[kind.label]
    off = (state["weight"].double() - truth).norm() / (truth - seen[-1]).norm()
    assert float(off) < 2 * found.manifest["synthesis"]["error"] + 1e-3
    assert state["weight"].dtype is torch.float32


def test_the_width_that_is_there_is_said(run):
    folder, _, widths = run
    with pytest.warns(RuntimeWarning, match=r"was asked for sigma_rel 0.05, is 0.2\d"):
        found = polyak.synthesize_post_hoc(
            folder, PowerEMA(sigma_rel=0.25), every=EVERY, **widths, largest_error=0.3
        )
    last = found.manifest["kept"][-2]
    assert last["file"] == "0.400.pt"
    assert last["sigma_rel"] == pytest.approx(0.05)
    assert 0.2 < last["really"] < 0.3


def test_what_is_missing_is_named(run, tmp_path):
    folder, _, widths = run
    with pytest.raises(FileError, match=r"holds no <number>.<step>.pt"):
        polyak.synthesize_post_hoc(tmp_path, 0.9, every=10)
    with pytest.raises(ConfigError, match=r"every is 0; expected its update_every"):
        polyak.synthesize_post_hoc(folder, 0.9, every=0)
    with pytest.raises(ConfigError, match=r"steps is 401; expected 1 to 400"):
        polyak.synthesize_post_hoc(folder, 0.9, every=10, steps=401, **widths)
    with pytest.raises(ConfigError, match=r"is of average 1, and 1 widths are given"):
        polyak.synthesize_post_hoc(folder, 0.9, every=10, sigma_rels=(0.05,))
    if widths:
        with pytest.raises(ConfigError, match="does not say its width; expected sigma_rels"):
            polyak.synthesize_post_hoc(folder, 0.9, every=10)
    torch.save({"a": torch.ones(1)}, tmp_path / "0.10.pt")
    with pytest.raises(FileError, match="holds no weights of a KarrasEMA"):
        polyak.synthesize_post_hoc(tmp_path, 0.9, every=10, gammas=(3.0,))


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
def test_ema_pytorchs_own_files_have_these_shares(tmp_path):
    tool = pytest.importorskip("ema_pytorch")
    model = nn.Linear(4, 3)
    theirs = tool.PostHocEMA(
        model,
        sigma_rels=(0.05, 0.28),
        update_every=EVERY,
        checkpoint_every_num_steps=50,
        checkpoint_folder=str(tmp_path),
        checkpoint_dtype=torch.float32,
    )
    seen, generator = [], torch.Generator().manual_seed(0)
    for step in range(1, STEPS + 1):
        with torch.no_grad():
            for p in model.parameters():
                p += 0.05 * torch.randn(p.shape, generator=generator)
        if (step - 1) % EVERY == 0:
            seen.append(model.weight.detach().double().clone())
        theirs.update()
    for number, sigma in enumerate((0.05, 0.28)):
        shares = kept_profile(PowerEMA(sigma).exponent, steps=STEPS, every=EVERY)
        stored = torch.load(tmp_path / f"{number}.{STEPS}.pt", weights_only=True)
        shares = torch.tensor(shares[1:], dtype=torch.float64)
        wanted = torch.einsum("j,jab->ab", shares, torch.stack(seen))
        assert torch.allclose(stored["ema_model.weight"].double(), wanted, atol=1e-5)
    polyak.synthesize_post_hoc(
        tmp_path, PowerEMA(0.25), every=EVERY, sigma_rels=(0.05, 0.28), largest_error=0.3
    )
