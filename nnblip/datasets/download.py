"""Images from their public addresses, kept in a cache and verified each time they are used.

pooch keeps and checks the files. The SHA-256 of the first download is written beside the file; a
file that no longer has it is fetched again. No host publishes checksums of single images, so that
the first download is as good as its line (https) and its host; `Download.checksums` are your own.
"""

from __future__ import annotations

import csv
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

from PIL import Image

from nnblip.errors import STUMBLES, InputError, told
from nnblip.examples import open_image

#: Bytes of an image that are taken at most; those of COCO and Visual Genome have far less than 5 MB.
MOST_BYTES = 32 * 2**20
#: How often a host may send us on, to itself.
MOST_REDIRECTS = 5


@dataclass(frozen=True)
class Download:
    """How images are fetched: `images=Download(...)`; `images="download"` takes the defaults.

    Attributes:
        base: another server with the same paths, such as "https://mirror.example.org/coco".
        cache: folder of the fetched files; pooch's own for "nnblip" if None.
        checksums: SHA-256 of files known beforehand: a mapping from file names, or a CSV file
            with columns `file` and `sha256`. Files are matched by name, or by the number in it.
        timeout: seconds without an answer after which a server counts as gone.
    """

    base: str | None = None
    cache: str | Path | None = None
    checksums: str | Path | Mapping[str, str] | None = None
    timeout: float = 30.0
    _known: dict[str, str] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.base is not None and not str(self.base).startswith(("https://", "http://")):
            raise InputError(f"base {told(self.base)}: expected an address that begins with https:// (or http://)")
        if isinstance(self.timeout, bool) or not isinstance(self.timeout, int | float) or not 0 < self.timeout < 1e6:
            raise InputError(f"timeout {told(self.timeout)}: expected a number of seconds above 0")
        if not isinstance(self.checksums, str | Path | Mapping | None):
            raise InputError(f"checksums {told(self.checksums)}: expected a mapping, or a CSV file")
        given = self.checksums
        rows = given if isinstance(given, Mapping) else _read_checksums(Path(given)) if given is not None else {}
        for name, digest in rows.items():
            if not re.fullmatch("[0-9a-f]{64}", str(digest)):
                raise InputError(f"checksums: {digest!r:.80} of {name!r} is no SHA-256 (64 digits of 0-9 and a-f)")
            self._known[_key(name)] = digest

    def remote(self, addresses: list[str], collection: str, host: str) -> Remote:
        """A file at the first of these addresses, which begin with `host`, that has it."""
        if self.base is not None:
            addresses = [self.base.rstrip("/") + address.removeprefix(host) for address in addresses]
        return Remote(tuple(addresses), collection, self)

    @property
    def folder(self) -> Path:
        """Of the cache."""
        import pooch

        return Path(self.cache) if self.cache is not None else Path(pooch.os_cache("nnblip"))


@dataclass(frozen=True)
class Remote:
    """A file that is fetched when this is called; its path is what the call gives."""

    addresses: tuple[str, ...]
    collection: str
    download: Download = field(compare=False)

    @property
    def filename(self) -> str:
        """How the image is called in a result."""
        return self.addresses[0]

    def __call__(self) -> str:
        """The path of the verified file.

        Raises:
            InputError: if no address has it, or what it sends is not the file that is expected.
        """
        folder = self.download.folder / self.collection
        # what is there already spares the question to the other addresses
        in_order = sorted(self.addresses, key=lambda address: not (folder / _file(address)).exists())
        missing = []
        for address in in_order:
            path = _fetch(address, folder, self.download)
            if path is not None:
                return path
            missing.append(address)
        raise InputError(f"no such image (404): {', '.join(missing)}")


def _fetch(address: str, folder: Path, download: Download) -> str | None:
    """The path of the file in the cache, verified; None if the server does not have it."""
    import pooch
    import requests
    from urllib3.exceptions import HTTPError

    path = folder / _file(address)
    record = path.with_name(path.name + ".sha256")
    recorded = record.read_text().strip() if record.exists() else None
    expected = download._known.get(_key(path.name)) or recorded
    if expected is None and path.exists():
        path.unlink()  # a file without a record was left by something else: it cannot be verified
    logging.getLogger("pooch").setLevel(logging.WARNING)  # or it tells of each file
    try:
        found = pooch.retrieve(
            address, expected, path.name, folder, downloader=_Checked(record, expected, download.timeout)
        )
    except requests.HTTPError as error:
        if error.response is not None and error.response.status_code == 404:
            return None
        raise InputError(f"{address}: the server says {error}") from error
    except ValueError as error:  # pooch's checksum error, and ours
        raise InputError(f"{address}: what the server sends is not the expected file ({_flat(error)})") from error
    except (requests.RequestException, HTTPError, OSError) as error:
        raise InputError(f"{address}: cannot be fetched ({_flat(error)})") from error
    return str(found)


class _Checked:
    """A downloader of pooch that looks at what came before pooch takes it into the cache."""

    def __init__(self, record: Path, expected: str | None, timeout: float) -> None:
        self.record = record
        self.expected = expected
        self.timeout = timeout

    def __call__(self, url: str, output_file: Any, pooch_: Any) -> None:
        import pooch

        headers = _receive(url, Path(output_file), self.timeout)
        # S3's ETag of a file that was stored in one piece is its MD5
        tag = headers.get("ETag", "").strip('"') if headers.get("Server") == "AmazonS3" else ""
        if re.fullmatch("[0-9a-f]{32}", tag) and pooch.file_hash(str(output_file), alg="md5") != tag:
            raise ValueError(f"its MD5 is not the server's ETag {tag}")
        try:
            with open_image(output_file, "it") as image:
                image.verify()
        except (Image.DecompressionBombError, *STUMBLES) as error:  # Pillow's readers raise whatever they stumble on
            raise ValueError(f"no image: {error}") from error
        digest = pooch.file_hash(str(output_file))
        if self.expected in (None, digest):
            self.record.write_text(digest + "\n")


def _receive(url: str, into: Path, timeout: float) -> Mapping[str, str]:
    """Write what an address gives to a file. Returns the headers of the answer.

    Raises:
        ValueError: if it is larger than an image, or the host sends us to another one, or off https.
    """
    import requests

    asked = urlsplit(url)
    for _ in range(MOST_REDIRECTS + 1):
        plain = {"Accept-Encoding": "identity"}
        with requests.get(url, stream=True, timeout=timeout, allow_redirects=False, headers=plain) as answer:
            if answer.is_redirect:
                url = urljoin(url, answer.headers["Location"])
                to = urlsplit(url)
                if to.hostname != asked.hostname or to.scheme not in {asked.scheme, "https"}:
                    raise ValueError(f"the host sends us to {told(url)}, and only itself is followed")
                continue
            answer.raise_for_status()
            size = 0
            with into.open("wb") as file:
                for part in answer.raw.stream(2**16, decode_content=False):
                    size += len(part)
                    if size > MOST_BYTES:
                        raise ValueError(f"it has more than {MOST_BYTES / 2**20:.0f} MiB")
                    file.write(part)
            return answer.headers
    raise ValueError(f"the host sends us on more than {MOST_REDIRECTS} times")


def _read_checksums(path: Path) -> dict[str, str]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return {row["file"]: row["sha256"] for row in csv.DictReader(file)}
    except (OSError, KeyError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"checksums {str(path)!r}: expected a CSV file with columns file and sha256") from error


def _key(name: str) -> str:
    """COCO's files have one number under several names."""
    digits = re.search(r"(\d+)\.\w+$", name)
    return str(int(digits[1])) if digits else name


def _file(address: str) -> str:
    return address.rsplit("/", 1)[1]


def _flat(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
