"""Published data sets arrive whole or not at all; archives that would write elsewhere or are cut short are refused."""

import io
import os
import signal
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.http_server import serving
from support.published_sets import bccd_files, fridge_files, zipped

from ddetr.main import main
from deformable_detr_refine.data.download import archive as archives
from deformable_detr_refine.data.download import fetch as download
from deformable_detr_refine.data.download.named_sets import NAMED_SETS, fetch_named_set

ROOT = "odFridgeObjects/images"


def tree(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def numbered(count: int) -> dict[str, bytes | str]:
    """A set of `count` empty images, in the order in which a folder might be listed."""
    files: dict[str, bytes | str] = {}
    for number in sorted(range(1, count + 1), key=lambda number: f"{number * 7919 % 1009:04d}"):
        files |= {f"odFridgeObjects/images/{number}.jpg": b"", f"odFridgeObjects/annotations/{number}.xml": ""}
    return files


def test_the_fridge_set_is_laid_out_and_every_5th_image_validates(tmp_path):
    folder = tmp_path / "new" / "fridge"
    with serving({"/fridge.zip": zipped(fridge_files())}) as address:
        fetched = fetch_named_set("fridge", folder, f"{address}/fridge.zip")
    assert (fetched.folder, fetched.images, fetched.splits) == (folder, 5, {"train": 4, "val": 1})
    written = tree(folder)
    published = {name.removeprefix("odFridgeObjects/"): content for name, content in fridge_files().items()}
    assert written.pop("ImageSets/Main/train.txt") == b"11\n12\n13\n14\n"
    assert written.pop("ImageSets/Main/val.txt") == b"10\n"
    assert written == {name: c if isinstance(c, bytes) else c.encode() for name, c in published.items()}
    assert [path.name for path in folder.parent.iterdir()] == ["fridge"]


def test_images_are_counted_as_people_do_before_they_are_split(tmp_path):
    (tmp_path / "a.zip").write_bytes(zipped(numbered(128)))
    fetched = fetch_named_set("fridge", tmp_path / "fridge", str(tmp_path / "a.zip"))
    assert fetched.splits == {"train": 102, "val": 26}
    lists = tmp_path / "fridge" / "ImageSets" / "Main"
    assert [int(line) for line in (lists / "val.txt").read_text().split()] == list(range(1, 129, 5))
    train = [int(line) for line in (lists / "train.txt").read_text().split()]
    assert train == [number for number in range(1, 129) if number % 5 != 1]


def test_bccd_keeps_its_own_split_and_its_licence(tmp_path):
    with serving({"/moved.zip": zipped(bccd_files())}, {"/bccd.zip": "/moved.zip"}) as address:
        fetched = fetch_named_set("bccd", tmp_path / "bccd", f"{address}/bccd.zip")
    assert (fetched.images, fetched.splits) == (3, {"train": 2, "val": 1})
    written = tree(tmp_path / "bccd")
    assert len(written) == 3 + 3 + 2 + 1 and written["LICENSE"] == b"MIT License\n"
    assert written["ImageSets/Main/val.txt"] == b"BloodImage_00000"


def test_the_address_is_a_setting(tmp_path, monkeypatch):
    with serving({"/from-variable.zip": zipped(fridge_files()), "/given.zip": zipped(fridge_files())}) as address:
        monkeypatch.setenv("DDETR_FRIDGE_URL", f"{address}/from-variable.zip")
        assert fetch_named_set("fridge", tmp_path / "a").source.endswith("/from-variable.zip")
        assert fetch_named_set("fridge", tmp_path / "b", f"{address}/given.zip").source.endswith("/given.zip")
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    for named in NAMED_SETS.values():
        assert named.addresses and all(place.startswith("https://") for place in named.addresses)


def test_the_next_address_is_tried_and_nothing_of_the_first_stays(tmp_path):
    with serving({"/good": b"content"}) as address, (tmp_path / "file").open("w+b") as file:
        file.write(b"left over from before")
        assert download.fetch([f"{address}/none", f"{address}/short", f"{address}/good"], file) == f"{address}/good"
        assert file.read() == b"content"
        with pytest.raises(OSError, match=r"none cannot be read: the server answers 404.* ended after 9 of 1000 bytes"):
            download.fetch([f"{address}/none", f"{address}/short"], file)


def link(name: str) -> bytes:
    """An archive with a symbolic link to a file outside."""
    buffer = io.BytesIO(zipped(fridge_files()))
    with zipfile.ZipFile(buffer, "a") as archive:
        entry = zipfile.ZipInfo(name)
        entry.create_system, entry.external_attr = 3, 0o120777 << 16
        archive.writestr(entry, "/etc/passwd")
    return buffer.getvalue()


def encrypted() -> bytes:
    """The flag of encryption set at the first entry, in both places where it stands."""
    content = bytearray(zipped(fridge_files()))
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    return bytes(content)


def packed_with(method: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.writestr(f"{ROOT}/10.jpg", b"content")
    return buffer.getvalue()


def altered(content: bytes, part: bytes) -> bytes:
    """One byte changed inside the data that begins with `part`."""
    at = content.index(part) + len(part) + 100
    return content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :]


GOOD = zipped(fridge_files())
REFUSED = {
    "parent": (zipped(fridge_files() | {f"{ROOT}/../../../evil.jpg": b"x"}), "evil.jpg leads out of the folder"),
    "absolute": (zipped(fridge_files() | {"/etc/evil.jpg": b"x"}), "has an absolute path"),
    "drive": (zipped(fridge_files() | {"C:/evil.jpg": b"x"}), "has an absolute path"),
    "backslash": (zipped(fridge_files() | {"..\\evil.jpg": b"x"}), "with backslashes"),
    "escape codes": (zipped(fridge_files() | {f"{ROOT}/\x1b[2J.jpg": b"x"}), r"\x1b[2J.jpg has no proper name"),
    "link": (link(f"{ROOT}/99.jpg"), "99.jpg is a link"),
    "capitals": (zipped(fridge_files() | {f"{ROOT}/10.JPG": b"x"}), "10.JPG occurs twice"),
    "encrypted": (encrypted(), "is encrypted"),
    "method": (packed_with(zipfile.ZIP_BZIP2), "is packed in an unusual way"),
    "half": (GOOD[: len(GOOD) // 2], "is not a zip archive, or it is damaged or cut short"),
    "end cut off": (GOOD[:-30], "cut short"),
    "empty": (b"", "is not a zip archive"),
    "web page": (b"<!doctype html><title>Sign in</title>", "is not a zip archive"),
    "altered": (altered(GOOD, b"images/10.jpg"), "damaged"),
    "no images": (zipped({"readme.txt": "hello"}), "is not the fridge set: it holds no folder images"),
    "other set": (zipped(bccd_files()), "is not the fridge set"),
}


@pytest.mark.parametrize(("content", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_refused_archives_are_told_in_one_sentence_and_leave_nothing(content, message, tmp_path):
    with serving({"/a.zip": content}) as address, pytest.raises(ValueError) as caught:
        fetch_named_set("fridge", tmp_path / "new" / "fridge", f"{address}/a.zip")
    text = str(caught.value)
    assert text.startswith(address) and message in text and "\n" not in text
    assert list(tmp_path.iterdir()) == []


def test_bccd_without_its_lists_is_refused(tmp_path):
    files = {name: content for name, content in bccd_files().items() if not name.endswith("/val.txt")}
    (tmp_path / "a.zip").write_bytes(zipped(files))
    with pytest.raises(ValueError, match=r"holds no ImageSets/Main/train\.txt and val.txt"):
        fetch_named_set("bccd", tmp_path / "bccd", str(tmp_path / "a.zip"))
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


def test_limits_on_size_hold_before_anything_is_unpacked(tmp_path, monkeypatch):
    (tmp_path / "a.zip").write_bytes(GOOD)
    for module, limit, value, message in [
        (archives, "MAX_UNPACKED_BYTES", 100_000, "would unpack to"),
        (archives, "MAX_ENTRIES", 9, "holds 10 files, the limit is 9"),
    ]:
        with monkeypatch.context() as patch, pytest.raises(ValueError, match=message):
            patch.setattr(module, limit, value)
            patch.setattr(archives, "unpack", lambda *args: pytest.fail("it was unpacked"))
            fetch_named_set("fridge", tmp_path / "fridge", str(tmp_path / "a.zip"))
    with serving({"/a.zip": GOOD}) as address, (tmp_path / "file").open("w+b") as file:
        for source in (str(tmp_path / "a.zip"), f"{address}/a.zip"):
            with pytest.raises(ValueError, match=r"is longer than 0 MiB"):
                download.fetch([source], file, max_bytes=1000)


def test_a_stated_size_that_is_a_lie_is_found(tmp_path):
    """A bomb may state a small size; zipfile then gives no more than that, and the checksum fails."""
    content = bytearray(zipped({**fridge_files(), f"{ROOT}/99.jpg": bytes(10_000)}))
    at = content.rindex(b"PK\x01\x02")
    content[at + 24 : at + 28] = (100).to_bytes(4, "little")
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(ValueError, match="damaged"):
        fetch_named_set("fridge", tmp_path / "fridge", str(tmp_path / "a.zip"))
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


def test_a_folder_in_use_is_kept(tmp_path):
    (tmp_path / "fridge").mkdir()
    (tmp_path / "a.zip").write_bytes(GOOD)
    assert fetch_named_set("fridge", tmp_path / "fridge", str(tmp_path / "a.zip")).images == 5
    before = tree(tmp_path)
    with pytest.raises(ValueError, match="fridge exists already"):
        fetch_named_set("fridge", tmp_path / "fridge", str(tmp_path / "a.zip"))
    with pytest.raises(ValueError, match=r"a\.zip exists already"):
        fetch_named_set("fridge", tmp_path / "a.zip", str(tmp_path / "a.zip"))
    assert tree(tmp_path) == before


def test_a_broken_connection_leaves_nothing_and_the_next_try_is_whole(tmp_path):
    with serving({"/a.zip": GOOD}) as address:
        with pytest.raises(OSError, match=r"ended after 9 of 1000 bytes\. Name another address"):
            fetch_named_set("fridge", tmp_path / "fridge", f"{address}/short")
        assert list(tmp_path.iterdir()) == []
        assert fetch_named_set("fridge", tmp_path / "fridge", f"{address}/a.zip").images == 5


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
def test_interrupted_it_leaves_nothing(tmp_path, capsys, request):
    # As in a terminal: what runs in a shell's background ignores SIGINT.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))

    def interrupt():
        deadline = time.monotonic() + 5
        while not list(tmp_path.iterdir()):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGINT)

    with serving({}) as address, ThreadPoolExecutor() as pool:
        interrupted = pool.submit(interrupt)
        assert main(["data", "fridge", "--output", str(tmp_path / "fridge"), "--url", f"{address}/drip"]) == 130
        interrupted.result()
    assert capsys.readouterr().err.endswith("ddetr data: interrupted\n")
    assert list(tmp_path.iterdir()) == []
