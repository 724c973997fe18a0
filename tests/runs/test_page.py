"""The examples of docs/runs.md run as they stand there."""

import re
import warnings
from pathlib import Path

PAGE = (Path(__file__).parents[2] / "docs" / "runs.md").read_text(encoding="utf-8")


def test_the_pages_examples_run(run, out, monkeypatch, capsys):
    monkeypatch.chdir(out.parent)
    blocks = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    # What the run of the other blocks kept is too little for a board: test_boards.py runs this one.
    blocks = [block for block in blocks if "runs.board" not in block]
    assert len(blocks) == 3
    code = "".join(blocks).replace("out/runs/0123456789ab", f"{out.name}/runs/{run.id}")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exec(compile(code, "docs/runs.md", "exec"), {})
    assert f"ema_acc_bn {run.metrics('ema_acc_bn')['accuracy']}" in capsys.readouterr().out


def test_the_page_names_everything_that_a_run_has(run):
    public = {name for name in dir(run) if not name.startswith("_")} - {"folder", "card"}
    assert {name for name in public if f"run.{name}" not in PAGE} == set()
