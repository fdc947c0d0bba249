"""Which of the ways to spread a run over devices, and to speed it up, a detector takes; others are refused."""

import os
from typing import Any

import torch
from transformers.training_args import OptimizerNames

from .arguments import DetectionTrainingArguments

# Of fsdp_config: what each must be, and why.
_FSDP = {
    "version": (2, "FSDP1 is on its way out of PyTorch"),
    "state_dict_type": ("FULL_STATE_DICT", "a detector of some 40 million weights is one file"),
    "cpu_offload": (False, "a detector fits into a GPU's memory, and it was not tried"),
    "cpu_ram_efficient_loading": (False, "every process has the weights to begin with"),
    "activation_checkpointing": (False, "--gradient_checkpointing true does it"),
    "xla": (False, "it was not tried on TPUs"),
}
# Of accelerator_config: each process draws whole batches of one orientation by itself.
_ACCELERATOR = {"split_batches": False, "dispatch_batches": None, "even_batches": True}

# What `accelerate launch` may ask for by the environment, past the settings, and the setting that asks for the same.
_LAUNCHED = {
    "FSDP": ("fsdp", "give --fsdp true instead"),
    "DEEPSPEED": ("deepspeed", "give --deepspeed FILE instead"),
    "MEGATRON_LM": ("", "a detector takes DDP or --fsdp true"),
    "PARALLELISM_CONFIG": ("", "a detector takes DDP or --fsdp true"),
}


def check_scaling(args: DetectionTrainingArguments) -> None:
    """Check that the processes, and what of FSDP, torch.compile and the like is asked for, go with a detector.

    Raises:
        ValueError: the first thing that does not, with what to do instead.
    """
    if args.n_gpu > 1:
        raise ValueError(
            f"One process sees {args.n_gpu} GPUs: start one for each (torchrun --nproc-per-node {args.n_gpu} ...), or "
            "show it one (CUDA_VISIBLE_DEVICES=0)."
        )
    for name, (setting, instead) in _LAUNCHED.items():
        asked = os.environ.get(f"ACCELERATE_USE_{name}", "false").lower() == "true"
        if asked and not getattr(args, setting, None):
            raise ValueError(f"accelerate launch asks for {name}: {instead}.")
    if args.average_tokens_across_devices is False and args.world_size > 1:
        raise ValueError("average_tokens_across_devices must stay on: the loss is divided by all processes' boxes.")
    if args.auto_find_batch_size and args.world_size > 1:
        raise ValueError(
            "auto_find_batch_size is for one process: of several, those with memory left would wait for the others; "
            "give --per_device_train_batch_size."
        )
    if args.auto_find_batch_size and args.scale_lr_by_batch:
        raise ValueError("scale_lr_by_batch needs to know the batch that auto_find_batch_size has yet to find.")
    for name, expected in _ACCELERATOR.items():
        if getattr(args.accelerator_config, name) != expected:
            raise ValueError(f"{name} of accelerator_config must be {expected}: each process draws its own batches.")
    if (name := OptimizerNames(args.optim).value).startswith("schedule_free"):
        raise ValueError(f"optim {name} evaluates other weights than it trains: --ema_decay averages.")
    _check_fsdp(args)
    _check_deepspeed(args)
    _check_compile(args)


def _check_fsdp(args: DetectionTrainingArguments) -> None:
    if not args.fsdp:
        if args.fsdp_config:
            raise ValueError("fsdp_config is of no use without --fsdp true.")
        return
    if args.world_size == 1:
        raise ValueError("fsdp divides the weights among processes, of which there is one: torchrun starts more.")
    if args.torch_compile:
        raise ValueError("torch_compile makes many graphs of a model in shards: leave out it or fsdp.")
    config: dict[str, Any] = args.fsdp_config if isinstance(args.fsdp_config, dict) else {}
    for name, (expected, reason) in _FSDP.items():
        if str(found := config.get(name, expected)).lower() != str(expected).lower():
            raise ValueError(f"{name} of fsdp_config is {found!r}, expected {expected!r}: {reason}.")


def _check_deepspeed(args: DetectionTrainingArguments) -> None:
    if not args.deepspeed:
        return
    config = args.hf_deepspeed_config
    if config.is_zero3() or config.is_offload():
        raise ValueError("deepspeed: ZeRO-3 and offloading were not tried with a detector, ZeRO-1 and ZeRO-2 were.")
    if args.bf16 or args.fp16:
        raise ValueError(
            "deepspeed casts all to 16 bits, coordinates too: --bf16 false --fp16 false, or DDP or FSDP instead of it."
        )
    for name in ("torch_compile", "ema_decay"):
        if getattr(args, name):
            raise ValueError(f"{name} with deepspeed was not tried: leave out one of them.")


def _check_compile(args: DetectionTrainingArguments) -> None:
    if args.torch_compile_backend and args.torch_compile_backend not in torch.compiler.list_backends(()):
        raise ValueError(
            f"There is no torch_compile_backend {args.torch_compile_backend!r} here; there are "
            f"{', '.join(torch.compiler.list_backends())}."
        )
    if args.torch_compile_mode:
        from torch._inductor import list_mode_options

        if args.torch_compile_mode not in (modes := list(list_mode_options())):
            raise ValueError(
                f"There is no torch_compile_mode {args.torch_compile_mode!r}; there are {', '.join(modes)}."
            )


__all__ = ["check_scaling"]
