"""Settings of a wrong type are named by field, and all else is looked at too."""

from dataclasses import replace

import numpy as np
import pytest

from polyak.errors import ConfigError

OF_ROWS = {
    "a number for a list": (
        {"learning_rates": 0.1},
        "is 0.1; expected a tuple of numbers, such as (0.1,)",
    ),
    "a whole number for a list": ({"seeds": 3}, "seeds is 3; expected a tuple of whole numbers"),
    "text for a list": ({"learning_rates": "0.1"}, "is '0.1'; expected a tuple of numbers"),
    "text in a list": ({"learning_rates": ("0.1",)}, "[0] is '0.1'; expected a number"),
    "None for a list": ({"seeds": None}, "seeds is None; expected a tuple of whole numbers"),
    "fractions": ({"seeds": (0.5,)}, "seeds[0] is 0.5; expected a whole number"),
    "a switch for a number": ({"seeds": (True,)}, "seeds[0] is True; expected a whole number"),
    "NaN": ({"learning_rates": (float("nan"),)}, "[0] is nan; expected a number"),
    "infinity": ({"learning_rates": (float("inf"),)}, "learning_rates[0] is inf"),
    "negative": ({"learning_rates": (-0.1,)}, "is (-0.1,); expected different ones > 0"),
    "twice": ({"seeds": (1, 1)}, "seeds is (1, 1); expected different ones"),
    "a monitor twice": ({"refit_monitors": ("test", "test")}, "expected nothing twice"),
    "an unknown name": ({"follow_ups": ("hold",)}, "Did you mean 'held'?"),
    "an unknown monitor": ({"refit_monitors": ("tset",)}, "Did you mean 'test'?"),
    "one name for a list": (
        {"refit_monitors": "test"},
        "expected a tuple of names, such as ('test',)",
    ),
    "a number for text": ({"label": 3}, "label is 3; expected text"),
    "text for a switch": ({"refits": "no"}, "refits is 'no'; expected True or False"),
    "another class": ({"config": None}, "config is None; expected a RunConfig"),
}
OF_PARTS = {
    "optim": ({"lr": "0.1"}, "config.optim.lr is '0.1'; expected a number"),
    "averaging": ({"decays": 0.9}, "config.averaging.decays is 0.9; expected a tuple of numbers"),
    "data": ({"train_limit": "all"}, "config.data.train_limit is 'all'; expected a whole number"),
    "model": ({"width": 4.5}, "config.model.width is 4.5; expected a whole number"),
}


def refusal(study, row, **changes):
    with pytest.raises(ConfigError) as refused:
        replace(study, rows=(replace(row, **changes),)).check()
    return str(refused.value)


@pytest.mark.parametrize("kind", OF_ROWS)
def test_a_mistake_in_a_row_is_named_by_its_field(study, row, kind):
    changes, message = OF_ROWS[kind]
    said = refusal(study, row, **changes)
    assert said.startswith("study small: ")
    assert message in said
    assert f"small digits: {next(iter(changes))}" in said or kind == "a number for text"
    # With another configuration in its place, something else may not fit.
    assert said.count("; expected") == 1 or kind == "another class"


@pytest.mark.parametrize("part", OF_PARTS)
def test_a_mistake_in_a_part_of_the_configuration_is_named_by_its_place(study, row, part):
    changes, message = OF_PARTS[part]
    config = replace(row.config, **{part: replace(getattr(row.config, part), **changes)})
    assert f"small digits: {message}" in refusal(study, row, config=config)


def test_all_mistakes_come_in_one_message(study, row):
    config = replace(row.config, epochs="3", optim=replace(row.config.optim, momentum=2))
    said = refusal(study, row, learning_rates=0.1, seeds="01", against="none", config=config)
    for part in ("learning_rates is 0.1", "seeds is '01'", "config.epochs is '3'"):
        assert part in said
    assert "momentum is 2; expected 0 <= momentum < 1" in said
    assert "against is 'none'" in said


@pytest.mark.parametrize("rows", ["row", None, 3])
def test_rows_that_are_no_rows_are_refused(study, row, rows):
    given = row if rows == "row" else rows
    with pytest.raises(ConfigError, match=r"rows is .*; expected a tuple of Rows"):
        replace(study, rows=given).check()


def test_a_study_without_rows_is_refused(study):
    with pytest.raises(ConfigError, match=r"rows is \(\); expected at least one"):
        replace(study, rows=()).check()


def test_lists_ranges_and_numbers_of_numpy_are_what_they_stand_for(study, row):
    given = replace(row, learning_rates=[0.05, np.float32(0.5)], seeds=range(np.int64(2)))
    (settled,) = replace(study, rows=[given]).settled().rows
    assert (settled.learning_rates, settled.seeds) == ((0.05, 0.5), (0, 1))
    assert {type(value) for value in settled.learning_rates} == {float}
    assert study.settled() == study
