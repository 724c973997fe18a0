"""A run's curves for viewers while they grow: CSV, TensorBoard, Weights & Biases.

All of it is made from the run's own log.jsonl and monitor.jsonl, which stay the record; nothing
here is part of what determines a result, and training knows nothing of it.
"""
