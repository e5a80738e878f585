"""From the averaged weights to a network that can be released: batch-norm statistics of its own."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import nn

from capricious.training import augment
from capricious.training.augment import Draws
from capricious.training.batches import Batch
from capricious.training.networks import Autoencoder


@torch.no_grad()
def with_own_statistics(autoencoder: Autoencoder, batches: Iterable[tuple[Batch, Draws]]) -> Autoencoder:
    """Returns a copy whose batch-norm statistics are measured with its own weights.

    The statistics that training keeps belong to the fast network, at weights that were left long ago or are not
    reached yet; averaged weights yield other activations. So the copy renders `batches` as in use (style code μ,
    no noise), at the sitters' own ages and at the requested ones, and keeps the mean of their statistics
    (as for the averaged weights of Izmailov et al., "Averaging Weights Leads to Wider Optima", 2018, §3.2).

    Args:
        autoencoder: in eval mode. Frozen, or without batch norm, the copy is as it was.
        batches: training data, with the draws for each.
    """
    network = copy.deepcopy(autoencoder)
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if network.frozen or not norms:
        return network
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over all batches
        norm.train()  # these alone: in training mode, spectral norm would go on, too
    for batch, draws in batches:
        mean, _ = network.encoder(batch.image)
        modulations = network.generator.modulations(batch.label_map)
        for attributes in (batch.attributes, augment.request(batch.attributes, draws)):
            network.generator.synthesize(modulations, mean, attributes)
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum
        norm.eval()
    return network
