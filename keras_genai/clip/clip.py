"""CLIP: one space of images and texts (2103.00020), by softmax or by sigmoid."""

import math

import keras
import numpy as np
from keras import ops

from keras_genai import backend
from keras_genai.backend import replicas
from keras_genai.backend.precision import dtype_policy
from keras_genai.clip import captions as captions_lib
from keras_genai.clip.image_encoder import ImageEncoder, variables_of
from keras_genai.clip.index import Index, nearest
from keras_genai.clip.resnet import ResNetTower
from keras_genai.clip.scale import LogitScale, unit_vectors
from keras_genai.clip.shapes import channels_of, image_shape_of, output_dim_of
from keras_genai.clip.sizes import (
    CLIP_MEAN,
    CLIP_STD,
    HALF,
    arguments_of,
    towers_of,
)
from keras_genai.clip.towers import ImageTower, TextTower
from keras_genai.layers import BatchNormalization, Dense, lora
from keras_genai.layers.embedding import check_ids
from keras_genai.layers.initializers import Normal
from keras_genai.losses.contrastive import clip_loss, siglip_loss
from keras_genai.training import Model
from keras_genai.training import captions as data_lib
from keras_genai.training.compiled import Range
from keras_genai.training.gradient_accumulation import outputs_of_parts
from keras_genai.training.optimizer import decaying, inner, optimizer_of
from keras_genai.training.tuning import Tuning
from keras_genai.transformers import Tokenizer
from keras_genai.utils.arguments import checked
from keras_genai.utils.serialization import PACKAGE, configuration
from keras_genai.utils.validation import (
    either,
    flag,
    function,
    having,
    integer,
    network,
    number,
    one_of,
    prompts,
    sides,
    text,
    tuple_of,
)
from keras_genai.weights.pretrained import Pretrained

# At the beginning: 2103.00020, section 2.5; 2303.15343, section 3.2.
TEMPERATURE = 0.07
SIGMOID_SCALE, SIGMOID_BIAS = 10.0, -10.0
MOST = 100.0  # of the scale, 2103.00020, section 2.5

_per_channel = either(number(), tuple_of(number()))


@keras.saving.register_keras_serializable(PACKAGE)
class CLIP(ImageEncoder, Tuning, Pretrained, Model):
    """CLIP (2103.00020) and SigLIP (2303.15343): images and texts as unit vectors.

    Two towers learn from pairs alone: of a batch, each image's text is to be the most
    similar one, and each text's image. `fit({"images": images, "captions": texts})`
    trains; `encode_image` and `encode_text` give vectors, `similarity` the logits of
    all pairs, `model({"images": ..., "tokens": ...})` the same as a tensor.

    Data are a dict. `"images"`: floats `(N, H, W, C)` in [-1, 1], to which the
    published mean and standard deviation are applied here. `"captions"`: a list of
    strings, or of lists of strings, of which each step draws one by noise keyed by the
    sample (an evaluation takes the first); or `"tokens"`: what `tokenize` makes of
    them. With `sample_weight`, pairs count by their weights.

    Over several devices, the loss is that of the global batch. With
    `compile(accumulate=k)` the towers see the batch in k parts and the loss is that of
    the whole, from embeddings kept between two passes (2101.06983).

    A tower is locked by `model.image_tower.trainable = False` before `compile`
    (2111.07991). LoRA: `enable_lora(rank, towers=("image",))`. Gains, biases and the
    temperature do not decay.

    Published weights (`from_pretrained`, `save_pretrained`): transformers' `CLIPModel`
    and `SiglipModel`, and OpenCLIP's folders (`open_clip_config.json`) of a vision
    transformer or a ResNet. A tokenizer in the folder is taken along.

    Args:
        image_tower: a built Keras layer or model, images `(B, H, W, C)` to vectors
            `(B, D)` or to features `(B, ..., D)`, whose mean is taken:
            `kg.clip.ImageTower`, `kg.clip.ResNetTower`, or any network of Keras.
        text_tower: a `kg.clip.TextTower`, or a built layer or model from token ids
            `(B, T)` to `(B, D)` that has a `vocabulary_size` and a
            `max_sequence_length`.
        embed_dim: E, channels of the embeddings. A tower that gives another number
            gets a linear map behind it.
        tokenizer: a `kg.Tokenizer`; then texts may be given.
        loss: `"softmax"` (CLIP) or `"sigmoid"` (SigLIP).
        image_size: side of the images, or `(height, width)`; by default the tower's.
        mean, std: of each channel of images in [0, 1]; the towers see
            `(x - mean) / std`. By default 0.5: what they see is what is given.
        pad_token_id: what fills rows of tokens; by default the tokenizer's `fill_id`,
            else the end token.
        mask_equal_captions: whether pairs of equal captions in a batch count as
            neither: not as negatives of one another.
        max_logit_scale: the scale is clamped at it after each step; by default 100 with
            the softmax, and with the sigmoid not at all.
        layer_decay: factor of the learning rate from each block to the one below it,
            in (0, 1], for fine-tuning (2106.08254, appendix): the embeddings of a tower
            of n blocks have `layer_decay ** (n + 1)`.
        seed: integer >= 0: noise, shuffling and the maps behind the towers follow from
            it.

    Raises:
        ValueError: for an argument out of range, before any work.

    Example:

    ```python
    model = kg.CLIP(
        kg.clip.ImageTower((32, 32, 3), 8, 4, 128, 4, projection_dim=64),
        kg.clip.TextTower(2000, 32, 4, 128, 4, projection_dim=64,
                          eos_token_id=tokenizer.eos_token_id),
        embed_dim=64, tokenizer=tokenizer)
    model.compile()                                       # AdamW(5e-4)
    model.fit({"images": images, "captions": captions}, batch_size=256, epochs=10)
    model.similarity(images[:8], ["a red heart", "a dog"])          # (8, 2)

    model = kg.CLIP.from_pretrained("openai/clip-vit-base-patch32")
    ```
    """

    weights_module = "clip"
    weights_part = None
    tokenizer_class = Tokenizer
    image_tower_class = ImageTower
    resnet_tower_class = ResNetTower
    text_tower_class = TextTower
    published_moments = {"clip": (CLIP_MEAN, CLIP_STD), "siglip": (HALF, HALF)}
    max_shard_size = "50GB"

    _ARGUMENTS = (
        "embed_dim",
        "loss",
        "image_size",
        "mean",
        "std",
        "pad_token_id",
        "mask_equal_captions",
        "max_logit_scale",
        "layer_decay",
    )

    @checked(
        image_tower=network,
        text_tower=having(
            "variables call get_config vocabulary_size max_sequence_length",
            "a kg.clip.TextTower, or a Keras layer with vocabulary_size and "
            "max_sequence_length",
        ),
        embed_dim=integer(1),
        loss=one_of("softmax", "sigmoid"),
        image_size=sides(),
        mean=_per_channel,
        std=_per_channel,
        mask_equal_captions=flag,
        max_logit_scale=number("> 0"),
        layer_decay=number("(0, 1]"),
    )
    def __init__(
        self,
        image_tower,
        text_tower,
        embed_dim=512,
        *,
        tokenizer=None,
        loss="softmax",
        image_size=None,
        mean=HALF,
        std=HALF,
        pad_token_id=None,
        mask_equal_captions=False,
        max_logit_scale=None,
        layer_decay=1.0,
        seed=0,
        **kwargs,
    ):
        super().__init__(seed=seed, **kwargs)
        self.image_tower = image_tower
        self.text_tower = text_tower
        self.embed_dim = embed_dim
        self.tokenizer = tokenizer
        self.loss_name = loss
        self.image_shape = image_shape_of(image_tower, image_size)
        self.image_size = self.image_shape[:2]
        self.mean, self.std = (
            channels_of(name, value, self.image_shape[2])
            for name, value in (("mean", mean), ("std", std))
        )
        if min(self.std) <= 0.0:
            raise ValueError(f"std must be numbers over 0; got {std!r}.")
        self.mask_equal_captions = mask_equal_captions
        self.max_logit_scale = max_logit_scale
        self.layer_decay = layer_decay
        self.vocabulary_size = text_tower.vocabulary_size
        self.max_sequence_length = text_tower.max_sequence_length
        self.pad_token_id = self._padding(pad_token_id)
        towers = {"image_tower": image_tower, "text_tower": text_tower}
        if layer_decay != 1.0:
            for name, tower in towers.items():
                if not hasattr(tower, "levels"):
                    raise ValueError(
                        "layer_decay needs towers that say what is below what, by a "
                        f"method levels() as kg.clip.ImageTower; {name} has none."
                    )
        self.image_projection = self.text_projection = None
        with dtype_policy(kwargs.get("dtype")):
            for name, tower in towers.items():
                width = output_dim_of(
                    name, tower, self.image_shape, self.max_sequence_length
                )
                if width != embed_dim:
                    place = name.replace("tower", "projection")
                    setattr(self, place, self._projection(place, width))
            sigmoid = loss == "sigmoid"
            self.scale = LogitScale(
                SIGMOID_SCALE if sigmoid else 1.0 / TEMPERATURE,
                SIGMOID_BIAS if sigmoid else None,
                name="scale",
            )
        names = [*towers, "image_projection", "text_projection", "scale"]
        self.set_players(
            "clip",
            networks={"clip": [n for n in names if getattr(self, n) is not None]},
            hidden_metrics=["chance"],
        )

    def _projection(self, name, width):
        layer = Dense(
            self.embed_dim,
            use_bias=False,
            kernel_initializer=Normal(
                width**-0.5, seed=self.seed, stream=f"clip/{name}"
            ),
            name=name,
        )
        layer.build((None, width))
        return layer

    def _padding(self, given):
        tower, tokenizer = self.text_tower, self.tokenizer
        if tokenizer is not None:
            tokenizer.check_fits(self.vocabulary_size, "the text tower")
        if given is None:
            end = getattr(tower, "eos_token_id", None) or 0
            end = end if end < self.vocabulary_size else 0
            given = end if tokenizer is None else tokenizer.fill_id
        if given >= self.vocabulary_size:
            raise ValueError(
                f"pad_token_id must be an id in [0, {self.vocabulary_size}); got "
                f"{given}."
            )
        return given

    @classmethod
    @checked(size=text)
    def from_size(cls, size, *, tokenizer=None, seed=0, **arguments):
        """A published network by its name, with new weights.

        Args:
            size: `"RN50"`, `"RN101"`, `"RN50x4"` to `"RN50x64"`, `"ViT-B/32"`,
                `"ViT-B/16"`, `"ViT-L/14"`, `"ViT-L/14@336px"`, `"ViT-H/14"`,
                `"ViT-g/14"`, `"ViT-bigG/14"`, `"SigLIP-B/16"` (also `-256`, `-384`,
                `-512`), `"SigLIP-L/16-256"`, `"SigLIP-L/16-384"`,
                `"SigLIP-So400m/14-224"` or `"SigLIP-So400m/14-384"`. The activations
                are OpenAI's of B and L, OpenCLIP's of H, g and bigG.
            tokenizer: see `CLIP`. Its vocabulary, and its end token, are the text
                tower's.
            seed: see `CLIP`; of the towers, too.
            **arguments: others of `CLIP`.

        Returns:
            `CLIP`.

        Example:

        ```python
        model = kg.CLIP.from_size("ViT-B/32", tokenizer=tokenizer)
        ```
        """
        image, text_, own = arguments_of(size)
        if tokenizer is not None:
            text_["vocabulary_size"] = tokenizer.vocabulary_size
            own.pop("pad_token_id", None)
            if text_.get("eos_token_id") is not None:
                if tokenizer.eos_token_id is None:
                    raise ValueError(
                        "tokenizer must have an end token: texts are read at it."
                    )
                text_["eos_token_id"] = tokenizer.eos_token_id
        with dtype_policy(arguments.get("dtype")):
            towers = towers_of(image, text_, seed)
        return cls(*towers, **{**own, **arguments}, tokenizer=tokenizer, seed=seed)

    # Data

    @property
    def end_token_id(self):
        """The id that ends each text, or None."""
        return getattr(self.text_tower, "eos_token_id", None)

    @checked(truncate=flag)
    def tokenize(self, texts, *, truncate=False):
        """The token ids of texts, as the text tower takes them.

        Args:
            texts: a string, a list of strings, or a list of lists of strings, several
                captions of each image.
            truncate: whether texts that are too long are cut, the end token kept, with
                a warning that says how many; else they are an error.

        Returns:
            int32 `(N, T)`, T the tower's `max_sequence_length`; of lists `(N, K, T)`,
            rows of -1 where there are fewer than K captions.

        Raises:
            ValueError: a text is too long or has no tokens, or there is no tokenizer.
        """
        return data_lib.tokenized(self, texts, truncate)

    def check_data(self, x, condition, weight):
        captions_lib.check(self, x, condition, weight)

    # Training

    def fit(self, x=None, *args, validation_data=None, callbacks=None, **kwargs):
        """Trains on pairs: see `kg.Model.fit`.

        After the first epoch that ends behind fifty steps a warning is given where the
        softmax loss has not left `log(batch)`, which it is where nothing is learned.

        Args:
            x: dict of `"images"` and `"captions"` or `"tokens"`, or an iterable of such
                dicts; a `PyDataset`'s may hold captions, others' hold tokens.

        Raises:
            ValueError: for data that do not fit, or batches of one pair, of which the
                softmax learns nothing.
        """
        x = data_lib.prepared(self, x)
        captions_lib.check_batches(self, x, *args, **kwargs)
        callbacks = callbacks if isinstance(callbacks, (list, tuple)) else [callbacks]
        callbacks = [c for c in callbacks if c is not None]
        if self.loss_name == "softmax":
            callbacks.append(captions_lib.StuckLoss())
        return super().fit(
            x,
            *args,
            validation_data=data_lib.prepared_validation(self, validation_data),
            callbacks=callbacks,
            **kwargs,
        )

    def evaluate(self, x=None, *args, **kwargs):
        """The loss on pairs, each of the first caption: see `kg.Model.evaluate`."""
        return super().evaluate(data_lib.prepared(self, x), *args, **kwargs)

    def train_on_batch(self, x, *args, **kwargs):
        """One step on one batch: see `keras.Model.train_on_batch`."""
        return super().train_on_batch(data_lib.prepared(self, x), *args, **kwargs)

    def test_on_batch(self, x, *args, **kwargs):
        return super().test_on_batch(data_lib.prepared(self, x), *args, **kwargs)

    def default_optimizer(self, player):
        """AdamW as the papers': 5e-4 and decay 0.2; with the sigmoid 1e-3 and 1e-4.

        2103.00020, tables 19 and 20, of ViT-B/32 and RN50; 2303.15343, section 4. Both
        warm the rate up and let it fall by a cosine.
        """
        del player
        if self.loss_name == "sigmoid":
            return keras.optimizers.AdamW(1e-3, weight_decay=1e-4, beta_2=0.95)
        resnet = isinstance(self.image_tower, ResNetTower)
        beta_2, epsilon = (0.999, 1e-8) if resnet else (0.98, 1e-6)
        return keras.optimizers.AdamW(
            5e-4, weight_decay=0.2, beta_2=beta_2, epsilon=epsilon
        )

    @checked(accumulate=integer(1))
    def compile(self, optimizer=None, *, accumulate=1, **kwargs):
        """Configures training: see `kg.Model.compile`.

        Args:
            optimizer: by default the papers', see `default_optimizer`. Of one with
                weight decay, gains, biases, the temperature and the class token are
                left out (2103.00020, section 2.5), where it does not say itself.
            accumulate: into how many parts a step cuts each batch for the towers; the
                loss remains that of the whole batch.

        Raises:
            ValueError: `accumulate` with batch normalization that is not frozen, whose
                statistics would be each part's own.
        """
        if optimizer is None:
            optimizer = self.default_optimizer("clip")
        optimizer = optimizer_of("optimizer", optimizer)
        own = inner(optimizer)
        if not own.built and not hasattr(own, "_exclude_from_weight_decay"):
            decaying(own, self.players["clip"].variables, but=("token",))
        if accumulate != 1:
            self._check_no_statistics()
        super().compile(optimizer, accumulate=accumulate, **kwargs)

    def _check_no_statistics(self):
        kinds = BatchNormalization, keras.layers.BatchNormalization
        layers = self.players["clip"]._flatten_layers()
        found = [x.name for x in layers if isinstance(x, kinds) and x.trainable]
        if found:
            raise ValueError(
                "accumulate keeps the contrast of the whole batch by two passes that "
                "must be equal; batch normalization "
                f"({len(found)} layers, {found[0]} the first) moves its statistics and "
                "takes those of a part. Leave accumulate out, or freeze the tower: "
                "model.image_tower.trainable = False."
            )

    def rate_factors(self, player):
        """See `layer_decay`."""
        if self.layer_decay == 1.0:
            return []
        factors = []
        for tower in (self.image_tower, self.text_tower):
            levels = tower.levels()
            top = len(levels) - 1
            for i, variables in enumerate(levels):
                factors += [(v, self.layer_decay ** (top - i)) for v in variables]
        return factors

    def train_step(self, data):
        images, tokens, weight = self._inputs(data)
        rows = ops.shape(images)[0]
        if images.shape[0] == 1 and replicas.share() is None:
            captions_lib.check_count(self, 1)
        tokens = data_lib.drawn(tokens, self.noise)
        if self.accumulate == 1:

            def loss_fn(images, tokens, weight):
                return self.objective(images, tokens, weight, training=True)

            self.minimize("clip", loss_fn, images, tokens, weight)
        else:
            self._minimize_in_parts(images, tokens, weight)
        scale = self.scale.logit_scale
        most = self.max_logit_scale or (MOST if self.loss_name == "softmax" else None)
        if most is not None and scale.trainable:
            scale.assign(ops.minimum(scale.value, math.log(most)))
        self._track_chance(rows)

    def _minimize_in_parts(self, images, tokens, weight):
        """A step whose towers see parts, and whose loss sees the whole (2101.06983).

        First the embeddings of all parts, and the gradient of the loss of the whole by
        them; then each part again, whose loss is its embeddings' product with that.
        """

        def embedded(images, tokens):
            pair = self.image_embeddings(images, training=True)
            pair = pair, self.text_embeddings(tokens, training=True)
            return ops.concatenate(pair, axis=-1)  # (b, 2 E)

        own = outputs_of_parts(self, embedded, (images, tokens))  # (B, 2 E)
        rows = ops.shape(images)[0]
        names = captions_lib.digests(tokens) if self.mask_equal_captions else None
        pairs, names, weight = self._gathered([own, names, weight], rows)

        def whole(pairs):
            halves = ops.split(pairs, 2, axis=-1)
            return self._contrast(*halves, names, weight)

        _, by_pairs = backend.value_and_gradient(whole, pairs)
        positions = ops.arange(rows, dtype="int32")
        positions = positions + ops.cast(replicas.offset(), "int32")
        by_own = ops.take(by_pairs, positions, axis=0)
        count = ops.shape(pairs)[0]

        def loss_fn(images, tokens, by_own):
            # `minimize` weighs a part by its share of the pairs; this sum is a share.
            share = ops.cast(ops.shape(by_own)[0], by_own.dtype)
            share = share / ops.cast(count, by_own.dtype)
            made = ops.sum(by_own * embedded(images, tokens)) / share
            # The value of the whole, and its gradient by temperature and bias.
            return whole(pairs) + made - ops.stop_gradient(made)

        self.minimize("clip", loss_fn, images, tokens, by_own)

    def test_step(self, data):
        images, tokens, weight = self._inputs(data)
        tokens = data_lib.drawn(tokens, None)
        self.track("clip", self.objective(images, tokens, weight, training=False))
        self._track_chance(ops.shape(images)[0])

    def _track_chance(self, rows):
        """The loss where nothing is told apart, for `StuckLoss`."""
        chance = ops.log(ops.cast(replicas.samples(rows), "float32"))
        self.track("chance", chance)

    def _inputs(self, data):
        """A batch as tensors: images, int32 tokens, weight."""
        x, _, weight = data
        data_lib.check_names(self, x)
        images = ops.cast(ops.convert_to_tensor(x["images"]), keras.config.floatx())
        tokens = ops.cast(ops.convert_to_tensor(x["tokens"]), "int32")
        if weight is not None:
            weight = ops.cast(ops.convert_to_tensor(weight), keras.config.floatx())
        return images, tokens, weight

    def objective(self, images, tokens, weight=None, training=False):
        """The loss of a batch, a scalar.

        Args:
            images: `(B, H, W, C)` in [-1, 1].
            tokens: int32 `(B, T)`.
            weight: `(B,)`, or None.
            training: whether there is dropout.
        """
        pairs = (
            self.image_embeddings(images, training=training),
            self.text_embeddings(tokens, training=training),
        )
        names = captions_lib.digests(tokens) if self.mask_equal_captions else None
        rows = ops.shape(images)[0]
        return self._contrast(*self._gathered([*pairs, names, weight], rows))

    def _gathered(self, tensors, rows):
        """Those of all replicas; None stays None."""
        there = [i for i, x in enumerate(tensors) if x is not None]
        found = replicas.gather([tensors[i] for i in there], rows)
        found = dict(zip(there, found, strict=True))
        return [found.get(i) for i in range(len(tensors))]

    def _contrast(self, images, texts, names, weight):
        """The loss of embeddings `(B, E)` of the global batch."""
        excluded = None if names is None else captions_lib.equal_pairs(names)
        loss = clip_loss if self.loss_name == "softmax" else siglip_loss
        return loss(self.scale.logits(images, texts), excluded, weight)

    # Embeddings, of tensors

    def text_embeddings(self, tokens, training=False):
        """Token ids `(B, T)` -> `(B, E)` of length 1, float32."""
        check_ids("Tokens", tokens, self.vocabulary_size)
        x = self.text_tower(tokens, training=training)
        return unit_vectors(
            x if self.text_projection is None else self.text_projection(x)
        )

    def call(self, inputs, training=False):
        """The logits `(N, M)` of `{"images": (N, H, W, C), "tokens": (M, T)}`."""
        data_lib.check_names(self, inputs)
        return self.scale.logits(
            self.image_embeddings(inputs["images"], training=training),
            self.text_embeddings(inputs["tokens"], training=training),
        )

    # Use

    @checked(texts=prompts, truncate=flag)
    def encode_text(self, texts, *, batch_size=64, truncate=False):
        """The embeddings of texts.

        Args:
            texts: a string, a list of strings, or token ids `(N, T)`.
            batch_size: texts in one pass.
            truncate: see `tokenize`.

        Returns:
            NumPy float32 `(N, E)`, each of length 1.

        Raises:
            ValueError: a text is too long; ids outside the vocabulary, without an end
                token or of padding alone.

        Example:

        ```python
        model.encode_text(["a red heart", "a dog"])         # (2, E)
        ```
        """
        tokens = data_lib.ids_of(self, texts, truncate)
        captions_lib.check_tokens_of(self, tokens)
        return self.run_in_batches(
            "encode_text",
            self.text_embeddings,
            self.text_variables(),
            [tokens],
            batch_size,
        )

    @checked(texts=prompts, truncate=flag)
    def similarity(self, images, texts, *, batch_size=64, truncate=False):
        """The logits of all pairs, as the references' `logits_per_image`.

        Args:
            images: see `encode_image`.
            texts: see `encode_text`.
            batch_size: images, and texts, in one pass.
            truncate: see `tokenize`.

        Returns:
            NumPy float32 `(N, M)`: the cosines times the learned scale, and with the
            sigmoid plus the bias. A softmax over M tells which text fits an image; of
            the sigmoid's model, a sigmoid whether one does.
        """
        x = self.encode_image(images, batch_size=batch_size)
        y = self.encode_text(texts, batch_size=batch_size, truncate=truncate)
        return self.logits_of(x, y)

    @checked(texts=prompts, truncate=flag)
    def rank(self, images, texts, k=5, *, batch_size=64, truncate=False):
        """The k texts that fit each image best.

        Args:
            images: see `encode_image`.
            texts: see `encode_text`.
            k: how many of each image, at least 1; all where there are fewer.
            batch_size: images, and texts, in one pass.
            truncate: see `tokenize`.

        Returns:
            List of N lists of `(number, item, score)`, the best first: the number of
            the text, the text (None for token ids), and the cosine.

        Example:

        ```python
        model.rank(images[:1], ["a dog", "a red heart"], k=1)
        # [[Match(number=1, item='a red heart', score=0.294113)]]
        ```
        """
        x = self.encode_image(images, batch_size=batch_size)
        y = self.encode_text(texts, batch_size=batch_size, truncate=truncate)
        texts = [texts] if isinstance(texts, str) else texts
        names = texts if isinstance(texts[0], str) else None
        return nearest(x, y, k, names)

    def index(self, images, items=None, *, batch_size=64):
        """An index of images, in which texts, images or vectors are looked for.

        Args:
            images: see `encode_image`; or vectors `(N, E)` that were encoded before.
            items: list of N strings, the names of the images, or None.
            batch_size: images in one pass.

        Returns:
            `kg.clip.Index`.

        Example:

        ```python
        index = model.index(images, items=names)
        index.search("a red heart", k=3)            # [(number, item, score), ...]
        ```
        """
        return Index(self).add(images, items, batch_size=batch_size)

    def logits_of(self, image_embeddings, text_embeddings):
        """The logits of embeddings `(N, E)` and `(M, E)` of length 1: `(N, M)`.

        All in NumPy, float32: see `similarity`.
        """
        scale, bias = self.scale.numbers()
        made = scale * (np.asarray(image_embeddings) @ np.asarray(text_embeddings).T)
        return (made + bias).astype("float32")

    def text_variables(self):
        """List of the variables that `text_embeddings` reads."""
        return variables_of(self.text_tower, self.text_projection)

    # LoRA

    def tuned_networks(self):
        return [self.image_tower, self.text_tower]

    @checked(
        rank=integer(1),
        targets=either(text, function, tuple_of(text)),
        alpha=number("> 0"),
        also=tuple_of(text, least=0),
        towers=tuple_of(one_of("image", "text")),
    )
    def enable_lora(
        self,
        rank,
        targets=("query", "value"),
        alpha=None,
        also=(),
        towers=("image", "text"),
    ):
        """Trains low-rank changes of dense layers (2106.09685), and the temperature.

        Call `compile` afterwards. `merge_lora` makes the changes part of the weights.

        Args:
            rank, targets, alpha, also: see `kg.GPT.enable_lora`.
            towers: which have them; the other is frozen.

        Raises:
            ValueError: no layer has a name, or there are such changes already.
        """
        chosen = {"image": self.image_tower, "text": self.text_tower}
        lora.check_plain(*chosen.values())
        for i, name in enumerate(chosen):
            if name in towers:
                lora.enable(chosen[name], rank, targets, alpha, self.seed + i, also)
            else:
                for variable in chosen[name].trainable_variables:
                    variable.trainable = False
        for layer in (self.image_projection, self.text_projection):
            for variable in [] if layer is None else layer.trainable_variables:
                variable.trainable = False
        self._forget_compiled()

    # Configuration and export

    @checked(layout=one_of("transformers", "open_clip"))
    def save_pretrained(
        self, folder, dtype="float32", max_shard_size=None, layout=None
    ):
        """Writes the model as transformers, or OpenCLIP, reads it.

        Args:
            folder, dtype, max_shard_size: see `kg.ViT.save_pretrained`; OpenCLIP's
                weights are one file.
            layout: `"transformers"` or `"open_clip"`; by default the first, and
                OpenCLIP's for a ResNet, which transformers has not.

        Raises:
            ValueError: for another dtype, or a network that the library does not have.
            ImportError: `safetensors` is not installed.
        """
        if layout is None and isinstance(self.image_tower, ResNetTower):
            layout = "open_clip"
        super().save_pretrained(folder, dtype, max_shard_size, layout=layout)

    def get_config(self):
        config = configuration(
            self,
            [name for name in self._ARGUMENTS if name != "loss"],
            ("image_tower", "text_tower", "tokenizer"),
        )
        return {**config, "loss": self.loss_name}

    def input_ranges(self):
        return {
            **super().input_ranges(),
            "tokens": Range(least=0, most=self.vocabulary_size - 1),
        }

    def export_signatures(self):
        """`encode_image`: `images` -> `embeddings`; `encode_text`: of `tokens`."""
        images = [("images", (None, *self.image_shape), "float32")]
        tokens = [("tokens", (None, self.max_sequence_length), "int32")]
        return {
            "encode_image": (
                lambda images: {"embeddings": self.image_embeddings(images)},
                images,
            ),
            "encode_text": (
                lambda tokens: {"embeddings": self.text_embeddings(tokens)},
                tokens,
            ),
        }
