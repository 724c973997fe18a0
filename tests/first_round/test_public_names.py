"""What the first round made public is still there: names, parameters, commands and options.

`python tests/first_round/test_public_names.py` writes what there is now to stdout, to compare.
"""

import importlib
import inspect
import io
import json
import re
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from polyak.cli.command_list import COMMANDS
from polyak.cli.main import main

FIXTURE = Path(__file__).parents[1] / "fixtures" / "first-round" / "public.json"
MODULES = ("polyak", "polyak.averaging", "polyak.metrics", "polyak.data", "polyak.models")
MODULES_OF_TOOLS = ("polyak.integrations.accelerate",)
"""Those that can be imported without their tool."""

Parameters = list[list[str]]


def signature_of(thing: Any) -> Parameters | None:
    """Name, kind and default of each parameter; None where there is no signature."""
    try:
        parameters = inspect.signature(thing).parameters.values()
    except (TypeError, ValueError):
        return None
    return [
        [p.name, p.kind.name, "" if p.default is p.empty else repr(p.default)] for p in parameters
    ]


def members(cls: type) -> dict[str, Parameters | None]:
    """Public attributes of a class that are ours, with the parameters of those that take any."""
    ours = [base for base in cls.__mro__ if base.__module__.startswith("polyak.")]
    names = {name for base in ours for name in vars(base) if not name.startswith("_")}
    return {name: signature_of(getattr(cls, name)) for name in sorted(names)}


def described(thing: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"parameters": signature_of(thing)}
    if inspect.isclass(thing):
        found["members"] = members(thing)
    return found


def modules() -> dict[str, Any]:
    found = {}
    for name in (*MODULES, *MODULES_OF_TOOLS):
        module = importlib.import_module(name)
        public = getattr(module, "__all__", None) or ("register",)
        found[name] = {key: described(getattr(module, key)) for key in sorted(public)}
    return found


def errors() -> dict[str, list[str]]:
    """Exceptions that people catch, and what they are."""
    module = importlib.import_module("polyak.errors")
    classes = [x for x in vars(module).values() if inspect.isclass(x) and issubclass(x, Exception)]
    return {
        cls.__name__: [base.__name__ for base in cls.__mro__ if base is not object]
        for cls in sorted(classes, key=lambda cls: cls.__name__)
    }


def helped(*command: str) -> str:
    """A command's help, wide enough for every option to stand on one line."""
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out):
        patch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as ended:
            main([*command, "--help"])
    assert ended.value.code == 0
    return out.getvalue()


def commands() -> dict[str, list[str]]:
    """Options of each command, by what is typed before them."""
    found = {}
    waiting: list[tuple[str, ...]] = [(name,) for name in COMMANDS]
    while waiting:
        command = waiting.pop()
        text = helped(*command)
        below = re.search(r"\{([a-z,]+)\}", text.partition("\n\n")[0])
        if below is not None:
            waiting += [(*command, name) for name in below[1].split(",")]
        else:
            found[" ".join(command)] = sorted(set(re.findall(r"(?<![\w-])--[a-z][\w.-]*\w", text)))
    return dict(sorted(found.items()))


EXITS = {
    "--version": 0,
    "list": 0,
    "study dmeo": 2,
    "study table1": 2,
    "stduy demo": 2,
    "inspect absent": 2,
    "status absent": 2,
    "train --epochs many": 2,
}
"""Command lines that are over at once, with their exit codes."""


IGNORED = {
    "data prepare": {"--train-limit", "--test-limit", "--holdout", "--split-seed"}
    | {"--crop-padding", "--flip", "--no-flip"}
}
"""Options that a command took and did nothing with; given to it they are refused now."""


@pytest.fixture(scope="module")
def recorded() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(FIXTURE.read_text())
    return found


def assert_takes(now: Parameters | None, then: Parameters | None, where: str) -> None:
    """Every call of then is one of now: what is new has a default and comes after."""
    if then is None:
        return
    assert now is not None, where
    # What had to be given then may have a default since.
    required = {name for name, _, default in then if not default}
    now = [[name, kind, "" if name in required else default] for name, kind, default in now]
    kept = [parameter for parameter in now if parameter[0] in {name for name, *_ in then}]
    # Where a parameter is only taken by its name, its place says nothing.
    assert sorted(kept) == sorted(then), where
    assert [p for p in now if p[1].startswith("POSITIONAL")][: len(positional(then))] == (
        positional(then)
    ), where
    for _, kind, default in (p for p in now if p not in then):
        assert default or kind.startswith("VAR"), where


def positional(parameters: Parameters) -> Parameters:
    return [p for p in parameters if p[1].startswith("POSITIONAL")]


def test_public_names_are_still_there_and_take_what_they_took(recorded):
    found = modules()
    for module, names in recorded["modules"].items():
        assert names.keys() <= found[module].keys(), module
        for name, then in names.items():
            now = found[module][name]
            assert_takes(now["parameters"], then["parameters"], f"{module}.{name}")
            assert then.get("members", {}).keys() <= now.get("members", {}).keys(), name
            for member, parameters in then.get("members", {}).items():
                assert_takes(now["members"][member], parameters, f"{module}.{name}.{member}")


def test_errors_are_still_what_people_catch(recorded):
    found = errors()
    for name, bases in recorded["errors"].items():
        assert set(bases) <= set(found[name])


def test_commands_still_have_their_options(recorded):
    found = commands()
    for command, options in recorded["commands"].items():
        assert set(options) - IGNORED.get(command, set()) <= set(found[command]), command


@pytest.mark.parametrize(("words", "code"), EXITS.items())
def test_exit_codes_are_what_scripts_rely_on(words, code, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    try:
        found = main(words.split())
    except SystemExit as ended:
        found = ended.code
    assert found == code
    capsys.readouterr()


if __name__ == "__main__":
    everything = {"modules": modules(), "errors": errors(), "commands": commands()}
    sys.stdout.write(json.dumps(everything) + "\n")
