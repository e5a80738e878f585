"""Generator, style encoder and discriminator: sizes, wiring, what depends on what. Random weights."""

from itertools import pairwise

import pytest
import torch
from model_tools import inputs, random_labels, shaken, tiny
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from capricious.errors import ConfigError
from capricious.faces.attributes import VECTOR_SIZE, Attributes
from capricious.faces.label_map import CLASSES
from capricious.model.conditioning import AGE_FEATURES, age_features
from capricious.model.discriminator import Discriminator, DiscriminatorConfig
from capricious.model.encoder import EncoderConfig, StyleEncoder, sample
from capricious.model.generator import CONDITIONINGS, RESOLUTIONS, Generator, GeneratorConfig


def size(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def test_paper_generator_has_90_7_million_parameters():
    config = GeneratorConfig(conditioning="concat")
    with torch.device("meta"):
        found = size(Generator(config, spectral=False))
    assert round(found / 1e6, 1) == 90.7

    # The same by hand, from docs/model.md.
    k, h = len(CLASSES), 128

    def spade(c: int) -> int:
        return (9 * k * h + h) + 2 * (9 * h * c + c)

    def block(ci: int, co: int) -> int:
        cm = min(ci, co)
        main = spade(ci) + 9 * ci * cm + spade(cm) + 9 * cm * co
        return main + (spade(ci) + ci * co if ci != co else 0)

    chain = [(1024, 1024)] * 3 + [(1024, 256), (256, 128), (128, 64)]
    seed = (128 + VECTOR_SIZE + 1) * 128 + (128 + 1) * 1024 * 64
    assert found == seed + sum(block(*pair) for pair in chain) + 64 + 64 * 3 * 9 + 3


def test_sixty_percent_of_the_arithmetic_depends_on_the_label_map_alone():
    # The figures of docs/model.md: 89.8 GFLOP per picture, of which 59.7 % is modulation.
    with torch.device("meta"):
        generator = Generator(GeneratorConfig(conditioning="concat"), spectral=False)
        with FlopCounterMode(display=False) as counter:
            modulations = generator.modulations(torch.zeros(1, 128, 128, dtype=torch.uint8))
        modulation = counter.get_total_flops()
        with FlopCounterMode(display=False) as counter:
            generator.synthesize(modulations, torch.zeros(1, 128), torch.zeros(1, VECTOR_SIZE))
    total = modulation + counter.get_total_flops()
    assert round(total / 1e9, 1) == 89.8
    assert round(100 * modulation / total, 1) == 59.7


def test_paper_encoder_and_discriminator_have_their_sizes():
    with torch.device("meta"):
        encoder = StyleEncoder(EncoderConfig(), spectral=False)
    discriminator = Discriminator(DiscriminatorConfig())
    chain = [3, 64, 128, 256, 512, 512]
    convolutions = sum(9 * a * b for a, b in pairwise(chain))
    assert size(encoder) == convolutions + 2 * (4 * 4 * 512 + 1) * 128
    patch = 16 * (10 * 64 + 64 * 128 + 128 * 256 + 256 * 512 + 512) + 64 + 1
    assert size(discriminator) == 2 * patch


@pytest.mark.parametrize("resolution", RESOLUTIONS)
def test_every_resolution_builds_and_runs(resolution):
    config = GeneratorConfig(resolution, width=1, hidden=1, latent=2)
    generator = Generator(config).eval()
    encoder = StyleEncoder(EncoderConfig(resolution, width=1, latent=2)).eval()
    assert config.blocks()[-1][1:] == (1, resolution)
    with torch.no_grad():
        picture = generator(*inputs(1, config))
        mean, log_variance = encoder(picture)
    assert picture.shape == (1, 3, resolution, resolution)
    assert mean.shape == log_variance.shape == (1, 2)


def test_channels_at_128_are_the_papers():
    channels = [(1024, 1024, 8), (1024, 1024, 16), (1024, 1024, 16)]
    assert GeneratorConfig().blocks() == [*channels, (1024, 256, 32), (256, 128, 64), (128, 64, 128)]


def test_pictures_stay_between_minus_one_and_one():
    config = tiny()
    picture = shaken(Generator(config))(*inputs(2, config))
    assert 0.5 < picture.abs().max() <= 1.0


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_every_parameter_learns(conditioning, norm):
    config = tiny(conditioning, norm)
    generator = shaken(Generator(config))  # the attribute affines start at 0 and would hide the embedding
    labels, latent, attributes = inputs(3, config)
    generator(labels, latent, attributes).sub(0.3).square().mean().backward()
    dead = [n for n, p in generator.named_parameters() if p.grad is None or p.grad.abs().max() < 1e-9]
    assert dead == []


@pytest.mark.parametrize("projection", [False, True])
def test_every_parameter_of_encoder_and_discriminator_learns(projection):
    config = tiny()
    labels, _, attributes = inputs(2, config)
    image = torch.rand(2, 3, 64, 64) * 2 - 1
    encoder = shaken(StyleEncoder(EncoderConfig(64, 2, 8)))
    discriminator = shaken(Discriminator(DiscriminatorConfig(4, projection=projection)))
    mean, log_variance = encoder(image)
    (mean.square().sum() + log_variance.exp().sum()).backward()
    sum(scale[-1].square().sum() for scale in discriminator(labels, image, attributes)).backward()
    for network in (encoder, discriminator):
        dead = [n for n, p in network.named_parameters() if p.grad is None or p.grad.abs().max() < 1e-9]
        assert dead == []


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_forward_equals_synthesis_from_modulations(conditioning):
    config = tiny(conditioning)
    generator = shaken(Generator(config)).eval()
    labels, latent, attributes = inputs(2, config)
    expected = generator(labels, latent, attributes)
    assert torch.equal(generator.synthesize(generator.modulations(labels), latent, attributes), expected)


def test_modulations_of_one_map_serve_a_whole_sweep():
    config = tiny()
    generator = shaken(Generator(config)).eval()
    labels, latent, attributes = inputs(5, config)
    one = labels[:1]
    modulations = generator.modulations(one)
    assert len(modulations) == len(generator.spades) == 12
    swept = generator.synthesize(modulations, latent, attributes)
    for i in range(5):
        alone = generator(one, latent[i : i + 1], attributes[i : i + 1])
        torch.testing.assert_close(swept[i : i + 1], alone, atol=1e-5, rtol=1e-5)


def test_modulation_reads_each_resolution_of_the_label_map():
    config = tiny()
    generator = shaken(Generator(config)).eval()
    for i, (gamma, beta) in enumerate(generator.modulations(random_labels(1, 64))):
        channels = generator.spades[i].modulation.out_channels // 2
        assert gamma.shape == beta.shape and gamma.shape[:2] == (1, channels)
    sides = [gamma.shape[-1] for gamma, _ in generator.modulations(random_labels(1, 64))]
    assert sides == [8] * 2 + [16] * 4 + [32] * 3 + [64] * 3


def effect_of_age(generator: Generator, config: GeneratorConfig) -> float:
    labels, latent, _ = inputs(1, config)
    young, old = (torch.from_numpy(Attributes(age=age).vector())[None] for age in (20.0, 70.0))
    with torch.no_grad():
        return (generator(labels, latent, young) - generator(labels, latent, old)).abs().max().item()


def test_concat_reads_attributes_only_in_the_first_layer_and_layered_everywhere():
    for conditioning in CONDITIONINGS:
        config = tiny(conditioning)
        generator = shaken(Generator(config)).eval()
        assert effect_of_age(generator, config) > 1e-3
        generator.seed_1.weight.data[:, config.latent :] = 0.0
        if conditioning == "concat":
            assert effect_of_age(generator, config) == 0.0
        else:
            assert effect_of_age(generator, config) > 1e-3


def test_age_features_tell_ages_apart_keep_order_and_vanish_when_unknown():
    ages = torch.stack([torch.from_numpy(Attributes(age=float(a)).vector()) for a in range(101)])
    features = age_features(ages)
    assert features.shape == (101, AGE_FEATURES)
    distance = torch.cdist(features, features) + 10 * torch.eye(101)
    assert distance.min() > 0.1
    assert (features[1:, 10:] >= features[:-1, 10:]).all()  # the thermometer only rises
    assert not age_features(torch.zeros(1, VECTOR_SIZE)).any()


def test_sample_follows_mean_and_variance_and_its_generator():
    mean, log_variance = torch.full((20_000, 2), 3.0), torch.full((20_000, 2), 2.0).log()
    z = sample(mean, log_variance, torch.Generator().manual_seed(5))
    assert z.mean().item() == pytest.approx(3.0, abs=0.05)
    assert z.var().item() == pytest.approx(2.0, rel=0.05)
    assert torch.equal(z, sample(mean, log_variance, torch.Generator().manual_seed(5)))


def test_discriminator_judges_at_two_scales():
    discriminator = Discriminator(DiscriminatorConfig(width=4))
    image = torch.rand(2, 3, 128, 128) * 2 - 1
    features = discriminator(random_labels(2, 128), image)
    shapes = [[tuple(f.shape[1:]) for f in scale] for scale in features]
    assert shapes == [
        [(4, 65, 65), (8, 33, 33), (16, 17, 17), (32, 18, 18), (1, 19, 19)],
        [(4, 33, 33), (8, 17, 17), (16, 9, 9), (32, 10, 10), (1, 11, 11)],
    ]


def test_discriminator_sees_label_map_and_attributes():
    image = torch.rand(1, 3, 64, 64) * 2 - 1
    one, other = random_labels(1, 64, 1), random_labels(1, 64, 2)
    young, old = (torch.from_numpy(Attributes(age=age).vector())[None] for age in (20.0, 70.0))

    def logits(network: Discriminator, labels: torch.Tensor, attributes: torch.Tensor) -> torch.Tensor:
        return network(labels, image, attributes)[0][-1]

    plain = shaken(Discriminator(DiscriminatorConfig(4))).eval()
    projecting = shaken(Discriminator(DiscriminatorConfig(4, projection=True))).eval()
    assert not torch.equal(logits(plain, one, young), logits(plain, other, young))
    assert torch.equal(logits(plain, one, young), logits(plain, one, old))
    assert not torch.equal(logits(projecting, one, young), logits(projecting, one, old))
    with pytest.raises(ValueError, match="needs attributes"):
        projecting(one, image)


def test_bad_configs_and_inputs_name_the_field():
    for make, field in (
        (lambda: GeneratorConfig(resolution=100), "GeneratorConfig.resolution"),
        (lambda: GeneratorConfig(conditioning="none"), "GeneratorConfig.conditioning"),
        (lambda: GeneratorConfig(norm="layer"), "GeneratorConfig.norm"),
        (lambda: GeneratorConfig(width=0), "GeneratorConfig.width"),
        (lambda: GeneratorConfig(attributes=3), "GeneratorConfig.attributes"),
        (lambda: EncoderConfig(resolution=32), "EncoderConfig.resolution"),
        (lambda: DiscriminatorConfig(scales=0), "DiscriminatorConfig.scales"),
    ):
        with pytest.raises(ConfigError, match=field):
            make()
    config = tiny()
    labels, latent, attributes = inputs(1, config)
    with pytest.raises(ValueError, match="label_map must be B×64×64"):
        Generator(config)(labels[:, :32], latent, attributes)
    with pytest.raises(ValueError, match="class indices"):
        Generator(config)(labels.float(), latent, attributes)
    with pytest.raises(ValueError, match="image must be"):
        StyleEncoder(EncoderConfig(64, 2, 8))(torch.zeros(1, 3, 32, 32))
