"""A second evaluation inside one of Lightning's, whose metrics get a name of their own."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def evaluate_once_more(trainer: Any) -> dict[str, Any]:
    """The metrics of a whole evaluation that is carried out before the one that has just begun.

    The module's own hooks are called and its metrics are reset, as between two evaluations;
    callbacks and loggers learn nothing of it. Call it when an evaluation starts.

    Args:
        trainer: In validation or test, and not in its sanity check.
    """
    loop = trainer._evaluation_loop
    with _by_itself(trainer, loop):
        outputs = loop.run()
        loop._on_evaluation_model_eval()
    # The evaluation that goes on begins with its first batch.
    loop.reset()
    return {key: value for row in outputs for key, value in row.items()}


@contextmanager
def _by_itself(trainer: Any, loop: Any) -> Iterator[None]:
    """Let nobody but the module learn of what happens inside."""
    callbacks, loggers, verbose = trainer.callbacks, trainer.loggers, loop.verbose
    counts = copy.deepcopy(loop.batch_progress.state_dict())
    seen = copy.copy(loop._seen_batches_per_dataloader)
    known = [
        (metrics, dict(metrics))
        for metrics in (
            trainer._logger_connector._callback_metrics,
            trainer._logger_connector._logged_metrics,
            trainer._logger_connector._progress_bar_metrics,
        )
    ]
    # What modes the modules had before they were evaluated.
    modes, loop._module_mode = loop._module_mode, type(loop._module_mode)()
    trainer.callbacks, trainer.loggers, loop.verbose = [], [], False
    try:
        yield
    finally:
        trainer.callbacks, trainer.loggers, loop.verbose = callbacks, loggers, verbose
        loop._module_mode = modes
        loop.batch_progress.load_state_dict(counts)
        loop._seen_batches_per_dataloader = seen
        for metrics, before in known:
            metrics.clear()
            metrics.update(before)
