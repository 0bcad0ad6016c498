"""Caches in panels, and the same numbers in rows."""

import torch


def in_panels(rows):
    """Keys, or values, in rows [2, layers, G, S, H], as a `PanelCache` holds them: two tensors."""
    panel = torch.ops.falcon.panel()
    keys, values = torch.nn.functional.pad(rows, (0, 0, 0, -rows.shape[3] % panel))
    values = torch.nn.functional.pad(values, (0, -values.shape[-1] % panel))
    return (
        keys.unflatten(2, (-1, panel)).transpose(3, 4).contiguous(),
        values.unflatten(3, (-1, panel)).transpose(2, 3).contiguous(),
    )


def in_rows(cache):
    """What a `PanelCache` has committed, as a `StaticCache` would hold it: [2, layers, 1, G, S, H]."""
    keys = cache.keys.transpose(3, 4).flatten(2, 3)
    values = cache.values.transpose(2, 3).flatten(3)[..., : keys.shape[-1]]
    return torch.stack([keys, values])[:, :, None, :, : cache.length]
