"""Where a data set's images are: in a folder, or fetched when they are needed.

Nothing here opens an image of a folder; a record gets a path, or an object that fetches the
file when it is called.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from nnblip.datasets import fields, files
from nnblip.datasets.download import Download, Remote
from nnblip.errors import InputError

Images = str | Path | Download | None

#: Other ends that people's copies of `.jpg` files have.
SPELLINGS = (".JPG", ".jpeg", ".JPEG")
COCO_SPLITS = ("train2014", "val2014", "train2017", "val2017", "test2015")


class Collection(Protocol):
    """How a collection of images names its files, and where it offers them."""

    @property
    def name(self) -> str:
        """Of its folder in the cache."""

    @property
    def host(self) -> str:
        """What all its public addresses begin with."""

    def files(self, image_id: Any) -> list[str]:
        """File names under which users have the image, the likeliest first. Raises `InputError` for a bad id."""

    def addresses(self, image_id: Any) -> list[str]:
        """Public addresses of the image, tried in this order; empty if it is not offered singly."""


@dataclass(frozen=True)
class Coco:
    """COCO: `COCO_train2014_000000123456.jpg` (2014) or `000000123456.jpg` (2017), both perhaps in `train2014/`
    or `images/train2014/`.

    An id belongs to one image in all releases; 2017 only dealt the images of 2014 out anew.
    """

    splits: tuple[str, ...] = COCO_SPLITS
    name: str = "coco"
    #: The bucket of images.cocodataset.org, which itself has no certificate and answers without encryption only.
    host: str = "https://s3.amazonaws.com/images.cocodataset.org"

    def files(self, image_id: Any) -> list[str]:
        number = fields.number(image_id, "image id")
        splits = dict.fromkeys([*self.splits, *COCO_SPLITS])
        names = [_coco_file(split, number) for split in splits]
        folders = [f"{split}/{name}" for split, name in zip(splits, names, strict=True)]
        deeper = [f"images/{name}" for name in folders]
        return [*dict.fromkeys([f"{number:012d}.jpg", *names, f"{number}.jpg", *folders, *deeper])]

    def addresses(self, image_id: Any) -> list[str]:
        number = fields.number(image_id, "image id")
        return [f"{self.host}/{split}/{_coco_file(split, number)}" for split in self.splits]


def _coco_file(split: str, number: int) -> str:
    """2014 and 2015 have the split in the name, 2017 has not."""
    return f"{number:012d}.jpg" if split.endswith("2017") else f"COCO_{split}_{number:012d}.jpg"


@dataclass(frozen=True)
class Gqa:
    """GQA: `2405722.jpg`, from Visual Genome, or `n578564.jpg`, which only GQA's own archive of all images has."""

    name: str = "gqa"
    host: str = "https://cs.stanford.edu"

    def files(self, image_id: Any) -> list[str]:
        return [f"{fields.name(image_id, 'image id')}.jpg"]

    def addresses(self, image_id: Any) -> list[str]:
        if not str(image_id).isdigit():
            return []
        parts = ("VG_100K_2", "VG_100K")  # each image is in one of the two
        return [f"{self.host}/people/rak248/{part}/{image_id}.jpg" for part in parts]


@dataclass(frozen=True)
class Clevr:
    """CLEVR: `CLEVR_val_000145.png`, perhaps in `val/`; offered only as one archive of 18 GB."""

    name: str = "clevr"
    host: str = ""

    def files(self, image_id: Any) -> list[str]:
        stem = fields.name(image_id, "image id")
        split = (stem.split("_") + [""])[1]
        return [f"{stem}.png", f"{split}/{stem}.png", f"images/{split}/{stem}.png"]

    def addresses(self, image_id: Any) -> list[str]:
        return []


@dataclass(frozen=True)
class Nowhere:
    """An image of which only the id is known; called, it says how to get it."""

    filename: str

    def __call__(self) -> Any:
        raise InputError(f"image {self.filename}: say where the images are, images=FOLDER or images='download'")


class Finder:
    """Gives each image id what `Example.image` can be.

    Args:
        images: a folder; "download" or a `Download`, to fetch each image from its public
            address when it is needed; None, to read questions only.
        collection: names the files.

    Raises:
        InputError: if there is no such folder, or the collection does not offer its images singly.
    """

    def __init__(self, images: Images, collection: Collection) -> None:
        self.collection = collection
        self._latest = 0  # the place, among all names, of the one under which the latest image was
        self.download = Download() if images == "download" else images if isinstance(images, Download) else None
        self.folder: Path | None = None
        if images is not None and self.download is None:
            self.folder = files.existing(images, "images", folder=True, data=False)  # type: ignore[arg-type]
        if self.download is not None and isinstance(collection, Clevr):
            raise InputError("images='download': CLEVR is one archive of 18 GB; get it and give images=FOLDER")

    def __call__(self, image_id: Any) -> str | Remote | Nowhere:
        """A path, or an object that gives one when it is called.

        Raises:
            InputError: for an id that is none, or an image that is not there.
        """
        names = self.collection.files(image_id)
        if self.folder is not None:
            spelt = [
                *names,
                *(name.removesuffix(".jpg") + end for end in SPELLINGS for name in names if ".jpg" in name),
            ]
            latest = min(self._latest, len(spelt) - 1)
            for place in (latest, *(place for place in range(len(spelt)) if place != latest)):
                if (self.folder / spelt[place]).is_file():
                    self._latest = place
                    return str(self.folder / spelt[place])
            raise InputError(f"image {image_id} is not in {str(self.folder)!r} ({', '.join(names[:2])}, ...)")
        if self.download is None:
            return Nowhere(names[0])
        addresses = self.collection.addresses(image_id)
        if not addresses:
            raise InputError(f"image {image_id} has no public address of its own: give images=FOLDER")
        return self.download.remote(addresses, self.collection.name, self.collection.host)
