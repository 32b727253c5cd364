"""Whether an aligned scan lies where the model is: its pairs, its points, each link of its own."""

from dataclasses import dataclass

import mujoco
import numpy as np
from jaxtyping import Float, Int
from scipy.spatial import cKDTree

from scenes.contract.errors import InputError
from splat_render.assets.similarity import Similarity, fit_similarity

# Clicks may be 2 cm off in each direction; a swapped pair of ours was 230 to 645 mm off.
PAIR_LIMIT = 0.05  # [m] root mean square of the pairs, fitted to each other alone
DRIFT_LIMIT = 0.1  # [m] of the pairs from where the surfaces fit best; right ones: 15 to 38 mm
# Right scans of ours have 0.95 to 0.99, scans in a wrong place 0.53.
INLIER_LIMIT = 0.8  # share
_REACH, _INLIER = 0.1, 0.03  # [m] points further from the model are a room's; those that lie on it
# A link turned by 0.1 rad in a joint next to it is 2.1 times as far off as the others.
_FACTOR, _LEAST_OFFSET = 1.8, 0.005  # of the other links' median; [m]
_COVER_LIMIT = 0.85  # share of a link's surface with scan points within _COVERED of it
_COVERED = 0.02  # [m]
_FEW = 20  # points say nothing about a median


@dataclass(frozen=True, kw_only=True)
class LinkFit:
    """How the scan lies on one body.

    Attributes:
        offset: median distance of its scan points from its surface [m]; nan where there are few.
        cover: share of its surface with scan points within 2 cm.
        suspect: it is far off compared with the others, or not covered.
    """

    offset: float
    cover: float
    suspect: bool


@dataclass(frozen=True, kw_only=True)
class FitQuality:
    """How well a scan lies on its model.

    Attributes:
        pair_rms: of the point pairs under the similarity that fits them best [m].
        inliers: share of the scan points within 10 cm of the model that lie within 3 cm.
        links: by body name, all but the world.
    """

    pair_rms: float
    inliers: float
    links: dict[str, LinkFit]

    @property
    def suspects(self) -> tuple[str, ...]:
        """Names of the bodies that are not where the model has them."""
        return tuple(name for name, link in self.links.items() if link.suspect)


def pair_rms(pairs: Float[np.ndarray, "P 6"]) -> float:
    """Return how well the pairs fit each other [m]; InputError beyond `PAIR_LIMIT`."""
    motion = fit_similarity(pairs[:, :3], pairs[:, 3:])
    errors = np.linalg.norm(motion.apply(pairs[:, :3]) - pairs[:, 3:], axis=1)
    rms = float(np.sqrt(np.mean(errors**2)))
    if rms > PAIR_LIMIT:
        each = ", ".join(f"{1e3 * error:.0f}" for error in errors)
        raise InputError(
            f"the pairs do not fit each other: {1e3 * rms:.0f} mm rms (each: {each} mm), allowed: "
            f"{1e3 * PAIR_LIMIT:.0f} mm; are two of them swapped, or one clicked in another place?"
        )
    return rms


def check_drift(pairs: Float[np.ndarray, "P 6"], motion: Similarity) -> None:
    """Raise InputError where a scan was registered far from where the pairs say."""
    drift = np.linalg.norm(motion.apply(pairs[:, :3]) - pairs[:, 3:], axis=1)
    rms = float(np.sqrt(np.mean(drift**2)))
    if rms > DRIFT_LIMIT:
        raise InputError(
            f"the scan fits the model best {1e3 * rms:.0f} mm away from the pairs, allowed: "
            f"{1e3 * DRIFT_LIMIT:.0f} mm; check the pairs (scan first, then world in metres) and "
            "the joint angles"
        )


def check_fit(
    points: Float[np.ndarray, "N 3"],
    surface: Float[np.ndarray, "M 3"],
    body_id: Int[np.ndarray, " M"],
    model: mujoco.MjModel,
    *,
    rms: float,
) -> FitQuality:
    """Return how well scan points lie on a model; InputError where most of them do not.

    Args:
        points: of the scan, in the world [m].
        surface, body_id: points on the model, in the world [m].
        model: names the bodies.
        rms: of the pairs [m].
    """
    distance, nearest = cKDTree(surface).query(points, distance_upper_bound=_REACH)
    near = np.isfinite(distance)
    inliers = float(np.mean(distance[near] <= _INLIER)) if near.any() else 0.0
    if inliers < INLIER_LIMIT:
        raise InputError(
            f"{inliers:.0%} of the scan points near the model lie on it, needed: "
            f"{INLIER_LIMIT:.0%} (pairs: {1e3 * rms:.1f} mm rms); check the pairs, the joint "
            "angles and the model"
        )
    gap = cKDTree(points).query(surface)[0]
    owner = body_id[np.minimum(nearest, len(surface) - 1)]
    on_it = near & (distance <= _INLIER)
    offsets = {
        body: float(np.median(distance[on_it & (owner == body)]))
        if np.sum(on_it & (owner == body)) >= _FEW
        else np.nan
        for body in np.unique(body_id)
        if body > 0
    }
    known = [offset for offset in offsets.values() if not np.isnan(offset)]
    limit = max(_FACTOR * float(np.median(known)), _LEAST_OFFSET) if known else np.inf
    links = {}
    for body, offset in offsets.items():
        cover = float(np.mean(gap[body_id == body] <= _COVERED))
        suspect = bool(offset > limit or cover < _COVER_LIMIT)
        links[model.body(int(body)).name] = LinkFit(offset=offset, cover=cover, suspect=suspect)
    return FitQuality(pair_rms=rms, inliers=inliers, links=links)
