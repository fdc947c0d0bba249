"""Metrics of COCO and Azure ML, curves, confusions and kinds of error."""
