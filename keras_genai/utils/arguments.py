"""`checked`: an argument is looked at before anything is done.

```python
@checked(guidance_scale=number(), spacing=one_of("trailing", "leading"))
def generate(self, n=None, seed=0, *, guidance_scale=1.0, spacing=None, batch_size=64):
    ...
```

Names that mean the same everywhere (`seed`, `batch_size`, `dropout`) are declared once,
in `USUAL`; a function names those of its own.
"""

import difflib
import functools
import inspect
import weakref

from keras_genai.utils.memory import is_shortage, largest
from keras_genai.utils.validation import (
    DEEPEST,
    array,
    either,
    features_of,
    flag,
    function,
    having,
    image_shape,
    integer,
    is_integer,
    mapping,
    metrics_of,
    network,
    number,
    one_of,
    optional,
    path,
    refuse,
    text,
    word,
)


def verbosity(name, value):
    """0, 1, 2 or "auto"; False and True are 0 and 1."""
    if isinstance(value, str) and value == "auto":
        return value
    if isinstance(value, bool):
        return int(value)
    try:
        return integer(0, 2)(name, value)
    except ValueError:
        refuse(name, "0, 1, 2 or 'auto'", value)


def seed(name, value):
    """An integer in [0, 2**63)."""
    if not is_integer(value) or not 0 <= value < 2**63:
        refuse(name, "an integer in [0, 2**63)", value)
    return int(value)


def _same(check, names):
    return dict.fromkeys(names.split(), check)


EPOCHS = 10**6  # the most of a fit

# Argument -> check, for the names that mean the same in every signature.
USUAL = {
    "seed": seed,
    "image_shape": image_shape(),
    "verbose": verbosity,
    # Sizes of arrays
    **_same(
        integer(1),
        "batch_size n num_steps hidden_dim decoder_hidden_dim residual_filters "
        "num_heads decoder_num_heads num_key_value_heads head_dim base_filters "
        "discriminator_filters groups latent_dim latent_channels codebook_size "
        "num_classes max_sequence_length patch_size out_channels context_dim "
        "vector_dim dim units length chunk encode_batch_size steps "
        "max_new_tokens max_length k max_samples subset_size",
    ),
    # What is built or run one after the other
    **_same(
        integer(1, DEEPEST),
        "num_layers decoder_num_layers layers_per_block discriminator_layers blocks "
        "stages octaves frames power_iterations transformer_layers probes resamplings "
        "jump_length num_beams discriminator_steps generator_steps penalty_interval",
    ),
    "num_downsamples": integer(1, 30),
    "levels": integer(2),
    **_same(integer(1, 10**6), "subsets splits components prior_components"),
    "epochs": integer(1, EPOCHS),
    "vocabulary_size": integer(1, 10**8),
    "importance_samples": integer(1, 10**7),
    # Tokens
    **_same(
        integer(0), "pad_token_id decoder_start_token_id eos_token_id mask_token_id"
    ),
    # Numbers
    **_same(
        number("[0, 1)"), "dropout attention_dropout hidden_dropout label_smoothing"
    ),
    "ema_decay": optional(number("[0, 1)")),
    **_same(number(">= 0"), "epsilon layer_norm_epsilon"),
    **_same(number("> 0"), "initial_std out_std sigma_data rope_theta"),
    # Yes or no
    **_same(
        flag,
        "remat next_sentence mae normalized_pixels use_bias tie_word_embeddings "
        "norm_first causal scale_embedding logits_bias quant_conv learn_log_variance "
        "mid_attention null_class linear_projection upcast_attention "
        "time_scale_shift flip_sin_to_cos shared_embedding normalize keep_colors "
        "lowercase truncate cross scale_shift zero_out hard from_logits run_eagerly "
        "auto_scale_loss zero_terminal_snr skip_last rounded runge_kutta dequantize "
        "alibi overwrite animation pooler masked_lm out_bias",
    ),
    "early_stopping": either(flag, one_of("never"), says="True, False or 'never'"),
    # Words, files and objects
    "name": text,
    "stream": word,
    **_same(path, "folder source"),
    **_same(text, "subfolder variant"),
    **_same(network, "encoder decoder generator discriminator network"),
    "preprocess": function,
    **_same(features_of, "extractor classifier"),
    "metrics": metrics_of,
    "generation": mapping,
    "tokenizer": having("encode decode vocabulary_size", "a kg.Tokenizer"),
    # Data
    "images": array(finite=False, empty=True),
    "labels": array((1, 2)),
}


def checked(**checks):
    """Decorator: checks and converts arguments before anything is done.

    An argument that is not named here is looked up in `USUAL`. The default passes:
    None where None is the default. Signature and docstring stay the function's own,
    for `inspect` and for Keras. A call that runs out of memory is refused with the
    name of the largest size.

    Args:
        **checks: argument -> check; None for one that is not to be looked up.
    """

    def decorate(function):
        if inspect.isclass(function):  # a dataclass, whose __init__ is made
            function.__init__ = _wrapped(function.__init__, checks)
            return function
        return _wrapped(function, checks)

    return decorate


def _wrapped(function, checks):
    signature = inspect.signature(function)
    kinds = {p.kind for p in signature.parameters.values()}
    unknown = set(checks) - set(signature.parameters)
    if unknown and inspect.Parameter.VAR_KEYWORD not in kinds:
        raise TypeError(f"{function.__qualname__} has no argument {sorted(unknown)}.")
    places = []
    table = {name: (name, checks[name], None) for name in unknown}
    for argument in signature.parameters.values():
        if argument.kind in (argument.VAR_POSITIONAL, argument.VAR_KEYWORD):
            continue
        check = {**USUAL, **checks}.get(argument.name)
        entry = None if check is None else (argument.name, check, argument.default)
        if entry:
            table[argument.name] = entry
        if argument.kind != argument.KEYWORD_ONLY:
            places.append(entry)
    return _runner(function, signature, places, table)


def _runner(function, signature, places, table):
    count = len(places)
    rest = [p.name for p in signature.parameters.values() if p.kind is p.VAR_KEYWORD]
    # A constructor hands `**kwargs` on to its bases. What else is open is its own.
    looks = not rest or (rest == ["kwargs"] and function.__name__ == "__init__")

    def converted(entry, value):
        name, check, default = entry
        if value is default and not getattr(check, "always", False):
            return value
        return check(name, value)

    @functools.wraps(function)
    def run(*args, **kwargs):
        by_place = [
            value if entry is None else converted(entry, value)
            for value, entry in zip(args, places, strict=False)
        ]
        for name in kwargs:
            if looks and name not in signature.parameters:
                _check_unknown(function, name, args, bases=bool(rest))
            if name in table:
                kwargs[name] = converted(table[name], kwargs[name])
        try:
            return function(*by_place, *args[count:], **kwargs)
        except Exception as error:  # TensorFlow's shortage is no RuntimeError
            if not is_shortage(error):
                raise
            given = dict(zip(signature.parameters, by_place, strict=False)) | kwargs
            raise largest(given, error) from error

    run.__signature__ = signature  # Keras reads it without following __wrapped__
    return run


def check_known(name, known, called):
    """Refuses a keyword that is not known, and names the nearest.

    Args:
        name: the keyword.
        known: the names that there are.
        called: what was called, for the message.

    Raises:
        TypeError: as of Python where it looks itself.
    """
    if name in known:
        return
    near = [each for each in known if _share(name, each)]
    near += difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    near = list(dict.fromkeys(near))[:3]
    says = f"did you mean {' or '.join(near)}?" if near else ""
    says = says or f"it takes {', '.join(known)}."
    raise TypeError(f"{called} has no argument {name}; {says}")


def _check_unknown(function, name, args, bases):
    """The same for a keyword of a function that `checked` is at."""
    if function.__name__ != "__init__":
        check_known(name, names_of(function), function.__qualname__)
        return
    cls = type(args[0])
    known = names_of_class(cls) if bases else names_of(function)
    if name in known:
        return
    also = ["input_shape"] if bases else []  # of Keras's layers
    check_known(name, list(dict.fromkeys([*known, *also])), cls.__name__)


def names_of(function):
    """The arguments of a function that a keyword can name."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    found = inspect.signature(function).parameters.values()
    return [each.name for each in found if each.kind in kinds and each.name != "self"]


_NAMES = weakref.WeakKeyDictionary()  # class -> names: reading signatures takes long


def names_of_class(cls):
    """The arguments of a class's constructor and of its bases', a tuple."""
    if cls not in _NAMES:
        bases = cls.__mro__
        _NAMES[cls] = tuple(x for base in bases for x in names_of(base.__init__))
    return _NAMES[cls]


def _share(one, other):
    """Whether two names have a word in common: `heads` and `num_heads`."""
    return bool(set(one.split("_")) & set(other.split("_")) - {"num", "id", "dim"})
