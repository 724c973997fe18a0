"""A finished run in Python: its settings, data, networks, logits and numbers.

run = polyak.runs.load("out/runs/0123456789ab")
network = run.network("ema_acc_bn")
"""

from polyak.runs.boards import board
from polyak.runs.formats import export
from polyak.runs.pictures import PictureReader, picture_files, read_picture
from polyak.runs.run import Run, load

__all__ = ["Run", "load", "board", "export", "PictureReader", "picture_files", "read_picture"]
