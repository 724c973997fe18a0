"""What is said of a command line that was mistyped, and how help looks."""

import inspect
import re
import shlex

import pytest

from polyak.cli import parsing
from polyak.cli.command_list import COMMANDS, GROUPS, overview
from polyak.cli.main import main


def stopped(words, capsys, *, code):
    with pytest.raises(SystemExit) as caught:
        main(shlex.split(words))
    assert caught.value.code == code
    return capsys.readouterr()


@pytest.mark.parametrize("name", COMMANDS)
def test_the_overview_says_of_a_command_what_its_docstring_says(name):
    first = " ".join(inspect.getdoc(parsing._kind(name)).split("\n\n")[0].split())
    assert COMMANDS[name].summary == first
    assert re.search(rf"^  {name} +{re.escape(first)}$", overview(), re.M)


def test_the_overview_has_groups_version_and_completion():
    page = overview()
    for part in (*GROUPS, "--version", "--tyro-print-completion", "-h, --help"):
        assert part in page


@pytest.mark.parametrize("name", COMMANDS)
def test_every_page_of_help_has_an_example_and_no_name_of_the_code(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    said = stopped(f"{name} --help", capsys, code=0)
    assert said.err == ""
    assert f"Example: polyak {COMMANDS[name].example}" in said.out
    assert said.out.startswith(f"usage: polyak {name}")
    assert "None}" not in said.out
    assert "{None" not in said.out
    assert not re.findall(r"`[A-Z_]{3,}`|`pinned`|`prepare`", said.out)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_example_can_be_read(name, monkeypatch):
    command, *words = shlex.split(COMMANDS[name].example)
    assert command == name
    assert isinstance(parsing.parsed(name, words), parsing._kind(name))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("trian", "command is 'trian'; expected one of demo, .* Did you mean 'train'?"),
        ("train --optim.learning-rate 1", "option is '--optim.learning-rate'.* mean '--optim.lr'?"),
        ("train --learning_rate=1", "option is '--learning_rate'.* mean '--optim.lr'?"),
        ("train --epoch 3", "Did you mean '--epochs'?"),
        ("train --weight-decay 3", "Did you mean '--optim.weight-decay'?"),
        ("train --dataset digits", "Did you mean '--data.source'?"),
        ("train --arch resnet8", "Did you mean '--model.name'?"),
        ("study demo --contrlos", "option is '--contrlos'; .* Did you mean '--controls'?"),
        ("list x", "'x' is given; expected nothing more .* `polyak list --help`"),
        ("train --zzz", "option is '--zzz'; expected one of `polyak train`. `polyak train --help`"),
    ],
)
def test_what_was_mistyped_is_one_line_with_what_was_meant(words, message, capsys):
    said = stopped(words, capsys, code=2)
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert re.match(f"polyak: .*{message}", said.err)


def test_no_command_at_all_is_the_overview_on_stderr(capsys):
    said = stopped("", capsys, code=2)
    assert (said.out, said.err) == ("", overview())


@pytest.mark.parametrize(
    "words",
    [
        "--model resnet20 --data digits-parity --lr 0.5",
        "--model=resnet20 --data=digits-parity --lr=0.5",
        "--model.name resnet20 --data.source digits-parity --optim.lr 0.5",
        "--model.name resnet20 --data.source digits-parity --optim.lr 0.5 --bootstrap None",
    ],
)
def test_what_everybody_types_first_means_what_everybody_means(words):
    config = parsing.parsed("train", shlex.split(words)).config
    assert (config.model.name, config.data.source) == ("resnet20", "digits-parity")
    assert config.optim.lr == 0.5


def test_data_of_a_study_stays_what_it_was():
    assert parsing.parsed("study", ["table1", "--data", "cifar10=x"]).data == ("cifar10=x",)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_can_complete(shell, capsys):
    said = stopped(f"--tyro-print-completion {shell}", capsys, code=None)
    assert "synthesize" in said.out


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("gpu", "device is 'gpu', which cannot be used here; .* Did you mean 'cuda'?"),
        ("mps", "device is 'mps', which cannot be used here; expected cpu, or cuda"),
        ("nowhere", "device is 'nowhere', which cannot be used here; expected cpu"),
    ],
)
def test_a_device_that_is_not_there_is_one_short_line(device, message, tmp_path, capsys):
    assert main(["train", "--device", device, "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert re.match(f"polyak: {message}", said)
    assert said.count("\n") == 1
    assert len(said) < 200
    assert not (tmp_path / "out").exists()
