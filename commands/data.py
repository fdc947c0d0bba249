"""`ddetr data`: download, inspect and convert detection data sets."""

import argparse
import json
from pathlib import Path
from typing import Any

from .arguments import add_json, add_tiles, tiling_of
from .output import check_results_folder, results_folder

NAMED = {
    "fridge": "Fridge Objects: 128 photos of groceries in 4 classes (Microsoft, MIT)",
    "bccd": "BCCD: 364 microscope images of blood cells in 3 classes (Shenggan, MIT)",
}
# What `inspect --output` writes.
INSPECTED = ("contact_sheet.jpg", "inspection.json")
FORMATS = ("coco", "voc", "yolo", "azure", "datasets")

DESCRIPTION = """\
Detection data sets: download a published one, say what is in one and what is wrong with it, write it in another format.
SOURCE is a folder or a file (COCO json, Pascal VOC, YOLO, Azure's MLTable with JSONL, a saved `datasets` folder; the
format is found by looking), or OWNER/NAME on the Hub.
"""
EXAMPLES = """\
examples:
  ddetr data fridge --output datasets/fridge
  ddetr data inspect datasets/fridge --output runs/look
  ddetr data convert datasets/fridge fridge-coco --to coco
"""
DOWNLOAD = """\
Downloads {title}.
{layout}
The folder is written whole or not at all: a broken connection, a damaged archive or one with entries that lead out of
the folder leave nothing behind.

The archive comes from, in this order: --url, the environment variable {variable}, its published address. The
first two may also be the path of an archive that was downloaded before.
"""
LAYOUT = {
    "fridge": "Every 5th image (1, 6, 11, ...) goes to validation, as in Azure's sample: 102 to train, 26 to validate.",
    "bccd": "The split is its own: 205 images to train, 87 to validate, 72 to test.",
}
INSPECT = """\
Says what is in a data set: images, boxes and classes of each split, sizes, imbalance. Every image is decoded, and every
defect told with its file and line: boxes without area, outside the image or over its edge, swapped corners, unknown
labels; images that are absent, damaged, twice there, in two splits at once, of another size than stated, or not listed.

The exit status is 1 when training on it as it is would lose an object or an image, or when an image of one split is in
another one too. With --output, DIR/contact_sheet.jpg shows some images with their boxes, and DIR/inspection.json holds
the whole list.
"""
CONVERT = """\
Writes a data set in another format, images included, into a new folder: COCO JSON, Pascal VOC, YOLO txt, Azure's
MLTable folders with JSONL, or a folder of `datasets`. All of them hold the boxes and classes; of the rest (ids, areas,
crowds, fractions of pixels) each keeps what it has a place for. A defect that would lose an object or an image is an
error; `ddetr data inspect` lists them all.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    for name, title in NAMED.items():
        variable = f"DDETR_{name.upper()}_URL"
        download = _action(
            actions, name, f"download {title}", DOWNLOAD.format(title=title, layout=LAYOUT[name], variable=variable)
        )
        download.add_argument(
            "--output", metavar="DIR", type=Path, default=Path("datasets", name), help=f"default datasets/{name}"
        )
        download.add_argument("--url", metavar="URL", help="another address, or the archive as a file")
        download.set_defaults(action=run_download, name=name)

    inspect = _action(actions, "inspect", "say what is in a data set, and what is wrong with it", INSPECT)
    inspect.add_argument("source", metavar="SOURCE", help="a folder, a file or OWNER/NAME on the Hub")
    inspect.add_argument("--split", metavar="NAME", help="only this split: train, validation, test")
    add_json(inspect, "print it as JSON")
    inspect.add_argument("--output", metavar="DIR", type=Path, help="where contact_sheet.jpg and inspection.json go")
    add_tiles(inspect)
    inspect.set_defaults(action=run_inspect)

    convert = _action(actions, "convert", "write a data set in another format", CONVERT)
    convert.add_argument("source", metavar="SOURCE", help="a folder, a file or OWNER/NAME on the Hub")
    convert.add_argument("output", metavar="OUT", type=Path, help="the folder to write, new or empty")
    convert.add_argument("--to", choices=FORMATS, required=True, help="the format to write")
    convert.add_argument("--split", metavar="NAME", help="only this split: train, validation, test")
    convert.add_argument(
        "--defects", choices=["error", "skip"], default="error", help="skip: leave out what is defective, and say so"
    )
    convert.set_defaults(action=run_convert)


def _action(actions: Any, name: str, help: str, description: str) -> argparse.ArgumentParser:
    return actions.add_parser(
        name, help=help, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def run(args: argparse.Namespace) -> int:
    return args.action(args)


def run_download(args: argparse.Namespace) -> int:
    from deformable_detr_refine.data.download.named_sets import fetch_named_set

    fetched = fetch_named_set(args.name, args.output, args.url)
    splits = ", ".join(f"{count} in {split}" for split, count in fetched.splits.items())
    print(f"{fetched.source} -> {fetched.folder}: {fetched.images} images, {splits}")
    print(f"Look at it: ddetr data inspect {fetched.folder}")
    return 0


def run_inspect(args: argparse.Namespace) -> int:
    from deformable_detr_refine.data.defects import command_line_words
    from deformable_detr_refine.data.formats.load import load_detection_data
    from deformable_detr_refine.data.inspection.contact_sheet import contact_sheet
    from deformable_detr_refine.data.inspection.inspection import inspect
    from deformable_detr_refine.modeling.image_io import as_text

    if args.output is not None:
        check_results_folder(args.output, INSPECTED)
    tiling = tiling_of(args)
    with command_line_words():
        data = load_detection_data(args.source, split=args.split, defects="skip")
    inspection = inspect(data, whole=args.split is None, progress=True, tiling=tiling)
    text = json.dumps(inspection.to_dict(), indent=1, ensure_ascii=False)
    if args.output is not None:
        sheet = contact_sheet(data)
        with results_folder(args.output, INSPECTED) as folder:
            sheet.save(folder / "contact_sheet.jpg", format="JPEG", quality=90)
            (folder / "inspection.json").write_text(as_text(text) + "\n", encoding="utf-8")
    print(text if args.json else inspection)
    if args.output is not None and not args.json:
        print(f"Written: {args.output / 'contact_sheet.jpg'}, {args.output / 'inspection.json'}")
    return 0 if inspection.sound else 1


def run_convert(args: argparse.Namespace) -> int:
    from deformable_detr_refine.data.defects import BOX_FORM, box_form_notes, command_line_words, count_defects
    from deformable_detr_refine.data.detection_data import import_datasets
    from deformable_detr_refine.data.formats.azure_jsonl import write_azure
    from deformable_detr_refine.data.formats.coco import write_coco
    from deformable_detr_refine.data.formats.hub import write_datasets
    from deformable_detr_refine.data.formats.load import load_detection_data
    from deformable_detr_refine.data.formats.voc import write_voc
    from deformable_detr_refine.data.formats.yolo import write_yolo

    import_datasets().disable_progress_bars()
    writers = dict(zip(FORMATS, (write_coco, write_voc, write_yolo, write_azure, write_datasets), strict=True))
    with command_line_words():
        data = load_detection_data(args.source, split=args.split, defects=args.defects)
    writers[args.to](data, args.output)
    splits = ", ".join(f"{len(dataset)} in {name}" for name, dataset in data.splits.items())
    images = sum(len(dataset) for dataset in data.splits.values())
    print(f"{data.source} ({data.format}) -> {args.output} ({args.to}): {images} images, {splits}")
    for text in box_form_notes(data.defects):
        print(f"{text}.")
    if others := [defect for defect in data.defects if defect.kind != BOX_FORM]:
        print("Left out or clipped: " + ", ".join(f"{kind} {n}" for kind, n in count_defects(others).items()))
    return 0
