"""Which values a setting may have, and which of transformers' settings mean nothing to a detector."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple


class Range(NamedTuple):
    """The numbers that a setting may be, as a test and in words."""

    holds: Callable[[float], bool]
    words: str


_COUNT = Range(lambda value: value >= 1, "a whole number from 1 on")
_COUNT_OR_NONE = Range(lambda value: value >= 0, "a whole number from 0 on")
_POSITIVE = Range(lambda value: value > 0, "a number above 0")
_NOT_NEGATIVE = Range(lambda value: value >= 0, "a number from 0 on")
_SHARE = Range(lambda value: 0 <= value <= 1, "a number from 0 to 1")
_BELOW_ONE = Range(lambda value: 0 <= value < 1, "a number from 0 to below 1")
_SEED = Range(lambda value: 0 <= value < 2**32, "a whole number from 0 to below 2**32")

RANGES = {
    **dict.fromkeys(
        (
            "per_device_train_batch_size",
            "per_device_eval_batch_size",
            "gradient_accumulation_steps",
            "shortest_edge",
            "longest_edge",
            "scale_lr_by_batch",
            "early_stopping_patience",
            "dataloader_prefetch_factor",
            "torch_empty_cache_steps",
            "save_total_limit",
            "ddp_bucket_cap_mb",
            "ddp_timeout",
        ),
        _COUNT,
    ),
    **dict.fromkeys(
        ("num_train_epochs", "learning_rate", "adam_epsilon", "logging_steps", "eval_steps", "save_steps"), _POSITIVE
    ),
    **dict.fromkeys(
        ("weight_decay", "max_grad_norm", "warmup_steps", "eval_delay", "slow_factor", "lr_drop_epochs"), _NOT_NEGATIVE
    ),
    **dict.fromkeys(("adam_beta1", "adam_beta2"), _BELOW_ONE),
    **dict.fromkeys(("iou_threshold", "box_score_threshold", "tile_nms", "tile_share"), _SHARE),
    **dict.fromkeys(("seed", "data_seed"), _SEED),
    "dataloader_num_workers": _COUNT_OR_NONE,
    "split_every": Range(lambda value: value >= 2, "a whole number from 2 on"),
    "max_steps": Range(lambda value: value == -1 or value >= 1, "a whole number from 1 on (or -1: by epochs)"),
    "ema_decay": Range(lambda value: 0 < value < 1, "a number between 0 and 1"),
}

# Setting -> (the value that it must have, why).
MUST_BE = {
    "label_smoothing_factor": (0.0, "the focal loss has no labels to smooth"),
    "neftune_noise_alpha": (None, "it adds noise to embeddings of words"),
    "use_liger_kernel": (False, "its kernels are for language models"),
    "liger_kernel_config": (None, "its kernels are for language models"),
    "use_cache": (False, "a detector keeps no words of before"),
    "include_num_input_tokens_seen": ("no", "it counts tokens of text"),
    "train_sampling_strategy": ("random", "batches are drawn at random, of one orientation each"),
    "prediction_loss_only": (False, "an evaluation is COCO's, of the detections"),
    "eval_accumulation_steps": (None, "an evaluation keeps detections only"),
    "eval_use_gather_object": (False, "detections are gathered so in any case"),
    "include_for_metrics": ([], "COCO's metrics take nothing else"),
    "batch_eval_metrics": (False, "COCO's metrics are of the whole set"),
    "bf16_full_eval": (False, "--bf16 true evaluates in bfloat16, too"),
    "fp16_full_eval": (False, "--fp16 true evaluates in float16, too"),
    "parallelism_config": (None, "it is small enough for each GPU: several take DDP, or --fsdp true"),
    "remove_unused_columns": (False, "all columns are used"),
    "eval_do_concat_batches": (False, "images have different numbers of boxes"),
    "label_names": (["labels"], "that is what the targets are called"),
}


def fault_of(name: str, value: Any) -> str | None:
    """What a setting should be instead of this value, or None where it may be that.

    Example:
        >>> fault_of("num_train_epochs", -3.0), fault_of("num_train_epochs", 0.5)
        ('expected a number above 0', None)
        >>> fault_of("neftune_noise_alpha", 5.0)
        'which means nothing to a detector: it adds noise to embeddings of words'
    """
    if name in MUST_BE:
        expected, reason = MUST_BE[name]
        # The parser reads "no" of a field that may be text or a bool as false.
        same = value == expected or (expected == "no" and value is False)
        return None if same else f"which means nothing to a detector: {reason}"
    for number in value if isinstance(value, list) else [value]:
        if isinstance(number, bool) or not isinstance(number, int | float):
            continue
        if not math.isfinite(number):
            return "expected a finite number"
        if name in RANGES and not RANGES[name].holds(number):
            return f"expected {RANGES[name].words}"
    return None


__all__ = ["MUST_BE", "RANGES", "fault_of"]
