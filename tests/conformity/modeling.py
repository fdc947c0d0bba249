"""transformers' tests of every configuration and model, on the two ends of the family."""

import unittest

import torch
from transformers_tests.test_configuration_common import ConfigTester
from transformers_tests.test_modeling_common import ModelTesterMixin, floats_tensor

from deformable_detr_refine import (
    DeformableDetrRefineConfig,
    DeformableDetrRefineForObjectDetection,
    DeformableDetrRefineModel,
)


class SmallModel:
    """Makes configurations and inputs. Attributes are what the tests read."""

    batch_size = 2
    is_training = True
    hidden_size, num_hidden_layers, num_attention_heads = 32, 2, 4
    seq_length = decoder_seq_length = num_queries = 12
    encoder_seq_length = 12 * 12 + 6 * 6 + 3 * 3 + 2 * 2

    def __init__(self, variant: dict) -> None:
        self.variant = variant

    def get_config(self) -> DeformableDetrRefineConfig:
        return DeformableDetrRefineConfig(
            backbone="test_resnet",
            d_model=self.hidden_size,
            encoder_layers=self.num_hidden_layers,
            decoder_layers=self.num_hidden_layers,
            encoder_attention_heads=self.num_attention_heads,
            decoder_attention_heads=self.num_attention_heads,
            encoder_ffn_dim=16,
            decoder_ffn_dim=16,
            encoder_n_points=2,
            decoder_n_points=2,
            num_queries=self.num_queries,
            num_labels=91,
            **self.variant,
        )

    def prepare_config_and_inputs_for_common(self):
        pixel_values = floats_tensor([self.batch_size, 3, 96, 96])
        return self.get_config(), {"pixel_values": pixel_values, "pixel_mask": torch.ones(self.batch_size, 96, 96)}


class Common(ModelTesterMixin):
    all_model_classes = (DeformableDetrRefineModel, DeformableDetrRefineForObjectDetection)
    is_encoder_decoder = True
    test_resize_embeddings = False
    test_can_init_all_missing_weights_before_2023 = True
    variant: dict = {}

    def setUp(self):
        self.model_tester = SmallModel(self.variant)
        self.config_tester = ConfigTester(self, config_class=DeformableDetrRefineConfig, has_text_modality=False)
        if "training" in self._testMethodName:  # these know models without a loss by a list of transformers' own
            self.all_model_classes = (DeformableDetrRefineForObjectDetection,)

    def test_config(self):
        self.config_tester.run_common_tests()

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels=return_labels)
        # Some tests give a decoder's tokens to every model that is called an encoder-decoder.
        inputs = {name: value for name, value in inputs.items() if not name.startswith("decoder_")}
        if return_labels and model_class is DeformableDetrRefineForObjectDetection:
            label = {"class_labels": torch.ones(8, dtype=torch.long), "boxes": torch.full((8, 4), 0.5)}
            inputs["labels"] = [label] * len(inputs["pixel_values"])
        return inputs


class TwoStage(Common, unittest.TestCase):
    """Box refinement and two stages."""


class Plain(Common, unittest.TestCase):
    variant = {"two_stage": False, "with_box_refine": False}
