"""The settings of training that change what a model learns, each by itself."""

RECIPES = {
    "default": {},
    "quality-target": {"quality_target": 0.25},
    "mixed-query-selection": {"mixed_query_selection": True},
}
