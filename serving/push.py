"""A model folder to the Hub: weights, this package's code, image processor and model card, in one commit."""

import json
import re
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, ModelCard, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import httpx, validate_repo_id

from deformable_detr_refine.files import full_disk_told, sha256_of
from deformable_detr_refine.inference.detections import Detections
from deformable_detr_refine.inference.detector import DetectionFailure, Detector
from deformable_detr_refine.inference.load_detector import load_detector
from deformable_detr_refine.inference.load_model import KNOWN
from deformable_detr_refine.inference.network import Network
from deformable_detr_refine.modeling import load_image
from deformable_detr_refine.secret_text import line_with_secret, without_secrets
from deformable_detr_refine.training.card_facts import read_facts
from deformable_detr_refine.training.model_card import model_card

SAMPLE, DRAWN = "sample.jpg", "sample_detections.jpg"
# What an earlier push may have left that would be loaded in place of, or shown beside, the new files. Code that is not
# replaced is not loaded, and a handler.py for Inference Endpoints is the user's own.
_TEXTS = (".json", ".md", ".py", ".txt", ".yaml", ".yml", ".toml", ".cfg")
# What transformers writes beside the settings.
_WRITTEN = {"architectures", "auto_map", "image_processor_type", "model_type", "transformers_version"}
_REPLACED = ["*.safetensors", "*.safetensors.index.json", "pytorch_model*", SAMPLE, DRAWN]


def push(
    model: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    message: str | None = None,
    license: str | None = None,
    image: str | Path | None = None,
    threshold: float | None = None,
    metrics: str | Path | None = None,
    tell: Callable[[Mapping[str, int]], Any] = lambda sizes: None,
    dry_run: bool = False,
) -> str | None:
    """Uploads a model folder with a model card made from the files in it (see `model_card`).

    The account is the one that `hf auth login` or HF_TOKEN gives. All files become visible in one commit: when the push
    breaks off, the repository is as it was. Weights that are there already are replaced, and code of the same name;
    other files stay.

    Args:
        model: a folder with config.json and model.safetensors. metrics.json, settings.yaml, trainer_state.json and
            README.md in it go into the card; nothing else of it is uploaded.
        repo_id: OWNER/NAME; made if there is none.
        private: of a new repository; the account's own default if None.
        revision: branch; made from the main one if there is none.
        message: of the commit.
        license: the Hub's id of the weights' licence, as 'apache-2.0'; that of a README.md in the folder if None.
        image: a photo to show in the card with what is found in it. It becomes public with the model.
        threshold: least score that the card's examples and the Hub's widget show; the detector's own if None.
        metrics: a metrics.json elsewhere than in the folder.
        tell: is called with the names and the bytes of what is to be uploaded, before it is.
        dry_run: upload nothing.

    Returns:
        The commit's URL; nothing after a dry run.

    Raises:
        FileNotFoundError: the folder, the image or the metrics are not there.
        ValueError: the model cannot be loaded, there is no token, a name is not allowed, a file cannot be read.
        OSError: the Hub does not answer or refuses.
    """
    folder = Path(model)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"There is no model folder {folder}: a folder with config.json and weights is pushed.")
    _check_names(repo_id, license)
    token = get_token()
    if token is None and not dry_run:
        raise ValueError("There is no token for the Hub: `hf auth login` keeps one, or set HF_TOKEN.")
    facts = read_facts(folder, Path(metrics) if metrics else None)
    photo = load_image(image) if image else None
    detector, processor = load_detector(str(folder), "cpu")
    threshold = Network.of(detector, processor).threshold if threshold is None else threshold
    with tempfile.TemporaryDirectory() as temporary, full_disk_told(Path(temporary), "nothing is pushed"):
        stage = Path(temporary)
        detector.save_pretrained(stage)
        processor.save_pretrained(stage)
        _drop_strange(stage / "config.json", KNOWN | _WRITTEN)
        _drop_strange(stage / "preprocessor_config.json", {*processor.valid_kwargs.__annotations__, *_WRITTEN})
        facts.parameters = sum(parameter.numel() for parameter in detector.parameters())
        facts.sha256 = {file.name: sha256_of(file) for file in sorted(stage.glob("*.safetensors"))}
        if photo is not None:
            photo.info.clear()  # a camera's or a person's notes
            photo.save(stage / SAMPLE, quality=92)
            _detect(stage, threshold).draw(stage / SAMPLE).save(stage / DRAWN, quality=92)
        sample = (SAMPLE, DRAWN) if photo is not None else (None, None)
        card = model_card(repo_id, detector.config, facts, threshold, license, *sample)
        (stage / "README.md").write_text(without_secrets(card, token), encoding="utf-8")
        _check_public(stage)
        files = sorted(path for path in stage.rglob("*") if path.is_file())
        tell({path.relative_to(stage).as_posix(): path.stat().st_size for path in files})
        if dry_run:
            return None
        with _one_sentence(token):
            said = without_secrets(message or f"{folder.name} by ddetr push", token)
            return _upload(HfApi(), stage, repo_id, private, revision, said)


def _drop_strange(file: Path, known: Collection[str]) -> None:
    """Leave out of a file of settings what no class of this package reads: it may be anything."""
    values = json.loads(file.read_text(encoding="utf-8"))
    kept = {name: value for name, value in values.items() if name in known}
    file.write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _check_public(folder: Path) -> None:
    """Look through every text that is about to become public."""
    for file in sorted(path for path in folder.rglob("*") if path.suffix in _TEXTS):
        line = line_with_secret(file.read_text(encoding="utf-8"), code=file.suffix == ".py")
        if line is not None:
            raise ValueError(
                f"Nothing is pushed: {file.name} would hold, in line {line}, what looks like a token, a key or a "
                "password. Remove it from the model's folder."
            )


def _upload(hub: HfApi, stage: Path, repo_id: str, private: bool | None, revision: str | None, message: str) -> str:
    # The upload asks the same, but only when the repository is made.
    try:
        ModelCard((stage / "README.md").read_text(encoding="utf-8")).validate()
    except ValueError as error:
        raise ValueError(f"The Hub refuses the model card, and nothing is pushed: {error}") from error
    hub.create_repo(repo_id, private=private, exist_ok=True)
    if revision not in (None, "main"):
        hub.create_branch(repo_id, branch=revision, exist_ok=True)
    commit = hub.upload_folder(
        repo_id=repo_id,
        folder_path=stage,
        revision=revision,
        commit_message=message,
        delete_patterns=_REPLACED,
    )
    return commit.commit_url


def _detect(folder: Path, threshold: float) -> Detections:
    (detections,) = Detector(folder, "cpu").detect([folder / SAMPLE], threshold)
    if isinstance(detections, DetectionFailure):
        raise ValueError(f"The sample image cannot be used: {detections.error}")
    return detections


def _check_names(repo_id: str, license: str | None) -> None:
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(f"{repo_id} is no name on the Hub: {error}") from error
    if repo_id.count("/") != 1:
        raise ValueError(f"{repo_id} is no name on the Hub: give OWNER/NAME.")
    if license is not None and not re.fullmatch(r"[a-z0-9.+-]+", license):
        raise ValueError(f"{license!r} is no id of a licence as the Hub has them, like apache-2.0, mit or cc-by-4.0.")


@contextmanager
def _one_sentence(token: str | None) -> Iterator[None]:
    """The Hub's errors without its advice of several lines, and without the token, wherever it might stand."""
    try:
        yield
    except (httpx.HTTPError, OSError, RuntimeError) as error:
        # The client wraps what stopped an upload into a RuntimeError that names the file.
        cause = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error
        if isinstance(cause, HfHubHTTPError):
            said = f"The Hub refuses: {cause.server_message or str(cause).splitlines()[0]}"
        else:
            said = f"The Hub cannot be reached: {cause}"
        if cause is not error:
            said = f"{error} {said}"
        raise OSError(without_secrets(said, token)) from None


__all__ = ["push"]
