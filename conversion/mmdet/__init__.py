"""MMDetection: names, shapes, settings and weights, in and out."""
