"""The error a user sees when a model folder, a checkpoint, or a config beside it, cannot be used."""


class CheckpointError(ValueError):
    """One clear sentence: which file, what is wrong with it, and what to do."""


__all__ = ["CheckpointError"]
