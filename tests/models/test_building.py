"""`build`: every model at every size, refusals, and weights that depend on the seed alone."""

import pytest
import torch
from torch import nn

from polyak.errors import ConfigError
from polyak.models import MODELS, ModelConfig, build
from polyak.models.config import size_faults

OF_IMAGES = sorted(set(MODELS) - {"gpt"})
RESIDUAL = sorted(set(OF_IMAGES) - {"vgg16", "vit"})
SMALL = ("resnet8", "resnet20")


def small(seed: int = 0, **options) -> nn.Module:
    """A network that costs next to nothing."""
    config = ModelConfig(name="resnet8", width=4, **options)
    return build(config, classes=5, channels=3, image_size=8, generator_seed=seed)


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def sizes() -> list[tuple[str, int]]:
    return [(name, size) for name in RESIDUAL for size in (8, 28, 32, 64)] + [
        ("vgg16", 32),
        ("vgg16", 64),
        ("vit", 8),
        ("vit", 28),
        ("vit", 64),
    ]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("name", "size"), sizes())
def test_logits_have_one_row_an_image_and_one_column_a_class(
    name: str, size: int, channels: int
) -> None:
    with torch.device("meta"):
        model = MODELS[name](classes=7, channels=channels)
        assert model(torch.zeros(2, channels, size, size)).shape == (2, 7)


@pytest.mark.parametrize("name", OF_IMAGES)
def test_each_model_learns_with_all_its_weights(name: str) -> None:
    """One real pass: finite logits, and a gradient that is not zero on every parameter."""
    size = 32 if name == "vgg16" else 8
    config = ModelConfig(name=name)
    model = build(config, classes=5, channels=3, image_size=size, generator_seed=0)
    assert isinstance(model.head, nn.Linear)
    assert model.head.out_features == 5
    images = torch.randn(4, 3, size, size)
    loss = nn.functional.cross_entropy(model(images), torch.tensor([0, 1, 2, 3]))
    loss.backward()
    assert loss.isfinite()
    assert [n for n, p in model.named_parameters() if not p.grad.any()] == []


def test_one_seed_gives_one_set_of_weights_and_another_seed_another() -> None:
    assert same(small(seed=1), small(seed=1))
    for name, weight in small(seed=1).named_parameters():
        if weight.ndim > 1:
            assert not torch.equal(weight, dict(small(seed=2).named_parameters())[name])


def test_the_global_generator_is_neither_read_nor_moved() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = small()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert same(small(), first)


def test_weights_are_drawn_on_the_cpu_whatever_the_default_device() -> None:
    with torch.device("meta"):
        model = small()
    assert {p.device.type for p in model.parameters()} == {"cpu"}
    assert same(model, small())


def test_eval_mode_gives_the_same_logits_twice_and_keeps_statistics() -> None:
    model = small().eval()
    x = torch.randn(2, 3, 8, 8)
    before = [b.clone() for b in model.buffers()]
    assert torch.equal(model(x), model(x))
    assert all(torch.equal(a, b) for a, b in zip(before, model.buffers(), strict=True))


def test_channels_last_gives_the_same_logits() -> None:
    model = small().double().eval()
    x = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    expected = model(x)
    model.to(memory_format=torch.channels_last)
    torch.testing.assert_close(model(x.to(memory_format=torch.channels_last)), expected)


@pytest.mark.parametrize("name", SMALL)
def test_width_reaches_the_small_nets(name: str) -> None:
    assert [features_at(name, width) for width in (None, 16, 6)] == [64, 64, 24]


@pytest.mark.parametrize("name", ["resnet18", "resnet34"])
def test_width_reaches_the_large_resnets(name: str) -> None:
    assert [features_at(name, width) for width in (None, 64, 6)] == [512, 512, 48]


def features_at(name: str, width: int | None) -> int:
    config = ModelConfig(name=name, width=width)
    return build(config, classes=2, channels=1, image_size=8, generator_seed=0).head.in_features


def test_options_reach_the_wide_net() -> None:
    config = ModelConfig(name="wrn28_10", conv_bias=True, final_norm_momentum=0.9)
    model = build(config, classes=2, channels=1, image_size=8, generator_seed=0)
    assert model.norm.momentum == 0.9
    assert all(m.bias is not None for m in model.modules() if isinstance(m, nn.Conv2d))


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        (ModelConfig(name="resnet8", width=0), "width is 0; expected >= 1, or None for 16"),
        (ModelConfig(name="resnet34", width=0), "width is 0; expected >= 1, or None for 64"),
        (
            ModelConfig(name="wrn28_10", width=8),
            "width is 8; expected None for wrn28_10, which has no such option",
        ),
        (
            ModelConfig(name="vgg16", conv_bias=True),
            "conv_bias is True; expected False for vgg16, which has no such option",
        ),
        (
            ModelConfig(name="resnet20", final_norm_momentum=0.9),
            "final_norm_momentum is 0.9; expected None for resnet20, which has no such option",
        ),
        (
            ModelConfig(name="wrn28_10", final_norm_momentum=0.0),
            "final_norm_momentum is 0.0; expected 0 < final_norm_momentum <= 1, or None for 0.1",
        ),
    ],
    ids=lambda value: None if isinstance(value, str) else value.name,
)
def test_a_wrong_option_is_a_fault_and_refused(config: ModelConfig, fault: str) -> None:
    assert config.faults() == [fault]
    with pytest.raises(ConfigError) as refusal:
        build(config, classes=10, channels=3, image_size=32, generator_seed=0)
    assert str(refusal.value) == f"model {config.name}: {fault}."


@pytest.mark.parametrize("name", sorted(MODELS))
def test_defaults_have_no_fault(name: str) -> None:
    assert ModelConfig(name=name).faults() == []


def test_an_unknown_name_lists_the_choices_and_the_nearest() -> None:
    config = ModelConfig(name="resnet19")
    (fault,) = config.faults()
    assert fault.startswith("name is 'resnet19'; expected one of resnet8, ")
    with pytest.raises(ConfigError, match=r"file\.py:build\. Did you mean 'resnet18'\?$"):
        build(config, classes=10, channels=3, image_size=32, generator_seed=0)


def test_all_faults_come_in_one_message() -> None:
    config = ModelConfig(name="vgg16", width=8)
    with pytest.raises(ConfigError) as refusal:
        build(config, classes=1, channels=0, image_size=28, generator_seed=-1)
    for what in ("width is 8", "classes is 1", "channels is 0", "image_size is 28", "seed is -1"):
        assert what in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "size", "side"),
    [
        ("vgg16", 31, 0),
        ("vgg16", 8, 0),
        ("resnet18", 7, 1),
        ("resnet34", 4, 1),
        ("wrn28_10", 7, 2),
        ("wrn28_10", 4, 1),
        ("resnet8", 5, 2),
        ("resnet20", 1, 1),
    ],
)
def test_images_that_are_too_small_are_refused_before_anything_is_allocated(
    name: str, size: int, side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def allocated(**_: object) -> nn.Module:
        raise AssertionError("the model was built")

    monkeypatch.setitem(MODELS, name, allocated)
    least = 32 if name == "vgg16" else 8
    expected = rf"image_size is {size}; expected >= {least}, .* last feature map of {side}×{side}:"
    with pytest.raises(ConfigError, match=expected):
        build(ModelConfig(name=name), classes=10, channels=3, image_size=size, generator_seed=0)


@pytest.mark.parametrize("name", RESIDUAL)
@pytest.mark.parametrize("size", [1, 4, 5, 7])
def test_the_last_feature_map_is_what_the_refusal_says(name: str, size: int) -> None:
    (fault,) = size_faults(ModelConfig(name=name), size)
    with torch.device("meta"):
        model = MODELS[name](classes=2, channels=3)
        maps = model.stages(model.stem(torch.zeros(2, 3, size, size)))
    assert f" {maps.shape[2]}×{maps.shape[3]}:" in fault
