"""Objects followed from frame to frame, by the tracker of another package."""

import math
from collections import defaultdict
from dataclasses import replace
from typing import Any

import numpy as np

from .detections import Detections


class Tracker:
    """Gives the same object the same number in every frame: ByteTrack, of the package trackers, for each class.

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
        # An object may be away for a second, and for two frames where these are further apart. The tracker counts that
        # time in thirtieths of a second.
        lost = max(30, math.ceil(2.5 * 30 / rate))
        self._trackers: dict[int, Any] = defaultdict(
            lambda: ByteTrackTracker(
                lost, frame_rate=rate, track_activation_threshold=threshold, high_conf_det_threshold=threshold
            )
        )
        self._numbers: dict[tuple[int, int], int] = {}

    def follow(self, detections: Detections, seconds: float) -> Detections:
        """The same boxes with `ids`; -1 where an object was not seen in two frames running.

        Args:
            detections: of a frame.
            seconds: when it was; frames come in the order of time.
        """
        ids = np.full(len(detections), -1)
        boxes = detections.to_supervision()
        boxes.data["index"] = np.arange(len(detections))
        for label in {*self._trackers, *detections.labels.tolist()}:
            followed = self._trackers[label].update(boxes[boxes.class_id == label], timestamp=seconds)
            for index, own in zip(followed.data.get("index", ()), followed.tracker_id, strict=False):
                if own >= 0:
                    ids[int(index)] = self._numbers.setdefault((label, int(own)), len(self._numbers))
        return replace(detections, ids=ids)


__all__ = ["Tracker"]
