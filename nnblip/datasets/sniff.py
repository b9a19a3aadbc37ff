"""Which reader a file is for, told from how it begins, so that an error can name it."""

from __future__ import annotations

from pathlib import Path

#: So many bytes are looked at.
BEGINNING = 2**16
#: What a JSON file of a format names in its first entries, by the reader that takes it.
JSON = {
    "clevr": (b'"questions"', b'"image_filename"'),
    "gqa": (b'"imageId"', b'"question"'),
    "vqa2": (b'"question_id"', b'"image_id"'),
}
#: And what the first line of a CSV file does.
CSV = {"clevr": (b"questions_answers",), "palit": (b"image_id", b"question_count"), "table": (b"image", b"question")}
FORMS = {
    "clevr": "clevr:FILE",
    "cocoqa": "cocoqa:FOLDER",
    "gqa": "gqa:FILE.json",
    "palit": "palit:FILE.csv",
    "table": "table:FILE",
    "vqa2": "vqa2:QUESTIONS.json,ANNOTATIONS.json",
}


def reader_of(path: Path) -> str | None:
    """The name of the reader that the file or folder looks like one of; None if like none."""
    try:
        if path.is_dir():
            folders = (path, path / "train", path / "test")
            return "cocoqa" if any((folder / "img_ids.txt").is_file() for folder in folders) else None
        with path.open("rb") as file:
            start = file.read(BEGINNING)
    except (OSError, ValueError):
        return None
    if start.startswith(b"PAR1"):
        return "table"
    if start.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"{"):
        return next((name for name, signs in JSON.items() if all(sign in start for sign in signs)), None)
    header = start.partition(b"\n")[0].lower()
    return next((name for name, signs in CSV.items() if b"," in header and all(s in header for s in signs)), None)


def advice(path: Path, *but: str) -> str:
    """The end of an error: "; it looks like one for clevr:FILE", "" if like none, or one of `but`."""
    found = reader_of(path)
    return "" if found is None or found in but else f"; it looks like one for {FORMS[found]}"
