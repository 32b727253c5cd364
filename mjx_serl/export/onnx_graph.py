"""A jaxpr as an ONNX graph: exactly the primitives that our policies are made of, no others.

Shapes are static and products are float32. What a policy does not use of its arguments does not
reach the graph, so a whole agent may be handed over. An unknown primitive is an error that names
it: add a rule below, and its case to tests/run/test_onnx_graph.py.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import jax
import numpy as np
import onnx
from jax.extend import core
from jaxtyping import Array
from onnx import helper, numpy_helper

from scenes.contract.errors import InputError

OPSET = 18  # reductions take their axes as inputs from here on; onnxruntime 1.14 reads it
IR_VERSION = 8  # of the file, the one that came with the opset

Rule: TypeAlias = "Callable[[OnnxGraph, Any, Sequence[str]], str | list[str]]"

_DTYPES = ("float32", "int32", "int64", "uint8", "bool")


class OnnxGraph:
    """Nodes and constants so far; every value has a name."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}
        self._known: dict[tuple, str] = {}

    def emit(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Append a node with one output and return the output's name."""
        name = f"{op.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], **attributes))
        return name

    def constant(self, value: Any, dtype: Any = None) -> str:
        """Return the name of a constant; equal ones share it."""
        array = np.asarray(value, dtype)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._known:
            self._known[key] = f"constant_{len(self._known)}"
            self.constants[self._known[key]] = array
        return self._known[key]

    def integers(self, values: Sequence[int]) -> str:
        """Name of a constant int64 vector: shapes, axes, ..."""
        return self.constant([int(value) for value in values], np.int64)

    def reshape(self, x: str, shape: Sequence[int], to: Sequence[int]) -> str:
        """Reshape `x` from one static shape to another."""
        return x if tuple(shape) == tuple(to) else self.emit("Reshape", x, self.integers(to))

    def transpose(self, x: str, order: Sequence[int]) -> str:
        """Axis i of the result is axis order[i] of `x`."""
        order = [int(axis) for axis in order]
        return x if order == sorted(order) else self.emit("Transpose", x, perm=order)


def to_onnx(
    function: Callable[[dict[str, Array], dict[str, Array]], Array],
    params: Mapping[str, Any],
    inputs: Mapping[str, jax.ShapeDtypeStruct],
    *,
    output: str,
) -> onnx.ModelProto:
    """Convert `function(params, inputs) -> array` to a checked model.

    Args:
        function: traceable.
        params: arrays by name; those that are used become initializers of that name.
        inputs: shapes by name; all are inputs of the model, in this order.
        output: name of the model's output.

    Raises:
        NotImplementedError: naming the primitive that has no rule here.
        ValueError: a primitive is used in a way that its rule does not know.
    """
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), dict(params))
    closed = jax.make_jaxpr(function)(shapes, dict(inputs))
    graph = OnnxGraph()
    # Dicts are flattened in the order of their sorted keys.
    (result,) = _inline(graph, closed, [*sorted(params), *sorted(inputs)])
    graph.nodes.append(helper.make_node("Identity", [result], [output]))
    nodes, used = _needed(graph.nodes, output)
    arrays = {n: np.asarray(x) for n, x in {**graph.constants, **params}.items() if n in used}
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "policy",
            [_value(name, spec) for name, spec in inputs.items()],
            [_value(output, closed.out_avals[0])],
            [numpy_helper.from_array(array, name) for name, array in arrays.items()],
        ),
        producer_name="mjx_serl",
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def initializers(model: onnx.ModelProto) -> tuple[str, ...]:
    """Names of a model's initializers."""
    return tuple(tensor.name for tensor in model.graph.initializer)


def _value(name: str, spec: Any) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, _element_type(spec.dtype), spec.shape)


def _element_type(dtype: Any) -> int:
    if np.dtype(dtype).name not in _DTYPES:
        raise InputError(f"dtype {np.dtype(dtype).name}, allowed in a policy: {', '.join(_DTYPES)}")
    return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))


def _needed(nodes: Sequence[onnx.NodeProto], output: str) -> tuple[list[onnx.NodeProto], set[str]]:
    """The nodes that `output` depends on, in order, and every name that they read."""
    kept, used = [], {output}
    for node in reversed(nodes):
        if used.intersection(node.output):
            kept.append(node)
            used.update(node.input)
    return kept[::-1], used


# -- walking a jaxpr -------------------------------------------------------------------------------


def _inline(graph: OnnxGraph, closed: core.ClosedJaxpr, inputs: Sequence[str]) -> list[str]:
    """Add a jaxpr's equations to the graph; returns the names of its outputs."""
    jaxpr = closed.jaxpr
    names: dict[Any, str] = dict(zip(jaxpr.invars, inputs, strict=True))
    constants = dict(zip(jaxpr.constvars, closed.consts, strict=True))

    def read(atom: Any) -> str:
        if isinstance(atom, core.Literal):
            return graph.constant(atom.val, _dtype(atom))
        if atom in constants:
            _require_no_key(constants[atom])
            return graph.constant(constants[atom])
        return names[atom]

    for eqn in _live(jaxpr):
        found = _convert(graph, eqn, [read(atom) for atom in eqn.invars])
        names.update(zip(eqn.outvars, found, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _require_no_key(value: Any) -> None:
    if jax.dtypes.issubdtype(getattr(value, "dtype", np.float32), jax.dtypes.prng_key):
        raise InputError(
            "The policy draws random numbers, allowed in a bundle: one that does not. Hint: let "
            "the agent's `act` leave its key alone where `deterministic` is true"
        )


def _live(jaxpr: core.Jaxpr) -> list[core.JaxprEqn]:
    """The equations that the outputs depend on: a deterministic policy needs no random bits."""
    kept, wanted = [], {id(atom) for atom in jaxpr.outvars}
    for eqn in reversed(jaxpr.eqns):
        if any(id(var) in wanted for var in eqn.outvars):
            kept.append(eqn)
            wanted |= {id(atom) for atom in eqn.invars}
    return kept[::-1]


def _convert(graph: OnnxGraph, eqn: core.JaxprEqn, inputs: Sequence[str]) -> list[str]:
    name = eqn.primitive.name
    if name not in RULES:
        raise NotImplementedError(
            f"Primitive '{name}' has no rule in {__name__}. Known: {', '.join(sorted(RULES))}"
        )
    found = RULES[name](graph, eqn, inputs)
    return [found] if isinstance(found, str) else found


def _require(condition: bool, eqn: core.JaxprEqn, allowed: str) -> None:
    if not condition:
        params = {name: value for name, value in eqn.params.items() if value is not None}
        raise InputError(f"Primitive '{eqn.primitive.name}' with {params}, allowed: {allowed}")


def _shape(atom: Any) -> tuple[int, ...]:
    return tuple(atom.aval.shape)


def _dtype(atom: Any) -> np.dtype:
    return atom.aval.dtype


# -- rules: element by element ---------------------------------------------------------------------


def _same(op: str) -> Rule:
    return lambda graph, eqn, inputs: graph.emit(op, *inputs)


def _logical(op: str) -> Rule:
    def rule(graph: OnnxGraph, eqn: core.JaxprEqn, inputs: Sequence[str]) -> str:
        _require(_dtype(eqn.invars[0]).kind == "b", eqn, "on booleans, not on bits")
        return graph.emit(op, *inputs)

    return rule


def _integer_pow(graph: OnnxGraph, eqn: core.JaxprEqn, inputs: Sequence[str]) -> str:
    exponent = graph.constant(eqn.params["y"], _dtype(eqn.invars[0]))
    return graph.emit("Pow", inputs[0], exponent)


def _rsqrt(graph: OnnxGraph, eqn: core.JaxprEqn, inputs: Sequence[str]) -> str:
    return graph.emit("Reciprocal", graph.emit("Sqrt", inputs[0]))


def _select(graph: OnnxGraph, eqn: core.JaxprEqn, inputs: Sequence[str]) -> str:
    _require(len(inputs) == 3 and _dtype(eqn.invars[0]).kind == "b", eqn, "a boolean and two cases")
    which, if_false, if_true = inputs
    return graph.emit("Where", which, if_true, if_false)


def _clamp(graph: OnnxGraph, eqn: core.JaxprEqn, inputs: Sequence[str]) -> str:
    low, x, high = inputs
    return graph.emit("Min", graph.emit("Max", x, low), high)


def _cast(graph: OnnxGraph, eqn: core.JaxprEqn, inputs: Sequence[str]) -> str:
    old, new = _dtype(eqn.invars[0]), eqn.params["new_dtype"]
    return inputs[0] if old == new else graph.emit("Cast", inputs[0], to=_element_type(new))


# -- rules: shapes ---------------------------------------------------------------------------------


def _reshape(graph: OnnxGraph, eqn: core.JaxprEqn, inputs: Sequence[str]) -> str:
    _require(eqn.params["dimensions"] is None, eqn, "in the order of the axes")
    return graph.reshape(inputs[0], _shape(eqn.invars[0]), _shape(eqn.outvars[0]))


def _squeeze(graph: OnnxGraph, eqn: core.JaxprEqn, inputs: Sequence[str]) -> str:
    return graph.reshape(inputs[0], _shape(eqn.invars[0]), _shape(eqn.outvars[0]))


def _broadcast(graph: OnnxGraph, eqn: core.JaxprEqn, inputs: Sequence[str]) -> str:
    old, new = _shape(eqn.invars[0]), _shape(eqn.outvars[0])
    spread = [1] * len(new)
    for size, axis in zip(old, eqn.params["broadcast_dimensions"], strict=True):
        spread[axis] = size
    x = graph.reshape(inputs[0], old, spread)
    return x if tuple(spread) == new else graph.emit("Expand", x, graph.integers(new))


def _transpose(graph: OnnxGraph, eqn: core.JaxprEqn, inputs: Sequence[str]) -> str:
    return graph.transpose(inputs[0], eqn.params["permutation"])


def _concatenate(graph: OnnxGraph, eqn: core.JaxprEqn, inputs: Sequence[str]) -> str:
    filled = [x for x, var in zip(inputs, eqn.invars, strict=True) if math.prod(_shape(var))]
    return graph.emit("Concat", *filled, axis=int(eqn.params["dimension"]))


def _iota(graph: OnnxGraph, eqn: core.JaxprEqn, inputs: Sequence[str]) -> str:
    shape, axis = eqn.params["shape"], eqn.params["dimension"]
    return graph.constant(np.indices(shape)[axis], eqn.params["dtype"])


def _rows(graph: OnnxGraph, eqn: core.JaxprEqn, inputs: Sequence[str]) -> str:
    """Rows of a table by their numbers, which have to be there."""
    table, places = map(_shape, eqn.invars)
    way = eqn.params["dimension_numbers"]
    whole = (*way.collapsed_slice_dims, *way.start_index_map) == (0, 0)
    whole = whole and tuple(eqn.params["slice_sizes"]) == (1, *table[1:])
    last = tuple(way.offset_dims) == (len(places) - 1,)
    _require(len(table) == 2 and whole and last and places[-1] == 1, eqn, "rows of a matrix")
    numbers = graph.reshape(inputs[1], places, places[:-1])
    return graph.emit("Gather", inputs[0], numbers, axis=0)


def _cumsum(graph: OnnxGraph, eqn: core.JaxprEqn, inputs: Sequence[str]) -> str:
    _require(not eqn.params["reverse"], eqn, "from the first entry on")
    return graph.emit("CumSum", inputs[0], graph.constant(eqn.params["axis"], np.int64))


def _slice(graph: OnnxGraph, eqn: core.JaxprEqn, inputs: Sequence[str]) -> str:
    starts, ends = eqn.params["start_indices"], eqn.params["limit_indices"]
    steps = eqn.params["strides"] or [1] * len(starts)
    parts = (starts, ends, range(len(starts)), steps)
    return graph.emit("Slice", inputs[0], *(graph.integers(part) for part in parts))


def _split(graph: OnnxGraph, eqn: core.JaxprEqn, inputs: Sequence[str]) -> list[str]:
    # Slices, one by one: those that nobody reads, or that are empty, drop out.
    ends = np.cumsum(eqn.params["sizes"])
    axis = graph.integers([eqn.params["axis"]])
    parts = zip(ends - np.asarray(eqn.params["sizes"]), ends, strict=True)
    return [
        graph.emit("Slice", inputs[0], graph.integers([start]), graph.integers([end]), axis)
        for start, end in parts
    ]


def _pad(graph: OnnxGraph, eqn: core.JaxprEqn, inputs: Sequence[str]) -> str:
    low, high, inner = zip(*eqn.params["padding_config"], strict=True)
    _require(min((*low, *high)) >= 0 and not any(inner), eqn, "outside only, none negative")
    if not any((*low, *high)):
        return inputs[0]
    return graph.emit("Pad", inputs[0], graph.integers((*low, *high)), inputs[1])


# -- rules: sums and products ----------------------------------------------------------------------


def _reduce(op: str) -> Rule:
    def rule(graph: OnnxGraph, eqn: core.JaxprEqn, inputs: Sequence[str]) -> str:
        axes = eqn.params["axes"]
        return graph.emit(op, inputs[0], graph.integers(axes), keepdims=0) if axes else inputs[0]

    return rule


def _argmax(graph: OnnxGraph, eqn: core.JaxprEqn, inputs: Sequence[str]) -> str:
    """The first of equal entries, in both."""
    _require(len(eqn.params["axes"]) == 1, eqn, "over one axis")
    found = graph.emit("ArgMax", inputs[0], axis=int(eqn.params["axes"][0]), keepdims=0)
    return graph.emit("Cast", found, to=_element_type(eqn.params["index_dtype"]))


def _dot(graph: OnnxGraph, eqn: core.JaxprEqn, inputs: Sequence[str]) -> str:
    """Both sides as [*batch, rows, depth] and [*batch, depth, columns], then one product."""
    dtypes = {str(_dtype(var)) for var in (*eqn.invars, *eqn.outvars)}
    _require(dtypes == {"float32"}, eqn, "float32 on both sides and in the result")
    (depth_a, depth_b), (batch_a, batch_b) = eqn.params["dimension_numbers"]
    a, b = map(_shape, eqn.invars)
    free_a = [i for i in range(len(a)) if i not in (*depth_a, *batch_a)]
    free_b = [i for i in range(len(b)) if i not in (*depth_b, *batch_b)]
    batch = [a[i] for i in batch_a]
    depth = math.prod(a[i] for i in depth_a)
    left = _arranged(graph, inputs[0], a, (*batch_a, *free_a, *depth_a), (*batch, -1, depth))
    right = _arranged(graph, inputs[1], b, (*batch_b, *depth_b, *free_b), (*batch, depth, -1))
    rows, columns = (math.prod(s[i] for i in f) for s, f in ((a, free_a), (b, free_b)))
    product = graph.emit("MatMul", left, right)
    return graph.reshape(product, (*batch, rows, columns), _shape(eqn.outvars[0]))


def _arranged(
    graph: OnnxGraph, x: str, shape: Sequence[int], order: Sequence[int], to: Sequence[int]
) -> str:
    """Axes in another order, then another shape; -1 is what is left."""
    known = math.prod(size for size in to if size != -1)
    to = [math.prod(shape) // known if size == -1 else size for size in to]
    return graph.reshape(graph.transpose(x, order), [shape[i] for i in order], to)


def _convolution(graph: OnnxGraph, eqn: core.JaxprEqn, inputs: Sequence[str]) -> str:
    params = eqn.params
    plain = set(params["lhs_dilation"]) == {1} and params["batch_group_count"] == 1
    _require(plain, eqn, "lhs_dilation 1, batch_group_count 1")
    low, high = zip(*params["padding"], strict=True)
    _require(min((*low, *high)) >= 0, eqn, "padding that is not negative")
    numbers = params["dimension_numbers"]
    found = graph.emit(
        "Conv",
        graph.transpose(inputs[0], numbers.lhs_spec),
        graph.transpose(inputs[1], numbers.rhs_spec),
        strides=[int(s) for s in params["window_strides"]],
        pads=[int(p) for p in (*low, *high)],
        dilations=[int(d) for d in params["rhs_dilation"]],
        group=int(params["feature_group_count"]),
    )
    return graph.transpose(found, np.argsort(numbers.out_spec).tolist())


def _max_pool(graph: OnnxGraph, eqn: core.JaxprEqn, inputs: Sequence[str]) -> str:
    """Windows over all axes but the first and the last."""
    params = eqn.params
    window, strides, padding = (
        params[name] for name in ("window_dimensions", "window_strides", "padding")
    )
    ends = (*window[:1], *window[-1:], *strides[:1], *strides[-1:])
    still = {*ends, *params["base_dilation"], *params["window_dilation"]} == {1}
    _require(still and not any((*padding[0], *padding[-1])), eqn, "images [N, ..., C], dilation 1")
    last = len(window) - 1
    low, high = zip(*padding[1:-1], strict=True)
    found = graph.emit(
        "MaxPool",
        graph.transpose(inputs[0], (0, last, *range(1, last))),
        kernel_shape=[int(w) for w in window[1:-1]],
        strides=[int(s) for s in strides[1:-1]],
        pads=[int(p) for p in (*low, *high)],
    )
    return graph.transpose(found, (0, *range(2, last + 1), 1))


# -- rules: jaxprs inside --------------------------------------------------------------------------


def _call(graph: OnnxGraph, eqn: core.JaxprEqn, inputs: Sequence[str]) -> list[str]:
    return _inline(graph, eqn.params.get("jaxpr") or eqn.params["call_jaxpr"], inputs)


def _scan(graph: OnnxGraph, eqn: core.JaxprEqn, inputs: Sequence[str]) -> list[str]:
    """Its steps, written out one after the other."""
    params = eqn.params
    _require(not params["reverse"] and params["length"] > 0, eqn, "steps from the first on")
    ends = (params["num_consts"], params["num_consts"] + params["num_carry"])
    constants, carry, stacks = inputs[: ends[0]], inputs[ends[0] : ends[1]], inputs[ends[1] :]
    shapes = [_shape(var) for var in eqn.invars[ends[1] :]]
    outs = []
    for i in range(params["length"]):
        rows = [_row(graph, x, shape, i) for x, shape in zip(stacks, shapes, strict=True)]
        found = _inline(graph, params["jaxpr"], [*constants, *carry, *rows])
        carry, made = found[: len(carry)], found[len(carry) :]
        outs.append(made)
    stacked = zip(zip(*outs, strict=True), eqn.outvars[len(carry) :], strict=True)
    return [*carry, *(_stack(graph, parts, _shape(var)) for parts, var in stacked)]


def _row(graph: OnnxGraph, x: str, shape: Sequence[int], i: int) -> str:
    parts = (graph.integers(part) for part in ([i], [i + 1], [0]))
    return graph.reshape(graph.emit("Slice", x, *parts), (1, *shape[1:]), shape[1:])


def _stack(graph: OnnxGraph, parts: Sequence[str], shape: Sequence[int]) -> str:
    rows = [graph.reshape(part, shape[1:], (1, *shape[1:])) for part in parts]
    return graph.emit("Concat", *rows, axis=0)


def _platform(graph: OnnxGraph, eqn: core.JaxprEqn, inputs: Sequence[str]) -> str:
    """The way for any platform: those for a certain one are shaped after its weak points."""
    platforms = eqn.params["platforms"]
    _require(None in platforms, eqn, "with a default")
    return graph.constant(platforms.index(None), np.int32)


def _branch(graph: OnnxGraph, eqn: core.JaxprEqn, inputs: Sequence[str]) -> list[str]:
    _require(inputs[0] in graph.constants, eqn, "a branch that is known, such as a platform's")
    branch = eqn.params["branches"][int(graph.constants[inputs[0]])]
    return _inline(graph, branch, inputs[1:])


RULES: dict[str, Rule] = {
    **{
        name: _same(name.capitalize())
        for name in ("abs", "cos", "exp", "log", "neg", "sin", "sqrt", "tanh")
    },
    **{name: _same(name.capitalize()) for name in ("add", "sub", "mul", "div", "max", "min")},
    "lt": _same("Less"),
    "le": _same("LessOrEqual"),
    "eq": _same("Equal"),
    "ne": lambda graph, eqn, inputs: graph.emit("Not", graph.emit("Equal", *inputs)),
    "ge": _same("GreaterOrEqual"),
    "gt": _same("Greater"),
    "and": _logical("And"),
    "or": _logical("Or"),
    "not": _logical("Not"),
    "logistic": _same("Sigmoid"),
    "stop_gradient": _same("Identity"),
    "integer_pow": _integer_pow,
    "pow": _same("Pow"),
    "square": lambda graph, eqn, inputs: graph.emit("Mul", inputs[0], inputs[0]),
    "rsqrt": _rsqrt,
    "select_n": _select,
    "clamp": _clamp,
    "convert_element_type": _cast,
    "reshape": _reshape,
    "squeeze": _squeeze,
    "broadcast_in_dim": _broadcast,
    "transpose": _transpose,
    "concatenate": _concatenate,
    "iota": _iota,
    "gather": _rows,
    "cumsum": _cumsum,
    "slice": _slice,
    "split": _split,
    "pad": _pad,
    "reduce_sum": _reduce("ReduceSum"),
    "reduce_max": _reduce("ReduceMax"),
    "reduce_min": _reduce("ReduceMin"),
    "argmax": _argmax,
    "dot_general": _dot,
    "conv_general_dilated": _convolution,
    "reduce_window_max": _max_pool,
    **dict.fromkeys(("jit", "pjit", "custom_jvp_call", "custom_vjp_call"), _call),
    "platform_index": _platform,
    "cond": _branch,
    "scan": _scan,
}
