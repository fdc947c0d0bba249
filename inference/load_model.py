"""A model folder, or a model of the Hub, that must be whole: loaded, or refused in one sentence."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache
from safetensors import SafetensorError
from transformers.utils import logging

from deformable_detr_refine.errors import CheckpointError
from deformable_detr_refine.files import other_kind
from deformable_detr_refine.hub_names import hub_has_an_address, is_hub_name
from deformable_detr_refine.json_file import read_json
from deformable_detr_refine.messages import near, one_line, printable, without_progress_bars
from deformable_detr_refine.modeling import (
    DeformableDetrRefineConfig,
    DeformableDetrRefineForObjectDetection,
    DeformableDetrRefineImageProcessor,
)

from .weight_index import weight_map_of

# What is taken from a config.json. Other names reach attributes of transformers that choose code and fetch it.
KNOWN = frozenset(
    {field.name for field in fields(DeformableDetrRefineConfig)}  # pyright: ignore[reportArgumentType]
    | set(DeformableDetrRefineConfig.attribute_map)
    | {"model_type", "num_labels", "torch_dtype"}
)
_SHOWN = 3
# What transformers raises on settings and files of another form.
_UNFORESEEN = (ArithmeticError, AttributeError, ImportError, LookupError, TypeError)


def load_model(model: str | Path, **options: Any) -> DeformableDetrRefineForObjectDetection:
    """Loads a model of which every weight is there, fits its config.json, and is used.

    Args:
        model: a folder with config.json and model.safetensors, or OWNER/NAME on the Hub.
        options: of `from_pretrained`: revision, local_files_only, dtype, ...

    Raises:
        OSError: there is no such model, a file is missing, or the Hub does not give it.
        CheckpointError: it is another kind of model, config.json asks for one that cannot be, or the weights are
            damaged or do not fit it.
    """
    options = {**_where(model, options), **options}
    _check_files(Path(model))
    config = _config(model, options)
    verbosity = logging.get_verbosity()
    # Its report on weights that do not fit is a table; the sentence below replaces it.
    logging.set_verbosity_error()
    try:
        with without_progress_bars():
            # A pair, with this option.
            loaded: Any = DeformableDetrRefineForObjectDetection.from_pretrained(
                model, config=config, output_loading_info=True, ignore_mismatched_sizes=True, **options
            )
    except SafetensorError as error:
        raise CheckpointError(_damaged(model, error)) from error
    except (*_UNFORESEEN, RuntimeError) as error:
        raise CheckpointError(f"{model}: the weights cannot be loaded ({_line(error)}).") from error
    finally:
        logging.set_verbosity(verbosity)
    detector, info = loaded
    kinds = (("missing", "missing"), ("unexpected", "not of this model"), ("mismatched", "of another shape"))
    wrong = [_names(words, info[f"{kind}_keys"]) for kind, words in kinds if info[f"{kind}_keys"]]
    if wrong:
        raise CheckpointError(f"{model}: the weights do not fit config.json ({'; '.join(wrong)}).")
    return detector


def load_processor(model: str | Path, **options: Any) -> DeformableDetrRefineImageProcessor:
    """Loads the image processor of a model folder, or of a model of the Hub.

    Args:
        options: of `from_pretrained`: revision, size, ...

    Raises:
        OSError: there is no such model, preprocessor_config.json is missing, or the Hub does not give it.
    """
    options = {**_where(model, options), **options}
    _check_files(Path(model))
    try:
        return DeformableDetrRefineImageProcessor.from_pretrained(model, **options)
    except (*_UNFORESEEN, RuntimeError, ValueError) as error:
        raise CheckpointError(f"{model}: preprocessor_config.json is refused: {_line(error)}") from error


def refuse_int8(config: DeformableDetrRefineConfig, model: str | Path, what: str) -> None:
    """For what needs weights in float.

    Raises:
        ValueError: the model is in int8.
    """
    if config.int8:
        raise ValueError(f"{model} is in int8, which {what} does not take: give it the detector that it was made from.")


def _where(model: str | Path, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options that say where a model is looked for: here, or on the Hub.

    Raises:
        FileNotFoundError: it is in neither place, by its name alone.
    """
    path, name = Path(model), str(model)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise FileNotFoundError(
                f"{model} is no model folder (no config.json in it): `ddetr convert` makes one of a checkpoint, or of "
                "the MLflow folder of Azure's catalogue."
            )
        return {"local_files_only": True}
    if path.suffix == ".onnx" and path.exists():
        raise NotADirectoryError(
            f"{model} is an exported file, which `ddetr detect`, `batch` and `serve` take: give the model folder that "
            "it was made of."
        )
    if path.exists():
        raise NotADirectoryError(f"{model} is a file, not a model folder; `ddetr convert` makes one of a checkpoint.")
    if not is_hub_name(name):
        # Without a slash it may be meant as one of those names.
        published = ": `ddetr convert` makes one of a published checkpoint (`--list` names them)."
        raise FileNotFoundError(f"There is no model folder {model}{near(name) if '/' in name else published}")
    if hub_has_an_address():
        return {}
    place = {name: options[name] for name in ("revision", "cache_dir") if name in options}
    if not isinstance(try_to_load_from_cache(name, "config.json", **place), str):
        raise FileNotFoundError(
            f"There is no model folder {model}; as a model of the Hub it is not in the cache here, and the Hub cannot "
            "be reached: check the name, or the network."
        )
    return {"local_files_only": True}


def _check_files(folder: Path) -> None:
    """Check of a folder here, before transformers reads them, that its files of settings are of their form and size."""
    if (folder / "adapter_config.json").is_file():
        raise CheckpointError(
            f"{folder} holds an adapter (adapter_config.json), which names code and a model elsewhere: merge it into "
            "its model (merge_and_unload), and save that."
        )
    for name in ("config.json", "preprocessor_config.json", "processor_config.json"):
        if (folder / name).is_file():
            read_json(folder / name)
    index = folder / "model.safetensors.index.json"
    if index.is_file() and not (folder / "model.safetensors").is_file():
        weight_map_of(index)


def _config(model: str | Path, options: dict[str, Any]) -> DeformableDetrRefineConfig:
    where = {name: options[name] for name in ("revision", "local_files_only", "token", "cache_dir") if name in options}
    try:
        values, _ = DeformableDetrRefineConfig.get_config_dict(model, **where)
        kind = values.get("model_type", "without a name")
        if kind == DeformableDetrRefineConfig.model_type:
            return DeformableDetrRefineConfig.from_dict({name: values[name] for name in values if name in KNOWN})
    except (*_UNFORESEEN, RecursionError, ValueError) as error:
        raise CheckpointError(f"{model}: config.json is refused: {_line(error)}") from error
    if kind == "deformable_detr":
        raise CheckpointError(
            f"{model} is a model of transformers' own Deformable DETR: `ddetr convert {model} FOLDER` makes a folder "
            "of it that this package loads."
        )
    raise CheckpointError(
        f"{model} is a model of type {printable(str(kind))}, expected {DeformableDetrRefineConfig.model_type}; "
        "`ddetr convert` makes one of a checkpoint of Deformable DETR."
    )


def _names(words: str, keys: set) -> str:
    # A misshapen one comes with its two shapes.
    names = sorted(printable(key if isinstance(key, str) else key[0]) for key in keys)
    return f"{len(names)} {words}: {', '.join(names[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''}"


def _damaged(model: str | Path, error: SafetensorError) -> str:
    """A sentence on the file that is not what it should be."""
    for file in sorted(Path(model).glob("*.safetensors")):
        with file.open("rb") as stream:
            start = stream.read(512)
        if not start:
            return f"{file} is empty: copy it again."
        if kind := other_kind(start):
            return f"{file} {kind}."
    return f"{model}: the weights are damaged or cut short ({_line(error)}): copy them again."


def _line(error: BaseException) -> str:
    return printable(one_line(error), 300)


__all__ = ["load_model", "load_processor", "refuse_int8"]
