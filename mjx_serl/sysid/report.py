"""The fit as one page that opens without a network: tables, and measured beside simulated."""

import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from mjx_serl.sysid.arm_model import ArmModel
from mjx_serl.sysid.motion import Motion
from mjx_serl.sysid.parameters import candidates
from mjx_serl.sysid.prediction import SETTLE, Predictor
from scenes.contract.files import write_atomically
from scenes.contract.robot_fit import FittedValue, RobotFit

UNITS = {
    "kp": "N m/rad",
    "kd": "N m s/rad",
    "armature": "kg m²",
    "damping": "N m s/rad",
    "friction_loss": "N m",
    "payload": "kg",
    "delay": "s",
}
# So much of a motion is drawn large enough to see a delay [s], and so many points of the whole.
_WINDOW, _POINTS = 4.0, 600
_MEASURED, _UNTUNED, _TUNED = "#222222", "#c2410c", "#1d4ed8"

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 70em; padding: 0 1em; }
table { border-collapse: collapse; margin: 0.5em 0 1.5em; }
td, th { padding: 0.2em 0.9em 0.2em 0; text-align: right; border-bottom: 1px solid #ddd; }
td:first-child, th:first-child, td.words, th.words { text-align: left; }
tr.held td { color: #888; }
svg { width: 100%; height: auto; }
"""


def write_report(
    path: Path,
    fit: RobotFit,
    arm: ArmModel,
    motion: Motion,
    values: Sequence[Mapping[str, float]],
) -> None:
    """Write the page.

    Args:
        path: of the .html file.
        fit: what it reports.
        arm: that was simulated.
        motion: that is drawn, one that was not fitted.
        values: untuned and tuned parameters by name.
    """
    predicted = Predictor(arm, candidates(arm.robot), [motion]).predict(values)[0]
    parts = [
        f"<h1>System identification of {html.escape(fit.robot)}</h1>",
        _summary(fit),
        "<h2>Parameters</h2>",
        _parameters(fit.values),
        f"<h2>Measured and simulated: {html.escape(motion.name)}, not part of the fit</h2>",
        _drawn(motion, predicted, arm.robot.joint_names),
        "<h2>Recordings</h2>",
        _table(("folder", "sha256"), [(r.name, r.sha256) for r in fit.recordings], words=2),
        _table(("version of", ""), list(fit.versions.items()), words=2),
    ]
    head = f"<title>{html.escape(fit.robot)} fit</title><style>{_STYLE}</style>"
    page = f'<!doctype html><html lang="en"><head><meta charset="utf-8">{head}</head><body>'
    write_atomically(path, page + "\n".join(parts) + "</body></html>\n")


def _summary(fit: RobotFit) -> str:
    rows = []
    for name, errors in (("fitted", fit.fitted), ("validation", fit.validation)):
        position = f"{errors.position_before * 1e3:.3g}", f"{errors.position_after * 1e3:.3g}"
        velocity = f"{errors.velocity_before * 1e3:.3g}", f"{errors.velocity_after * 1e3:.3g}"
        rows.append((name, f"{errors.seconds:.1f}", *position, *velocity))
    head = ("motions", "s", "position before [mrad]", "after", "velocity before [mrad/s]", "after")
    return (
        f"<p>Physics step {fit.sim_dt:g} s. Errors are root mean squares of simulated minus "
        "measured; motions of validation were not fitted.</p>" + _table(head, rows)
    )


def _parameters(values: Sequence[FittedValue]) -> str:
    rows, classes = [], []
    for v in values:
        name = f"{v.field} {v.joint}".strip()
        held = v.held and f"held: {v.held}"
        numbers = (f"{v.nominal:.4g}", f"{v.value:.4g}", f"{v.low:.4g} to {v.high:.4g}")
        rows.append((name, *numbers, UNITS[v.field], held))
        classes.append("held" if v.held else "")
    head = ("parameter", "nominal", "found", "95 % interval", "unit", "")
    return (
        "<p>The interval of a value that is held is what is assumed of its error; it is part of "
        "the intervals of those that were fitted.</p>"
    ) + _table(head, rows, classes=classes)


def _table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    words: int = 1,
    classes: Sequence[str] = (),
) -> str:
    def row(cells: Sequence[str], tag: str, kind: str) -> str:
        inside = "".join(
            f"<{tag}{' class=words' if i < words else ''}>{html.escape(str(cell))}</{tag}>"
            for i, cell in enumerate(cells)
        )
        return f'<tr class="{kind}">{inside}</tr>'

    kinds = classes or [""] * len(rows)
    body = "".join(row(cells, "td", kind) for cells, kind in zip(rows, kinds, strict=True))
    return f"<table>{row(head, 'th', '')}{body}</table>"


def _drawn(motion: Motion, predicted: np.ndarray, joints: Sequence[str]) -> str:
    """A row per joint: a few seconds of the position, and the errors of all of the motion."""
    figure = Figure(figsize=(12, 2.0 * len(joints)), layout="constrained")
    axes = figure.subplots(len(joints), 2, squeeze=False, sharex="col")
    t = motion.t - motion.t[0]
    window = (t >= SETTLE) & (t <= SETTLE + _WINDOW)
    thinned = slice(None, None, max(1, len(t) // _POINTS))
    looks = (("untuned", _UNTUNED), ("tuned", _TUNED))
    for j, name in enumerate(joints):
        left, right = axes[j]
        left.plot(t[window], motion.q[window, j], color=_MEASURED, label="measured", lw=2.5)
        for (label, colour), rows in zip(looks, predicted, strict=True):
            left.plot(t[window], rows[window, j], color=colour, label=label, lw=1.2)
            error = 1e3 * (rows[:, j] - motion.q[:, j])
            right.plot(t[thinned], error[thinned], color=colour, label=label, lw=0.9)
        left.set_ylabel(f"{name} [rad]")
        right.set_ylabel("error [mrad]")
    axes[0, 0].legend(loc="upper right", fontsize=8)
    axes[0, 1].legend(loc="upper right", fontsize=8)
    for axis in axes[-1]:
        axis.set_xlabel("time [s]")
    page = io.StringIO()
    FigureCanvasSVG(figure).print_svg(page, metadata={"Date": None, "Creator": None})
    return page.getvalue()[page.getvalue().index("<svg") :]
