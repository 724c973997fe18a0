"""The sentences under a row's headline."""

import json
import shutil

from polyak.analysis.results import study_results
from polyak.records.runs import run_folder
from polyak.report import facts
from polyak.report.sections.summary import headline

PART = "These are a part of the data set's; polyak evaluate judges the weights by all."


def about_the_test_set(out, study):
    row = study.rows[0]
    (sentence,) = [
        text
        for text in headline(out, row, study_results(out, study)).more
        if text.startswith("The test set has")
    ]
    return sentence


def test_a_part_of_the_test_set_is_named_as_one_with_what_to_do(toy, tmp_path):
    out, study = tmp_path / "out", toy[1]
    shutil.copytree(toy[0], out)
    assert not about_the_test_set(out, study).endswith(PART)
    for run in facts.all_runs(study.rows[0]):
        path = run_folder(out, run).path / "config.json"
        if path.exists():
            config = json.loads(path.read_text())
            config["data"]["test_limit"] = 60
            path.write_text(json.dumps(config))
    assert about_the_test_set(out, study).endswith(PART)
