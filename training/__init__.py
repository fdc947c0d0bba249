"""Training and fine-tuning with transformers' Trainer."""
