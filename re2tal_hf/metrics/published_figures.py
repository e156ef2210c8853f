"""What others have published with the settings of our recipes: mAP in percent, by tIoU; `None` is the average."""

from __future__ import annotations

from dataclasses import dataclass

_RE2TAL = "OpenTAD, configs/re2tal/README.md"
_ADATAD = "OpenTAD, configs/adatad/README.md"
_THUMOS = (0.3, 0.4, 0.5, 0.6, 0.7, None)
_ACTIVITYNET = (0.5, 0.75, 0.95, None)


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
        "actionformer_release, README.md, I3D features of THUMOS-14", _THUMOS, 75.49, 72.48, 65.60, 56.56, 42.72, 62.57
    ),
    "features_tridet": _row(
        "TriDet's README.md, I3D features of THUMOS-14", _THUMOS, 83.62, 80.07, 72.94, 62.35, 47.35, 69.27
    ),
}
"""By the name of the recipe."""
