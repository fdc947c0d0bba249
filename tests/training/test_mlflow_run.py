"""A training that reports to MLflow: one run with metrics and pictures, and an MLflow model where it is asked for."""

import numpy as np
import pytest
from PIL import Image

from deformable_detr_refine.evaluation.evaluated_image import EvaluatedImage
from deformable_detr_refine.training.mlflow_run import log_files, mlflow_run, side_by_side
from deformable_detr_refine.training.train import train

ID2LABEL = {0: "can", 1: "carton"}


def test_truth_stands_beside_what_was_found():
    pixels = Image.new("RGB", (64, 32), (90, 90, 90))
    image = EvaluatedImage(1, "a.jpg", (32, 64), [[8, 4, 40, 20]], [0.75], [1], [[8, 4, 40, 24]], [1])
    both = np.asarray(side_by_side(pixels, image, ID2LABEL, 0.3))
    assert both.shape == (32, 64 + 8 + 64, 3)
    none = np.asarray(side_by_side(pixels, image, ID2LABEL, 0.8))
    assert (both[:, :64] == none[:, :64]).all()
    assert (both[:, 72:] != none[:, 72:]).any() and (none[:, 72:] == 90).all()


def test_large_pictures_are_made_smaller():
    pixels = Image.new("RGB", (2000, 1000))
    image = EvaluatedImage(1, "a.jpg", (1000, 2000), np.zeros((0, 4)), [], [], [[0, 0, 9, 9]], [0])
    assert side_by_side(pixels, image, ID2LABEL, 0.3).size == (640 + 8 + 640, 320)


def test_without_mlflow_among_the_reports_nothing_happens(tmp_path):
    from deformable_detr_refine.training.arguments import DetectionTrainingArguments

    with mlflow_run(DetectionTrainingArguments(output_dir=str(tmp_path), report_to="none", use_cpu=True)):
        log_files(tmp_path / "none")


@pytest.mark.slow
def test_one_run_holds_metrics_and_pictures_of_the_whole_training(settings_file, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason='pip install "deformable-detr-refine[mlflow]"')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/runs.db")
    output = tmp_path / "out"
    train([str(settings_file(output, report_to="mlflow", save_as_mlflow_model=True))])
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/runs.db")
    (run,) = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    assert run.info.status == "FINISHED"
    # Once after the epoch, once after the training.
    assert len(client.get_metric_history(run.info.run_id, "eval_AP")) == 2
    names = [item.path for item in client.list_artifacts(run.info.run_id, "validation")]
    assert len(names) == 4
    assert client.list_artifacts(run.info.run_id, names[0])
    assert {"metrics.json", "report.html"} <= {item.path for item in client.list_artifacts(run.info.run_id)}
    assert mlflow.active_run() is None
    model = mlflow.pyfunc.load_model(str(output / "mlflow"))
    assert model.metadata.signature.inputs.input_names() == ["image"]
