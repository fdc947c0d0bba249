"""What of a batch's work so far still counts when it goes on: whole parts of images that are what they were.

The engine here writes a row with the size of each image's file, in place of what a detector finds.
"""

import json
import os
from itertools import islice
from pathlib import Path

import pytest

from ddetr.main import main
from deformable_detr_refine.serving.batch.job import Job
from deformable_detr_refine.serving.batch.run import run_batch
from deformable_detr_refine.serving.batch.shard import ShardResult

COUNT = 20  # three shards, the last one of four images


@pytest.fixture
def root(tmp_path) -> Path:
    """A folder of images, a table of their paths, and a model."""
    for folder in ("images", "model"):
        (tmp_path / folder).mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    for number in range(COUNT):
        (tmp_path / "images" / f"{number}.png").write_bytes(bytes(number))
    (tmp_path / "t.csv").write_text("image\n" + "".join(f"images/{number}.png\n" for number in range(COUNT)))
    return tmp_path


def sizes(settings, shards, workers=None):
    for shard in shards:
        stamp = shard.stamp()
        rows = [json.dumps([image.index, image.source.stat().st_size]) + "\n" for image in shard.images()]
        yield ShardResult(shard.number, "".join(rows).encode(), len(rows), 0, stamp)


class Stopped(Exception):
    pass


def two_shards(settings, shards, workers):
    for number, result in enumerate(sizes(settings, shards)):
        if number == 2:
            raise Stopped
        yield result


def run(source: Path, output: Path, engine=sizes):
    return run_batch(str(source.parent / "model"), str(source), output, engine=engine)


@pytest.fixture(params=["images", "t.csv"])
def work(request, root) -> tuple[Path, Path]:
    """The input and the output of a batch that was stopped with two of three shards finished; tests damage them."""
    source, output = root / request.param, root / "found.jsonl"
    with pytest.raises(Stopped):
        run(source, output, two_shards)
    return source, output


def parts_of(output: Path) -> list[Path]:
    return sorted((output.parent / "found.jsonl.parts").glob("*.part"))


def anew(source: Path) -> bytes:
    """The rows of a batch that was never stopped."""
    output = source.parent / "anew.jsonl"
    run(source, output)
    return output.read_bytes()


def cut_at_a_row(part: Path) -> None:
    part.write_bytes(b"".join(part.read_bytes().splitlines(keepends=True)[:-1]))


@pytest.mark.parametrize("damage", [cut_at_a_row, lambda part: part.write_bytes(b""), Path.unlink])
def test_a_part_that_was_cut_short_is_computed_again(work, damage):
    source, output = work
    damage(parts_of(output)[0])
    summary = run(source, output)
    assert summary.resumed == 8
    assert output.read_bytes() == anew(source)
    assert summary.again == (0 if damage is Path.unlink else 8)
    assert not output.with_name("found.jsonl.parts").exists()


def test_an_image_that_changed_is_computed_again_and_told(work, monkeypatch, capsys):
    source, output = work
    (source.parent / "images" / "9.png").write_bytes(bytes(100))
    monkeypatch.setattr("deformable_detr_refine.serving.batch.workers.run_here", sizes)
    assert main(["batch", str(source.parent / "model"), str(source), "--output", str(output)]) == 0
    printed = capsys.readouterr().out
    assert "8 of them in an earlier run" in printed and "Computed again: 8; their images have changed" in printed
    assert b"[9, 100]" in output.read_bytes() and output.read_bytes() == anew(source)


@pytest.mark.parametrize(
    "name",
    ["000000.7.0.{digest}.part", "000000.8.3.{digest}.part", "000007.8.0.{digest}.part", "000000.0.part", "x.part"],
)
def test_a_stray_part_counts_for_nothing(work, name):
    source, output = work
    first = parts_of(output)[0]
    first.rename(first.with_name(name.format(digest=first.name.split(".")[3])))
    assert run(source, output).resumed == 8
    assert output.read_bytes() == anew(source)


def test_parts_of_images_within_a_table_do_not_change_places(root):
    """These images have no files of their own, by whose sizes and times a part would be known."""
    source, output = root / "t.csv", root / "found.jsonl"
    source.write_text("image\n" + "".join(f"QUJD{number:04d}\n" for number in range(COUNT)))

    def rows(settings, shards, workers=None):
        for shard in shards:
            content = f"{shard.number}\n".encode() * len(shard)
            yield ShardResult(shard.number, content, len(shard), 0, shard.stamp())

    def two(*arguments):
        yield from islice(rows(*arguments), 2)
        raise Stopped

    with pytest.raises(Stopped):
        run(source, output, two)
    one, other = parts_of(output)
    one.rename(output.with_name("aside"))
    other.rename(other.with_name(other.name.replace("000001", "000000")))
    output.with_name("aside").rename(one.with_name(one.name.replace("000000", "000001")))
    assert run(source, output, rows).again == 16
    assert output.read_text().split() == ["0"] * 8 + ["1"] * 8 + ["2"] * 4


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
@pytest.mark.parametrize("make", [getattr(os, "mkfifo", None), Path.mkdir, lambda path: path.symlink_to("/dev/zero")])
@pytest.mark.parametrize("name", ["part", "job.json", "lock", "joined.new"])
def test_what_is_no_file_is_not_read(work, name, make):
    source, output = work
    first = parts_of(output)[0]
    path = first if name == "part" else first.with_name(name)
    path.unlink(missing_ok=True)
    make(path)
    with pytest.raises(ValueError, match="is not a file of a batch: remove it"):
        run(source, output)
    assert parts_of(output)


def test_a_part_that_is_damaged_at_the_very_end_is_told(work):
    source, output = work
    with Job(output) as job:
        settings = json.loads((job.folder / "job.json").read_text())
        size, identity = settings.pop("shard_size"), {**settings}
        for name in ("input", "source", "listing"):
            identity.pop(name, None)
        images, _ = job.start(str(source), None, identity, 1, False)
        assert list(job.finished) == [0, 1] and size == 8
        cut_at_a_row(parts_of(output)[0])
        with pytest.raises(ValueError, match="is damaged: the same command again computes it anew"):
            job.finish(2, "jsonl")
    assert not output.exists()
    assert len(images) == COUNT


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("job.json", "[]"),
        ("job.json", "{}"),
        ("job.json", '{"shard_size": 0}'),
        ("job.json", '{"shard_size": 4}'),  # no multiple of what a table knows the places of
        ("job.json", '{"shard_size": true}'),
        ("job.json", f'{{"shard_size": {10**30}}}'),
        ("job.json", "[" * 100_000),
        ("images.json", '"0.png"'),
        ("images.json", "[1]"),
        ("images.json", '["0'),
        ("images.json", '["0.png", "1.png"]'),
        ("images.json", None),
    ],
)
def test_what_is_known_of_the_batch_is_damaged(work, monkeypatch, capsys, name, content):
    source, output = work
    file = output.with_name("found.jsonl.parts") / name
    if not file.exists():
        pytest.skip("a table has no listing")
    file.unlink() if content is None else file.write_text(content)
    monkeypatch.setattr("deformable_detr_refine.serving.batch.workers.run_here", sizes)
    words = ["batch", str(source.parent / "model"), str(source), "--output", str(output)]
    assert main(words) == 2
    assert capsys.readouterr().err == f"ddetr batch: error: {file} is damaged: begin anew with --force.\n"
    assert main([*words, "--force"]) == 0
    assert output.read_bytes() == anew(source) and not file.exists()


class Refusing:
    def check_images(self, images):
        raise ValueError("they cut nothing")


def test_force_forgets_nothing_before_the_rest_is_known_to_be_right(work):
    source, output = work
    model, before = str(source.parent / "model"), parts_of(output)
    with pytest.raises(FileNotFoundError):
        run_batch(model, f"{source}s", output, engine=sizes, force=True)
    if source.is_dir():
        with pytest.raises(ValueError, match="cut nothing"):
            run_batch(model, str(source), output, engine=sizes, force=True, tiling=Refusing())
    assert parts_of(output) == before
    assert run(source, output).resumed == 16


def test_a_full_disk_is_told_with_its_folder_and_what_was_done_is_kept(work, monkeypatch):
    source, output = work
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(
            OSError, match=r"found.jsonl.parts cannot be written \(the disk of .*/found.jsonl.parts is full"
        ):
            run(source, output)
    assert not list(output.with_name("found.jsonl.parts").glob("*.new"))
    assert run(source, output).resumed == 16


def test_a_disk_that_is_full_at_the_very_end_costs_no_row(work, monkeypatch):
    source, output = work

    def half(pieces, file, form):
        file.write_bytes(next(pieces))
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("deformable_detr_refine.serving.batch.job.join", half)
        with pytest.raises(
            OSError, match=r"is full\): what is finished is kept; make room, and the same command goes on"
        ):
            run(source, output)
    assert not output.exists() and not list(output.with_name("found.jsonl.parts").glob("joined*"))
    assert run(source, output).resumed == COUNT
    assert output.read_bytes() == anew(source)
