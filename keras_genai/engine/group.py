"""Several networks that train as one player."""


class Group:
    """What the engine reads of a player, of several networks together.

    Not a layer: the networks stay what they are, attributes of their model.

    Args:
        name: of the player.
        networks: list of built networks, such as an encoder and a decoder.
    """

    def __init__(self, name, networks):
        self.name = name
        self.networks = networks

    @property
    def variables(self):
        return [v for network in self.networks for v in network.variables]

    @property
    def trainable_variables(self):
        return [v for network in self.networks for v in network.trainable_variables]

    def count_params(self):
        return sum(network.count_params() for network in self.networks)

    def _flatten_layers(self):
        return [x for network in self.networks for x in network._flatten_layers()]
