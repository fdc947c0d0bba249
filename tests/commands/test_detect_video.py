"""`ddetr detect` of a video from the outside."""

import json

import pytest
from inference.test_video import SIZE, write_clip
from PIL import Image
from support.small_detector import save_small_detector

from ddetr.main import main
from deformable_detr_refine.inference.detector import Detector
from deformable_detr_refine.inference.tiles import Tiling
from deformable_detr_refine.inference.video import Video


@pytest.fixture(scope="module")
def model(module_folder):
    return str(save_small_detector(module_folder("model"), {"shortest_edge": 64, "longest_edge": 96}, ["a", "b"]))


@pytest.fixture(scope="module")
def clip(module_folder):
    return write_clip(module_folder("clip") / "clip.mp4", range(0, 1200, 100), sound=True)


def lines_in(folder):
    return [json.loads(line) for line in (folder / "detections.jsonl").read_text(encoding="utf-8").splitlines()]


def test_a_line_for_each_frame_and_the_frames_drawn(model, clip, tmp_path, capsys):
    words = ["detect", model, str(clip), "--output", str(tmp_path / "found"), "--batch-size", "4", "--threshold", "0.1"]
    assert main([*words, "--draw", "--track", "--top-k", "5"]) == 0
    lines = lines_in(tmp_path / "found")
    assert [line["frame"] for line in lines] == list(range(12))
    assert [line["seconds"] for line in lines] == pytest.approx([i / 10 for i in range(12)], abs=1e-3)
    for line, (_, found) in zip(lines, Detector(model, "cpu").video(clip, 0.1, 5), strict=True):
        assert list(line) == ["frame", "seconds", "width", "height", "boxes", "scores", "labels", "ids"]
        assert (line["width"], line["height"]) == SIZE and len(line["ids"]) == len(line["boxes"]) == 5
        assert line["scores"] == pytest.approx(found.scores.tolist(), abs=1e-4)
    with Video(tmp_path / "found" / "drawn.mp4") as drawn:
        assert len(list(drawn.frames())) == 12 and drawn.rate == pytest.approx(10)
    printed = capsys.readouterr().out
    assert "clip.mp4: 160x96, 10 frames/s" in printed and "12 frames looked at" in printed
    assert "without the sound" in printed
    # Results of images take the place of a video's, and the other way round.
    Image.new("RGB", (90, 70)).save(tmp_path / "a.png")
    assert main(["detect", model, str(tmp_path / "a.png"), "--output", str(tmp_path / "found")]) == 0
    assert [file.name for file in (tmp_path / "found").iterdir()] == ["detections.json"]


def test_some_frames_in_tiles(model, clip, tmp_path):
    words = ["detect", model, str(clip), "--output", str(tmp_path), "--threshold", "0.1", "--tiles", "2x1"]
    assert main([*words, "--every", "5", "--start", "0.2", "--end", "1.1"]) == 0
    lines = lines_in(tmp_path)
    assert [line["frame"] for line in lines] == [2, 7]
    tiled = Detector(model, "cpu", tiling=Tiling((2, 1))).video(clip, 0.1, every=5, start=0.2)
    assert lines[0]["scores"] == pytest.approx(next(tiled)[1].scores.tolist(), abs=1e-4)


def test_a_film_cut_short_is_told_and_what_was_read_is_written(model, tmp_path, capsys):
    path = write_clip(tmp_path / "a.mp4", range(0, 6000, 100), options={"movflags": "+faststart"})
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert main(["detect", model, str(path), "--output", str(tmp_path / "found"), "--every", "5"]) == 1
    told = capsys.readouterr()
    assert f"{len(lines_in(tmp_path / 'found'))} frames looked at" in told.out
    assert "a.mp4 is cut short. It ends at" in told.err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["clip.mp4", "other.mp4"], "A video is detected by itself"),
        (["clip.mp4", "a.jpg"], "A video is detected by itself"),
        (["absent.mp4"], "There is no video absent.mp4"),
        (["words.mp4"], "words.mp4 cannot be opened as a video"),
        (["clip.mp4", "--start", "5"], "has no frame from 5 s on"),
        (["clip.mp4", "--start", "1", "--end", "1"], "The end, 1 s, is not after the start, 1 s"),
        (["clip.mp4", "--tile-size", "160"], "nothing would be cut"),
        (["clip.mp4", "--every", "0"], "not a whole number from 1 on"),
        (["a.jpg", "--track"], "--track is for videos"),
    ],
)
def test_errors_are_one_sentence_and_leave_nothing(words, told, model, clip, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clip.mp4").symlink_to(clip)
    (tmp_path / "words.mp4").write_text("no film")
    Image.new("RGB", (90, 70)).save("a.jpg")
    try:
        status = main(["detect", model, *words, "--output", "found", "--draw"])
    except SystemExit as stopped:
        status = stopped.code
    assert status == 2 and told in capsys.readouterr().err
    assert not (tmp_path / "found").exists()


@pytest.mark.parametrize("is_live", [False, True])
def test_ctrl_c_leaves_nothing_of_a_file_and_ends_a_camera(is_live, model, clip, tmp_path, monkeypatch):
    frames = Video.frames

    def interrupted(video, *args, **options):
        video.is_live = is_live
        for number, frame in enumerate(frames(video, *args, **options)):
            if number == 6:
                raise KeyboardInterrupt
            yield frame

    monkeypatch.setattr(Video, "frames", interrupted)
    status = main(["detect", model, str(clip), "--output", str(tmp_path / "found"), "--draw", "--batch-size", "2"])
    if is_live:
        assert status == 0 and len(lines_in(tmp_path / "found")) == 6
        monkeypatch.undo()
        with Video(tmp_path / "found" / "drawn.mp4") as drawn:
            assert len(list(drawn.frames())) == 6
    else:
        assert status == 130 and not (tmp_path / "found").exists()
