"""ViT: images as sequences of patches (2010.11929), and masked autoencoders of them."""

import keras
import numpy as np
from keras import ops

from keras_genai import backend
from keras_genai.backend import random, replicas
from keras_genai.backend.precision import dtype_policy, widen
from keras_genai.layers.patches import patchify, unpatchify
from keras_genai.losses.reduction import mean_over_samples
from keras_genai.training import Model
from keras_genai.training.data import tensors
from keras_genai.training.optimizer import decaying
from keras_genai.training.tuning import Tuning
from keras_genai.transformers.vit_network import (
    POSITIONS,
    MAEDecoder,
    ViTNetwork,
    resized,
)
from keras_genai.utils.arguments import checked
from keras_genai.utils.checks import (
    check_heads,
    check_image_shape,
    check_labels,
    check_positive,
    check_sample_weight,
    patched_row,
)
from keras_genai.utils.serialization import PACKAGE, configuration, deserialized
from keras_genai.utils.validation import integer, number, text
from keras_genai.weights.pretrained import Pretrained

# Layers, channels, heads: table 1 of 2010.11929; Ti and S of 2012.12877.
SIZES = {
    "Ti": (12, 192, 3),
    "S": (12, 384, 6),
    "B": (12, 768, 12),
    "L": (24, 1024, 16),
}


@keras.saving.register_keras_serializable(PACKAGE)
class ViT(Tuning, Pretrained, Model):
    """The vision transformer (2010.11929), weight for weight with transformers'.

    Called on images it gives the logits of their classes, or, without classes, one
    vector for each. `fit(images, labels)` learns the classes. With `mae=True`,
    `fit(images)` learns from images alone (2111.06377): most patches are masked, the
    network sees the others, and a small decoder reconstructs the masked ones;
    `model.fine_tuned(num_classes)` goes on from there.

    Published weights (`from_pretrained`, `save_pretrained`): transformers'
    `ViTForImageClassification`, `ViTModel` or `ViTMAEForPreTraining`. With another
    `num_classes` the file's classifier is left and a new one made; with another
    `image_shape` the positions are interpolated.

    Args:
        image_shape: `(H, W, C)`, each side divisible by the patch. Images of other
            sizes may be given to a trained model: its places are interpolated.
        size: `"Ti/16"` to `"L/16"`: a row of the papers' tables, then the side of a
            patch. The four arguments below, where given, stand for what it says.
        patch_size: side of a patch.
        num_layers: number of blocks.
        hidden_dim: D, channels; divisible by `num_heads`.
        num_heads: of the attention.
        intermediate_dim: channels inside the feed-forward; by default `4 * hidden_dim`.
        num_classes: K, or None for a model without labels.
        pooling: what an image's vector is: `"token"`, a token of its own, or `"mean"`
            of all patches.
        positions: `"learned"`, `"sinusoidal"` (fixed), or `"rotary"`: queries and keys
            turn by row and column (2403.13298).
        pooler: a dense layer and tanh over the vector.
        dropout: rate in training, in [0, 1).
        attention_dropout: that of the attention's probabilities.
        layer_norm_epsilon: of the normalizations.
        label_smoothing: share of the target spread over all classes, in [0, 1).
        mae: whether it is a masked autoencoder.
        mask_ratio: share of the patches that are masked.
        decoder_num_layers, decoder_hidden_dim, decoder_num_heads: of the painting
            decoder, with a feed-forward of `4 * decoder_hidden_dim`.
        normalized_pixels: the decoder's targets are the pixels of a patch less their
            mean over their deviation (2111.06377, section 4.1).
        remat: computes the blocks again for the gradient: less memory, more time.
        seed: integer >= 0: initial weights, noise and shuffling follow from it.

    Raises:
        ValueError: for an argument out of range, before any work.

    Example:

    ```python
    model = kg.ViT((32, 32, 3), "Ti/4", num_classes=10)
    model.compile()                                       # AdamW(1e-3)
    model.fit(images, labels, batch_size=128, epochs=10)
    model.classify(images[:8])                            # (8, 10)

    painter = kg.ViT((32, 32, 3), "Ti/4", mae=True, positions="sinusoidal")
    painter.compile()
    painter.fit(images, epochs=50)
    model = painter.fine_tuned(10)
    ```
    """

    weights_module = "vit"
    max_shard_size = "50GB"

    _ARGUMENTS = (
        "image_shape",
        "patch_size",
        "num_layers",
        "hidden_dim",
        "num_heads",
        "intermediate_dim",
        "num_classes",
        "pooling",
        "positions",
        "pooler",
        "dropout",
        "attention_dropout",
        "layer_norm_epsilon",
        "label_smoothing",
        "mae",
        "mask_ratio",
        "decoder_num_layers",
        "decoder_hidden_dim",
        "decoder_num_heads",
        "normalized_pixels",
        "remat",
        "seed",
    )

    @checked(
        size=text,
        intermediate_dim=integer(1),
        pooling=text,
        positions=text,
        mask_ratio=number("(0, 1)"),
    )
    def __init__(
        self,
        image_shape=(224, 224, 3),
        size="B/16",
        *,
        patch_size=None,
        num_layers=None,
        hidden_dim=None,
        num_heads=None,
        intermediate_dim=None,
        num_classes=None,
        pooling="token",
        positions="learned",
        pooler=False,
        dropout=0.0,
        attention_dropout=0.0,
        layer_norm_epsilon=1e-6,
        label_smoothing=0.0,
        mae=False,
        mask_ratio=0.75,
        decoder_num_layers=8,
        decoder_hidden_dim=512,
        decoder_num_heads=16,
        normalized_pixels=True,
        remat=False,
        seed=0,
        **kwargs,
    ):
        super().__init__(seed=seed, **kwargs)
        sizes = patched_row(size, SIZES)
        self.patch_size = sizes["patch_size"] if patch_size is None else patch_size
        self.num_layers = sizes["num_layers"] if num_layers is None else num_layers
        self.hidden_dim = sizes["hidden_dim"] if hidden_dim is None else hidden_dim
        self.num_heads = sizes["num_heads"] if num_heads is None else num_heads
        self.intermediate_dim = intermediate_dim or 4 * self.hidden_dim
        self.image_shape = check_image_shape(
            image_shape, self.patch_size, instead="Give another patch_size."
        )
        self.num_classes = num_classes
        self.pooling = pooling
        self.positions = positions
        self.pooler = pooler
        self.dropout = dropout
        self.attention_dropout = attention_dropout
        self.layer_norm_epsilon = layer_norm_epsilon
        self.label_smoothing = label_smoothing
        self.mae = mae
        self.mask_ratio = mask_ratio
        self.decoder_num_layers = decoder_num_layers
        self.decoder_hidden_dim = decoder_hidden_dim
        self.decoder_num_heads = decoder_num_heads
        self.normalized_pixels = normalized_pixels
        self.remat = remat
        self._check_arguments()
        # A token, even where no head reads it, belongs to the published networks.
        self.class_token = pooling == "token"
        with dtype_policy(kwargs.get("dtype")):
            self._make_networks()
        names = ("network", "decoder")[: 1 + bool(mae)]
        self.set_players(
            "vit",
            networks={"vit": names},
            metrics=[] if mae else ["accuracy"],
        )

    def _check_arguments(self):
        check_heads(self.num_heads, self.hidden_dim)
        if self.pooling not in ("token", "mean"):
            raise ValueError(
                f"pooling must be 'token' or 'mean'; got {self.pooling!r}."
            )
        if self.positions not in POSITIONS:
            raise ValueError(
                f"positions must be one of {', '.join(POSITIONS)}; got "
                f"{self.positions!r}."
            )
        if self.positions == "sinusoidal" and self.hidden_dim % 4:
            raise ValueError(
                "Sinusoidal positions need hidden_dim divisible by 4; got "
                f"{self.hidden_dim}."
            )
        if not self.mae:
            return
        if self.num_classes:
            raise ValueError(
                "A masked autoencoder learns without classes: leave num_classes out, "
                "and take model.fine_tuned(num_classes) when it is trained."
            )
        if (
            self.decoder_hidden_dim % self.decoder_num_heads
            or self.decoder_hidden_dim % 4
        ):
            raise ValueError(
                "decoder_hidden_dim must be divisible by decoder_num_heads and by 4; "
                f"got {self.decoder_hidden_dim} and {self.decoder_num_heads}."
            )
        tokens = np.prod(self.image_shape[:2]) // self.patch_size**2
        if int(tokens * (1 - self.mask_ratio)) < 1:
            raise ValueError(
                "mask_ratio must leave a patch to see; got "
                f"{self.mask_ratio!r} of {tokens} patches."
            )

    def _make_networks(self):
        # The others are of the towers of CLIP and SigLIP.
        names = {*self._ARGUMENTS, "class_token"}.intersection(ViTNetwork.arguments())
        self.network = ViTNetwork(
            **{name: getattr(self, name) for name in names},
            seed=self.seed,
            stream="vit",
            name="vit",
        )
        self.decoder = None
        if self.mae:
            self.decoder = MAEDecoder(
                self.network.grid,
                self.patch_size**2 * self.image_shape[-1],
                self.hidden_dim,
                self.decoder_num_layers,
                self.decoder_hidden_dim,
                self.decoder_num_heads,
                4 * self.decoder_hidden_dim,
                self.class_token,
                self.dropout,
                self.attention_dropout,
                self.layer_norm_epsilon,
                self.remat,
                seed=self.seed,
                stream="mae",
                name="decoder",
            )

    # Training

    def check_data(self, x, condition, weight):
        check_pixels(x, self.image_shape, self.patch_size, exact=True)
        if not self.mae and not self.num_classes:
            raise ValueError(
                "This ViT has nothing to learn: make it with num_classes= or mae=True."
            )
        check_labels(
            condition,
            self.num_classes,
            len(x),
            "A masked autoencoder",
            "Leave them out.",
        )
        check_sample_weight(weight, len(x))

    def default_optimizer(self, player):
        """AdamW with clipping: 1e-3 and decay 0.05; of a masked autoencoder 1.5e-4.

        The latter's beta_2 is 0.95 (2111.06377, table 8). Both papers warm the rate up.
        Biases and normalizations do not decay; of a classifier neither do the class
        token and the positions (2012.12877's code; that of 2111.06377 decays tokens).
        """
        del player
        variables = self.players["vit"].variables
        if self.mae:
            optimizer = keras.optimizers.AdamW(1.5e-4, weight_decay=0.05, beta_2=0.95)
            return decaying(optimizer, variables)
        optimizer = keras.optimizers.AdamW(1e-3, weight_decay=0.05, clipnorm=1.0)
        return decaying(optimizer, variables, but=("token", "table"))

    def train_step(self, data):
        images, labels, weight = tensors(data)
        tokens = self.network.grid[0] * self.network.grid[1]
        draw = None
        if self.mae:
            shape = (ops.shape(images)[0], tokens)
            draw = self.noise.uniform("mask", shape, dtype="float32")

        def loss_fn(images, labels, weight, draw):
            loss, accuracy = self.objective(images, labels, weight, draw, training=True)
            if accuracy is not None:
                self.track("accuracy", ops.stop_gradient(accuracy))
            return loss

        self.minimize("vit", loss_fn, images, labels, weight, draw)

    def test_step(self, data):
        images, labels, weight = tensors(data)
        draw = None
        if self.mae:
            # What is masked follows from the image's place in the data.
            first = self.samples_seen() + replicas.offset()
            key = random.key(self.seed, "evaluate/mask")
            shape = (ops.shape(images)[0], self.network.grid[0] * self.network.grid[1])
            draw = random.uniform(key, shape, dtype="float32", offset=first)
        loss, accuracy = self.objective(images, labels, weight, draw, training=False)
        if accuracy is not None:
            self.track("accuracy", accuracy)
        self.track("vit", loss)

    def objective(self, images, labels, weight, draw, training):
        """`(loss, accuracy)` of a batch; the accuracy of a masked autoencoder is None.

        Args:
            images: `(B, H, W, C)`.
            labels: int32 `(B,)`, or None.
            weight: `(B,)`, or None.
            draw: uniform numbers `(B, T)`, or None: the patches of the largest are
                masked.
            training: whether there is dropout.
        """
        if self.mae:
            made, masked, target = self.painted(images, draw, training)
            errors = ops.mean(ops.square(made - target), axis=-1)  # (B, T)
            # Every image has as many masked patches.
            errors = ops.sum(errors * masked, axis=-1) / ops.sum(masked, axis=-1)
            return mean_over_samples(errors, weight), None
        logits = self.network.logits(self.network(images, training=training))
        wanted = ops.one_hot(labels, self.num_classes, dtype=logits.dtype)
        share = self.label_smoothing
        smooth = (1.0 - share) * wanted + share / self.num_classes
        losses = ops.categorical_crossentropy(smooth, logits, from_logits=True)
        right = ops.cast(backend.argmax(logits) == labels, losses.dtype)
        return mean_over_samples(losses, weight), mean_over_samples(right, weight)

    def painted(self, images, draw, training=False):
        """What the decoder makes of the patches that are left (2111.06377, section 3).

        Args:
            images: `(B, H, W, C)`.
            draw: numbers `(B, T)`: the patches of the least are seen.
            training: whether there is dropout.

        Returns:
            `(patches, masked, target)`: float32 `(B, T, p * p * C)`; `(B, T)`, 1 where
            masked; and what the patches should be.
        """
        tokens = draw.shape[1]
        kept = int(tokens * (1 - self.mask_ratio))
        order = ops.cast(ops.argsort(draw, axis=1), "int32")  # (B, T)
        restore = ops.cast(ops.argsort(order, axis=1), "int32")
        states = self.network(images, keep=order[:, :kept], training=training)
        made = self.decoder(states, restore, training=training)
        masked = ops.cast(restore >= kept, made.dtype)
        target = widen(patchify(images, self.patch_size))
        if self.normalized_pixels:
            mean, deviation = self._moments(target)
            target = (target - mean) / deviation
        return made, masked, target

    def _moments(self, patches):
        """Mean and deviation of the pixels of each patch, each `(B, T, 1)`."""
        count = patches.shape[-1]
        mean = ops.mean(patches, axis=-1, keepdims=True)
        square = ops.sum(ops.square(patches - mean), axis=-1, keepdims=True)
        return mean, ops.sqrt(square / (count - 1) + 1e-6)

    # Configuration

    def get_config(self):
        return configuration(self, self._ARGUMENTS)

    # Inference

    def call(self, images, training=False):
        """Logits `(B, K)` of `(B, H, W, C)`; without classes vectors `(B, D)`."""
        check_size(images.shape, self.image_shape, self.patch_size)
        states = self.network(images, training=training)
        if self.num_classes:
            return self.network.logits(states)
        return self.network.features(states)

    def hidden_states(self, images):
        """The normalised tokens `(B, 1 + T, D)`, the class's first if there is one."""
        check_size(np.shape(images), self.image_shape, self.patch_size)
        return self.network(ops.convert_to_tensor(images))

    def _run(self, name, fn, images, batch_size):
        images = np.asarray(images)
        check_pixels(images, self.image_shape, self.patch_size)
        images, variables = images.astype("float32"), self.network.variables
        # Each size is a function of its own: patches are cut by known sides.
        name = (name, *images.shape[1:3])
        return self.run_in_batches(name, fn, variables, [images], batch_size)

    @checked()
    def embed(self, images, *, batch_size=64):
        """One vector for each image: of its token, or the mean of its patches.

        Args:
            images: floats `(N, H, W, C)`.
            batch_size: images in one pass.

        Returns:
            NumPy float32 `(N, D)`.
        """

        def run(images):
            return widen(self.network.features(self.network(images)))

        return self._run("embed", run, images, batch_size)

    @checked()
    def classify(self, images, *, batch_size=64):
        """The probabilities of the classes of each image, NumPy float32 `(N, K)`.

        Args:
            images: floats `(N, H, W, C)`.
            batch_size: images in one pass.
        """
        if not self.num_classes:
            raise ValueError("This ViT has no classes: make it with num_classes=.")

        def run(images):
            return ops.softmax(self.network.logits(self.network(images)))

        return self._run("classify", run, images, batch_size)

    @checked()
    def attention_maps(self, images, *, batch_size=64):
        """How much each token looks at each.

        Tokens are the class's, where there is one, and the patches row by row.

        Args:
            images: floats `(N, H, W, C)`.
            batch_size: images in one pass.

        Returns:
            NumPy float32 `(N, blocks, num_heads, 1 + T, 1 + T)`; the last axis sums to
            1.
        """

        def run(images):
            _, weights = self.network(images, return_weights=True)
            return ops.stack(weights, axis=1)

        return self._run("maps", run, images, batch_size)

    @checked()
    def paint(self, images, *, seed=0, batch_size=64):
        """Hides patches of images and paints them, with `mae=True`.

        Args:
            images: floats `(N, H, W, C)` of the model's size.
            seed: integer >= 0: which patches are masked.
            batch_size: images in one pass.

        Returns:
            `(painted, masked)`: NumPy float32 `(N, H, W, C)`, what was masked as it is
            painted and the rest as it was; and `(N, H, W, 1)`, 1 where masked.
        """
        if not self.mae:
            raise ValueError("This ViT does not paint: make it with mae=True.")
        images = np.asarray(images)
        check_pixels(images, self.image_shape, self.patch_size, exact=True)
        grid, side = self.network.grid, self.patch_size
        key = random.key(random.check_seed(seed), "paint")
        shape = (len(images), grid[0] * grid[1])
        draw = random.uniform(key, shape, host=True)

        def run(images, draw):
            made, masked, _ = self.painted(images, draw)
            patches = widen(patchify(images, side))
            if self.normalized_pixels:
                mean, deviation = self._moments(patches)
                made = made * deviation + mean
            masked = ops.expand_dims(masked, -1)
            made = masked * made + (1.0 - masked) * patches
            channels = self.image_shape[-1]
            one = masked * ops.ones((1, 1, side * side), masked.dtype)
            return ops.concatenate(
                [
                    unpatchify(made, side, grid, channels),
                    unpatchify(one, side, grid, 1),
                ],
                axis=-1,
            )

        variables = [*self.network.variables, *self.decoder.variables]
        arrays = [images.astype("float32"), draw]
        both = self.run_in_batches("paint", run, variables, arrays, batch_size)
        return both[..., :-1], both[..., -1:]

    @checked()
    def fine_tuned(self, num_classes, image_shape=None, **arguments):
        """A classifier that begins with this model's weights, for a fit of its own.

        Args:
            num_classes: K of the new model.
            image_shape: of the new model, to which the places are interpolated; by
                default this one's.
            **arguments: others of the constructor, such as `dropout` or `pooling`.

        Returns:
            `ViT`.
        """
        check_positive("num_classes", num_classes)
        config = deserialized(self.get_config())
        config.pop("name")
        config |= {"mae": False, "num_classes": num_classes, **arguments}
        config["image_shape"] = image_shape or self.image_shape
        model = type(self)(**config)
        if model.class_token and not self.class_token:
            raise ValueError("This model has no token: keep pooling='mean'.")
        old, new = self.network, model.network
        for i, block in enumerate(new.blocks):
            if i < len(old.blocks):
                _copy(old.blocks[i], block)
        for name in ("patches", "norm", "pool"):
            if getattr(new, name) is not None and getattr(old, name) is not None:
                _copy(getattr(old, name), getattr(new, name))
        if new.token is not None:
            new.token.assign(backend.to_host(old.token.value))
        if new.table is not None and old.table is not None:
            new.table.assign(self._table_for(model))
        return model

    def _table_for(self, model):
        """This model's places on another's grid."""
        front = int(self.class_token)
        table = ops.convert_to_tensor(self.network.table)
        if front and not model.class_token:
            table, front = table[:, 1:], 0
        body = resized(table[0, front:], self.network.grid, model.network.grid)
        return ops.concatenate([table[0, :front], body], axis=0)[None]

    def export_signatures(self):
        """`embed`: `images` -> `embeddings`; with classes `logits`, first."""
        inputs = [("images", (None, *self.image_shape), "float32")]

        def embed(images):
            return {"embeddings": widen(self.network.features(self.network(images)))}

        def logits(images):
            return {"logits": self.network.logits(self.network(images))}

        made = {"embed": (embed, inputs)}
        return {"logits": (logits, inputs), **made} if self.num_classes else made


def _copy(old, new):
    """The weights of a layer in another; its counters of noise begin anew.

    Copies: a `fit` of the one may take the memory of its weights for the new ones.
    """
    pairs = zip(old.trainable_variables, new.trainable_variables, strict=True)
    for a, b in pairs:
        b.assign(backend.to_host(a.value))


def check_size(shape, image_shape, side):
    """Refuses images of a shape that the patches do not divide."""
    ok = len(shape) == 4 and shape[-1] == image_shape[-1]
    if not ok or any(not n or n % side for n in shape[1:3]):
        raise ValueError(
            f"Images must have the shape (N, H, W, {image_shape[-1]}), channels last, "
            f"with sides divisible by {side}; got {tuple(shape)}."
        )


def check_pixels(images, image_shape, side, exact=False):
    """Refuses images that are no floats, not finite, or of another shape."""
    check_size(np.shape(images), image_shape, side)
    if exact and tuple(np.shape(images)[1:]) != tuple(image_shape):
        raise ValueError(
            f"Images must have the model's shape {image_shape}; got "
            f"{np.shape(images)[1:]}. For other sizes: model.fine_tuned(num_classes, "
            "image_shape=)."
        )
    if not np.issubdtype(images.dtype, np.floating):
        raise ValueError(
            f"Images must be floats, scaled; got the type {images.dtype}. Scale 8-bit "
            "images by images.astype('float32') / 127.5 - 1."
        )
    if len(images) == 0:
        raise ValueError("The data holds no images; at least one is needed.")
    if not np.isfinite(images).all():
        raise ValueError("Images must be finite numbers; some are not.")
