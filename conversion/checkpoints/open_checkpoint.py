"""Open a PyTorch checkpoint of unknown origin: tensors, containers and numbers come out, nothing in it is executed."""

import io
import pickle
import threading
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch

from deformable_detr_refine.errors import CheckpointError
from deformable_detr_refine.files import other_kind
from deformable_detr_refine.messages import near, printable

from .inert import is_known, stand_in
from .pickle_names import TooMuchWork, names_in_pickle

_ZIP_START = b"PK\x03\x04"
# torch.save's legacy format: five pickles (this number, a version, the machine, the object, the keys), then bytes.
_LEGACY_START = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
_LEGACY_PICKLES = 5
# torch keeps the permitted names in one set of the process.
_lock = threading.Lock()


def open_checkpoint(path: str | Path) -> dict:
    """Read a `.pth` file, of `torch.save`'s zip format or of the legacy one, without executing anything of it.

    Args:
        path: the file.

    Returns:
        The dictionary that was saved, tensors on the CPU (mapped from the file where its format allows).
        numpy scalars and arrays are read; objects of mmengine, mmcv and mmdet are inert `Record`s.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file is no checkpoint, is damaged, or names anything beyond tensors, containers, numbers
            and MMEngine's records. All refused names stand in one message.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no checkpoint {path}{near(path)}")
    if not path.is_file():
        raise CheckpointError(f"{path} is not a file.")
    with path.open("rb") as stream:
        permitted = _permitted(path, _names(path, stream))
        stream.seek(0)
        is_zip = stream.read(4) == _ZIP_START
    content = _load(path, permitted, is_zip)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a dictionary of tensors.")
    return content


def _names(path: Path, stream: BinaryIO) -> set[str]:
    """Every name that the file's pickles would import."""
    start = stream.read(512)
    stream.seek(0)
    if not start:
        raise CheckpointError(f"{path} is empty: copy or download it again.")
    if kind := other_kind(start):
        raise CheckpointError(f"{path} {kind}.")
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size:
        raise CheckpointError(
            f"{path} is a safetensors file: it converts as part of a transformers folder, else a .pth file does."
        )
    if start.startswith(_ZIP_START):
        stream, pickles = io.BytesIO(_zip_pickle(path)), 1
    elif start.startswith(_LEGACY_START):
        pickles = _LEGACY_PICKLES
    else:
        raise _no_checkpoint(path, stream)
    try:
        return {name for _ in range(pickles) for name in names_in_pickle(stream)}
    except TooMuchWork as error:
        raise CheckpointError(f"{path} {error}, so it was not opened.") from error
    except Exception as error:
        raise CheckpointError(
            f"{path} is damaged or cut short: its pickle cannot be read ({printable(str(error), 300)})."
        ) from error


def _no_checkpoint(path: Path, stream: BinaryIO) -> CheckpointError:
    try:
        names = set(names_in_pickle(stream))
    except Exception:
        return CheckpointError(
            f"{path} is not a checkpoint of PyTorch, neither a zip archive nor a pickle: give the file that a training "
            "wrote, or download it again."
        )
    _permitted(path, names)
    return CheckpointError(f"{path} is a pickle, but not one that torch.save wrote.")


def _zip_pickle(path: Path) -> bytes:
    """The bytes of an archive's data.pkl, after checking that every member is whole and as torch.save writes it."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            names = [member.filename for member in members]
            if any(name.endswith("/constants.pkl") for name in names):
                raise CheckpointError(f"{path} is a TorchScript archive; only a state dict can be converted.")
            pickles = [name for name in names if name.count("/") == 1 and name.endswith("/data.pkl")]
            if len(pickles) != 1:
                raise CheckpointError(f"{path} is a zip archive, but not one that torch.save wrote (no data.pkl).")
            folder = pickles[0].removesuffix("data.pkl")
            if len(set(names)) < len(names) or not all(name.startswith(folder) for name in names):
                raise CheckpointError(f"{path} is a zip archive with members that torch.save does not write.")
            if any(member.compress_type != zipfile.ZIP_STORED for member in members):
                raise CheckpointError(f"{path} is a compressed zip archive; torch.save writes uncompressed ones.")
            if sum(member.file_size for member in members) > path.stat().st_size:
                raise CheckpointError(f"{path} is damaged: its members are larger than the file.")
            # torch maps the tensors without looking at the checksums.
            if (damaged := archive.testzip()) is not None:
                raise CheckpointError(f"{path} is damaged: {damaged} does not match its checksum. Copy it again.")
            return archive.read(pickles[0])
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, RuntimeError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"{path} is damaged or cut short: {printable(str(error), 300)}. Copy it again."
        ) from error


def _permitted(path: Path, names: set[str]) -> dict[str, Callable]:
    stand_ins = {name: stand_in(name) for name in names if not is_known(name)}
    permitted = {name: value for name, value in stand_ins.items() if value is not None}
    if refused := sorted(stand_ins.keys() - permitted.keys()):
        listed = ", ".join(printable(name) for name in refused[:10])
        more = f" and {len(refused) - 10} more" if len(refused) > 10 else ""
        raise CheckpointError(
            f"{path}: refuses to load {listed}{more}: a checkpoint needs only tensors, containers and numbers. "
            "Nothing of the file was executed."
        )
    return permitted


def _load(path: Path, permitted: dict[str, Callable], is_zip: bool) -> Any:
    with _lock:
        # Only ours: names that other code of this process permits are theirs, not this file's.
        others = torch.serialization.get_safe_globals()
        torch.serialization.clear_safe_globals()
        try:
            torch.serialization.add_safe_globals([(value, name) for name, value in permitted.items()])
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
        except pickle.UnpicklingError as error:
            raise CheckpointError(f"{path} cannot be opened: {_reason(error)}.") from error
        # A crafted or damaged pickle can raise whatever its operations run into: IndexError, KeyError, ...
        except Exception as error:
            raise CheckpointError(f"{path} is damaged: {type(error).__name__}: {_reason(error)}.") from error
        finally:
            torch.serialization.clear_safe_globals()
            torch.serialization.add_safe_globals(others)


def _reason(error: Exception) -> str:
    """torch's message without its advice to switch the safety off."""
    text = str(error)
    if "WeightsUnpickler error:" in text:
        text = text.split("WeightsUnpickler error:")[1]
    if "Unsupported operand" in text:
        text = f"{text.strip().splitlines()[0]} (torch.save writes pickle protocol 2, this is another one)"
    lines = text.strip().splitlines() or ["no reason given"]
    return printable(lines[0].strip().rstrip("."), 300)


__all__ = ["open_checkpoint"]
