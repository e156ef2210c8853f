"""What others have published with the settings of our recipes: mAP in percent, by tIoU; `None` is the average."""

from __future__ import annotations

from dataclasses import dataclass

_RE2TAL = "OpenTAD, configs/re2tal/README.md"
_ADATAD = "OpenTAD, configs/adatad/README.md"
_ACTIONFORMER = "OpenTAD, configs/actionformer/README.md"
_TRIDET = "TriDet's README.md"
_THUMOS = (0.3, 0.4, 0.5, 0.6, 0.7, None)
_ACTIVITYNET = (0.5, 0.75, 0.95, None)
_EPIC = (0.1, 0.2, 0.3, 0.4, 0.5, None)
_DENSE = (0.2, 0.5, 0.7, None)


@dataclass(frozen=True)
class PublishedFigures:
    """The row of a published table.

    Attributes:
        source: Where it stands.
        figures: mAP in percent, by tIoU; that of `None` is the mean over the thresholds of the benchmark.
    """

    source: str
    figures: dict[float | None, float]


def _row(source: str, thresholds: tuple[float | None, ...], *figures: float) -> PublishedFigures:
    return PublishedFigures(source, dict(zip(thresholds, figures, strict=True)))


PUBLISHED = {
    "thumos14_swin_tiny": _row(_RE2TAL, _THUMOS, 82.12, 78.09, 70.06, 59.81, 44.35, 66.89),
    "thumos14_swin_tiny_plain": _row(_RE2TAL, _THUMOS, 82.83, 78.70, 71.33, 58.79, 43.85, 67.10),
    "thumos14_slowfast_101": _row(_RE2TAL, _THUMOS, 84.16, 80.26, 74.27, 62.66, 49.60, 70.19),
    "thumos14_slowfast_101_plain": _row(_RE2TAL, _THUMOS, 83.99, 80.38, 75.29, 62.13, 48.08, 69.97),
    "activitynet_swin_tiny": _row(_RE2TAL, _ACTIVITYNET, 55.08, 37.05, 8.29, 36.47),
    "activitynet_swin_tiny_plain": _row(_RE2TAL, _ACTIVITYNET, 55.34, 37.68, 9.12, 36.89),
    "activitynet_slowfast_101": _row(_RE2TAL, _ACTIVITYNET, 55.81, 38.49, 9.36, 37.55),
    "activitynet_slowfast_101_plain": _row(_RE2TAL, _ACTIVITYNET, 55.48, 38.32, 9.34, 37.35),
    "thumos14_adatad_small": _row(_ADATAD, _THUMOS, 83.90, 79.01, 72.38, 61.57, 48.27, 69.03),
    "thumos14_adatad_base": _row(_ADATAD, _THUMOS, 85.95, 81.86, 75.02, 63.29, 49.56, 71.14),
    "thumos14_adatad_large": _row(_ADATAD, _THUMOS, 87.17, 83.58, 76.88, 66.81, 53.13, 73.51),
    "activitynet_adatad_small": _row(_ADATAD, _ACTIVITYNET, 56.23, 38.90, 8.88, 37.81),
    "activitynet_adatad_base": _row(_ADATAD, _ACTIVITYNET, 56.72, 39.44, 9.54, 38.35),
    "activitynet_adatad_large": _row(_ADATAD, _ACTIVITYNET, 57.73, 40.53, 9.96, 39.21),
    "features_actionformer": _row(
        "actionformer_release, README.md, I3D features of THUMOS-14", _THUMOS, 82.13, 77.80, 70.95, 59.40, 43.87, 66.83
    ),
    "features_tridet": _row(_TRIDET, _THUMOS, 83.62, 80.07, 72.94, 62.35, 47.35, 69.27),
    "multithumos_actionformer": _row(_ACTIONFORMER, _DENSE, 60.18, 45.01, 24.56, 39.19),
    "charades_actionformer": _row(_ACTIONFORMER, _DENSE, 31.33, 23.07, 13.60, 20.60),
    "epic_verbs_actionformer": _row(_ACTIONFORMER, _EPIC, 27.68, 26.79, 25.62, 24.06, 20.48, 24.93),
    "epic_nouns_actionformer": _row(_ACTIONFORMER, _EPIC, 25.78, 24.73, 22.83, 20.84, 17.45, 22.33),
    "epic_verbs_tridet": _row(_TRIDET, _EPIC, 28.72, 27.57, 26.19, 24.26, 20.83, 25.51),
    "epic_nouns_tridet": _row(_TRIDET, _EPIC, 27.38, 26.28, 24.60, 22.23, 18.28, 23.76),
    "ego4d_actionformer": _row(_ACTIONFORMER, _EPIC, 20.90, 18.12, 15.81, 14.25, 12.21, 16.26),
    "hacs_actionformer": _row(_ACTIONFORMER, _ACTIVITYNET, 56.18, 37.97, 11.05, 37.71),
    "hacs_tridet": _row(_TRIDET, _ACTIVITYNET, 56.90, 39.33, 11.24, 38.69),
    "activitynet_actionformer": _row(_ACTIONFORMER, _ACTIVITYNET, 55.08, 38.27, 8.91, 37.07),
    "activitynet_tridet": _row(_TRIDET, _ACTIVITYNET, 54.71, 38.01, 8.35, 36.77),
    "fineaction_actionformer": _row(_ACTIONFORMER, _ACTIVITYNET, 29.44, 19.46, 5.06, 19.32),
}
"""By the name of the recipe."""
