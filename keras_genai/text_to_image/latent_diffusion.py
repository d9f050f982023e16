"""LatentDiffusion: pictures of texts, by diffusion in an autoencoder's latents.

High-resolution image synthesis with latent diffusion models (2112.10752): an
autoencoder, a text encoder, and a `DDPM` of the latents that attends to the states of
the text. Stable Diffusion 1.x and 2.x are this model.
"""

import keras
import numpy as np
from keras import ops

from keras_genai.backend.precision import widen
from keras_genai.clip import TextTower
from keras_genai.diffusion import DDPM
from keras_genai.text_to_image import caching, generating, signatures
from keras_genai.text_to_image.text_states import (
    check_skip,
    empty_prompt,
    pad_token_of,
    text_states,
    width_of,
)
from keras_genai.training import captions as captions_lib
from keras_genai.training.compiled import Range
from keras_genai.training.data import tensors
from keras_genai.transformers import Tokenizer
from keras_genai.utils.arguments import checked
from keras_genai.utils.checks import check_images, check_sample_weight, check_tokens
from keras_genai.utils.serialization import PACKAGE
from keras_genai.utils.validation import (
    array,
    either,
    flag,
    function,
    having,
    integer,
    number,
    one_of,
    optional,
    path,
    tuple_of,
)
from keras_genai.vaes import AutoencoderKL, DiagonalGaussian

# The checks of arguments that several methods take.
_tiling = {"tile": optional(integer(1)), "overlap": number("[0, 1)")}
_prompted = {
    "prompts": generating.prompts,
    "negative_prompts": generating.prompts,
}
_drawing = {
    **_prompted,
    **_tiling,
    "guidance_scale": either(number(), array(1)),
    "clip_skip": integer(0),
    "height": integer(1),
    "width": integer(1),
    "callback": function,
}


@keras.saving.register_keras_serializable(PACKAGE)
class LatentDiffusion(DDPM):
    """Text to image by latent diffusion (2112.10752).

    A `DDPM` whose images are an autoencoder's latents and whose condition is the
    states of a text. `fit({"images": images, "captions": texts})` trains it, with
    every schedule, prediction, weighting and sampler of `DDPM`; `generate(prompts)`
    draws, `img2img`, `inpaint`, `vary` and `interpolate` edit.

    Data are a dict: `"images"`, floats `(N, H, W, C)` in [-1, 1]; `"captions"`, a list
    of strings or of lists of strings, of which each step draws one, or `"tokens"`, what
    `tokenize` makes of them. A lazy folder with captions
    (`kg.datasets.folder(..., lazy=True)`) will do. Each step draws latents from the
    autoencoder's posterior. Captions are left out at `condition_dropout` for the empty
    prompt, from which guidance leads away.

    Without a text encoder it is latent diffusion of labels, or of nothing: the network
    and `fit(images, labels)` as in `DDPM`.

    Published weights (`from_pretrained`, `save_pretrained`): diffusers' folders of
    `StableDiffusionPipeline`, Stable Diffusion 1.x and 2.x, of the parts `vae`, `unet`,
    `text_encoder`, `tokenizer` and `scheduler`.

    Args:
        autoencoder: a built `kg.AutoencoderKL`, or a model with its `posterior`,
            `decoder`, `factor` and `latent_channels`. It does not train here: its
            `trainable` is set to False. None for diffusion of the pixels themselves.
        network: see `DDPM`; of latents, `(H / factor, W / factor, latent_channels)`. By
            default a `kg.UNet` that attends to the text.
        text_encoder: a built layer or model, token ids `(B, T)` to states `(B, T, E)`,
            with a `vocabulary_size` and a `max_sequence_length`: `kg.clip.TextTower`,
            `kg.BERT`, or one's own; or None.
        tokenizer: a `kg.Tokenizer`; then captions and prompts may be texts.
        schedule, parameterization: see `DDPM`.
        image_shape: `(H, W, C)` of the images; by default that of the network's
            latents, or the autoencoder's.
        train_text_encoder: whether the text encoder trains, and is averaged, with the
            network; else its `trainable` is set to False.
        clip_skip: how many of the text encoder's last blocks are left out.
        text_norm: whether the states go through its last normalization.
        pad_token_id: what fills rows of tokens; by default the tokenizer's `fill_id`,
            else the text encoder's.
        scaling_factor: what latents are multiplied by, so that their standard deviation
            is about 1; by default the autoencoder's.
        shift_factor: what is subtracted from them before; by default the
            autoencoder's.
        condition_dropout, clip, sampler, num_steps, ema_decay, seed and others: see
            `DDPM`. Nothing is clipped by default.

    Raises:
        ValueError: for parts or arguments that do not fit each other, before any work.

    Example:

    ```python
    model = kg.LatentDiffusion(
        autoencoder, text_encoder=tower, tokenizer=tokenizer, train_text_encoder=True)
    model.compile()
    model.fit({"images": images, "captions": captions}, batch_size=64, epochs=50)
    model.generate(["a red heart", "a dog"], n=4, guidance_scale=5.0, seed=0)

    model = kg.LatentDiffusion.from_pretrained("stable-diffusion-v1-5")
    ```
    """

    weights_module = "latent_diffusion"
    autoencoder_class = AutoencoderKL
    text_encoder_class = TextTower
    tokenizer_class = Tokenizer

    _OWN_ARGUMENTS = (
        "train_text_encoder",
        "clip_skip",
        "text_norm",
        "pad_token_id",
        "scaling_factor",
        "shift_factor",
    )

    @checked(
        autoencoder=having(
            "posterior decoder factor latent_channels",
            "a kg.AutoencoderKL, or a model with its posterior, decoder, factor and "
            "latent_channels",
        ),
        text_encoder=having(
            "variables call get_config vocabulary_size max_sequence_length",
            "a kg.clip.TextTower, a kg.BERT, or a Keras layer with vocabulary_size and "
            "max_sequence_length",
        ),
        train_text_encoder=flag,
        clip_skip=integer(0),
        text_norm=flag,
        pad_token_id=optional(integer(0)),
        scaling_factor=number("> 0"),
        shift_factor=number(),
    )
    def __init__(
        self,
        autoencoder=None,
        network=None,
        text_encoder=None,
        tokenizer=None,
        schedule="scaled_linear",
        parameterization="epsilon",
        *,
        image_shape=None,
        train_text_encoder=False,
        clip_skip=0,
        text_norm=True,
        pad_token_id=None,
        scaling_factor=None,
        shift_factor=None,
        clip=None,
        **kwargs,
    ):
        if text_encoder is None and (tokenizer is not None or train_text_encoder):
            raise ValueError(
                "tokenizer and train_text_encoder are for a text_encoder; there is "
                "none."
            )
        # PyTorch takes no layer before Keras's own constructor: see `compose`.
        self.__dict__["_parts"] = (autoencoder, text_encoder)
        self.tokenizer = tokenizer
        self.train_text_encoder = train_text_encoder
        self.clip_skip = clip_skip
        self.text_norm = text_norm
        self.pad_token_id = pad_token_id
        factors = {"scaling_factor": scaling_factor, "shift_factor": shift_factor}
        for (name, value), default in zip(factors.items(), (1.0, None), strict=True):
            value = getattr(autoencoder, name, default) if value is None else value
            setattr(self, name, value)
        self.factor = 1 if autoencoder is None else autoencoder.factor
        self.latent_channels = getattr(autoencoder, "latent_channels", None)
        if text_encoder is not None:
            kwargs["context_shape"] = self._set_text(text_encoder, kwargs)
        shape = _image_shape(image_shape, network, autoencoder)
        _check_channels(network, autoencoder)
        super().__init__(
            network,
            schedule,
            parameterization,
            image_shape=shape,
            clip=clip,
            **kwargs,
        )
        self.renew_null()

    def _set_text(self, encoder, given):
        """Notes what the text encoder is; returns the shape of its states."""
        if given.get("context_shape") is not None:
            raise ValueError("context_shape is the text encoder's: leave it out.")
        check_skip(encoder, self.clip_skip, self.text_norm)
        if self.tokenizer is not None:
            self.tokenizer.check_fits(encoder.vocabulary_size, "the text encoder")
        self.pad_token_id = pad_token_of(self.pad_token_id, encoder, self.tokenizer)
        self.vocabulary_size = encoder.vocabulary_size
        self.max_sequence_length = encoder.max_sequence_length
        self.end_token_id = getattr(encoder, "eos_token_id", None)
        self.null_tokens = empty_prompt(
            self.tokenizer,
            self.max_sequence_length,
            self.pad_token_id,
            self.end_token_id,
        )
        width = width_of(encoder, self.max_sequence_length)
        return (self.max_sequence_length, width)

    # What `DDPM` asks of a model that composes others

    def compose(self):
        self.autoencoder, self.text_encoder = self.__dict__.pop("_parts")
        if self.autoencoder is not None:
            self.autoencoder.trainable = False
        if self.text_encoder is not None and not self.train_text_encoder:
            self.text_encoder.trainable = False

    def trained_parts(self):
        return ("network", "text_encoder") if self.train_text_encoder else ("network",)

    def latent_shape(self, image_shape):
        height, width, channels = image_shape
        if height % self.factor or width % self.factor:
            raise ValueError(
                f"Images must have height and width divisible by {self.factor}, the "
                f"autoencoder's factor; got {(height, width)}."
            )
        return (
            height // self.factor,
            width // self.factor,
            self.latent_channels or channels,
        )

    def to_latents(self, x):
        """Images `(B, H, W, C)` as latents, scaled: the posterior's mean."""
        x = ops.convert_to_tensor(x)
        if self.autoencoder is None:
            return x
        return self._scaled(self.autoencoder.posterior(x).mean)

    def _scaled(self, z):
        shift = self.shift_factor or 0.0
        return (widen(z) - shift) * self.scaling_factor

    def unscaled(self, z):
        """Latents as the autoencoder's decoder takes them."""
        return z / self.scaling_factor + (self.shift_factor or 0.0)

    def from_latents(self, z):
        """The images `(B, H, W, C)` of scaled latents, clipped to [-1, 1]."""
        if self.autoencoder is not None:
            z = widen(self.autoencoder.decoder(self.unscaled(z), training=False))
        return ops.clip(z, -1.0, 1.0)

    def conditions_of(self, y):
        """See `DDPM.conditions_of`; `"tokens"` stay ids until `encoded`."""
        if not isinstance(y, dict) or "tokens" not in y:
            return super().conditions_of(y)
        made = {"tokens": ops.cast(ops.convert_to_tensor(y["tokens"]), "int32")}
        for name, (_, dtype) in self.conditions.shapes.items():
            if name in y:
                made[name] = ops.cast(ops.convert_to_tensor(y[name]), dtype)
        return made

    def null_conditions(self, conditions):
        """The empty prompt, as ids or as states, like `conditions`."""
        given = dict(conditions)
        tokens, made = given.pop("tokens", None), {}
        if tokens is not None:
            made["tokens"] = self._null_rows(tokens)
        if "context" in given and self.train_text_encoder:  # as it is now
            made |= self.encoded({"tokens": self._null_rows(given.pop("context"))})
        return {**super().null_conditions(given), **made}

    def _null_rows(self, like):
        """The ids of the empty prompt `(B, T)`, a row for each of `like`."""
        null = ops.convert_to_tensor(self.null_tokens[None], "int32")
        return ops.repeat(null, ops.shape(like)[0], axis=0)

    def encoded(self, conditions, training=False, clip_skip=None):
        """Conditions with the states of the text in place of its token ids.

        Args:
            conditions: dict of tensors, of `conditions_of`.
            training: whether the text encoder trains in this step.
            clip_skip: in place of the model's own.
        """
        if not conditions or "tokens" not in conditions:
            return conditions
        tokens = conditions["tokens"]
        skip = self.clip_skip if clip_skip is None else clip_skip

        def states(training=False):
            return text_states(
                self.text_encoder, tokens, skip, self.text_norm, training
            )

        if not self.train_text_encoder:
            context = ops.stop_gradient(states())
        elif training:
            context = states(training=True)
        else:
            context = self.run_averaged("network", states)
        given = {**conditions, "context": context}
        return {name: given[name] for name in self.conditions.shapes if name in given}

    def renew_null(self):
        """Encodes the empty prompt anew, after weights of the text encoder changed.

        It is `null_condition["context"]`, what stands for a caption that is left out;
        `fit` does so itself. That of a text encoder that trains is never kept.
        """
        if self.text_encoder is not None and not self.train_text_encoder:
            (states,) = self.encode_prompts(self.null_tokens[None])
            self.null_condition["context"].assign(states)

    # Data

    @checked(truncate=flag)
    def tokenize(self, texts, *, truncate=False):
        """The token ids of captions or prompts, as the text encoder takes them.

        Args:
            texts: a string, a list of strings, or a list of lists of strings, several
                captions of each image. The empty string is the prompt of guidance.
            truncate: whether texts that are too long are cut, the end token kept, with
                a warning that says what is lost; else they are an error.

        Returns:
            int32 `(N, T)`, T the encoder's `max_sequence_length`; of lists `(N, K, T)`,
            rows of -1 where there are fewer than K captions.

        Raises:
            ValueError: a text is too long, or there is no tokenizer.
        """
        self._check_text()
        return captions_lib.tokenized(self, texts, truncate)

    def _check_text(self):
        if self.text_encoder is None:
            raise ValueError("This model has no text encoder: it takes no texts.")

    def check_data(self, x, condition, weight):
        x = x if isinstance(x, dict) else {"images": x}
        latents = x.get("latents")
        images = x.get("images") if latents is None else latents
        if images is None:
            raise ValueError(
                "The data must be a dict with 'images', or what `cache` made of them; "
                f"got {sorted(map(str, x))}."
            )
        count = len(images)
        if latents is None:
            check_images(images, self.image_shape)
        named = {k: v for k, v in x.items() if k not in ("images", "latents")}
        tokens, context = named.pop("tokens", None), named.pop("context", None)
        if self.text_encoder is None:
            self.check_conditions({**named, **self.conditions.named(condition)}, count)
        else:
            known = {*self.conditions.shapes} - {"context"}
            if tokens is None or set(named) != known or condition is not None:
                more = "".join(f", {name!r}" for name in sorted(known))
                raise ValueError(
                    f"The data of this model are a dict of 'images'{more} and of "
                    f"'captions' or 'tokens' alone; got {sorted(map(str, x))}"
                    f"{'' if condition is None else ' and labels'}."
                )
            for name, array_ in named.items():
                self.conditions.check_one(name, np.asarray(array_), count)
            rows = captions_lib.rows_of(tokens, count)
            check_tokens(rows, self.vocabulary_size, self.max_sequence_length)
            if context is not None and np.shape(context)[:-1] != np.shape(tokens):
                raise ValueError("The cached states are not of these tokens.")
        check_sample_weight(weight, count)

    def batch_of(self, data, training):
        x, y, weight = data
        x = dict(x) if isinstance(x, dict) else {"images": x}
        cached = "latents" in x
        given = x["latents"] if cached else x["images"]
        given, _, weight = tensors((given, None, weight))
        z = ops.stop_gradient(self._drawn(given, cached, training))
        if "tokens" not in x:
            return z, self.conditions_of(y), weight
        names = [name for name in ("tokens", "context") if name in x]
        found = captions_lib.drawn_of(
            [ops.convert_to_tensor(x[name]) for name in names],
            self.noise if training else None,
        )
        given = dict(zip(names, found, strict=True))
        if "context" in given:  # cached: the ids have done their work
            del given["tokens"]
        given |= {k: x[k] for k in self.conditions.shapes if k in x and k not in given}
        return z, self.conditions_of(given), weight

    def _drawn(self, x, cached, training):
        """Latents of images, or of cached moments: drawn in training, else the mean."""
        if self.autoencoder is None:
            return x
        if cached:
            posterior = DiagonalGaussian.from_moments(widen(x))
        else:
            posterior = self.autoencoder.posterior(x)
        if not training:
            return self._scaled(posterior.mean)
        noise = self.noise.normal("posterior", ops.shape(posterior.mean))
        noise = ops.cast(noise, posterior.mean.dtype)
        return self._scaled(posterior.sample(noise=noise))

    # Training

    def losses(self, x, condition, t, noise, training):
        condition = self.encoded(condition, training)
        return super().losses(x, condition, t, noise, training)

    @checked(cache=either(flag, path))
    def fit(self, x=None, *args, cache=False, validation_data=None, **kwargs):
        """Trains on images with captions: see `kg.Model.fit`.

        Args:
            x: dict of `"images"` and `"captions"` or `"tokens"`, what `cache` returned,
                an iterable of such dicts, or a lazy folder with captions; without a
                text encoder images, with labels as y.
            cache: True, or the path of a folder: see `cache`.

        Raises:
            ValueError: for data that do not fit, before any step.
        """
        self.renew_null()
        x = self._prepared(x)
        if cache:
            x = caching.cached(self, x, None if cache is True else cache)
        return super().fit(
            x, *args, validation_data=self._prepared_pair(validation_data), **kwargs
        )

    def _prepared(self, x):
        return x if self.text_encoder is None else captions_lib.prepared(self, x)

    def _prepared_pair(self, data):
        if self.text_encoder is None:
            return data
        return captions_lib.prepared_validation(self, data)

    def evaluate(self, x=None, *args, **kwargs):
        """The loss on images with captions: see `kg.Model.evaluate`."""
        return super().evaluate(self._prepared(x), *args, **kwargs)

    def train_on_batch(self, x, *args, **kwargs):
        """One step on one batch: see `keras.Model.train_on_batch`."""
        return super().train_on_batch(self._prepared(x), *args, **kwargs)

    def test_on_batch(self, x, *args, **kwargs):
        return super().test_on_batch(self._prepared(x), *args, **kwargs)

    @checked(path=optional(path))
    def cache(self, x, path=None, *, batch_size=16, verbose=1):
        """Latents and text states of data, found once, for many epochs of `fit`.

        Of the latents the posterior's mean and deviation are kept, so that each epoch
        draws its own. The states of a text encoder that trains are not kept.

        Args:
            x: see `fit`: arrays, or a lazy folder.
            path: of a folder, made if need be, for what does not fit into memory; what
                is there already is used where it was made of the same data by the same
                weights.
            batch_size: images in one pass.
            verbose: 1 shows a progress bar.

        Returns:
            Dict of arrays for `fit`: `"latents"` `(N, h, w, 2 L)`, `"tokens"` and
            `"context"`.

        Raises:
            ValueError: the folder holds a cache of other weights or of other data.

        Example:

        ```python
        data = model.cache({"images": images, "captions": captions}, "cache")
        model.fit(data, epochs=100)
        ```
        """
        return caching.cached(self, self._prepared(x), path, batch_size, verbose)

    # Use

    @checked(**_drawing)
    def generate(
        self,
        prompts=None,
        negative_prompts=None,
        n=1,
        seed=0,
        *,
        num_steps=None,
        guidance_scale=None,
        sampler=None,
        height=None,
        width=None,
        clip_skip=None,
        truncate=False,
        tile=None,
        overlap=0.25,
        callback=None,
        batch_size=8,
        verbose=0,
        **options,
    ):
        """Draws pictures of prompts.

        Picture j of prompt i is number `i n + j`, which its noise follows from with the
        seed alone, not from `batch_size`.

        Args:
            prompts: a string, a list of P strings, token ids `(P, T)`, states of
                `encode_prompts` `(P, T, E)`; or an integer, so many without a prompt.
            negative_prompts: what guidance leads away from, one for all or one for
                each; by default the empty prompt.
            n: pictures of each prompt.
            seed: integer >= 0. The same seed and weights give the same pictures on
                every backend.
            num_steps: of the sampler; by default the model's own.
            guidance_scale: a number, or one for each prompt or picture (2207.12598); 1
                is none. By default 7.5, and 1 where there is no prompt or the model
                never left captions out.
            sampler: see `DDPM.generate`; by default the model's own.
            height, width: of the pictures in pixels, divisible by the autoencoder's
                factor; by default those of `image_shape`.
            clip_skip: in place of the model's own.
            truncate: see `tokenize`.
            tile, overlap: see `kg.AutoencoderKL.decode`: large pictures are decoded in
                tiles.
            callback: function `(done, total, first, preview)`, called after each
                evaluation of the network, `done` of `total`, for the pictures from
                number `first` on; `preview()` decodes what they promise to become.
            batch_size: pictures in one pass.
            verbose: 1 shows a progress bar of the network's evaluations.
            **options: others of `DDPM.generate`: `spacing`, `noise`, `labels`, ...

        Returns:
            NumPy float32 `(P n, H, W, C)` in [-1, 1].

        Raises:
            ValueError: for arguments that do not fit, before any work.
            FloatingPointError: latents or pictures are not finite; says which part.

        Example:

        ```python
        images = model.generate("a red heart", n=4, seed=3, num_steps=20)
        kg.callbacks.save_image("heart.png", images[0], prompts="a red heart", seed=3)
        ```
        """
        batches = self.generate_batches(
            prompts,
            negative_prompts,
            n,
            seed,
            num_steps=num_steps,
            guidance_scale=guidance_scale,
            sampler=sampler,
            height=height,
            width=width,
            clip_skip=clip_skip,
            truncate=truncate,
            tile=tile,
            overlap=overlap,
            callback=callback,
            batch_size=batch_size,
            verbose=verbose,
            **options,
        )
        return np.concatenate(list(batches))

    @checked(**_drawing)
    def generate_batches(
        self,
        prompts=None,
        negative_prompts=None,
        n=1,
        seed=0,
        *,
        guidance_scale=None,
        height=None,
        width=None,
        clip_skip=None,
        truncate=False,
        tile=None,
        overlap=0.25,
        callback=None,
        batch_size=8,
        verbose=0,
        **options,
    ):
        """What `generate` returns, one batch after the other: an iterator."""
        count, conditions = generating.conditions(
            self,
            prompts,
            negative_prompts,
            n,
            guidance_scale,
            clip_skip,
            truncate,
            options,
        )

        def decode(z):
            return self.decode(z, tile=tile, overlap=overlap, batch_size=batch_size)

        if callback is not None:
            told = callback

            def callback(done, total, first, preview):
                told(done, total, first, lambda: decode(preview()))

        latents = super().generate_batches(
            count,
            seed,
            **conditions,
            height=height,
            width=width,
            callback=callback,
            batch_size=batch_size,
            verbose=verbose,
            decode=False,
            **options,
        )
        return (decode(z) for z in latents)

    @checked(latents=array(4, finite=False), **_tiling)
    def decode(self, latents, *, tile=None, overlap=0.25, batch_size=8):
        """The pictures of scaled latents, such as `generate` makes inside.

        Args:
            latents: floats `(N, h, w, L)`.
            tile, overlap: see `kg.AutoencoderKL.decode`.
            batch_size: pictures in one pass.

        Returns:
            NumPy float32 `(N, H, W, C)` in [-1, 1].
        """
        latents = np.asarray(latents, "float32")
        if tile is not None and self.autoencoder is not None:
            z = self.unscaled(latents)
            made = self.autoencoder.decode(
                z, batch_size=batch_size, tile=tile, overlap=overlap
            )
            made = np.clip(made, -1.0, 1.0)
        else:
            made = self.run_in_batches(
                "decode",
                self.from_latents,
                generating.variables_of(self.autoencoder, "decoder"),
                [latents],
                batch_size,
            )
        generating.check_finite(made)
        return made

    @checked(prompts=generating.prompts, clip_skip=integer(0), truncate=flag)
    def encode_prompts(self, prompts, *, clip_skip=None, truncate=False, batch_size=64):
        """The states that the network attends to.

        Args:
            prompts: a string, a list of P strings, or token ids `(P, T)`.
            clip_skip: in place of the model's own.
            truncate: see `tokenize`.
            batch_size: prompts in one pass.

        Returns:
            NumPy float32 `(P, T, E)`, which `generate` takes in place of prompts.
        """
        self._check_text()
        skip = self.clip_skip if clip_skip is None else clip_skip
        check_skip(self.text_encoder, skip, self.text_norm)
        tokens = captions_lib.ids_of(self, prompts, truncate)
        check_tokens(tokens, self.vocabulary_size, self.max_sequence_length, "Prompts")

        def run(tokens):
            given = {"tokens": tokens}
            return self.encoded(given, clip_skip=skip)["context"]

        return self.run_in_batches(
            ("encode_prompts", skip),
            run,
            self.text_variables(),
            [tokens],
            batch_size,
        )

    def text_variables(self):
        """List of the variables that the states of a prompt depend on."""
        if self.train_text_encoder:
            return self.averaged_variables("network")
        return list(self.text_encoder.variables)

    # Editing

    @checked(
        images=array(finite=False),
        **_prompted,
        strength=number("(0, 1]"),
    )
    def img2img(
        self,
        images,
        strength=0.8,
        seed=0,
        *,
        prompts=None,
        negative_prompts=None,
        guidance_scale=None,
        clip_skip=None,
        truncate=False,
        batch_size=8,
        verbose=0,
        **options,
    ):
        """Pictures like others, of prompts: see `DDPM.img2img` (2108.01073).

        Args:
            images: floats `(N, H, W, C)` in [-1, 1].
            strength: share of the steps, in (0, 1]: how far from the images; one step
                at least is done.
            seed: integer >= 0.
            prompts, negative_prompts: one for all, or one for each image.
            guidance_scale, clip_skip, truncate, batch_size, verbose: see `generate`.
            **options: the sampler's arguments of `generate`.

        Returns:
            NumPy float32 like `images`.
        """
        given = generating.of_images(
            self,
            len(images),
            prompts,
            negative_prompts,
            guidance_scale,
            clip_skip,
            truncate,
            options,
        )
        return super().img2img(
            images, strength, seed, batch_size=batch_size, verbose=verbose, **given
        )

    @checked(
        images=array(finite=False),
        mask=array(finite=True),
        **_prompted,
    )
    def inpaint(
        self,
        images,
        mask,
        seed=0,
        *,
        prompts=None,
        negative_prompts=None,
        method=None,
        guidance_scale=None,
        clip_skip=None,
        truncate=False,
        batch_size=8,
        verbose=0,
        **options,
    ):
        """Paints a part of pictures anew, of prompts: see `DDPM.inpaint`.

        Args:
            images: floats `(N, H, W, C)` in [-1, 1].
            mask: booleans, True where to paint: `(H, W)`, `(H, W, 1)` or
                `(N, H, W, 1)`.
            seed: integer >= 0.
            prompts, negative_prompts: one for all, or one for each image.
            method: by default `"concat"` where the network takes the mask, else
                `"blended"`.
            guidance_scale, clip_skip, truncate, batch_size, verbose: see `generate`.
            **options: others of `DDPM.inpaint`: `strength`, `num_steps`, `sampler`, ...

        Returns:
            NumPy float32 like `images`: equal to them outside the mask.
        """
        generating.check_mask(mask)
        given = generating.of_images(
            self,
            len(images),
            prompts,
            negative_prompts,
            guidance_scale,
            clip_skip,
            truncate,
            options,
        )
        if method is None:
            joined = self.concat_channels == (self.latent_channels or 0) + 1
            method = "concat" if joined else "blended"
        return super().inpaint(
            images,
            mask,
            seed,
            method=method,
            batch_size=batch_size,
            verbose=verbose,
            **given,
        )

    @checked(images=array(finite=False), strength=number("(0, 1]"))
    def vary(self, images, n=4, strength=0.6, seed=0, *, prompts=None, **options):
        """Several pictures like each: `img2img` from other noise.

        Args:
            images: floats `(N, H, W, C)` in [-1, 1].
            n: variations of each.
            strength, seed: see `img2img`.
            prompts: one for all, or one for each image.
            **options: of `img2img`.

        Returns:
            NumPy float32 `(N n, H, W, C)`: variation j of image i is number `i n + j`.
        """
        images = np.asarray(images)
        if "negative_prompts" in options:
            negative = generating.for_each(options["negative_prompts"], n)
            options["negative_prompts"] = negative
        prompts = generating.for_each(prompts, n)
        return self.img2img(
            np.repeat(images, n, axis=0), strength, seed, prompts=prompts, **options
        )

    @checked(kind=one_of("spherical", "linear"), seeds=tuple_of(integer(0), length=2))
    def interpolate(
        self,
        a,
        b,
        n=8,
        *,
        kind="spherical",
        num_steps=None,
        batch_size=8,
        seeds=(0, 0),
        **options,
    ):
        """Pictures on the way from one prompt, and seed, to another.

        Args:
            a, b: the two prompts, strings. Or two images `(H, W, C)`: see
                `DDPM.interpolate`.
            n: pictures on the way, both ends included, at least 2.
            kind: `"spherical"` or `"linear"`, of the noise; the states of the prompts
                are joined by a straight line.
            num_steps, batch_size: see `generate`.
            seeds: of the noise at both ends: the first picture is
                `generate(a, seed=seeds[0])`, the last `generate(b, seed=seeds[1])`.
            **options: others of `generate`.

        Returns:
            NumPy float32 `(n, H, W, C)`.
        """
        if not isinstance(a, str) or not isinstance(b, str):
            return super().interpolate(
                a, b, n, kind=kind, num_steps=num_steps, batch_size=batch_size
            )
        return generating.interpolated(
            self,
            (a, b),
            n,
            kind,
            seeds,
            {**options, "num_steps": num_steps, "batch_size": batch_size},
        )

    # Export

    def sampling_variables(self):
        """Those that drawing reads: the network's by its average, and the others'."""
        own = self.averaged_variables("network")
        for name in ("encoder", "decoder"):
            own += generating.variables_of(self.autoencoder, name)
        if self.text_encoder is not None and not self.train_text_encoder:
            own += self.text_encoder.variables
        return [*own, *self.null_condition.values()]

    def input_ranges(self):
        ranges = super().input_ranges()
        if self.text_encoder is not None:
            ranges["tokens"] = Range(least=0, most=self.vocabulary_size - 1)
        return ranges

    def export_signatures(self):
        """What `export` writes: name -> (function, its inputs); the first serves.

        - `generate`: `seed`, `tokens` `(B, T)` and `guidance_scale` -> `images`: text
          encoder, the whole guided loop of the model's `sampler` and `num_steps`, and
          the decoder. The tokenizer lies in the assets as `tokenizer.json`.
        - `encode_text`: `tokens` -> `context`.
        - `denoise`: noisy `latents`, times `t` and the `context` -> `x_0`.
        - `decode`: `latents` -> `images`.

        Without a text encoder, those of `DDPM`.
        """
        if self.text_encoder is None:
            return super().export_signatures()
        return signatures.export_signatures(self)

    def export_assets(self):
        """The tokenizer's files; `tokenizer.json` cuts and fills up by itself."""
        return {} if self.tokenizer is None else signatures.assets(self)

    # Configuration

    def get_config(self):
        config = super().get_config()
        if self.text_encoder is not None:
            del config["context_shape"]
        serialize = keras.saving.serialize_keras_object
        for name in ("autoencoder", "text_encoder", "tokenizer"):
            part = getattr(self, name)
            if part is not None:
                config[name] = serialize(part)
        own = {name: getattr(self, name) for name in self._OWN_ARGUMENTS}
        return {**config, **own}


def _image_shape(given, network, autoencoder):
    """The shape of the images, where none is given."""
    if given is not None or autoencoder is None:
        return given
    latents = getattr(network, "image_shape", None)
    if latents is None:
        return autoencoder.image_shape
    channels = autoencoder.image_shape[-1]
    height, width = (side * autoencoder.factor for side in latents[:2])
    return (height, width, channels)


def _check_channels(network, autoencoder):
    """Refuses a network of latents of other channels than the autoencoder's."""
    made = getattr(network, "out_channels", None)
    if autoencoder is None or made is None:
        return
    channels = autoencoder.latent_channels
    if made not in (channels, 2 * channels):
        raise ValueError(
            f"The network gives {made} channels, and the autoencoder's latents have "
            f"{channels}: they are parts of different models."
        )
