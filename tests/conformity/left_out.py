"""Tests of transformers that this package's classes need not pass, and why."""

LEFT_OUT = {
    "test_attention_outputs": (
        "It asks for weights of each token at each token. Deformable attention has them at a few sampled points, as in "
        "transformers' own Deformable DETR, which replaces this test; tests/modeling/test_model.py holds the shapes."
    ),
    "test_model_get_set_embeddings": "A detector takes pixels and has no embedding of input tokens.",
    "test_processor_can_use_legacy_annotation_format": "The picture it opens is not in the source package.",
}
