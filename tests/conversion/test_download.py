"""Published checkpoints, URLs and models of the Hub: fetched when named, checked, kept, and gone on with."""

import hashlib
import subprocess
import sys

import pytest
from huggingface_hub import constants
from support.http_server import serving
from support.hub_server import hub_server

from deformable_detr_refine.conversion import CheckpointError, convert_checkpoint, detector_from
from deformable_detr_refine.conversion.download import fetch, place, published
from deformable_detr_refine.conversion.download.cache import cache_folder
from deformable_detr_refine.conversion.download.fetch import download
from deformable_detr_refine.conversion.download.hub import fetch_from_hub
from deformable_detr_refine.conversion.download.place import locate
from deformable_detr_refine.conversion.download.published import PUBLISHED

CONTENT = bytes(range(256)) * 1000


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DDETR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "cache"


@pytest.fixture
def no_network(monkeypatch):
    """Whatever asks the network fails the test."""

    def refuse(*args, **kwargs):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(place, "download", refuse)
    monkeypatch.setattr(place, "fetch_from_hub", refuse)


def files_in(folder):
    return sorted(file.name for file in folder.rglob("*") if file.is_file() and file.name != "lock")


def test_a_file_is_fetched_once():
    seen = []
    with serving({"/a/model.pth": CONTENT}, {"/old": "/a/model.pth"}, seen=seen) as address:
        file = download(f"{address}/a/model.pth")
        assert file.read_bytes() == CONTENT and cache_folder() in file.parents and file.name == "model.pth"
        assert download(f"{address}/a/model.pth") == file and len(seen) == 1
        assert download(f"{address}/old").read_bytes() == CONTENT
    assert download(f"{address}/a/model.pth") == file


def test_what_broke_off_goes_on(cache):
    seen = []
    with serving({"/model.pth": CONTENT}, cut={"/model.pth": 70_000}, seen=seen) as address:
        with pytest.raises(OSError, match=r"ended (early|after 70000 of 256000 bytes)"):
            download(f"{address}/model.pth")
        assert files_in(cache) == ["model.pth.part", "model.pth.part-version"]
        assert download(f"{address}/model.pth").read_bytes() == CONTENT
    assert seen == [("/model.pth", ""), ("/model.pth", "bytes=70000-")] and files_in(cache) == ["model.pth"]


def test_a_server_that_drips_is_left_and_what_came_is_kept(cache, monkeypatch):
    monkeypatch.setattr(fetch, "PATIENCE_SECONDS", 0.5)
    told = r"bytes came in \d seconds\. What came is kept: the same"
    with serving({}) as address, pytest.raises(OSError, match=told):
        download(f"{address}/drip")
    (part,) = cache.rglob("drip.part")
    assert part.stat().st_size


def test_another_version_is_fetched_from_its_start():
    files = {"/model.pth": CONTENT}
    with serving(files, cut={"/model.pth": 70_000}) as address:
        with pytest.raises(OSError, match="ended"):
            download(f"{address}/model.pth")
        files["/model.pth"] = CONTENT[::-1]
        assert download(f"{address}/model.pth").read_bytes() == CONTENT[::-1]


def test_a_beginning_longer_than_the_file_is_dropped(cache):
    with serving({"/model.pth": CONTENT}, cut={"/model.pth": 70_000}) as address:
        with pytest.raises(OSError, match="ended"):
            download(f"{address}/model.pth")
        (part,) = cache.rglob("*.part")
        part.write_bytes(CONTENT * 2)
        assert download(f"{address}/model.pth").read_bytes() == CONTENT


def test_the_digest_in_a_name_holds(cache):
    right = f"/net_20221029_210934-{hashlib.sha256(CONTENT).hexdigest()[:8]}.pth"
    wrong = "/net_20221029_210934-01234567.pth"
    with serving({right: CONTENT, wrong: CONTENT}) as address:
        assert download(address + right).read_bytes() == CONTENT
        with pytest.raises(CheckpointError, match=r"another file .* its sha256 begins with .*, not 01234567"):
            download(address + wrong)
    assert files_in(cache) == [right[1:]]


def test_errors_are_one_sentence(cache, tmp_path):
    with serving({}) as address, pytest.raises(OSError, match=r"404 Not Found\. Or fetch it elsewhere") as error:
        convert_checkpoint(f"{address}/model.pth", tmp_path / "out")
    assert "\n" not in str(error.value) and files_in(cache) == [] and str(error.value).count(address) == 1
    assert error.value.__cause__ is None and error.value.__suppress_context__
    with pytest.raises(OSError, match="cannot be read"):
        convert_checkpoint(f"{address}/model.pth", tmp_path / "out")
    with pytest.raises(ValueError, match="no address"):
        convert_checkpoint("http://[", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_web_page_is_no_checkpoint(tmp_path):
    page = b"<!DOCTYPE html><title>Virus scan warning</title>"
    with serving({"/uc?id=1WEjQ9": page}) as address, pytest.raises(CheckpointError, match="is a web page"):
        convert_checkpoint(f"{address}/uc?id=1WEjQ9", tmp_path / "out")


def test_only_names_urls_and_the_hub_ask_the_network(no_network, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r50").write_bytes(b"")
    assert locate("r50").path.name == "r50"  # what is here wins
    absent = ("absent.pth", "runs/epoch_50.pth", "./runs/fridge", "/runs/fridge", "a/b/c", "r50-refine-two")
    for name in (*absent, "a" * 300, "a\0"):
        with pytest.raises(FileNotFoundError, match="There is no checkpoint"):
            locate(name)
    meant = {"r50-refine-twostag": "r50-refine-twostage", "r50-plainn": "r50", "r50_2x_plain": "r50-2x"}
    meant |= {"original-dc5": "original-single-scale-dc5", "Original-TwoStage": "original-refine-twostage"}
    for name, near in meant.items():
        with pytest.raises(FileNotFoundError, match=rf"did you mean {near}\? `ddetr convert --list` names"):
            locate(name)
    with pytest.raises(
        FileNotFoundError, match=r"no checkpoint yolo11n; `ddetr convert --list` names the published ones\."
    ):
        locate("yolo11n")
    with pytest.raises(CheckpointError, match="drop --revision"):
        locate("r50", revision="main")
    for asked in ("r50-refine", "http://example.org/a.pth", "SenseTime/deformable-detr"):
        with pytest.raises(AssertionError, match="network"):
            locate(asked)


def test_the_table_is_sound():
    for name, one in PUBLISHED.items():
        assert one.name == name and 39 < one.ap < 49 and one.licence == "Apache-2.0"
        assert one.fields.keys() >= {"two_stage", "with_box_refine", "num_queries"}
        assert one.fields["two_stage"] == ("twostage" in name) and one.fields["with_box_refine"] == ("refine" in name)
        assert one.is_on_hub == (one.code_base == "transformers")
        assert one.sha256 is None or one.address.endswith(f"-{one.sha256}.pth")
    assert published.published_by_digest("acc8a5ff" + "0" * 56).name == "r50-refine-twostage"
    assert published.published_by_digest("0" * 64) is None


@pytest.fixture
def named(monkeypatch, runner_checkpoint, save):
    """A short name for a small checkpoint on a local server, as OpenMMLab publishes them: weights without a config."""
    path = save({"meta": {}, "state_dict": runner_checkpoint("refine")["state_dict"]})
    content = path.read_bytes()
    with serving({"/net.pth": content}) as address:
        fields = {"two_stage": False, "with_box_refine": True, "num_queries": 30}
        fields |= {"encoder_attention_heads": 8, "decoder_attention_heads": 8}
        entry = published.Published(
            "tiny", f"{address}/net.pth", "mmdet", 12.3, fields, sha256=hashlib.sha256(content).hexdigest()[:8]
        )
        monkeypatch.setitem(PUBLISHED, "tiny", entry)
        yield entry


def test_a_short_name_is_enough(named, tmp_path):
    report = convert_checkpoint("tiny", tmp_path / "out")
    assert (report.variant, report.assumed, report.published) == ("refine", [], "tiny")
    assert report.fetched_from == named.address and "published tiny" in report.config_from
    card = (tmp_path / "out" / "README.md").read_text()
    assert "COCO box AP 12.3, as its authors report it" in card and named.address in card
    named.fields["with_box_refine"] = False
    with pytest.raises(CheckpointError, match=r"differs from layer 0's|published tiny"):
        convert_checkpoint("tiny", tmp_path / "another")


def test_one_call_fetches_converts_and_loads(named, samples, cache, monkeypatch):
    detector = detector_from("tiny", device="cpu")
    (found,) = detector.detect([samples / "BloodImage_00053.jpg"], top_k=5)
    assert len(found.boxes) == 5
    monkeypatch.setattr("deformable_detr_refine.conversion.load.convert_place", None)  # it is there
    (again,) = detector_from("tiny", device="cpu").detect([samples / "BloodImage_00053.jpg"], top_k=5)
    assert (again.boxes == found.boxes).all() and len(list((cache / "detectors").iterdir())) == 1


def test_a_converted_file_is_taken_again_only_while_all_that_was_read_is_the_same(save, runner_checkpoint, cache):
    path = save(runner_checkpoint("refine"))
    names, config, base = (path.with_name(name) for name in ("names.txt", "config.py", "base.py"))
    names.write_text("\n".join("abcde"))
    base.write_text(runner_checkpoint("refine")["meta"]["cfg"])
    config.write_text("_base_ = ['base.py']\n")
    options = {"classes": names, "config": config, "device": "cpu"}

    def folders():
        detector_from(path, **options)
        return len(list((cache / "detectors").iterdir()))

    assert [folders(), folders()] == [1, 1]
    names.write_text("\n".join("vwxyz"))
    assert [folders(), folders()] == [2, 2]
    base.write_text(base.read_text() + "epochs = 7\n")
    assert folders() == 3
    path.with_name("config.yaml").write_text("a: 1")  # read beside a file of detrex
    assert folders() == 4
    path.with_name("notes.txt").write_text("a")
    assert folders() == 4


@pytest.fixture
def hub(monkeypatch):
    with hub_server() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", hub.url)
        yield hub


def test_of_the_hub_only_config_and_weights_are_fetched(hub):
    files = {"config.json": b"{}", "model.safetensors": b"1", "pytorch_model.bin": b"2", "training_args.bin": b"3"}
    hub.add("some/one", {**files, "README.md": b"4", "optimizer.pt": b"5"})
    folder = fetch_from_hub("some/one")
    assert files_in(folder) == ["config.json", "model.safetensors"]
    old = hub.add("some/one", {"config.json": b"{}", "pytorch_model.bin": b"2"}, branch="old")
    assert files_in(fetch_from_hub("some/one", "old")) == ["config.json", "pytorch_model.bin"]
    assert old in str(fetch_from_hub("some/one", "old"))
    hub.add("some/text", {"README.md": b"4"})
    with pytest.raises(CheckpointError, match="no weights in a form that is known"):
        fetch_from_hub("some/text")
    with pytest.raises(FileNotFoundError, match="no model some/absent here, nor one on the Hub"):
        fetch_from_hub("some/absent")
    with pytest.raises(FileNotFoundError, match="no some/one at revision never"):
        fetch_from_hub("some/one", "never")


def test_of_the_hub_one_checkpoint_is_fetched(hub, monkeypatch):
    hub.add("some/one", {"a.pth": b"1", "old/b.pth": b"2", "config.yaml": b"{}", "log.txt": b"3"})
    assert files_in(fetch_from_hub("some/one")) == ["a.pth", "config.yaml"]
    hub.add("some/last", {"checkpoint.pth": b"1", "checkpoint0009.pth": b"2"})
    assert files_in(fetch_from_hub("some/last")) == ["checkpoint.pth"]
    hub.add("some/many", {"a.pth": b"1", "b.pth": b"2"})
    with pytest.raises(CheckpointError, match=r"holds 2 checkpoints \(a\.pth, b\.pth\); give the") as error:
        fetch_from_hub("some/many")
    assert f"{hub.url}/some/many/resolve/main/a.pth." in str(error.value)
    assert not any(method == "GET" and "/some/many/resolve/" in path for method, path, _ in hub.requests)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert files_in(fetch_from_hub("some/one")) == ["a.pth", "config.yaml"]


def test_of_the_hub_what_is_in_the_cache_needs_no_network(hub, monkeypatch):
    hub.add("some/one", {"config.json": b"{}", "model.safetensors": b"1"})
    folder = fetch_from_hub("some/one")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert fetch_from_hub("some/one") == folder
    with pytest.raises(OSError, match="is not in the Hub's cache here, and the Hub cannot be reached"):
        fetch_from_hub("some/other")


@pytest.mark.slow
def test_two_processes_fetch_one_file(tmp_path):
    """The second waits for the first."""
    seen = []
    code = "import sys; from deformable_detr_refine.conversion.download.fetch import download; download(sys.argv[1])"
    with serving({"/model.pth": CONTENT}, seen=seen) as address:
        processes = [subprocess.Popen([sys.executable, "-c", code, f"{address}/model.pth"]) for _ in range(2)]
        assert [process.wait(120) for process in processes] == [0, 0]
    assert len(seen) == 1
