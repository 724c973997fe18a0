"""The config.json of a run's folder, read back, so that one run can be repeated alone."""

from dataclasses import fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from polyak.errors import FileError, one_line
from polyak.files import read_json
from polyak.training.config import Job, OverheadConfig, ProbeConfig, RunConfig


def read_config(path: Path) -> Job:
    """The run or probe that a config.json describes, or a file of a kept study's `configs/`.

    Settings that it does not name have their defaults. The configurations of a probe's backbones
    are read from where they lie beside it.

    Raises:
        FileError: if there is no such file, or it does not describe a run, or not the one whose
            folder it lies in.
    """
    record = _read(path)
    kind = record.pop("kind", None)
    try:
        if kind == "train":
            job: Job = _made(RunConfig, record)
        elif kind == "probe":
            record["backbones"] = [read_run_config(_beside(path, x)) for x in record["backbones"]]
            job = _made(ProbeConfig, record)
        elif kind == "overhead":
            record["run"].pop("kind")
            job = _made(OverheadConfig, record)
        else:
            raise ValueError(f"kind is {kind!r}")
        job.check()
        name = job.id
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FileError(
            f"{path} does not describe a run ({error}); expected the config.json of a run's folder."
        ) from error
    if path.name == "config.json" and path.resolve().parent.name != name:
        raise FileError(
            f"{path} describes run {name}; expected the run of its folder. It was altered, or "
            "written by another version: run the study again."
        )
    return job


def _beside(path: Path, run: str) -> Path:
    """The configuration of another run: in a folder of its own or, if kept, under its own name."""
    folder = path.resolve().parent
    if path.name == "config.json":
        return folder.parent / run / path.name
    return folder / f"{run}.json"


def read_run_config(path: Path) -> RunConfig:
    """The same, of a training run.

    Raises:
        FileError: if it is of something else.
    """
    job = read_config(path)
    if not isinstance(job, RunConfig):
        raise FileError(
            f"{path} describes a {type(job).__name__}; expected a training run. "
            "Give the folder of one."
        )
    return job


def _read(path: Path) -> dict[str, Any]:
    try:
        record = read_json(path)
    except (OSError, ValueError) as error:
        raise FileError(
            f"{path} cannot be read ({one_line(error)}); expected the config.json of a run's "
            "folder."
        ) from error
    if not isinstance(record, dict):
        raise FileError(f"{path} holds {record!r:.40}; expected a JSON object of a run.")
    return record


def _made(kind: type[Any], values: Any) -> Any:
    """A dataclass from JSON values, also of the dataclasses in it."""
    if not isinstance(values, dict):
        raise TypeError(f"{values!r:.40} stands for a {kind.__name__}")
    hints = get_type_hints(kind)
    unknown = values.keys() - {field.name for field in fields(kind)}
    if unknown:
        raise ValueError(f"unknown settings {sorted(unknown)}")
    return kind(**{name: _value(hints[name], value) for name, value in values.items()})


def _value(hint: Any, value: Any) -> Any:
    if is_dataclass(value):
        return value
    if isinstance(hint, type) and is_dataclass(hint):
        return _made(hint, value)
    if get_origin(hint) is tuple:
        return tuple(_value(get_args(hint)[0], item) for item in value)
    if get_origin(hint) in (Union, UnionType):
        # An option is a value or None; none has two types of values.
        kinds = [kind for kind in get_args(hint) if kind is not type(None)]
        return None if value is None else _value(kinds[0], value)
    return value
