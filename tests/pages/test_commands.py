"""The commands of the pages, carried out one after the other in one folder as a reader would."""

import numpy as np
import pytest
from PIL import Image
from support.pages import commands

from polyak.cli.main import main
from polyak.records.studies import read_study

PAGES = ("docs/extending.md", "docs/label-audit.md", "docs/runs.md", "docs/data.md")
STANDS_FOR_A_RUN = "0123456789ab"
SHIFTED = """
from dataclasses import replace

from polyak.data import DataConfig, load as load_data, prepare


def load():
    data = load_data(prepare(DataConfig(source="digits")))
    test = replace(data.test, images_nchw=data.test.images_nchw.roll(1, 3))
    return test, test
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """What the pages say that a reader has: pictures, and a function that loads other images."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("POLYAK_CACHE", str(tmp_path / "cache"))
    draw = np.random.default_rng(0)
    pixels = iter(draw.integers(0, 256, (40, 32, 32, 3), dtype=np.uint8))
    pets = tmp_path / "path" / "to" / "pets"
    places = [pets / part / kind for part in ("train", "test") for kind in ("cats", "dogs")]
    for place in (*places, tmp_path / "photos"):
        place.mkdir(parents=True)
        for number in range(6):
            Image.fromarray(next(pixels)).save(place / f"{number}.png")
    for path in [tmp_path / "one.jpg", *(tmp_path / "photos").iterdir()]:
        Image.fromarray(next(pixels)[:8, :8, 0]).convert("L").save(path)
    (tmp_path / "shifted.py").write_text(SHIFTED)
    return tmp_path


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # a network of few pictures has much to say
def test_the_commands_of_the_pages_do_what_they_say(folder, capfd):
    run = STANDS_FOR_A_RUN
    for page in PAGES:
        for words in commands(page, at_hand=True):
            given = [word.replace(STANDS_FOR_A_RUN, run) for word in words]
            assert main(given) == 0, f"{page}: polyak {' '.join(given)}\n{capfd.readouterr().err}"
            if given[:2] == ["study", "mine.py"] and (folder / "out" / "mine").exists():
                run = read_study(folder / "out" / "mine").rows[0].refit["0"]
    assert (folder / "said.csv").exists()
    assert (folder / "model.pt2").exists()
