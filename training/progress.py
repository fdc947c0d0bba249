"""The progress bar of a training run, with a line for each log and each evaluation that fits a terminal."""

from transformers import ProgressCallback


class DetectionProgress(ProgressCallback):
    """transformers' bar; the sixteen loss terms and more go to the log's history, here stands what one looks at."""

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        if not state.is_world_process_zero or self.training_bar is None or not logs:
            return
        if "loss" in logs:
            self.training_bar.write(
                f"epoch {logs['epoch']:7.2f}  loss {logs['loss']:8.3f}  "
                f"(cls {logs.get('loss_cls', 0):.3f}, bbox {logs.get('loss_bbox', 0):.3f}, "
                f"iou {logs.get('loss_iou', 0):.3f})  lr {logs['learning_rate']:.2e}  "
                f"{logs.get('images_per_second', 0):.2f} images/s"
            )
        elif "eval_AP" in logs:
            self.training_bar.write(
                f"epoch {logs['epoch']:7.2f}  AP {logs['eval_AP']:.4f}  AP50 {logs['eval_AP50']:.4f}  "
                f"AP75 {logs['eval_AP75']:.4f}  loss {logs['eval_loss']:.3f} (validation)"
            )
