"""A second laboratory, as short as can be: the paper's protocol in plain PyTorch.

It is written from the paper and from what the project's pages promise, to be compared with what
the project does. It knows nothing of the project but where randomness comes from: which images
train, the initial weights, the order of batches, the draws of crops and flips, how pixels round.

Shape suffixes: n, b samples, c channels, h height, w width, k classes.
"""

from dataclasses import dataclass, field
from math import cos, pi

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from polyak.data.batches import draw_crops_and_flips
from polyak.models import ModelConfig, build
from polyak.training.randomness import generator, seed_for

BATCHNORM_BATCH = 128


@dataclass
class History:
    """What a run leaves: a line an epoch, and all weights after every epoch."""

    log: list[dict] = field(default_factory=list)
    monitor: list[dict] = field(default_factory=list)
    weights: dict[int, dict[str, dict]] = field(default_factory=dict)
    """By epoch, from 1, and name."""


def train(config, data) -> History:
    """A run as its config.json asks for it: an optimiser, and EMAs that look on."""
    model, history = network(config, data), History()
    optim, averaging = config["optim"], config["averaging"]
    move = {"sgd": sgd, "adamw": adamw}[optim.get("name", "sgd")](model, optim)
    emas = {f"ema_{decay:g}": snapshot(model) for decay in averaging["decays"]}
    draws = generators(config, "order", "augmentation")
    again = generators(config, "batchnorm order", "batchnorm augmentation")
    step = updates = 0
    for epoch in range(1, config["epochs"] + 1):
        losses, right = [], 0
        model.train()
        batches = epoch_of(config, data, config["batch_size"], *draws)
        for x_bchw, labels_b in batches:
            rate = learning_rate(step, optim, config["epochs"], len(batches))
            logits_bk = model(x_bchw).flatten(end_dim=-2)
            loss = F.cross_entropy(logits_bk, labels_b)
            model.zero_grad()
            loss.backward()
            clip(model, optim.get("clip"))
            move(rate)
            step += 1
            losses += [loss.item()] * len(labels_b)
            right += int((logits_bk.argmax(1) == labels_b).sum())
            if step % averaging["every"] == 0:
                for name, decay in zip(emas, averaging["decays"], strict=True):
                    d = min(decay, (updates + 1) / (updates + 10))
                    emas[name] = moved(emas[name], snapshot(model), d)
                updates += 1
        history.weights[epoch] = {"sgd": snapshot(model), **emas}
        line = {"epoch": epoch, "step": step, "learning_rate": rate}
        line["train"] = {"loss": sum(losses) / len(losses), "accuracy": right / len(losses)}
        history.log.append({**line, "holdout": {}, "holdout_bn": {}})
        look(config, data, history, again)
    return history


def sgd(model, optim):
    """Nesterov's momentum, with the decay in the gradient; a step at a rate."""
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=optim["lr"],
        momentum=optim["momentum"],
        weight_decay=optim["weight_decay"],
        nesterov=True,
    )

    def move(rate):
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()

    return move


def adamw(model, optim):
    """Adam's step with the decay beside it (Loshchilov and Hutter 2019, algorithm 2)."""
    (first, second), steps = optim.get("betas", (0.9, 0.999)), 0
    moments = {name: (0.0, 0.0) for name, _ in model.named_parameters()}

    @torch.no_grad()
    def move(rate):
        nonlocal steps
        steps += 1
        for name, weight in model.named_parameters():
            g = weight.grad.double()
            m, v = moments[name]
            m, v = first * m + (1 - first) * g, second * v + (1 - second) * g**2
            moments[name] = m, v
            size = (v / (1 - second**steps)).sqrt() + 1e-8
            decay = 0.0 if optim.get("decayed") == "matrices" and weight.ndim < 2 else 1.0
            kept = weight.double() * (1 - decay * rate * optim["weight_decay"])
            weight.copy_(kept - rate * m / (1 - first**steps) / size)

    return move


def clip(model, limit):
    """Shorten the gradient of all weights together to a length."""
    if limit is None:
        return
    gradients = [weight.grad for weight in model.parameters()]
    length = sum((g.double() ** 2).sum() for g in gradients).sqrt().item()
    for g in gradients:
        g.mul_(min(1.0, limit / length))


def look(config, data, history, again):
    """Scores of all weights: on the hold-out for selection, on other parts for figures."""
    epoch, model = len(history.log), network(config, data)
    weights = history.weights[epoch]

    def scores(images, labels, those=weights):
        return {name: score(predict(model, w, images), labels) for name, w in those.items()}

    if config["holdout"]:
        held = normalised(data, data.holdout_images_nchw), data.holdout_given_n
        history.log[-1]["holdout"] = scores(*held)
    for monitor in config["monitors"]:
        if monitor == "test":
            found = scores(normalised(data, data.test_images_nchw), data.test_labels_n)
        elif monitor == "train_wrong":
            wrong_n = data.train_given_n != data.train_clean_n
            images = normalised(data, data.train_images_nchw)[wrong_n]
            found = scores(images, data.train_given_n[wrong_n])
        else:
            batches = epoch_of(config, data, BATCHNORM_BATCH, *again)
            fresh = {
                name: w if name == "sgd" else recomputed(model, w, batches)
                for name, w in weights.items()
            }
            found = scores(*held, fresh)
        history.monitor.append({"epoch": epoch, "monitor": monitor, "scores": found})


def learning_rate(step, optim, epochs, steps_per_epoch) -> float:
    """Linear from 0 over the warm-up, then half a cosine to 0, or with "wsd" at last a line to 0.

    The first step is taken at 1e-8 of the rate, as pages say: what it moves shows in parameters
    that begin at 0, and is enough for two right trajectories to part.
    """
    warmup, total = optim["warmup_epochs"] * steps_per_epoch, epochs * steps_per_epoch
    if step < warmup:
        return optim["lr"] * max(step / warmup, 1e-8)
    if optim["schedule"] == "wsd":
        return optim["lr"] * min(1.0, (total - step) / (optim["decay_share"] * total))
    return optim["lr"] * (1 + cos(pi * (step - warmup) / (total - warmup))) / 2


def moved(old, new, d):
    """d·old + (1 − d)·new, of parameters and running statistics alike; counters are copied."""
    return {
        key: d * old[key] + (1 - d) * x if x.is_floating_point() else x for key, x in new.items()
    }


def mean_of(states):
    """The plain mean, as in SWA."""
    return {
        key: torch.stack([s[key] for s in states]).mean(0) if x.is_floating_point() else x
        for key, x in states[-1].items()
    }


@torch.no_grad()
def recomputed(model, weights, batches):
    """The weights with BatchNorm statistics of all that each layer sees in one pass."""
    model.load_state_dict(weights)
    seen = {
        name: [] for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)
    }
    hooks = [
        model.get_submodule(name).register_forward_pre_hook(
            lambda module, inputs, here=here: here.append(inputs[0].double())
        )
        for name, here in seen.items()
    ]
    model.train()
    for x_bchw, _ in batches:
        model(x_bchw)
    for hook in hooks:
        hook.remove()
    fresh = dict(weights)
    for name, inputs in seen.items():
        every_bchw = torch.cat(inputs)
        fresh[f"{name}.running_mean"] = every_bchw.mean((0, 2, 3))
        fresh[f"{name}.running_var"] = every_bchw.var((0, 2, 3), unbiased=True)
    return fresh


def arms(config, data, history, stops):
    """The models that the study compares, by name."""
    last, longest = config["epochs"], f"ema_{config['averaging']['decays'][-1]:g}"
    at = {rule: history.weights[stop["epoch"]] for rule, stop in stops.items()}
    final = generators(config, "final batchnorm order", "final batchnorm augmentation")
    batches = epoch_of(config, data, BATCHNORM_BATCH, *final)
    model = network(config, data)
    half = range(last // 2 + 1, last + 1)
    plain = {
        "sgd": history.weights[last]["sgd"],
        "sgd_stopped": at["sgd"]["sgd"],
        "sgd_at_ema": at["acc"]["sgd"],
    }
    has_statistics = any(key.endswith("running_mean") for key in plain["sgd"])
    again = plain if has_statistics else {}
    return plain | {
        **{f"{name}_bn": recomputed(model, weights, batches) for name, weights in again.items()},
        "ema_acc": at["acc"][stops["acc"]["average"]],
        "ema_loss": at["loss"][stops["loss"]["average"]],
        "ema_acc_bn": recomputed(model, at["acc"][longest], batches),
        "ema_loss_bn": recomputed(model, at["loss"][longest], batches),
        "swa_bn": recomputed(model, mean_of([history.weights[e]["sgd"] for e in half]), batches),
    }


def chosen_stops(log, averages):
    """Epoch and average by rule, from hold-out scores; ties to the first epoch, then average."""
    rules = {"sgd": (["sgd"], "accuracy", -1), "acc": (averages, "accuracy", -1)}
    rules["loss"] = (averages, "loss", 1)
    stops = {}
    for rule, (names, measure, sign) in rules.items():
        places = [
            (sign * line["holdout"][name][measure], line["epoch"], order)
            for line in log
            for order, name in enumerate(names)
        ]
        _, epoch, order = min(places)
        stops[rule] = {"rule": rule, "epoch": epoch, "average": names[order]}
    return stops


def chosen_rate(logs):
    """The rate with the best mean over seeds of SGD's best hold-out accuracy: rate → its logs."""

    def best(log):
        return max(line["holdout"]["sgd"]["accuracy"] for line in log)

    return max(logs, key=lambda rate: sum(map(best, logs[rate])) / len(logs[rate]))


def network(config, data):
    """A new network with the run's initial weights."""
    model = build(
        ModelConfig(**config["model"]),
        classes=len(data.classes),
        channels=data.train_images_nchw.shape[1],
        image_size=data.train_images_nchw.shape[2],
        generator_seed=seed_for(config["seed"], "initialisation"),
    )
    return model.to(memory_format=torch.channels_last)


def generators(config, *purposes):
    return [generator(config["seed"], purpose) for purpose in purposes]


def epoch_of(config, data, batch_size, order, draws):
    """One epoch of the training part: batches of augmented images and given labels.

    Of text batches of windows, with a label at every position.
    """
    batches = []
    padding, flip = config["data"]["crop_padding"], config["data"]["flip"]
    h, w = data.train_images_nchw.shape[2:]
    labels_np = data.train_given_n.view(len(data.train_images_nchw), -1)
    for chosen_b in torch.randperm(len(labels_np), generator=order).split(batch_size):
        corners, mirrored = draw_crops_and_flips(
            len(chosen_b), padding=padding, flip=flip, generator=draws
        )
        images = []
        padded_bchw = F.pad(data.train_images_nchw[chosen_b], (padding,) * 4)
        for x_chw, (top, left), mirror in zip(padded_bchw, corners, mirrored, strict=True):
            cropped = x_chw[:, top : top + h, left : left + w]
            images.append(cropped.flip(2) if mirror else cropped)
        batches.append((normalised(data, torch.stack(images)), labels_np[chosen_b].flatten()))
    return batches


def normalised(data, images_nchw):
    """Pixels as the network takes them, rounded as the tool does.

    A pixel that is off by one part in 10⁷ moves an activation past 0 some epochs later, and two
    right trajectories part.
    """
    return data.normalisation(images_nchw).contiguous(memory_format=torch.channels_last)


def standardised(data, images_nchw):
    """The same by the definition: zero mean, unit variance per channel over the training part."""
    train = data.train_images_nchw.double() / 255
    mean, std = train.mean((0, 2, 3)), train.std((0, 2, 3), correction=0)
    return (images_nchw.double() / 255 - mean[:, None, None]) / std[:, None, None]


def snapshot(model):
    """Weights in float64, so that averages of them are exact enough to judge by."""
    return {
        key: x.detach().double() if x.is_floating_point() else x.clone()
        for key, x in model.state_dict().items()
    }


@torch.no_grad()
def predict(model, weights, images_nchw):
    single = {key: x.float() if x.is_floating_point() else x for key, x in weights.items()}
    return functional_call(model.eval(), single, images_nchw).flatten(end_dim=-2)


def score(logits_nk, labels_n):
    right_n = logits_nk.argmax(1) == labels_n
    return {
        "loss": F.cross_entropy(logits_nk.double(), labels_n).item(),
        "accuracy": right_n.double().mean().item(),
    }
