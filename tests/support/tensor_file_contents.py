"""All that the safetensors files of a folder hold, to be compared to the bit.

The files themselves differ from one writing to the next: the order of their metadata is random.
"""

from pathlib import Path

from safetensors import safe_open


def contents(folder: Path) -> dict[str, dict[str, object]]:
    """File → tensor → type, shape and bytes, and the file's metadata."""
    found: dict[str, dict[str, object]] = {}
    for path in folder.rglob("*.safetensors"):
        with safe_open(path, "pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            held = {key: (x.dtype, x.shape, x.numpy().tobytes()) for key, x in tensors.items()}
            found[str(path.relative_to(folder))] = {**held, "metadata": file.metadata()}
    return found
