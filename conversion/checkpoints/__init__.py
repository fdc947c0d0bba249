"""Opening checkpoints of unknown origin: nothing in them is executed."""
