import pytest
import torch

from polyak.errors import FileError
from polyak.records.predictions import Predictions, holds, write_predictions


@pytest.fixture
def path(tmp_path):
    return tmp_path / "predictions.safetensors"


@pytest.fixture
def said(path):
    arms = {
        "test": {"sgd": torch.randn(5, 3), "ema_acc": torch.randn(5, 3)},
        "train": {"sgd": torch.tensor([0, 2, 1, 1])},
    }
    labels = {
        "test": {"labels": torch.tensor([0, 1, 2, 0, 1])},
        "train": {"given": torch.tensor([0, 1, 1, 2]), "clean": torch.tensor([0, 1, 1, 1])},
    }
    write_predictions(path, arms=arms, labels=labels)
    return arms, labels


def test_what_was_written_comes_back(path, said):
    arms, labels = said
    read = Predictions(path)
    assert read.arms("test") == ("ema_acc", "sgd")
    assert read.arms("train") == ("sgd",)
    for arm, logits_nk in arms["test"].items():
        assert torch.equal(read.logits_nk("test", arm), logits_nk)
        assert torch.equal(read.predicted_n("test", arm), logits_nk.argmax(dim=1))
    assert torch.equal(read.predicted_n("train", "sgd"), arms["train"]["sgd"])
    assert torch.equal(read.labels_n("test"), labels["test"]["labels"])
    assert torch.equal(read.labels_n("train", "clean"), labels["train"]["clean"])
    assert read.labels_n("test").dtype == torch.int64


def test_parts_are_known_by_whole_names(path, said):
    read = Predictions(path)
    assert "test" in read
    assert "train" in read
    assert "holdout" not in read
    assert "tes" not in read


def test_logits_are_stored_as_float32_whatever_they_came_as(path):
    logits_nk = torch.randn(3, 2, dtype=torch.float64).t().requires_grad_()
    write_predictions(path, arms={"test": {"sgd": logits_nk}}, labels={})
    assert torch.equal(Predictions(path).logits_nk("test", "sgd"), logits_nk.detach().float())


def test_arms_that_lie_in_one_tensor_are_stored_apart(path):
    logits_rnk = torch.randn(2, 4, 3)
    arms = dict(zip(["a", "b"], logits_rnk, strict=True))
    write_predictions(path, arms={"test": arms}, labels={})
    read = Predictions(path)
    assert torch.equal(read.logits_nk("test", "a"), logits_rnk[0])
    assert torch.equal(read.logits_nk("test", "b"), logits_rnk[1])


def test_an_arm_that_is_not_there_is_named_with_the_choices(path, said):
    with pytest.raises(FileError, match=r"'test/arm/sdg'; expected one of .*test/arm/sgd"):
        Predictions(path).logits_nk("test", "sdg")


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_a_truncated_file_is_named(path, said, kept):
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(FileError, match=r"predictions\.safetensors is damaged .*Remove"):
        Predictions(path)


def test_a_missing_file_is_named(path):
    with pytest.raises(FileError, match=r"predictions\.safetensors cannot be read"):
        Predictions(path)


def test_a_failed_write_leaves_the_old_file(path, said):
    before = path.read_bytes()
    with pytest.raises(AttributeError):
        write_predictions(path, arms={"test": {"sgd": None}}, labels={})
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_altered_bytes_are_noticed_wherever_they_are(path, said):
    """The file still has its form; only a value is another."""
    content = path.read_bytes()
    begin = 8 + int.from_bytes(content[:8], "little")
    for at in range(begin, len(content), 7):
        altered = bytearray(content)
        altered[at] ^= 1
        path.write_bytes(altered)
        with pytest.raises(FileError, match=r"predictions\.safetensors is damaged .*Remove"):
            read_all(Predictions(path))
    path.write_bytes(content)
    read_all(Predictions(path))


def read_all(read):
    for part, kinds in {"test": ["labels"], "train": ["given", "clean"]}.items():
        for arm in read.arms(part):
            read.predicted_n(part, arm)
        for kind in kinds:
            read.labels_n(part, kind)


def test_whether_a_file_holds_arms_is_answered_without_raising(tmp_path):
    path = tmp_path / "p.safetensors"
    assert not holds(path, "test", ["sgd"])
    write_predictions(
        path,
        arms={"test": {"sgd": torch.zeros(2, 3)}},
        labels={"test": {"labels": torch.zeros(2)}},
    )
    assert holds(path, "test", ["sgd"])
    assert not holds(path, "test", ["sgd", "swa_bn"])
    assert not holds(path, "holdout", ["sgd"])
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert not holds(path, "test", ["sgd"])
    path.write_bytes(b"half")
    assert not holds(path, "test", ["sgd"])
