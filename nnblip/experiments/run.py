"""One run of an experiment: what it is given, what it keeps, and the summary at its end."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr

from nnblip.datasets.records import Dataset, lot
from nnblip.errors import STUMBLES, NnblipError, ResultError, SettingError, one_of
from nnblip.examples import Example
from nnblip.experiments import choose as choosing
from nnblip.experiments.choose import Asked, Group
from nnblip.experiments.claims import Verdict, sentence
from nnblip.experiments.experiment import Experiment
from nnblip.experiments.options import Options
from nnblip.experiments.record import ASKED, Record, write
from nnblip.experiments.sources import Source, opened, parts_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from nnblip.model import BlipVQA

#: Results that are smaller, in bytes, are held in memory.
IN_MEMORY = 2**31
#: What is written at the end, and the verdicts for other programs.
SUMMARY, CLAIMS = "summary.md", "claims.json"


class Run:
    """What an experiment's `run` gets.

    Attributes:
        experiment: what runs.
        options: what was asked.
        sources: its data sets.
        out: the folder.
        record: what is known of the folder.
    """

    def __init__(
        self, experiment: Experiment, options: Options, sources: list[Source], model: BlipVQA | None, record: Record
    ) -> None:
        self.experiment, self.options, self.sources = experiment, options, sources
        self._model, self.out, self.record = model, options.out, record
        self.verdicts: dict[str, Verdict] = {}
        self._parts: list[str] = []
        self._diagnosed: dict[str, list[str]] = {}

    @property
    def model(self) -> BlipVQA:
        """The model. An experiment on planted ones has none."""
        assert self._model is not None, f"{self.experiment.name} brings its models itself"
        return self._model

    @property
    def source(self) -> Source:
        """The only data set. Raises `SettingError` if there are several."""
        if len(self.sources) > 1:
            raise SettingError(
                f"dataset {' '.join(self.options.dataset)}: {self.experiment.name} takes one; run it for each, with an"
                " --out of its own"
            )
        return self.sources[0]

    # --- questions ---------------------------------------------------------------------

    def choose(
        self, *, by_type: bool = True, keep: Callable[[Example], bool] | None = None, in_order: bool = False,
        aligned: bool = False, apart: bool = True, groups: int = 1,
    ) -> list[Group]:  # fmt: skip
        """Of each type of each data set, or of each data set, `options.n` questions that the model answers correctly.

        What it answers is kept, so that a run that is stopped goes on. What was passed over stands in the summary.

        Args:
            by_type: groups are types; else data sets.
            keep: takes those for which it is true.
            in_order: in the order of the data sets; by default in one that the seed draws.
            aligned, apart: see `nnblip.experiments.choose`.
            groups: so many must have enough questions for a test (`least` of the experiment).

        Returns:
            All groups that have a question, those with too few for a test too: they are shown, and nothing is said
            of them.

        Raises:
            NnblipError: if none is answered correctly, or there are too few for a test.
        """
        parts = parts_of(self.sources, self.options, by_type)
        every = {part.name: [e for e in part.examples if keep is None or keep(e)] for part in parts}
        if not in_order:
            every = {name: sorted(es, key=lambda e: lot(self.options.seed, e.id)) for name, es in every.items()}
        asked = Asked(self.model, self.out / ASKED)
        found = choosing.choose(asked, every, self.options.n, aligned=aligned, apart=apart)
        for group, part in zip(found, parts, strict=True):
            group.source = part.source
        choosing.require(found, self.experiment.least, 8, groups)
        broken = {source.name: len(source.dataset.problems) for source in self.sources}
        said = [f"{source.name} by {source.by}" for source in self.sources if source.by != "question_type" and by_type]
        told = f"Parted otherwise than by type: {', '.join(said)}.\n\n" if said else ""
        once = "\n\nEach image is asked about once, so that the examples are independent." if apart else ""
        self.section("Questions", told + choosing.passed_over(found, broken) + once)
        return [group for group in found if group.examples]

    # --- stages ------------------------------------------------------------------------

    def sweep(self, name: str, examples: Iterable[Example], **settings: Any) -> xr.DataTree:
        """`nnblip.sweep` into NAME.zarr with what was asked, and is diagnosed in the summary.

        `settings` are further arguments, or others than the asked ones.
        """
        from nnblip.sweeps.sweep import sweep

        o = self.options
        noise = settings.pop("noise", o.noise[0])
        given = {"nu": o.nu, "draws": o.draws, "noise": noise, "seed": o.seed, **settings}
        held = Dataset.of(name, list(examples))
        tree = sweep(self.model, held, self.out / f"{name}.zarr", **given)
        if tree.nbytes < IN_MEMORY:  # read once, and not anew by everything that looks at it
            tree = tree.load()
        self.diagnose(name, tree)
        return tree

    def stage(self, name: str, make: Callable[[], xr.DataTree | xr.Dataset]) -> xr.DataTree:
        """What `make` gives, stored as NAME.zarr; if that is there, the same command made it, and `make` is not called.

        Raises:
            ResultError: if what is there was made by other code, of nnblip or of the experiment.
        """
        from nnblip.results import save

        path = self.out / f"{name}.zarr"
        if path.exists():
            try:
                stored = xr.open_datatree(path, engine="zarr")
            except STUMBLES as error:
                raise ResultError(f"{str(path)!r} is damaged ({error}): remove it, and it is made anew") from error
            if stored.attrs.get("stage_code") != self._code:
                raise ResultError(
                    f"{str(path)!r} was made by other code of nnblip or of the experiment: choose another folder with"
                    " --out"
                )
            return stored
        made = make()
        tree = made if isinstance(made, xr.DataTree) else xr.DataTree(made)
        tree.attrs["stage_code"] = self._code
        path.parent.mkdir(parents=True, exist_ok=True)
        save(tree, path)
        return tree

    def keep(self, name: str, data: xr.DataTree | xr.Dataset) -> None:
        """Store what was computed of stages, as NAME.zarr."""
        from nnblip.results import save

        save(data if isinstance(data, xr.DataTree) else xr.DataTree(data), self.out / f"{name}.zarr", overwrite=True)

    # --- what is said ------------------------------------------------------------------

    def figure(self, name: str, figure: Figure) -> None:
        """Store a figure as NAME.png."""
        figure.savefig(self.out / f"{name}.png", dpi=200)

    def section(self, title: str, text: str) -> None:
        """A part of the summary."""
        self._parts.append(f"## {title}\n\n{text.strip()}")

    def diagnose(self, name: str, tree: xr.DataTree) -> None:
        """Have the summary say what speaks against the numbers of a result (`nnblip.diagnose`)."""
        from nnblip.diagnosis import diagnose

        self._diagnosed[name] = [str(finding) for finding in diagnose(tree)]

    def claim(self, name: str, verdict: Verdict) -> None:
        """Say of a claim of the experiment whether it holds."""
        one_of(name, self.experiment.claims, "claim")
        self.verdicts[name] = verdict

    @cached_property
    def _code(self) -> str:
        """Hash of what the code of a stage means: of a trace, of what experiments stand on, and of this one's file."""
        from nnblip.blip.weights import digest
        from nnblip.sweeps.fingerprint import meaning, source_hash

        files = [*sorted(Path(__file__).parent.glob("*.py")), Path(inspect.getsourcefile(self.experiment.run) or "")]
        return f"{source_hash()} {digest(meaning(file.read_text(encoding='utf-8')) for file in files)}"

    @cached_property
    def settings(self) -> str:
        """What was asked, in one line."""
        o = self.options
        if self.experiment.planted:
            return f"{o.n} planted models of each kind, from seed {o.seed}."
        nu = ", ".join(f"{one:g}" for one in o.nu)
        return (
            f"{self.model.name} ({o.dtype}) on {', '.join(o.dataset)}; noise {', '.join(o.noise)}, ν = {nu},"
            f" {o.draws} draw{'s' * (o.draws > 1)}, seed {o.seed}; up to {o.n} questions of each group."
        )

    def summary(self) -> str:
        """All of it, with the diagnostics, and the claims at its end."""
        missing = [name for name in self.experiment.claims if name not in self.verdicts]
        if missing:
            raise NnblipError(f"{self.experiment.name} says nothing of its claims {', '.join(missing)}")
        found = [f"- {name}: {one}" for name, findings in self._diagnosed.items() for one in findings]
        against = "\n".join(found) or "Nothing that `nnblip.diagnose` knows of."
        claims = "\n".join(sentence(said, self.verdicts[name]) for name, said in self.experiment.claims.items())
        parts = [
            f"# {self.experiment.question}",
            f"{self.settings} Made by `nnblip experiment {self.experiment.name}`.",
            *self._parts,
            f"## What speaks against these numbers\n\n{against}",
            f"## What is established\n\n{claims}",
        ]
        return "\n\n".join(parts) + "\n"


def perform(experiment: Experiment, options: Options) -> Run:
    """Run an experiment from its data sets to its summary; in a folder of the same command it goes on.

    Raises:
        NnblipError: for anything that makes it impossible, before something long is computed: then nothing is changed.
    """
    from nnblip.sweeps.fingerprint import fingerprint, source_hash

    record = Record(experiment.name, options)
    sources = [] if experiment.planted else opened(options, experiment.needs)
    model = None if experiment.planted else options.load()
    record.made_by({"code": source_hash()} if model is None else fingerprint(model))
    run = Run(experiment, options, sources, model, record)
    with record.begun():
        experiment.run(run)
        text = run.summary()
        write(run.out / SUMMARY, text)
        write(run.out / CLAIMS, json.dumps({name: v._asdict() for name, v in run.verdicts.items()}, indent=1) + "\n")
    return run


def files(out: Path) -> list[Path]:
    """What a finished run wrote for people."""
    return [out / SUMMARY, *sorted(out.glob("*.png")), *sorted(out.glob("*.zarr"))]
