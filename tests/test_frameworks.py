"""Layers in other people's training loops: each of them works as with any module."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.utils.data import DataLoader, TensorDataset

import cofm_triton as cofm
from cofm_triton.layers.rnn_functional import RNNFunctional
from cofm_triton.layers.stable_rnn import StableRNN

LENGTH, CHUNK = 12, 4


def data() -> TensorDataset:
    x = torch.randn(8, LENGTH, 3)
    return TensorDataset(x, x.cumsum(1)[..., :1])


def test_lightning_in_chunks_of_time(tmp_path: Path) -> None:
    """Truncated backpropagation: states are carried from chunk to chunk, gradients are not."""
    lightning = pytest.importorskip("lightning", reason="lightning is not installed")

    class Task(lightning.LightningModule):  # type: ignore[misc, name-defined]  # a base that may be missing
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False
            self.model = RNNFunctional(3, 8)
            self.losses: list[float] = []

        def training_step(self, batch: Any, index: int) -> None:
            h = None
            for x, y in zip(batch[0].split(CHUNK, 1), batch[1].split(CHUNK, 1), strict=True):
                output, h = self.model(x, h, return_state=True)
                loss, h = F.mse_loss(output, y), h.detach()
                self.optimizers().zero_grad()
                self.manual_backward(loss)
                self.optimizers().step()
                self.losses.append(loss.item())

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(cofm.parameter_groups(self.model), lr=0.01)

    task, quiet = Task(), dict(logger=False, enable_checkpointing=False, enable_progress_bar=False)
    before = [p.clone() for p in task.parameters()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the number of workers
        trainer = lightning.Trainer(max_epochs=1, accelerator="cpu", default_root_dir=tmp_path, **quiet)
        trainer.fit(task, DataLoader(data(), 4))
    assert len(task.losses) == 2 * LENGTH // CHUNK
    assert not any(torch.equal(p, q) for p, q in zip(task.parameters(), before, strict=True))


def test_accelerate(tmp_path: Path) -> None:
    """Prepared, trained, saved and loaded."""
    accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed")
    accelerator, made = accelerate.Accelerator(cpu=True), RNNFunctional(3, 8)
    optimizer = torch.optim.AdamW(cofm.parameter_groups(made), lr=0.01)
    model, optimizer, loader = accelerator.prepare(made, optimizer, DataLoader(data(), 4))
    for x, y in loader:
        loss = F.mse_loss(model(x), y)
        optimizer.zero_grad()
        accelerator.backward(loss)
        optimizer.step()
    accelerator.save_state(str(tmp_path))
    kept = [p.clone() for p in made.parameters()]
    with torch.no_grad():
        for p in made.parameters():
            p.zero_()
    accelerator.load_state(str(tmp_path))
    assert all(torch.equal(p, q) for p, q in zip(made.parameters(), kept, strict=True))


def test_skorch() -> None:
    """Fitted and cloned with other options, as scikit-learn's searches do."""
    skorch = pytest.importorskip("skorch", reason="skorch is not installed")
    base = pytest.importorskip("sklearn.base")
    sizes = dict(module__input_size=3, module__hidden_size=8, module__parameterization="exp")
    net = skorch.NeuralNetRegressor(RNNFunctional, max_epochs=2, verbose=0, train_split=None, **sizes)
    x, y = data().tensors
    net.fit(x.numpy(), y.numpy())
    assert net.predict(x.numpy()).shape == (8, LENGTH, 1)
    assert len(net.history) == 2
    other = base.clone(net).set_params(module__parameterization="softplus", module__nonlinearity="tanh").initialize()
    assert other.module_.rnn.parameterization == "softplus"


@pytest.mark.parametrize(
    "options",
    [{}, dict(recurrence="diagonal", nonlinearity="tanh"), dict(gated=True), dict(recurrence="dense")],
    ids=str,
)
def test_ensembles_of_torch_func(options: dict[str, Any]) -> None:
    """Models side by side, their gradients for every sequence of a batch: those of each model alone."""
    models = [StableRNN(3, 4, batch_first=True, dtype=torch.float64, **options) for _ in range(3)]
    parameters, buffers = stack_module_state(models)
    x = torch.randn(2, 5, 3, dtype=torch.float64)

    def loss(own: Any, sequence: Tensor) -> Tensor:
        output, _ = functional_call(models[0], (own, {}), (sequence.unsqueeze(0),))
        return output.square().sum()

    assert not buffers
    grads = vmap(vmap(grad(loss), (None, 0)), (0, None))(parameters, x)
    for i, model in enumerate(models):
        for j, sequence in enumerate(x):
            alone = torch.autograd.grad(model(sequence.unsqueeze(0))[0].square().sum(), list(model.parameters()))
            for (name, _), one in zip(model.named_parameters(), alone, strict=True):
                torch.testing.assert_close(grads[name][i, j], one)


def through_torch(model: nn.Module) -> nn.Module:
    from torch.ao.quantization import quantize_dynamic

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that torchao is to be taken in place of it
        quantized: nn.Module = quantize_dynamic(model, {nn.Linear})
    return quantized


def through_torchao(model: nn.Module) -> nn.Module:
    quantization = pytest.importorskip("torchao.quantization", reason="torchao is not installed")
    quantization.quantize_(model, quantization.Int8DynamicActivationInt8WeightConfig())
    return model


@pytest.mark.parametrize("quantized", [through_torch, through_torchao])
def test_quantized_readout(quantized: Any) -> None:
    """To 8 bits, within the steps of weights and states; the encoder, which is no `nn.Linear`, stays as it is."""
    model = RNNFunctional(3, 32, 16).eval()
    x, c = torch.randn(16, LENGTH, 3), model.readout.weight.detach().abs()
    encoder = model.rnn.weight_ih_l0.clone()
    with torch.no_grad():
        exact, h = model(x), model.rnn(x)[0]
        small = quantized(model)
        y = small(x)
    of_states, of_weights = (h.max() - h.min().clamp(max=0)) / 127, c.max() / 127  # older ways have 7 bits for states
    bound = c.sum(1) * of_states + (h.abs().sum(-1, keepdim=True) + c.shape[1] * of_states) * of_weights
    assert not torch.equal(y, exact)
    assert ((y - exact).abs() <= bound).all()
    assert torch.equal(small.get_parameter("rnn.weight_ih_l0"), encoder)
