"""What a GPT is trained for: writing on."""

import numpy as np
from keras import ops

from keras_genai.backend import random
from keras_genai.transformers import generation, speculative
from keras_genai.transformers.checks import filled
from keras_genai.transformers.prompts import Prompts, stop_tokens
from keras_genai.transformers.rules import Rules
from keras_genai.transformers.written import Written
from keras_genai.utils.arguments import checked
from keras_genai.utils.validation import (
    either,
    flag,
    integer,
    network,
    number,
    prompts,
    text,
    tuple_of,
    word,
)

# The ways to write whose first argument is a number.
NUMBERED = ("beam", "contrastive")


class GPTWriting:
    """The part of `GPT` that writes."""

    unit_name = "text"

    @checked(
        prompts=either(integer(1, 10**6), prompts),
        stop=either(word, tuple_of(text, least=0)),
        temperature=number(">= 0"),
        top_k=integer(1),
        top_p=number("(0, 1]"),
        min_p=number("[0, 1]"),
        repetition_penalty=number("> 0"),
        no_repeat_ngram=integer(1),
        length_penalty=number(),
        contrastive=number("[0, 1]"),
        draft=network,
        draft_tokens=integer(1, 1000),
        stream=flag,
    )
    def generate(
        self,
        prompts,
        max_new_tokens=None,
        seed=0,
        *,
        temperature=1.0,
        top_k=None,
        top_p=None,
        min_p=None,
        repetition_penalty=1.0,
        no_repeat_ngram=None,
        beam_size=None,
        length_penalty=1.0,
        early_stopping=False,
        contrastive=None,
        draft=None,
        draft_tokens=4,
        stop=(),
        stream=False,
        batch_size=64,
        verbose=0,
    ):
        """Writes on from prompts, or from nothing.

        Row i depends on the seed, its prompt and i alone, not on `batch_size`.

        Args:
            prompts: integers `(N, T)`; a list of lists of them, of any lengths; with a
                tokenizer a string or a list of strings; or the number of texts to write
                that begin with `stop_token`.
            max_new_tokens: by default as many as the context leaves each prompt room
                for.
            seed: integer >= 0.
            temperature: the logits are divided by it; 0 takes the most probable token.
            top_k: draws from that many of the most probable tokens.
            top_p: draws from the most probable tokens that together have that
                probability (1904.09751).
            min_p: draws from the tokens at least that many times as probable as the
                most probable one (2407.01082).
            repetition_penalty: over 1 makes what occurred less probable (1909.05858).
            no_repeat_ngram: no sequence of that many tokens occurs twice.
            beam_size: K, searches for the most probable text by K beams instead of
                drawing: see `generation.beam_search`.
            length_penalty: of beams: over 0 prefers longer texts.
            early_stopping: of beams: whether K ended ones are enough.
            contrastive: the penalty in [0, 1] of contrastive search (2202.06417), among
                `top_k` tokens, instead of drawing.
            draft: a smaller `GPT` of the same vocabulary that proposes tokens, of which
                this model takes those that it would have drawn (2211.17192): the same
                distribution (with temperature 0 the same text), in fewer steps.
            draft_tokens: how many it proposes at a time.
            stop: strings that end a text, beside the `stop_token`; they are not in it.
            stream: an iterator is returned of the pieces of what is written on from one
                prompt, as they come: strings, or token ids.
            batch_size: rows in one pass.
            verbose: 1 prints what is written on from a single prompt as it comes, or
                shows a progress bar of several.

        Returns:
            Of strings, strings: prompt and continuation. Of lists, a list of NumPy
            arrays that end where the text ends. Else NumPy int32 `(N, T + new)`, filled
            up with `pad_token` or `stop_token`.

        Raises:
            ValueError: for arguments that are out of range or contradict each other,
                tokens outside the vocabulary, and prompts that are empty or too long.
        """
        seed = random.check_seed(seed)
        prompts = Prompts.of(prompts, self).begin(max_new_tokens)
        ends = prompts.stop_strings(stop)
        rules = Rules(
            temperature, top_k, top_p, min_p, repetition_penalty, no_repeat_ngram
        )
        plan = self.plan(
            rules,
            beam_size=beam_size,
            length_penalty=length_penalty,
            early_stopping=early_stopping,
            contrastive=contrastive,
            draft=draft,
            draft_tokens=draft_tokens,
        )
        one = prompts.single and plan[0] == "sample"
        if stream and not one:
            raise ValueError(
                "stream=True is of one prompt, drawn token by token: a string or a "
                "list of ids, without beams, contrastive or draft."
            )
        if stream:
            return Written(self, prompts, rules, seed, ends)
        if verbose and one:
            written = Written(self, prompts, rules, seed, ends)
            for piece in written:
                print(piece, end="" if prompts.form == "text" else " ", flush=True)
            print()
            return written.result
        made = self._written(prompts, plan, seed, batch_size, verbose)
        return prompts.result(made, ends)

    def plan(
        self,
        rules,
        *,
        beam_size=None,
        length_penalty=1.0,
        early_stopping=False,
        contrastive=None,
        draft=None,
        draft_tokens=4,
    ):
        """How it is written, checked: a tuple of the kind and its arguments."""
        kinds = {"beam_size": beam_size, "contrastive": contrastive, "draft": draft}
        given = [name for name, value in kinds.items() if value is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} are different ways to write.")
        if beam_size is not None:
            if rules.restricts or rules.temperature not in (0, 1.0):
                raise ValueError(
                    "beam_size searches for the most probable text and draws nothing: "
                    "it contradicts temperature, top_k, top_p and min_p."
                )
            return "beam", rules, float(length_penalty), beam_size, early_stopping
        if contrastive is not None:
            speculative.check_contrastive(contrastive, rules)
            return "contrastive", rules, float(contrastive), rules.top_k
        if draft is not None:
            speculative.check_draft(draft, self, rules, draft_tokens)
            return "draft", rules, draft, draft_tokens
        return "sample", rules

    def _written(self, prompts, plan, seed, batch_size, verbose):
        """All rows `(N, L)`, in batches of one shape."""
        tokens, lengths, limits = prompts.tokens, prompts.lengths, prompts.limits
        key = np.array(random.key(seed, "generate/tokens"), "int32")
        kind, rules, *how = plan
        # Only what changes the graph is compiled anew.
        inputs = [key, rules.numbers]
        if kind in NUMBERED:
            inputs.append(np.float32(how[0]))
            how = how[1:]
        name = ("generate", kind, rules.form, *how)
        longest, new = tokens.shape[1], int(limits.max())
        size, width, room = self.room(name, len(tokens), longest, new, batch_size)
        padded = bool(width > lengths.min())

        def run(key, numbers, *rest):
            given = (rest[0],) if kind in NUMBERED else ()
            first, tokens, lengths, limits = rest[len(given) :]
            plan = (kind, rules.bound(numbers), *given, *how)
            lengths = lengths if padded else None
            how_long = (lengths, limits, width + room)
            return self.write(tokens, *how_long, plan, (key[0], key[1]), first)

        variables = self.sampling_variables()
        if plan[0] == "draft":
            variables = [*variables, *plan[2].sampling_variables()]
        batches = self.stream(
            (*name, padded, width, room),
            run,
            variables,
            [filled(tokens, width, self.fill_token), lengths, limits],
            size,
            constants=inputs,
            numbered=True,
            verbose=verbose,
        )
        made = np.concatenate([made[:count] for _, count, made in batches])
        return made[:, width - longest : width + new]

    def room(self, name, rows, longest, new, batch_size):
        """Rows of a pass, places of the prompts and of new tokens, shared by calls."""
        most = (self.context, self.context)
        return self.programs.shape(name, rows, (longest, new), batch_size, most)

    def write(self, tokens, lengths, limits, length, plan, key, first=0):
        """Prompts and what follows them, in the graph: int32 `(B, length)`.

        Args:
            tokens: int32 `(B, T)`, filled up behind.
            lengths: int32 `(B,)`, or None where all are T.
            limits: int32 `(B,)`, how many new tokens each may have; None: to the end.
            length: T and the places of new tokens.
            plan: what `plan` returned.
            key: pair of words.
            first: number of the first row.

        Returns:
            The rows moved to the right, so that all prompts end at T.
        """
        return self.run_averaged(
            "network",
            lambda: self._write(tokens, lengths, limits, length, plan, key, first),
        )

    def _write(self, tokens, lengths, limits, length, plan, key, first):
        kind, rules, *how = plan
        prompt = ops.shape(tokens)[1]
        stops, fill = stop_tokens(self), self.fill_token
        padded = lengths is not None
        tokens, valid = generation.moved_right(tokens, lengths)
        if kind == "draft":
            draft, count = how
            return draft.run_averaged(
                "network",
                lambda: speculative.speculate(
                    *(self, draft, count, rules, tokens, valid, length),
                    *(key, first, stops, fill, limits),
                ),
            )
        batch = ops.shape(tokens)[0]
        room = ops.full((batch, length - prompt), fill, "int32")
        whole = ops.reshape(ops.concatenate([tokens, room], axis=1), (batch, length))
        seen = ops.concatenate([valid, ops.ones_like(room, dtype="bool")], axis=1)
        seen = ops.reshape(seen, (batch, length))
        x, cache = self.prefill(tokens, valid, padded, length)
        logits = self.network.logits(x[:, -1])
        state = (cache, self.state_of(seen, prompt, padded))
        if kind == "beam":
            penalty, beams, early = how
            found, _ = generation.beam_search(
                self.step_of(prompt),
                rules,
                logits,
                whole,
                state,
                seen,
                prompt,
                beams,
                length_penalty=penalty,
                early_stopping=early,
                stops=stops,
                fill=fill,
                limits=limits,
            )
            return found[:, 0]
        if kind == "contrastive":
            return speculative.contrastive_search(
                *(self, *how, rules, x, whole, state, seen, prompt),
                *(stops, fill, limits),
            )
        sampler = generation.Sampler(
            self.step_of(prompt), rules, prompt, seen, key, first, stops, fill, limits
        )
        return generation.sample(sampler, logits, whole, state)

    @property
    def stop_tokens(self):
        """The ids that end a text, a tuple."""
        return stop_tokens(self)

    @property
    def fill_token(self):
        """What follows the end of a text."""
        found = (self.pad_token, *stop_tokens(self), 0)
        return next(token for token in found if token is not None)

    def prefill(self, tokens, valid, padded, length):
        """The hidden states of prompts, and a cache of `length` places with them."""
        cache = self.network.empty_cache(ops.shape(tokens)[0], length)
        positions = positions_of(valid) if padded else None
        return self.network.hidden_states(
            tokens, valid if padded else None, positions, cache, 0
        )

    @staticmethod
    def state_of(seen, prompt, padded):
        """What the steps read beside the keys: which places count, and how far on.

        Returns:
            `(seen, shift)`: bool `(B, L)` and int32 `(B, 1)`, the position of a place
            less the place; nothing where no prompt is padded.
        """
        if not padded:
            return ()
        count = ops.sum(ops.cast(seen[:, :prompt], "int32"), axis=1, keepdims=True)
        return seen, count - prompt

    def step_of(self, prompt, hidden=False):
        """The `step` of `generation`; with `hidden` it gives `(x, logits), cache`."""

        def step(tokens, state, i):
            cache, rest = state
            place, mask, positions = i + prompt, None, None
            if rest:
                mask, shift = rest
                # A row that has ended may lie behind the context.
                positions = ops.minimum(place + shift, self.context - 1)  # (B, 1)
            x, cache = self.network.hidden_states(tokens, mask, positions, cache, place)
            x = x[:, -1]  # (R, C)
            logits = self.network.logits(x)
            return ((x, logits) if hidden else logits), (cache, rest)

        return step


def positions_of(mask):
    """The places of tokens without padding: int32 like `mask`."""
    return ops.maximum(ops.cumsum(ops.cast(mask, "int32"), axis=1) - 1, 0)
