"""Archives whose members would lie outside of the folder that they are unpacked into."""

import re
import tempfile
import time
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


def test_an_archive_that_unpacks_to_far_more_than_it_holds_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "bomb.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("bomb/data.pkl", b"\x80\x02" + b"0" * (200 << 20))
    began = time.process_time()
    with pytest.raises(FileError, match=r"bomb\.pt has .* bytes and unpacks to 209,715,202"):
        read_foreign(path)
    assert time.process_time() - began < 1.0
    # What torch writes is never refused for its size.
    torch.save({"w": torch.zeros(1 << 20)}, tmp_path / "zeros.pt")
    assert read_foreign(tmp_path / "zeros.pt")


@pytest.mark.parametrize("name", ["commands.Popen", "runpy.run_path", "importlib.import_module"])
def test_a_pickle_that_names_what_runs_code_is_not_to_be_opened(tmp_path, name):
    module, _, function = name.partition(".")
    path = tmp_path / "evil.pt"
    path.write_bytes(f"\x80\x02c{module}\n{function}\n(X\x02\x00\x00\x00idtR.".encode("latin-1"))
    with pytest.raises(FileError, match="do not open it"):
        read_foreign(path)
