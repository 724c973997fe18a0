import pytest
import torch
import torch.nn.functional as F
from torch import nn

from polyak.errors import NonFiniteError
from polyak.training.prediction import EVALUATION_BATCH, predict, score


def test_predictions_do_not_depend_on_the_batch():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Dropout(0.9))
    images_nchw = torch.randn(2 * EVALUATION_BATCH + 3, 1, 2, 2)
    one_by_one = torch.cat([model.eval()(x[None]) for x in images_nchw]).detach()
    logits_nk = predict(model.train(), images_nchw)
    assert torch.allclose(logits_nk, one_by_one, atol=1e-6)
    assert not logits_nk.requires_grad
    assert not logits_nk.is_inference()


def test_predicting_changes_no_flag_and_no_statistic():
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 2))
    model[1].eval()
    before = {key: x.clone() for key, x in model.state_dict().items()}
    predict(model, torch.randn(5, 1, 2, 2))
    assert [module.training for module in model] == [True, False, True, True]
    assert all(torch.equal(before[key], x) for key, x in model.state_dict().items())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_are_refused(value):
    model = nn.Linear(2, 2)
    with torch.no_grad():
        model.bias[0] = value
    with pytest.raises(NonFiniteError, match=r"the logits hold NaN or infinity; .*Lower"):
        predict(model, torch.zeros(3, 2))
    assert model.training


def test_a_score_is_mean_cross_entropy_and_the_share_that_is_right():
    logits_nk, labels_n = torch.randn(50, 4), torch.randint(4, (50,))
    found = score(logits_nk, labels_n)
    assert found.loss == pytest.approx(F.cross_entropy(logits_nk, labels_n).item(), rel=1e-5)
    right = sum(int(x.argmax()) == y for x, y in zip(logits_nk, labels_n.tolist(), strict=True))
    assert found.accuracy == right / 50
