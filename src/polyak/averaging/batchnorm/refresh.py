"""BatchNorm statistics for given weights: one pass, pooled over the whole of the data.

An averaged network needs the activation statistics of *its* weights. Averaged statistics
over-estimate them, and more so with longer windows.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from polyak.averaging.batchnorm.batches import Forward, forward_batch, take_samples
from polyak.averaging.batchnorm.moments import Moments, groups_of, pool_ranks
from polyak.averaging.model import memorised, sharded
from polyak.averaging.model.modes import eval_mode
from polyak.averaging.model.weights import unwrap
from polyak.errors import ConfigError, DataError, few

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.utils.hooks import RemovableHandle


class StatisticsPass:
    """Collects what the BatchNorm layers of a model see, for one or several sets of weights.

    And InstanceNorm layers that track statistics. Inside `collecting()` BatchNorm normalises by
    the batch, as in training; everything else is in eval mode, so dropout is off. A batch of one
    value for each channel, which torch refuses to normalise by itself, is normalised by what came
    before it, and counts like any other. The layers' own statistics are left as they were,
    whatever happens.
    """

    def __init__(self, model: nn.Module, forward: Forward | None = None) -> None:
        self._model = model
        if forward is not None and not callable(forward):
            raise ConfigError(f"forward is {forward!r}; expected a function of (model, batch).")
        self._forward = forward or forward_batch
        self.layers = {
            name: module
            for name, module in model.named_modules()
            if isinstance(module, _BatchNorm | _InstanceNorm) and module.running_mean is not None
        }
        _refuse_scripted(model)
        self._into: dict[str, Moments] = {}

    @property
    def channels(self) -> dict[str, int]:
        """The number of channels of each layer that sees this process's values alone."""
        return {
            name: layer.num_features
            for name, layer in self.layers.items()
            if not isinstance(layer, nn.SyncBatchNorm)
        }

    @property
    def instances(self) -> set[str]:
        """The layers that treat each sample by itself."""
        return {name for name, layer in self.layers.items() if isinstance(layer, _InstanceNorm)}

    @contextmanager
    def collecting(self) -> Iterator["StatisticsPass"]:
        """Make the layers report to this object for the length of the block."""
        momenta = {name: layer.momentum for name, layer in self.layers.items()}
        hooks = []
        # What an open autocast region would memorise here is made without gradients.
        put_back = memorised.set_aside(list(self._model.modules()))
        with eval_mode(list(self._model.modules())):
            try:
                for name, layer in self.layers.items():
                    layer.train()
                    # The running statistics then are the batch's own, read by the hook.
                    layer.momentum = 1.0
                    hooks += self._hooks(name, layer)
                # A loader draws its order from torch's generator; training must not notice.
                with torch.no_grad(), torch.random.fork_rng(devices=[]):
                    yield self
            finally:
                for hook in hooks:
                    hook.remove()
                for name, layer in self.layers.items():
                    layer.momentum = momenta[name]
                put_back()

    def add(self, batch: Any, moments: dict[str, Moments]) -> None:
        """Run one batch through the weights that the model holds now, into `moments`."""
        self._into = moments
        own = {name: _clones(layer) for name, layer in self.layers.items()}
        try:
            for layer in self.layers.values():
                # Not even momentum 1 forgets NaN: 0·NaN is NaN.
                layer.reset_running_stats()
            self._forward(self._model, batch)
        finally:
            for name, layer in self.layers.items():
                for key, value in own[name].items():
                    getattr(layer, key).copy_(value)

    def _hooks(self, name: str, layer: nn.Module) -> "list[RemovableHandle]":
        if isinstance(layer, _InstanceNorm):
            return [layer.register_forward_hook(self._instances(name))]
        ahead = layer.register_forward_pre_hook(self._prepared(name), with_kwargs=True)
        return [ahead, layer.register_forward_hook(self._hook(name))]

    def _instances(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(layer: nn.Module, _inputs: Any, output: Tensor) -> None:
            assert isinstance(layer, _InstanceNorm)
            assert layer.running_mean is not None
            assert layer.running_var is not None
            # What torch leaves there are means over the batch's samples.
            without_batch = layer._get_no_batch_dim()  # type: ignore[no-untyped-call]  # torch's
            alone = output.dim() == without_batch
            self._into.setdefault(name, Moments()).add_instances(
                1 if alone else len(output), layer.running_mean, layer.running_var
            )

        return hook

    def _prepared(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(layer: nn.Module, arguments: Any, keywords: Any) -> None:
            x: Tensor = (*arguments, *keywords.values())[0]
            # Across processes a batch is larger than what this one sees of it.
            alone = x.numel() == x.shape[1] and not isinstance(layer, nn.SyncBatchNorm)
            layer.train(not alone)
            if alone:
                x_c = x.detach().flatten()
                seen = self._into.setdefault(name, Moments())
                spread = seen.count > 1
                assert isinstance(layer.running_mean, Tensor)
                assert isinstance(layer.running_var, Tensor)
                layer.running_mean.copy_(seen.mean_c if spread else x_c)
                layer.running_var.copy_(seen.variance_c if spread else torch.ones_like(x_c))
                seen.add(1, x_c, torch.zeros_like(x_c))

        return hook

    def _hook(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(layer: nn.Module, _inputs: Any, output: Tensor) -> None:
            assert isinstance(layer, _BatchNorm)
            assert layer.running_mean is not None
            assert layer.running_var is not None
            if not layer.training:
                return  # A batch of one value: counted before.
            count = output.numel() // output.shape[1]
            self._into.setdefault(name, Moments()).add(count, layer.running_mean, layer.running_var)

        return hook


def refresh_batchnorm(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    max_samples: int | None = None,
    forward: Forward | None = None,
    progress: bool = False,
    pooled: bool = True,
    all_ranks: bool = True,
) -> None:
    """Give every BatchNorm layer the statistics that it sees under the model's present weights.

        mean = Σ_b n_b·mean_b / n,   var = pooled over all n values, unbiased

    InstanceNorm layers with track_running_stats get the means over all samples of each sample's
    own mean and unbiased variance, which is what torch's running statistics of them estimate.

    One pass over `batches`; batches count by their size; dropout is off; running means of the
    past are forgotten. If the pass raises, the model is as it was. torch's CPU generator is
    restored, so that a loader that shuffles does not change the training that follows.

    Args:
        model: Its weights are not changed. A model without BatchNorm is left alone.
        batches: Anything that yields batches: tensors, sequences whose first element is the
            input, or mappings that are passed as keywords. Other forms need `forward`.
        max_samples: Stop after this many samples; None takes all. A batch that is neither a
            tensor nor a collection of tensors counts as one sample.
        forward: `forward(model, batch)` runs the model on one batch of the user's form.
        progress: Show a line with the number of samples (needs rich).
        pooled: Whether the variance is that of all values together. False takes the plain mean
            of the batches' means and of their unbiased variances, as torch.optim.swa_utils does;
            a batch of one value, which has no variance, is left out of it.
        all_ranks: Under DistributedDataParallel and of a sharded model: take the batches of all
            processes together, each with its own ones. Two all-reduces at the end, so every
            process must call. False takes this process's alone.

    Raises:
        ConfigError: for what is no module, yields no batches or is no function, and for a layer
            in TorchScript, which calls no hooks.
        DataError: if `batches` holds none, or a layer saw one value of each channel in all, or
            without `pooled` only batches of one.

    Source:
        Izmailov et al. 2018 reset and recompute; the pooled variance is ours.
    """
    if not isinstance(model, nn.Module):
        raise ConfigError(
            f"model is a {type(model).__name__}; expected a torch.nn.Module. Pass it first and "
            "the batches after it, which torch's update_bn has the other way round."
        )
    if isinstance(model, nn.parallel.DistributedDataParallel):
        # The wrapper would send its buffers around in every forward pass.
        groups, model = groups_of(model, None), unwrap(model)
    else:
        sharded.reshard(list(model.modules()))
        groups = groups_of(model, sharded.mesh_of(model.parameters()))
    found = statistics_of(
        model,
        batches,
        {"own": nullcontext},
        groups=groups if all_ranks else [],
        max_samples=max_samples,
        forward=forward,
        progress=progress,
        pooled=pooled,
    )
    buffers = dict(model.named_buffers())
    for name, value in found["own"].items():
        buffers[name].copy_(value)


def statistics_of(
    model: nn.Module,
    batches: Iterable[Any],
    arms: Mapping[str, Callable[[], AbstractContextManager[None]]],
    *,
    groups: "Sequence[ProcessGroup]",
    max_samples: int | None,
    forward: Forward | None,
    progress: bool,
    pooled: bool,
) -> dict[str, dict[str, Tensor]]:
    """What BatchNorm layers see under several sets of weights, all in one pass over the data.

    Args:
        model: Its weights and statistics are left as they are.
        batches: As in `refresh_batchnorm`, and so are the last four; not read without a layer.
        arms: By name, what opens a block in which the model holds those weights.
        groups: Processes whose batches are taken together with this one's.

    Returns:
        By arm, statistics under their names in `state_dict()`.
    """
    statistics = StatisticsPass(model, forward)
    if not statistics.layers:
        return {name: {} for name in arms}
    moments: dict[str, dict[str, Moments]] = {name: {} for name in arms}
    with statistics.collecting():
        for batch in take_samples(batches, max_samples=max_samples, progress=progress):
            for name, holding in arms.items():
                with holding():
                    statistics.add(batch, moments[name])
    return {
        name: running_statistics(
            pool_ranks(moments[name], statistics.channels, groups),
            pooled=pooled,
            instances=statistics.instances,
        )
        for name in arms
    }


def running_statistics(
    moments: Mapping[str, Moments], *, pooled: bool = True, instances: Collection[str] = ()
) -> dict[str, Tensor]:
    """Collected moments as buffers, named as in `state_dict()`; `pooled` as above.

    Args:
        moments: By layer.
        pooled: Whether variances are those of all values together.
        instances: Layers that treat each sample by itself, for which there is no such thing.
    """
    found = {}
    for name, moment in moments.items():
        prefix = f"{name}." if name else ""
        by_sample = name in instances
        if not by_sample and (moment.count < 2 or not (pooled or moment.batches)):
            raise DataError(
                f"{name or 'layer'!r} saw {moment.count:.0f} values of each channel singly; "
                "expected batches of two or more, which have a variance. Pass more data."
            )
        if pooled and not by_sample:
            mean_c, variance_c = moment.mean_c, moment.variance_c
        else:
            mean_c = moment.batch_means_c / moment.batches
            variance_c = moment.batch_variances_c / moment.batches
        found[f"{prefix}running_mean"] = mean_c
        found[f"{prefix}running_var"] = variance_c
    return found


def _refuse_scripted(model: nn.Module) -> None:
    """TorchScript's layers cannot be watched; to pass them over would leave old statistics."""
    found = [
        name or type(module).__name__
        for name, module in model.named_modules()
        if isinstance(module, torch.jit.ScriptModule) and "running_mean" in dict(_own(module))
    ]
    if found:
        raise ConfigError(
            f"{few(found)} is in TorchScript, whose statistics cannot be collected; expected a "
            "module of Python. Refresh before scripting, or average the statistics."
        )


def _own(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    return module.named_buffers(recurse=False)


def _clones(layer: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in layer.named_buffers(recurse=False)}
