import csv

import pytest

from polyak.cli.main import main

# Class c of an image is the quarter of it that is bright.
QUARTERS = """
import torch
from polyak.data import ImageSet

def load():
    draw = torch.Generator().manual_seed(0)
    sets = []
    for n in (400, 100):
        labels = torch.arange(n) % 4
        images = torch.randint(0, 120, (n, 1, 8, 8), generator=draw)
        for i, c in enumerate(labels.tolist()):
            images[i, 0, 4 * (c // 2):4 * (c // 2) + 4, 4 * (c % 2):4 * (c % 2) + 4] += 100
        images = images.to(torch.uint8)
        names = ("north west", "north east", "south west", "south east")
        sets.append(ImageSet(images_nchw=images, labels_n=labels, classes=names))
    return tuple(sets)
"""
NOISE = "--data.noise.kind symmetric --data.noise.rate 0.3".split()  # noqa: SIM905 (as typed)
SHAPE = "--data.crop-padding 0 --data.no-flip --model.width 4 --epochs 4".split()  # noqa: SIM905
RATE = "--batch-size 16 --optim.lr 0.1 --optim.warmup-epochs 1".split()  # noqa: SIM905
BANK = "--averaging.decays 0.5 0.8 --averaging.every 2".split()  # noqa: SIM905
REST = [*SHAPE, *RATE, *BANK]


@pytest.fixture(scope="module")
def quarters(tmp_path_factory):
    file = tmp_path_factory.mktemp("source") / "quarters.py"
    file.write_text(QUARTERS)
    return ["train", "--data.source", f"{file}:load"]


def train(arguments, out, capsys):
    assert main([*arguments, "--out", str(out)]) == 0
    capsys.readouterr()
    (folder,) = (out / "runs").iterdir()
    return folder


def test_labels_that_were_made_wrong_lead_the_table(quarters, tmp_path, capsys):
    """120 of 400 labels are known to be wrong, and the task is easy."""
    folder = train([*quarters, *NOISE, *REST], tmp_path, capsys)
    assert main(["audit", str(folder), "--top", "7"]) == 0
    said = capsys.readouterr()
    assert "evaluating ema_acc_bn" in said.err
    *sentences, labels, page = said.out.splitlines()
    assert "Of the 7 labels that it doubts most 7 are wrong" in sentences[1]
    audit = tmp_path / "audits" / folder.name
    assert labels == f"labels: {(audit / 'labels.csv').resolve()}"
    assert page == f"page: {(audit / 'index.html').resolve()}"
    with (audit / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 400
    assert sum(row["part"] == "holdout" for row in rows) == 80
    wrong = [row["given"] != row["clean"] for row in rows]
    assert sum(wrong) == 120
    assert sum(wrong[:100]) >= 90
    with (audit / "scores.csv").open(newline="") as file:
        score = next(csv.DictReader(file))
    assert (score["part"], score["score"], score["arm"]) == ("all", "margin", "ema_acc_bn")
    assert float(score["auroc"]) > 0.9
    assert (audit / "index.html").read_text(encoding="utf-8").count("<img") == 7
    # Again, by id: nothing is computed twice, and the answer is the same.
    assert main(["audit", folder.name, "--out", str(tmp_path), "--top", "7"]) == 0
    again = capsys.readouterr()
    assert (again.out, again.err) == (said.out, "")
    # Another average that was not asked before.
    assert main(["audit", str(folder), "--average", "swa_bn"]) == 0
    assert "SWA + BN prefers another class" in capsys.readouterr().out


def test_without_known_truth_there_is_a_table_and_no_verdict(quarters, tmp_path, capsys):
    folder = train([*quarters, *REST, "--no-holdout"], tmp_path, capsys)
    assert main(["audit", str(folder)]) == 2
    err = capsys.readouterr().err
    assert "average is 'ema_acc_bn'; expected one of sgd, sgd_bn, swa_bn" in err
    assert main(["audit", str(folder), "--average", "swa_bn", "--top", "0"]) == 0
    assert "is not known here" in capsys.readouterr().out
    assert not (tmp_path / "audits" / folder.name / "scores.csv").exists()


def test_a_damaged_table_of_predictions_is_made_again(quarters, tmp_path, capsys):
    folder = train([*quarters, *NOISE, *REST, "--epochs", "2"], tmp_path, capsys)
    assert main(["audit", str(folder)]) == 0
    before = capsys.readouterr().out
    (tmp_path / "audits" / folder.name / "predictions.safetensors").write_bytes(b"half")
    assert main(["audit", str(folder)]) == 0
    assert capsys.readouterr().out == before


def test_what_is_no_run_is_code_2(tmp_path, capsys):
    assert main(["audit", "nothing", "--out", str(tmp_path)]) == 2
    assert "run is 'nothing'; expected the folder of a run, or an id in" in capsys.readouterr().err
    assert main(["audit", "nothing", "--top", "-1"]) == 2
    assert "top is -1; expected >= 0" in capsys.readouterr().err


@pytest.mark.slow
def test_wrong_labels_of_people_are_found_better_than_by_chance(real_data, tmp_path, capsys):
    """CIFAR-10 (JPEG q75) with CIFAR-10N's labels, of which 40 % are wrong."""
    labels = real_data / "cifar-n" / "CIFAR-10_human.pt"
    data = ["--data.source", str(real_data / "cifar10-jpeg"), "--data.train-limit", "1000"]
    noise = ["--data.noise.kind", "file", "--data.noise.file", str(labels)]
    key = ["--data.noise.key", "worse_label", "--data.test-limit", "100"]
    run = ["--model.name", "resnet8", "--epochs", "4", *RATE, *BANK]
    folder = train(["train", *data, *noise, *key, *run], tmp_path, capsys)
    assert main(["audit", str(folder), "--top", "3"]) == 0
    assert "Its margin ranks a wrong label above a right one" in capsys.readouterr().out
    with (tmp_path / "audits" / folder.name / "scores.csv").open(newline="") as file:
        score = next(csv.DictReader(file))
    assert 0.35 < int(score["wrong"]) / int(score["samples"]) < 0.45
    assert float(score["auroc_low"]) > 0.55
