"""The settings of training that change what a model learns, each by itself."""

RECIPES = {"default": {}, "quality-target": {"quality_target": 0.25}}
