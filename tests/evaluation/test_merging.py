"""Several processes' results are those of one."""

import pickle

import pytest
from support.evaluated_images import one_image, random_images

from deformable_detr_refine.evaluation.merging import merge_images
from deformable_detr_refine.evaluation.metrics.coco import coco_metrics


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
def test_padded_shares_give_the_metrics_of_one_process(ranks):
    images = random_images(3, count=10)
    padded = [*images, *images[: -len(images) % ranks]]
    shares = [pickle.loads(pickle.dumps(padded[rank::ranks])) for rank in range(ranks)]
    assert len({len(share) for share in shares}) == 1
    merged = merge_images(shares)
    assert [image.image_id for image in merged] == sorted(image.image_id for image in images)
    assert coco_metrics(merged, "abcd") == coco_metrics(images, "abcd")
    assert len(merge_images([[image for share in shares for image in share]])) == len(images)


def test_the_first_of_equal_images_is_kept():
    first, second = one_image([[0, 0, 1, 1]]), one_image()
    assert merge_images([[first], [second]]) == [first]
    assert merge_images([]) == merge_images([[], []]) == []


def test_two_images_of_one_id_are_an_error():
    other = one_image()
    object.__setattr__(other, "file_name", "other.jpg")
    with pytest.raises(ValueError, match=r"Image id 1 belongs to 1\.jpg and to other\.jpg"):
        merge_images([[one_image()], [other]])
