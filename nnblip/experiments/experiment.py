"""What an experiment is: a question, the claims that it is about, and what runs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnblip.effects.intervals import MIN_EXAMPLES
from nnblip.errors import SettingError, one_of, told, whole
from nnblip.experiments.options import Options
from nnblip.noise import NOISES
from nnblip.passes.settings import Settings

#: What a data set may have to bring.
NEEDS = ("types", "images", "boxes")


@dataclass(frozen=True)
class Defaults:
    """What an experiment runs with where nothing else is asked: minutes on the small model, without a network."""

    dataset: tuple[str, ...] = ("scenes", "easy-vqa")
    n: int = 16
    nu: tuple[float, ...] = (3.0,)
    draws: int = 10
    noise: tuple[str, ...] = (Settings.noise.name,)


@dataclass(frozen=True)
class Experiment:
    """One question that runs. A file of `experiments/` has one, called EXPERIMENT.

    Attributes:
        name: that of its file.
        question: in one line.
        claims: what it says something about, each with a short name.
        run: gets a `Run` and does all of it: chooses questions, traces, draws, says of each claim whether it holds.
        figure: the name of the figure that shows the answer.
        defaults: what it runs with.
        needs: some of `NEEDS`, what each data set must bring.
        sets: of how many data sets at least.
        least: of how many questions at least, of each group, there is a test.
        ladder: whether it takes several ν, and several noises; else it is one of each.
        planted: whether its models and examples are planted: it takes no model and no data set.
    """

    name: str
    question: str
    claims: Mapping[str, str]
    run: Callable[[Any], None]
    figure: str
    defaults: Defaults = field(default_factory=Defaults)
    needs: tuple[str, ...] = ()
    sets: int = 1
    least: int = MIN_EXAMPLES
    ladder: bool = False
    planted: bool = False

    def options(self, out: str | Path | None = None, **given: Any) -> Options:
        """What is asked, with the experiment's own defaults for what is None.

        Raises:
            SettingError: for what cannot be used, before anything is read.
        """
        asked = {name: value for name, value in given.items() if value is not None and value != ()}
        if self.planted:
            for name in ("model", "dataset", "images", "nu", "draws", "noise", "types", "by"):
                if name in asked:
                    raise SettingError(f"{name} {told(asked[name])}: {self.name} brings its models and examples itself")
        options = Options(out=Path(out or Path("nnblip-experiments", self.name)), **{**vars(self.defaults), **asked})
        for name in self.needs:
            one_of(name, NEEDS, "needs")
        if options.n < self.least:
            raise SettingError(
                f"n {options.n}: expected at least {self.least} questions of each group, of fewer there is no test"
            )
        whole(options.draws, "draws", 1)
        for noise in () if self.planted else options.noise:
            one_of(noise, [name for name in NOISES if name != "swap"], "noise")  # which needs partners
        # refused here, before a data set is read and a model loaded
        Settings.of(nu=options.nu, draws=options.draws, noise=options.noise[0], seed=options.seed)
        for name in () if self.ladder else ("nu", "noise"):
            if len(getattr(options, name)) > 1:
                raise SettingError(f"{name} {', '.join(map(str, getattr(options, name)))}: {self.name} takes one")
        if len(options.dataset) < self.sets:
            raise SettingError(
                f"dataset {' '.join(options.dataset)}: {self.name} compares data sets, expected at least {self.sets}"
            )
        _ = options.groups
        return options
