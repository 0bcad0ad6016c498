"""What a model's own mask adds to a tree's: windows, chunks, and whatever else its class allows by position.

transformers builds a mask from a function of two positions: may the token at position q see the token at position k?
A model with sliding windows or chunks hands other functions than `q >= k`. The function is asked here with the
positions of the tree's rows and of the cache's slots, so that it holds for siblings too:

    row t sees slot s   if the view says so (committed, or an ancestor)   and   the function allows their positions

Shapes: T rows, S slots.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from transformers.masking_utils import causal_mask_function

from falcon_cli.attention.reading import NOW

MaskFunction = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""(batch, head, query's position, key's position) → whether it is seen."""


def tree_mask(mask_function: MaskFunction, use_vmap: bool = False, **_: object) -> Tensor | None:
    """The boolean mask [1, 1, T, S] of the running forward; None where the view alone decides.

    transformers calls it as it calls its own `sdpa_mask`, once a forward for each kind of layer.

    Raises:
        TypeError: No forward of ours is running.
    """
    view = NOW.view
    if view is None:
        raise TypeError("falcon's attention needs the view of a forward: run the model inside reading(view)")
    if mask_function is causal_mask_function:
        return None
    zero = torch.zeros(1, dtype=torch.long, device=view.position_T.device)
    indices = (zero, zero, view.position_T, view.slot_position_S)
    allowed = _vmapped(mask_function)(*indices) if use_vmap else mask_function(*_broadcast(*indices))
    seen_TS = view.seen_TS
    mask = seen_TS & allowed.expand(1, 1, *seen_TS.shape)
    if view.fixed or mask.is_cuda or not torch.equal(mask[0, 0], seen_TS):
        return mask
    return None


def _broadcast(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> tuple[Tensor, ...]:
    return batch[:, None, None, None], head[None, :, None, None], query[None, None, :, None], key[None, None, None, :]


def _vmapped(mask_function: MaskFunction) -> MaskFunction:
    """The function over whole axes, for functions that index by their arguments."""
    for axes in ((None, None, None, 0), (None, None, 0, None), (None, 0, None, None), (0, None, None, None)):
        mask_function = torch.vmap(mask_function, in_dims=axes, out_dims=0)
    return mask_function
