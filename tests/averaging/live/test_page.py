"""The examples of docs/teachers.md run as they stand there, one after the other."""

import re
from pathlib import Path

import torch

PAGE = (Path(__file__).parents[3] / "docs" / "teachers.md").read_text(encoding="utf-8")


def test_the_pages_examples_run_and_are_what_it_says():
    torch.manual_seed(0)
    blocks = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    assert len(blocks) == 5
    space: dict[str, object] = {}
    for number, block in enumerate(blocks):
        exec(compile(block, f"docs/teachers.md, block {number}", "exec"), space)
        if not number:
            averager, teacher, x = (space[name] for name in ("averager", "teacher", "x"))
            assert averager.updates == 3
            assert torch.equal(teacher(x), averager.module()(x))
    assert space["late"].names == ("ema_0.999_from_1950",)
    assert [each.updates for each in space["averagers"]] == [1, 1]


def test_the_page_says_the_words_that_people_look_for():
    for word in ("teacher", "target network", "anchor", "BYOL", "DINO", "Mean Teacher", "tau", "τ"):
        assert word in PAGE, word
