"""Results as files: metrics, detections, and one page with everything."""
