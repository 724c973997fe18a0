"""Archives whose members would lie outside of the folder that they are unpacked into."""

import re
import tempfile
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest
import torch

import polyak
from polyak.averaging.files.foreign import read_foreign
from polyak.errors import FileError

ELSEWHERE = str(Path(tempfile.gettempdir()) / "polyak-outside")
OUTSIDE = ("../outside", "../../outside", ELSEWHERE, "checkpoint/../../outside")


def rewritten(source, target, rename):
    """The archive with its members' names changed."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            new.writestr(rename(name), old.read(name))


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_member_that_points_outside_is_written_nowhere(tmp_path, name):
    folder = tmp_path / "in" / "deep"
    folder.mkdir(parents=True)
    path = folder / "checkpoint.pt"
    torch.save({"state_dict": {"w": torch.ones(2)}}, path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, "evil")
    before = sorted(tmp_path.rglob("*"))
    # Torch refuses most of them; what it does not look at does no harm.
    with suppress(FileError):
        read_foreign(path)
    assert sorted(tmp_path.rglob("*")) == before
    assert not Path(ELSEWHERE).exists()


@pytest.mark.parametrize("name", OUTSIDE)
def test_tensors_in_members_that_point_outside_are_refused(tmp_path, name):
    path, hostile = tmp_path / "checkpoint.pt", tmp_path / "in" / "hostile.pt"
    hostile.parent.mkdir()
    torch.save({"state_dict": {"w": torch.ones(2)}}, path)
    rewritten(path, hostile, lambda member: name if member.endswith("data/0") else member)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(FileError, match=r"hostile\.pt"):
        read_foreign(hostile)
    assert sorted(tmp_path.rglob("*")) == before


def test_nothing_in_the_source_unpacks_an_archive():
    unpacks = re.compile(r"extractall|unpack_archive|\.extract\(")
    root = Path(polyak.__file__).parent
    texts = {path: path.read_text(encoding="utf-8") for path in root.rglob("*.py")}
    assert not [path for path, text in texts.items() if unpacks.search(text)]
    # Shards of pictures are read member by member, in memory.
    tar = [path.name for path, text in texts.items() if re.search(r"\btarfile\b", text)]
    assert tar == ["tar_shards.py"]
