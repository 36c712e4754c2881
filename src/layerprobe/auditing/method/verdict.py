"""Whether the evidence is good enough to act upon: "repair" or "keep your labels"."""

from typing import NamedTuple

import pandas as pd

from layerprobe.auditing.method.controls import FREQUENT
from layerprobe.auditing.pipeline import Decided

__all__ = ["Verdict", "judge"]

LOW_NOISE = 0.05  # a noise rate whose interval begins below this is no reason to change labels


class Verdict(NamedTuple):
    """What to do.

    Attributes
    ----------
    verdict : str
        "repair" or "keep".
    why : str
    finding : str
        One sentence.
    """

    verdict: str
    why: str
    finding: str


def judge(decided: Decided, wrong_after: float, wrong_before: float) -> Verdict:
    """Recommend to repair only what is better in every way that was measured.

    Parameters
    ----------
    decided : Decided
    wrong_after, wrong_before : float
        Expected shares of wrong labels after and before the confident repair.
    """
    noise, gain, controls = decided.noise, decided.gain, decided.controls
    reasons = []
    if decided.head_fit <= 1.2 * decided.frequent:
        reasons.append(
            f"the head predicts {decided.head_fit:.1%} of its own training labels, about as many as have "
            f"the most frequent one ({decided.frequent:.1%}): is the network trained, and do class_names "
            "stand in the order of its outputs?"
        )
    if noise.low < LOW_NOISE:
        reasons.append(
            f"the estimated noise is {noise.rate:.1%} ({noise.low:.1%} to {noise.high:.1%}), too low to be "
            "sure of"
        )
    if not controls.set_index("control")["beaten"].get(FREQUENT, True):
        reasons.append(
            "the features do not tell the classes apart: the decoder is no better than the most frequent "
            "label, and what it says of the noise means nothing"
        )
    if gain is not None and gain.low <= 0:
        reasons.append(f"the decoder's gain over the head is {_points(gain)}, not beyond its interval")
    reasons += [
        f"{name!r} is about as good as the decoder ({value:.3f} against {decided.criterion.value:.3f})"
        for name, value in _unbeaten(controls)
    ]
    if not wrong_after < wrong_before:
        reasons.append("no label would become likelier to be right")
    first = decided.decoder.members[0].candidate
    others = len(decided.decoder.members) - 1
    where = f"{first.probe} on {first.layer}" + (f" (and {others} more probes)" if others else "")
    about = f"about {noise.rate:.0%} of the labels are wrong ({noise.low:.0%} to {noise.high:.0%})"
    if reasons:
        why = "; ".join(reasons)
        finding = f"Keep your labels: {reasons[0]}. By the decoder ({where}) {about}."
        return Verdict("keep", f"{why[0].upper()}{why[1:]}.", finding)
    better = "" if gain is None else f", {_points(gain)} against the head"
    return Verdict(
        "repair",
        f"The decoder agrees with the label on {decided.criterion} of the rows that judge{better}, and "
        f"beats every control. By its probabilities the confident repair leaves {wrong_after:.1%} of the "
        f"labels wrong, where {wrong_before:.1%} are without.",
        f"The layers know better than the head: {where} reads best{better}, and {about}.",
    )


def _unbeaten(controls: pd.DataFrame) -> list[tuple[str, float]]:
    """Return the controls that the decoder does not beat; None is no answer."""
    others = controls.iloc[:-1]
    others = others[~others["control"].isin(["head", FREQUENT]) & (others["beaten"] == False)]  # noqa: E712
    return list(zip(others["control"], others["criterion"].astype(float), strict=True))


def _points(gain: tuple[float, float, float]) -> str:
    value, low, high = (100 * number for number in gain)
    return f"{value:+.1f} points ({low:+.1f} to {high:+.1f})"
