"""The scoring script of Azure's batch endpoints, for deploy/deploy-batch.yaml.

Azure calls `init` once in each process and `run` for every few files of the input: images, or tables (CSV, Parquet,
JSON lines) with images in a column. What `run` returns is appended to predictions.csv: row, response as JSON, file.
"""

from collections.abc import Sequence

from deformable_detr_refine.inference.detector import Detector
from deformable_detr_refine.serving.azure.service import load_service
from deformable_detr_refine.serving.batch.input import open_input
from deformable_detr_refine.serving.batch.shard import BatchSettings, detect_shard

_ROWS_AT_A_TIME = 64
detector: Detector | None = None


def init() -> None:
    """Loads the model."""
    global detector
    detector = load_service().detector


def run(mini_batch: Sequence[str]) -> list[str]:
    """Lines of predictions.csv for some files; an image that fails has its error in its line.

    Raises:
        OSError, ValueError: a file is neither an image nor a table.
    """
    assert detector is not None, "Azure calls `init` before"
    loaded, settings = detector, BatchSettings(model="", format="predictions")
    shards = (shard for name in mini_batch for shard in open_input(str(name)).shards(_ROWS_AT_A_TIME))
    texts = (detect_shard(loaded, settings, shard).content.decode() for shard in shards)
    # Not splitlines, for which a name may hold further ends of lines.
    return [line for text in texts for line in text.removesuffix("\n").split("\n")]
