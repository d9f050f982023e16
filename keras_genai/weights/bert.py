"""BERT's weights and configuration, as transformers stores them."""

import dataclasses

from keras_genai.weights import _keys, _transformers, _writing
from keras_genai.weights._keys import NULL, RATE, SIZE
from keras_genai.weights._table import Table

TOKENIZER = ("tokenizer.json", "vocab.txt")  # one of these files
BODY = "BertModel"
CLASSES = (
    BODY,
    "BertForMaskedLM",
    "BertForPreTraining",
    "BertForNextSentencePrediction",
    "BertForSequenceClassification",
)
MLM = ("BertForMaskedLM", "BertForPreTraining")
NSP = ("BertForPreTraining", "BertForNextSentencePrediction")
CLASSIFIER = "BertForSequenceClassification"
SIZES = {  # key -> argument
    "vocab_size": "vocabulary_size",
    "hidden_size": "hidden_dim",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "intermediate_size": "intermediate_dim",
    "max_position_embeddings": "max_sequence_length",
    "type_vocab_size": "token_types",
}
# What this network has not but with these values.
FIXED = {
    "model_type": "bert",
    "hidden_act": "gelu",
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
}
# An absent key has the default of transformers' own class.
KEYS = {
    "vocab_size": (30522, SIZE),
    "hidden_size": (768, SIZE),
    "num_hidden_layers": (12, _keys.LAYERS),
    "num_attention_heads": (12, SIZE),
    "intermediate_size": (3072, SIZE),
    "max_position_embeddings": (512, SIZE),
    "type_vocab_size": (2, SIZE),
    "hidden_dropout_prob": (0.1, RATE),
    "attention_probs_dropout_prob": (0.1, RATE),
    "classifier_dropout": (None, RATE | NULL),
    "layer_norm_eps": (1e-12, _keys.POSITIVE),
    "pad_token_id": (0, _keys.TOKEN | NULL),
    "num_labels": (None, SIZE | NULL),
    "id2label": (None, _keys.LABELS | NULL),
    **{key: (value, _keys.one_of(value)) for key, value in FIXED.items()},
}
# In some files beside the weights: places counted up, copies of what is tied.
BESIDE = (
    "embeddings.position_ids",
    "cls.predictions.decoder.weight",
    "cls.predictions.decoder.bias",
)
LAYERS = {  # name in a block of the file -> ours
    "attention.self.query": "self_attention.query",
    "attention.self.key": "self_attention.key",
    "attention.self.value": "self_attention.value",
    "attention.output.dense": "self_attention.out",
    "intermediate.dense": "feed_forward.dense1",
    "output.dense": "feed_forward.dense2",
}


def from_config(config, path, names):
    """The arguments of `BERT` of transformers' configuration.

    Args:
        config: the content of `config.json`, a dict.
        path: where it came from, for messages.
        names: the tensors' names: which heads there are; a dict of them bounds the
            sizes, see `_keys.read`.

    Raises:
        ValueError: it is of another class, or asks for what this network has not.
    """
    kind = _transformers.class_of(config, path, *CLASSES)
    kinds = names if isinstance(names, dict) else None
    config = _keys.read(config, path, KEYS, kinds)
    classifier = config["classifier_dropout"]
    if classifier not in (None, config["hidden_dropout_prob"]) and kind == CLASSIFIER:
        instead = "the classifier has hidden_dropout_prob"
        _keys.pass_over(path, config, ["classifier_dropout"], instead)
    found = {n.removeprefix("bert.") for n in names}

    def there(*parts):
        return any(n.startswith(parts) for n in found)

    return {
        **{own: config[key] for key, own in SIZES.items()},
        "dropout": config["hidden_dropout_prob"],
        "attention_dropout": config["attention_probs_dropout_prob"],
        "layer_norm_epsilon": config["layer_norm_eps"],
        "masked_lm": kind in MLM or there("cls.predictions.transform"),
        "next_sentence": kind in NSP or there("cls.seq_relationship"),
        "num_classes": _transformers.labels(config) if kind == CLASSIFIER else None,
        "pooler": there("pooler.") or kind in (*NSP, CLASSIFIER),
        "pad_token_id": config["pad_token_id"],
    }


def to_config(model):
    """transformers' `config.json` of a model, a dict.

    Raises:
        ValueError: transformers has no such model.
    """
    if model.num_classes and (model.masked_lm or model.next_sentence):
        raise ValueError(
            "transformers has no BERT with a classifier beside the other heads: make "
            "it with masked_lm=False, or save it by model.save('bert.keras')."
        )
    if model.num_classes:
        kind = CLASSIFIER
    elif model.masked_lm:
        kind = MLM[bool(model.next_sentence)]
    else:
        kind = NSP[1] if model.next_sentence else BODY
    config = {
        **FIXED,
        "architectures": [kind],
        "vocab_size": model.vocabulary_size,
        "hidden_size": model.hidden_dim,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_heads,
        "intermediate_size": model.intermediate_dim,
        "max_position_embeddings": model.max_sequence_length,
        "type_vocab_size": model.token_types,
        "hidden_dropout_prob": model.dropout,
        "attention_probs_dropout_prob": model.attention_dropout,
        "layer_norm_eps": model.layer_norm_epsilon,
        "pad_token_id": model.pad_token_id,
    }
    if model.num_classes:
        classes = range(model.num_classes)
        config["id2label"] = {str(i): f"LABEL_{i}" for i in classes}
        config["label2id"] = {f"LABEL_{i}": i for i in classes}
    return config


def table(model, names=None):
    """transformers' names of the model's variables: a list of `Entry`.

    Args:
        model: a `BERT`.
        names: set of the names in a file that is read: its heads, and its pooler, may
            lack where the model has new ones.
    """
    network = model.network
    bare = to_config(model)["architectures"] == [BODY]
    table = Table("" if bare else "bert.")
    for own, name in (
        (network.tokens, "word_embeddings"),
        (network.positions, "position_embeddings"),
        (network.types, "token_type_embeddings"),
    ):
        table.vector(f"embeddings.{name}.weight", own.embeddings)
    table.affine("embeddings.LayerNorm", network.norm)
    for i, block in enumerate(network.blocks):
        place = f"encoder.layer.{i}"
        table.dense_layers(place, block, LAYERS)
        table.affine(f"{place}.attention.output.LayerNorm", block.norm1)
        table.affine(f"{place}.output.LayerNorm", block.norm2)
    required = len(table.entries)
    if model.pooler:
        table.dense("pooler.dense", network.pool)
    if model.masked_lm:
        head = "cls.predictions"
        table.vector(f"{head}.bias", network.bias, bare=True)
        table.dense(f"{head}.transform.dense", network.transform, bare=True)
        table.affine(f"{head}.transform.LayerNorm", network.transform_norm, bare=True)
    if model.next_sentence:
        table.dense("cls.seq_relationship", network.next, bare=True)
    if model.num_classes:
        table.dense("classifier", network.classifier, bare=True)
    if names is None:
        return table.entries
    return [
        dataclasses.replace(entry, optional=True)
        if i >= required and _group_is_new(entry, names)
        else entry
        for i, entry in enumerate(table.entries)
    ]


def _group_is_new(entry, names):
    """Whether a file has nothing of the head that an entry is of."""
    group = entry.name.removeprefix("bert.").rsplit(".", 1)[0]
    group = "cls.predictions" if group.startswith("cls.predictions") else group
    return not any(name.removeprefix("bert.").startswith(group) for name in names)


def load(cls, source, subfolder=None, variant=None, **arguments):
    """A model of a published folder; see `BERT.from_pretrained`."""
    required = set()

    def make(config, path, names):
        given = from_config(config, path, names)
        required.update(name for name in ("masked_lm", "next_sentence") if given[name])
        if given["num_classes"]:
            required.add("num_classes")
        if "tokenizer" not in arguments:
            given["tokenizer"] = _transformers.tokenizer_of(cls, path.parent, TOKENIZER)
        if arguments.get("num_classes"):
            # What is fine-tuned to classify keeps no other head.
            given["masked_lm"] = given["next_sentence"] = False
        given = {**given, **arguments}
        if given["next_sentence"] or given["num_classes"]:
            given["pooler"] = True
        return cls(**given)

    def entries(model, names):
        # Heads that the configuration promises must be there.
        own = table(model, names)
        kept = {name for name in required if getattr(model, name)}
        return [
            dataclasses.replace(entry, optional=False)
            if _head_of(entry) in kept
            else entry
            for entry in own
        ]

    def ignored(name):
        name = name.removeprefix("bert.")
        return name in BESIDE or name.startswith(("cls.", "classifier.", "pooler."))

    return _transformers.load(make, entries, source, subfolder, variant, ignored)


def _head_of(entry):
    """The argument of `BERT` that a head's entry is there for, or None."""
    for start, name in (
        ("cls.predictions", "masked_lm"),
        ("cls.seq_relationship", "next_sentence"),
        ("classifier", "num_classes"),
    ):
        if entry.name.startswith(start):
            return name
    return None


@_writing.saved_whole
def save(model, folder, dtype="float32", max_shard_size=None):
    """Writes transformers' folder; see `BERT.save_pretrained`."""
    _writing.check_dtype(dtype)
    _transformers.save(table(model), to_config(model), folder, dtype, max_shard_size)
    if model.tokenizer is not None:
        model.tokenizer.save(folder)
