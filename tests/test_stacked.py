"""Models as stacked coefficients: which ones are understood."""

from torch import Tensor, nn

from cofm_triton.layers import RECURRENCES, RNNFunctional
from cofm_triton.stacked import is_stackable


class Shifted(RNNFunctional):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) + 1


def test_one_plain_layer_is_understood() -> None:
    assert is_stackable(RNNFunctional(1, 3))
    assert is_stackable(RNNFunctional(2, 3, 4, recurrence="ssm", bias=False))
    for recurrence in RECURRENCES:
        for constrained in (False, True):
            assert is_stackable(RNNFunctional(1, 3, recurrence=recurrence, constrained=constrained))


def test_everything_else_is_left_alone() -> None:
    assert not is_stackable(RNNFunctional(1, 3, num_layers=2))
    assert not is_stackable(RNNFunctional(1, 3, bidirectional=True))
    assert not is_stackable(RNNFunctional(1, 4, oscillating=True))
    assert not is_stackable(RNNFunctional(1, 4, normalize_input=True))
    assert not is_stackable(Shifted(1, 3))
    assert not is_stackable(nn.RNN(1, 3))
    reparametrised = RNNFunctional(1, 3)
    nn.utils.parametrizations.weight_norm(reparametrised.readout)
    assert not is_stackable(reparametrised)


class Doubled(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


def test_parts_that_do_more_than_their_class_says_are_left_alone() -> None:
    other = RNNFunctional(1, 3)
    other.readout = Doubled(3, 1)
    assert not is_stackable(other)
    for part in ("", "rnn", "readout"):
        model = RNNFunctional(1, 3)
        handle = model.get_submodule(part).register_forward_hook(lambda *arguments: None)
        assert not is_stackable(model)
        handle.remove()
        assert is_stackable(model)
