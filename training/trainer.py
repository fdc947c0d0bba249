"""transformers' Trainer for a detector: its optimiser, its batches, its loss terms in the log, and COCO's metrics."""

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from accelerate.utils import DynamoBackend, TorchDynamoPlugin, gather_object
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import EarlyStoppingCallback, PreTrainedModel, PrinterCallback
from transformers.trainer import DEFAULT_PROGRESS_CALLBACK
from transformers.trainer_utils import EvalLoopOutput

from deformable_detr_refine.data.examples import Examples, collate
from deformable_detr_refine.data.samplers import EqualShapeBatches, OrientationSampler
from deformable_detr_refine.evaluation.evaluated_image import EvaluatedImage, evaluated_image
from deformable_detr_refine.evaluation.merging import merge_images
from deformable_detr_refine.evaluation.metrics.azure import METRICS as AZURE_METRICS
from deformable_detr_refine.evaluation.metrics.azure import AzureEvaluation, azure_metrics
from deformable_detr_refine.evaluation.metrics.coco import coco_metrics
from deformable_detr_refine.evaluation.predict import predict
from deformable_detr_refine.inference.network import Network
from deformable_detr_refine.inference.tiles import Tiling
from deformable_detr_refine.modeling import DeformableDetrRefineForObjectDetection

from .arguments import DetectionTrainingArguments
from .ema import MovingAverage
from .loss_terms import LossTerms
from .optimizer import drops_at, parameter_groups, scaled_learning_rate
from .progress import DetectionLines, DetectionProgress
from .rates import training_order
from .replay import save_batch
from .resumable_trainer import ResumableTrainer

# Batches in turn whose loss is not finite, under fp16's scaler. It begins at 2**16 and halves: more cannot help.
MOST_SKIPPED = 16


class DetectionTrainer(ResumableTrainer):
    """Trains and evaluates a `DeformableDetrRefineForObjectDetection`; everything else is transformers' Trainer.

    Args:
        model: the detector; its config's `id2label` names the classes.
        args: `DetectionTrainingArguments`.
        train_dataset, eval_dataset: `Examples`, which hold the image processor.
        tiling: how images are cut in evaluations, which then have no loss.
        kwargs: as of `transformers.Trainer`.
    """

    if TYPE_CHECKING:  # what `__init__` hands to the Trainer, which declares more
        args: DetectionTrainingArguments
        model: DeformableDetrRefineForObjectDetection
        train_dataset: Examples | None
        eval_dataset: Examples | None

    def __init__(
        self,
        model: DeformableDetrRefineForObjectDetection,
        args: DetectionTrainingArguments,
        train_dataset: Examples | None = None,
        eval_dataset: Examples | None = None,
        *,
        tiling: Tiling | None = None,
        **kwargs: Any,
    ) -> None:
        examples = train_dataset or eval_dataset
        assert examples is not None, "give a train_dataset, an eval_dataset, or both"
        super().__init__(
            model,
            args,
            data_collator=partial(collate, always_masked=args.torch_compile),
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=examples.processor,
            **kwargs,
        )
        if args.fsdp and not self.is_fsdp_enabled:
            raise ValueError(f"fsdp is for GPUs and their like: on {args.device} accelerate trains with DDP instead.")
        plugin: Any = self.accelerator.state.fsdp_plugin if self.is_fsdp_enabled else None
        if plugin:
            # Else all is cast to 16 bits, coordinates too.
            plugin.mixed_precision_policy = None
        if args.torch_compile:
            # One graph for all sizes of images and batches; with such sizes PyTorch cannot cut it at DDP's buckets.
            from torch._dynamo import config as compiler

            compiler.optimize_ddp = False
            self.model.compile(backend=args.torch_compile_backend, mode=args.torch_compile_mode, dynamic=True)
        # The model divides by the number of boxes that `_get_num_items_in_batch` counts.
        self.model_accepts_loss_kwargs = True
        self.ema = MovingAverage(self.model, args.ema_decay) if args.ema_decay else None
        if self.ema:
            self.add_callback(self.ema)
        if args.early_stopping_patience:
            self.add_callback(EarlyStoppingCallback(args.early_stopping_patience))
        self.remove_callback(PrinterCallback if args.disable_tqdm else DEFAULT_PROGRESS_CALLBACK)
        has_bar = not args.disable_tqdm and sys.stderr.isatty()
        self.add_callback(DetectionProgress if has_bar else DetectionLines)
        self.tiling = tiling
        self.evaluated: list[EvaluatedImage] = []
        self.trained = False
        self._terms = LossTerms()
        self._skipped = 0  # one after the other

    def _build_accelerator_args(self, **kwargs: Any) -> dict[str, Any]:
        args = super()._build_accelerator_args(**kwargs)
        # DDP's buckets and the gradients are the same memory, which no part of the loop minds.
        args["kwargs_handlers"][0].gradient_as_bucket_view = True
        # accelerate would compile the loss, too.
        args["dynamo_plugin"] = TorchDynamoPlugin(backend=DynamoBackend.NO)
        return args

    # Optimiser and schedule

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            model = self.model if model is None else model
            args, learning_rate = self.args, self.args.learning_rate
            if args.scale_lr_by_batch:
                images = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
                learning_rate = scaled_learning_rate(learning_rate, args.scale_lr_by_batch, images)
            groups = parameter_groups(
                model.named_parameters(), learning_rate, args.weight_decay, args.slow_parameters, args.slow_factor
            )
            kind, options = self.get_optimizer_cls_and_kwargs(args, cast("PreTrainedModel", model))
            self.optimizer = kind(groups, **{**options, "lr": learning_rate})
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None):
        if self.lr_scheduler is None and self.args.lr_drop_epochs:
            steps_per_epoch = num_training_steps / self.args.num_train_epochs
            drops = [round(epoch * steps_per_epoch) for epoch in self.args.lr_drop_epochs]
            warmup = self.args.get_warmup_steps(num_training_steps)
            self.lr_scheduler = drops_at(optimizer or self.optimizer, drops, warmup)
            self._created_lr_scheduler = True
        return super().create_scheduler(num_training_steps, optimizer)

    # Batches

    def _get_train_sampler(self, train_dataset: Examples | None = None) -> OrientationSampler:
        examples = train_dataset or self.train_dataset
        assert examples is not None, "training needs a train_dataset"
        self._train_sampler = training_order(examples, self.args, self._train_batch_size)
        return self._train_sampler

    def _run_epoch(self, *args: Any, epoch: int, **kwargs: Any) -> None:
        self.trained = True
        self._terms.begin(self.state.global_step)
        self._train_sampler.set_epoch(epoch)
        super()._run_epoch(*args, epoch=epoch, **kwargs)

    def get_eval_dataloader(self, eval_dataset: Examples | None = None) -> DataLoader:
        """This process's share: batches of one shape, no image twice, however many processes there are."""
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        assert dataset is not None, "an evaluation needs an eval_dataset"
        sizes = zip(dataset.rows["height"], dataset.rows["width"], strict=True)
        shapes = [dataset.processor.resized_shape(height, width) for height, width in sizes]
        args = self.args
        return DataLoader(
            dataset,
            batch_sampler=EqualShapeBatches(shapes, args.eval_batch_size, args.process_index, args.world_size),
            collate_fn=self.data_collator,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory and torch.accelerator.is_available(),
        )

    # Loss

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Any]], device: torch.device) -> Tensor:
        """Boxes of all ranks and of the whole accumulation window, by which every loss term is divided."""
        count = sum(len(label["class_labels"]) for batch in batch_samples for label in batch["labels"])
        return cast("Tensor", self.accelerator.reduce(torch.full((), float(count), device=device), "sum"))

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch=None
    ) -> Any:
        try:
            computed = super().compute_loss(model, inputs, True, num_items_in_batch)
            loss, outputs = cast("tuple[Tensor, Any]", computed)
            skipped = not loss.isfinite()  # by fp16's scaler, which is lowered then
            self._skipped = self._skipped + 1 if skipped else 0
            if skipped and (self.accelerator.scaler is None or self._skipped > MOST_SKIPPED):
                raise FloatingPointError("The loss is not finite.")
        except FloatingPointError as error:
            if self.is_fsdp_enabled:  # whose weights no process has alone
                raise
            file = save_batch(
                self.model, inputs, num_items_in_batch, Path(self.args.output_dir), self.state.global_step
            )
            raise FloatingPointError(f"{error} The batch is kept: ddetr train --replay {file}") from error
        # As the Trainer scales the loss: each rank's share times the number of ranks.
        scale = self.accelerator.num_processes
        terms = {
            name: torch.zeros_like(term) if skipped else scale * term.detach()
            for name, term in outputs["loss_dict"].items()
        }
        self._terms.add(terms, len(inputs["labels"]))
        return (loss, outputs) if return_outputs else loss

    def autocast_smart_context_manager(self, cache_enabled: bool | None = True) -> AbstractContextManager[Any]:
        # Of all others accelerate has wrapped the model's forward in it.
        return self.accelerator.autocast() if self.is_fsdp_enabled else nullcontext()

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        # A skipped step's loss would stay in transformers' sum.
        return super().training_step(*args, **kwargs).nan_to_num(0.0, 0.0, 0.0)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds every loss term by name, the slow parameters' learning rate, images/s and the GPU's memory."""
        if "loss" in logs:
            logs |= self._terms.drain(self.accelerator, self.state.global_step)
            if len(self.optimizer.param_groups) > 1:  # which have the next step's rates already
                logs["learning_rate_slow"] = logs["learning_rate"] * self.args.slow_factor
            accelerator = torch.accelerator.current_accelerator(check_available=True)
            if accelerator is not None and accelerator.type != "mps":  # which does not count
                logs["gpu_memory_gb"] = torch.accelerator.max_memory_allocated() / 2**30
        super().log(logs, start_time)

    # Evaluation

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        with self._terms.paused():
            return super().evaluate(*args, **kwargs)

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """COCO's metrics and the loss over a data set; detections only are kept. `evaluated` holds the images."""
        losses, images = 0.0, []

        # Not compiled: it would be a second graph, for the faster forms that inference has already.
        with torch.compiler.set_stance("force_eager"), self.averaged_weights(), self._whole_model() as model:
            model.eval()
            for found, loss in (self._found if self.tiling is None else self._found_in_tiles)(model, dataloader):
                losses += loss * len(found)
                images += found
                self.control = self.callback_handler.on_prediction_step(self.args, self.state, self.control)
        losses = sum(gather_object([losses]))
        self.evaluated = merge_images([gather_object(images)])
        names = [self.model.config.id2label[label] for label in range(self.model.config.num_labels)]
        metrics = coco_metrics(self.evaluated, names)
        logged = {} if self.tiling else {"loss": losses / max(len(self.evaluated), 1)}
        logged |= {name: value for name, value in metrics.items() if name != "per_class"}
        logged |= {f"AP_{name}": values["AP"] for name, values in metrics["per_class"].items()}
        if (asked := (self.args.metric_for_best_model or "").removeprefix("eval_")) in AZURE_METRICS:
            azure = AzureEvaluation([asked], self.args.iou_threshold, self.args.box_score_threshold)
            logged[asked] = azure_metrics(self.evaluated, names, azure)[asked]
        logged = {f"{metric_key_prefix}_{name}": float(value) for name, value in logged.items()}
        # Neither predictions nor labels are kept; the former are declared as never None, though nothing reads them.
        return EvalLoopOutput(None, None, metrics=logged, num_samples=len(self.evaluated))  # pyright: ignore[reportArgumentType]

    def _found(
        self, model: DeformableDetrRefineForObjectDetection, dataloader: DataLoader
    ) -> Iterator[tuple[list[EvaluatedImage], float]]:
        """The images of each batch, and its loss."""
        rows = cast("Examples", dataloader.dataset).rows.remove_columns("image")
        index_of = {image_id: index for index, image_id in enumerate(rows["image_id"])}

        @torch.inference_mode()
        def forward(inputs: dict[str, Any]) -> Any:
            with self.accelerator.autocast():
                return model(**inputs)

        network = Network(forward, self.processing_class, model.config.id2label)
        for inputs in dataloader:
            inputs = cast("dict[str, Any]", self._prepare_inputs(inputs))
            seen = [rows[index_of[int(label["image_id"])]] for label in inputs["labels"]]
            outputs, results = network.run(inputs, [(row["height"], row["width"]) for row in seen])
            yield [evaluated_image(result, row) for result, row in zip(results, seen, strict=True)], outputs.loss.item()

    def _found_in_tiles(
        self, model: DeformableDetrRefineForObjectDetection, dataloader: DataLoader
    ) -> Iterator[tuple[list[EvaluatedImage], float]]:
        """Each of this process's images by itself; there is no loss."""
        rows, args = cast("Examples", dataloader.dataset).rows, self.args
        mine = range(args.process_index, len(rows), args.world_size)
        with self.accelerator.autocast():
            for image in predict(
                model, self.processing_class, rows, args.eval_batch_size, indices=mine, tiling=self.tiling
            ):
                yield [image], 0.0
