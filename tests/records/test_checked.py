"""An altered record is never believed; one of before there were checksums is read as it is."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyak.records.checked import (
    first_difference,
    line_sums,
    read_checked,
    write_checked,
)

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
records = st.dictionaries(st.text().filter(lambda key: key != "sha256"), values, max_size=4)


@given(records)
def test_a_record_comes_back(tmp_path_factory, record):
    path = tmp_path_factory.mktemp("r") / "a.json"
    write_checked(path, record)
    assert read_checked(path) == record
    assert "sha256" in json.loads(path.read_text())


def test_tuples_and_numbers_as_keys_are_read_as_json_has_them(tmp_path):
    write_checked(tmp_path / "a", {"x": (1, 2), "y": {3: 0.1}})
    assert read_checked(tmp_path / "a") == {"x": [1, 2], "y": {"3": 0.1}}


def test_no_flip_of_a_bit_and_no_cut_is_believed(tmp_path):
    path = tmp_path / "a.json"
    record = {"accuracy": 0.1, "stops": [3, 4], "name": "ema_0.99"}
    write_checked(path, record)
    whole = path.read_bytes()
    for place in range(len(whole)):
        for bit in range(8):
            hurt = bytearray(whole)
            hurt[place] ^= 1 << bit
            path.write_bytes(hurt)
            try:
                found = read_checked(path)
            except ValueError:
                continue
            # The name of the checksum itself may be hit only where it is said.
            assert found == record
    for length in range(len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError):  # noqa: PT011 (by many words)
            read_checked(path)


@pytest.mark.parametrize("text", ["[]", "7", '"x"', "null", "[" * 100_000])
def test_json_that_is_no_object_is_refused(tmp_path, text):
    (tmp_path / "a").write_text(text)
    with pytest.raises(ValueError):  # noqa: PT011 (by many words)
        read_checked(tmp_path / "a")


def test_an_altered_record_says_how_to_change_one_on_purpose(tmp_path):
    write_checked(tmp_path / "a", {"title": "x"})
    altered = json.loads((tmp_path / "a").read_text()) | {"title": "y"}
    (tmp_path / "a").write_text(json.dumps(altered))
    with pytest.raises(ValueError, match=r'not as it was written.*removes its member "sha256"'):
        read_checked(tmp_path / "a")
    del altered["sha256"]
    (tmp_path / "a").write_text(json.dumps(altered))
    assert read_checked(tmp_path / "a") == {"title": "y"}


@given(st.lists(st.text("abc{}", min_size=1), min_size=1, max_size=5), st.data())
def test_the_first_line_that_differs_is_named(lines, data):
    sums = line_sums("\n".join(lines))
    assert first_difference("\n".join(lines), sums) is None
    place = data.draw(st.integers(0, len(lines) - 1))
    hurt = [*lines[:place], lines[place] + "x", *lines[place + 1 :]]
    assert first_difference("\n".join(hurt), sums) == place + 1
    assert first_difference("\n".join(lines[:place]), sums) == place + 1
    assert first_difference("\n".join([*lines, "a"]), sums) == len(lines) + 1
