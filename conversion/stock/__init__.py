"""Stock transformers: folders of its `DeformableDetrForObjectDetection`, of every release since 2022, in and out."""
