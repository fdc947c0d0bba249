"""`ddetr benchmark` from the outside: one table of a detector's forms, with reasons for those that are not there."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from support.small_detector import save_small_detector

from ddetr.main import main
from deformable_detr_refine.inference.load_detector import load_detector
from deformable_detr_refine.inference.network import Network
from deformable_detr_refine.modeling.int8_layers import why_not_int8
from deformable_detr_refine.serving.export import forms

CELLS = Path(__file__).parents[2] / "samples" / "annotations" / "blood_cells.json"
GROWTH = 2048  # kB


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("cells") / "detector"
    return str(save_small_detector(folder, names=("Platelets", "RBC", "WBC")))


@pytest.fixture(autouse=True)
def no_processes(monkeypatch):
    """A process takes seconds to begin; the last test starts one."""
    monkeypatch.setattr(forms, "added_memory", lambda *args: GROWTH)


@pytest.fixture
def benchmark(model_folder, capsys):
    """What the command prints for the small detector."""

    def run(*words: str, model: str = model_folder):
        assert main(["benchmark", model, "--device", "cpu", "--size", "64x96", "--runs", "1", *words]) == 0
        printed = capsys.readouterr().out
        return json.loads(printed) if "--json" in words else printed

    return run


def test_each_form_has_a_row_of_its_speed_and_memory(benchmark):
    report = benchmark("--forms", "bfloat16", "float32", "--runs", "2", "--batch-size", "2", "--json")
    rows = report["rows"]
    assert [row["form"] for row in rows] == ["float32", "bfloat16"]
    assert rows[0]["ratio"] == 1
    for row in rows:
        assert len(row["seconds"]) == 2
        assert row["images_per_second"]["fastest"] == 2 / min(row["seconds"])
        assert row["ratio"] == min(rows[0]["seconds"]) / min(row["seconds"])
        assert row["ap"] is None
        assert row["memory"] == (1024 * GROWTH if sys.platform == "linux" else None)
    assert report["recommended"].startswith("For this machine: float32")


def test_backends_that_are_asked_for_have_rows_of_their_own(benchmark):
    printed = benchmark("--forms", "float32", "--backends", "reference", "torch")
    assert "\nfloat32, torch " in printed and "\nfloat32, reference " in printed


def test_what_cannot_be_had_says_why_and_the_rest_goes_on(benchmark, monkeypatch):
    monkeypatch.setattr("torch.cpu._is_vnni_supported", lambda: False)
    monkeypatch.setattr("deformable_detr_refine.serving.export.onnx_export.NEEDED", ("no_such_package",))
    printed = benchmark("--forms", "float32", "onnx", "int8", "float16")
    assert "float16             not run: float16 is for accelerators" in printed
    assert "onnx                not run: ONNX needs no_such_package: pip install" in printed
    assert "int8                not run: int8 needs a processor with AVX-512 VNNI" in printed
    assert "\nfloat32  " in printed


def test_an_onnx_file_is_written_for_each_of_its_two_forms(benchmark, monkeypatch, model_folder):
    written = []

    def write(detector, known, output, custom_operator):
        written.append((output.name, custom_operator))

    model, processor = load_detector(model_folder, "cpu")
    network = Network.of(model, processor)
    takes = {"pixel_values": (1, 3, 64, 96), "pixel_mask": (1, 64, 96)}

    def forward(inputs):
        assert {name: array.shape for name, array in inputs.items()} == takes
        return SimpleNamespace()

    monkeypatch.setattr(forms, "check_onnx", lambda: None)
    monkeypatch.setattr(forms, "write_onnx", write)
    monkeypatch.setattr(forms, "load_onnx", lambda path, threads: network._replace(forward=forward))
    rows = benchmark("--forms", "onnx", "onnx-operator", "--json")["rows"]
    assert written == [("onnx.onnx", False), ("onnx-operator.onnx", True)]
    assert [(row["form"], row["numbers"]) for row in rows] == [("onnx", "float32"), ("onnx-operator", "float32")]


@pytest.mark.skipif(bool(why_not_int8()), reason=str(why_not_int8()))
def test_int8_is_calibrated_on_data_or_without_it_on_noise(benchmark, monkeypatch):
    sizes = []
    quantized = forms.quantized

    def seen(detector, processor, images):
        sizes.append([image.size for image in images])
        return quantized(detector, processor, images)

    monkeypatch.setattr(forms, "quantized", seen)
    monkeypatch.setattr("deformable_detr_refine.serving.export.proof_data.load_detection_data", only_split_of(CELLS))
    assert "\nint8 " in benchmark("--forms", "float32", "int8")
    assert "\nint8 " in benchmark("--forms", "float32", "int8", "--data", str(CELLS), "--limit", "1")
    assert sizes[0] == [(96, 64)] and set(sizes[1]) == {(640, 480)}


def only_split_of(file: Path):
    """`load_detection_data` for a file without splits, which is each that is asked for."""
    from deformable_detr_refine.data.formats.load import load_detection_data

    return lambda data, split, defects: load_detection_data(file)


def test_ap_is_there_where_data_is_given(benchmark, monkeypatch):
    pytest.importorskip("datasets", reason="pip install deformable-detr-refine[train]")
    monkeypatch.setattr("deformable_detr_refine.serving.export.proof_data.load_detection_data", only_split_of(CELLS))
    monkeypatch.setattr(
        "deformable_detr_refine.serving.export.proof.average_precisions",
        lambda rows, networks, progress: [aps.pop(0)],
    )
    aps = [0.51, 0.504] * 2
    words = ["--forms", "float32", "bfloat16", "--data", str(CELLS), "--limit", "2"]
    report = benchmark(*words, "--json")
    assert report["ap_images"] == 2
    assert [row["ap"] for row in report["rows"]] == [0.51, 0.504]
    assert report["recommended"] == "For this machine: float32 (as it is), AP 0.5100."
    assert "0.5040" in benchmark(*words)


@pytest.fixture
def exported(tmp_path, monkeypatch):
    """Files and a folder as `ddetr export` names them, whose facts are the small detector's."""
    facts = {"id2label": json.dumps({"0": "Platelets", "1": "RBC", "2": "WBC"})}
    monkeypatch.setattr(forms, "onnx_facts", lambda path: facts)
    for name, content in {"portable": "GridSample", "own": "DeformableAttention", "second": "GridSample"}.items():
        (tmp_path / f"{name}.onnx").write_text(content)
    for name, names in {"int8": {"0": "cat"}, "own-int8": json.loads(facts["id2label"])}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({"int8": True, "id2label": names}))
    (tmp_path / "own-int8" / "int8.json").write_text(json.dumps({"weights_sha256": "0" * 64}))
    return SimpleNamespace(folder=tmp_path, facts=facts)


def test_exports_that_are_given_are_taken(benchmark, exported, monkeypatch):
    monkeypatch.setattr(forms, "load_onnx", lambda path, threads: Network(lambda inputs: inputs, None, {}, 0.3, "np"))
    files = [str(exported.folder / name) for name in ("own.onnx", "portable.onnx")]
    rows = benchmark("--forms", "float32", "--exported", *files, "--json")["rows"]
    assert [row["form"] for row in rows] == ["float32", "onnx", "onnx-operator"]


@pytest.mark.parametrize(
    ("names", "facts", "message"),
    [
        (["portable.onnx", "second.onnx"], {}, "portable.onnx and {folder}/second.onnx have one form"),
        (["int8"], {}, "int8 is not of {model}: it has other classes"),
        (["own.onnx"], {"id2label": '{"0": "RBC"}'}, "own.onnx is not of {model}: it has other classes"),
        (["own.onnx"], {"weights_sha256": "0" * 64}, "own.onnx is not of {model}: it was made of other weights"),
        (["own-int8"], {}, "own-int8 is not of {model}: it was made of other weights"),
        (["."], {}, "{folder} is neither an .onnx file nor a model folder in int8"),
        (["owm.onnx"], {}, "There is no export {folder}/owm.onnx"),
    ],
)
def test_other_exports_are_refused_before_the_work(model_folder, exported, capsys, names, facts, message):
    exported.facts.update(facts)
    files = [str(exported.folder / name) for name in names]
    assert main(["benchmark", model_folder, "--device", "cpu", "--exported", *files]) == 2
    told = capsys.readouterr().err
    assert message.format(folder=exported.folder, model=model_folder) in told and told.count("\n") == 1


def test_what_a_model_in_int8_has_not_is_refused(model_folder, monkeypatch, capsys):
    model, processor = load_detector(model_folder, "cpu")
    model.config.int8 = True
    module = sys.modules[load_detector.__module__]  # whose name in its package is that of the function
    monkeypatch.setattr(module, "load_detector", lambda *args: (model, processor))
    assert main(["benchmark", model_folder, "--device", "cpu", "--forms", "float32"]) == 2
    assert "is in int8, its one form" in capsys.readouterr().err


def test_a_form_that_fails_late_costs_its_own_row_only(benchmark, monkeypatch, capsys):
    passes = []

    def forward(inputs):
        passes.append(inputs)
        if len(passes) == 2:  # the first is that of its opening
            raise RuntimeError("out of memory")

    monkeypatch.setattr(forms, "check_onnx", lambda: None)
    monkeypatch.setattr(forms, "write_onnx", lambda *args, **options: None)
    monkeypatch.setattr(forms, "load_onnx", lambda path, threads: Network(forward, None, {}, 0.3, "np"))
    report = benchmark("--forms", "float32", "onnx", "--json")
    assert [row["form"] for row in report["rows"]] == ["float32"]
    assert report["not_run"] == {"onnx": "out of memory"}


def test_a_child_does_not_outlive_the_wait_for_it(monkeypatch):
    monkeypatch.undo()
    ended = []

    def interrupted():
        raise KeyboardInterrupt

    class Executor:
        def __init__(self, workers, context):
            self._processes = {1: SimpleNamespace(kill=lambda: ended.append("child"))}

        def submit(self, *args):
            return SimpleNamespace(result=interrupted)

        def shutdown(self, wait, cancel_futures):
            ended.append((wait, cancel_futures))

    monkeypatch.setattr(forms, "ProcessPoolExecutor", Executor)
    with pytest.raises(KeyboardInterrupt):
        forms.added_memory(forms.Form("float32", "model"), (1, 3, 64, 64), 1, None)
    assert ended == ["child", (False, True)]


def test_compiled_means_one_graph_for_all_shapes(benchmark, monkeypatch):
    asked = []

    def compile(model, **options):
        asked.append(options)
        return model

    monkeypatch.setattr("torch.compile", compile)
    assert "\ncompiled-bfloat16 " in benchmark("--forms", "float32", "compiled-bfloat16")
    assert asked == [{"dynamic": True}]


def test_it_says_when_the_machine_is_busy(benchmark, monkeypatch):
    before = torch.get_num_threads()
    for idle in (1.2, 64.0):
        monkeypatch.setattr("deformable_detr_refine.machine.idle_cores", lambda idle=idle: idle)
        printed = benchmark("--forms", "float32", "--threads", "2")
        assert ("--threads 1 is faster then" in printed) == ("busy" in printed) == (idle < 2)
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--backends", "triton"], "The backend triton does not run on cpu"),
        (["--forms", "float16"], "float16 cannot be had here: float16 is for accelerators"),
        (["--limit", "3"], "--split and --limit are of --data, which is not given"),
        (["--data", "nowhere"], "There is no data set nowhere"),
    ],
)
def test_mistakes_are_told_in_one_line(model_folder, capsys, words, message):
    assert main(["benchmark", model_folder, "--device", "cpu", "--size", "64x64", *words]) == 2
    told = capsys.readouterr().err.strip()
    assert message in told and told.count("\n") == 0


def test_too_small_an_image_is_refused_before_the_exports(model_folder, monkeypatch, capsys):
    monkeypatch.setattr(forms, "write_export", lambda *args: pytest.fail("exported"))
    assert main(["benchmark", model_folder, "--device", "cpu", "--size", "1x1"]) == 2
    told = capsys.readouterr().err
    assert "proposals, fewer than num_queries" in told and told.count("\n") == 1


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the system does not tell")
def test_memory_is_what_a_process_of_its_own_grows_by(model_folder, monkeypatch):
    monkeypatch.undo()
    small, large = (
        forms.added_memory(forms.Form("float32", model_folder, "torch"), (1, 3, side, side), 1, None)
        for side in (64, 800)
    )
    assert 0 < small < large
