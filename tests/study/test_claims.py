"""Mistakes in declared claims, each refused by its field; what is right is settled."""

import re
from dataclasses import replace

import pytest
from support.declared_claims import early_gain, gain
from support.repository import DOCS

from polyak.data import DataConfig
from polyak.errors import ConfigError
from polyak.records.claims import Claim, Comparison
from polyak.study.plan import Study
from polyak.study.user_study import load_study, write_example

ROW = "digits, 20 % wrong labels"
EARLY = early_gain(ROW)
TESTED = gain(ROW, metric="loss", against="best of sgd", side="below", unit="nats")
PAGE = DOCS / "extending.md"


@pytest.fixture(scope="module")
def example(tmp_path_factory) -> Study:
    path = tmp_path_factory.mktemp("study") / "mine.py"
    write_example(path)
    return load_study(path)


def claimed(example: Study, *claims: Claim) -> Study:
    return replace(example, claims=claims).settled()


def one(*comparisons: Comparison, **changes) -> Claim:
    return Claim(**{"id": "mine", "sentence": "It is so.", "comparisons": comparisons, **changes})


def test_where_a_claim_is_refuted_is_written_down_with_it(example):
    far = replace(TESTED, bound=0.1)
    (claim,) = claimed(example, one(EARLY, TESTED, far)).claims
    assert [each.refuted_at for each in claim.comparisons] == [0.2, -0.01, 0.1]
    given = replace(TESTED, refuted_at=-0.5)
    (claim,) = claimed(example, one(given)).claims
    assert claim.comparisons == (given,)


def test_the_seeds_of_a_claim_are_written_down_with_it(example):
    found = claimed(example, one(EARLY), one(TESTED, id="two", seeds=(0, 2))).claims
    assert [claim.seeds for claim in found] == [(0, 1, 2), (0, 2)]


def test_claims_change_no_run(example):
    assert claimed(example, one(EARLY)).rows == example.rows


@pytest.mark.parametrize(
    ("comparison", "changes", "message"),
    [
        (EARLY, {"row": "digits"}, "claim mine: row is 'digits'; expected one of digits, 20 %"),
        (EARLY, {"against_row": "x"}, "against_row is 'x'; expected one of digits, 20 %"),
        (EARLY, {"arm": "bst average"}, "arm is 'bst average'; .* Did you mean 'best average'?"),
        (EARLY, {"against": "sdg"}, "against is 'sdg'; expected one of sgd, best average"),
        (TESTED, {"arm": "best average"}, "arm is 'best average'; expected one of sgd, sgd_bn"),
        (TESTED, {"against": "ema_acc_bn"}, "against is 'ema_acc_bn', the arm itself"),
        (EARLY, {"metric": "acuracy"}, r"comparisons\[0\].metric is 'acuracy'.* 'accuracy'?"),
        (EARLY, {"metric": "churn"}, "metric is 'churn' with at; expected one of accuracy, loss"),
        (EARLY, {"side": "over"}, r"side is 'over'; expected one of above, below, within"),
        (EARLY, {"bound": "0"}, r"bound is '0'; expected a number"),
        (EARLY, {"unit": "nats"}, "unit is 'nats'; expected 'points' for accuracy against anoth"),
        (TESTED, {"unit": "points"}, "unit is 'points'; expected 'nats' for loss"),
        (TESTED, {"against": None, "metric": "ece"}, "expected '%' for ece alone"),
        (EARLY, {"refuted_at": -1.0}, "refuted_at is -1.0; expected the bound, 0.0, or beyond it"),
        (EARLY, {"side": "within"}, "bound is 0.0 with side 'within'; expected > 0"),
        (TESTED, {"side": "within", "bound": 1.0}, "'within' for every seed or the best of SGD"),
        (EARLY, {"at": 2.0}, "at is 2.0; expected a share of the run, 0 < at <= 1"),
        (EARLY, {"until": 0.1}, "until is 0.1; expected at < until <= 1"),
        (TESTED, {"until": 0.5}, "until is given without at"),
        (TESTED, {"part": "test"}, "part is given without at"),
        (EARLY, {"part": "test"}, "part is 'test'; expected what phase search records: holdout"),
        (EARLY, {"phase": "refit"}, "part is 'holdout'; expected what phase refit records: test"),
        (TESTED, {"phase": "annealed"}, "phase is 'annealed'; expected what the row runs: search"),
        (TESTED, {"target": "cifar10"}, "target is 'cifar10'; expected one of test"),
        (TESTED, {"metric": "loss_scaled"}, "'loss_scaled' in phase 'refit'; expected 'search'"),
        (
            TESTED,
            {"metric": "epoch", "arm": "ema_acc", "against": None, "unit": "share"},
            "phase is 'refit' for metric epoch",
        ),
        (TESTED, {"against": None, "against_row": ROW}, "against_row is given without against"),
    ],
)
def test_a_mistake_in_a_comparison_is_refused_by_its_field(example, comparison, changes, message):
    with pytest.raises(ConfigError, match=message):
        claimed(example, one(replace(comparison, **changes)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": "Mine is"}, "id is 'Mine is'; expected small letters, digits and hyphens"),
        ({"sentence": " "}, "sentence is empty"),
        ({"comparisons": ()}, r"comparisons is \(\); expected at least one"),
        ({"comparisons": (EARLY, EARLY)}, "comparisons has one twice"),
        ({"seeds": (0, 7)}, "seeds has 7, which row 'digits, 20 % wrong labels' does not run"),
        ({"seeds": (0, 0)}, r"seeds is \(0, 0\); expected nothing twice"),
        ({"seeds": (1,)}, r"seeds are \(1,\); expected at least 2 .* to tell chance from effect"),
        ({"seeds": 3}, "seeds is 3; expected a tuple of whole numbers"),
    ],
)
def test_a_mistake_in_a_claim_is_refused_by_its_field(example, changes, message):
    with pytest.raises(ConfigError, match=message):
        claimed(example, one(**{"comparisons": (EARLY,), **changes}))


def test_pairs_of_two_seeds_are_one_pair_and_refused(example):
    churn = replace(TESTED, metric="churn", unit="points")
    claimed(example, one(churn))
    with pytest.raises(ConfigError, match=r"at least 3 .* pairs of runs"):
        claimed(example, one(churn, seeds=(0, 1)))


def test_two_claims_of_one_name_are_refused(example):
    with pytest.raises(ConfigError, match="two claims are called 'mine'"):
        claimed(example, one(EARLY), one(TESTED))


def test_memorising_is_claimed_only_where_labels_are_wrong(example):
    learnt = replace(TESTED, metric="memorised", unit="points", against="sgd")
    claimed(example, one(learnt))
    (row,) = example.rows
    right = replace(row.config, data=DataConfig(source="digits", crop_padding=1, flip=False))
    clean = replace(row, config=right, refit_monitors=("test",))
    with pytest.raises(ConfigError, match="'memorised' where no label is made wrong"):
        claimed(replace(example, rows=(clean,)), one(learnt))


def test_all_mistakes_stand_in_one_message(example):
    with pytest.raises(ConfigError) as caught:
        claimed(example, one(replace(EARLY, unit="nats", at=2.0)), one(TESTED, id="Two"))
    assert all(word in str(caught.value) for word in ("unit is", "at is", "id is 'Two'"))
    with pytest.raises(ConfigError) as caught:
        claimed(example, one(replace(TESTED, target="elsewhere")))
    assert str(caught.value).count("target is 'elsewhere'") == 1


def test_a_study_file_declares_claims_and_a_missing_field_is_named_by_its_line(tmp_path):
    path = tmp_path / "mine.py"
    write_example(path)
    claim = f"Claim(id='early', sentence='Early.', comparisons=({EARLY!r},))"
    text = path.read_text().replace("rows=(row,)", f"rows=(row,), claims=[{claim}]")
    path.write_text(f"from polyak.records.claims import Claim, Comparison\n{text}")
    assert [each.id for each in load_study(path).claims] == ["early"]
    other = tmp_path / "other.py"
    other.write_text(path.read_text().replace("id='early', ", ""))
    with pytest.raises(ConfigError, match=r"line .* Claim missing 1 .*'id'"):
        load_study(other)


def test_the_claims_on_the_page_are_claims_of_the_example(example):
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (block,) = (block for block in blocks if "Comparison(" in block)
    space: dict = {}
    exec(block, space)
    assert len(claimed(example, *space["claims"]).claims) == len(space["claims"]) > 1
