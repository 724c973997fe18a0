"""What --json prints is what docs/json.md says: every key, its type, and nothing else on stdout."""

import json
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

import polyak
from polyak.cli.command_list import COMMANDS
from polyak.cli.main import main

PAGE = (Path(__file__).parents[2] / "docs" / "json.md").read_text(encoding="utf-8")
TYPES = {
    "text": str,
    "integer": int,
    "number": (int, float),
    "flag": bool,
    "null": type(None),
    "list": list,
    "object": dict,
}


def described(command: str) -> dict[str, str]:
    """Type by key of a command's section."""
    below = PAGE.partition(f"## polyak {command}\n")[2].partition("\n## ")[0]
    return dict(re.findall(r"^\| `([^`]+)` \| ([a-z ]+) \|", below, flags=re.MULTILINE))


def is_of(value: object, kind: str) -> bool:
    if kind.startswith("list of "):
        inner = kind.removeprefix("list of ")
        return isinstance(value, list) and all(is_of(x, inner) for x in value)
    if isinstance(value, bool) and kind != "flag":
        return False
    return isinstance(value, TYPES[kind])


def faults(value: object, table: dict[str, str], at: str = "") -> list[str]:
    """Where a value is not as its table says, at any depth."""
    found = []
    if at in table:
        kinds = table[at].split(" or ")
        if not any(is_of(value, kind) for kind in kinds):
            return [f"{at} is {value!r:.40}; expected {table[at]}"]
    below = {key for key in table if key.startswith((f"{at}.", f"{at}[]"))} if at else set(table)
    if value is None or not below:
        return [] if at in table else [f"{at} is not described"]
    if isinstance(value, list):
        return [fault for item in value for fault in faults(item, table, f"{at}[]")]
    if not isinstance(value, dict):
        return [f"{at} is {value!r:.40}; expected a list or an object"]
    prefix = f"{at}." if at else ""
    names = {re.match(r"\w+", key.removeprefix(prefix))[0] for key in below}
    found += [f"{prefix}{name} is missing" for name in sorted(names - value.keys())]
    for name, inner in value.items():
        found += faults(inner, table, f"{prefix}{name}")
    return found


@pytest.fixture
def asked(capsys):
    """Runs a command with --json and gives its one object, once it is as the page says."""

    def ask(*words):
        assert main([*map(str, words), "--json"]) == 0
        found = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
        assert list(found)[:2] == ["schema", "version"]
        assert (found["schema"], found["version"]) == (f"polyak-{words[0]}", 1)
        table = described(words[0]) | {"schema": "text", "version": "integer"}
        assert faults(found, table) == []
        return found

    return ask


def test_list(asked, capsys):
    found = asked("list")
    assert main(["list"]) == 0
    text = capsys.readouterr().out
    for study in [*found["studies"], *found["paper"]]:
        assert f"{study['name']} " in text
        assert study["title"] in text
    assert ", ".join(found["models"]) in text


def test_status_of_whole_studies_and_of_broken_runs(asked, noisy_out, tmp_path):
    [study] = asked("status", noisy_out)["studies"]
    assert [run["state"] for run in study["runs"]] == ["done", "done"]
    assert study["runs"][0]["best"]["average"] == "ema_0.9"
    assert study["runs"][1]["best"] is None
    begun = tmp_path / "runs" / "0123456789ab"
    begun.mkdir(parents=True)
    (begun / "FAILED").write_text("ValueError: why")
    [study] = asked("status", tmp_path)["studies"]
    [run] = study["runs"]
    assert (run["state"], run["note"], run["epochs"]) == ("failed", "ValueError: why", None)
    assert run["checked"]


def test_inspect_of_weights_and_of_what_holds_none(asked, noisy_search, tmp_path):
    [weights] = asked("inspect", noisy_search.arm("ema_acc_bn"))["weights"]
    assert (weights["name"], weights["nature"]) == ("ema_acc_bn", "averaged")
    assert weights["average"]["decay"] == 0.9
    parts = asked("inspect", noisy_search.predictions)["predictions"]
    assert [part["name"] for part in parts] == ["test", "holdout", "train"]
    model = torch.nn.Linear(2, 2)
    averager = polyak.Averager(model, [0.9])
    path = tmp_path / "a.pt"
    torch.save({"model": model.state_dict(), "ema": averager.state_dict(), "epoch": 3}, path)
    found = asked("inspect", path)
    assert found["about"]["epoch"] == 3
    assert len(found["about"]["left_out"]) == 1


def test_evaluate(asked, noisy_out, noisy_search):
    [found] = asked("evaluate", noisy_out / "small")["evaluations"]
    assert Path(found["table"]).is_file()
    assert {result["arm"] for result in found["results"]} >= {"sgd", "ema_acc_bn"}
    [found] = asked("evaluate", noisy_search.path)["evaluations"]
    assert found["table"] is None


def test_audit(asked, noisy_search):
    found = asked("audit", noisy_search.path, "--top", "3")
    assert [row["rank"] for row in found["doubtful"]] == [1, 2, 3]
    assert found["samples"] == 90
    assert {score["kind"] for score in found["scores"]} == {"margin", "loss", "disagreement"}
    assert Path(found["labels"]).is_file()


def test_report(asked, noisy_out, tmp_path):
    found = asked("report", noisy_out / "small", "--keep", tmp_path / "kept")
    assert Path(found["page"]).is_file()
    assert Path(found["ledger"]).is_file()
    assert Path(found["results"]).is_file()
    assert {claim["verdict"] for claim in found["claims"]} <= {
        "reproduced",
        "not reproduced",
        "underpowered",
        "not run",
    }


def test_predict(asked, noisy_search, tmp_path):
    path = tmp_path / "a.png"
    Image.new("L", (8, 8), 90).save(path)
    found = asked("predict", noisy_search.path, path)
    [image] = found["images"]
    assert sum(image["probabilities"]) == pytest.approx(1)
    assert image["class"] in found["classes"]


@pytest.mark.parametrize(
    "words",
    [
        ["status", "absent"],
        ["inspect", "absent"],
        ["evaluate", "absent"],
        ["audit", "absent"],
        ["report", "absent"],
        ["predict", "absent", "x.png"],
    ],
    ids=lambda words: words[0],
)
def test_what_is_refused_has_its_exit_code_and_nothing_on_stdout(words, refused):
    refused(*words, "--json")


def test_watching_is_no_object(noisy_out, refused):
    assert "watch is given with json" in refused("status", noisy_out, "--watch", "--json")


def test_every_command_that_takes_json_has_a_section(capsys):
    takes = set()
    for command in COMMANDS:
        with pytest.raises(SystemExit):
            main([command, "--help"])
        takes |= {command} if "--json" in capsys.readouterr().out else set()
    assert takes == set(re.findall(r"^## polyak (\w+)$", PAGE, flags=re.MULTILINE))


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ({"a": [{"b": 1}]}, []),
        ({"a": [{"b": "x"}]}, ["a[].b is 'x'; expected integer"]),
        ({"a": [{"b": True}]}, ["a[].b is True; expected integer"]),
        ({"a": [{}]}, ["a[].b is missing"]),
        ({"a": [], "c": 1}, ["c is not described"]),
        ({}, ["a is missing"]),
    ],
)
def test_the_check_sees_every_fault(value, fault):
    assert faults(value, {"a[].b": "integer"}) == fault
