"""A trained detector for other classes: everything is kept but the class rows that have no name in common."""

from collections.abc import Mapping

import torch

from deformable_detr_refine.modeling import DeformableDetrRefineForObjectDetection

CLASS_HEADS = ("class_heads.", "model.first_stage.class_head.other_classes.")
# The first stage's class channel 0 ranks the proposals, whatever the classes are.
RANKING = "model.first_stage.class_head.foreground."
# A detector without learned queries can be trained on with them, which begin anew.
CONTENT = "model.first_stage.content.weight"


@torch.no_grad()
def transfer(
    source: DeformableDetrRefineForObjectDetection,
    target: DeformableDetrRefineForObjectDetection,
    keep_class_heads: bool = True,
) -> list[str]:
    """Copies a detector's weights into one of the same architecture with other classes.

    All box heads are kept, and the ranking of the first stage's proposals, so that fine-tuning does not begin from
    random proposals. A class head's rows go by name: those of names that both know are copied, in whatever order each
    has them; the other rows stay as the new detector was made (focal prior). Without `keep_class_heads` every class
    head is new, the ranking too.

    Returns:
        The class names whose rows were copied.

    Raises:
        ValueError: the two differ in more than their classes.
    """
    old, new = dict(source.named_parameters()) | dict(source.named_buffers()), target.state_dict()
    differing = set(new) ^ {*source.state_dict(), *({CONTENT} & set(new))}
    if differing := sorted(name for name in differing if not name.startswith(CLASS_HEADS) or "class_heads" in name):
        raise ValueError(f"Only one of the two has {differing[0]}: only the classes may differ.")
    common = _common(source.config.id2label, target.config.id2label) if keep_class_heads else []
    for name, tensor in new.items():
        if name.startswith(CLASS_HEADS):
            # `other_classes` has no row for class 0, which is `foreground`.
            first = 1 if "other_classes" in name else 0
            for theirs, ours in common:
                if theirs >= first and ours >= first:
                    tensor[ours - first] = old[name][theirs - first]
        elif (name.startswith(RANKING) and not keep_class_heads) or name not in old:
            continue
        elif tensor.shape != old[name].shape:
            raise ValueError(
                f"{name} is {tuple(old[name].shape)} in the model and {tuple(tensor.shape)} by `model_config`: "
                "only the classes may differ."
            )
        else:
            tensor.copy_(old[name])
    return [target.config.id2label[ours] for _, ours in common]


def _common(theirs: Mapping[int, str], ours: Mapping[int, str]) -> list[tuple[int, int]]:
    """Pairs of labels with one name."""
    labels = {name: label for label, name in theirs.items()}
    return [(labels[name], label) for label, name in ours.items() if name in labels]
