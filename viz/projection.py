"""From many numbers a record to a place in the plane: principal components and UMAP. Knows no Django."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ecgportal.errors import InvalidInput

SMALLEST = 5
# Distances in more components than these are mostly noise, and UMAP is slow in them.
_COMPONENTS = 30
_NEIGHBOURS = 15


@dataclass(frozen=True)
class Projection:
    """pca, umap: float64 ``(records, 2)``, umap None where not asked for; explained: share of the variance of each axis."""

    pca: np.ndarray
    umap: np.ndarray | None
    explained: tuple[float, float]


def standardised(values: np.ndarray) -> np.ndarray:
    """Return columns with mean 0 and standard deviation 1; NaN becomes the column's median, what never varies goes.

    values: float ``(records, features)``.
    """
    values = np.asarray(values, np.float64)
    known = values[:, np.isfinite(values).any(axis=0)]
    filled = np.where(np.isfinite(known), known, np.nanmedian(known, axis=0) if known.shape[1] else 0.0)
    spread = filled.std(axis=0)
    varies = spread > 1e-9
    return (filled[:, varies] - filled[:, varies].mean(axis=0)) / spread[varies]


def project(values: np.ndarray, *, with_umap: bool, scale: bool, seed: int = 0) -> Projection:
    """Place records in the plane.

    values: float ``(records, features)``. scale: bring the features to one scale first, for features of different units.
    The same values give the same places. InvalidInput for fewer than five records or features that do not vary.
    """
    from sklearn.decomposition import PCA

    matrix = standardised(values) if scale else np.asarray(values, np.float64)
    if len(matrix) < SMALLEST:
        raise InvalidInput(
            f"A map takes at least {SMALLEST} records; {len(matrix)} can be placed.", code="too_few_records"
        )
    if not matrix.size or float(matrix.std(axis=0).max()) < 1e-9:
        raise InvalidInput("The records do not differ in what the map is made of.", code="nothing_varies")
    model = PCA(
        min(_COMPONENTS, *matrix.shape),
        svd_solver="full" if matrix.shape[1] <= 500 else "randomized",
        random_state=seed,
    )
    components = model.fit_transform(matrix)
    pca = np.zeros((len(matrix), 2))
    pca[:, : min(2, components.shape[1])] = components[:, :2]
    shares = [*model.explained_variance_ratio_[:2].tolist(), 0.0][:2]
    return Projection(pca, _umap(components, seed) if with_umap else None, (shares[0], shares[1]))


def _umap(components: np.ndarray, seed: int) -> np.ndarray:
    # Its import takes seconds.
    import umap

    neighbours = min(_NEIGHBOURS, len(components) - 1)
    # Below some tens of records the spectral start is not defined.
    start = "spectral" if len(components) > 50 else "random"
    reducer = umap.UMAP(n_components=2, n_neighbors=neighbours, init=start, random_state=seed, n_jobs=1)
    return np.asarray(reducer.fit_transform(components), np.float64)
