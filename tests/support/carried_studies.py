"""Studies carried through in the test's own process."""

from polyak.study.runner import run_study
from polyak.training.jobs import carry_out


def in_process(jobs, out, on_tick):
    """An executor: one job after the other, here."""
    for job in jobs:
        carry_out(job, out)
        on_tick({job.id: "done"})
    return {}


def carried_through(study, out):
    """How a study ended."""
    return run_study(
        study,
        out,
        executor=in_process,
        on_progress=lambda progress: None,
        workers=1,
        command="polyak study",
    )
