"""A batch on a real local Ray: the same rows, also when workers are killed on the way."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
from support import forked
from support.small_detector import save_small_detector, save_small_images

from ddetr.main import main
from deformable_detr_refine.serving.batch.run import run_batch

pytestmark = pytest.mark.slow
ray = pytest.importorskip("ray", reason='pip install "deformable-detr-refine[ray]"')

from deformable_detr_refine.serving.batch.ray_engine import run_on_ray  # noqa: E402

COUNT = 96


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    return save_small_detector(tmp_path_factory.mktemp("saved") / "detector")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save_small_images(tmp_path_factory.mktemp("images"), COUNT)


@pytest.fixture(scope="module")
def expected(saved, folder, tmp_path_factory) -> bytes:
    """Of a process with one thread, as actors have: with more the last digits may differ."""
    place = tmp_path_factory.mktemp("expected")
    batch_here(saved, folder, place / "found.jsonl", place / "log")
    return (place / "found.jsonl").read_bytes()


def batch_here(saved: Path, folder: Path, output: Path, log: Path) -> str:
    words = ["batch", str(saved), str(folder), "--output", str(output), "--workers", "1"]
    return forked.finish([forked.start(main, words, log=log)], log)


@pytest.fixture(scope="module", autouse=True)
def cluster():
    # Without this Ray looks for a package to install on its workers, above the tests.
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100 * 2**20)
    yield
    ray.shutdown()


def test_goes_on_with_what_another_engine_began(saved, folder, expected, tmp_path):
    output = tmp_path / "found.jsonl"

    def part(settings, shards, workers):
        for number, result in enumerate(run_on_ray(settings, shards, workers)):
            if number == 3:
                raise KeyboardInterrupt
            yield result

    with pytest.raises(KeyboardInterrupt):
        run_batch(str(saved), str(folder), output, engine=part, workers=1)
    assert "24 of them in an earlier run" in batch_here(saved, folder, output, tmp_path / "log")
    assert output.read_bytes() == expected


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
def test_the_command_gives_the_rows_of_one_machine_also_when_actors_are_killed(
    saved, folder, expected, tmp_path, monkeypatch, capsys
):
    output, killed, finished = tmp_path / "found.jsonl", [], threading.Event()

    def kill_actors(at_most: int = 2):
        """Kills one actor after another as soon as rows have come back, while the batch goes on."""
        while not finished.is_set() and len(killed) < at_most:
            rows = list((tmp_path / "found.jsonl.parts").glob("*.part"))
            actors = [pid for pid in actor_processes() if pid not in killed]
            if len(rows) > 2 * len(killed) and actors:
                os.kill(actors[0], signal.SIGKILL)
                killed.append(actors[0])
            time.sleep(0.01)

    killer = threading.Thread(target=kill_actors, daemon=True)
    killer.start()
    words = ["batch", str(saved), str(folder), "--output", str(output), "--engine", "ray", "--workers", "2"]
    monkeypatch.setattr(sys, "argv", ["ddetr", *words])
    assert main(words) == 0
    finished.set()
    killer.join()
    assert killed
    assert output.read_bytes() == expected
    said = capsys.readouterr().out
    assert f"{COUNT} images, 1 failed; " in said and "The first failure: 4.png is not an image" in said


def test_a_model_that_cannot_be_loaded_is_told_in_one_sentence(folder, tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="is a model of type"):
        run_batch(str(model), str(folder), tmp_path / "found.jsonl", engine=run_on_ray, workers=1)


def actor_processes() -> list[int]:
    """Ray names its processes for what they do."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            title = place.joinpath("cmdline").read_bytes()
        except OSError:
            continue
        if title.startswith(b"ray::") and b"ShardActor" in title and int(place.name) != os.getpid():
            found.append(int(place.name))
    return found
