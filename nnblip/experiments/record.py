"""Whose folder is this? A run goes on in its own, and in no other's."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from nnblip.errors import NnblipError, ResultError, reason, told
from nnblip.experiments.options import Options

FILE, ASKED = "experiment.json", "asked.jsonl"


class Record:
    """What is written of a run in its folder: what was asked, by which model and code, and how long it took.

    Nothing is written before `begun`.

    Raises:
        ResultError: if the folder is something else, or of another command.
    """

    def __init__(self, name: str, options: Options) -> None:
        self.out, self.file = options.out, options.out / FILE
        self._known: dict[str, Any] = {"experiment": name, "asked": options.deciding, "seconds": 0.0, "cpu": 0.0}
        self._stored = self._read()
        if self._stored:
            self._same("asked", {"experiment": name, **options.deciding}, "choose another folder with --out")
            self._known |= {name: self._stored.get(name, 0.0) for name in ("seconds", "cpu")}

    def _read(self) -> dict[str, Any]:
        if not self.out.exists():
            return {}
        if not self.out.is_dir():
            raise ResultError(f"{str(self.out)!r} is a file: expected a folder, see --out")
        if not self.file.exists():
            if any(self.out.iterdir()):
                raise ResultError(f"folder {str(self.out)!r} holds something else: choose a new one with --out")
            return {}
        try:
            stored = json.loads(self.file.read_text())
            stored["asked"] = {"experiment": stored["experiment"], **stored["asked"]}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ResultError(f"{str(self.file)!r} is damaged ({error}): choose a new folder with --out") from error
        return dict(stored)

    def _same(self, part: str, now: Mapping[str, Any], remedy: str) -> None:
        before = self._stored.get(part, {})
        for name in dict.fromkeys([*before, *now]):
            if before.get(name) != now.get(name):
                raise ResultError(
                    f"folder {str(self.out)!r} was made with {name} {told(before.get(name))},"
                    f" asked is {told(now.get(name))}: {remedy}"
                )

    def made_by(self, fingerprint: Mapping[str, str]) -> None:
        """By this model and code. Raises `ResultError` if the folder was made by another."""
        if "made by" in self._stored:
            self._same("made by", fingerprint, "numbers of both do not mix; choose another folder with --out")
        self._known["made by"] = dict(fingerprint)

    @property
    def seconds(self) -> float:
        """How long all calls took together, up to now."""
        return float(self._known["seconds"])

    @property
    def cpu(self) -> float:
        """How many seconds of processors that took, which other programs of the machine do not change."""
        return float(self._known["cpu"])

    @contextmanager
    def begun(self) -> Iterator[None]:
        """The folder is there and known as this run's; if it is refused before anything is traced, nothing stays."""
        new, began, worked = not self._stored, time.perf_counter(), time.process_time()
        above = [one for one in self.out.absolute().parents if not one.exists()]
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            self._write()
            yield
        except NnblipError:
            if new and {one.name for one in self.out.iterdir()} <= {FILE, ASKED}:
                for name in (FILE, ASKED):
                    (self.out / name).unlink(missing_ok=True)
                for one in (self.out, *above):
                    with suppress(OSError):
                        one.rmdir()
            raise
        except OSError as error:
            raise ResultError(f"folder {str(self.out)!r} cannot be written: {reason(error)}") from error
        finally:
            self._known["seconds"] += time.perf_counter() - began
            self._known["cpu"] += time.process_time() - worked
            if self.file.exists():
                with suppress(OSError):
                    self._write()

    def _write(self) -> None:
        write(self.file, json.dumps(self._known, indent=1) + "\n")


def write(path: Path, text: str) -> None:
    """A text in the place of what is there, never half of one."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text)
    partial.replace(path)
