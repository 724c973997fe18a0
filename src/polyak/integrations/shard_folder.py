"""An averager's state as a folder of torch.distributed.checkpoint, read on any number of processes.

Every process must call each of these.
"""

import os
from typing import Any

from torch import nn

from polyak.averaging import Averager
from polyak.integrations.trained import RAW, put_back, trained

_AVERAGER = "averager"


def save_shards(folder: str | os.PathLike[str], averager: Averager, *, raw: bool) -> None:
    """Write what this process holds of the averages, and if `raw` of the model's own weights.

    Raises:
        StateError: while an average is applied.
    """
    from torch.distributed.checkpoint.state_dict_saver import save

    state: dict[str, Any] = {_AVERAGER: averager, **({RAW: trained(averager)} if raw else {})}
    save(state, checkpoint_id=folder)


def load_shards(folder: str | os.PathLike[str], averager: Averager) -> None:
    """Bring an averager to the state that was saved."""
    from torch.distributed.checkpoint.state_dict_loader import load

    load({_AVERAGER: averager}, checkpoint_id=folder)


def put_back_shards(folder: str | os.PathLike[str], model: nn.Module) -> None:
    """Let a model hold the weights that were trained, if they were saved."""
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.state_dict_loader import load

    written = FileSystemReader(folder).read_metadata().state_dict_metadata
    own = {k: x for k, x in model.state_dict().items() if f"{RAW}.{k}" in written}
    if own:
        load({RAW: own}, checkpoint_id=folder)
        put_back(model, {RAW: own})
