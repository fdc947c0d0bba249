"""A checkpoint of unknown origin: honest files open, everything else is refused, and nothing is ever executed."""

import builtins
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from support.golden_weights import GOLDENS

from deformable_detr_refine.conversion import CheckpointError, open_checkpoint
from deformable_detr_refine.conversion.checkpoints.inert import NumpyArray, Record

HONEST = {
    "state_dict": OrderedDict(a=torch.arange(6.0).reshape(2, 3), half=torch.ones(2, dtype=torch.float16)),
    "parameter": torch.nn.Parameter(torch.zeros(3)),
    "meta": {"CLASSES": ("x", "y"), "lr": 1e-4, "none": None, "nested": [{"set": {1, 2}}, b"bytes", 1 << 40]},
    "scalar": np.float64(0.25),
    "integer": np.int32(-7),
    "array": np.arange(6, dtype=np.int64).reshape(2, 3),
    "big endian": np.arange(3, dtype=">f4"),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "text": np.array(["one", "three"]),
}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_honest_content_comes_out_as_it_went_in(save, zipped):
    content = open_checkpoint(save(HONEST, _use_new_zipfile_serialization=zipped))
    assert torch.equal(content["state_dict"]["a"], HONEST["state_dict"]["a"])
    assert content["state_dict"]["half"].dtype == torch.float16
    assert content["meta"] == HONEST["meta"]
    assert content["scalar"] == 0.25 and content["integer"] == -7
    for name in ("array", "big endian", "fortran", "text"):
        assert np.array_equal(content[name], HONEST[name]), name
        assert content[name].dtype == HONEST[name].dtype.newbyteorder("="), name


def test_mmengine_file_opens_without_mmengine():
    content = open_checkpoint(GOLDENS / "mmengine_header.pth")
    assert len(content["state_dict"]) == 3 and all(isinstance(t, torch.Tensor) for t in content["state_dict"].values())
    assert content["meta"]["dataset_meta"]["CLASSES"][0] == "person"
    history = content["message_hub"]["log_scalars"]["train/loss"]
    assert isinstance(history, Record) and history.source.endswith("HistoryBuffer")
    assert content["param_schedulers"][0]["np_scalar"] == 2e-05
    assert "mmengine" not in sys.modules


def test_names_that_others_permit_are_theirs_alone(save):
    torch.serialization.add_safe_globals([np.ndarray, subprocess.Popen])
    try:
        before = set(torch.serialization.get_safe_globals())
        with pytest.raises(CheckpointError, match="subprocess"):
            open_checkpoint(save({"x": subprocess.Popen}))
        assert isinstance(open_checkpoint(save({"x": np.zeros(2)}))["x"], NumpyArray)
        assert set(torch.serialization.get_safe_globals()) == before
    finally:
        torch.serialization.clear_safe_globals()


class Reduced:
    """Unpickles to `function(*arguments)`."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class HookedTensor(Reduced):
    """A tensor whose backward hooks hold the payload."""

    def __init__(self, payload):
        storage = torch.UntypedStorage(16)
        typed = torch.storage.TypedStorage(wrap_storage=storage, dtype=torch.float32, _internal=True)
        super().__init__(torch._utils._rebuild_tensor_v2, typed, 0, (4,), (1,), True, OrderedDict({0: payload}))


def payloads(canary):
    touch = f"open({str(canary)!r}, 'w')"
    popen = Reduced(subprocess.Popen, ["touch", str(canary)])
    return {
        "os.system": (Reduced(os.system, f"touch {canary}"), f"{os.system.__module__}.system"),
        "eval": (Reduced(eval, touch), "builtins.eval"),
        "exec": (Reduced(exec, touch), "builtins.exec"),
        "import": (Reduced(builtins.__import__, "antigravity"), "builtins.__import__"),
        "open": (Reduced(open, str(canary), "w"), "io.open"),
        "popen": (popen, "subprocess.Popen"),
        "hooks": (HookedTensor(popen), "subprocess.Popen"),
        "from_type": (
            Reduced(torch._tensor._rebuild_from_type_v2, Reduced(eval, touch), torch.Tensor, (), {}),
            "torch._tensor._rebuild_from_type_v2",
        ),
        "setattr": (Reduced(setattr, torch.Tensor, "x", 1), "builtins.setattr"),
        "load": (Reduced(torch.load, str(canary)), "torch.serialization.load"),
        "partial": (Reduced(__import__("functools").partial, eval, touch), "builtins.eval"),
    }


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("place", ["state_dict", "meta", "key"])
@pytest.mark.parametrize("name", list(payloads("")))
def test_executable_content_is_refused_by_name(tmp_path, save, name, place, zipped):
    payload, refused = payloads(tmp_path / "canary")[name]
    content = {"state_dict": {"a": torch.ones(2)}, "meta": {"epoch": 1}}
    if place == "key":
        content = {(payload, 1): 1, **content}
    else:
        content[place]["x"] = payload
    path = save(content, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match="refuses to load") as error:
        open_checkpoint(path)
    assert refused in str(error.value) and "Nothing of the file was executed" in str(error.value)
    assert not (tmp_path / "canary").exists()


def test_every_refused_name_stands_in_one_message(save):
    with pytest.raises(CheckpointError) as error:
        open_checkpoint(save({"a": Reduced(eval, "1"), "b": Reduced(os.getcwd), "c": Reduced(exec, "1")}))
    assert all(name in str(error.value) for name in ("builtins.eval", "builtins.exec", "getcwd"))


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def raw(value: bytes) -> bytes:
    """Bytes as Python 3 writes them in protocol 2."""
    return b"c_codecs\nencode\n(" + text(value.decode("latin1")) + text("latin1") + b"tR"


HISTORY = b"cmmengine.logging.history_buffer\nHistoryBuffer\n"
GETATTR = b"c__builtin__\ngetattr\n"
DTYPE = b"cnumpy\ndtype\n"
SCALAR = b"cnumpy.core.multiarray\nscalar\n("
ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85" + raw(b"b") + b"tR(K\x01"
OBJECTS = DTYPE + b"(" + text("O8") + b"K\x00K\x01tR"
FLOATS = DTYPE + b"(" + text("f8") + b"K\x00K\x01tR"
ONE = raw(b"A" * 8)
CRAFTED = {
    # getattr(getattr(HistoryBuffer, "__init__"), "__globals__"): the start of every escape through attributes
    "getattr chain": (
        GETATTR + b"(" + GETATTR + b"(" + HISTORY + text("__init__") + b"tR" + text("__globals__") + b"tR",
        "refuses getattr",
    ),
    "getattr of another class": (GETATTR + b"(ctorch\nSize\n" + text("__class__") + b"tR", "refuses getattr"),
    "call of an attribute": (GETATTR + b"(" + HISTORY + text("mean") + b"tR)R", "unrecognized function"),
    "build on a class": (HISTORY + b"}" + text("source") + text("x") + b"sb", "Can only build"),
    "build on a function": (GETATTR + b"}" + text("__code__") + text("x") + b"sb", "Can only build"),
    "items into a record": (HISTORY + b")\x81" + text("a") + text("b") + b"s", "Can only SETITEM"),
    "object array": (ARRAY + b"K\x01\x85" + OBJECTS + b"\x89]K\x01atb", "object array"),
    "object array from bytes": (ARRAY + b"K\x01\x85" + OBJECTS + b"\x89" + ONE + b"tb", "dtype 'O8'"),
    "array of more than it has": (ARRAY + b"J\xff\xff\xff\x7f\x85" + FLOATS + b"\x89" + ONE + b"tb", "do not fit"),
    "array of less than nothing": (ARRAY + b"J\xff\xff\xff\xff\x85" + FLOATS + b"\x89" + ONE + b"tb", "do not fit"),
    "scalar of objects": (SCALAR + OBJECTS + ONE + b"tR", "dtype 'O8'"),
    "scalar of too few bytes": (SCALAR + FLOATS + raw(b"A") + b"tR", "of 1 bytes"),
    "dtype with fields": (SCALAR + DTYPE + b"(]K\x00K\x01tR" + ONE + b"tR", r"dtype \[\]"),
    "dtype with a crafted order": (SCALAR + FLOATS + b"(K\x03" + text("x") + b"tb" + ONE + b"tR", "dtype 'f8'"),
    "array of another class": (
        b"cnumpy.core.multiarray\n_reconstruct\n(ctorch\nSize\nK\x00\x85U\x01btR",
        "other than numpy",
    ),
    "memory for nothing": (b"cbuiltins\nbytearray\n(J\xff\xff\xff\x7ftR", r"builtins\.bytearray"),
    "stack global": (b"\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R", r"os\.system"),
    # The strings pushed last are not those that the operation takes.
    "hidden stack global": (
        text("os") + text("system") + text("collections") + text("OrderedDict") + b"00\x93" + text("true") + b"\x85R",
        r"os\.system",
    ),
    "instance": (b"(" + text("true") + b"ios\nsystem\n", r"os\.system"),
    "object": (b"(cos\nsystem\n" + text("true") + b"o", r"os\.system"),
    "extension": (b"\x82\x01)R", "copyreg"),
    "persistent id": (text("anything") + b"Q", "persistent_load"),
    "persistent id of a module": (b"(" + text("module") + text("x") + b"tQ", "persistent_load"),
    "unknown memo": (b"h\x07", "is damaged"),
    "list as a key": (b"}]K\x01s", "is damaged"),
    "terminal escapes": (b"cos\n\x1b[2J\n", r"os\.\\x1b"),
}


@pytest.mark.parametrize("name", list(CRAFTED))
def test_crafted_pickles_are_refused(save_pickle, tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    crafted, message = CRAFTED[name]
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(save_pickle(b"\x80\x02}" + text("x") + crafted + b"s."))
    assert sorted(os.listdir(tmp_path)) == ["crafted.pth"]


def test_damaged_pickles(save_pickle):
    with pytest.raises(CheckpointError, match="cut short"):
        open_checkpoint(save_pickle(b"\x80\x02}" + text("a")))
    # Nesting harms nobody who does not walk it.
    with pytest.raises(CheckpointError, match="holds a list"):
        open_checkpoint(save_pickle(b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."))


def test_attributes_of_records_are_only_noted(save_pickle):
    inside = b"\x80\x02}" + text("x") + GETATTR + b"(" + HISTORY + text("__globals__") + b"tRs."
    attribute = open_checkpoint(save_pickle(inside))["x"]
    assert isinstance(attribute, Record) and attribute.arguments[1] == "__globals__"


@pytest.mark.parametrize("which", range(5), ids=["magic", "version", "machine", "object", "keys"])
def test_each_pickle_of_the_legacy_format_is_guarded(tmp_path, which):
    canary = tmp_path / "canary"
    honest = [0x1950A86A20F9469CFC6C, 1001, {}, {}, []]
    honest[which] = Reduced(os.system, f"touch {canary}")
    path = tmp_path / "legacy.pth"
    path.write_bytes(b"".join(pickle.dumps(item, 2) for item in honest))
    with pytest.raises(CheckpointError, match="system"):
        open_checkpoint(path)
    assert not canary.exists()


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_bare_pickle_is_refused_by_name_too(tmp_path, protocol):
    canary = tmp_path / "canary"
    path = tmp_path / "bare.pth"
    path.write_bytes(pickle.dumps({"x": Reduced(os.system, f"touch {canary}")}, protocol))
    with pytest.raises(CheckpointError, match="system"):
        open_checkpoint(path)
    path.write_bytes(pickle.dumps({"x": 1}, protocol))
    with pytest.raises(CheckpointError, match=r"not one that torch\.save wrote"):
        open_checkpoint(path)
    assert not canary.exists()


def test_another_pickle_protocol_is_named(save):
    with pytest.raises(CheckpointError, match="protocol 2"):
        open_checkpoint(save({"a": torch.ones(1)}, pickle_protocol=4))


OTHER_FILES = {
    "empty": (b"", "is empty"),
    "git-lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "git lfs pull"),
    "html": (b"\n<!DOCTYPE html><html><title>404</title></html>", "web page"),
    "xml": (b"<?xml version='1.0'?><Error/>", "XML"),
    "noise": (bytes(np.random.default_rng(0).integers(0, 256, 5000, dtype=np.uint8)), "neither a zip archive nor"),
    "words": (b"hello, this is no checkpoint", "neither a zip archive nor"),
    "gzip": (b"\x1f\x8b\x08\x00rest", "gzip"),
    "safetensors": (struct.pack("<Q", 2) + b"{}", "safetensors"),
    "zip without end": (b"PK\x03\x04" + b"\x00" * 200, "damaged or cut short"),
}


@pytest.mark.parametrize("name", list(OTHER_FILES))
def test_other_files_are_called_what_they_are(tmp_path, name):
    data, message = OTHER_FILES[name]
    path = tmp_path / "x.pth"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=message) as error:
        open_checkpoint(path)
    assert str(path) in str(error.value)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        open_checkpoint(tmp_path / "absent.pth")
    with pytest.raises(CheckpointError, match="not a file"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_truncated_anywhere(save, zipped):
    path = save({"a": torch.arange(1000.0), "b": {"c": "text"}}, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    for length in sorted({*range(1, len(whole), 397), len(whole) - 1, len(whole) - 23}):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            open_checkpoint(path)


def test_a_flipped_bit_is_noticed(save):
    path = save({"a": torch.ones(1000)})
    data = bytearray(path.read_bytes())
    data[data.index(b"\x00\x00\x80\x3f" * 10) + 17] ^= 4
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="checksum"):
        open_checkpoint(path)


def test_zip_archives_that_torch_does_not_write(tmp_path):
    path = tmp_path / "x.pth"

    def refuses(message):
        with pytest.raises(CheckpointError, match=message):
            open_checkpoint(path)

    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("photo.txt", "hello")
    refuses("no data.pkl")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
        archive.writestr("archive/data/0", b"\x00" * 10_000_000)
    refuses("compressed")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("archive/data.pkl", b"\x80\x02}.")
    refuses("no data.pkl")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
        archive.writestr("other/data.txt", b"")
    refuses("members")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
        archive.writestr("archive/constants.pkl", b"\x80\x02).")
    refuses("TorchScript")


def test_something_other_than_a_dictionary(save):
    with pytest.raises(CheckpointError, match="holds a Tensor"):
        open_checkpoint(save(torch.ones(2)))
    with pytest.raises(CheckpointError, match=r"torch\.nn\.modules\.linear\.Linear"):
        open_checkpoint(save(torch.nn.Linear(2, 2)))


def test_tensors_cannot_reach_beyond_their_storage(save):
    storage = torch.zeros(4).untyped_storage()
    typed = torch.storage.TypedStorage(wrap_storage=storage, dtype=torch.float32, _internal=True)
    for zipped in (True, False):
        tensor = Reduced(torch._utils._rebuild_tensor_v2, typed, 0, (1 << 20,), (1,), False, OrderedDict())
        with pytest.raises(CheckpointError):
            open_checkpoint(save({"a": tensor}, _use_new_zipfile_serialization=zipped))
