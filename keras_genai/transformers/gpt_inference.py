"""What a GPT does when it is trained: score, embed, leave as a SavedModel."""

from keras import ops

from keras_genai import backend
from keras_genai.backend import random
from keras_genai.training.inference import Range
from keras_genai.transformers.checks import check_tokens, filled
from keras_genai.transformers.gpt_writing import GPTWriting, positions_of
from keras_genai.transformers.prompts import Prompts
from keras_genai.transformers.rules import Rules
from keras_genai.utils.arguments import checked
from keras_genai.utils.validation import prompts


class GPTInference(GPTWriting):
    """The part of `GPT` that does not train."""

    def call(self, tokens, mask=None, training=False):
        """The logits of each token's next one, by the average where one is kept.

        Args:
            tokens: integers `(B, T)`.
            mask: bool `(B, T)`, False where a row is padded at its beginning.

        Returns:
            `(B, T, V)`, in float32.
        """
        positions = None
        if mask is not None:
            mask = ops.cast(mask, "bool")
            positions = positions_of(mask)
        return self.run_averaged(
            "network",
            lambda: self.network(
                ops.cast(tokens, "int32"),
                mask=mask,
                positions=positions,
                training=training,
            ),
        )

    def compute_mask(self, inputs, previous_mask):
        """None: what follows is told what is padding, not left to find out."""

    def sampling_variables(self):
        return self.averaged_variables("network")

    # Scores and vectors

    def _rows(self, texts, most):
        """Texts or token ids as `(tokens, lengths)`: arrays `(N, T)` and `(N,)`."""
        prompts = Prompts.of(texts, self, "Texts")
        check_tokens(prompts.tokens, self.vocabulary_size, most)
        return prompts.tokens, prompts.lengths

    @checked(texts=prompts)
    def score(self, texts, batch_size=32):
        """The log-probability of each token given those before it, in nats.

        Args:
            texts: integers `(N, T)`, a list of lists of them, or, with a tokenizer,
                strings.
            batch_size: rows in one pass.

        Returns:
            NumPy float32 `(N, T - 1)`: of the second token on, 0 after a row's end.
        """
        tokens, lengths = self._rows(texts, self.context + 1)
        if tokens.shape[1] < 2:
            raise ValueError("The first token has no score: give at least two.")
        made = self._run(
            "score", self._scores, tokens, lengths, batch_size, self.context + 1
        )
        return made[:, : tokens.shape[1] - 1]

    def _run(self, name, fn, tokens, lengths, batch_size, most):
        """`fn` of rows, which are filled up to a shape that many calls share."""
        how = ((tokens.shape[1],), batch_size, (most,))
        size, width = self.programs.shape(name, len(tokens), *how)
        arrays = [filled(tokens, width, self.fill_token), lengths]
        variables = self.sampling_variables()
        return self.run_in_batches(name, fn, variables, arrays, batch_size, size)

    def _scores(self, tokens, lengths=None):
        tokens = ops.cast(tokens, "int32")
        losses = backend.cross_entropy(tokens[:, 1:], self(tokens[:, :-1]))
        if lengths is None:
            return -losses
        places = ops.arange(1, ops.shape(tokens)[1], dtype="int32")
        real = places < ops.expand_dims(ops.cast(lengths, "int32"), 1)
        return ops.where(real, -losses, ops.zeros_like(losses))

    @checked(texts=prompts)
    def embed(self, texts, batch_size=32):
        """A vector of each text: the mean of its last hidden states.

        Args:
            texts: see `score`.
            batch_size: rows in one pass.

        Returns:
            NumPy float32 `(N, C)`.
        """
        rows = self._rows(texts, self.context)
        return self._run("embed", self._vectors, *rows, batch_size, self.context)

    def _vectors(self, tokens, lengths):
        tokens = ops.cast(tokens, "int32")
        x, _ = self.run_averaged("network", lambda: self.network.hidden_states(tokens))
        x = ops.cast(x, "float32")
        lengths = ops.expand_dims(ops.cast(lengths, "int32"), 1)  # (B, 1)
        real = ops.arange(ops.shape(tokens)[1], dtype="int32") < lengths
        real = ops.expand_dims(ops.cast(real, "float32"), -1)
        total = ops.sum(x * real, axis=1)
        return total / ops.maximum(ops.cast(lengths, "float32"), 1.0)

    # Export

    def input_ranges(self):
        return {
            **super().input_ranges(),
            "tokens": Range(least=0, most=self.vocabulary_size - 1),
            "lengths": Range(least=1),
            "temperature": Range(least=0),
            "top_p": Range(above=0, most=1),
        }

    def export_signatures(self):
        """What `export` writes: name -> (function, its inputs); the first serves.

        - `generate`: `tokens (batch, length)`, filled up behind, `lengths (batch,)`,
          `seed`, `temperature` (0: the most probable token) and `top_p` (1: all tokens)
          -> `tokens (batch, length + new)`, moved to the right so that all prompts end
          at `length`: the whole loop with its cache, until each row has its
          `stop_token` or fills the context.
        - `score`: `tokens (batch, length)` -> `log_probabilities (batch, length - 1)`.
        - `embed`: `tokens` and `lengths` -> `vectors (batch, C)`.
        - `logits`: `tokens` -> `logits (batch, length, V)`.

        A SavedModel of a model with a tokenizer of characters has also `generate_text`:
        strings `texts (batch,)` and the options of `generate` -> `texts`.
        """
        tokens = ("tokens", (None, None), "int32")
        lengths = ("lengths", (None,), "int32")

        def generate(tokens, lengths, seed, temperature, top_p):
            key = random.key(seed, "generate/tokens")
            # At so low a temperature a draw is the largest logit.
            numbers = (ops.maximum(temperature, 1e-6), top_p, None, None, None)
            plan = ("sample", Rules(top_p=1.0).bound(numbers))
            limits = self.context - lengths
            length = ops.shape(tokens)[1] + ops.max(limits)
            made = self.write(tokens, lengths, limits, length, plan, key)
            return {"tokens": made}

        return {
            "generate": (
                generate,
                [
                    *(tokens, lengths, ("seed", (), "int32")),
                    *(("temperature", (), "float32"), ("top_p", (), "float32")),
                ],
            ),
            "score": (
                lambda tokens: {"log_probabilities": self._scores(tokens)},
                [tokens],
            ),
            "embed": (
                lambda tokens, lengths: {"vectors": self._vectors(tokens, lengths)},
                [tokens, lengths],
            ),
            "logits": (lambda tokens: {"logits": self(tokens)}, [tokens]),
        }
