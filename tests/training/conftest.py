"""Fixtures of the training's tests: the data set, and settings for it."""

from pathlib import Path

import pytest
import yaml
from support.training_runs import SETTINGS, TRAIN_BOXES, VALIDATION_BOXES, write_split


@pytest.fixture(scope="session")
def boxes_data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("boxes")
    write_split(folder / "train", TRAIN_BOXES, seed=0)
    write_split(folder / "valid", VALIDATION_BOXES, seed=1)
    return folder


@pytest.fixture(scope="session")
def settings_file(boxes_data, tmp_path_factory):
    """Writes a settings file, of SETTINGS and what is given."""

    def write(output: Path, **changes) -> Path:
        file = tmp_path_factory.mktemp("settings") / "settings.yaml"
        file.write_text(yaml.safe_dump({**SETTINGS, "data": str(boxes_data), "output_dir": str(output), **changes}))
        return file

    return write
