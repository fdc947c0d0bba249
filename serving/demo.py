"""A page on which one drops a picture and sees what a detector finds in it."""

import os
import time
from typing import Any

from deformable_detr_refine.inference.detections import Detections
from deformable_detr_refine.inference.detector import DetectionFailure, Detector
from deformable_detr_refine.messages import counted
from deformable_detr_refine.modeling import load_image

# Uploads and drawn pictures are deleted so many seconds after their last use.
_KEEP_SECONDS = 3600
_LARGEST_UPLOAD = "50mb"


def build_page(detector: Detector, title: str) -> Any:
    """The page as Gradio's Blocks.

    A picture is looked at once; moving the threshold draws anew what was found. Nothing is fetched from elsewhere: no
    fonts, no statistics.

    Raises:
        ImportError: gradio is not installed.
    """
    gradio = _gradio()

    def look(file: str | None, threshold: float) -> tuple[Any, ...]:
        if file is None:
            return None, None, "", []
        started = time.perf_counter()
        (found,) = detector.detect([file])
        if isinstance(found, DetectionFailure):
            # The file's name here is Gradio's own.
            raise gradio.Error(found.error.replace(file, "The picture"), duration=None, print_exception=False)
        seconds = time.perf_counter() - started
        return found, *draw(file, found, threshold, seconds)

    def draw(file: str | None, found: Detections | None, threshold: float, seconds: float | None = None) -> tuple:
        if file is None or found is None:
            return None, "", []
        shown = found.filter(threshold)
        height, width = found.image_size
        text = f"{counted(len(shown), 'object')} above {threshold:.2f} in {width} x {height} pixels"
        text += "" if seconds is None else f", found in {seconds:.2g} s"
        return shown.draw(load_image(file)), text, class_table(shown)

    with gradio.Blocks(title=title, analytics_enabled=False, delete_cache=(_KEEP_SECONDS, _KEEP_SECONDS)) as page:
        found = gradio.State(None)
        gradio.Markdown(f"# {title}")
        with gradio.Row():
            with gradio.Column():
                picture = gradio.Image(
                    label="Picture", type="filepath", sources=["upload", "clipboard"], height=420, elem_id="picture"
                )
                threshold = gradio.Slider(
                    0.0,
                    1.0,
                    detector.network.threshold,
                    step=0.01,
                    label="Threshold: least score of a box",
                    elem_id="threshold",
                )
                classes = gradio.Dataframe(
                    headers=["class", "objects", "best score"], label="Classes", interactive=False, elem_id="classes"
                )
            with gradio.Column():
                drawn = gradio.Image(
                    label="Found", format="jpeg", interactive=False, height=620, elem_id="found", buttons=["download"]
                )
                summary = gradio.Markdown(elem_id="summary")
        outputs = [drawn, summary, classes]
        picture.change(look, [picture, threshold], [found, *outputs])
        threshold.change(draw, [picture, found, threshold], outputs, show_progress="hidden", trigger_mode="always_last")
    return page


def class_table(found: Detections) -> list[list[Any]]:
    """A row for each class: its name, how many boxes, the best score; most first.

    Example:
        >>> class_table(Detections([[0, 0, 1, 1]] * 3, [0.9, 0.8, 0.7], [1, 0, 1], {0: "can", 1: "carton"}, (8, 8)))
        [['carton', 2, 0.9], ['can', 1, 0.8]]
    """
    rows: dict[str, list[Any]] = {}
    for name, score in zip(found.names, found.scores.tolist(), strict=True):
        row = rows.setdefault(name, [name, 0, 0.0])
        row[1] += 1
        row[2] = max(row[2], round(score, 3))
    return sorted(rows.values(), key=lambda row: (-row[1], -row[2]))


def launch(page: Any, host: str, port: int) -> None:
    """Serves the page without waiting for its end."""
    page.launch(
        server_name=host,
        server_port=port,
        prevent_thread_lock=True,
        quiet=True,
        share=False,
        show_error=False,
        max_file_size=_LARGEST_UPLOAD,
        ssr_mode=False,
        footer_links=[],
        # Named ones are fetched from Google.
        theme=_gradio().themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
    )


def _gradio() -> Any:
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    try:
        import gradio
    except ImportError as error:
        raise ImportError(f'The page needs gradio ({error}): pip install "deformable-detr-refine[demo]".') from error
    return gradio


__all__ = ["build_page", "launch"]
