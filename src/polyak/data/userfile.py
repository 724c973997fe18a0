"""Data that a user's own Python file makes: `file.py:load`."""

from pathlib import Path

from polyak.data.images import DataSet, ImageSet
from polyak.errors import DataError
from polyak.userfile import load_function


def decode_user_file(path: Path, function: str) -> tuple[ImageSet, ImageSet]:
    """Run the function, which takes nothing and returns a DataSet or (train, test).

    Raises:
        DataError: if file or function is missing or the result is something else. What the
            function itself raises is passed on.
    """
    made = load_function(path, function, what="source", error=DataError)()
    if isinstance(made, DataSet):
        return made.train, made.test
    if isinstance(made, tuple) and [type(part) for part in made] == [ImageSet, ImageSet]:
        return made
    raise DataError(
        f"'{path}:{function}' returned a {type(made).__name__}; "
        "expected a polyak.data.DataSet or a tuple (train, test) of ImageSets."
    )
