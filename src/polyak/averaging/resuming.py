"""Going on from a state of which not everything fits: what does goes on, the rest begins anew."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from polyak.errors import ConfigError, few


@dataclass(frozen=True, slots=True)
class Fitted:
    """A saved state made to fit a bank, and what that took."""

    state: Mapping[str, Any]
    anew: tuple[str, ...] = ()
    """Averages of the bank that must begin anew, at the model's weights; see `Store.begin_anew`."""

    said: tuple[str, ...] = ()
    """What does not go on as it was, in words."""


def fit(
    saved: Mapping[str, Any],
    own: Mapping[str, Any],
    *,
    snapshots: Collection[str],
) -> Fitted:
    """A state for a bank of other averages, or another period, than those it was saved of.

    An average goes on under its name if it is of the same kind, with the settings that it has now;
    of a window they must be equal, since its snapshots are of one length.

    Args:
        saved: What `Averager.state_dict()` gave.
        own: What the bank's own gives.
        snapshots: Averages that are means of their last snapshots.

    Raises:
        ConfigError: if no average of the bank goes on.
    """
    going = [
        n
        for n, record in own["averages"].items()
        if _goes_on(saved, n, record, exact=n in snapshots)
    ]
    if not going:
        raise ConfigError(
            f"the saved averages are {list(saved['averages'])}; expected at least one of "
            f"{list(own['averages'])}. Begin without the state."
        )
    anew = tuple(name for name in own["averages"] if name not in going)
    # What begins anew has another's place until it does: a state averages the same of all.
    like = saved["tensors"][going[0]]
    remainder = {key: x for key, x in saved["remainder"][going[0]].items() if key in like}
    rows = {
        "tensors": {n: saved["tensors"][n] if n in going else like for n in own["averages"]},
        "remainder": {
            n: saved["remainder"][n] if n in going else remainder for n in own["averages"]
        },
        "refreshed": {n: row for n, row in saved["refreshed"].items() if n in going},
    }
    history = _history(saved["history"], own, going=going, anew=anew)
    state = {**saved, **rows, "averages": own["averages"], "history": history}
    return Fitted(state, anew, tuple(_said(saved, own, going=going, anew=anew)))


def _goes_on(
    saved: Mapping[str, Any], name: str, record: Mapping[str, Any], *, exact: bool
) -> bool:
    before = saved["averages"].get(name)
    like: bool = before is not None and before["kind"] == record["kind"]
    return like and (not exact or before == record)


def _history(
    saved: Mapping[str, Any],
    own: Mapping[str, Any],
    *,
    going: Sequence[str],
    anew: Sequence[str],
) -> dict[str, Any]:
    updates = saved["updates"]
    begun = {n: u for n, u in saved.get("begun", {}).items() if n in going}
    begun |= {name: updates for name in anew if updates}
    return {
        **saved,
        "every": own["history"]["every"],
        "folded": {n: saved["folded"][n] if n in going else 0 for n in own["averages"]},
        "initial_share": {
            n: saved["initial_share"][n] if n in going else float(not updates)
            for n in own["averages"]
        },
        "begun": begun,
    }


def _said(
    saved: Mapping[str, Any],
    own: Mapping[str, Any],
    *,
    going: Sequence[str],
    anew: Sequence[str],
) -> list[str]:
    """One clause for each thing that is not as it was."""
    found = []
    if anew:
        found.append(f"{few(anew)} began anew at the model's weights of now")
    if gone := saved["averages"].keys() - set(going):
        found.append(f"{few(gone)} of the state did not go on")
    changed = [n for n in going if saved["averages"][n] != own["averages"][n]]
    every, before = own["history"]["every"], saved["history"]["every"]
    if every != before:
        found.append(f"updates come every {every} steps instead of every {before}")
    if changed:
        found.append(f"{few(changed)} went on with other settings")
    return found
