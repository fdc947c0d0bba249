"""A batch: a row for each image in the input's order, whatever happens on the way."""

import base64
import csv
import json
import os
import signal
import time
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest
from support import forked
from support.small_detector import save_small_images

from ddetr.main import main
from deformable_detr_refine.inference.detector import Detector
from deformable_detr_refine.serving.batch.run import TooManyErrors, run_batch
from deformable_detr_refine.serving.batch.workers import run_here

COUNT = 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save_small_images(tmp_path_factory.mktemp("images"), COUNT)


@pytest.fixture(scope="module")
def expected(saved_small, folder, tmp_path_factory) -> bytes:
    """The rows of a batch that was never stopped."""
    output = tmp_path_factory.mktemp("expected") / "found.jsonl"
    run_batch(str(saved_small), str(folder), output, workers=1)
    return output.read_bytes()


def rows_of(output: Path) -> list[dict]:
    return [json.loads(line) for line in output.read_text().splitlines()]


def test_every_image_has_its_row_in_order(saved_small, folder, expected):
    rows = [json.loads(line) for line in expected.splitlines()]
    assert [(row["index"], row["image"]) for row in rows] == [(i, f"{i}.png") for i in range(COUNT)]
    assert [row["image"] for row in rows if "error" in row] == ["4.png"]
    detector = Detector(saved_small)
    for row in rows[:3]:
        (found,) = detector.detect([folder / row["image"]])
        assert (row["height"], row["width"]) == found.image_size
        assert row["labels"] == found.names
        np.testing.assert_allclose(row["boxes"], found.boxes, atol=1e-3)
        np.testing.assert_allclose(row["scores"], found.scores, atol=1e-5)


def test_nothing_but_the_output_is_left(saved_small, folder, expected, tmp_path):
    summary = run_batch(str(saved_small), str(folder), tmp_path / "found.jsonl", workers=1)
    assert os.listdir(tmp_path) == ["found.jsonl"]
    assert (summary.images, summary.failed, summary.resumed) == (COUNT, 1, 0)
    assert summary.error.startswith("4.png is not an image")


def test_the_start_up_is_no_part_of_the_work(saved_small, folder, tmp_path):
    def timed(settings, shards, workers):
        for number, result in enumerate(run_here(settings, shards, 1)):
            assert result.seconds > 0
            yield replace(result, seconds=100.0 if number else 1.0)

    summary = run_batch(str(saved_small), str(folder), tmp_path / "found.jsonl", engine=timed)
    assert 99 < summary.seconds < 101  # from the earliest beginning to the last end, whenever the batch was called


def test_a_column_of_image_files_is_refused(saved_small, folder, tmp_path):
    with pytest.raises(ValueError, match="gives image files: leave out --column photo"):
        run_batch(str(saved_small), str(folder), tmp_path / "found.jsonl", column="photo")
    assert not any(tmp_path.iterdir())


class Stopped(Exception):
    pass


def stopping_after(results: int):
    """The default engine, until so many shards are finished."""

    def engine(settings, shards, workers):
        for number, result in enumerate(run_here(settings, shards, workers)):
            if number == results:
                raise Stopped
            yield result

    return engine


@pytest.mark.parametrize("finished", [0, 1, 2])
def test_a_stopped_batch_goes_on_where_it_was(saved_small, folder, expected, tmp_path, finished):
    output, done = tmp_path / "found.jsonl", []
    with pytest.raises(Stopped):
        run_batch(str(saved_small), str(folder), output, workers=1, engine=stopping_after(finished))
    assert not output.exists()
    summary = run_batch(
        str(saved_small), str(folder), output, workers=1, progress=lambda now, total: done.append((now, total))
    )
    assert summary.resumed == 8 * finished == done[0][0]
    assert done[-1] == (COUNT, COUNT)
    assert output.read_bytes() == expected


def test_images_that_were_added_meanwhile_are_left_out(saved_small, folder, expected, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    for file in folder.iterdir():
        (mine / file.name).symlink_to(file)
    output = tmp_path / "found.jsonl"
    with pytest.raises(Stopped):
        run_batch(str(saved_small), str(mine), output, workers=1, engine=stopping_after(1))
    (mine / "1a.png").symlink_to(folder / "1.png")
    run_batch(str(saved_small), str(mine), output, workers=1)
    assert output.read_bytes() == expected


def test_other_settings_do_not_go_on_with_a_batch(saved_small, folder, tmp_path):
    output = tmp_path / "found.jsonl"
    with pytest.raises(Stopped):
        run_batch(str(saved_small), str(folder), output, workers=1, engine=stopping_after(1))
    with pytest.raises(ValueError, match=r"another batch \(threshold was 0.0, now 0.5\).*--force"):
        run_batch(str(saved_small), str(folder), output, threshold=0.5)
    run_batch(str(saved_small), str(folder), output, threshold=0.999, workers=1, force=True)
    assert not any(row["boxes"] for row in rows_of(output))
    with pytest.raises(ValueError, match="is there already, as after a batch that is finished: --force"):
        run_batch(str(saved_small), str(folder), output)
    assert os.listdir(tmp_path) == ["found.jsonl"]


def test_a_changed_table_does_not_go_on(saved_small, folder, tmp_path):
    table, output = tmp_path / "t.csv", tmp_path / "found.jsonl"
    table.write_text("image\n" + "".join(f"{folder}/{i}.png\n" for i in range(COUNT)))
    with pytest.raises(Stopped):
        run_batch(str(saved_small), str(table), output, workers=1, engine=stopping_after(1))
    table.write_text(table.read_text() + f"{folder}/0.png\n")
    with pytest.raises(ValueError, match="another batch"):
        run_batch(str(saved_small), str(table), output)


def test_error_threshold_counts_as_azure_does(saved_small, folder, expected, tmp_path):
    output = tmp_path / "found.jsonl"
    with pytest.raises(TooManyErrors, match=r"1 image failed, and the error threshold is 0.*4\.png"):
        run_batch(str(saved_small), str(folder), output, workers=1, error_threshold=0)
    assert not output.exists()
    with pytest.raises(TooManyErrors):
        run_batch(str(saved_small), str(folder), output, workers=1, error_threshold=0)
    assert run_batch(str(saved_small), str(folder), output, workers=1, error_threshold=1).resumed == 8
    assert output.read_bytes() == expected


def test_a_second_process_keeps_off(saved_small, folder, tmp_path):
    fcntl = pytest.importorskip("fcntl")
    (tmp_path / "found.jsonl.parts").mkdir()
    with (tmp_path / "found.jsonl.parts" / "lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="Another process"):
            run_batch(str(saved_small), str(folder), tmp_path / "found.jsonl")


def test_parquet_and_predictions_say_the_same(saved_small, folder, expected, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [json.loads(line) for line in expected.splitlines()]
    run_batch(str(saved_small), str(folder), tmp_path / "found.parquet", workers=1)
    table = parquet.read_table(tmp_path / "found.parquet").to_pylist()
    for row, other in zip(rows, table, strict=True):
        assert {**row, "error": row.get("error")} == {
            **other,
            "boxes": [[float(str(np.float32(x))) for x in box] for box in other["boxes"]],
            "scores": [float(str(np.float32(x))) for x in other["scores"]],
        }
    run_batch(str(saved_small), str(folder), tmp_path / "predictions.csv", workers=1)
    with (tmp_path / "predictions.csv").open(newline="") as file:
        lines = list(csv.reader(file))
    assert [(line[0], line[2]) for line in lines] == [("0", row["image"]) for row in rows]
    answers = [json.loads(line[1]) for line in lines]
    assert answers[4] == {"boxes": [], "error": rows[4]["error"]}
    for row, answer in zip(rows, answers, strict=True):
        assert [box["label"] for box in answer["boxes"]] == row["labels"]
        for box, corners in zip(answer["boxes"], row["boxes"], strict=True):
            scaled = [box["box"][key] for key in ("topX", "topY", "bottomX", "bottomY")]
            sides = [row["width"], row["height"]] * 2
            np.testing.assert_allclose(scaled, np.clip(np.array(corners) / sides, 0, 1), atol=1e-5)


def test_the_samples_csv_of_the_catalogue(saved_small, folder, expected, tmp_path):
    """Base64 as `encodebytes` makes it, in a column named image, out as predictions.csv."""
    with (tmp_path / "images.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image"])
        for i in range(6):
            writer.writerow([base64.encodebytes((folder / f"{i}.png").read_bytes()).decode()])
    arguments = ["--output", str(tmp_path / "predictions.csv"), "--workers", "1"]
    assert main(["batch", str(saved_small), str(tmp_path / "images.csv"), *arguments]) == 0
    with (tmp_path / "predictions.csv").open(newline="") as file:
        lines = list(csv.reader(file))
    assert [(line[0], line[2]) for line in lines] == [(str(i), "images.csv") for i in range(6)]
    for line, row in zip(lines, expected.splitlines(), strict=False):
        assert [box["label"] for box in json.loads(line[1])["boxes"]] == json.loads(row)["labels"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["{input}", "--output", "found.txt"], "name the format"),
        (["{input}", "--output", "."], "is a folder"),
        (["nowhere", "--output", "found.jsonl"], "There is no file or folder nowhere: check the path."),
    ],
)
def test_command_tells_what_is_wrong_before_the_work(
    saved_small, folder, tmp_path, monkeypatch, capsys, arguments, message
):
    monkeypatch.chdir(tmp_path)
    assert main(["batch", str(saved_small), *(text.format(input=folder) for text in arguments)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert os.listdir(tmp_path) == []


def test_more_workers_than_cores_are_told(saved_small, tmp_path, capsys):
    words = ["batch", str(saved_small), "nowhere", "--output", str(tmp_path / "found.jsonl"), "--device", "cpu"]
    assert main([*words, "--workers", "9999"]) == 2
    assert "9999 workers share" in capsys.readouterr().err
    assert main([*words, "--workers", "1"]) == 2
    assert "share" not in capsys.readouterr().err


def test_the_input_is_never_replaced(saved_small, folder, tmp_path):
    table = tmp_path / "t.csv"
    table.write_text(f"image\n{folder}/0.png\n")
    with pytest.raises(ValueError, match="is the input"):
        run_batch(str(saved_small), str(table), table, force=True)
    assert os.listdir(tmp_path) == ["t.csv"]


def test_a_batch_that_fails_before_its_first_shard_leaves_nothing(saved_small, folder, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="is a model of type"):
        run_batch(str(tmp_path / "model"), str(folder), tmp_path / "found.jsonl", workers=1)
    assert os.listdir(tmp_path) == ["model"]


def test_what_was_killed_before_its_first_shard_binds_nobody(saved_small, folder, expected, tmp_path):
    parts, output = tmp_path / "found.jsonl.parts", tmp_path / "found.jsonl"
    with pytest.raises(Stopped):
        run_batch(str(saved_small), str(folder), output, threshold=0.5, workers=1, engine=stopping_after(1))
    for part in parts.glob("*.part"):
        part.unlink()
    assert run_batch(str(saved_small), str(folder), output, workers=1).resumed == 0
    assert output.read_bytes() == expected


def test_command_without_its_model(folder, tmp_path, capsys):
    assert main(["batch", str(tmp_path / "none"), str(folder), "--output", str(tmp_path / "found.jsonl")]) == 2
    assert "none" in capsys.readouterr().err


@pytest.fixture
def log(tmp_path_factory) -> Path:
    """What the batches of a test print."""
    return tmp_path_factory.mktemp("log") / "log"


def start(saved_small: Path, folder: Path, output: Path, workers: str, log: Path) -> BaseProcess:
    words = ["batch", str(saved_small), str(folder), "--output", str(output), "--workers", workers]
    return forked.start(main, words, log=log)


def parts_of(output: Path) -> list[str]:
    folder = output.with_name(output.name + ".parts")
    return [name for name in os.listdir(folder) if name.endswith(".part")] if folder.is_dir() else []


def wait_for(condition, process: BaseProcess, log: Path, seconds: float = 900) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.is_alive(), log.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.002)


def children_of(pid: int) -> list[int]:
    """Processes that were started by this one, and compute (the tracker of resources does not)."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            parent = int(place.joinpath("stat").read_text().rsplit(")", 1)[1].split()[1])
            if parent == pid and b"spawn_main" in place.joinpath("cmdline").read_bytes():
                found.append(int(place.name))
        except (OSError, ValueError):
            continue
    return found


def wait_for_end(processes: list[int]) -> None:
    """A killed batch's workers follow it."""
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in processes):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture(scope="module")
def many(folder, tmp_path_factory) -> Path:
    """The twenty images, eight times."""
    root = tmp_path_factory.mktemp("many")
    for i in range(8 * COUNT):
        (root / f"{i}.png").symlink_to(folder / f"{i % COUNT}.png")
    return root


@pytest.fixture(scope="module")
def uninterrupted(saved_small, many, tmp_path_factory) -> bytes:
    """The rows of a batch that was never stopped; however many workers, each computes with one thread."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    forked.finish([start(saved_small, many, folder / "found.jsonl", "1", folder / "log")], folder / "log")
    return (folder / "found.jsonl").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("workers, kills", [("1", (1, 4)), ("2", (2,))])
def test_kill_loses_and_doubles_nothing(saved_small, many, uninterrupted, tmp_path, log, workers, kills):
    output = tmp_path / "found.jsonl"
    for finished in kills:
        process = start(saved_small, many, output, workers, log)
        wait_for(lambda count=finished: len(parts_of(output)) >= count, process, log)
        children = children_of(process.pid)
        process.kill()
        process.join()
        wait_for_end(children)
        assert bool(children) is (workers == "2" and Path("/proc").exists())
        assert not output.exists()
    kept = parts_of(output)
    text = forked.finish([start(saved_small, many, output, workers, log)], log)
    assert f"{8 * len(kept)} of them in an earlier run" in text
    assert os.listdir(tmp_path) == ["found.jsonl"]
    assert output.read_bytes() == uninterrupted


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
def test_a_killed_worker_loses_and_doubles_nothing(saved_small, many, uninterrupted, tmp_path, log):
    output = tmp_path / "found.jsonl"
    process = start(saved_small, many, output, "2", log)
    wait_for(lambda: parts_of(output), process, log)
    (victim, *_) = children_of(process.pid)
    os.kill(victim, signal.SIGKILL)
    forked.finish([process], log)
    assert output.read_bytes() == uninterrupted
