"""What `import polyak` costs and loads, seen from a fresh process."""

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import polyak

SEEN = """
import json, sys
import polyak
bare = sorted(sys.modules)
polyak.Averager
first = sorted(sys.modules)
polyak.metrics
print(json.dumps([bare, first, sorted(sys.modules), polyak.metrics.__name__]))
"""
FIRST_ROUND = Path(__file__).parent / "fixtures" / "first-round" / "out.zip"
SAID = """
import json, sys
from polyak.cli.main import main
try:
    main(sys.argv[1:])
except SystemExit:
    pass
print(json.dumps(sorted(sys.modules)))
"""


@pytest.fixture(scope="module")
def modules() -> dict[str, list[str]]:
    """Modules loaded by `import polyak`, for `polyak.Averager`, and for `polyak.metrics` too."""
    done = subprocess.run([sys.executable, "-c", SEEN], check=True, capture_output=True, text=True)
    bare, first, then, name = json.loads(done.stdout)
    assert name == "polyak.metrics"
    assert done.stderr == ""
    return {"bare": bare, "import": first, "metrics": then}


WINGS = (
    "analysis",
    "cli",
    "data",
    "integrations",
    "loggers",
    "metrics",
    "models",
    "records",
    "report",
    "runs",
    "study",
    "training",
)
HEAVY = (
    "PIL",
    "datasets",
    "hypothesis",
    "jinja2",
    "lightning",
    "matplotlib",
    "pandas",
    "pyarrow",
    "ray",
    "rich",
    "scipy",
    "sklearn",
    "torchvision",
    "transformers",
    "tyro",
)


@pytest.mark.parametrize("wing", WINGS)
def test_importing_polyak_loads_nothing_of_the_study(modules, wing):
    assert not [m for m in modules["import"] if f"{m}.".startswith(f"polyak.{wing}.")]


@pytest.mark.parametrize("package", HEAVY)
def test_importing_polyak_needs_torch_and_safetensors_only(modules, package):
    for moment in ("import", "metrics"):
        assert not [m for m in modules[moment] if f"{m}.".startswith(f"{package}.")]


def test_metrics_are_loaded_when_they_are_first_asked_for(modules):
    assert "polyak.metrics" not in modules["import"]
    assert "polyak.metrics" in modules["metrics"]


def test_the_averager_is_loaded_when_it_is_first_asked_for(modules):
    assert "polyak.averaging.averager" in modules["import"]
    assert {m for m in modules["bare"] if m.startswith("polyak")} == {"polyak", "polyak.lazy"}
    assert "torch" not in modules["bare"]


@pytest.mark.parametrize("words", [["--help"], ["--version"], [], ["trian"]])
def test_the_command_says_what_it_can_do_without_torch(words):
    loaded = loaded_by(*words)
    assert not roots(loaded) & {"torch", "numpy", "safetensors", *HEAVY}
    assert len([name for name in loaded if name.startswith("polyak")]) < 12


def loaded_by(*words: str) -> list[str]:
    """The modules of a process that carried out a command line."""
    call = [sys.executable, "-c", SAID, *words]
    done = subprocess.run(call, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def of(loaded: list[str], wings: tuple[str, ...]) -> set[str]:
    """Those of some packages of ours."""
    return {name for name in loaded if name.startswith(tuple(f"polyak.{wing}" for wing in wings))}


def roots(loaded: list[str]) -> set[str]:
    return {name.partition(".")[0] for name in loaded}


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    """An output folder with studies."""
    folder = tmp_path_factory.mktemp("studies")
    with zipfile.ZipFile(FIRST_ROUND) as archive:
        archive.extractall(folder)
    return folder


def test_studies_are_listed_without_torch():
    loaded = loaded_by("list")
    assert not roots(loaded) & {"torch", "numpy", "safetensors", *HEAVY} - {"tyro"}
    # All presets are listed, so all are imported: each is plain settings.
    assert len([name for name in loaded if name.startswith("polyak")]) < 70


def test_how_far_runs_are_is_said_without_torch(out):
    loaded = loaded_by("status", str(out))
    needed = {"tyro", "rich"}
    assert not roots(loaded) & {"asyncio", "torch", "numpy", "safetensors", *HEAVY} - needed
    assert len([name for name in loaded if name.startswith("polyak")]) < 60


def test_files_are_inspected_without_the_laboratory(out):
    loaded = loaded_by("inspect", str(next(out.rglob("averages/*.safetensors"))))
    assert not roots(loaded) & set(HEAVY) - {"tyro"}
    wings = ("training", "study", "report", "analysis", "data", "models", "metrics")
    # What main says of a run that was interrupted.
    assert of(loaded, wings) <= {"polyak.training", "polyak.training.interruption"}


def test_a_page_is_written_without_what_trains(out):
    loaded = loaded_by("report", str(out / "few"))
    assert "matplotlib.pyplot" not in loaded
    assert not roots(loaded) & {"datasets", "pandas", "rich", "sklearn", "filelock"}
    trains = ("training", "study", "data", "models", "averaging")
    assert of(loaded, trains) <= {"polyak.training", "polyak.training.interruption"}


def test_all_public_names_are_listed_before_any_was_asked_for():
    code = "import polyak; print(set(polyak.__all__) <= set(dir(polyak)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


def test_everything_public_exists():
    for name in polyak.__all__:
        assert getattr(polyak, name) is not None


NAMED = re.compile(r"\bpolyak\.([A-Za-z_]\w*)")
KEPT = {"Averaging"}
"""What only looks like a name to import: the key of Lightning's callback in checkpoints."""


def test_what_pages_docstrings_and_errors_name_can_be_imported():
    root = Path(polyak.__file__).parent
    texts = [path.read_text(encoding="utf-8") for path in root.rglob("*.py")]
    pages = Path(__file__).parents[1]
    texts += [
        p.read_text(encoding="utf-8") for p in [*pages.glob("*.md"), *pages.glob("docs/*.md")]
    ]
    named = {name for text in texts for name in NAMED.findall(text)} - KEPT
    assert {"Average", "gathered", "merge", "profile"} <= named | set(polyak.__all__)
    parts = {path.stem for path in root.iterdir()}
    assert not {name for name in named - parts if not hasattr(polyak, name)}


@pytest.mark.parametrize("name", sorted(polyak.averaging.__all__))
def test_all_of_averaging_is_at_the_front_door_too(name):
    assert getattr(polyak, name) is getattr(polyak.averaging, name)


def test_an_unknown_attribute_is_a_plain_attribute_error():
    with pytest.raises(AttributeError, match="module 'polyak' has no attribute 'averger'"):
        polyak.averger  # noqa: B018 (asking is what is tested)
    assert not hasattr(polyak, "study_")


def test_the_version_is_one_that_tools_can_compare():
    major, minor, patch = polyak.__version__.split(".")[:3]
    assert major.isdigit()
    assert minor.isdigit()
    assert patch
