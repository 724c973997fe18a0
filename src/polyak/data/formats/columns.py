"""Which column of a table holds the images and which the labels, by their types."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from polyak.errors import DataError, unknown

Columns = tuple[str | None, str | None]
"""Image and label column as the user named them."""

Groups = Sequence[Sequence[str]]
"""Columns that can be it, the likeliest kind first."""

_IMAGES = "encoded images (type Image, bytes or {bytes, path}), paths of files, or pixels"
_LABELS = "a ClassLabel, whole numbers or text"
_LABEL_NAMES = {"label", "labels", "class", "classes", "category", "target", "targets", "y"}


def find_columns(
    features: Mapping[str, Any], columns: Columns, *, paths: Collection[str] = ()
) -> tuple[str, str]:
    """Names of the image and the label column: as named, else the only one whose type fits.

    Images: encoded; else pixels; else paths. Labels: ClassLabel, else integers, else what is
    called like a label and may hold whole numbers; of several, CIFAR-100's fine_label. Text only
    if named, since it may be anything, or beside paths: called like a label, or alone.

    Args:
        features: The features of `datasets`, by column.
        columns: As the user named them.
        paths: Columns of text that name files.

    Raises:
        DataError: that lists the candidates, if none or several fit, or says the type of the named
            one if it does not.
    """
    import datasets
    import pyarrow as pa

    types = {field.name: field.type for field in datasets.Features(features).arrow_schema}
    named = {name: feature for name, feature in features.items() if _is_class(feature)}

    def of(fits: Any) -> list[str]:
        return [name for name, kind in types.items() if fits(kind) and name not in named]

    texts = of(is_text)
    integers = of(pa.types.is_integer)
    others = of(lambda t: pa.types.is_boolean(t) or pa.types.is_floating(t) or _depth(t) == 1)
    called = [name for name in others if name.lower() in _LABEL_NAMES]
    rest = [name for name in texts if name not in paths]
    # Beside paths alone, what else could it be?
    called_texts = [n for n in rest if n.lower() in _LABEL_NAMES or len(types) == 2]
    image, label = columns
    if label is None and "fine_label" in named:
        label = "fine_label"
    files = [name for name in texts if name in paths]
    flat = of(lambda t: _depth(t) == 1)
    images = (of(holds_encoded), of(lambda t: _depth(t) in (2, 3)), files, flat)
    labels = (list(named), integers, called, called_texts if paths else [])
    shown = {name: "ClassLabel" if name in named else str(t) for name, t in types.items()}
    return (
        _one("image_column", image, images, [], _IMAGES, shown),
        _one("label_column", label, labels, [*texts, *others], _LABELS, shown),
    )


def holds_encoded(kind: Any) -> bool:
    """Whether an Arrow type holds encoded pictures: bytes of any width of offsets, or a struct of
    bytes and path."""
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return {kind.field(i).name for i in range(kind.num_fields)} == {"bytes", "path"}
    binary = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary)
    return any(fits(kind) for fits in (*binary, pa.types.is_binary_view))


def is_text(kind: Any) -> bool:
    """Whether an Arrow type holds text, of any width of offsets."""
    import pyarrow as pa

    fitting = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return any(fits(kind) for fits in fitting)


def _one(
    what: str,
    named: str | None,
    groups: Groups,
    further: Sequence[str],
    needs: str,
    types: Mapping[str, str],
) -> str:
    allowed = [*(name for group in groups for name in group), *further]
    if named in allowed:
        return str(named)
    if named is not None:
        if named not in types:
            raise DataError(unknown(what, named, allowed or types))
        there = f", such as {', '.join(allowed)}" if allowed else ""
        raise DataError(
            f"{what} is {named!r}, a column of type {types[named]}; expected {needs}{there}."
        )
    found = next((group for group in groups if group), [])
    if len(found) == 1:
        return found[0]
    choices = found or allowed
    if choices:
        raise DataError(
            f"{what} is None and {len(found)} columns can be it; expected one of "
            f"{', '.join(choices)}. Name it with {what}."
        )
    seen = ", ".join(f"{name} ({kind})" for name, kind in types.items()) or "no column"
    raise DataError(
        f"{what} is None and 0 columns can be it; expected {needs}. The table has {seen}."
    )


def _is_class(feature: Any) -> bool:
    import datasets

    return isinstance(feature, datasets.ClassLabel)


def _depth(kind: Any) -> int:
    """How deep lists of numbers are nested; 0 for anything else."""
    import pyarrow as pa

    if isinstance(kind, pa.ExtensionType):
        kind = kind.storage_type
    depth = 0
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    while any(fits(kind) for fits in lists):
        kind, depth = kind.value_type, depth + 1
    return depth if pa.types.is_integer(kind) or pa.types.is_floating(kind) else 0
