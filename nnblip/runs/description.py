"""What clean and corrupted runs say of themselves."""

from __future__ import annotations

from typing import Any

from nnblip.noise import described
from nnblip.shown import facts, number, plain
from nnblip.sites import describe

Facts = list[tuple[str, Any]]


def of_clean(run: Any) -> Facts:
    """Question, answer, numbers, tokens."""
    found: Facts = [("question", run.encoded.question)]
    if run._outcome is None:
        return [*found, ("numbers", "after its `with` block")]
    found.append(("answer", run.answer))
    if run.predicted != run.answer:
        found.append(("says itself", run.predicted or "nothing"))
    found += [("probability", number(run.probability)), ("log_probability", f"{run.log_probability:.4g} nats")]
    found.append(("tokens", " ".join(f"{place}:{token}" for place, token in enumerate(run.tokens))))
    return found + _places(run)


def of_corrupted(run: Any) -> Facts:
    """What was done, and what is left of the answer."""
    found: Facts = [("question", run.encoded.question), ("answer", run.clean.answer)]
    if run._outcome is not None:
        found += [
            ("probability", f"{number(run.probability)} (clean {number(run.clean.probability)})"),
            ("says now", run.answer or "nothing"),
        ]
    else:
        found.append(("numbers", "after its `with` block"))
    found += [
        ("noise", f"{described(run._noise)} at {run._noise_at}"),
        ("nu", f"{run._nu:g}"),
        ("seed", f"{run._seed}, draw {run._draw}"),
        ("restored", _restored(run)),
    ]
    if run._frozen:
        found.append(("frozen", ", ".join(" ".join(one) for one in sorted(run._frozen))))
    return found + _places(run)


def _restored(run: Any) -> str:
    if run._edge is not None:
        return str(run._edge)
    return str(describe(run._cell)["cell"]) if run._cell else "nothing named"


def _places(run: Any) -> Facts:
    cut = [("knock_out", "; ".join(map(str, run.knock_out)))] if run.knock_out else []
    return cut + ([("ran", "on a server, where its states are")] if run.away else [])


def as_text(run: Any, found: Facts) -> str:
    return plain(type(run).__name__, found)


def as_html(run: Any, found: Facts) -> str:
    return facts(type(run).__name__, found)
