"""Where a checkpoint is that a user names: a file or folder here, a published one by its short name, a URL, the Hub."""

import difflib
import re
from dataclasses import dataclass
from pathlib import Path

from deformable_detr_refine.errors import CheckpointError
from deformable_detr_refine.hub_names import is_hub_name
from deformable_detr_refine.messages import near
from deformable_detr_refine.modeling.url_io import is_url
from deformable_detr_refine.secret_text import public_address

from .fetch import download
from .hub import fetch_from_hub
from .published import PUBLISHED, Published


@dataclass(frozen=True)
class Place:
    """
    Attributes:
        path: the file or folder here.
        fetched_from: the address it was fetched from, or None.
        published: what is known of it, if it was named by a short name.
    """

    path: Path
    fetched_from: str | None = None
    published: Published | None = None


def locate(source: str | Path, revision: str | None = None) -> Place:
    """Finds a source here, or fetches it: only a short name, a URL or a name of the Hub asks the network.

    Args:
        source: what is here wins over what has its name elsewhere.
        revision: branch, tag or commit of a name on the Hub.

    Raises:
        FileNotFoundError: there is nothing of that name.
        OSError: it cannot be fetched.
        CheckpointError: what was fetched is not what it should be, or `revision` was given for something else.
    """
    if isinstance(source, Path) or _is_here(source):
        _check_no_revision(source, revision)
        return Place(Path(source))
    published = PUBLISHED.get(source)
    address = published.address if published else source
    if is_url(address):
        _check_no_revision(source, revision)
        try:
            path = download(address, published.sha256 if published else None)
        except OSError as error:
            shown = public_address(address)
            what = "it" if shown in str(error) else shown
            raise OSError(f"{error} Or fetch {what} elsewhere, and give the file in its place.") from None
        return Place(path, public_address(address), published)
    if published or is_hub_name(address):
        return Place(fetch_from_hub(address, revision), f"{address} on the Hub", published)
    raise FileNotFoundError(f"There is no checkpoint {source}{_near(source)}")


def _is_here(source: str) -> bool:
    try:
        return Path(source).exists()
    except (OSError, ValueError):  # longer than a name can be, or with a NUL
        return False


def _near(source: str) -> str:
    """The end of a sentence about a name that is none: which published one may be meant."""
    if "/" in source or Path(source).suffix:
        return near(source)
    spelled = {name: name for name in PUBLISHED}
    spelled |= {f"{name}-plain": name for name, one in PUBLISHED.items() if not one.fields["with_box_refine"]}
    words = re.split("[-_ ]", source.lower())
    close = [name for name in spelled if set(words) <= set(name.split("-"))]
    close = close or difflib.get_close_matches("-".join(words), spelled, n=1)
    meant = f"did you mean {spelled[close[0]]}? " if close else ""
    return f"; {meant}`ddetr convert --list` names the published ones."


def _check_no_revision(source: str | Path, revision: str | None) -> None:
    if revision is not None:
        raise CheckpointError(f"{source} is not a name of the Hub, so it has no revisions: drop --revision.")


__all__ = ["Place", "locate"]
