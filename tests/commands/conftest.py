import pytest
from support.checkpoint_fixtures import runner_checkpoint, save, tiny_config, tiny_weights  # noqa: F401
from support.small_detector import save_small_detector

NAMES = ["can", "carton", "milk_bottle", "water_bottle"]


@pytest.fixture(scope="package")
def model_folder(tmp_path_factory) -> str:
    """A small model folder that MMDetection could have, whose scores differ."""
    folder = tmp_path_factory.mktemp("models") / "detector"
    size = {"shortest_edge": 120, "longest_edge": 200}
    width = {"d_model": 256, "encoder_attention_heads": 8, "decoder_attention_heads": 8}
    sizes = {**width, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64}
    return str(save_small_detector(folder, size, NAMES, backbone="resnet18", **sizes))
