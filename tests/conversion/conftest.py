from support.checkpoint_fixtures import (  # noqa: F401
    runner_checkpoint,
    save,
    save_pickle,
    shapes,
    tiny_config,
    tiny_weights,
)
