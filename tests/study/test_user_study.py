import pytest

from polyak.errors import ConfigError
from polyak.study.plan import search
from polyak.study.preparation import prepare_rows
from polyak.study.user_study import load_study, write_example


def test_the_example_is_a_study_that_has_no_fault(tmp_path):
    path = tmp_path / "mine.py"
    write_example(path)
    study = load_study(path)
    study.check()
    assert study.name == "mine"


def test_the_id_of_a_run_of_own_code_changes_with_the_code_and_not_with_its_path(tmp_path):
    def ids(folder, change=""):
        path = tmp_path / folder / "mine.py"
        path.parent.mkdir()
        write_example(path)
        head, _, rest = path.read_text().partition("classes),\n    )")
        path.write_text(f"{head}classes),\n    ){change}{rest}")
        (row,) = prepare_rows(load_study(path).rows)
        return {run.id for by_seed in search(row).values() for run in by_seed.values()}

    assert len(ids("a")) == 6
    assert ids("b") == ids("c", "# changed\n") != ids("d", ".train()")


def test_the_example_never_overwrites(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("x = 1")
    with pytest.raises(ConfigError, match="expected a file that does not exist yet"):
        write_example(path)
    assert path.read_text() == "x = 1"
    with pytest.raises(ConfigError, match="No such file or directory"):
        write_example(tmp_path / "none" / "mine.py")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("x = 1", "function of .* is 'study'"),
        ("def study():\n    return 3", "returned a int; expected a polyak.study.plan.Study"),
    ],
)
def test_a_file_without_a_study_is_refused(tmp_path, code, message):
    path = tmp_path / "mine.py"
    path.write_text(code)
    with pytest.raises(ConfigError, match=message):
        load_study(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="expected a Python file at"):
        load_study(tmp_path / "none.py")


@pytest.mark.parametrize(
    ("file", "name"),
    [("nets.py", "nets"), ("my nets.py", "my-nets"), ("runs.py", "study-runs"), ("é.py", "mine")],
)
def test_two_files_that_were_written_as_examples_are_two_studies(tmp_path, file, name):
    write_example(tmp_path / file)
    assert load_study(tmp_path / file).name == name


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("(0.05, 0.1)", "0.1", "digits, 20 % wrong labels: learning_rates is 0.1; expected a tu"),
        ("seeds=(0, 1, 2)", "seeds=3", "seeds is 3; expected a tuple of whole numbers"),
        ("rows=(row,)", "rows=row", "rows is one Row; expected a tuple of Rows"),
        ("learning_rates=", "learning_rate=", "line 46 .*'learning_rate'.*'learning_rates'?"),
        ("epochs=EPOCHS,\n        b", "epoch=2,\n        b", "field of RunConfig is 'epoch'"),
        ('        label="digits, 20 % wrong labels",\n', "", "Row missing 1 .*: 'label'"),
        ('name="mine", ', "", "Study missing 1 .*: 'name'"),
    ],
)
def test_a_mistake_in_a_file_is_refused_by_its_field(tmp_path, old, new, message):
    path = tmp_path / "mine.py"
    write_example(path)
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(ConfigError, match=message):
        load_study(path)


def test_a_type_error_of_the_users_own_keeps_its_traceback(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("def study():\n    return len(3)")
    with pytest.raises(TypeError, match="has no len"):
        load_study(path)


def test_lists_in_a_file_are_taken_as_tuples(tmp_path):
    path = tmp_path / "mine.py"
    write_example(path)
    text = path.read_text().replace("(0.05, 0.1)", "[0.05, 0.1]").replace("(row,)", "[row]")
    path.write_text(text)
    (row,) = load_study(path).rows
    assert row.learning_rates == (0.05, 0.1)
