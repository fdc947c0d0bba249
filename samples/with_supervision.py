"""What is found, in the hands of the package supervision: counted in a zone and drawn by its annotators.

    pip install supervision
    python samples/with_supervision.py samples/blood-cells samples/images/BloodImage_00000.jpg zone.png

The zone is the left half of the image. Tracking a video goes the same way: supervision's trackers take what
`to_supervision()` gives.
"""

import argparse
from collections import Counter

import numpy as np
import supervision as sv

from deformable_detr_refine import load_image
from deformable_detr_refine.inference import DetectionFailure, Detector


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a model folder")
    parser.add_argument("image")
    parser.add_argument("output", help="picture to write")
    parser.add_argument("--threshold", type=float, default=0.3, help="least score (default 0.3)")
    args = parser.parse_args()

    image = load_image(args.image)
    (detections,) = Detector(args.model).detect([image], args.threshold)
    if isinstance(detections, DetectionFailure):
        raise SystemExit(detections.error)
    objects = detections.to_supervision()

    left_half = np.array([[0, 0], [image.width // 2, 0], [image.width // 2, image.height], [0, image.height]])
    zone = sv.PolygonZone(left_half, triggering_anchors=[sv.Position.CENTER])
    inside = objects[zone.trigger(objects)]
    counts = Counter(inside.data["class_name"].tolist())
    print(f"{len(inside)} of {len(objects)} are in the left half: {dict(counts)}")

    picture = sv.BoxAnnotator().annotate(image.copy(), inside)
    sv.LabelAnnotator().annotate(picture, inside).save(args.output)


if __name__ == "__main__":
    main()
