import pytest
import torch

from polyak.data.normalisation import Normalisation, normalisation_for, normalise

CIFAR10 = [
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
]  # fmt: skip


def test_computed_values_are_those_of_float64():
    images = torch.randint(0, 256, (50, 3, 7, 5), dtype=torch.uint8)
    made = normalisation_for(images, ("a", "b"))
    pixels = images.double() / 255
    expected = pixels.mean((0, 2, 3)), pixels.std((0, 2, 3), correction=0)
    torch.testing.assert_close(torch.tensor(made.mean).double(), expected[0], rtol=0, atol=1e-7)
    torch.testing.assert_close(torch.tensor(made.std).double(), expected[1], rtol=0, atol=1e-7)


def test_normalising_is_the_written_out_formula():
    images = torch.randint(0, 256, (4, 3, 5, 5), dtype=torch.uint8)
    normalisation = Normalisation((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
    mean, std = (torch.tensor(v).double()[:, None, None] for v in
                 (normalisation.mean, normalisation.std))  # fmt: skip
    expected = ((images.double() / 255 - mean) / std).float()
    made = normalisation(images)
    assert made.dtype == torch.float32
    torch.testing.assert_close(made, expected, rtol=0, atol=2e-6)
    assert torch.equal(made, normalise(images, *normalisation.factors("cpu")))


def test_its_own_images_get_mean_0_and_variance_1():
    images = torch.randint(0, 99, (30, 2, 9, 9), dtype=torch.uint8)
    made = normalisation_for(images, ("a",))(images).double()
    torch.testing.assert_close(made.mean((0, 2, 3)), torch.zeros(2).double(), rtol=0, atol=1e-5)
    torch.testing.assert_close(made.var((0, 2, 3), correction=0), torch.ones(2).double(),
                               rtol=0, atol=1e-5)  # fmt: skip


def test_a_channel_that_never_varies_stays_finite():
    images = torch.full((3, 1, 2, 2), 51, dtype=torch.uint8)
    normalisation = normalisation_for(images, ("a",))
    assert normalisation == Normalisation((pytest.approx(0.2),), (1.0,))
    assert bool(normalisation(images).isfinite().all())


@pytest.mark.parametrize(
    ("side", "classes", "mean"),
    [
        (32, CIFAR10, 0.4914),
        (32, ["apple", *map(str, range(98)), "worm"], 0.5071),
        (64, [f"n{i:08}" for i in range(200)], 0.485),
    ],
)
def test_known_data_sets_get_the_constants_of_the_field(side, classes, mean):
    images = torch.zeros(1, 3, side, side, dtype=torch.uint8)
    assert normalisation_for(images, tuple(classes)).mean[0] == mean
    # Other pixels under the same names are another data set.
    assert normalisation_for(images[..., 1:], tuple(classes)).mean[0] == 0
    assert normalisation_for(images, tuple(classes[1:])).mean[0] == 0
