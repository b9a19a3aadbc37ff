"""Jobs: requests that nobody waits for. Each has a record on this machine, so any process can fetch its result."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import xarray as xr

from nnblip import demo
from nnblip.blip import upstream
from nnblip.blip.inputs import Encoded
from nnblip.errors import STUMBLES, NnblipError, RemoteError
from nnblip.examples import Example
from nnblip.model import BlipVQA
from nnblip.passes.measure import Asked
from nnblip.passes.settings import Settings
from nnblip.remote import client, errand
from nnblip.remote.faults import explained, faults, without_key
from nnblip.remote.trust import check_address
from nnblip.runs.envelope import opened
from nnblip.tracing.labels import example_coords, labelled, result_of

#: Seconds between two looks at a job, and how old it may be while the server knows nothing of it.
LOOK, UNKNOWN = 1.0, 60.0


@dataclass
class Job:
    """A `causal_trace` that a server works on, or has done.

    Attributes:
        id: the server's name for it; `nnblip.Job.load(id)` finds it again in another process.
        host: the server.
        model: hub id or folder of the model, None for the bundled one.
        revision: of the model.
        dtype: of its weights.
        submitted: when, UTC.
        questions: what was asked.
    """

    id: str
    host: str
    model: str | None
    revision: str | None
    dtype: str
    submitted: str
    questions: list[str]

    @classmethod
    def submit(cls, model: BlipVQA, examples: Sequence[Example], settings: Settings) -> Job:
        """Send a trace and do not wait. Raises `NnblipError`."""
        asked = [Asked.of(model, example, settings) for example in examples]
        backend = client.ask(model, "traces", settings.sent(), asked, blocking=False)
        if not backend.job_id:
            raise RemoteError(f"the server {backend.host} gave the job no id; send it with blocking=True")
        dtype = str(model.dtype).removeprefix("torch.")
        job = cls(
            backend.job_id, backend.host, None if model.name == demo.NAME else model.name, model.revision, dtype,
            datetime.now(UTC).isoformat(timespec="seconds"), [example.question for example in examples],
        )  # fmt: skip
        folder().mkdir(parents=True, exist_ok=True)
        folder().chmod(0o700)  # questions may be private, and who could write here could have `result` run code
        # what labels the numbers: no pixels, which the server has
        kept = [replace(example, image=example_coords(example)["image"], partner=None) for example in examples]
        encoded = [(one.encoded.tokens, one.encoded.key, one.encoded.question) for one in asked]
        for suffix, record in (("labels", upstream.dumps((settings, kept, encoded))), ("json", _plain(job))):
            path = _path(job.id, suffix)
            path.touch(0o600)
            path.write_bytes(record)
        return job

    @classmethod
    def load(cls, id: str) -> Job:
        """A job that this or another process submitted on this machine. Raises `RemoteError` if there is none."""
        path = _path(id, "json")
        try:
            return cls(**json.loads(path.read_text()))
        except FileNotFoundError:
            raise RemoteError(f"job {id!r} is not known on this machine; `nnblip jobs` lists those that are") from None
        except (OSError, ValueError, TypeError) as error:
            raise RemoteError(f"the record {path} of job {id!r} cannot be read ({error}); submit it again") from None

    @property
    def status(self) -> str:
        """RECEIVED, QUEUED, RUNNING, COMPLETED, ERROR, or UNKNOWN to the server. Raises `RemoteError`."""
        response = self._look()
        return "UNKNOWN" if response is None else str(response.status.value)

    def result(self, timeout: float = client.TIMEOUT) -> xr.DataTree:
        """Wait for the job and give the tree; it may be asked for again.

        Raises:
            RemoteError: for any fault of the server, a job that it has lost, and after `timeout` seconds.
        """
        began = time.monotonic()
        while (response := self._look()) is None or response.status != upstream.Status.COMPLETED:
            waited = time.monotonic() - began
            age = (datetime.now(UTC) - datetime.fromisoformat(self.submitted)).total_seconds()
            if response is not None and response.status == upstream.Status.ERROR:
                raise RemoteError(without_key(explained(response.description, self.host)))
            if response is None and age > UNKNOWN:
                raise RemoteError(
                    f"the server {self.host} does not know job {self.id}: it was started anew, or has lost its object"
                    " store, since; submit the job again"
                )
            if waited > timeout:
                raise RemoteError(
                    f"job {self.id} was not done after {timeout:.0f} s; it goes on: ask again with"
                    f" `nnblip jobs fetch {self.id}`"
                )
            time.sleep(LOOK)
        found = opened(self._download(response).get("found"))
        return self._tree(found)

    def _look(self) -> upstream.ResponseModel | None:
        import httpx

        check_address(self.host)
        key = {"ndif-api-key": upstream.CONFIG.API.APIKEY} if upstream.CONFIG.API.APIKEY else None
        with faults(self.host):
            answer = httpx.get(f"{self.host}/response/{self.id}", headers=key, timeout=client.CONNECT)
            if answer.status_code == 404:
                return None
            if answer.status_code >= 500:
                raise RemoteError(
                    f"the server {self.host} cannot look up job {self.id} (HTTP {answer.status_code}): its object store"
                    " is gone; where that has lost its contents, start the server again and submit the job again"
                )
            answer.raise_for_status()
            return upstream.ResponseModel.model_validate_json(answer.text)

    def _download(self, response: upstream.ResponseModel) -> dict[str, Any]:
        with faults(self.host):
            return client.downloaded(self.host, response.data) or {}

    def _tree(self, found: list[dict[str, Any]]) -> xr.DataTree:
        model = BlipVQA(self.model, revision=self.revision, dtype=self.dtype, remote=True)
        try:
            settings, examples, encoded = upstream.loads(_own(_path(self.id, "labels")).read_bytes())
        except STUMBLES as error:  # whatever a damaged or foreign pickle raises
            raise RemoteError(f"the record of job {self.id} cannot be read ({error}); submit it again") from None
        import torch

        nothing = torch.zeros(1, 3, 0, 0)
        traced = [
            labelled(
                model, example, settings,
                Encoded(nothing, torch.zeros(1, len(tokens), dtype=torch.long), tokens, key, question),
                errand.measured(one),
            )
            for example, (tokens, key, question), one in zip(examples, encoded, found, strict=True)
        ]  # fmt: skip
        return result_of(model, settings, traced)


def _plain(job: Job) -> bytes:
    return json.dumps(asdict(job), indent=1).encode()


def _own(path: Path) -> Path:
    """A record that nobody else can have written: it is a pickle, which may hold functions of the user's.

    Raises:
        RemoteError: if it, or its folder, is another's or may be written by others.
    """
    for one in (path.parent, path):
        found = one.stat()
        mine = not hasattr(os, "getuid") or found.st_uid == os.getuid()
        if not mine or found.st_mode & 0o022:
            raise RemoteError(
                f"{str(one)!r} is another user's, or others may write to it, so what it says is not run; delete it and"
                " submit the job again"
            )
    return path


def folder() -> Path:
    """Where records are kept."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "nnblip" / "jobs"


def known() -> list[Job]:
    """The jobs submitted on this machine, newest first."""
    found = []
    for path in folder().glob("*.json"):
        try:
            found.append(Job.load(path.stem))
        except NnblipError:
            continue
    return sorted(found, key=lambda job: job.submitted, reverse=True)


def _path(id: str, suffix: str) -> Path:
    if not re.fullmatch(r"[\w-]+", id):
        raise RemoteError(f"job {id!r}: expected an id as `nnblip jobs` lists them")
    return folder() / f"{id}.{suffix}"
