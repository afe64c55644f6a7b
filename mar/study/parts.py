"""The factors of the paper as pydantic models: data, tokenizer, order, backbone, head, recipe, sampling.

Each is one section of a study file and checks its own values; whether the parts of a variant fit together is checked
in `mar/study/study.py`. Of data, tokenizers, orders, backbones and heads there are kinds (`mar/study/kinds.py`): what
the rest of the package wants to know of one, it asks its class here, which names its implementation as text. A kind of
the user's derives from the family and answers the same questions.
"""

from __future__ import annotations

import itertools
import os
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PositiveFloat,
    PositiveInt,
    SerializeAsAny,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from mar.runtime.text import printable
from mar.study.annealing import Annealed, DiffusionSteps, Evaluations, falling
from mar.study.kinds import Kind, Section, shortest
from mar.study.mistakes import MistakesError, of_validation

Text = Annotated[str, AfterValidator(printable)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$", max_length=100)]  # names files and folders
Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]  # what both numpy and torch take
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Decay = Annotated[float, Field(ge=0.0, lt=1.0)]
# What no machine has is refused when the study is read, not by torch after hours.
Size = Annotated[int, Field(gt=0, le=100_000)]  # of a network: widths, channels, sides
Depth = Annotated[int, Field(gt=0, le=1000)]  # of a network: layers
Images = Annotated[int, Field(gt=0, le=10**12)]  # numbers of images, and of other things
Epochs = Annotated[float, Field(gt=0.0, le=1e9)]
Temperature = Annotated[float, Field(ge=1e-3, le=1e3)]
Rate = Annotated[float, Field(gt=0.0, le=100.0)]  # learning rates
POINTS = 10_000  # of the grid of one sweep, at most
Codes = Annotated[int, Field(gt=0, le=10**7)]
Folder = Annotated[str, AfterValidator(os.path.expanduser)]
IMAGES = "images seen in training"
EPOCHS = "passes over the train split; beside images: the shorter of both counts"


class Data(Kind):
    """The images of the study and how they become square RGB arrays.

    Attributes:
        folder: the user's files, where there are any.
        classes: number of classes where the study knows it; None for folders and files of the user.
        title: name of the images for texts.
        unread: whether there are no images at all.
        decoded: whether image files are decoded when they are read, which processes do ahead.
        totals: what `expect` says.
        archive: file of the images and labels that `prepare` writes, where images are not decoded when they are read.
        counted: images of both splits before `set_aside`, where the kind tells.
        licence: of the images, and its source, where the kind tells; only then may a bundle show some of them.
    """

    part: ClassVar[str] = "data"
    tells: ClassVar[tuple[str, ...]] = ("label", "classes")
    unread: ClassVar[bool] = False
    decoded: ClassVar[bool] = False
    archive: ClassVar[str] = "images.npz"
    licence: ClassVar[tuple[str, str] | None] = None

    image_size: Size = Field(
        description="side in pixels after the ADM centre crop (digits: after resizing; idx: padded, not resized)"
    )
    flip: bool = Field(False, description="encode mirror images too and pick one of both in training")
    holdout: float = Field(
        0.2, gt=0.0, lt=1.0, description="share of each class held out where the data have no val/ or test set"
    )
    set_aside: Images | None = Field(
        None, description="images of the train split, equally of each class, that are held out too"
    )

    def _with_path(self) -> Self:
        if self.folder is None:
            raise ValueError(f"path belongs to kind {self.kind} and is needed there; found path None")
        return self

    @property
    def folder(self) -> str | None:
        """The user's files, where there are any."""
        return getattr(self, "path", None)

    @property
    def classes(self) -> int | None:
        """Number of classes, where the study knows it."""
        return None

    @property
    def title(self) -> str:
        """Name of the images for texts."""
        return self.label or f"the images of {self.folder}"

    @property
    def totals(self) -> str | None:
        """What `expect` says."""
        return getattr(self, "expect", None)

    @property
    def counted(self) -> tuple[int, int] | None:
        """Images of both splits before `set_aside`, where the kind tells."""
        return None


class Digits(Data):
    """The handwritten digits that ship with scikit-learn."""

    implementation: ClassVar[str] = "mar.data.prepare:of_digits"
    label: ClassVar[str] = "scikit-learn's handwritten digits"
    archive: ClassVar[str] = "digits.npz"
    licence: ClassVar[tuple[str, str] | None] = ("CC BY 4.0", "https://archive.ics.uci.edu/dataset/80")
    images: ClassVar[int] = 1797

    kind: Literal["digits"]

    @model_validator(mode="after")
    def _check(self) -> Digits:
        if self.flip:
            raise ValueError("flip: true with kind digits: a mirrored 2 is no 2; accepted: false")
        return self

    @property
    def counted(self) -> tuple[int, int] | None:
        """Images of both splits before `set_aside`."""
        heldout = round(self.images * self.holdout)
        return self.images - heldout, heldout

    @property
    def classes(self) -> int | None:
        """Number of classes, where the study knows it."""
        return 10


class FashionMnist(Data):
    """70,000 photographs, from Debian's package or fetched."""

    implementation: ClassVar[str] = "mar.data.prepare:of_fashion_mnist"
    label: ClassVar[str] = "Fashion-MNIST"
    archive: ClassVar[str] = "idx.npz"
    licence: ClassVar[tuple[str, str] | None] = ("MIT", "https://github.com/zalandoresearch/fashion-mnist")

    kind: Literal["fashion-mnist"]
    path: Folder | None = Field(None, description="folder of train-images-idx3-ubyte[.gz] and its labels")

    @property
    def classes(self) -> int | None:
        """Number of classes, where the study knows it."""
        return 10

    @property
    def counted(self) -> tuple[int, int] | None:
        """Images of both splits before `set_aside`."""
        return 60_000, 10_000


class Idx(Data):
    """Your files in MNIST's format."""

    implementation: ClassVar[str] = "mar.data.prepare:of_idx"
    archive: ClassVar[str] = "idx.npz"

    kind: Literal["idx"]
    path: Folder | None = Field(None, description="folder of train-images-idx3-ubyte[.gz] and its labels")

    @model_validator(mode="after")
    def _check(self) -> Idx:
        return self._with_path()


class ImageFolder(Data):
    """Your image files."""

    implementation: ClassVar[str] = "mar.data.prepare:of_files"
    decoded: ClassVar[bool] = True

    kind: Literal["imagefolder"]
    path: Folder | None = Field(None, description="root of <class>/<image>, or of train/ and val/ with those")
    expect: Literal["imagenet"] | None = Field(
        None, description="totals to check, ImageNet-1k's 1,000 classes, 1,281,167 and 50,000 images"
    )

    @model_validator(mode="after")
    def _check(self) -> ImageFolder:
        return self._with_path()


class NoImages(Data):
    """No images: published weights are sampled alone."""

    implementation: ClassVar[str] = "mar.data.prepare:of_nothing"
    label: ClassVar[str] = "no images"
    unread: ClassVar[bool] = True

    kind: Literal["none"]
    num_classes: Images = Field(description="classes of the published weights")

    @property
    def classes(self) -> int | None:
        """Number of classes, where the study knows it."""
        return self.num_classes


class Tokenizer(Kind):
    """What turns images into tokens and back: an autoencoder, trained or imported, or none for pixels (Table 2).

    Attributes:
        label: what tables call it before its stride.
        stored: what is stored of an image: ids, latents, or moments of a posterior from which latents are drawn.
        ids: whether its tokens are ids of a codebook, for cross-entropy; otherwise they are vectors.
        codes: number of ids; 0 for vectors.
        sides: sides of the scales of a multi-scale tokenizer, else empty.
        token_dim: length D of the vector of one continuous token.
        trained: whether this project trains it.
        unscaled: whether its latents are numbers near one as they are, so that their deviation is not measured.
        widest: numbers of its widest layer, of one image by position after the stem.
        folded: side of the squares of pixels that become channels in front of it, the stem.
    """

    part: ClassVar[str] = "tokenizer"
    tells: ClassVar[tuple[str, ...]] = ("label", "stored", "codes", "trained")
    unscaled: ClassVar[bool] = False

    stride: Size = Field(description="pixels per latent position and axis, a power of two; pixels: 1")
    latent_channels: Size = Field(1, description="numbers per latent position, where tokens are no ids")
    group: Size = Field(1, description="group x group latent positions make one token (2: Table 2's KL-8)")
    scale: PositiveFloat | None = Field(None, description="factor on latents; default: 1/std over the train split")
    pretrained: bool = Field(False, description="weights are imported (`mar import`), not trained")
    weights: Name | None = Field(None, description="pretrained: name of the import; default: the tokenizer's")
    perceptual_weight: float = Field(0.0, ge=0.0, description="weight of the perceptual term (LDM: 1); 0 leaves it out")
    perceptual: Literal["lpips", "own"] = Field(
        "lpips",
        description="network of the perceptual term: LPIPS with VGG-16, fetched (LDM); or three small classifiers, "
        "none of them the judge, which first learn from every second image of the study",
    )
    perceptual_images: Images | None = Field(None, description="perceptual own: images that each classifier sees")
    adversarial_weight: float = Field(0.0, ge=0.0, description="weight of the patch discriminator (LDM: 0.5)")
    adversarial_start: int = Field(0, ge=0, description="images before the discriminator counts (LDM: 50,001 steps)")
    images: Images | None = Field(None, description=IMAGES)
    epochs: Epochs | None = Field(None, description=EPOCHS)
    batch: Images = 64
    learning_rate: Rate | None = Field(None, description="Adam, cosine to zero")
    per_seed: bool = Field(
        False, description="train one for each training seed of its variants, with seed `seed` + training seed"
    )

    @model_validator(mode="after")
    def _check_training(self) -> Tokenizer:
        if self.stride & (self.stride - 1):
            raise ValueError(f"stride {self.stride}: a power of two is accepted")
        own = self.perceptual == "own"
        if own and not (self.trained and self.perceptual_weight):
            raise ValueError("perceptual own: belongs to a tokenizer that is trained, with a perceptual_weight above 0")
        if own != (self.perceptual_images is not None):
            raise ValueError(f"perceptual_images belongs to perceptual own and is needed there: {self.perceptual}")
        if self.weights and not self.pretrained:
            raise ValueError(f"weights {self.weights}: belongs to pretrained: true")
        if self.ids and self.group != 1:
            raise ValueError(f"group {self.group} with kind {self.kind}: an id cannot be grouped; accepted: 1")
        lengths = {"images or epochs": self.images or self.epochs, "learning_rate": self.learning_rate}
        for key, value in lengths.items():
            if (value is not None) != self.trained:
                why = "is needed to train" if self.trained else "has no meaning: nothing is trained"
                raise ValueError(f"{key} {why}: kind {self.kind}, pretrained {str(self.pretrained).lower()}")
        if self.per_seed and not self.trained:
            raise ValueError(
                f"per_seed: true with kind {self.kind}, pretrained {str(self.pretrained).lower()}: nothing is trained; "
                "accepted: false"
            )
        return self

    @property
    def stored(self) -> str:
        """What is stored of an image."""
        return "latents"

    @property
    def ids(self) -> bool:
        """Whether its tokens are ids."""
        return self.stored == "ids"

    @property
    def codes(self) -> int:
        """Number of ids."""
        return 0

    @property
    def sides(self) -> tuple[int, ...]:
        """Sides of the scales."""
        return ()

    @property
    def token_dim(self) -> int:
        """Length D of the vector of one continuous token."""
        return self.latent_channels * self.group**2

    @property
    def trained(self) -> bool:
        """Whether this project trains it."""
        return not self.pretrained

    @property
    def widest(self) -> int:
        """Numbers of its widest layer, by position after the stem."""
        return 3

    @property
    def folded(self) -> int:
        """Side of the squares of pixels that become channels in front of it."""
        return 1


class Network(Tokenizer):
    """What the kinds of this project have in common."""

    stem: Size = Field(1, description="stem x stem pixels become channels in front of the first level")
    channels: tuple[Size, ...] = Field((), description="width of each resolution level: log2(stride / stem) + 1")
    layers: Depth = Field(1, description="residual blocks per level")
    attention: Literal["middle", "encoder", "both"] = Field(
        "middle", description="self-attention: in the middle blocks; also at the encoder's last level (MAR's KL-16); "
        "or at that of the decoder too (LDM's KL-16 and VQ-16)"
    )  # fmt: skip
    norm_groups: Size | None = Field(
        None,
        description="groups of the group norms, which no tensor of the weights shows; default: 32 with pretrained (as "
        "published), else the most, up to 32, with four channels in each",
    )
    latent_channels: Size = Field(description="kl: numbers per latent position; vq, msvq: width of a code; pixels: 3")

    @model_validator(mode="after")
    def _check_levels(self) -> Network:
        if self.stem & (self.stem - 1) or self.stem > self.stride:
            raise ValueError(f"stem {self.stem}: a power of two up to the stride, {self.stride}, is accepted")
        if self.norm_groups and any(width % self.norm_groups for width in self.channels):
            raise ValueError(f"norm_groups {self.norm_groups}: accepted: what divides each of {list(self.channels)}")
        if len(self.channels) != self._levels:
            stem = f", stem {self.stem}" if self.stem > 1 else ""
            raise ValueError(
                f"channels {list(self.channels)}: kind {self.kind} with stride {self.stride}{stem} has {self._levels} "
                "levels"
            )
        return self

    @property
    def _levels(self) -> int:
        return (self.stride // self.stem).bit_length()

    @property
    def widest(self) -> int:
        """Numbers of its widest layer, by position after the stem."""
        return self.channels[0]

    @property
    def folded(self) -> int:
        """The stem."""
        return self.stem


class Kl(Network):
    """An autoencoder whose latents have a normal posterior."""

    implementation: ClassVar[str] = "mar.tokenizers.autoencoder:kl"
    label: ClassVar[str] = "KL"

    kind: Literal["kl"]
    kl_weight: PositiveFloat | None = Field(None, description="weight of the KL term (LDM: 1e-6)")

    @model_validator(mode="after")
    def _check(self) -> Kl:
        if self.trained and self.kl_weight is None:
            raise ValueError("kl_weight belongs to kind kl and is needed there: kind kl")
        return self

    @property
    def stored(self) -> str:
        """What is stored of an image."""
        return "moments"


class Vq(Network):
    """An autoencoder with one codebook."""

    implementation: ClassVar[str] = "mar.tokenizers.autoencoder:vq"
    label: ClassVar[str] = "VQ"

    kind: Literal["vq"]
    codebook_size: Codes = Field(description="number of codes")
    continuous: bool = Field(False, description="tokens are the latents before the quantiser, not ids")

    @property
    def stored(self) -> str:
        """What is stored of an image."""
        return "latents" if self.continuous else "ids"

    @property
    def codes(self) -> int:
        """Number of ids."""
        return self.codebook_size


class MsVq(Network):
    """Ids of several scales, of which each adds to those before (VAR)."""

    implementation: ClassVar[str] = "mar.tokenizers.autoencoder:msvq"
    label: ClassVar[str] = "MSVQ"

    kind: Literal["msvq"]
    codebook_size: Codes = Field(description="number of codes")
    scales: tuple[Size, ...] = Field(min_length=2, description="sides of the scales, ascending to that of the latents")
    phis: Annotated[int, Field(ge=1, le=100)] = Field(
        4, description="convolutions behind the codes, each for neighbouring scales (published: share_quant_resi)"
    )

    @model_validator(mode="after")
    def _check(self) -> MsVq:
        if list(self.scales) != sorted(set(self.scales)):
            raise ValueError(f"scales {list(self.scales)}: accepted: ascending, each once")
        return self

    @property
    def stored(self) -> str:
        """What is stored of an image."""
        return "ids"

    @property
    def codes(self) -> int:
        """Number of ids."""
        return self.codebook_size

    @property
    def sides(self) -> tuple[int, ...]:
        """Sides of the scales."""
        return self.scales


class Consistency(Network):
    """Stable Diffusion's KL-8 encoder with the consistency decoder."""

    implementation: ClassVar[str] = "mar.tokenizers.autoencoder:consistency"
    label: ClassVar[str] = "CONSISTENCY"

    kind: Literal["consistency"]

    @model_validator(mode="after")
    def _check(self) -> Consistency:
        if (self.stride, self.latent_channels) != (8, 4):
            raise ValueError(
                f"stride {self.stride}, latent_channels {self.latent_channels}: the consistency decoder has 8 and 4"
            )
        if not self.pretrained:
            raise ValueError("pretrained: false with kind consistency: it is not trained here; accepted: true")
        return self

    @property
    def stored(self) -> str:
        """What is stored of an image."""
        return "moments"

    @property
    def _levels(self) -> int:
        return 0

    @property
    def widest(self) -> int:
        """Numbers of its widest layer, by position after the stem."""
        return 3 * 320  # a U-Net, which keeps three layers of that size for its way back


class Pixels(Network):
    """Patches of pixels, without a network."""

    implementation: ClassVar[str] = "mar.tokenizers.autoencoder:pixels"
    label: ClassVar[str] = "PIXELS"
    unscaled: ClassVar[bool] = True

    kind: Literal["pixels"]

    @model_validator(mode="after")
    def _check(self) -> Pixels:
        if (self.stride, self.latent_channels) != (1, 3):
            raise ValueError(f"stride {self.stride}, latent_channels {self.latent_channels}: pixels have 1 and 3")
        if self.pretrained:
            raise ValueError("pretrained: true with kind pixels: there are no weights; accepted: false")
        return self

    @property
    def trained(self) -> bool:
        """Whether this project trains it."""
        return False

    @property
    def _levels(self) -> int:
        return 0

    @property
    def widest(self) -> int:
        """Numbers of its widest layer, by position after the stem."""
        return 3


class Order(Kind):
    """Which token is generated when.

    In a file it is the name of its kind, or for an own kind with options a mapping.

    Attributes:
        fixed: whether a model that is trained on it knows no other order, which sampling could choose.
        joint: whether all tokens are drawn at once.
        by_scale: whether the tokens of a scale are drawn together.
        label: what a masked backbone and a causal one are called with it, after their own names.
    """

    part: ClassVar[str] = "order"
    tells: ClassVar[tuple[str, ...]] = ("label", "fixed")
    fixed: ClassVar[bool] = True
    joint: ClassVar[bool] = False
    by_scale: ClassVar[bool] = False
    short: ClassVar[bool] = True

    @property
    def free(self) -> bool:
        """Whether any tokens may come first, since a model that is trained on it knows every order."""
        return not (self.fixed or self.joint or self.by_scale)

    @model_serializer(mode="wrap")
    def _name(self, write: SerializerFunctionWrapHandler) -> Any:
        return shortest(write(self))


class Raster(Order):
    """Row by row."""

    implementation: ClassVar[str] = "mar.models.order:as_stored"

    kind: Literal["raster"]


class Random(Order):
    """A random permutation of each image."""

    implementation: ClassVar[str] = "mar.models.order:permuted"
    fixed: ClassVar[bool] = False

    kind: Literal["random"]


class ByScale(Order):
    """From coarse to fine, VAR only."""

    implementation: ClassVar[str] = "mar.models.order:as_stored"
    fixed: ClassVar[bool] = False
    by_scale: ClassVar[bool] = True

    kind: Literal["scales"]


class JointOrder(Order):
    """All tokens at once, DiT only."""

    implementation: ClassVar[str] = "mar.models.order:as_stored"
    fixed: ClassVar[bool] = False
    joint: ClassVar[bool] = True

    kind: Literal["joint"]


class Backbone(Kind):
    """The transformer that turns the known tokens into a condition z for each token to be generated; or a DiT.

    Attributes:
        label: what texts call a model with it; by the kind of its order where that makes a difference.
        labels: the same by the kind of the order.
        masks: whether it predicts any tokens from any others, and is trained on masks of a random ratio.
        caches: whether it can keep keys and values between steps.
        single: whether it predicts one token a step.
        by_scale: whether it predicts the tokens of a scale together.
        joint: whether it is the whole model, which draws all tokens at once.
        blocks: number of its transformer blocks.
        modulated: whether its blocks have modulations of their own.
        published: whether it goes with one published head, which texts leave out.
    """

    part: ClassVar[str] = "backbone"
    tells: ClassVar[tuple[str, ...]] = ("label", "masks", "caches", "single")
    labels: ClassVar[dict[str, str]] = {}
    masks: ClassVar[bool] = False
    caches: ClassVar[bool] = False
    single: ClassVar[bool] = False
    by_scale: ClassVar[bool] = False
    joint: ClassVar[bool] = False
    published: ClassVar[bool] = False

    width: Size
    depth: Depth = Field(
        description="masked: blocks of the encoder and again of the decoder; causal: twice this; scales: blocks"
    )
    heads: Size
    mlp_ratio: Annotated[float, Field(gt=0.0, le=100.0)] = 4.0
    buffer: Size = Field(64, description="masked: copies of the class token in front of the sequence")
    dropout: Decay = Field(
        0.1, description="attention and projection dropout; scales: stochastic depth of the last block; DiT has none"
    )

    @model_validator(mode="after")
    def _check_heads(self) -> Backbone:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}; accepted: one")
        return self

    @property
    def blocks(self) -> int:
        """Number of its transformer blocks."""
        return self.depth

    @property
    def modulated(self) -> bool:
        """Whether its blocks have modulations of their own."""
        return False

    def check_latents(self, side: int, group: int) -> None:
        """Refuse latents of this side, or such tokens of group x group of them, that it cannot take.

        Raises:
            ValueError: it cannot.
        """


class CausalBackbone(Backbone):
    """A GPT on the tokens in generation order."""

    implementation: ClassVar[str] = "mar.models.causal:Causal"
    label: ClassVar[str] = "AR"
    labels: ClassVar[dict[str, str]] = {"raster": "AR", "random": "causal MAR"}
    caches: ClassVar[bool] = True
    single: ClassVar[bool] = True

    kind: Literal["causal"]

    @property
    def blocks(self) -> int:
        """Number of its transformer blocks."""
        return 2 * self.depth


class MaskedBackbone(Backbone):
    """An encoder on known tokens, and a decoder with mask tokens."""

    implementation: ClassVar[str] = "mar.models.masked:Masked"
    label: ClassVar[str] = "MAR"
    labels: ClassVar[dict[str, str]] = {"random": "MAR", "raster": "MAR in raster order"}
    masks: ClassVar[bool] = True

    kind: Literal["masked"]

    @property
    def blocks(self) -> int:
        """Number of its transformer blocks."""
        return 2 * self.depth


class ScalesBackbone(Backbone):
    """VAR: all tokens of one scale at once."""

    implementation: ClassVar[str] = "mar.models.scales:Scales"
    labels: ClassVar[dict[str, str]] = {"scales": "VAR"}
    caches: ClassVar[bool] = True
    by_scale: ClassVar[bool] = True
    published: ClassVar[bool] = True

    kind: Literal["scales"]
    gate_init: PositiveFloat | None = Field(
        None, description="factor on the first gates of the blocks (VAR: 1e-3 to 5e-6, less for deeper)"
    )
    shared_aln: bool = Field(False, description="one layer makes the modulations of all blocks (VAR-d36)")
    adaln: bool = Field(True, description="the class modulates each block; false: it is the first token alone")
    attention_norm: bool = Field(True, description="queries and keys are unit vectors; false: plain attention")

    @model_validator(mode="after")
    def _check(self) -> ScalesBackbone:
        if not self.adaln:
            if self.gate_init is not None or self.shared_aln:
                said = "shared_aln: true" if self.shared_aln else f"gate_init {self.gate_init:g}"
                raise ValueError(f"{said} with adaln: false: belongs to AdaLN; accepted: none")
        elif self.gate_init is None:
            raise ValueError("gate_init belongs to kind scales and is needed there: kind scales")
        return self

    @property
    def modulated(self) -> bool:
        """Whether its blocks have modulations of their own."""
        return not self.shared_aln


class DitBackbone(Backbone):
    """DiT: a diffusion process over all tokens of an image."""

    implementation: ClassVar[str] = "mar.models.dit:DiT"
    labels: ClassVar[dict[str, str]] = {"joint": "DiT"}
    joint: ClassVar[bool] = True
    published: ClassVar[bool] = True

    kind: Literal["dit"]
    patch: Size = Field(description="patch x patch latent positions make one token")

    def check_latents(self, side: int, group: int) -> None:
        """Its patch divides the side, and it groups by itself."""
        if group != 1 or side % self.patch:
            raise ValueError(
                f"dit groups by its own patch {self.patch}, on {side} x {side} latents; accepted: a tokenizer with "
                f"group 1 and a patch that divides {side}; found group {group}"
            )

    @property
    def modulated(self) -> bool:
        """Whether its blocks have modulations of their own."""
        return True


def evenly(total: int, steps: int) -> list[int]:
    """So many of `total` timesteps, ascending, in equal distances with both ends among them; one is the cleanest."""
    stride = (total - 1) / (steps - 1) if steps > 1 else 1.0
    return [round(i * stride) for i in range(steps)]


# Settings of sampling that a solver honours or not, of HONOURED.
SOLVED = ("temperature", "clamp")


class Solver(Kind):
    """How a token is drawn with the network of a head, from noise on.

    In a file it is the name of its kind, or for one with options a mapping. It follows the reverse process of Diffusion
    Loss, whose network says what noise is in x at a timestep, or a flow, whose network says a velocity at a time.

    Attributes:
        follows: which of both.
        each: evaluations of the network a step.
        honours: settings of sampling that have an effect on it, of SOLVED.
    """

    part: ClassVar[str] = "solver"
    tells: ClassVar[tuple[str, ...]] = ("label", "follows", "each", "honours")
    among: ClassVar[dict[str, tuple[str, ...]]] = {"honours": SOLVED}
    short: ClassVar[bool] = True
    follows: ClassVar[Literal["diffusion", "flow"]] = "diffusion"
    each: ClassVar[int] = 1
    honours: ClassVar[tuple[str, ...]] = ("temperature", "clamp")

    def timesteps(self, total: int, steps: int) -> list[int]:
        """Timesteps of the `total` of a reverse process at which the network is evaluated, ascending.

        The middles of equal parts, rounded down.
        """
        return [(2 * i + 1) * total // (2 * steps) for i in range(steps)]

    def times(self, steps: int) -> int:
        """Number of times of a flow at which the network is evaluated, evenly from 0 to 1: the ends of the steps."""
        return steps + 1

    def written(self, setting: dict[str, Any]) -> dict[str, Any]:
        """The values of a sampling setting with this solver as finished results spell them."""
        return setting

    def __str__(self) -> str:
        """Its name, and options that differ from their defaults."""
        options = self.model_dump(exclude_defaults=True)
        options = options if isinstance(options, dict) else {}
        said = [f"{key} {value}" for key, value in options.items() if key not in ("kind", "own")]
        return ", ".join([self.label or self.kind, *said])

    @model_serializer(mode="wrap")
    def _name(self, write: SerializerFunctionWrapHandler) -> Any:
        return shortest(write(self))


class Ancestral(Solver):
    """The published sampler: the learned variance as noise in each step."""

    implementation: ClassVar[str] = "mar.models.diffusion.solvers:ancestral"

    kind: Literal["ancestral"]

    def timesteps(self, total: int, steps: int) -> list[int]:
        """Both ends among them."""
        return evenly(total, steps)


class Ddim(Solver):
    """DDIM."""

    implementation: ClassVar[str] = "mar.models.diffusion.solvers:ddim"

    kind: Literal["ddim"]
    eta: Fraction = Field(0.0, description="share of the ancestral noise in each step; may stand beside `solver` too")

    def written(self, setting: dict[str, Any]) -> dict[str, Any]:
        """With `eta` beside it."""
        return setting | {"solver": self.kind} | ({"eta": self.eta} if self.eta else {})


class Dpm(Solver):
    """DPM-Solver++ of order 2, which keeps the prediction of the step before."""

    implementation: ClassVar[str] = "mar.models.diffusion.solvers:dpm"

    kind: Literal["dpm"]


class Euler(Solver):
    """Euler's method."""

    implementation: ClassVar[str] = "mar.models.diffusion.solvers:euler"
    follows: ClassVar[Literal["diffusion", "flow"]] = "flow"
    honours: ClassVar[tuple[str, ...]] = ("temperature",)

    kind: Literal["euler"]

    def written(self, setting: dict[str, Any]) -> dict[str, Any]:
        """As `method` of the head."""
        return _in_head(setting, self.kind)


class Heun(Solver):
    """Heun's method, the mean of the velocities at both ends of a step of Euler's."""

    implementation: ClassVar[str] = "mar.models.diffusion.solvers:heun"
    follows: ClassVar[Literal["diffusion", "flow"]] = "flow"
    each: ClassVar[int] = 2
    honours: ClassVar[tuple[str, ...]] = ("temperature",)

    kind: Literal["heun"]

    def written(self, setting: dict[str, Any]) -> dict[str, Any]:
        """As `method` of the head."""
        return _in_head(setting, self.kind)


def _in_head(setting: dict[str, Any], method: str) -> dict[str, Any]:
    rest = {key: value for key, value in setting.items() if key != "solver"}
    return rest | {"head": {**setting.get("head", {}), "method": method}}


class Options(Section):
    """Settings of sampling that only one kind of head knows: `head` of a sampling setting, checked by that kind."""

    model_config = ConfigDict(extra="allow")

    @model_validator(mode="before")
    @classmethod
    def _anneal(cls, values: Any) -> Any:
        """Evaluations that fall over the autoregressive steps, which the generation loop asks for."""
        if not (isinstance(values, dict) and isinstance(values.get("evaluations"), dict)):
            return values
        try:
            return values | {"evaluations": falling(values["evaluations"])}
        except MistakesError as error:
            raise MistakesError([mistake.below(("evaluations",)) for mistake in error.mistakes]) from None

    @property
    def values(self) -> dict[str, Any]:
        """Them by name."""
        return dict(self.model_extra or {})


# Settings of sampling that a head honours or not; what each is without effect.
HONOURED: dict[str, Any] = {
    **{"solver": None, "diffusion_steps": None, "clamp": None, "top_k": None, "top_p": None},
    **{"guidance_channels": None, "temperature": 1.0, "guidance": 1.0, "more_smooth": False},
}


class Head(Kind):
    """The distribution p(x | z) of one token x; `joint` is DiT's diffusion process over all tokens of an image.

    Attributes:
        label: what texts call it.
        loss: what its loss is called above a figure.
        ids: whether its tokens are ids; otherwise they are vectors.
        honours: settings of sampling that have an effect on it, of HONOURED.
        needed: of these, those that it cannot do without.
        sure: whether it says how likely the drawn token is.
        joint: whether it draws all tokens of an image at once.
        sampling: its own settings of sampling, the model of a setting's `head`; None: it has none.
        published: whether it goes without saying with a published model.
        usual: kind of its solver where a setting says none; empty: it has no solver.
    """

    part: ClassVar[str] = "head"
    tells: ClassVar[tuple[str, ...]] = ("label", "loss", "ids", "honours")
    among: ClassVar[dict[str, tuple[str, ...]]] = {"honours": tuple(HONOURED)}
    loss: ClassVar[str] = ""
    ids: ClassVar[bool] = False
    honours: ClassVar[tuple[str, ...]] = ("temperature", "guidance")
    needed: ClassVar[tuple[str, ...]] = ()
    sure: ClassVar[bool] = False
    joint: ClassVar[bool] = False
    sampling: ClassVar[type[Section] | None] = None
    published: ClassVar[bool] = False
    usual: ClassVar[str] = ""

    def solver(self, settings: Sampling) -> Solver | None:
        """The solver of a setting; None where it has none."""
        return settings.solver or (Solver.of(kind=self.usual) if self.usual else None)

    def drawing(self, settings: Sampling) -> Any:
        """This head's own settings of sampling, an instance of its `sampling`.

        Raises:
            ValueError: a setting is not accepted.
        """
        values = settings.head.values
        if self.sampling is None:
            if values:
                raise ValueError(f"head {values}: a {self.kind} head has no settings of its own; accepted: none")
            return None
        try:
            return self.sampling.model_validate(values)
        except ValidationError as error:
            raise ValueError("; ".join(f"head: {mistake}" for mistake in of_validation(error, values))) from None

    def evaluations(self, settings: Sampling) -> int | None:
        """Evaluations of its network that a token takes at a setting; None where it has no such number."""
        return None

    @property
    def denoiser(self) -> int:
        """Parameters of most of it, by its width and depth; the exact number takes torch (`mar plan`)."""
        return 0


class CategoricalHead(Head):
    """Cross-entropy on token ids."""

    implementation: ClassVar[str] = "mar.models.heads.categorical:Categorical"
    label: ClassVar[str] = "cross-entropy"
    loss: ClassVar[str] = "cross-entropy (nats a token)"
    ids: ClassVar[bool] = True
    honours: ClassVar[tuple[str, ...]] = ("temperature", "guidance", "top_k", "top_p", "more_smooth")
    sure: ClassVar[bool] = True
    published: ClassVar[bool] = True

    kind: Literal["categorical"]


class DiffusionHead(Head):
    """Diffusion Loss."""

    implementation: ClassVar[str] = "mar.models.heads.diffusion_loss:DiffusionLoss"
    label: ClassVar[str] = "Diffusion Loss"
    loss: ClassVar[str] = "Diffusion Loss"
    honours: ClassVar[tuple[str, ...]] = ("temperature", "guidance", "diffusion_steps", "solver", "clamp")
    needed: ClassVar[tuple[str, ...]] = ("diffusion_steps",)
    usual: ClassVar[str] = "ancestral"

    kind: Literal["diffusion"]
    width: Size = Field(description="width of the denoising MLP")
    depth: Depth = Field(description="residual blocks of the denoising MLP")
    noise_draws: Size = Field(description="(t, noise) draws per token and step")

    def evaluations(self, settings: Sampling) -> int | None:
        """As many a step as its solver takes."""
        solver, steps = self.solver(settings), settings.diffusion_steps
        return steps * solver.each if isinstance(steps, int) and solver else None

    @property
    def denoiser(self) -> int:
        """Parameters of the denoising MLP: of a block two matrices, and three of modulation."""
        return 5 * self.width**2 * self.depth  # of a block: two matrices, and three of modulation


class FlowSampling(Section):
    """How a flow is followed: settings `head` of sampling."""

    evaluations: Evaluations = Field(
        description="evaluations of the MLP a token; euler takes one a step, heun two; a number, or how it falls over "
        "the autoregressive steps, as {first: 20, last: 4}"
    )
    method: Literal["euler", "heun"] | None = Field(None, description="the solver, as it was spelled first")


class FlowHead(Head):
    """Flow matching: the MLP of Diffusion Loss predicts a velocity."""

    implementation: ClassVar[str] = "mar.models.heads.flow:Flow"
    label: ClassVar[str] = "flow matching"
    loss: ClassVar[str] = "flow matching (squared error of the velocity)"
    honours: ClassVar[tuple[str, ...]] = ("temperature", "guidance", "solver")
    sampling: ClassVar[type[Section] | None] = FlowSampling
    usual: ClassVar[str] = "euler"

    kind: Literal["flow"]
    width: Size = Field(description="width of the MLP")
    depth: Depth = Field(description="residual blocks of the MLP")
    noise_draws: Size = Field(description="(t, noise) draws per token and step")

    @property
    def denoiser(self) -> int:
        """Parameters of the MLP: of a block two matrices, and three of modulation."""
        return 5 * self.width**2 * self.depth

    def solver(self, settings: Sampling) -> Solver | None:
        """The solver of a setting, which `head.method` may name too."""
        method = settings.head.values.get("method")
        return Solver.of(kind=method) if method else super().solver(settings)

    def drawing(self, settings: Sampling) -> Any:
        """Its own settings of sampling, whose evaluations make whole steps.

        Raises:
            ValueError: a setting is not accepted.
        """
        own: FlowSampling = super().drawing(settings)
        if own.method and settings.solver:
            raise ValueError(f"head: method {own.method} with solver {settings.solver}; accepted: one of both")
        solver, said = self.solver(settings), own.evaluations
        numbers = (said.first, said.last) if isinstance(said, Annealed) else (said,)
        if solver and any(number % solver.each for number in numbers):
            raise ValueError(
                f"head: evaluations {said} with solver {solver}, {solver.each} a step; accepted: a multiple "
                f"of {solver.each}"
            )
        return own

    def steps(self, settings: Sampling) -> int:
        """Whole steps of its solver; evaluations that fall may leave some over between the first and the last."""
        own, solver = super().drawing(settings), self.solver(settings)
        return int(own.evaluations) // (solver.each if solver else 1)

    def evaluations(self, settings: Sampling) -> int | None:
        """Evaluations of the MLP."""
        said = self.drawing(settings).evaluations
        return said if isinstance(said, int) else None


class MseHead(Head):
    """L2: the mean of the token."""

    implementation: ClassVar[str] = "mar.models.heads.mean_squared_error:MeanSquaredError"
    label: ClassVar[str] = "L2 loss"
    loss: ClassVar[str] = "mean squared error"
    honours: ClassVar[tuple[str, ...]] = ("guidance",)

    kind: Literal["mse"]


class MixtureHead(Head):
    """A mixture of normals (GIVT)."""

    implementation: ClassVar[str] = "mar.models.heads.mixture:Mixture"
    label: ClassVar[str] = "normal mixture"
    loss: ClassVar[str] = "normal mixture (nats a token)"

    kind: Literal["mixture"]
    components: Size = Field(description="normal distributions per token (GIVT: 16)")


class JointHead(Head):
    """DiT's own diffusion process."""

    label: ClassVar[str] = "joint"
    loss: ClassVar[str] = "DiT's diffusion loss"
    honours: ClassVar[tuple[str, ...]] = ("temperature", "guidance", "diffusion_steps", "guidance_channels")
    needed: ClassVar[tuple[str, ...]] = ("diffusion_steps",)
    joint: ClassVar[bool] = True
    published: ClassVar[bool] = True

    kind: Literal["joint"]


class Recipe(Section):
    """How a variant is trained. Lengths are in images, the training's own also in epochs, none in steps or devices."""

    images: int = Field(0, ge=0, le=10**12, description=IMAGES)
    epochs: Epochs | None = Field(None, description=EPOCHS)
    batch: Images = Field(description="global batch in images")
    micro_batch: Images | None = Field(None, description="images per forward pass, never split; default: batch")
    base_learning_rate: Rate = Field(1e-4, description="per 256 images of global batch")
    warmup_images: int = Field(0, ge=0, description="linear warm-up from warmup_from to the learning rate")
    warmup_from: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.0, description="share of the learning rate at which the warm-up starts (VAR: 0.005)"
    )
    schedule: Literal["constant", "cosine", "linear"] = Field(
        "constant", description="after the warm-up; linear: constant for 5% of the rest, then down to final_rate (VAR)"
    )
    final_rate: Fraction | None = Field(None, description="linear only: share of the learning rate at the end")
    weight_decay: float = Field(0.02, ge=0.0, le=1000.0)
    betas: tuple[Decay, Decay] = (0.9, 0.95)
    clip: PositiveFloat | None = Field(3.0, description="global gradient norm; null: not clipped (DiT)")
    ema: Decay = Field(0.9999, description="decay of the weight average, per optimiser step")
    label_drop: Fraction = Field(0.1, description="share of images trained without their class")
    mask_ratio: Literal["normal", "uniform"] = Field(
        "normal",
        description="masked backbones: law of the mask ratio. normal: of mean 1 and deviation 0.25, cut off at "
        "mask_ratio_min and 1 (published); uniform: every ratio between these equally often",
    )
    mask_ratio_min: Fraction = Field(0.7, description="masked backbones: lower end of the law of the mask ratio")
    masks_per_image: Size = Field(
        1, description="masked backbones: masks that each image is trained with when it is seen; published: 1"
    )
    dtype: Literal["fp32", "bf16"] = Field("fp32", description="bf16: autocast")
    head_dtype: Literal["fp32"] | None = Field(
        None,
        description="with dtype bf16: head and loss in fp32; default: autocast of them too (as published); not dit",
    )
    tf32: bool = Field(False, description="fp32 products in TF32, on GPUs that have it (DiT, as published)")
    gradient_checkpointing: bool = Field(False, description="keep no activations inside blocks: less memory, slower")
    compile: bool = Field(False, description="torch.compile the model; needs a C++ compiler on the CPU")
    checkpoint_images: Images = Field(description="images between checkpoints")
    log_images: Images = Field(description="images between lines of metrics.jsonl")
    evaluate_at: tuple[Annotated[float, Field(gt=0.0, le=1.0)], ...] = Field(
        (), description="shares of the training at which the weight average is kept and measured (curves of learning)"
    )

    @model_validator(mode="after")
    def _check(self) -> Recipe:
        self._has_length()
        for key in ("images", "checkpoint_images", "log_images", "warmup_images"):
            if getattr(self, key) % self.batch:
                raise ValueError(f"{key} {getattr(self, key)} is not a multiple of batch {self.batch}; accepted: one")
        if self.images and self.warmup_images > self.images:
            raise ValueError(f"warmup_images {self.warmup_images} of images {self.images}; accepted: at most as many")
        if self.warmup_from and not self.warmup_images:
            raise ValueError(f"warmup_from {self.warmup_from} belongs to a warm-up, and warmup_images is 0")
        if self.batch % (self.micro_batch or self.batch):
            raise ValueError(f"batch {self.batch} is not a multiple of micro_batch {self.micro_batch}; accepted: one")
        if self.head_dtype and self.dtype == "fp32":
            raise ValueError(f"head_dtype {self.head_dtype} with dtype fp32: belongs to bf16; accepted: none")
        if (self.schedule == "linear") != (self.final_rate is not None):
            raise ValueError(f"final_rate belongs to schedule linear and is needed there; schedule {self.schedule}")
        shares = self._shares if self.images else list(self.evaluate_at)
        if shares != sorted(set(shares)):
            raise ValueError(
                f"evaluate_at {list(self.evaluate_at)} of {self.images} images in batches of {self.batch}; accepted: "
                "ascending shares, no two in one batch"
            )
        return self

    @property
    def points(self) -> tuple[int, ...]:
        """Images seen where learning is measured: the shares in whole batches, and the end; none without shares."""
        return tuple(dict.fromkeys([*self._shares, self.images])) if self.evaluate_at else ()

    @property
    def _shares(self) -> list[int]:
        batches = self.images // self.batch
        return [max(1, round(share * batches)) * self.batch for share in self.evaluate_at]

    @property
    def learning_rate(self) -> float:
        """Peak learning rate: the base rate scaled linearly with the global batch."""
        return self.base_learning_rate * self.batch / 256


class Sweep(Section):
    """The grid of guidance scales and temperatures; for each variant the point with the lowest FID is chosen.

    The images at the points are not those of the sample sets.
    """

    samples: Images = Field(description="images at each point of the grid")
    guidance: tuple[Annotated[float, Field(ge=1.0, le=1000.0)], ...] = Field((1.0,), min_length=1)
    temperature: tuple[Temperature, ...] = Field((1.0,), min_length=1)
    refine: int = Field(
        0, ge=0, le=20, description="times that the best point's surroundings are searched at half the step"
    )

    @model_validator(mode="after")
    def _check(self) -> Sweep:
        for key in ("guidance", "temperature"):
            values = getattr(self, key)
            if list(values) != sorted(set(values)):
                raise ValueError(f"{key} {list(values)}: accepted: ascending, each once")
        if (points := len(self.guidance) * len(self.temperature)) > POINTS:
            raise ValueError(
                f"{len(self.guidance)} values of guidance x {len(self.temperature)} of temperature = {points} points; "
                f"accepted: at most {POINTS}"
            )
        return self


class Reject(Section):
    """An image is drawn again until the study's rejecter is sure enough of its class. The threshold is ours."""

    threshold: float = Field(gt=0.0, lt=1.0, description="least probability of the class asked for")
    tries: int = Field(
        10, ge=2, le=100, description="draws of an image at most; if none is accepted, the most probable stays"
    )


LIFTED = ("diffusion_steps", "solver", "eta", "clamp", "top_k", "top_p", "guidance_channels")


class Sampling(Section):
    """One way to draw images from a trained variant. Defaults are the published ones."""

    steps: PositiveInt = Field(
        description="autoregressive steps; as many as tokens: one token a step; scales: one a scale; dit: 1"
    )
    order: Literal["confidence", "checkerboard"] | None = Field(
        None,
        description="masked backbones. confidence: the surest tokens first (MAGE, Table 5), categorical heads only; "
        "checkerboard: every other position first, then the rest, each in a random order (GtR)",
    )
    confidence_noise: float | None = Field(
        None, ge=0.0, description="order confidence: scale of the Gumbel noise on log p, falling to 0 (MaskGIT: 4.5)"
    )
    late_steps: PositiveInt | None = Field(
        None, description="masked backbones: as many of the steps draw the second half of the tokens (GtR); "
        "default: the cosine schedule over all tokens"
    )  # fmt: skip
    guidance: float = Field(1.0, ge=1.0, le=1000.0, description="classifier-free guidance scale; 1 is none")
    guidance_schedule: Literal["linear", "constant"] = "linear"
    guidance_channels: PositiveInt | None = Field(None, description="dit only: guided channels (published: 3 of 4)")
    temperature: Temperature = Field(1.0, description="scales the noise (diffusion) or divides the logits")
    top_k: PositiveInt | None = Field(
        None, description="categorical heads: only as many of the likeliest ids are drawn"
    )
    top_p: Fraction | None = Field(
        None, gt=0.0, description="categorical heads: of these, only the likeliest that have this probability together"
    )
    more_smooth: bool = Field(
        False, description="scales: mixtures of codes by Gumbel softmax in place of drawn ids (VAR: for pictures only)"
    )
    diffusion_steps: DiffusionSteps | None = Field(
        None,
        description="diffusion and joint heads, respaced from 1000; a number, or how it falls over the autoregressive "
        "steps, as {first: 50, last: 5} (DiSA; not with one step)",
    )
    solver: SerializeAsAny[Solver] | None = Field(
        None, description="diffusion heads: ancestral (the default, published), ddim or dpm (DPM-Solver++ of order 2); "
        "flow: euler (the default) or heun"
    )  # fmt: skip
    clamp: PositiveFloat | None = Field(
        None,
        description="diffusion heads only: predicted x0 is held within this many standard deviations; not published",
    )
    head: Options = Field(
        Options(),
        description="settings that only the head of the variant knows; those above may stand here too ("
        "diffusion_steps, solver, eta, clamp, top_k, top_p, guidance_channels)",
    )
    kv_cache: bool = Field(False, description="causal and scales backbones only")
    token_cache: int | None = Field(
        None, ge=2, description="masked backbones: all tokens anew in each n-th step only (LazyMAR); not published"
    )
    condition_cache: int | None = Field(
        None, ge=2, description="masked backbones: the null condition in each n-th step only (LazyMAR); not published"
    )
    dtype: Literal["fp32", "fp16", "bf16"] = Field("fp32", description="fp16, bf16: autocast of the backbone")
    head_dtype: Literal["fp32", "fp16", "bf16"] | None = Field(
        None, description="the same of the head and of the tokenizer's decoder; default with fp16 and bf16: fp32"
    )
    tf32: bool = Field(False, description="fp32 products in TF32, on GPUs that have it (DiT, as published)")
    compile: bool = Field(False, description="torch.compile the blocks and the denoiser; needs a C++ compiler")
    seed: Seed = Field(0, description="sampling seed: another one draws other images with the same weights")
    reject: Reject | None = Field(None, description="draw again what the study's rejecter does not accept")
    sweep: Sweep | None = Field(None, description="guidance and temperature are the best of this grid, for each model")

    @classmethod
    def _checked(cls, values: Any, validate: ModelWrapValidatorHandler[Self]) -> Self:
        return super()._checked(_in_one_place(values), validate)

    @model_validator(mode="before")
    @classmethod
    def _say_the_precision_of_the_head(cls, values: Any) -> Any:
        """Say it aloud, so that keys of stages tell these images from those of before it could be said."""
        if isinstance(values, dict) and values.get("dtype", "fp32") != "fp32" and values.get("head_dtype") is None:
            return {**values, "head_dtype": "fp32"}
        return values

    @model_validator(mode="after")
    def _check(self) -> Sampling:
        if self.dtype == "fp32" and self.head_dtype is not None:
            raise ValueError(f"head_dtype {self.head_dtype} with dtype fp32: belongs to fp16 and bf16; accepted: none")
        if self.sweep and self.reject:
            raise ValueError("reject with a sweep, whose points are drawn without it; accepted: one of both")
        if self.sweep:
            for key in ("guidance", "temperature"):
                if key in self.model_fields_set and getattr(self, key) != 1.0:
                    raise ValueError(
                        f"{key} {getattr(self, key)} with a sweep, which chooses it; accepted: one of both"
                    )
        if (self.order == "confidence") != (self.confidence_noise is not None):
            raise ValueError("confidence_noise belongs to order confidence and is needed there")
        self._check_fast()
        return self

    def _check_fast(self) -> None:
        """Refuse fast modes that would have no effect or do not work together."""
        if self.steps == 1:
            for key, said in self.annealed.items():
                raise ValueError(f"{key} {said} with steps 1: nothing to fall over; accepted: a number")
        if self.order == "confidence":
            for key in ("late_steps", "token_cache", "condition_cache"):
                if getattr(self, key) is not None:
                    raise ValueError(
                        f"{key} {getattr(self, key)} with order confidence, found out on the way; accepted: none"
                    )
        if self.late_steps and self.late_steps >= self.steps:
            raise ValueError(f"late_steps {self.late_steps} of steps {self.steps}; accepted: fewer")
        for key in ("token_cache", "condition_cache"):
            if (every := getattr(self, key)) and every > self.steps:
                raise ValueError(f"{key} {every}, steps {self.steps}; accepted: 2 to {self.steps}")
        if self.condition_cache and self.condition_cache % (self.token_cache or 1):
            raise ValueError(
                f"condition_cache {self.condition_cache} with token_cache {self.token_cache}: the null condition is "
                "computed where all tokens are; accepted: a multiple"
            )

    @model_serializer(mode="wrap")
    def _write(self, write: SerializerFunctionWrapHandler) -> Any:
        values = write(self)
        return self.solver.written(values) if self.solver and "solver" in values else values

    @property
    def named(self) -> tuple[int, ...]:
        """What the seed adds to the names of random numbers; seed 0 keeps those from before there were others."""
        return (self.seed,) if self.seed else ()

    @property
    def annealed(self) -> dict[str, Annealed]:
        """What falls over the autoregressive steps, by its key here or in `head`."""
        numbers = {"diffusion_steps": self.diffusion_steps, "evaluations": self.head.values.get("evaluations")}
        return {key: said for key, said in numbers.items() if isinstance(said, Annealed)}

    def at_step(self, step: int, steps: int) -> Sampling:
        """This setting at one of so many autoregressive steps, from 0: what falls over them is a number there."""
        numbers: dict[str, Any] = {key: said.at(step, steps) for key, said in self.annealed.items()}
        if "evaluations" in numbers:
            numbers["head"] = Options.model_validate(self.head.values | {"evaluations": numbers.pop("evaluations")})
        return self.model_copy(update=numbers) if numbers else self

    @property
    def points(self) -> list[Sampling]:
        """The setting itself, or the settings at the points of its sweep, the largest scale and temperature last."""
        if not self.sweep:
            return [self]
        return [self.at(g, t) for g, t in itertools.product(self.sweep.guidance, self.sweep.temperature)]

    def at(self, guidance: float, temperature: float) -> Sampling:
        """This setting at one point of its sweep."""
        return self.model_copy(update={"guidance": guidance, "temperature": temperature, "sweep": None})


def _in_one_place(values: Any) -> Any:
    """The values of a setting with those of our heads and solvers, which may stand in two places, in one."""
    if not isinstance(values, dict):
        return values
    head = values.get("head")
    if isinstance(head, dict) and (lifted := {key: head[key] for key in LIFTED if key in head}):
        if twice := [key for key in lifted if key in values]:
            raise ValueError(f"head.{twice[0]}: {twice[0]} stands beside it too; accepted: one of both")
        values = {**values, **lifted, "head": {key: value for key, value in head.items() if key not in lifted}}
    if values.get("solver") in ("ancestral", {"kind": "ancestral"}):  # finished results say it of every head
        values = values | {"solver": None}
    if "eta" not in values:
        return values
    eta, solver = values["eta"], values.get("solver") or "ancestral"
    rest = {key: value for key, value in values.items() if key != "eta"}
    if eta is None or (eta == 0 and not isinstance(eta, bool)):
        return rest
    options = solver if isinstance(solver, dict) else {"kind": solver}
    if options.get("kind") != "ddim" or "eta" in options:
        found = "eta beside it" if "eta" in options else f"solver {options.get('kind')}: belongs to ddim"
        raise ValueError(f"eta {eta} with {found}; accepted: 0")
    return rest | {"solver": options | {"eta": eta}}
