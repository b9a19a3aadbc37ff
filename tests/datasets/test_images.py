"""Images by folder and by id, and downloads from a server of the test's own."""

from __future__ import annotations

import csv
import gzip
import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from helpers import dataset_files as own

from nnblip import datasets
from nnblip.datasets import Download, download
from nnblip.datasets.images import Clevr, Coco, Finder, Gqa
from nnblip.errors import InputError, NnblipWarning
from nnblip.examples import load_image


@pytest.mark.parametrize(
    "name",
    [
        "000000000071.jpg", "COCO_train2014_000000000071.jpg", "COCO_val2014_000000000071.jpg", "71.jpg",
        "train2014/COCO_train2014_000000000071.jpg", "val2017/000000000071.jpg",
        "images/train2014/COCO_train2014_000000000071.jpg", "images/val2017/000000000071.jpg",
        "000000000071.JPG", "000000000071.jpeg", "images/val2014/COCO_val2014_000000000071.JPEG",
    ],
)  # fmt: skip
def test_a_coco_image_is_found_by_its_id(name, tmp_path):
    path = own.picture(tmp_path / name)
    assert Finder(tmp_path, Coco())(71) == Finder(str(tmp_path), Coco())("71") == str(path)


def test_the_usual_name_comes_first_unless_another_served_before(tmp_path):
    find = Finder(tmp_path, Coco())
    late, early = (own.picture(tmp_path / name) for name in ("images/val2014/COCO_val2014_000000000071.jpg", "71.jpg"))
    own.picture(tmp_path / "72.jpg")
    assert find(71) == str(early) and find(72) == str(tmp_path / "72.jpg")
    early.unlink()
    assert find(71) == str(late) and find(72) == str(tmp_path / "72.jpg")


def test_other_collections_name_their_files(tmp_path):
    for name, collection, image_id in [
        ("n578564.jpg", Gqa(), "n578564"), ("2405722.JPG", Gqa(), "2405722"),
        ("CLEVR_val_000145.png", Clevr(), "CLEVR_val_000145"),
        ("val/CLEVR_val_000146.png", Clevr(), "CLEVR_val_000146"),
    ]:  # fmt: skip
        path = own.picture(tmp_path / name)
        assert Finder(tmp_path, collection)(image_id) == str(path)


def test_rows_without_their_image_are_problems(tmp_path):
    own.picture(tmp_path / "000000000086.jpg")
    dataset = datasets.vqa2(*own.vqa2(tmp_path), images=tmp_path)
    with pytest.warns(NnblipWarning, match="image 71 is not in"):
        assert [example.id for example in dataset] == ["86001"]
    with pytest.raises(InputError, match="image 71 is not in"):
        list(datasets.vqa2(*own.vqa2(tmp_path), images=tmp_path, strict=True))


def test_without_images_a_record_says_how_to_get_them(tmp_path):
    example = next(iter(datasets.palit(own.palit(tmp_path / "color.csv"))))
    with pytest.raises(InputError, match=r"000000000071\.jpg.*images=FOLDER"):
        load_image(example.image)


def test_real_images_are_found_and_read():
    dataset = datasets.open_dataset(f"gqa:{own.real('gqa/questions.json')}", own.SHARED / "gqa" / "images")
    assert all(min(load_image(example.image).size) > 100 for example in dataset)
    found = list(
        datasets.vqa2(*(own.real(f"vqa2/v2_{n}.json") for n in ("questions", "annotations")), own.SHARED / "coco")
    )
    assert len(found) == 15 and all(Path(e.image).stem.lstrip("0") == str(e.extra["image_id"]) for e in found)


# --- downloads --------------------------------------------------------------------------------


class Server(ThreadingHTTPServer):
    """Serves the bytes in `files` by path; counts what is asked."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.headers: dict[str, str] = {}
        self.moved: dict[str, str] = {}
        self.status = 200
        super().__init__(("127.0.0.1", 0), Handler)
        self.base = f"http://127.0.0.1:{self.server_address[1]}/mirror/"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        data = self.server.files.get(self.path)
        self.server.asked.append(self.path)
        if self.path in self.server.moved:
            self.send_response_only(302)
            self.send_header("Location", self.server.moved[self.path])
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response_only(404 if data is None else self.server.status)
        for name, value in {"Content-Length": str(len(data or b"")), **self.server.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data or b"")

    def log_message(self, *_: object) -> None:
        pass


TRAIN = "/mirror/train2014/COCO_train2014_000000000071.jpg"
VAL = "/mirror/val2014/COCO_val2014_000000000071.jpg"


@pytest.fixture
def server():
    found = Server()
    thread = threading.Thread(target=found.serve_forever, daemon=True)
    thread.start()
    yield found
    found.shutdown()
    found.server_close()


@pytest.fixture
def jpg(tmp_path):
    return own.picture(tmp_path / "source.jpg").read_bytes()


@pytest.fixture
def image(server, tmp_path):
    """Gives the image of COCO 71 as a record of COCO-QA has it, to be fetched from the test's server."""

    def of(**options):
        row = [("what is it", "dog", "71", "0")]
        own.cocoqa(tmp_path / "train", row)
        images = Download(base=server.base, cache=tmp_path / "cache", **options)
        return next(iter(datasets.cocoqa(tmp_path, images))).image

    return of


def test_an_image_is_fetched_once_and_only_when_needed(server, image, jpg, tmp_path):
    server.files[TRAIN] = jpg
    found = image()
    assert server.asked == []
    assert Path(found()).read_bytes() == jpg and Path(found()).is_relative_to(tmp_path / "cache")
    assert load_image(image()).size == (8, 8)
    assert server.asked == [TRAIN]
    assert found.filename.endswith("COCO_train2014_000000000071.jpg")


def test_other_addresses_are_tried_where_one_has_nothing(server, image, jpg):
    server.files[VAL] = jpg
    assert Path(image()()).read_bytes() == jpg
    assert server.asked == [TRAIN, VAL]
    image()()
    assert server.asked == [TRAIN, VAL]


def test_an_image_that_no_address_has_is_named(image, tmp_path):
    with pytest.raises(InputError, match=r"404.*COCO_train2014_000000000071\.jpg"):
        load_image(image())
    assert not list((tmp_path / "cache").rglob("*.jpg"))


@pytest.mark.slow
@pytest.mark.parametrize("damage", [lambda data: data[:-20], lambda data: b"", lambda data: data + b"x"])
def test_a_file_damaged_in_the_cache_is_fetched_again(damage, server, image, jpg):
    server.files[TRAIN] = jpg
    path = Path(image()())
    path.write_bytes(damage(jpg))
    assert Path(image()()).read_bytes() == jpg
    assert server.asked == [TRAIN, TRAIN]


def test_a_file_that_changed_on_the_server_is_refused(server, image, jpg, tmp_path):
    server.files[TRAIN] = jpg
    Path(image()()).unlink()
    server.files[TRAIN] = own.picture(tmp_path / "other.jpg", "blue").read_bytes()
    with pytest.raises(InputError, match="not the expected file"):
        image()()
    assert not list((tmp_path / "cache").rglob("*.jpg"))


def test_a_file_without_a_record_is_not_trusted(server, image, jpg, tmp_path):
    server.files[TRAIN] = jpg
    stray = own.picture(tmp_path / "cache" / "coco" / TRAIN.rsplit("/", 1)[1], "green")
    assert Path(image()()) == stray and stray.read_bytes() == jpg


@pytest.mark.slow
@pytest.mark.parametrize("form", ["mapping", "file", "index"])
def test_known_checksums_are_held_against_the_first_download(form, server, image, jpg, tmp_path):
    server.files[TRAIN] = jpg
    for digest in (hashlib.sha256(jpg).hexdigest(), "0" * 64):
        table = {"000000000071.jpg": digest}
        if form != "mapping":
            with (tmp_path / "index.csv").open("w", newline="") as file:
                csv.writer(file).writerows([["file", "sha256"], *table.items()])
            table = tmp_path / "index.csv" if form == "file" else str(tmp_path / "index.csv")
        if digest != "0" * 64:
            assert Path(image(checksums=table)()).read_bytes() == jpg
        else:
            with pytest.raises(InputError, match="not the expected file"):
                image(checksums=table)()


def test_the_shared_index_is_a_table_of_checksums():
    known = Download(checksums=own.real("coco/index.csv"))._known
    files = list((own.SHARED / "coco").glob("*.jpg"))
    assert len(files) == len(known) == 35
    assert {str(int(path.stem)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files} == known


@pytest.mark.parametrize("table", [{"a.jpg": "abc"}, {"a.jpg": None}, "none.csv"])
def test_checksums_that_are_none_are_refused(table):
    with pytest.raises(InputError, match="checksums"):
        Download(checksums=table)


def test_an_s3_etag_is_held_against_the_file(server, image, jpg, tmp_path):
    server.files[TRAIN] = jpg
    server.headers = {"Server": "AmazonS3", "ETag": '"' + "0" * 32 + '"'}
    with pytest.raises(InputError, match="ETag"):
        image()()
    assert not list((tmp_path / "cache").rglob("*.jpg*"))
    server.headers["ETag"] = f'"{hashlib.md5(jpg).hexdigest()}"'
    assert Path(image()()).read_bytes() == jpg


def test_a_page_instead_of_an_image_is_not_kept(server, image, tmp_path):
    server.files[TRAIN] = b"<html>please log in</html>"
    with pytest.raises(InputError, match="no image"):
        image()()
    assert not list((tmp_path / "cache").rglob("*.jpg*"))


@pytest.mark.parametrize("says", [True, False])
def test_more_than_an_image_has_is_not_taken(says, server, image, jpg, tmp_path, monkeypatch):
    """Whether the server says its size or not."""
    monkeypatch.setattr(download, "MOST_BYTES", 2**20)
    server.files[TRAIN] = jpg + bytes(2**26)
    if not says:
        server.headers = {"Content-Length": ""}
    with pytest.raises(InputError, match="it has more than 1 MiB"):
        image()()
    assert not list((tmp_path / "cache").rglob("*.jpg*"))
    monkeypatch.setattr(download, "MOST_BYTES", len(jpg))
    server.files[TRAIN] = jpg
    assert Path(image()()).read_bytes() == jpg


def test_what_is_packed_is_not_unpacked(server, image, jpg):
    """A few bytes could become as many as they like."""
    server.files[TRAIN], server.headers = gzip.compress(jpg), {"Content-Encoding": "gzip"}
    with pytest.raises(InputError, match="no image"):
        image()()


@pytest.mark.slow
@pytest.mark.parametrize("to", ["http://localhost:{port}/x.jpg", "//localhost/x.jpg", "ftp://127.0.0.1/x", "file:///x"])
def test_a_redirect_to_another_host_is_not_followed(to, server, image, jpg):
    server.moved[TRAIN], server.files["/x.jpg"] = to.format(port=server.server_address[1]), jpg
    with pytest.raises(InputError, match=r"the host sends us to .*, and only itself is followed"):
        image()()
    assert server.asked == [TRAIN]


def test_a_redirect_within_a_host_is_followed(server, image, jpg):
    server.moved = {TRAIN: "/a/b.jpg", "/a/b.jpg": "c.jpg"}
    server.files["/a/c.jpg"] = jpg
    assert Path(image()()).read_bytes() == jpg
    assert server.asked == [TRAIN, "/a/b.jpg", "/a/c.jpg"]


def test_redirects_end(server, image):
    server.moved[TRAIN] = TRAIN
    with pytest.raises(InputError, match="sends us on more than 5 times"):
        image()()
    assert server.asked == [TRAIN] * 6


def test_no_redirect_leaves_https():
    class Answer:
        is_redirect, headers = True, {"Location": "http://example.org/x.jpg"}

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    with pytest.MonkeyPatch.context() as patch, pytest.raises(ValueError, match="only itself is followed"):
        patch.setattr("requests.get", lambda *_, **__: Answer())
        download._receive("https://example.org/x.jpg", Path("none"), 1)


def test_an_answer_cut_short_is_not_kept(server, image, jpg, tmp_path):
    server.files[TRAIN], server.headers = jpg[:-50], {"Content-Length": str(len(jpg)), "Connection": "close"}
    with pytest.raises(InputError, match="cannot be fetched"):
        image(timeout=1)()
    assert not list((tmp_path / "cache").rglob("*.jpg*"))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (dict(base="file:///etc"), "base 'file:///etc': expected an address that begins with https://"),
        (dict(base=5), "base 5: expected an address"),
        (dict(timeout=0), "timeout 0: expected a number of seconds above 0"),
        (dict(timeout=float("nan")), "timeout nan"),
        (dict(timeout="5"), "timeout '5'"),
    ],
)
def test_settings_of_downloads_are_checked(options, says):
    with pytest.raises(InputError, match=says):
        Download(**options)


def test_a_server_in_trouble_is_told_of(server, image, jpg):
    server.files[TRAIN] = jpg
    server.status = 503
    with pytest.raises(InputError, match="503"):
        image()()
    server.shutdown()
    server.server_close()
    with pytest.raises(InputError, match="cannot be fetched"):
        image(timeout=1)()


def test_public_addresses():
    assert Coco(("train2014", "val2017")).addresses(71) == [
        "https://s3.amazonaws.com/images.cocodataset.org/train2014/COCO_train2014_000000000071.jpg",
        "https://s3.amazonaws.com/images.cocodataset.org/val2017/000000000071.jpg",
    ]
    every = [address for collection in (Coco(), Gqa()) for address in collection.addresses("2405722")]
    assert len(every) == 7 and all(address.startswith("https://") for address in every)
    assert len(Gqa().addresses("2405722")) == 2 and Gqa().addresses("n578564") == []


def test_what_cannot_be_downloaded_says_so(tmp_path):
    with pytest.raises(InputError, match="one archive"):
        datasets.clevr(own.clevr(tmp_path / "c.csv"), images="download")
    dataset = datasets.gqa(own.gqa(tmp_path / "g.json"), images="download")
    with pytest.warns(NnblipWarning, match="n578564 has no public address"):
        assert [example.id for example in dataset] == ["00126851"]
