"""How long GPUs are predicted to take for an all-reduce, in one box and in several.

An all-reduce over several boxes is taken in three steps, one after the other and none beside the
computing: each box reduces its own, each GPU reduces its share with its fellows in other boxes, and
each box tells its own (`NCCL_ALGO=Tree` does so; the first and last are an all-reduce in one box).
Nothing here has been measured by us.
"""

import math
from dataclasses import dataclass

# In one box: how long it takes however little is reduced, an assumption (NCCL's own table, below,
# comes to 15 in a ring and to 23 in the switch, without the start of a kernel) [us]; what 8 H200
# move (NVIDIA/nccl-tests issue 272; 476 for 8 H100 in issue 290) [GB/s, "busbw"].
LATENCY_US, BUS_GB = 30.0, 475.0
# Between boxes: a hop, of which a tree of H boxes has log2(H) up and as many down; the entry "tree,
# LL128, network" of the table from which NCCL itself predicts (NVIDIA/nccl, src/graph/tuning.cc
# at b6475625) [us].
HOP_US = 8.5
# A port of 400 Gb/s: the lower end of what NCCL's maintainers expect (nccl-tests issue 290) [GB/s].
PORT_GB = 46.0
# What one update may take on a GPU, its share of the env steps included, an assumption [us].
UPDATE_US = (100.0, 300.0, 1000.0)


@dataclass(frozen=True)
class Cluster:
    """GPUs that train one run.

    Attributes:
        name: in tables.
        gpus: in each box.
        boxes: number of them.
        net_gb: what each GPU has of the network between boxes [GB/s].
    """

    name: str
    gpus: int = 8
    boxes: int = 1
    net_gb: float = PORT_GB

    def all_reduce_us(self, nbytes: float) -> float:
        """How long an all-reduce of so many bytes takes [us]."""
        inside = LATENCY_US + _moved(nbytes, self.gpus) / BUS_GB * 1e-3
        hops = 2 * math.ceil(math.log2(self.boxes)) * HOP_US
        return inside + hops + _moved(nbytes / self.gpus, self.boxes) / self.net_gb * 1e-3

    def exchange_us(self, times: float, nbytes: float) -> float:
        """How long so many all-reduces take that reduce so many bytes altogether [us]."""
        return times * self.all_reduce_us(nbytes / times) if times else 0.0


def _moved(nbytes: float, among: int) -> float:
    """Bytes that each of some sends in an all-reduce (nccl-tests' PERFORMANCE.md)."""
    return 2.0 * (among - 1) / among * nbytes


ONE_BOX = Cluster("8 GPUs")
CLUSTERS = (
    ONE_BOX,
    Cluster("8 x 8, 400 Gb/s a GPU", boxes=8),
    # The same share of its port's rate, which eight GPUs share.
    Cluster("8 x 8, 100 Gb/s a box", boxes=8, net_gb=PORT_GB / 4 / 8),
)


def predicted(times: float, nbytes: float) -> dict[str, dict[str, float]]:
    """Exchange [us] and efficiencies of an update with so many all-reduces, by cluster.

    The efficiency is that of worlds and batches which grow with the GPUs.
    """
    found = {}
    for cluster in CLUSTERS:
        took = cluster.exchange_us(times, nbytes)
        shares = {f"{update:g} us": update / (update + took) for update in UPDATE_US}
        found[cluster.name] = {"exchange_us": took} | shares
    return found
