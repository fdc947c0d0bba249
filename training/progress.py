"""What a training run says while it trains: a line for each log and each evaluation that fits a terminal, and a bar."""

from typing import Any

from transformers import ProgressCallback, TrainerCallback


def log_line(logs: dict[str, Any]) -> str | None:
    """What one looks at of a line of the log; the sixteen loss terms and more stand in the log's history.

    Example:
        >>> log_line({"epoch": 1.5, "loss": 12.25, "learning_rate": 1e-4, "images_per_second": 3.5})
        'epoch    1.50  loss   12.250  (cls 0.000, bbox 0.000, iou 0.000)  lr 1.00e-04  3.50 images/s'
    """
    if "loss" in logs:
        return (
            f"epoch {logs['epoch']:7.2f}  loss {logs['loss']:8.3f}  "
            f"(cls {logs.get('loss_cls', 0):.3f}, bbox {logs.get('loss_bbox', 0):.3f}, "
            f"iou {logs.get('loss_iou', 0):.3f})  lr {logs['learning_rate']:.2e}  "
            f"{logs.get('images_per_second', 0):.2f} images/s"
        )
    if "eval_AP" in logs:
        loss = f"loss {logs['eval_loss']:.3f} " if "eval_loss" in logs else ""  # in tiles there is none
        return (
            f"epoch {logs.get('epoch', 0):7.2f}  AP {logs['eval_AP']:.4f}  AP50 {logs['eval_AP50']:.4f}  "
            f"AP75 {logs['eval_AP75']:.4f}  {loss}(validation)"
        )
    return None


class DetectionProgress(ProgressCallback):
    """transformers' bar, with these lines; for a terminal."""

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        if self.training_bar is not None and (line := log_line(logs or {})):
            self.training_bar.write(line)


class DetectionLines(TrainerCallback):
    """The lines alone, while it trains; for a file or a pipe."""

    trains = False

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        self.trains = True

    def on_train_end(self, args, state, control, **kwargs) -> None:
        self.trains = False

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        if self.trains and state.is_world_process_zero and (line := log_line(logs or {})):
            print(line, flush=True)
