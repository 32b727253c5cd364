"""One of two processes that agree on things; prints what it found as JSON."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from mjx_serl import devices
from mjx_serl.run.peers import join_peers
from scenes.contract.errors import InputError

peers = join_peers()
found = {"most": peers.most(peers.rank, 3 - peers.rank), "texts": peers.texts("ab" * peers.rank)}
mesh = Mesh(np.array(jax.devices()), ("devices",))
state = {"rows": jnp.arange(6.0).reshape(2, 3), "key": jax.random.key(5), "none": ()}
where = {
    "rows": NamedSharding(mesh, P("devices")),
    "key": NamedSharding(mesh, P()),
    "none": (),
}
placed = devices.place(state, where)
found["here"] = placed["rows"].addressable_data(0).tolist()
gathered = peers.gathered(placed)
found["gathered"] = gathered["rows"].tolist()
found["key"] = jax.random.key_data(gathered["key"]).tolist()
for what in ("same", "other"):
    try:
        rank = peers.rank if what == "other" else 0
        peers.require_same({"agent": {"lr": rank}}, {"jax": jax.__version__})
        found[what] = ""
    except InputError as error:
        found[what] = str(error)
try:
    peers.require_equal({"w": jnp.float32(peers.rank)})
except RuntimeError as error:
    found["equal"] = str(error)[:30]
sys.stdout.write(json.dumps(found) + "\n")
