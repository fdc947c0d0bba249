"""FSDP2 on two processes: the losses are DDP's, and what it writes is what any run writes."""

import json

import pytest
from support import forked
from support.training_runs import history, largest_difference, log_of, train_all, weights

from deformable_detr_refine import DeformableDetrRefineForObjectDetection

RUN = {
    "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 3,
    "num_train_epochs": 2,
    "ema_decay": 0.9,
    "augmentation": "light",
}


@pytest.mark.slow
def test_fsdp_is_ddp(settings_file, tmp_path):
    """Accumulated, a rank without boxes, unequal numbers of images to evaluate on, and resumed."""
    ddp, fsdp, resumed, bf16 = (tmp_path / name for name in ("ddp", "fsdp", "resumed", "bf16"))
    from_first = {"resume_from_checkpoint": str(fsdp / "checkpoint-2")}
    settings = [
        settings_file(ddp, **RUN),
        settings_file(fsdp, fsdp=True, **RUN),
        settings_file(resumed, fsdp=True, **from_first, **RUN),
        settings_file(bf16, fsdp=True, bf16=True, **{**RUN, "num_train_epochs": 0.4}),  # one step
    ]
    forked.finish(forked.start_ranks(2, train_all, settings, log=log_of(settings[0])), log_of(settings[0]))
    for name in ("loss", "grad_norm", "eval_loss", "eval_AP"):
        expected, found = ([line[name] for line in history(folder) if name in line] for folder in (ddp, fsdp))
        assert found == pytest.approx(expected, rel=1e-5), name
    in_fp32, in_bf16 = (history(folder)[0]["loss"] for folder in (ddp, bf16))
    assert in_bf16 != in_fp32 and in_bf16 == pytest.approx(in_fp32, rel=1e-2)  # with other matches
    assert largest_difference(weights(ddp), weights(fsdp)) < 1e-6
    for name in ("model.safetensors", "training_weights.safetensors"):
        expected, found = (weights(folder / "checkpoint-4", name) for folder in (ddp, fsdp))
        assert largest_difference(expected, found) < 1e-6, name
    assert largest_difference(weights(fsdp), weights(resumed)) == 0
    assert [line.get("loss") for line in history(fsdp)] == [line.get("loss") for line in history(resumed)]
    for name in ("config.json", "preprocessor_config.json"):
        expected, found = (json.loads((folder / name).read_text()) for folder in (ddp, fsdp))
        assert found == expected
    assert sorted(path.name for path in (fsdp / "code").iterdir()) == sorted(
        path.name for path in (ddp / "code").iterdir()
    )
    assert type(DeformableDetrRefineForObjectDetection.from_pretrained(fsdp)) is DeformableDetrRefineForObjectDetection
