"""The peers, by the label that they have in tables and charts."""

from functools import partial

import mxnet_peer
import optax_peer
import torch_peer
from contest import Peers

PEERS: Peers = {
    **{f"torch {way}": partial(torch_peer.contender, way=way) for way in torch_peer.WAYS},
    "optax": optax_peer.contender,
    "MXNet": mxnet_peer.contender,
}
