"""Keys and values in memory of their final size, so that a new token writes its own and copies no others.

transformers' `DynamicLayer` concatenates at every token: sampling T tokens copies T²/2 of them, and holds a layer twice meanwhile.
"""

from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer


class PreallocatedLayer(DynamicLayer):
    """A layer of a cache with room for more tokens; beyond it, it grows as `DynamicLayer` does.

    Args:
        layer: With the keys and values of the tokens so far, (R, heads, T, head size).
        rows: (B,) the row of `layer` that each row of this one copies.
        length: Tokens that there is room for, with those so far.
    """

    def __init__(self, layer: DynamicLayer, rows: Tensor, length: int) -> None:
        super().__init__()
        self.lazy_initialization(layer.keys, layer.values)
        self._room = tuple(_copied(values, rows, length) for values in (layer.keys, layer.values))
        self.keys, self.values = (room[:, :, : layer.keys.size(2)] for room in self._room)

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        start, end = self.keys.size(2), self.keys.size(2) + key_states.size(2)
        keys, values = self._room
        # After other rows were chosen, the keys so far are elsewhere.
        has_moved = self.keys.untyped_storage().data_ptr() != keys.untyped_storage().data_ptr()
        if has_moved or end > keys.size(2) or len(key_states) != len(keys):
            return super().update(key_states, value_states, *args, **kwargs)
        keys[:, :, start:end] = key_states
        values[:, :, start:end] = value_states
        self.keys, self.values = keys[:, :, :end], values[:, :, :end]
        return self.keys, self.values


def with_room(cache: DynamicCache, rows: Tensor, length: int) -> None:
    """Copy rows of a cache, and give its layers room for `length` tokens. Layers of a sliding window only copy their rows."""
    for index, layer in enumerate(cache.layers):
        if type(layer) is DynamicLayer and layer.is_initialized:
            cache.layers[index] = PreallocatedLayer(layer, rows, length)
        else:
            layer.batch_select_indices(rows)


def _copied(values: Tensor, rows: Tensor, length: int) -> Tensor:
    """(B, heads, `length`, head size), of which the first tokens are those of the rows."""
    _, heads, tokens, size = values.shape
    room = values.new_empty(len(rows), heads, length, size)
    room[:, :, :tokens] = values[rows]
    return room
