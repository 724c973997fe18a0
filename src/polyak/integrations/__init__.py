"""Averages in other tools' training loops; each module needs the tool it is named after."""
