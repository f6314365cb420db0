"""The `state_dict` of a layer holds the options that give its weights their meaning.

A raw weight of 0.5 is another rate under another parameterisation, and the same rate is another decay under another
dt. So a layer's state_dict has an entry `_extra_state`: canonical JSON,

    {"format": 1, "options": {"dt": 1.0, "parameterization": "softplus", ...}}

as a uint8 tensor, because safetensors, torch.distributed.checkpoint and torch.load(weights_only=True) store tensors
only. It is padded with spaces to whole blocks: some of these read a file into a tensor of the layer, and that tensor
must have the size of the saved one for the options to be compared at all.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from cofm_triton._version import __version__

# Each option, and its value in entries that are older than the option.
OPTIONS: dict[str, Any] = {
    "parameterization": "softplus",
    "recurrence": "diagonal",
    "nonlinearity": "hardtanh",
    "dt": 1.0,
    "discretization": "exact",
    "constrained": True,
    "normalize_input": False,
    "oscillating": False,
    "max_time_scale": None,  # that of units of frequencies; None: there are none
    "learnable_dt": False,
    "gated": False,
}

_FORMAT = 1
_BLOCK = 512  # bytes
_KEY = "_extra_state"  # PyTorch's name


def encode(options: Mapping[str, Any]) -> Tensor:
    """The entry of some options: a uint8 tensor (512 n,) on the CPU.

    Example:
        >>> decode(encode({"dt": 0.1}))
        {'dt': 0.1}
    """
    content = {"format": _FORMAT, "options": dict(options)}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), default=lambda number: number.item()).encode()
    return torch.tensor(list(text.ljust(-(-len(text) // _BLOCK) * _BLOCK)), dtype=torch.uint8, device="cpu")


def decode(entry: Any) -> dict[str, Any] | None:
    """The options of an entry; None where it has no values, as on the meta device.

    The entry may be on any device and of any dtype that holds its numbers: users move and cast whole state_dicts.

    Raises:
        ValueError: it is damaged, or of a later format.
    """
    if not isinstance(entry, Tensor) or entry.dim() != 1 or entry.is_complex():
        given = f"{entry.dtype} {tuple(entry.shape)}" if isinstance(entry, Tensor) else type(entry).__name__
        raise ValueError(f"the entry is damaged, it must be a tensor (n,) of real numbers, got {given}")
    if entry.is_meta or hasattr(entry, "fake_mode"):
        return None
    try:
        content = json.loads(bytes(int(number) for number in entry.detach().cpu().double().round().tolist()))
        version, options = content["format"], dict(content["options"])
    except (TypeError, ValueError, KeyError, RuntimeError, OverflowError) as error:
        raise ValueError(f"the entry is damaged, {type(error).__name__}: {error}") from error
    if version != _FORMAT:
        raise ValueError(f"the entry has format {version!r}, cofm_triton {__version__} reads {_FORMAT}: update it")
    return options


class OptionsInState(nn.Module):
    """A module with the attributes `OPTIONS`, which refuses a state_dict that was saved with other options.

    A state_dict without the entry, as earlier versions wrote it, loads with a warning.
    """

    def get_extra_state(self) -> Tensor:
        """The options, for `state_dict`."""
        return encode(self._options())

    def set_extra_state(self, state: Any) -> None:
        """Compare saved options with those of the module, and change nothing.

        Raises:
            ValueError: they differ, or the entry is damaged.
        """
        saved = decode(state)
        if saved is None:
            return
        own = self._options()
        pairs = {name: (saved.get(name, OPTIONS.get(name)), own.get(name)) for name in [*own, *saved]}
        differing = [f"{name} was {old!r} and is {new!r}" for name, (old, new) in pairs.items() if old != new]
        if differing:
            raise ValueError(
                f"the weights were saved under other options: {', '.join(differing)} here; "
                "build the module with the saved ones"
            )

    def _options(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in OPTIONS}

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        key = prefix + _KEY
        names = [name.removeprefix(prefix) for name in state_dict if name.startswith(prefix)]
        try:
            if key in state_dict:
                self.set_extra_state(state_dict[key])
            else:
                _refuse_other_modules(state_dict, prefix, names)
        except ValueError as error:  # refused as PyTorch refuses other sizes, and before a weight is overwritten
            way = f", or remove {key!r} from the state_dict to load the weights all the same"
            error_msgs.append(f"{error}{way if key in state_dict else ''}.")
            return
        if key not in state_dict and names:
            self._warn(key, missing_keys)
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        if key in missing_keys:
            missing_keys.remove(key)

    def _warn(self, key: str, call: list[str]) -> None:
        """Warn, once in a call of `load_state_dict`, that the options of the weights are unknown."""
        global _warned
        if call is not _warned:
            _warned = call
            own = ", ".join(f"{name}={value!r}" for name, value in self._options().items())
            warnings.warn(
                f"the state_dict does not say under which options its weights were trained (no {key!r}: an earlier "
                f"version of cofm_triton wrote it); make sure that they are this module's: {own}",
                stacklevel=_levels_to_the_user(),
            )


_warned: list[str] | None = None


def _levels_to_the_user() -> int:
    """The `stacklevel` with which a warning points to the first frame that is neither PyTorch's nor ours."""
    level, frame = 0, sys._getframe()
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] in ("torch", "cofm_triton"):
        level, frame = level + 1, frame.f_back
    return level


def _refuse_other_modules(state_dict: Mapping[str, Any], prefix: str, names: list[str]) -> None:
    """Raises ValueError for the weights of `torch.nn.RNN`, `GRU` or `LSTM`."""
    if "weight_hh_l0" not in names or "weight_ih_l0" not in names or any("rate_l0" in name for name in names):
        return
    rows, columns = state_dict[prefix + "weight_hh_l0"].shape
    kind = {1: "RNN", 3: "GRU"}.get(rows / columns, "LSTM")
    raise ValueError(
        f"weights of a torch.nn.{kind} cannot be loaded into a StableRNN: nn.{kind} has a free recurrent matrix, "
        "weight_hh_l0, where this layer has decay rates f(rate_l0) > 0, and no rates give the same outputs; "
        "train the layer from its own fresh weights"
    )
