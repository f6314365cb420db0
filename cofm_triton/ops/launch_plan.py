"""Launch plans: what an operator does for tensors of one signature, noted once and done again without thinking.

An operator in Triton chooses blocks, allocates and launches. All of that follows from the signature of the call: dtype,
shape, strides, device and alignment of its tensors, and its options. On a GPU the thinking takes several times as long
as the launches. So when a signature comes for the second time, the operator's work is noted while it runs: every
PyTorch operation on a tensor, and every launch with the kernel that was compiled for it. The notes are a Python
function, one line for each. From then on calls of this signature are calls of that function, on the current stream.

A plan holds no tensor and never changes, so that threads share it. What an operator does must not depend on the numbers
in its tensors, which a host that does not wait for the device cannot know; an operator that looks at them all the same
is not planned. The limits: a plan repeats decisions, and sees nothing of a global variable that has changed since.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import count
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from cofm_triton.ops.backends import implementation

MAX_STEPS = 2**16  # of all plans of an operator, up to a kilobyte each
# Addresses at multiples of this many bytes are what Triton compiles wide accesses for.
_ALIGNMENT = 16
ONCE, NEVER = "seen once", "not to be planned"
_PLAIN = (Tensor, torch.nn.Parameter)
# What tells of the numbers in a tensor.
_LOOKS = {
    "item", "tolist", "numpy", "equal", "allclose", "is_nonzero",
    "__bool__", "__int__", "__float__", "__index__", "__contains__", "__complex__",
}  # fmt: skip
_LITERALS = (int, bool, str, type(None))

Signature = tuple[Any, ...]


class Plan(NamedTuple):
    """What a call does.

    Attributes:
        repeat: takes the operator's arguments, gives its results.
        source: of `repeat`.
        steps: lines that do something.
    """

    repeat: Callable[..., Any]
    source: str
    steps: int


class Unplannable(Exception):
    """What an operator does cannot be repeated."""


class _Line(NamedTuple):
    """A line that makes and uses these names. Where it makes none, it changes what there is."""

    text: str
    made: set[str]
    used: set[str]


class _Notes(TorchFunctionMode):
    """What a call does to tensors, and what it launches, as lines of Python."""

    def __init__(self, arguments: tuple[Any, ...], launches: Any) -> None:
        super().__init__()
        self.launches = launches
        self.numbers = count()
        self.known: dict[str, Any] = {}  # constants
        self.lines: list[_Line] = []
        self.names: dict[int, str] = {}  # of tensors, by their `id`
        self.places: dict[int, tuple[str, int]] = {}  # of views, by their `id`: whose memory it is, bytes from there
        self.held: list[Any] = []  # lest another tensor gets the `id` of one that is gone
        self.arguments = [self.named(argument) for argument in arguments]
        device = next(argument.get_device() for argument in arguments if isinstance(argument, Tensor))
        self.stream = f"stream = {self.constant(launches.current_stream)}({device})"

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = kwargs or {}
        result = func(*args, **options)
        name = getattr(func, "__name__", "")
        if name in _LOOKS:
            raise Unplannable(name)
        if name == "new_empty":  # room takes the least time to make where all is said about it
            func, args, options = _room(result)
        changes = name == "__setitem__" or (name.endswith("_") and not name.endswith("__")) or "out" in options
        if changes or (_tensors(result) and not any(result is argument for argument in args)):
            self.note(func, args, options, result)
        return result

    def launched(self, launch: Any) -> None:
        """Note a launch; what launches a compiled kernel takes addresses, so that nobody makes views for it."""
        self.note(launch.call, launch.arguments, launch.options, None, self.address if launch.is_bare else None)

    def note(
        self, call: Callable[..., Any], arguments: Any, options: dict[str, Any], result: Any, tensor: Any = None
    ) -> None:  # fmt: skip
        """Note a call, and the names of what it makes; `tensor` writes tensors among its arguments."""
        used: set[str] = set()
        parts = [self.written(argument, used, tensor) for argument in arguments]
        parts += [f"{name}={self.written(value, used)}" for name, value in options.items()]
        made, target = [], ""
        if isinstance(result, (tuple, list)):
            made = [self.named(part) for part in result]
            target = f"{', '.join(made)}, = "
        elif isinstance(result, Tensor) and id(result) not in self.names:
            made = [self.named(result)]
            target = f"{made[0]} = "
        for part in result if isinstance(result, (tuple, list)) else (result,):
            self.place(part, arguments)
        self.lines.append(_Line(f"{target}{self.constant(call)}({', '.join(parts)})", set(made), used))

    def named(self, value: Any) -> str:
        """A name for a value that is not a constant."""
        name = f"v{next(self.numbers)}"
        self.held.append(value)
        if isinstance(value, Tensor):
            self.names[id(value)] = name
        return name

    def place(self, result: Any, arguments: Any) -> None:
        """Note whether a result is a view of an argument, and where in its memory."""
        if not isinstance(result, Tensor) or id(result) in self.places:
            return
        memory = result.untyped_storage().data_ptr()
        for whole in arguments:
            if isinstance(whole, Tensor) and whole is not result and whole.untyped_storage().data_ptr() == memory:
                name, offset = self.places.get(id(whole), (self.names[id(whole)], 0))
                self.places[id(result)] = name, offset + result.data_ptr() - whole.data_ptr()
                return

    def address(self, tensor: Tensor, used: set[str]) -> str:
        """The address of a tensor as Python."""
        name, offset = self.places.get(id(tensor)) or (self.written(tensor, used), 0)
        used.add(name)
        return f"{name}.data_ptr()" + (f" + {offset}" if offset else "")

    def constant(self, value: Any) -> str:
        """A name for a constant."""
        name = f"c{next(self.numbers)}"
        self.known[name] = value
        return name

    def written(self, value: Any, used: set[str], tensor: Any = None) -> str:
        """A value as Python, by `tensor` if it is one; `used` gets the names in it."""
        if isinstance(value, Tensor):
            if tensor is not None:
                written: str = tensor(value, used)
                return written
            if id(value) not in self.names:
                raise Unplannable("a tensor from elsewhere")
            used.add(self.names[id(value)])
            return self.names[id(value)]
        if value is self.launches.STREAM:
            used.add("stream")
            return "stream"
        if _tensors(value):
            parts = "".join(f"{self.written(part, used, tensor)}, " for part in value)
            return f"({parts})" if isinstance(value, tuple) else f"[{parts}]"
        if isinstance(value, torch.Size):
            return repr(tuple(value))  # PyTorch reads a tuple sooner
        return repr(value) if type(value) in _LITERALS else self.constant(value)

    def plan(self, results: Any) -> Plan:
        """What was noted, of a call that returned these results."""
        wanted: set[str] = set()
        end, lines = f"return {self.written(results, wanted)}", [*self.backward(wanted)]
        begin = [self.stream] if "stream" in wanted else []
        source = "\n    ".join((f"def repeat({', '.join(self.arguments)}):", *begin, *lines[::-1], end))
        exec(source, self.known)  # calls of what was called, with names and literals
        return Plan(self.known["repeat"], source, len(lines))

    def backward(self, wanted: set[str]) -> Iterable[str]:
        """The lines that are needed, the last one first; they let go of what no later one needs."""
        ours = {name for line in self.lines for name in line.made}
        for text, made, used in reversed(self.lines):
            if made and made.isdisjoint(wanted):
                continue
            spent = sorted((used | made) & ours - wanted)
            wanted |= used
            yield text + (f"; del {', '.join(spent)}" if spent else "")


def _room(like: Tensor) -> tuple[Callable[..., Tensor], tuple[Any, ...], dict[str, Any]]:
    """What asks for room like a tensor's: PyTorch's quickest way, which its compiler's programs go, on the current
    device; where there is none, the usual one, which takes twice as long.
    """
    guards = getattr(getattr(torch._C, "_dynamo", None), "guards", None)
    quick = getattr(guards, f"_empty_strided_{like.device.type}", None)
    layout = tuple(like.shape), like.stride()
    if quick is None:
        return torch.empty_strided, layout, dict(dtype=like.dtype, device=like.device)
    return quick, (*layout, like.dtype), {}


def _tensors(value: Any) -> bool:
    """Whether a value is a tensor, or several."""
    return isinstance(value, Tensor) or (isinstance(value, (tuple, list)) and any(map(_tensors, value)))


def _are_distinct(arguments: tuple[Any, ...]) -> bool:
    """Whether no tensor is there twice: notes could not tell which of its places was meant."""
    tensors = [id(argument) for argument in arguments if isinstance(argument, Tensor)]
    return len(set(tensors)) == len(tensors)


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
        return self.known(signature(arguments), *arguments)

    def known(self, key: Signature | None, *arguments: Any) -> Any:
        """The same with the signature at hand, or something as telling: equal keys mean equal signatures."""
        launches = implementation("triton", "launches")
        if key is None or not self.enabled or launches.followed():
            return self.operator(*arguments)
        plan = self.plans.get(key)
        if isinstance(plan, Plan):
            return plan.repeat(*arguments)
        if plan is ONCE and _are_distinct(arguments):
            return self._noted(key, arguments, launches)
        if plan is None:
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
        self._keep(key, plan, plan.steps)
        return results

    def _keep(self, key: Signature, plan: Plan | str, steps: int) -> None:
        """Remember; once too much is remembered, forget everything: plans are soon made anew."""
        if self.steps + steps > MAX_STEPS:
            self.plans, self.steps = {}, 0
        self.plans[key] = plan
        self.steps += steps
