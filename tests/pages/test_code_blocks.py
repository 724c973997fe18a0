"""The code on every page runs as it stands there."""

import subprocess
import sys

import pytest
from support.pages import PAGES, ROOT, commands, execute, languages

from polyak.cli.command_list import COMMANDS
from polyak.cli.parsing import parsed

WITH_PYTHON = [page for page in PAGES if "python" in languages(page)]
ELSEWHERE = {
    "docs/runs.md": "tests/runs/test_page.py has the run that it loads",
    "docs/extending.md": "tests/test_end_to_end.py has the study that it reads",
    "docs/sharded.md": "below, in two processes",
}
WITH_COMMANDS = [page for page in PAGES if commands(page)]


@pytest.mark.parametrize("page", PAGES)
def test_every_block_says_what_it_is(page):
    named = {"python", "sh", "text", "json", "toml", "yaml"}
    own = {language for language in languages(page) if page == "docs/data.md" and " " in language}
    assert set(languages(page)) - own <= named


@pytest.mark.filterwarnings("ignore", "error::RuntimeWarning")  # ours are; other tools say a lot
@pytest.mark.parametrize("page", [page for page in WITH_PYTHON if page not in ELSEWHERE])
def test_the_python_of_a_page_runs_as_it_stands_there(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    left_out = execute(page)
    if left_out:
        pytest.skip(f"in part: {', '.join(left_out)}")


@pytest.mark.parametrize("page", WITH_COMMANDS)
def test_every_command_of_a_page_is_one_that_polyak_knows(page):
    for name, *words in commands(page):
        if name == "--version":
            continue
        assert name in COMMANDS, name
        if "--help" not in words:
            parsed(name, words)


@pytest.mark.slow
def test_the_page_on_several_processes_runs_in_two(tmp_path):
    call = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    call += [str(ROOT / "tests" / "support" / "pages.py"), "docs/sharded.md"]
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]


def test_a_block_that_fails_names_its_page_and_line(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text("# Page\n\n```python\nx = 1\n```\n\n```python\nassert x == 2\n```\n")
    monkeypatch.setitem(PAGES, "page.md", page)
    with pytest.raises(AssertionError) as caught:
        execute("page.md")
    assert (caught.traceback[-1].path, caught.traceback[-1].lineno) == (page, 7)


def test_what_is_not_installed_is_left_out_and_said(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text(
        '<!--- skip: next if(lacks("nowhere"), "needs nowhere") -->\n\n'
        '```python\nimport nowhere\n```\n\n```python\nassert not lacks("torch")\n```\n'
    )
    monkeypatch.setitem(PAGES, "page.md", page)
    assert execute("page.md") == ["needs nowhere"]
