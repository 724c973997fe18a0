"""From the words of a command line to a command, or to one line that says what was meant."""

import inspect
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import replace
from difflib import get_close_matches
from importlib import import_module
from io import StringIO
from typing import Any, NoReturn, Protocol, cast, runtime_checkable

import tyro
from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
)

from polyak.cli.command_list import COMMANDS, SYNONYMS, respelt


@runtime_checkable
class ChecksWords(Protocol):
    """A command that must know what was typed, not only what it means."""

    def check_words(self, words: Sequence[str]) -> None:
        """Raise a ConfigError if words do not go together."""


def parsed(name: str, words: Sequence[str]) -> Any:
    """A command of `COMMANDS` as its words say; without such a name, what tyro makes of it.

    Raises:
        SystemExit: with code 0 after help, with 2 after a line on words that it does not know.
    """
    if name not in COMMANDS:
        kinds: dict[str, Callable[..., Any]] = {name: _kind(name) for name in COMMANDS}
        return tyro.extras.subcommand_cli_from_dict(kinds, prog="polyak", args=[name, *words])
    words = respelt(words, COMMANDS[name].spellings)
    command, left = _read(name, words)
    if left:
        _refuse(name, left)
    if isinstance(command, ChecksWords):
        command.check_words(words)
    return command


def _read(name: str, words: Sequence[str]) -> tuple[Any, list[str]]:
    kind = _kind(name)
    return tyro.cli(
        kind,
        prog=f"polyak {name}",
        description=f"{inspect.getdoc(kind)}\n\nExample: polyak {COMMANDS[name].example}",
        args=words,
        return_unknown_args=True,
        registry=_registry(),
    )


def _kind(name: str) -> type[Any]:
    module = import_module(f"polyak.cli.commands.{COMMANDS[name].module}")
    return cast(type[Any], getattr(module, COMMANDS[name].kind))


def _refuse(name: str, left: Sequence[str]) -> NoReturn:
    """Words that a command does not know, with what may have been meant."""
    options = [word.partition("=")[0] for word in left if word.startswith("-")]
    if options:
        known = _options(name)
        near = dict.fromkeys(filter(None, (nearest(option, known) for option in options)))
        guess = f" Did you mean {' and '.join(map(repr, near))}?" if near else ""
        message = f"option is {', '.join(map(repr, options))}; expected one of `polyak {name}`"
    else:
        message, guess = f"{left[0]!r} is given; expected nothing more than options there", ""
    print(f"polyak: {message}.{guess} `polyak {name} --help` shows them all.", file=sys.stderr)
    raise SystemExit(2)


def _options(name: str) -> list[str]:
    """The options of a command, read from its help: tyro has no other list of them."""
    page = StringIO()
    with redirect_stdout(page), suppress(SystemExit):
        _read(name, ["--help"])
    heads = re.findall(r"^[^\w-]*(-.*)$", page.getvalue(), re.MULTILINE)
    return re.findall(r"--[a-z][\w.-]*", " ".join(heads))


def nearest(option: str, known: Sequence[str]) -> str | None:
    """The option that was probably meant, also where its first part or its word is another.

    Example:
        >>> known = ["--epochs", "--optim.lr", "--optim.weight-decay"]
        >>> nearest("--optim.learning-rate", known), nearest("--weight_decay", known)
        ('--optim.lr', '--optim.weight-decay')
        >>> nearest("--epoch", known), nearest("--zzz", known)
        ('--epochs', None)
    """
    place, _, last = option.replace("_", "-").lstrip("-").rpartition(".")
    last = SYNONYMS.get(last, last)
    ours = f"--{place}.{last}" if place else f"--{last}"
    ends = [name for name in known if name.lstrip("-").rpartition(".")[2] == last]
    return next(iter([*ends, *get_close_matches(ours, known, n=1)]), None)


def _registry() -> ConstructorRegistry:
    """How options are shown: one that may be left out is not called {None}|INT, but INT."""
    registry = ConstructorRegistry()
    asking = False

    @registry.primitive_rule
    def without_none(info: PrimitiveTypeInfo) -> Any:
        nonlocal asking
        # What tyro itself makes of a type is asked for, and this rule is asked again.
        if asking:
            return None
        asking = True
        try:
            spec = ConstructorRegistry.get_primitive_spec(info)
        finally:
            asking = False
        if not isinstance(spec, PrimitiveConstructorSpec):
            return spec
        metavar = spec.metavar.replace("{None}|", "").replace("{None,", "{")
        return replace(spec, metavar=metavar)

    return registry
