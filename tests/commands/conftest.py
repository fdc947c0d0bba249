from support.checkpoint_fixtures import runner_checkpoint, save, tiny_config, tiny_weights  # noqa: F401
