"""A kind of average that polyak does not have, through all that an average goes through."""

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from support.small_networks import (
    Scalar,
    assert_same_bits,
    mean_of,
    moved,
    net,
    snapshot,
    through_a_file,
    walk,
)

import polyak
from polyak import EMA, Average, Averager, Uniform, Update
from polyak.averaging.kinds.profiles.profile import contents
from polyak.cli.commands.inspect import description
from polyak.errors import ConfigError, StateError
from polyak.integrations.statefile import load_state, save_state


@dataclass(frozen=True)
class Polynomial(Average):
    """Weights grow like the η-th power of the update that took them in (Shamir & Zhang 2013).

    m ← m + w·(x − m),   w = (η + 1)/(n + η + 1),   n updates before
    """

    eta: float = 3.0
    name: str | None = None

    @property
    def label(self) -> str:
        return self.name or f"polynomial_{self.eta:g}"

    def weight(self, update: Update, folded: int) -> float:
        return (self.eta + 1) / (folded + self.eta + 1)

    @property
    def depends_on_steps(self) -> bool:
        return False  # The number of updates is all that `weight` looks at.


@dataclass(frozen=True)
class Alternate(Average):
    """The mean of the last two weights at every second update; three answers beside the two."""

    label = "alternate"

    def weight(self, update: Update, folded: int) -> float:
        return 1 / min(folded + 1, 2) if update.index % 2 else 0.0

    @property
    def snapshots(self) -> int:
        return 2

    def describe(self, every: int) -> str:
        return f"mean of two snapshots, one every {2 * every} steps"


def written_out(eta: float, updates: int) -> list[float]:
    """Shares by the product formula, the initial weights' first."""
    w = [1.0] + [(eta + 1) / (n + eta + 1) for n in range(updates)]
    shares = []
    for i, own in enumerate(w):
        for later in w[i + 1 :]:
            own *= 1 - later
        shares.append(own)
    return shares


@pytest.mark.parametrize("every", [1, 3])
def test_updates_are_the_recurrence_written_out(every):
    states = moved(lambda: Scalar(4.0), 6)
    model = Scalar(4.0)
    averager = Averager(model, [0.9, Polynomial(2.0)], every=every)
    for t in range(1, 7):
        model.load_state_dict(states[t])
        for _ in range(every):
            averager.step()
    expected = mean_of(states, written_out(2.0, 6))["w"]
    torch.testing.assert_close(averager.tensors("polynomial_2")["w"], expected)
    assert averager.profile("polynomial_2") == pytest.approx(written_out(2.0, 6), abs=1e-15)


def test_its_profile_and_mean_age_are_those_of_its_weights():
    shares = polyak.profile(Polynomial(2.0), updates=6, every=4)
    assert shares == pytest.approx(written_out(2.0, 6), abs=1e-15)
    age = sum(s * (6 - i) for i, s in enumerate(shares))
    assert contents(Polynomial(2.0), updates=6, every=4).mean_age == pytest.approx(age)


def test_it_is_explained_and_told_apart():
    kinds = [Polynomial(name="a"), Polynomial(name="b"), Polynomial(2.0), Alternate()]
    averager = Averager(Scalar(), kinds, every=2)
    for _ in range(8):
        averager.step()
    text = averager.explain(total_steps=100)
    worth = 1 / sum(s**2 for s in averager.profile("a"))
    said = f"mean age 0.6 updates (1 steps), {worth:.1f} effective weights; initial"
    assert f"a: lerp weights of Polynomial; {said}" in text
    assert "alternate: mean of two snapshots, one every 4 steps; mean age 1.0 updates" in text
    assert "warning: a = b: equal so far, one average under several names" in text
    assert averager.coinciding() == [["a", "b"]]


def test_skipped_updates_leave_the_profile_known_where_steps_do_not_matter():
    model = Scalar(1.0)
    averager = Averager(model, [Polynomial(), Alternate()])
    for value in (1.0, torch.nan, 2.0, 3.0):
        model.set(value)
        if value != value:
            with pytest.warns(RuntimeWarning, match="w hold NaN"):
                averager.step()
        else:
            averager.step()
    assert averager.profile("polynomial_3") == pytest.approx(written_out(3.0, 3), abs=1e-15)
    with pytest.raises(StateError, match="the profile of 'alternate' depends on when"):
        averager.profile("alternate")


def test_a_mean_of_snapshots_keeps_them_beside_it():
    model = Scalar(9.0)
    averager = Averager(model, [Alternate()])
    for value in (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0):
        model.set(value)
        averager.step()
    assert averager.tensors("alternate")["w"].item() == (4 + 6) / 2
    assert averager.profile("alternate") == (0, 0, 0, 0, 0.5, 0, 0.5, 0)


KINDS = [EMA(0.9), Polynomial(2.0), Alternate()]


@pytest.mark.parametrize("before", [0, 1, 5, 8])
@pytest.mark.parametrize("way", ["torch", "statefile"])
def test_a_resumed_bank_is_one_that_never_stopped_bit_for_bit(before, way, tmp_path):
    torch.manual_seed(0)
    model = net()
    never = Averager(model, KINDS, every=2)
    walk(never, model, range(before))
    if way == "torch":
        saved = through_a_file(never.state_dict())
    else:
        save_state(never, tmp_path / "state")
        saved = load_state(tmp_path / "state")
    weights = snapshot(model)
    walk(never, model, range(100, 107))
    model = net()
    model.load_state_dict(weights)
    resumed = Averager(model, KINDS, every=2)
    resumed.load_state_dict(saved)
    walk(resumed, model, range(100, 107))
    for name in never.names:
        assert_same_bits(resumed.tensors(name), never.tensors(name))
    assert resumed.explain() == never.explain()


@pytest.mark.parametrize(
    "other", [Polynomial(5.0, name="polynomial_2"), EMA(0.9, name="polynomial_2")]
)
def test_another_kind_of_its_name_does_not_go_on_from_its_state(other):
    state = Averager(net(), [Polynomial(2.0)]).state_dict()
    with pytest.raises(ConfigError, match="the saved averages are"):
        Averager(net(), [other]).load_state_dict(state)


def test_a_file_holds_its_tensors_its_name_and_its_settings(tmp_path):
    model = net()
    averager = Averager(model, KINDS)
    walk(averager, model, range(4))
    path = tmp_path / "file"
    polyak.save(averager, path)
    saved = polyak.load(path)
    assert saved.manifest["averages"]["polynomial_2"] == {
        "kind": "Polynomial",
        "eta": 2.0,
        "name": None,
    }
    for name in averager.names:
        assert_same_bits(saved[name], averager.tensors(name))
    assert any("Polynomial, eta 2.0" in line for line in description(path))


READER = """
import sys
import polyak
saved = polyak.load(sys.argv[1])
assert saved.manifest["averages"]["polynomial_2"]["kind"] == "Polynomial"
print(sorted(saved), sorted(saved["polynomial_2"]))
"""


def test_a_reader_without_the_class_gets_tensors_and_runs_nothing(tmp_path):
    averager = Averager(Scalar(), KINDS)
    polyak.save(averager, tmp_path / "file")
    call = [sys.executable, "-c", READER, str(tmp_path / "file")]
    done = subprocess.run(call, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "['alternate', 'ema_0.9', 'polynomial_2'] ['w']"


def test_it_goes_on_from_weights_that_another_tool_kept():
    kept = {"w": torch.tensor(5.0, dtype=torch.float64)}
    model = Scalar(1.0)
    averager = Averager(model, [Polynomial(1.0)], every=2)
    averager.adopt({"polynomial_1": kept}, steps=6)
    assert averager.updates == 3
    model.set(1.0)
    averager.step()
    averager.step()
    # The fourth update has w = 2/(3 + 2).
    assert averager.tensors("polynomial_1")["w"].item() == pytest.approx(5 + 0.4 * (1 - 5))


def test_a_mean_of_snapshots_does_not_go_on_from_its_mean():
    averager = Averager(Scalar(), [Alternate()])
    with pytest.raises(ConfigError, match="alternate is a window, which needs its last snapshots"):
        averager.adopt({"alternate": {"w": torch.tensor(0.0)}}, steps=2)


def test_it_is_synthesised_from_averages_that_were_kept(tmp_path):
    torch.manual_seed(0)
    model = Scalar()
    bank = Averager(model, [EMA(d, None) for d in (0.3, 0.5, 0.7)] + [Uniform()])
    twin = Averager(model, [Polynomial(0.0, name="twin")])  # η = 0 is the plain mean
    draws = torch.Generator().manual_seed(0)
    for _ in range(6):
        model.set(torch.randn((), generator=draws).item())
        bank.step()
        twin.step()
    polyak.save(bank, tmp_path / "bank")
    made = polyak.synthesize([tmp_path / "bank"], Polynomial(0.0))
    torch.testing.assert_close(made["polynomial_0"]["w"], twin.tensors("twin")["w"])
    assert made.manifest["averages"]["polynomial_0"]["kind"] == "Polynomial"


def test_files_of_it_are_left_out_of_a_synthesis_for_no_file_holds_its_code(tmp_path):
    model = net()
    averager = Averager(model, [EMA(0.5, None), Polynomial()])
    walk(averager, model, range(3))
    polyak.save(averager, tmp_path / "both")
    made = polyak.synthesize([tmp_path / "both"], EMA(0.5, None))
    assert [name for _, name, _ in made.manifest["synthesis"]["of"]] == ["ema_0.5"]
    polyak.save(Averager(model, [Polynomial()]), tmp_path / "own")
    with pytest.raises(ConfigError, match="files hold no averages"):
        polyak.synthesize([tmp_path / "own"], 0.5)


# What is refused before anything is kept


def test_a_weight_outside_its_range_is_refused_before_any_average_changes():
    @dataclass(frozen=True)
    class Double(Average):
        label = "double"

        def weight(self, update, folded):
            return 2.0

    averager = Averager(Scalar(1.0), [0.9, Double()])
    held = averager.tensors("ema_0.9")
    averager.model.set(5.0)
    with pytest.raises(ConfigError, match=r"'double' at update 0 \(step 1\) is 2\.0"):
        averager.step()
    assert_same_bits(averager.tensors("ema_0.9"), held)
    assert averager.updates == 0


def test_settings_that_no_file_could_hold_are_refused_at_once():
    @dataclass(frozen=True)
    class Odd(Average):
        label = "odd"
        settings_of_mine: object

        def weight(self, update, folded):
            return 1.0

    class Plain(Average):
        label = "plain"

        def weight(self, update, folded):
            return 1.0

    uniform = type("uniform", (Odd,), {"__module__": __name__})
    with pytest.raises(ConfigError, match="settings of 'odd' are no plain JSON values"):
        Averager(net(), [Odd(torch.ones(1))])
    with pytest.raises(ConfigError, match="settings of 'odd' are no plain JSON values"):
        Averager(net(), [Odd((1, 2))])
    with pytest.raises(ConfigError, match=r"settings of 'plain' .*frozen dataclass"):
        Averager(net(), [Plain()])
    with pytest.raises(ConfigError, match="called 'uniform', as a kind of polyak's"):
        Averager(net(), [uniform(1)])
    assert Averager(net(), [Odd("fine")]).names == ("odd",)


def test_a_kind_without_a_weight_is_no_average():
    class Empty(Average):
        label = "empty"

    with pytest.raises(TypeError, match="abstract"):
        Empty()


def test_nobody_asks_an_average_for_its_type():
    """Outside `kinds/` its own answers are all that is known of a kind."""
    source = Path(polyak.__file__).parent
    asks = re.compile(
        r"isinstance\([^()]*,\s*\(?(EMA|PowerEMA|Uniform|Schedule|Window)\b"
        r"|\[\"kind\"\] [=!]= \"(ema|power|uniform|schedule|window)\""
    )
    for package in ("averaging", "integrations"):
        for path in (source / package).rglob("*.py"):
            if path.parent.name != "kinds" or path.name in ("explain.py", "profile.py"):
                assert not asks.search(path.read_text(encoding="utf-8")), path


def test_records_are_plain_json():
    for kind in KINDS:
        record = Averager(Scalar(), [kind]).state_dict()["averages"]
        assert json.loads(json.dumps(record)) == record
