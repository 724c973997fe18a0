"""The forms of messages, and what kind of fault each error is."""

import sys

import pytest
import torch
from torch import nn

from polyak import Averager, errors
from polyak.errors import (
    ConfigError,
    FileError,
    PolyakError,
    WeightMismatchError,
    few,
    printable,
    unknown,
)


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (errors.ConfigError, ValueError),
        (errors.DataError, ValueError),
        (errors.FileError, ValueError),
        (errors.StateError, RuntimeError),
        (errors.WeightMismatchError, ValueError),
        (errors.NonFiniteError, ArithmeticError),
    ],
)
def test_every_error_is_ours_and_a_builtin_one(error, builtin):
    """So that `except ValueError` in a user's loop goes on working."""
    assert issubclass(error, PolyakError)
    assert issubclass(error, builtin)


def test_no_error_of_the_module_is_left_out_of_the_family():
    found = [x for x in vars(errors).values() if isinstance(x, type) and issubclass(x, Exception)]
    assert len(found) >= 7
    assert all(issubclass(x, PolyakError) for x in found)


def test_faults_are_gathered_in_one_message():
    error = ConfigError.of("optim", ["lr is 0; expected > 0", "epochs is -1; expected >= 1"])
    assert str(error) == "optim: lr is 0; expected > 0; epochs is -1; expected >= 1."
    assert type(error) is ConfigError


def test_a_mismatch_names_both_sides():
    message = str(WeightMismatchError.of_names({"a", "b"}, {"b", "c", "d"}))
    assert "1 missing (a), 2 unexpected (c, d)" in message
    assert "Build" in message or "build" in message


def test_a_mismatch_on_one_side_says_none_for_the_other():
    assert "0 missing (none), 1 unexpected (x)" in str(WeightMismatchError.of_names(set(), {"x"}))


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        ([], "none"),
        (["b", "a"], "a, b"),
        (["d", "c", "b"], "b, c, d"),
        (["d", "c", "b", "a"], "a, b, c, …"),
    ],
)
def test_few_names_are_sorted_and_cut(names, shown):
    assert few(names) == shown


def test_an_unknown_name_lists_the_choices_and_the_nearest():
    message = unknown("model", "resnet19", iter(["resnet18", "vgg16"]))
    assert message == (
        "model is 'resnet19'; expected one of resnet18, vgg16. Did you mean 'resnet18'?"
    )


def test_a_name_like_none_of_the_choices_gets_no_suggestion():
    assert unknown("model", "zzz", ["vgg16"]) == "model is 'zzz'; expected one of vgg16."


# Whose line a warning names


def assert_line_before(caught: pytest.WarningsRecorder) -> None:
    """That the only warning names the line before this call."""
    assert [(w.filename, w.lineno) for w in caught] == [(__file__, sys._getframe(1).f_lineno - 1)]


def bad_weights() -> tuple[nn.Module, Averager]:
    model = nn.Linear(2, 1)
    averager = Averager(model, [0.9])
    with torch.no_grad():
        model.weight.fill_(torch.nan)
    return model, averager


@pytest.mark.parametrize("call", ["step", "update"])
def test_a_warning_names_the_line_that_called_the_averager(call):
    _, averager = bad_weights()
    with pytest.warns(RuntimeWarning, match="NaN") as caught:
        getattr(averager, call)()
    assert_line_before(caught)


def test_a_warning_from_a_hook_names_the_line_that_stepped_the_optimizer():
    """Frames of torch lie between."""
    model, averager = bad_weights()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    averager.attach(optimizer)
    with pytest.warns(RuntimeWarning, match="NaN") as caught:
        optimizer.step()
    assert_line_before(caught)


def test_a_warning_of_a_users_own_call_names_that_call():
    with pytest.warns(RuntimeWarning, match="^told$") as caught:
        errors.warn("told")
    assert_line_before(caught)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("ema_0.99", "ema_0.99"),
        ("ä 名 – ×", "ä 名 – ×"),
        ("\x1b]0;owned\x07", r"\x1b]0;owned\x07"),
        ("\x9b2J", r"\x9b2J"),
        ("cat\u202egnp", r"cat\u202egnp"),
        ("\u2066x", r"\u2066x"),
        ("caf\udce9", r"caf\udce9"),
        ("a\nb\t", r"a\nb\t"),
    ],
)
def test_text_from_elsewhere_is_shown_with_its_hidden_characters_as_escapes(text, shown):
    assert printable(text) == shown
    assert shown.isprintable()


def test_no_message_moves_a_terminal_whatever_names_it_repeats():
    hostile = "\x1b[2J\x07\u202e\udc80"
    for error in (
        FileError(f"{hostile} is damaged"),
        ConfigError.of("study", [hostile, "other"]),
        WeightMismatchError.of_names({hostile}, set()),
        ConfigError(unknown("model", hostile, [hostile])),
    ):
        assert str(error).isprintable()
    # Messages of several lines, such as one with an example of code, keep them.
    assert str(FileError("a\n    b")) == "a\n    b"
