"""Objects in a pickle that stand in for those of classes that nothing here imports or runs."""

import re
import warnings
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from threading import Lock
from typing import Any, ClassVar

import torch

OBJECT, MAPPING, SEQUENCE = "object", "mapping", "sequence"

_MENTIONED = re.compile(r"\bStandIn(\d+)\b")
_ATTRIBUTE = ("builtins.getattr", "__builtin__.getattr")
_LOCK = Lock()


class StandIn:
    """What stands in the place of an object, and holds what the file would have made it of."""

    kind: ClassVar[str] = "a nested class or method"
    """The name that the file gives its class."""

    def __new__(cls, *args: object, **_: object) -> "StandIn":
        found = object.__new__(cls)
        found.args, found.state = args, None
        return found

    def __init__(self, *_: object, **__: object) -> None:
        self.args: tuple[object, ...]
        self.state: object

    def __setstate__(self, state: object) -> None:
        self.state = state


def load_with_stand_ins(path: Any, names: Collection[str]) -> object:
    """What `torch.save` wrote, with a stand-in for everything that the file names beyond torch.

    Nothing that a name stands for is imported, called or looked at: torch's restricted unpickler
    gets a class of ours for each. Dicts and lists of other classes become plain ones.

    Args:
        path: A file.
        names: The globals that the file asks for and that torch's unpickler refuses.
    """
    forms = dict.fromkeys(names, OBJECT)
    # Every pass learns of one name at least that it makes a dict or a list.
    for _ in range(2 * len(forms)):
        try:
            return _load(path, forms)
        except Exception as error:
            if not _learnt(forms, str(error)):
                raise
    return _load(path, forms)


def _load(path: Any, forms: Mapping[str, str]) -> object:
    known: list[Callable[..., object] | tuple[Callable[..., object], str]] = [
        (_stand_in(i, name, form), name) for i, (name, form) in enumerate(forms.items())
    ]
    # What getattr gives is called or filled in turn, under this name, which no file can mean.
    known.append((StandIn, "polyak.averaging.files.layouts.stand_ins.StandIn"))
    # The list of what is allowed is the process's own: it is as before when this returns.
    with (
        _LOCK,
        torch.serialization.safe_globals(known),
        warnings.catch_warnings(),
        open(path, "rb") as file,  # torch.load goes by a path's ending before it looks inside
    ):
        warnings.simplefilter("ignore")
        content: object = torch.load(file, map_location="cpu", weights_only=True)
    return content


def _stand_in(index: int, name: str, form: str) -> Callable[..., object]:
    if name in _ATTRIBUTE:
        return _nested
    made: dict[str, Any] = {"kind": name}
    if form != OBJECT:
        plain = OrderedDict if form == MAPPING else list
        made["__new__"] = lambda _, *__, **___: plain()
    return type(f"StandIn{index}", (StandIn,), made)


def _nested(*_: object) -> type[StandIn]:
    """In the place of getattr, by which pickles name methods and nested classes."""
    return StandIn


def _learnt(forms: dict[str, str], said: str) -> bool:
    """Whether torch's error says that a stand-in is filled as a dict or as a list."""
    found = _MENTIONED.search(said)
    if found is None:
        return False
    name = list(forms)[int(found[1])]
    form = SEQUENCE if re.search(r"append|extend", said) else MAPPING
    if forms[name] != OBJECT:
        return False
    forms[name] = form
    return True
