"""Fine-tuning few weights: what every transformer here can do."""

from keras_genai.layers import lora
from keras_genai.utils.arguments import checked
from keras_genai.utils.validation import (
    either,
    function,
    integer,
    number,
    text,
    tuple_of,
)


class Tuning:
    """The part of a model that trains low-rank changes of its dense layers.

    Its networks are `network`, or what `tuned_networks` returns.
    """

    def tuned_networks(self):
        """List of the networks whose dense layers may have such changes."""
        return [self.network]

    @checked(
        rank=integer(1),
        targets=either(text, function, tuple_of(text)),
        alpha=number("> 0"),
        also=tuple_of(text, least=0),
    )
    def enable_lora(self, rank, targets=("query", "value"), alpha=None, also=()):
        """Trains low-rank changes of some dense layers, and little else (2106.09685).

        Call `compile` afterwards. `merge_lora` makes the changes part of the weights.

        Args:
            rank: of the changes `alpha / rank * A B`.
            targets: names of dense layers: in the blocks `"query"`, `"key"`, `"value"`,
                `"out"`, `"dense1"`, `"gate"` and `"dense2"`; or paths, of which the
                last parts do (`"block_0/attention/query"`); or a function
                `(path, layer) -> bool`.
            alpha: their scale; by default the rank.
            also: names or paths of layers that train as a whole, such as a new head.

        Raises:
            ValueError: no layer has a name, or there are such changes already.
        """
        for network in self.tuned_networks():
            lora.enable(network, rank, targets, alpha, self.seed, also)
        self._forget_compiled()

    def merge_lora(self):
        """Adds the low-rank changes to the weights, all of which train again.

        Call `compile` afterwards, to train them.
        """
        lora.merge(*self.tuned_networks())
        self._forget_compiled()

    def _forget_compiled(self):
        """An optimizer and functions of other weights than there are now."""
        self.compiled = False
        self.optimizer = None
        self.train_function = self.test_function = None
        self.forget_compiled()

    def save(self, *args, **kwargs):
        """See `keras.Model.save`; with LoRA, merge before."""
        lora.check_merged(*self.tuned_networks())
        super().save(*args, **kwargs)

    def save_pretrained(self, folder, dtype="float32", max_shard_size=None, **kwargs):
        """See `Pretrained.save_pretrained`; with LoRA, merge before."""
        lora.check_merged(*self.tuned_networks())
        super().save_pretrained(folder, dtype, max_shard_size, **kwargs)
