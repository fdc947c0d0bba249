"""detrex's Deformable DETR: checkpoints of its training loop and their config.yaml."""
