"""A page on which one drops a picture and sees what a detector finds in it."""

import html
import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deformable_detr_refine.inference.detections import Detections
from deformable_detr_refine.inference.detector import DetectionFailure, Detector
from deformable_detr_refine.messages import counted, one_line, plain, printable
from deformable_detr_refine.modeling import load_image

# Uploads and drawn pictures are deleted so many seconds after their last use.
_KEEP_SECONDS = 3600
_LARGEST_UPLOAD = "50mb"
# Visitors whose pictures are read at a time; the model computes for one after another.
_AT_A_TIME = 8
_SHOWN_CLASSES = 8
_REFUSED = "The picture is refused: only one that was uploaded here is looked at."

logger = logging.getLogger(__name__)


class Refused(ValueError):
    """What a visitor sent is not looked at; the text is the sentence for them."""


def build_page(detector: Detector, title: str, samples: Sequence[str | os.PathLike] = ()) -> Any:
    """The page as Gradio's Blocks.

    A picture is looked at once; moving the threshold draws anew what was found. Nothing is fetched from elsewhere: no
    fonts, no statistics.

    Args:
        samples: pictures to try it on.

    Raises:
        ImportError: gradio is not installed.
    """
    gradio = _gradio()

    def look(picture: dict[str, Any] | None, threshold: Any) -> tuple[Any, ...]:
        if picture is None:
            return None, None, "", []
        file = picture["path"]
        started = time.perf_counter()
        (detections,) = detector.detect([file])
        if isinstance(detections, DetectionFailure):
            # An error would mark every panel. The file's name here is Gradio's own.
            return None, None, plain(detections.error.replace(file, "The picture")), []
        seconds = time.perf_counter() - started
        return detections, *draw(picture, detections, threshold, seconds)

    def draw(
        picture: dict[str, Any] | None, detections: Detections | None, threshold: Any, seconds: float | None = None
    ) -> tuple[Any, ...]:
        if picture is None or detections is None:
            return None, "", []
        if not 0 <= threshold <= 1:
            raise Refused(f"The threshold is {threshold}, expected a number from 0 to 1.")
        above = detections.filter(threshold)
        height, width = detections.image_size
        text = f"{counted(len(above), 'object')} above {threshold:.2f} in {width} x {height} pixels"
        text += "" if seconds is None else f", found in {seconds:.2g} s"
        return above.draw(load_image(picture["path"])), text, class_table(above)

    with _blocks(gradio)(title=title, analytics_enabled=False, delete_cache=(_KEEP_SECONDS, _KEEP_SECONDS)) as page:
        detections = gradio.State(None)
        gradio.Markdown(
            f"# {plain(title)}: a Deformable DETR detector\n\n"
            + _introduction(list(detector.network.id2label.values()), with_samples=bool(samples))
        )
        with gradio.Row():
            with gradio.Column():
                picture = gradio.Image(
                    label="Picture",
                    type="filepath",
                    sources=["upload", "clipboard"],
                    height=_height(420),
                    elem_id="picture",
                )
                if samples:
                    gradio.Examples([str(sample) for sample in samples], picture, label="Samples", elem_id="samples")
                threshold = gradio.Slider(
                    0.0,
                    1.0,
                    detector.network.threshold,
                    step=0.01,
                    label="Threshold: least score of a box",
                    elem_id="threshold",
                )
            with gradio.Column():
                drawn = gradio.Image(
                    label="Found",
                    format="jpeg",
                    interactive=False,
                    height=_height(540),
                    elem_id="found",
                    buttons=["download"],
                )
                summary = gradio.Markdown(elem_id="summary")
                classes = gradio.Dataframe(
                    headers=["class", "objects", "best score"], label="Classes", interactive=False, elem_id="classes"
                )
        outputs = [drawn, summary, classes]
        # Else Gradio opens the picture itself, without the limits of this package, before it calls.
        how: dict[str, Any] = {"preprocess": False, "concurrency_limit": _AT_A_TIME}
        picture.change(look, [picture, threshold], [detections, *outputs], **how)
        threshold.change(
            draw, [picture, detections, threshold], outputs, show_progress="hidden", trigger_mode="always_last", **how
        )
    return page


def uploaded(value: Any, folder: Path) -> Any:
    """What a client sends for an input: a picture as the file below the upload folder that it names, and no more.

    Gradio itself opens any path that a client names without saying that it is a file.

    Raises:
        Refused: it is something else, or names another file.
    """
    if value is None or isinstance(value, int | float):
        return value
    path = value.get("path") if isinstance(value, dict) else None
    try:
        file = Path(path or "").resolve(strict=True)
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        raise Refused(_REFUSED) from error
    if not file.is_file() or not file.is_relative_to(folder.resolve()):
        raise Refused(_REFUSED)
    return {"path": str(file), "meta": {"_type": "gradio.FileData"}}


def class_table(detections: Detections) -> list[list[Any]]:
    """A row for each class: its name, how many boxes, the best score; most first.

    Example:
        >>> class_table(Detections([[0, 0, 1, 1]] * 3, [0.9, 0.8, 0.7], [1, 0, 1], {0: "can", 1: "carton"}, (8, 8)))
        [['carton', 2, 0.9], ['can', 1, 0.8]]
    """
    rows: dict[str, list[Any]] = {}
    for name, score in zip(detections.names, detections.scores.tolist(), strict=True):
        row = rows.setdefault(name, [printable(name, 40), 0, 0.0])
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


def _height(pixels: int) -> str:
    """Of a panel with a picture, in CSS: on a telephone a picture is no higher than wide."""
    return f"min({pixels}px, 90vw)"


def _introduction(names: Sequence[str], with_samples: bool) -> str:
    listed = ", ".join(f"`{plain(name)}`" for name in names[:_SHOWN_CLASSES])
    more = f" and {len(names) - _SHOWN_CLASSES} more" if len(names) > _SHOWN_CLASSES else ""
    others = ", take one of the samples" if with_samples else ""
    return (
        f"This detector finds {counted(len(names), 'class', 'classes')} of objects in a picture: "
        f"{listed}{more}. Drop a picture{others} or paste one, and move the threshold until "
        "the boxes that you want remain."
    )


def _blocks(gradio: Any) -> type:
    """Gradio's Blocks, which check what clients send before anything is opened, and answer errors in one sentence."""

    class Page(gradio.Blocks):
        async def process_api(self, block_fn: Any, inputs: list[Any], *args: Any, **kwargs: Any) -> dict[str, Any]:
            try:
                folder = Path(gradio.utils.get_upload_folder())
                inputs = [uploaded(value, folder) for value in inputs]
                return await super().process_api(block_fn, inputs, *args, **kwargs)
            except Exception as error:
                told = one_line(error) if isinstance(error, Refused) else "This is not what the page asks for."
                why = "" if isinstance(error, Refused) else f" ({one_line(error)})"
                logger.warning("A visitor's request fails: %s", printable(told + why, 300))
                logger.debug("", exc_info=error)
                # The browser takes the text for HTML.
                raise gradio.Error(html.escape(printable(told, 300)), duration=None, print_exception=False) from None

    return Page


def _gradio() -> Any:
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    try:
        import gradio
    except ImportError as error:
        raise ImportError(f'The page needs gradio ({error}): pip install "deformable-detr-refine[demo]".') from error
    return gradio


__all__ = ["build_page", "launch"]
