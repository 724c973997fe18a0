"""Ids of runs are names of folders that people have: whatever moves in the code, they stay.

`fixtures/first-round/run-ids.json` holds what the code of the first round gave. A study that is
new since is not in it, nor is the demo, whose settings are others since; `python
tests/test_run_ids.py` writes all to stdout, to compare.
"""

import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import Any

import pytest

from polyak.errors import ConfigError
from polyak.records.paper_code import PAPER_CODE
from polyak.records.studies import RowRecord
from polyak.records.vocabulary import Stop
from polyak.study.follow_ups import follow_ups, stops_of
from polyak.study.options import with_more_averages, with_protocol
from polyak.study.paper.presets import PAPER_STUDIES, preset
from polyak.study.paper.scales import SCALES
from polyak.study.plan import Row, Study, refit, search, transfer
from polyak.study.preparation import as_begun, prepare_measurement, prepare_rows
from polyak.study.user_study import load_study
from polyak.training.config_file import read_config

HERE = Path(__file__).parent
FIXTURE = HERE / "fixtures" / "first-round" / "run-ids.json"
RESULTS = HERE.parent / "docs" / "results"

Make = Callable[..., Study]
"""From options of `preset` to a study."""


def in_float32(study: Study) -> Study:
    rows = (replace(row, config=replace(row.config, fp32=True)) for row in study.rows)
    return replace(study, rows=tuple(rows))


SWITCHES: dict[str, Callable[[Make], Study]] = {
    "": lambda make: make(),
    "--controls": lambda make: make(controls=True),
    "--more-averages": lambda make: with_more_averages(make()),
    "--fp32": lambda make: in_float32(make()),
    "--paper-code all": lambda make: with_protocol(make(), paper_code=tuple(PAPER_CODE)),
    "--selection bn_safe": lambda make: with_protocol(make(), selection="bn_safe"),
    "--clean-holdout": lambda make: with_protocol(make(), clean_holdout=True),
    "--more-averages --fp32 --paper-code all --selection bn_safe --clean-holdout": (
        lambda make: with_protocol(
            in_float32(with_more_averages(make())),
            paper_code=tuple(PAPER_CODE),
            selection="bn_safe",
            clean_holdout=True,
        )
    ),
}
"""What the command line does with each, in its order."""


def phases(row: Row) -> Iterator[tuple[str, list[str]]]:
    """Ids of a row's runs by phase, as if its search had chosen these epochs and the last rate."""
    searched = search(row)
    yield "search", [run.id for by_seed in searched.values() for run in by_seed.values()]
    epochs, names = row.config.epochs, row.config.averaging.names
    stops = tuple(
        Stop(rule=rule, epoch=ceil(share * epochs), average=average)
        for rule, share, average in (
            ("sgd", 1.0, "sgd"),
            ("acc", 0.7, names[-1]),
            ("loss", 0.5, names[0]),
        )
    )
    rate = row.learning_rates[-1]
    record = RowRecord(
        label=row.label,
        dataset=row.dataset,
        architecture=row.architecture,
        seeds=row.seeds,
        learning_rates=row.learning_rates,
        averages=names,
        paper_averages=names,
        chosen_learning_rate=rate,
        stops={str(seed): stops for seed in row.seeds},
    )
    swad = None
    if "swad" in row.config.more_averages:
        swad = dict.fromkeys(row.seeds, (ceil(epochs / 2), epochs))
    refits = refit(row, rate, stops_of(record), swad=swad)
    if row.refits:
        yield "refit", [run.id for run in refits.values()]
    for name, runs in follow_ups(row, record).items():
        yield name, [run.id for run in runs.values()]
    yield "transfer", [probe.id for probe in transfer(row, tuple(refits.values())).values()]


def summary(study: Study) -> dict[str, Any]:
    """All ids of a study as a checksum, and of each phase the first id of each row in clear."""
    every: set[str] = set()
    first: dict[str, list[str]] = {}
    if study.measurement is not None:
        first["measure"] = [study.measurement.config.id]
        every.update(first["measure"])
    for row in study.rows:
        for phase, ids in phases(row):
            first.setdefault(phase, []).extend(ids[:1])
            every.update(ids)
    return {
        "name": study.name,
        "runs": len(every),
        "sha256": hashlib.sha256("\n".join(sorted(every)).encode()).hexdigest(),
        "first": {phase: " ".join(ids) for phase, ids in first.items() if ids},
    }


def by_switch(make: Make) -> dict[str, Any]:
    """The summary of a study with each of the switches; None where one is refused."""
    found: dict[str, Any] = {}
    for words, switched in SWITCHES.items():
        try:
            found[words] = summary(switched(make))
        except ConfigError:
            found[words] = None
    return found


def maker(name: str, scale: str | None, places: Mapping[str, str] | None = None) -> Make:
    return lambda **options: preset(name, scale=scale, places=places, **options)


def commands() -> dict[str, Make]:
    """All studies that have a name, by what is typed; their data need not be there."""
    found = {"demo": maker("demo", None)}
    for name in PAPER_STUDIES:
        found |= {f"{name} --scale {scale}": maker(name, scale) for scale in SCALES}
    return found


PLACES = {"cifar100": "digits", "cifar10": "digits", "tiny-imagenet": "digits"}
PREPARED = {
    "demo": maker("demo", None),
    "table1 --scale small": maker("table1", "small", PLACES),
    "table4 --scale tiny": maker("table4", "tiny", PLACES),
    "overhead --scale tiny": maker("overhead", "tiny", PLACES),
}
"""Studies whose data is at hand with digits in the paper's places."""


def prepared(study: Study) -> Study:
    """As it is run: with fingerprints of its data, and decays that fit to its length."""
    measurement = study.measurement and prepare_measurement(study.measurement)
    return replace(study, rows=tuple(prepare_rows(study.rows)), measurement=measurement)


@pytest.fixture(scope="module")
def recorded() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(FIXTURE.read_text())
    return found


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POLYAK_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def test_every_study_of_the_first_round_has_the_ids_that_it_had(recorded):
    known = commands()
    found = {words: by_switch(known[words]) for words in recorded["presets"]}
    assert found == recorded["presets"]


def test_with_its_data_at_hand_too(recorded):
    assert {words: summary(prepared(PREPARED[words]())) for words in recorded["prepared"]} == (
        recorded["prepared"]
    )


def test_a_study_of_one_s_own_that_the_first_round_began_goes_on(recorded, tmp_path):
    """Its code had another fingerprint then."""
    begun = recorded["own file"]["first"]["search"].split()
    assert own(tmp_path, begun=begun) == recorded["own file"]
    (tmp_path / "anew").mkdir()
    assert own(tmp_path / "anew")["sha256"] != recorded["own file"]["sha256"]


def kept_studies() -> dict[str, Any]:
    """Studies beside the results that are kept, their data not at hand."""
    paths = sorted(RESULTS.glob("*/study.py"))
    return {path.parent.name: summary(load_study(path)) for path in paths}


def own(folder: Path, *, begun: Sequence[str] = ()) -> dict[str, Any]:
    """The example of the first round, as people have it in their folders, with runs begun then."""
    path = folder / "mine.py"
    path.write_text((FIXTURE.parent / "mine.py.txt").read_text())
    for run in begun:
        (folder / "runs" / run).mkdir(parents=True)
    study = prepared(load_study(path))
    return summary(replace(study, rows=tuple(as_begun(row, folder) for row in study.rows)))


def test_the_studies_of_kept_results_are_what_they_were(recorded, monkeypatch):
    monkeypatch.delenv("DATA", raising=False)
    found = kept_studies()
    assert {name: found[name] for name in recorded["kept studies"]} == recorded["kept studies"]


def test_every_kept_configuration_describes_the_run_of_its_name():
    paths = sorted(RESULTS.glob("*/configs/*.json"))
    assert len(paths) >= 126
    assert [read_config(path).id for path in paths] == [path.stem for path in paths]


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        everything = {
            "presets": {words: by_switch(make) for words, make in commands().items()},
            "prepared": {words: summary(prepared(make())) for words, make in PREPARED.items()},
            "kept studies": kept_studies(),
            "own file": own(Path(folder), begun=sys.argv[1:]),
        }
    sys.stdout.write(json.dumps(everything, indent=1) + "\n")
