"""Published checkpoints of this family: a short name for each, where it lies, and what its authors report."""

from dataclasses import dataclass
from typing import Any

_MMDET_3X = "https://download.openmmlab.com/mmdetection/v3.0/deformable_detr"
_MMDET_2X = "https://download.openmmlab.com/mmdetection/v2.0/deformable_detr"
_DETREX = "https://github.com/IDEA-Research/detrex-storage/releases/download"
_ALL = {"num_queries": 300, "encoder_attention_heads": 8, "decoder_attention_heads": 8}
_PLAIN = {**_ALL, "two_stage": False, "with_box_refine": False}
_REFINE = {**_ALL, "two_stage": False, "with_box_refine": True}
_TWO_STAGE = {**_ALL, "two_stage": True, "with_box_refine": True}


@dataclass(frozen=True)
class Published:
    """
    Attributes:
        name: as `ddetr convert` takes it.
        address: a URL, or OWNER/NAME on the Hub.
        code_base: who wrote it.
        ap: COCO val2017 box AP in percent, as its authors report it; nothing here measured it.
        fields: of our configuration, which its name tells.
        sha256: how its digest begins, where that is known.
        licence: of the repository that publishes it.
    """

    name: str
    address: str
    code_base: str
    ap: float
    fields: dict[str, Any]
    sha256: str | None = None
    licence: str = "Apache-2.0"

    @property
    def is_on_hub(self) -> bool:
        return "://" not in self.address


def _mmdet(name: str, base: str, config: str, stamp: str, ap: float, fields: dict[str, Any]) -> Published:
    """OpenMMLab's names end in the beginning of the file's sha256."""
    address = f"{base}/{config}/{config}_{stamp}.pth"
    return Published(name, address, "mmdet", ap, fields, sha256=stamp.rpartition("-")[2])


# AP: MMDetection's from the metafile of 3.1.0 and the README of 2.28, the others' from their READMEs. No file was seen.
PUBLISHED = {
    published.name: published
    for published in (
        _mmdet("r50", _MMDET_3X, "deformable-detr_r50_16xb2-50e_coco", "20221029_210934-6bc7d21b", 44.3, _PLAIN),
        _mmdet(
            "r50-refine",
            _MMDET_3X,
            "deformable-detr-refine_r50_16xb2-50e_coco",
            "20221022_225303-844e0f93",
            46.2,
            _REFINE,
        ),
        _mmdet(
            "r50-refine-twostage",
            _MMDET_3X,
            "deformable-detr-refine-twostage_r50_16xb2-50e_coco",
            "20221021_184714-acc8a5ff",
            47.0,
            _TWO_STAGE,
        ),
        _mmdet("r50-2x", _MMDET_2X, "deformable_detr_r50_16x2_50e_coco", "20210419_220030-a12b9512", 44.5, _PLAIN),
        _mmdet(
            "r50-refine-2x",
            _MMDET_2X,
            "deformable_detr_refine_r50_16x2_50e_coco",
            "20210419_220503-5f5dff21",
            46.1,
            _REFINE,
        ),
        _mmdet(
            "r50-refine-twostage-2x",
            _MMDET_2X,
            "deformable_detr_twostage_refine_r50_16x2_50e_coco",
            "20210419_220613-9d28ab72",
            46.8,
            _TWO_STAGE,
        ),
        # The authors' own files lie on Google Drive; the Hub has the same weights in transformers' form.
        Published("original-single-scale", "SenseTime/deformable-detr-single-scale", "transformers", 39.4, _PLAIN),
        Published(
            "original-single-scale-dc5", "SenseTime/deformable-detr-single-scale-dc5", "transformers", 41.5, _PLAIN
        ),
        Published("original", "SenseTime/deformable-detr", "transformers", 44.5, _PLAIN),
        Published("original-refine", "SenseTime/deformable-detr-with-box-refine", "transformers", 46.2, _REFINE),
        Published(
            "original-refine-twostage",
            "SenseTime/deformable-detr-with-box-refine-two-stage",
            "transformers",
            46.9,
            _TWO_STAGE,
        ),
        Published(
            "detrex-refine",
            f"{_DETREX}/v0.1.1/deformable_detr_with_box_refinement_50ep_new.pth",
            "detrex",
            46.99,
            _REFINE,
        ),
        Published(
            "detrex-refine-twostage",
            f"{_DETREX}/v0.1.1/deformable_detr_r50_two_stage_50ep_new.pth",
            "detrex",
            48.19,
            _TWO_STAGE,
        ),
        # The authors' weights under detrex's names, and what detrex reports of them, with 300 detections per image.
        Published("detrex-original", f"{_DETREX}/v0.1.0/converted_deformable_detr_r50.pth", "detrex", 44.59, _PLAIN),
        Published(
            "detrex-original-refine",
            f"{_DETREX}/v0.1.0/converted_deformable_detr_r50_with_box_refine_50ep.pth",
            "detrex",
            46.28,
            _REFINE,
        ),
        Published(
            "detrex-original-refine-twostage",
            f"{_DETREX}/v0.1.0/converted_deformable_detr_two_stage_50ep.pth",
            "detrex",
            47.09,
            _TWO_STAGE,
        ),
    )
}


def published_by_digest(sha256: str) -> Published | None:
    """The published checkpoint that a file is, by its digest; None where none is known to be."""
    return next((one for one in PUBLISHED.values() if one.sha256 and sha256.startswith(one.sha256)), None)


__all__ = ["PUBLISHED", "Published", "published_by_digest"]
