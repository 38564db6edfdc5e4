"""Decomposed batch norm: tf.nn.batch_normalization's chain of Rsqrt, Mul, Sub and Add, or one written by hand.

From each Rsqrt(variance + epsilon), or division by Sqrt(variance + epsilon), or such a power, the few ops that use it are read as a sum
of products. Batch norm is the sum  r*x*gamma - r*mean*gamma + beta,  or  r*(x - mean)*gamma + beta,  in any order of writing:
the numbers at the ends of op names differ between versions and depend on what is omitted, so they are never used.

Quantization-aware training multiplies the convolution's weights by r*gamma and adds  beta - r*mean*gamma  to its output, and leaves all of
that in the graph for inference (tf.contrib.quantize, fold_batch_norms.py, "_Fold").
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Hashable, Iterator, Sequence
from typing import NamedTuple

from exporter.formats.graph_def import Node, Output
from exporter.sources.tf_graph.paths import op_scope
from exporter.sources.tf_graph.trace import Tracer
from exporter.sources.tf_graph.values import Constant, Frame, Moment, Opaque, Parts, Traced, Value, Variable, operand

SUMS = frozenset({"Add", "AddV2"})
ADDITIONS = SUMS | {"BiasAdd"}
DIVISIONS = frozenset({"RealDiv", "Div", "DivNoNan", "Xdivy"})  # alike unless they divide by 0, or 0 by what is no number
RECIPROCALS = frozenset({"Reciprocal", "Inv"})
SAME = frozenset({"Identity", "Cast", "StopGradient"})
ARITHMETIC = ADDITIONS | DIVISIONS | RECIPROCALS | SAME | {"Mul", "Sub", "Neg"}
ROOTS = frozenset({"Rsqrt", "Sqrt", "Pow"})
POWERS = {0.5: "Sqrt", -0.5: "Rsqrt"}
MAX_CONE_WIDTH = 64
REARRANGED = "ArithmeticOptimizer/AddOpsRewrite"  # in the names of sums that grappler writes anew, tensors of one shape first
MAX_TERMS = 8


class Term(NamedTuple):
    """One product: sign, whether it contains the reciprocal root, the activation in it, and parameters."""

    sign: int
    root: bool
    x: Value | None
    factors: tuple[Traced, ...]


ROOT = Term(sign=1, root=True, x=None, factors=())  # the reciprocal root alone


@dataclasses.dataclass(slots=True, eq=False, repr=False)  # not frozen, as the classes of values.py
class Chain:
    """A batch norm that was found. last: its last op; the other fields are its roles.

    is_centered: whether the mean is subtracted from x before the root comes in: what feeds a batch norm may be a difference, too.
    is_outside: whether epsilon is added to the root instead of to the variance.
    """

    last: Node
    x: Value
    gamma: Traced | None
    beta: Traced | None
    mean: Traced
    variance: Traced
    epsilon: float | None
    is_centered: bool = False
    is_outside: bool = False


def chains(tracer: Tracer, frame: Frame) -> Iterator[tuple[Node, str, Chain | None, Traced]]:
    """(root, "Sqrt" or "Rsqrt", what was found or None, variance) for each root of a sum in the frame."""
    alone: dict[Hashable, list[Node]] = {}
    for node in frame.body.nodes.values():
        kind = _kind_of_root(tracer, frame, node) if node.op in ROOTS else None
        if kind is not None:
            variance, epsilon = _sum_under(tracer, frame, node)
            if variance is not None:
                found = Cone(tracer, frame, [node], kind).find(variance, epsilon)
                if found is None:  # people who write it by hand also write its root twice: for x and for the mean
                    pair = alone.setdefault((kind, variance.identity, epsilon), [])
                    pair.append(node)
                    found = Cone(tracer, frame, pair, kind).find(variance, epsilon) if len(pair) == 2 else None
                if found is None and kind == "Sqrt" and inner(operand(frame, node, 0)).op not in SUMS:
                    found = _with_epsilon_outside(tracer, frame, node, variance)
                yield node, kind, found, variance


def _with_epsilon_outside(tracer: Tracer, frame: Frame, root: Node, variance: Traced) -> Chain | None:
    """One that divides by the root plus a number, as people who write it by hand do."""
    for user in frame.body.users.get(root.name, ()):
        numbers = [tracer.scalar(operand(frame, user, n)) for n in (0, 1)] if user.op in SUMS else []
        epsilon = [number for number in numbers if number is not None]
        if len(epsilon) == 1 and (found := Cone(tracer, frame, [user], "Sqrt").find(variance, epsilon[0])) is not None:
            return dataclasses.replace(found, is_outside=True)
    return None


def _kind_of_root(tracer: Tracer, frame: Frame, node: Node) -> str | None:
    """"Sqrt" or "Rsqrt", also if a power is one (** 0.5 or ** -0.5); None for another power."""
    if node.op != "Pow":
        return node.op
    power = tracer.scalar(operand(frame, node, 1))
    return POWERS.get(power) if power is not None else None


def _sum_under(tracer: Tracer, frame: Frame, root: Node) -> tuple[Traced | None, float | None]:
    """The variance and epsilon under a root; no variance if it is not a sum of a statistic and a number."""
    value = inner(operand(frame, root, 0))
    if value.op not in SUMS:
        source = tracer.trace(value)
        return (source, 0.0) if isinstance(source, (Variable, Parts)) else (source, None) if isinstance(source, Constant) else (None, None)
    sides = [value.operand(0), value.operand(1)]
    numbers = [tracer.scalar(side) for side in sides]
    if None not in numbers:  # one channel: the number is the one without a dimension
        numbers = [number if rank_of(tracer.trace(side)) == 0 else None for number, side in zip(numbers, sides)]
    if (numbers[0] is None) == (numbers[1] is None):
        sources = [source for side in sides if isinstance(source := tracer.trace(side), (Variable, Parts, Constant))]
        return (sources[0], None) if sources else (None, None)
    statistic = sides[0] if numbers[0] is None else sides[1]
    return tracer.trace(statistic), numbers[1] if numbers[0] is None else numbers[0]


def corrects_batch(tracer: Tracer, frame: Frame, root: Node) -> bool:
    """Whether the root of a stored variance is divided by that of a batch: quantization-aware training of TensorFlow 1 folds the statistics
    of the batch into the weights, and scales these by that quotient (contrib/quantize/python/fold_batch_norms.py)."""
    for user in frame.body.users.get(root.name, ()):
        other = inner(operand(frame, user, 1)).node if user.op in DIVISIONS and user.inputs[0].node == root.name else None
        if other is not None and other.op == root.op:
            variance, _ = _sum_under(tracer, frame, other)
            return variance is not None and tracer.is_statistic(variance)
    return False


def splits_batch(tracer: Tracer, chain: Chain) -> bool:
    """Whether the layer itself reshapes its input to smaller batches, (size, -1, ...) or in inference (-1, 1, ...): virtual_batch_size."""
    x = inner(chain.x)
    node = x.node
    if node is None or node.op != "Reshape" or _scope(node) != op_scope(chain.last):
        return False
    sizes = x.operand(1)
    if sizes.op == "ConcatV2":  # the sizes of the batches, and the input's other sizes
        sizes = sizes.operand(0)
    first = (tracer.integers(sizes) or [])[:2]
    return len(first) == 2 and first[first[0] > 0] == -1 and first[first[0] < 0] > 0


def rank_of(source: Traced) -> int | None:
    """The number of dimensions of a constant, None for anything else."""
    return len(source.node.tensor().shape) if isinstance(source, Constant) else None


def inner(value: Value) -> Value:
    """A value without the ops around it that change no number."""
    for _ in range(MAX_CONE_WIDTH):
        if value.op not in SAME:
            break
        value = value.operand(0)
    return value


class Cone:
    """The few ops after a root, or after several of one sum, as sums of products."""

    def __init__(self, tracer: Tracer, frame: Frame, roots: Sequence[Node], kind: str) -> None:
        self.tracer, self.frame, self.users, self.kind = tracer, frame, frame.body.users, kind
        self.roots = {root.name: root for root in roots}
        near = frame.body.following(roots, lambda _, user: user.op in ARITHMETIC)
        self.members = {node.name: node for node in itertools.islice(near, MAX_CONE_WIDTH)}
        self._terms: dict[str, tuple[Term, ...] | None] = {}

    def find(self, variance: Traced, epsilon: float | None) -> Chain | None:
        """The batch norm of this root: the first op whose sum is one; a later one of the same scope that only adds what it lacks, or in
        which the root multiplies a mean, so that the difference before it was none of batch norm's."""
        best: Chain | None = None
        for node in self.members.values():
            terms = self._sum(node) if node.name not in self.roots else None
            found = self._match(node, terms, variance, epsilon) if terms else None
            if found is None:
                continue
            if best is None or best.is_centered > found.is_centered:
                best = found
            elif (found.x, found.mean.identity, _scope(found.last)) == (best.x, best.mean.identity, _scope(best.last)):
                best = found if _roles(found) > _roles(best) else best
        if best is not None and best.beta is None and self._is_in_rearranged_sum(best.last):
            reason = "in a sum that TensorFlow's graph optimizer rearranged"
            return dataclasses.replace(best, beta=Opaque(reason, Value(self.frame, Output(best.last.name, 0))))
        return best

    def _is_in_rearranged_sum(self, node: Node) -> bool:
        """Whether grappler adds a parameter to a sum of what a node computes and something else: r*x + y + beta of r*x + beta + y."""
        sums = self.frame.body.following([node], lambda _, user: REARRANGED in user.name or user.op in SAME)
        return any(isinstance(self.tracer.trace(Value(self.frame, output)), (Variable, Constant, Parts))
                   for one in itertools.islice(sums, 1, None) for output in one.inputs)

    def _sum(self, node: Node) -> tuple[Term, ...] | None:
        """The sum that a member of the cone computes, None if it is something else."""
        if node.name not in self._terms:
            self._terms[node.name] = None  # an op that uses its own output, which only a broken graph contains, is ignored
            self._terms[node.name] = self._compute(node)
        return self._terms[node.name]

    def _compute(self, node: Node) -> tuple[Term, ...] | None:
        if node.name in self.roots:
            return (ROOT,) if self.kind == "Rsqrt" else None
        if node.op in RECIPROCALS:
            return (ROOT,) if self._divides(operand(self.frame, node, 0)) else None
        first = operand(self.frame, node, 0)
        if node.op in SAME:
            return self._operand(first)
        if node.op == "Neg":
            return _negated(self._operand(first))
        second = operand(self.frame, node, 1)
        if node.op in DIVISIONS:
            if not self._divides(second):
                return None
            return (ROOT,) if self._is_one(first) else _product(self._operand(first), (ROOT,))
        if node.op == "BiasAdd" and node.text("data_format").startswith("NC"):
            return None  # along axis 1, where all else is along the last one
        one, other = self._operand(first), self._operand(second)
        if node.op == "Mul":
            return _product(one, other)
        if one is None or other is None:
            return None
        both = (*one, *(_negated(other) or ())) if node.op == "Sub" else (*one, *other)
        return both if len(both) <= MAX_TERMS else None

    def _divides(self, value: Value) -> bool:
        """Whether a value is the square root itself."""
        node = inner(value).node
        return self.kind == "Sqrt" and node is not None and node.name in self.roots

    def _is_one(self, value: Value) -> bool:
        """Whether a value is the number 1, as in 1 / sqrt(variance + epsilon)."""
        return self.tracer.scalar(value) == 1 and rank_of(self.tracer.trace(value)) == 0

    def _is_activation(self, source: Traced) -> bool:
        """Whether a value is neither a parameter nor computed from parameters alone, as exp(gamma) is."""
        return isinstance(source, (Opaque, Moment)) and not self.tracer.of_parameters(source)

    def _operand(self, value: Value) -> tuple[Term, ...] | None:
        node = value.node
        if node is not None and node.name in self.members:
            return self._sum(node)
        sign, value = self._signed(value)
        source = self.tracer.trace(value)
        made = isinstance(source, Opaque) and self.tracer.is_statistic(source)  # gamma and beta as batch renormalization corrects them
        if not made and self._is_activation(source):  # a Moment may be the mean, or the output of a pooling layer
            return (Term(sign, False, value, ()),)
        return (Term(sign, False, None, (source,)),)

    def _signed(self, value: Value) -> tuple[int, Value]:
        own = inner(value)
        return (-1, own.operand(0)) if own.op == "Neg" else (1, value)

    def _match(self, node: Node, terms: tuple[Term, ...], variance: Traced, epsilon: float | None) -> Chain | None:
        rooted = [term for term in terms if term.root]
        rest = [term for term in terms if not term.root]
        scaled = [term for term in rooted if term.x is not None]
        shift = [term for term in rooted if term.x is None]
        if len(rest) == 2 and len(shift) == 1 and not scaled:
            return self._scaling_weights(node, rest, shift[0], variance, epsilon)
        if len(rest) > 1 or any(term.x is not None or len(term.factors) != 1 or term.sign < 0 for term in rest):
            return None
        beta = rest[0].factors[0] if rest else None
        if len(scaled) == 2 and not shift:  # the mean also comes from activations
            scaled, shift = self._activation_and_mean(scaled)
        if len(scaled) != 1 or scaled[0].sign < 0 or len(scaled[0].factors) > 1 or len(shift) > 1:
            return None
        x, factors = scaled[0].x, scaled[0].factors
        assert x is not None, "all of `scaled` have one"
        gamma = factors[0] if factors else None
        if shift:
            mean = _other_factor(shift[0], factors) or _other_factor(self._expanded(shift[0]), factors)
            return None if mean is None else Chain(node, x, gamma, beta, mean, variance, epsilon)
        return self._centered(node, x, gamma, beta, variance, epsilon)

    def _expanded(self, term: Term) -> Term:
        """A product with the factors of those of its factors that are products themselves: mean * gamma, before the root comes in."""
        found: list[Traced] = []
        for factor in term.factors:
            value = inner(factor.value) if isinstance(factor, Opaque) and not factor.shaping else None
            found += [self.tracer.trace(value.operand(n)) for n in (0, 1)] if value is not None and value.op == "Mul" else [factor]
        return term._replace(factors=tuple(found))

    def _scaling_weights(self, node: Node, rest: list[Term], shift: Term, variance: Traced, epsilon: float | None) -> Chain | None:
        """x + beta - r*mean*gamma, where r*gamma is used once more: by the weights that x is computed with."""
        xs = [term.x for term in rest if term.x is not None and not term.factors]
        betas = [term.factors[0] for term in rest if term.x is None and len(term.factors) == 1]
        if len(xs) != 1 or len(betas) != 1 or any(term.sign < 0 for term in rest) or node.op == "BiasAdd":
            return None
        found = []
        for scale in self.members.values():
            terms, users = self._sum(scale), self.users.get(scale.name, ())
            if terms is None or len(terms) > 1 or len(users) < 2 or any(user.op not in ("Mul", "Reshape") for user in users):
                continue
            gamma, mean = terms[0].factors, _other_factor(shift, terms[0].factors)
            if terms[0] == ROOT._replace(factors=gamma[:1]) and mean is not None:
                found.append(Chain(node, xs[0], gamma[0] if gamma else None, betas[0], mean, variance, epsilon))
        return found[0] if len(found) == 1 else None

    def _activation_and_mean(self, scaled: list[Term]) -> tuple[list[Term], list[Term]]:
        plus, minus = ([term for term in scaled if term.sign == sign] for sign in (1, -1))
        if len(minus) == 1 and plus[0].factors == minus[0].factors:
            assert minus[0].x is not None, "all of `scaled` have one"
            source = self.tracer.trace(minus[0].x)
            if not self._is_input(source):
                return plus, [minus[0]._replace(x=None, factors=(*minus[0].factors, source))]
        return [], []

    def _is_input(self, source: Traced) -> bool:
        """Whether a value is computed from activations and is no statistic of them."""
        return (isinstance(source, Opaque) and source.beside is None and self.tracer.moment(source) is None
                and self.tracer.of_activations(source))

    def _centered(self, node: Node, x: Value, gamma: Traced | None, beta: Traced | None, variance: Traced,
                  epsilon: float | None) -> Chain | None:
        """The form with the difference in place of x, or gamma times it."""
        difference = inner(x)
        if difference.op == "Mul" and gamma is None:
            sides = [difference.operand(0), difference.operand(1)]
            sources = [self.tracer.trace(side) for side in sides]
            second = self._is_activation(sources[1])
            difference, gamma = inner(sides[second]), sources[not second]
        if difference.op not in ("Sub", "AddV2", "Add") or (gamma is not None and self._is_activation(gamma)):
            return None
        outer, (sign, value) = difference.operand(0), self._signed(difference.operand(1))
        mean = self.tracer.trace(value)
        if self._is_input(mean):
            return None
        if (sign < 0) == (difference.op == "Sub") or not isinstance(self.tracer.trace(outer), (Opaque, Moment)):
            return None
        return Chain(node, outer, gamma, beta, mean, variance, epsilon, is_centered=True)


def _negated(terms: tuple[Term, ...] | None) -> tuple[Term, ...] | None:
    return None if terms is None else tuple(term._replace(sign=-term.sign) for term in terms)


def _product(one: tuple[Term, ...] | None, other: tuple[Term, ...] | None) -> tuple[Term, ...] | None:
    if one is None or other is None or len(one) * len(other) > MAX_TERMS:
        return None
    if any((a.root and b.root) or (a.x is not None and b.x is not None) for a in one for b in other):
        return None
    return tuple(Term(a.sign * b.sign, a.root or b.root, a.x or b.x, (*a.factors, *b.factors)) for a in one for b in other)


def _other_factor(shift: Term, factors: tuple[Traced, ...]) -> Traced | None:
    """The mean in  -r*mean*gamma  once gamma is known."""
    left = list(shift.factors)
    for factor in factors:
        same = [one for one in left if one.identity == factor.identity]
        if not same:
            return None
        left.remove(same[0])
    return left[0] if len(left) == 1 and shift.sign < 0 else None


def _scope(node: Node) -> str:
    """The scope of an op, without the one that a function of TensorFlow opens for it alone: xdivy/Xdivy."""
    scope = node.name.rpartition("/")[0]
    above, _, last = scope.rpartition("/")
    return above if last.rstrip("_0123456789") == node.op.lower() else scope


def _roles(chain: Chain) -> int:
    return sum(role is not None and rank_of(role) != 0 for role in (chain.gamma, chain.beta))
