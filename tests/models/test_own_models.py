import pytest
import torch
from torch import nn

from polyak import checksums
from polyak.errors import ConfigError
from polyak.models import ModelConfig, build, pinned

NETS = """
import torch
from torch import nn

def small(classes, channels):
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * 16, classes))

def nothing(classes, channels):
    return None
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "nets.py"
    path.write_text(NETS)
    return path


def made(config: ModelConfig, seed: int = 0) -> nn.Module:
    return build(config, classes=3, channels=2, image_size=4, generator_seed=seed)


def test_a_function_of_a_file_builds_the_network(file):
    model = made(ModelConfig(name=f"{file}:small"))
    assert model(torch.zeros(5, 2, 4, 4)).shape == (5, 3)
    assert model.training


def test_its_weights_depend_on_the_seed_alone_and_torchs_generator_is_put_back(file):
    config = ModelConfig(name=f"{file}:small")
    before = torch.get_rng_state()
    first, again, other = made(config), made(config), made(config, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first[1].weight, again[1].weight)
    assert not torch.equal(first[1].weight, other[1].weight)


def test_code_that_changed_since_it_was_pinned_is_refused_and_a_comment_is_not(file):
    config = pinned(ModelConfig(name=f"{file}:small"))
    made(config)
    file.write_text(NETS.replace("return None", "return 0") + "\n# changed\n")
    made(config)
    file.write_text(NETS.replace("channels * 16", "16 * channels"))
    with pytest.raises(ConfigError, match="changed code is another run"):
        made(config)


def test_the_checksum_of_the_file_that_earlier_runs_have_is_accepted(file):
    config = ModelConfig(name=f"{file}:small", file_sha256=checksums.of_file(file))
    made(config)
    file.write_text(NETS + "\n# changed\n")
    with pytest.raises(ConfigError, match="changed code is another run"):
        made(config)


def test_pinning_leaves_other_networks_alone_and_names_a_missing_file(tmp_path):
    assert pinned(ModelConfig(name="resnet8")) == ModelConfig(name="resnet8")
    with pytest.raises(ConfigError, match="expected a Python file at"):
        pinned(ModelConfig(name=f"{tmp_path}/none.py:small"))


def test_what_is_no_module_and_unknown_functions_are_refused(file):
    with pytest.raises(ConfigError, match="returned a NoneType"):
        made(ModelConfig(name=f"{file}:nothing"))
    with pytest.raises(ConfigError, match=r"'smal'; expected one of .*Did you mean 'small'"):
        made(ModelConfig(name=f"{file}:smal"))


def test_options_of_the_papers_networks_are_refused(file):
    faults = ModelConfig(name=f"{file}:small", width=8).faults()
    assert faults == [
        f"width is 8; expected None for {file}:small, which has no such option",
    ]
    assert "file_sha256" in ModelConfig(name="vgg16", file_sha256="00").faults()[0]
