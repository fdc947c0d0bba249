"""Objects followed from frame to frame, by the tracker of another package."""

from dataclasses import replace
from typing import Any

import numpy as np

from .detections import Detections


class Tracker:
    """Gives the same object the same number in every frame: ByteTrack, of the package trackers.

    Args:
        rate: frames a second, on average.
        threshold: least score of a box that begins a track.

    Raises:
        ImportError: the package trackers is not installed.
    """

    def __init__(self, rate: float, threshold: float):
        try:
            from trackers import ByteTrackTracker
        except ImportError as error:
            raise ImportError(
                'Following objects needs the package trackers: pip install "deformable-detr-refine[video]".'
            ) from error
        self._tracker: Any = ByteTrackTracker(
            frame_rate=rate, track_activation_threshold=threshold, high_conf_det_threshold=threshold
        )

    def follow(self, detections: Detections, seconds: float) -> Detections:
        """The same boxes with `ids`; -1 where an object was not seen in two frames running.

        Args:
            detections: of a frame.
            seconds: when it was; frames come in the order of time.
        """
        boxes = detections.to_supervision()
        boxes.data["index"] = np.arange(len(detections))
        followed = self._tracker.update(boxes, timestamp=seconds)
        ids = np.full(len(detections), -1)
        if len(followed):
            ids[followed.data["index"].astype(int)] = followed.tracker_id
        return replace(detections, ids=ids)


__all__ = ["Tracker"]
