"""LoRA adapters of peft: averaged alone, saved and loaded by peft, merged inside `applied`."""

import warnings

import pytest
import torch
from torch import nn

from polyak import EMA, Averager, Uniform
from polyak.errors import WeightMismatchError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    peft = pytest.importorskip("peft", reason="peft is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.filterwarnings("ignore"),  # peft's and the hub's own, at import and saving
]


def base():
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=11, n_positions=8, n_embd=8, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0
    )
    return transformers.GPT2LMHeadModel(config).eval()


def adapted():
    torch.manual_seed(1)
    config = peft.LoraConfig(
        r=2, target_modules=["c_attn"], fan_in_fan_out=True, init_lora_weights=False
    )
    return peft.get_peft_model(base(), config)


TOKENS = torch.arange(8).expand(2, 8)


def trained(averages, steps=4):
    model = adapted()
    averager = Averager(model, averages)
    optimizer = torch.optim.SGD([x for x in model.parameters() if x.requires_grad], lr=0.5)
    averager.attach(optimizer)
    for _ in range(steps):
        model(input_ids=TOKENS, labels=TOKENS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval(), averager, optimizer


@torch.no_grad()
def logits(model):
    return model(input_ids=TOKENS).logits


def test_adapters_alone_are_averaged_and_peft_saves_and_loads_the_average(tmp_path):
    model, averager, _ = trained([EMA(0.9, None, name="ema")])
    held = averager.state_dict()["tensors"]["ema"]
    assert held
    assert all("lora_" in name for name in held)
    with averager.applied("ema"):
        expected = logits(model)
        model.save_pretrained(tmp_path / "applied")
    averager.module("ema", share_frozen=True).save_pretrained(tmp_path / "copy")
    for folder in ("applied", "copy"):
        loaded = peft.PeftModel.from_pretrained(base(), tmp_path / folder).eval()
        assert torch.equal(logits(loaded), expected), folder
    assert not torch.equal(logits(model), expected)


def lora(model):
    [layer] = [x for x in model.modules() if isinstance(x, peft.tuners.lora.Linear)]
    return layer.lora_A["default"].weight, layer.lora_B["default"].weight


def test_averaging_a_and_b_apart_is_not_averaging_their_product():
    """What docs/integrations.md says of it, in numbers."""
    model = adapted()
    averager = Averager(model, [Uniform(name="swa")])
    products = []
    for seed in range(3):
        torch.manual_seed(seed)
        a, b = lora(model)
        nn.init.normal_(a)
        nn.init.normal_(b)
        averager.update()
        products.append((b @ a).detach().clone())
    with averager.applied("swa"):
        a, b = lora(model)
        apart = (b @ a).detach().clone()
    mean = torch.stack(products).mean(0)
    assert not torch.allclose(apart, mean, atol=0.1)


def test_merging_inside_applied_computes_with_the_average_and_is_undone():
    model, averager, optimizer = trained([EMA(0.9, None, name="ema")])
    before = {name: x.clone() for name, x in model.state_dict().items()}
    with averager.applied("ema"):
        expected = logits(model)
        model.merge_adapter()
        torch.testing.assert_close(logits(model), expected, rtol=1e-5, atol=1e-5)
        model.unmerge_adapter()
    for name, x in model.state_dict().items():
        torch.testing.assert_close(x, before[name], rtol=0, atol=1e-6)
    optimizer.step()


def test_a_copy_is_merged_for_good_and_the_model_keeps_its_base():
    model, averager, _ = trained([EMA(0.9, None, name="ema")])
    before = {name: x.clone() for name, x in model.state_dict().items()}
    with averager.applied("ema"):
        expected = logits(model)
    merged = averager.module("ema").merge_and_unload()
    torch.testing.assert_close(logits(merged), expected, rtol=1e-5, atol=1e-5)
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())


def test_an_average_that_was_left_merged_in_the_base_is_noticed():
    model, averager, _ = trained([EMA(0.9, None, name="ema")])
    with averager.applied("ema"):
        model.merge_adapter()
    with pytest.raises(WeightMismatchError, match="has moved although it does not train"):
        averager.state_dict()


def test_the_trainer_saves_the_averaged_adapter(tmp_path):
    from polyak.integrations.transformers import average

    model = adapted()
    data = [{"input_ids": TOKENS[0], "labels": TOKENS[0]}] * 8
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path / "out"),
        num_train_epochs=2,
        per_device_train_batch_size=2,
        learning_rate=0.1,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        save_strategy="no",
    )
    trainer = transformers.Trainer(model=model, args=arguments, train_dataset=data)
    averaging = average(trainer, EMA(0.9, None), save="average")
    trainer.train()
    trainer.save_model(tmp_path / "saved")
    with averaging.averager.applied():
        expected = logits(model)
    loaded = peft.PeftModel.from_pretrained(base(), tmp_path / "saved").eval()
    assert torch.equal(logits(loaded), expected)
    assert not torch.equal(logits(model.eval()), expected)
