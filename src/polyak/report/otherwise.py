"""Where a study's protocol is not the default, a sentence each for the page."""

from polyak.records.paper_code import PAPER_CODE, in_order
from polyak.records.studies import StudyRecord

BN_SAFE = (
    "Averages and epochs are chosen with BatchNorm statistics recomputed after each epoch. "
    "EMA (acc.) + BN and EMA (loss) + BN are the averages that were chosen so, not those of the "
    "longest window."
)
CLEAN_HOLDOUT = (
    "An oracle, not to be had in practice: selection and temperature see the right labels of the "
    "hold-out, where training labels are wrong."
)


def departures(study: StudyRecord) -> list[str]:
    """What is switched on in any row, as the page's box lists it."""
    coded = in_order(name for row in study.rows for name in row.paper_code)
    found = [f"As the authors’ code does ({name}): {PAPER_CODE[name]}" for name in coded]
    found += [BN_SAFE] if any(row.selection == "bn_safe" for row in study.rows) else []
    found += [CLEAN_HOLDOUT] if any(row.holdout_labels == "clean" for row in study.rows) else []
    return found
