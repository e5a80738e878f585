"""What a training run can be told, with the reason where a value is refused."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from capricious.errors import ConfigError
from capricious.faces.attributes import MAX_AGE
from capricious.model.bundle import MAX_STRENGTH
from capricious.model.discriminator import DiscriminatorConfig
from capricious.model.encoder import EncoderConfig
from capricious.model.generator import GeneratorConfig
from capricious.model.losses import LossWeights
from capricious.training.balance import Balance


@dataclass(frozen=True)
class NetworkConfig:
    """Shapes of the three networks; what they share is said once."""

    width: int = 64
    """Channels of the generator at full resolution; the paper's 64 has 90.7 M parameters at 128 px."""
    hidden: int = 128
    """Channels between label map and modulation in every SPADE layer."""
    latent: int = 128
    """Size of the style code."""
    conditioning: Literal["layered", "concat"] = "layered"
    """Attributes at every layer, or at the first one only as in the paper."""
    norm: Literal["batch", "instance"] = "batch"
    """Norm inside SPADE; batch norm is synchronised between GPUs."""
    encoder_width: int = 64
    """Channels of the style encoder's first layer."""
    discriminator_width: int = 64
    """Channels of the discriminator's first layer."""
    scales: int = 2
    """Number of discriminators, each at half the resolution of the one before."""
    projection: bool = False
    """The discriminator also judges whether picture and attributes fit."""
    refinement_width: int = 0
    """Channels, at full resolution, of the network that puts changes back into portraits (model/refinement.py); 0: the
    difference of the renders is put back as it is."""


@dataclass(frozen=True)
class SwapConfig:
    """The second forward of a step, at other ages than the sitters' own (docs/model.md): it makes age bite."""

    probability: float = 2 / 3
    """Share of steps that have it; 0 switches it off."""
    min_age: float = 10.0
    """Lowest requested age, years. Ages are drawn uniformly, whatever the data holds."""
    max_age: float = 80.0
    """Highest requested age, years."""
    gender_probability: float = 0.25
    """Share of the requests that ask for the other gender, too."""
    identity: float = 5.0
    """Weight of the L1 between the swapped picture and the sitter, both at a quarter of the resolution."""
    identity_years: float = 30.0
    """Years of difference at which that weight has fallen to a half; it goes on falling beyond."""
    identity_features: float = 0.0
    """Weight of the same between deep features of the perceptual network (relu4_3 of VGG16, relu5_1 of VGG19), as
    IPCGAN does with AlexNet's: they know a face where the L1 sees only light and colour. Costs one more VGG pass."""
    likeness: float = 0.0
    """Weight of 1 − the cosine between OpenFace's embeddings of swapped picture and sitter (model/openface.py), which
    counts as `identity_years` says. It lets everything change by which nobody is known."""
    estimator_views: bool = False
    """Show the estimator a moved, blurred, re-exposed view of each swapped picture, so that it cannot be pleased by
    texture (training/estimator_view.py)."""
    estimator: str | None = None
    """A hardened estimator (training/estimator.py) that judges beside face-api's, with the same weight. Two are harder
    to please with a tint or a pattern than either."""
    dlib_estimator: bool = False
    """dlib's networks, which also label pictures without a label, judge, too (model/dlib_estimator.py)."""
    calibrated: bool = False
    """A swapped picture shall look as old to each estimator as real people of the requested age do, and not as old as
    requested: estimators read the old too young (training/age_curve.py). Needs portraits whose age is a label."""
    put_back: bool = False
    """Judge each swapped picture as it will be delivered: its change against the reconstruction, added to the portrait
    (model/put_back.py). The likeness is then the portrait's own, and all losses go to the change."""
    strength: float | None = None
    """With put_back: judge the change as it will be delivered with `--composite.strength` of this, eyes, mouth and the
    colour of skin held (model/put_back.py, exaggerate). The bundle asks for that strength, too. None: once, and nothing
    held."""

    def __post_init__(self) -> None:
        _check_share("swap.probability", self.probability)
        _check_share("swap.gender_probability", self.gender_probability)
        if not 0.0 <= self.min_age < self.max_age <= MAX_AGE:
            raise ConfigError(
                f"training.swap.min_age and max_age must fulfil 0 ≤ min < max ≤ {MAX_AGE:g}, "
                f"found: {self.min_age:g} and {self.max_age:g}"
            )
        _check_at_least("swap.identity", self.identity, 0.0)
        _check_positive("swap.identity_years", self.identity_years)
        _check_at_least("swap.identity_features", self.identity_features, 0.0)
        _check_at_least("swap.likeness", self.likeness, 0.0)
        if self.strength is not None and not (self.put_back and 0.0 < self.strength <= MAX_STRENGTH):
            raise ConfigError(
                f"training.swap.strength must be in 0…{MAX_STRENGTH:g}, and needs --training.swap.put-back, "
                f"found: {self.strength:g}"
            )


@dataclass(frozen=True)
class PairAugmentConfig:
    """Augmentation of label map and picture before the discriminator, real and fake alike (pair_augment.py)."""

    probability: float | Literal["auto"] = 0.0
    """Of each transform for each sample; 0 switches it off, 1 is DiffAugment. auto: as much as `target` asks for."""
    target: float = 0.6
    """auto raises the probability while the mean sign of the discriminator's logits of real pictures is above this:
    near 1 it knows them all by heart (ADA, arXiv:2006.06676, section 3)."""
    kimg: float = 100.0
    """Thousands of pictures in which auto gets from 0 to 1. ADA takes 500, for runs of 25,000."""
    flip: bool = True
    """Mirror."""
    colour: bool = True
    """Brightness, saturation and contrast of the picture."""
    translation: bool = True
    """Shift by up to an eighth of the side."""
    cutout: bool = True
    """Blank a square of half the side."""

    def __post_init__(self) -> None:
        if self.probability != "auto":
            _check_share("augment.probability", self.probability)
        if not -1.0 < self.target < 1.0:
            raise ConfigError(f"training.augment.target is a mean of signs, between -1 and 1, found: {self.target}")
        _check_positive("augment.kimg", self.kimg)


@dataclass(frozen=True)
class R1Config:
    """Gradient penalty on the discriminator at real pictures (Mescheder et al. 2018)."""

    weight: float = 0.0
    """γ: the loss is γ/2 times the squared gradient of the mean logit; 0 switches it off."""
    every: int = 16
    """Steps between two penalties, each counted that many times over (lazy regularisation, StyleGAN2): it takes a
    second derivative, which costs as much as the step's other work on the discriminator."""

    def __post_init__(self) -> None:
        _check_at_least("r1.weight", self.weight, 0.0)
        _check_at_least("r1.every", self.every, 1)


@dataclass(frozen=True)
class TrainingConfig:
    """One training run."""

    resolution: int = 128
    """Side of the pictures in pixels: 64, 128, 256, 512 or 1024; at most that of the prepared data."""
    network: NetworkConfig = field(default_factory=NetworkConfig)
    """Shapes of the networks."""
    loss: LossWeights = field(default_factory=LossWeights)
    """Weights of the terms of the generator's loss."""
    pixel: float = 0.0
    """Weight of a plain L1 on the reconstruction; small networks on few pictures learn faster with it."""
    swap: SwapConfig = field(default_factory=SwapConfig)
    """The pass with other ages."""
    augment: PairAugmentConfig = field(default_factory=PairAugmentConfig)
    """What is done to the discriminator's pictures."""
    r1: R1Config = field(default_factory=R1Config)
    """Gradient penalty of the discriminator."""
    painterly: float = 0.0
    """Share of the portraits that are made to look painted (training/painterly.py)."""
    mismatched: float = 0.0
    """Weight, beside 1 for what the generator makes, of the discriminator's lesson that a portrait does not go with
    another sitter's age and gender (Reed et al., "Generative Adversarial Text to Image Synthesis", 2016, §4.1). So it
    learns of real faces what ages look like, and sees when a generator finds a way to please the frozen estimators.
    Needs network.projection."""
    perceptual_network: Literal["vgg16", "vgg19"] = "vgg16"
    """Network of the perceptual loss: Oxford's VGG16, or torchvision's VGG19 as in SPADE, if its host is in reach."""
    perceptual_pool: int = 1
    """The perceptual loss compares pictures averaged over squares of this side: 2 costs a quarter, and leaves the
    finest detail to the discriminator. On a CPU that loss is half of a step."""
    attribute_dropout: float = 0.1
    """Share of attribute groups hidden from the networks, so that unknown ones can be left out later."""

    batch_size: int = 16
    """Pictures a step, of all processes together."""
    kimg: float = 1000.0
    """Thousands of pictures to train on; the paper's 50 epochs of FFHQ are 3500."""
    max_minutes: float | None = None
    """Stop after this many minutes of this run, if that is sooner; the same command goes on later."""
    lr_generator: float = 1e-4
    """Adam's learning rate for generator and encoder."""
    lr_discriminator: float = 4e-4
    """Adam's learning rate for the discriminator: two time-scales, arXiv:1706.08500."""
    betas: tuple[float, float] = (0.0, 0.9)
    """Adam's β₁ and β₂: the paper's."""
    epsilon: float = 1e-8
    """Adam's ε: gradients much smaller than it move nothing."""
    lr_ramp_kimg: float = 0.0
    """Thousands of pictures over which the learning rates rise from 0: for warm starts with fresh optimizers."""
    discriminator_steps: int | Literal["auto"] = "auto"
    """Discriminator updates per generator update; auto: 2 while the discriminator cannot tell real from fake."""
    ema_kimg: float = 10.0
    """Half-life of the averaged weights that are released, thousands of pictures."""
    seed: int = 0
    """All randomness follows from it and the number of pictures seen."""
    balance: Balance = "none"
    """Show every decade of age, or every decade of either gender, equally often (training/balance.py). none: the
    requested ages of the swap are uniform anyway, and rare faces shown often are learnt by heart."""
    data_shares: tuple[float, ...] | None = None
    """How often each dataset is shown, in proportion (1 1 2); portraits are then drawn with replacement. None: each
    portrait once an epoch."""
    learns: Literal["all", "refinement"] = "all"
    """refinement: the refinement network alone, from a warm start, with generator and encoder as they are in use.
    Nothing is then rendered, judged or learnt for the sake of reconstructions."""
    warm_start: str | None = None
    """What to begin from: the weights folder of another run, or a bundle, such as capricious://default."""

    strategy: Literal["plain", "ddp", "deepspeed"] = "plain"
    """One process; one process a GPU with all weights in each; or DeepSpeed ZeRO."""
    zero_stage: Literal[0, 1, 2, 3] = 2
    """What DeepSpeed spreads over the processes: nothing, optimizer states, also gradients, also weights."""
    offload: Literal["none", "optimizer", "all"] = "none"
    """What DeepSpeed keeps in the computer's memory instead of the GPU's: nothing, optimizer states and their step
    (ZeRO 1–3), also the weights (ZeRO 3)."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: CUDA where there is one."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 runs the networks under autocast; weights, optimizers and losses stay float32."""
    channels_last: bool = False
    """Keep pictures as NHWC: faster in bf16 on GPUs and on CPUs."""
    compile: bool = False
    """Let torch.compile fuse what lies between the convolutions (training/compiled.py): minutes, at the first start."""
    cuda_graphs: bool = False
    """Record each kind of step once on a CUDA device and replay it, without Python (training/recorded_step.py)."""
    distinct_share: float | Literal["auto"] = "auto"
    """Compute modulations once per distinct label patch at resolutions where at most this share of the patches is
    distinct (model/patches.py): 0 never, 1 always. auto: where it is faster on a CPU; never on CUDA, where finding
    the patches would make the GPU wait at every step."""

    log_every: int = 20
    """Steps between two progress lines."""
    checkpoint_kimg: float = 50.0
    """Thousands of pictures between checkpoints; there is always one at the end."""
    keep_checkpoints: int = 2
    """Newest checkpoints to keep."""
    best_by: str | None = None
    """Keep the checkpoint with the best score of this name, too: held_out/l1 where a dataset has a test split and the
    generator learns; jobs/train.py has more."""
    best_is: Literal["lowest", "highest"] = "lowest"
    """Which score is best."""
    snapshot_kimg: float = 50.0
    """Thousands of pictures between sample grids; there is one with each checkpoint, too."""
    recalibrate_batches: int = 16
    """As many pictures as these training batches have measure batch norm's statistics anew before weights are
    released."""
    prometheus_port: int | None = None
    """Serve the metrics for Prometheus on this port of the first process's machine."""
    num_workers: int = 4
    """Threads that decode pictures."""
    memory_budget_gb: float = 4.0
    """The whole dataset is kept decoded if it fits into this much memory: of the GPU, where there is one, and of each
    process."""

    def __post_init__(self) -> None:
        # The networks' own configurations check the shapes.
        self.generator, self.encoder, self.discriminator  # noqa: B018
        for name in ("batch_size", "log_every", "num_workers", "recalibrate_batches", "perceptual_pool"):
            _check_at_least(name, getattr(self, name), 1)
        for name in ("kimg", "lr_generator", "lr_discriminator", "checkpoint_kimg", "snapshot_kimg"):
            _check_positive(name, getattr(self, name))
        for name in ("pixel", "mismatched", "lr_ramp_kimg", "ema_kimg", "memory_budget_gb", "seed"):
            _check_at_least(name, getattr(self, name), 0)
        if self.discriminator_steps != "auto":
            _check_at_least("discriminator_steps", self.discriminator_steps, 1)
        _check_share("attribute_dropout", self.attribute_dropout)
        _check_share("painterly", self.painterly)
        if self.distinct_share != "auto":
            _check_share("distinct_share", self.distinct_share)
        if self.r1.weight and self.strategy == "deepspeed" and self.zero_stage == 3:
            raise ConfigError(
                "training.r1.weight must be 0 with zero_stage 3: a gradient of a gradient cannot pass through weights "
                "that ZeRO-3 gathers and drops again; use zero_stage 2"
            )
        if self.cuda_graphs and (
            self.strategy != "plain" or self.device == "cpu" or self.distinct_share not in (0, "auto")
        ):
            raise ConfigError(
                "training.cuda_graphs needs --training.strategy plain, a CUDA device and no distinct patches, found: "
                f"strategy {self.strategy}, device {self.device}, distinct_share {self.distinct_share}"
            )
        if self.compile and self.distinct_share not in (0, "auto"):
            raise ConfigError(
                "training.compile needs --training.distinct-share 0 or auto: every batch has another number of "
                "distinct patches, and would be compiled anew"
            )
        if self.max_minutes is not None:
            _check_positive("max_minutes", self.max_minutes)
        if self.data_shares is not None and not all(share > 0 for share in self.data_shares):
            raise ConfigError(f"training.data_shares must all be more than 0, found: {self.data_shares}")
        lowest = {"none": 0, "optimizer": 1, "all": 3}[self.offload]
        if self.offload != "none" and (self.strategy != "deepspeed" or self.zero_stage < lowest):
            raise ConfigError(
                f"training.offload {self.offload} needs --training.strategy deepspeed --training.zero-stage {lowest} "
                f"or above, found: {self.strategy}, {self.zero_stage}"
            )
        if self.keep_checkpoints < 2:
            raise ConfigError(
                "training.keep_checkpoints must be at least 2, as the newest one may be in use (being read by a "
                f"resumed process, or being uploaded) while the next is written, found: {self.keep_checkpoints}"
            )
        if not all(0.0 <= beta < 1.0 for beta in self.betas):
            raise ConfigError(f"training.betas must be in 0 ≤ β < 1, found: {self.betas}")
        if self.epsilon <= 0.0:
            raise ConfigError(f"training.epsilon must be above 0, found: {self.epsilon}")
        if self.network.refinement_width and not (self.swap.put_back and self.swap.probability == 1.0):
            raise ConfigError(
                "training.network.refinement_width needs --training.swap.put-back --training.swap.probability 1: "
                "it learns from swapped pictures alone, and processes must exchange its gradient at every step"
            )
        if self.learns == "refinement" and not (self.network.refinement_width and self.warm_start):
            raise ConfigError(
                "training.learns refinement needs --training.network.refinement-width, and --training.warm-start: a "
                "generator that never learnt has no change to refine"
            )
        if self.mismatched and not self.network.projection:
            raise ConfigError(
                "training.mismatched needs --training.network.projection: a discriminator that does not see "
                "the attributes cannot tell which fit"
            )
        if self.network.norm == "batch" and self.batch_size < 2:
            raise ConfigError(
                "training.batch_size must be at least 2 with batch norm: the statistics of one picture "
                "are the picture itself; use --training.network.norm instance for a batch of 1"
            )

    @property
    def generator(self) -> GeneratorConfig:
        """Shape of the generator."""
        n = self.network
        return GeneratorConfig(
            resolution=self.resolution,
            width=n.width,
            hidden=n.hidden,
            latent=n.latent,
            conditioning=n.conditioning,
            norm=n.norm,
        )

    @property
    def encoder(self) -> EncoderConfig:
        """Shape of the style encoder."""
        return EncoderConfig(resolution=self.resolution, width=self.network.encoder_width, latent=self.network.latent)

    @property
    def discriminator(self) -> DiscriminatorConfig:
        """Shape of the discriminator."""
        n = self.network
        return DiscriminatorConfig(width=n.discriminator_width, scales=n.scales, projection=n.projection)


def _check_share(name: str, value: float) -> None:
    if not 0.0 <= value <= 1.0:
        raise ConfigError(f"training.{name} must be in 0…1, found: {value}")


def _check_positive(name: str, value: float) -> None:
    if not value > 0:
        raise ConfigError(f"training.{name} must be more than 0, found: {value}")


def _check_at_least(name: str, value: float, lowest: float) -> None:
    if not value >= lowest:
        raise ConfigError(f"training.{name} must be at least {lowest:g}, found: {value}")
