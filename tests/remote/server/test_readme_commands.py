"""docs/server.md: its snippets, its commands in a shell, and the notebook; what installs is scripts/test-remote's."""

import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import xarray as xr
from helpers.servers import READY_SECONDS, ROOT, processes, server_python

import nnblip
from nnblip.command.trace import SCENE
from nnblip.errors import RemoteError
from nnblip.remote.server.stack import PORT, check_free, free_port


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "docs" / "server.md").read_text(), re.DOTALL)


def lines() -> list[str]:
    (block,) = blocks("sh")
    return block.splitlines()


def notebook() -> str:
    """The cells of the notebook about servers, as a program."""
    return "\n".join(
        re.findall(
            r"```{code-cell} ipython3\n(.*?)```", (ROOT / "docs" / "notebooks" / "remote.md").read_text(), re.DOTALL
        )
    )


def test_from_nothing_to_a_remote_map(local, tmp_path):
    install, export, serve, trace = lines()
    assert install.startswith("pip install '.[serve]'") and f":{PORT}" in export
    port = PORT
    try:
        check_free(port)
    except RemoteError:  # someone else's server is there: another port, else as it is written
        port = free_port()
        serve, export = serve.replace("serve", f"serve --port {port}", 1), export.replace(f":{PORT}", f":{port}")
    path = f"{Path(server_python()).parent}{os.pathsep}{os.environ['PATH']}"
    log = tmp_path / "log"
    (tmp_path / "notebook.py").write_text(notebook())
    shutil.copy(nnblip.demo.HERE / "scenes" / "scene10.png", tmp_path / "photo.jpg")
    (tmp_path / "readme.py").write_text("\n".join(["import nnblip", *blocks("py")]))
    with log.open("w") as said:
        shell = subprocess.Popen(
            ["bash"], stdin=subprocess.PIPE, stdout=said, stderr=said, text=True, cwd=tmp_path,
            env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip

    def type_and_wait(line: str, until: str, seconds: float) -> None:
        shell.stdin.write(line + "\n")
        shell.stdin.flush()
        deadline = time.monotonic() + seconds
        while until not in log.read_text():
            assert time.monotonic() < deadline and shell.poll() is None, log.read_text()
            time.sleep(0.2)

    try:
        type_and_wait(f"{export}\necho exported: $?", "exported: 0", 60)
        type_and_wait(serve, "Ready after", READY_SECONDS)
        type_and_wait(f"{trace}\necho traced: $?", "traced:", 600)
        type_and_wait("python readme.py\necho ran: $?", "ran:", 600)
        type_and_wait("python notebook.py\necho noted: $?", "noted:", 600)
    finally:
        type_and_wait("kill $!; wait $!; echo stopped: $?", "stopped:", 300)
        shell.communicate("exit\n", timeout=300)
    assert "noted: 0" in log.read_text() and "not run" not in log.read_text(), log.read_text()
    assert "ran: 0" in log.read_text(), log.read_text()
    assert "traced: 0" in log.read_text() and "stopped: 0" in log.read_text(), log.read_text()
    assert not processes(port)
    there = xr.open_datatree(tmp_path / "nnblip-out" / "result.zarr", engine="zarr")
    here = nnblip.causal_trace(local, nnblip.demo.examples()[SCENE], nu=[1, 3, 5, 10], draws=10, progress=False)
    for name in ("clean", "corrupted", "question_encoder", "answer_decoder"):
        np.testing.assert_allclose(there[name].probability, here[name].probability, atol=5e-5)
