"""What a ViT is used for: classes, vectors of images, painting what is hidden."""

import numpy as np
from keras import ops

from keras_genai import backend
from keras_genai.backend import random
from keras_genai.backend.precision import widen
from keras_genai.layers import lora
from keras_genai.transformers.vit_network import patchify, resized, unpatchify
from keras_genai.utils.arguments import checked
from keras_genai.utils.checks import check_positive
from keras_genai.utils.serialization import deserialized
from keras_genai.utils.validation import either, integer, text


class ViTInference:
    """The part of `ViT` that uses a trained one."""

    def call(self, images, training=False):
        """Logits `(B, K)` of `(B, H, W, C)`; without classes vectors `(B, D)`."""
        check_size(images.shape, self.image_shape, self.patch_size)
        hidden = self.network(images, training=training)
        if self.num_classes:
            return self.network.logits(hidden)
        return self.network.features(hidden)

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
            NumPy float32 `(N, blocks, heads, 1 + T, 1 + T)`; the last axis sums to 1.
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
            seed: integer >= 0: which patches are hidden.
            batch_size: images in one pass.

        Returns:
            `(painted, hidden)`: NumPy float32 `(N, H, W, C)`, what was hidden as it is
            painted and the rest as it was; and `(N, H, W, 1)`, 1 where hidden.
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
            made, hidden, _ = self.painted(images, draw)
            patches = widen(patchify(images, side))
            if self.normalized_pixels:
                mean, deviation = self._moments(patches)
                made = made * deviation + mean
            hidden = ops.expand_dims(hidden, -1)
            made = hidden * made + (1.0 - hidden) * patches
            channels = self.image_shape[-1]
            one = hidden * ops.ones((1, 1, side * side), hidden.dtype)
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

    # Published weights

    @classmethod
    @checked()
    def from_pretrained(cls, source, *, subfolder=None, variant=None, **arguments):
        """A model with published weights, from a folder in transformers' layout.

        Of a `ViTForImageClassification`, a `ViTModel` or a `ViTMAEForPreTraining`.
        With another `num_classes` the file's classifier is left and a new one made;
        with another `image_shape` the places are interpolated.

        Args:
            source: folder with `config.json` and `model.safetensors` (whole or in
                shards), or an id of the Hugging Face hub, `"owner/name"`.
            subfolder: folder within it.
            variant: `"fp16"` for `model.fp16.safetensors`.
            **arguments: of the constructor, beside what the configuration says.

        Raises:
            ValueError: the configuration is of another network, tensors are missing,
                extra or misshapen (lists them), or the weights are a pickle.
            ImportError: `safetensors`, or `huggingface_hub` for an id, is missing.
            OSError: the hub cannot be reached.
        """
        from keras_genai.weights import vit

        return vit.load(cls, source, subfolder, variant, **arguments)

    @checked(dtype=text, max_shard_size=either(text, integer(1)))
    def save_pretrained(self, folder, dtype="float32", max_shard_size="50GB"):
        """Writes the model in transformers' layout.

        Args:
            folder: it is made; `config.json` and the weights in it are replaced.
            dtype: of the weights' file: `"float32"`, `"float16"`, `"bfloat16"` or
                `"float64"`.
            max_shard_size: `"5GB"`, `"200MB"` or a number of bytes: larger weights are
                written in several files beside an index.

        Raises:
            ValueError: for another dtype, or a network that transformers has not.
        """
        from keras_genai.weights import vit

        lora.check_merged(self.network)
        vit.save(self, folder, dtype, max_shard_size)


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
