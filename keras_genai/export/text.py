"""Text in and text out in a SavedModel, where TensorFlow can hold the tokenizer."""


class Characters:
    """A tokenizer of characters in TensorFlow's graph.

    Args:
        tokenizer: a `Tokenizer` that `of_characters`.
        size: rows of the model's table, some of which may be no token.

    Attributes:
        table: what an exported module must hold on to.
    """

    def __init__(self, tokenizer, size):
        import tensorflow as tf

        pieces = [""] * size
        for token, i in tokenizer.vocabulary.items():
            pieces[i] = token
        special = set(tokenizer.special_ids())
        known = [i for i, piece in enumerate(pieces) if piece and i not in special]
        self.unknown = -1 if tokenizer.unk_token_id is None else tokenizer.unk_token_id
        initial = tf.lookup.KeyValueTensorInitializer(
            tf.constant([pieces[i] for i in known]), tf.constant(known, tf.int32)
        )
        self.table = tf.lookup.StaticHashTable(initial, self.unknown)
        shown = ["" if i in special else piece for i, piece in enumerate(pieces)]
        self.shown = tf.constant(shown)

    def encode(self, texts):
        """`(B,)` strings -> `(tokens (B, T), lengths (B,))`, int32."""
        import tensorflow as tf

        signs = tf.strings.unicode_split(texts, "UTF-8")
        lengths = tf.cast(signs.row_lengths(), tf.int32)
        known = self.table.lookup(signs.flat_values)
        checks = [
            tf.debugging.Assert(
                tf.reduce_all(lengths > 0), ["A text is empty; it needs a character."]
            ),
            tf.debugging.Assert(
                tf.reduce_all(known >= 0),
                ["Characters that the model does not know:"]
                + [tf.boolean_mask(signs.flat_values, known < 0)],
            ),
        ]
        with tf.control_dependencies(checks):
            return signs.with_flat_values(known).to_tensor(0), tf.identity(lengths)

    def decode(self, tokens, counted):
        """The texts `(B,)` of tokens `(B, L)`, of those that count, bool `(B, L)`."""
        import tensorflow as tf

        pieces = tf.where(counted, tf.gather(self.shown, tokens), "")
        return tf.strings.reduce_join(pieces, axis=-1)


def text_signatures(model):
    """What a model that writes serves of texts.

    Returns:
        `(signatures, what they hold on to)`: a dict name -> (function, inputs), empty
        where TensorFlow cannot hold the tokenizer; a list of resources.
    """
    tokenizer = getattr(model, "tokenizer", None)
    if tokenizer is None or not tokenizer.of_characters():
        return {}, []
    generate, inputs = model.export_signatures().get("generate", (None, ()))
    if not {"tokens", "lengths"} <= {name for name, *_ in inputs}:
        return {}, []  # it writes no text, or draws pictures of one
    import tensorflow as tf

    signs = Characters(tokenizer, model.vocabulary_size)
    more = [item for item in inputs if item[0] not in ("tokens", "lengths")]

    def generate_text(texts, *options):
        tokens, lengths = signs.encode(texts)
        made = generate(tokens, lengths, *options)["tokens"]
        longest = tf.shape(tokens)[1]
        places = tf.range(tf.shape(made)[1])
        begun = places >= (longest - lengths)[:, None]
        # What fills a row up behind its last token may be any token.
        begun &= places < (longest - lengths)[:, None] + model.max_sequence_length
        # A stop token in the prompt ends nothing.
        stops = tf.zeros_like(made, tf.bool)
        for token in model.stop_tokens:
            stops = stops | ((made == token) & (places >= longest))
        ended = tf.cumsum(tf.cast(stops, tf.int32), axis=1, exclusive=True) > 0
        return {"texts": signs.decode(made, begun & ~ended)}

    texts = ("texts", (None,), "string")
    return {"generate_text": (generate_text, [texts, *more])}, [signs.table]
