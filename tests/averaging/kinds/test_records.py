"""Averages as plain JSON values, and back."""

import json

import pytest
from hypothesis import given
from support.drawn_kinds import kinds, late

from polyak.averaging.kinds import (
    Window,
)
from polyak.averaging.kinds.records import from_record, to_record
from polyak.errors import ConfigError


@given(kind=kinds | late)
def test_an_average_comes_back_from_its_record(kind):
    assert from_record(json.loads(json.dumps(to_record(kind)))) == kind


def test_a_record_of_an_unknown_kind_names_the_known_ones():
    with pytest.raises(ConfigError, match=r"'emma'; expected one of ema, power, uniform, schedule"):
        from_record({"kind": "emma", "decay": 0.9})


def test_a_window_comes_back_from_its_record():
    for kind in (Window(3), Window(2, every=8, name="late")):
        assert from_record(to_record(kind)) == kind
