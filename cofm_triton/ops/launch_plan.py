"""Launch plans: what an operator does for tensors of one signature, noted once and done again without thinking.

An operator in Triton chooses blocks, allocates and launches. All of that follows from the signature of the call: dtype,
shape, strides, device and alignment of its tensors, and its options. On a GPU the thinking takes several times as long
as the launches. So when a signature comes for the second time, the operator's work is noted while it runs: every
PyTorch operation on a tensor, and every launch with the kernel that was compiled for it. From then on calls of this
signature repeat the list with their own tensors, on the current stream.

A plan holds no tensor and never changes, so that threads share it. What an operator does must not depend on the numbers
in its tensors, which a host that does not wait for the device cannot know; an operator that looks at them all the same
is not planned. The limits: a plan repeats decisions, and sees nothing of a global variable that has changed since.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import getitem, itemgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from cofm_triton.ops.backends import implementation

MAX_STEPS = 2**17  # of all plans of an operator, some 200 bytes each
# Addresses at multiples of this many bytes are what Triton compiles wide accesses for.
_ALIGNMENT = 16
UNSEEN, ONCE, NEVER = "unseen", "seen once", "not to be planned"
_PLAIN = (Tensor, torch.nn.Parameter)
# What tells of the numbers in a tensor.
_LOOKS = {
    "item", "tolist", "numpy", "equal", "allclose", "is_nonzero",
    "__bool__", "__int__", "__float__", "__index__", "__contains__", "__complex__",
}  # fmt: skip

Signature = tuple[Any, ...]


class Step(NamedTuple):
    """`values[result] = call(*pick(values), **options)`, after which the values at `spent` are not needed."""

    call: Callable[..., Any]
    pick: Callable[[list[Any]], Any]
    options: dict[str, Any]
    result: int
    spent: tuple[int, ...]


class Plan(NamedTuple):
    """Steps on a list of values: the stream, the call's arguments, constants, then results of steps.

    Attributes:
        values: the constants in their places, None elsewhere.
        steps: in order.
        results: the call's results among the values.
        needs_stream: whether a step is a launch of a compiled kernel.
    """

    values: list[Any]
    steps: list[Step]
    results: Callable[[list[Any]], Any]
    needs_stream: bool

    def run(self, arguments: tuple[Any, ...], launches: Any) -> Any:
        """The results for these arguments, whose signature is that of the plan."""
        values = self.values.copy()
        values[1 : 1 + len(arguments)] = arguments
        if self.needs_stream:
            values[0] = launches.current_stream(arguments[0].get_device())
        for call, pick, options, result, spent in self.steps:
            values[result] = call(*pick(values), **options)
            for place in spent:
                values[place] = None
        return self.results(values)


class Unplannable(Exception):
    """What an operator does cannot be repeated."""


class _Notes(TorchFunctionMode):
    """What a call does to tensors, and what it launches."""

    def __init__(self, arguments: tuple[Any, ...], launches: Any) -> None:
        super().__init__()
        self.values: list[Any] = [None, *arguments]
        self.places = {id(value): place for place, value in enumerate(self.values) if isinstance(value, Tensor)}
        self.given = len(self.values)
        self.steps: list[Step] = []
        self.launches = launches
        self.needs_stream = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = kwargs or {}
        result = func(*args, **options)
        name = getattr(func, "__name__", "")
        if name in _LOOKS:
            raise Unplannable(name)
        changes = name == "__setitem__" or (name.endswith("_") and not name.endswith("__")) or "out" in options
        if changes or (_tensors(result) and not any(result is argument for argument in args)):
            self.note(func, args, options, result)
        return result

    def launched(self, launch: Any) -> None:
        """Note a launch."""
        self.needs_stream |= any(argument is self.launches.STREAM for argument in launch.arguments)
        self.note(launch.call, launch.arguments, launch.options, None)

    def note(self, call: Callable[..., Any], arguments: Any, options: dict[str, Any], result: Any) -> None:
        """Note a call, and where its result goes."""
        if any(map(_tensors, options.values())):
            raise Unplannable("a tensor among the options")
        pick = _picker([self.place(argument) for argument in arguments])
        self.steps.append(Step(call, pick, options, self.new(result), ()))
        if isinstance(result, (tuple, list)):
            whole = len(self.values) - 1
            for index, part in enumerate(result):
                pick = _picker([whole, self.place(index)])
                self.steps.append(Step(getitem, pick, {}, self.new(part), ()))

    def new(self, value: Any) -> int:
        """A place for a value; it stays there, lest another tensor gets its `id`."""
        self.values.append(value)
        if isinstance(value, Tensor):
            self.places[id(value)] = len(self.values) - 1
        return len(self.values) - 1

    def place(self, value: Any) -> int:
        """Where a value is; constants get a place."""
        if isinstance(value, Tensor):
            if id(value) not in self.places:
                raise Unplannable("a tensor from elsewhere")
            return self.places[id(value)]
        if _tensors(value):
            parts = _picker([self.place(part) for part in value])
            self.steps.append(Step(_listed, parts, {}, self.new(None), ()))
            return len(self.values) - 1
        if value is self.launches.STREAM:
            return 0
        return self.new(value)

    def plan(self, results: Any) -> Plan:
        """What was noted, of a call that returned these results."""
        found = [self.place(result) for result in (results if isinstance(results, tuple) else (results,))]
        pick = _picker(found) if isinstance(results, tuple) else itemgetter(found[0])
        made = {step.result for step in self.steps}
        constants = [None if place in made or place < self.given else value for place, value in enumerate(self.values)]
        return Plan(constants, _without_spent(self.steps, made - set(found)), pick, self.needs_stream)


def _without_spent(steps: list[Step], made: set[int]) -> list[Step]:
    """Steps that let go of what they have made, as soon as no later one needs it."""
    held, rewritten = set(made), []
    places = list(range(1 + max((step.result for step in steps), default=0)))
    for step in reversed(steps):
        used = {step.result, *step.pick(places)} & held
        held -= used
        rewritten.append(step._replace(spent=tuple(used)))
    return rewritten[::-1]


def _picker(places: list[int]) -> Callable[[list[Any]], Any]:
    """The values at these places, as a tuple or a list."""
    if len(places) > 1:
        return itemgetter(*places)
    return itemgetter(slice(places[0], places[0] + 1) if places else slice(0, 0))


def _listed(*parts: Any) -> list[Any]:
    return list(parts)


def _tensors(value: Any) -> bool:
    """Whether a value is a tensor, or several."""
    return isinstance(value, Tensor) or (isinstance(value, (tuple, list)) and any(map(_tensors, value)))


def signature(arguments: tuple[Any, ...]) -> Signature | None:
    """All that decides what an operator does with these arguments; None where a tensor is not a plain one.

    Example:
        >>> signature((torch.ones(2, 3), None, 0.5))
        (torch.float32, torch.Size([2, 3]), (3, 1), 0, -1, None, 0.5)
    """
    found: list[Any] = []
    for argument in arguments:
        if isinstance(argument, Tensor):
            if type(argument) not in _PLAIN:
                return None
            address = argument.data_ptr() % _ALIGNMENT
            found += (argument.dtype, argument.shape, argument.stride(), address, argument.get_device())
        else:
            found.append(argument)
    return tuple(found)


class Planned:
    """An operator in Triton, on plain tensors of the current device, the first argument one of them; with plans.

    Attributes:
        enabled: False: nothing is noted or repeated, for who changes what operators call.
        operator: what is planned.
        plans: by signature, or why there is none.
        steps: of all plans.
    """

    enabled = True

    def __init__(self, operator: Callable[..., Any]) -> None:
        self.operator = operator
        self.plans: dict[Signature, Plan | str] = {}
        self.steps = 0

    def __call__(self, *arguments: Any) -> Any:
        """The results of the operator."""
        launches = implementation("triton", "launches")
        key = signature(arguments)
        if key is None or not self.enabled or launches.followed():
            return self.operator(*arguments)
        plan = self.plans.get(key, UNSEEN)
        if isinstance(plan, Plan):
            return plan.run(arguments, launches)
        if plan is ONCE:
            return self._noted(key, arguments, launches)
        if plan is UNSEEN:
            self._keep(key, ONCE, 1)
        return self.operator(*arguments)

    def _noted(self, key: Signature, arguments: tuple[Any, ...], launches: Any) -> Any:
        """The results, and a plan from now on, if there can be one."""
        notes = _Notes(arguments, launches)
        try:
            with notes, launches.telling(notes.launched):
                results = self.operator(*arguments)
            plan = notes.plan(results)
        except Unplannable:
            self._keep(key, NEVER, 1)
            return self.operator(*arguments)
        self._keep(key, plan, len(plan.steps))
        return results

    def _keep(self, key: Signature, plan: Plan | str, steps: int) -> None:
        """Remember; once too much is remembered, forget everything: plans are soon made anew."""
        if self.steps + steps > MAX_STEPS:
            self.plans, self.steps = {}, 0
        self.plans[key] = plan
        self.steps += steps
