"""Long runs: processes that are told to stop or killed, resuming to the same weights, and full determinism."""

import multiprocessing
import os
import signal

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.trainer_utils import get_last_checkpoint

from hf_e2kd.alignment.grids import resize_maps
from hf_e2kd.trainer.preemption import last_checkpoint
from tests.bcos.networks import network
from tests.models import build
from tests.processes import start
from tests.text_models import build_text, token_rows
from tests.trainer.interrupted import PAUSES, train_both, trainer_of
from tests.training import distiller, logged, samples

# --- Interrupted and resumed ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Both trainings have been interrupted here: one was told to stop, the other killed."""
    path = tmp_path_factory.mktemp("runs")
    here, there = multiprocessing.Pipe()
    process = start(train_both, path, there, folder=path)
    there.close()

    def message():
        assert here.poll(240), (path / "log.txt").read_text()[-3000:]
        return here.recv()

    try:
        assert message() == "within a step"
        os.kill(process.pid, signal.SIGTERM)
        here.send("go on")
        assert message() == f"stopped at {PAUSES['stored'] + 1}"
        assert message() == "within a step"
    finally:
        process.kill()
        process.join()
    # A process killed while it saves leaves a folder like this.
    (path / "live" / "checkpoint-11").mkdir()
    (path / "live" / "checkpoint-11" / "config.json").write_text("{}")
    return path


@pytest.mark.parametrize(("kind", "step"), [("stored", 9), ("live", 4)])
def test_interrupted_training_ends_as_the_whole_one(folder, kind, step):
    """Repeated or skipped samples, dropout and explained shares drawn anew, λ or the learning rate begun again; a
    checkpoint saved within the step that SIGTERM met; a half-written one resumed from."""
    before = signal.getsignal(signal.SIGTERM)
    whole = trainer_of(kind, folder, f"{kind}_whole")
    whole.train()
    assert last_checkpoint(folder / kind) == str(folder / kind / f"checkpoint-{step}")
    resumed = trainer_of(kind, folder, kind)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == whole.state.global_step == 12
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    for term in ("loss", "loss_explanation"):
        assert logged(resumed, term) == logged(whole, term)
    assert signal.getsignal(signal.SIGTERM) is before


def test_last_checkpoint_of_an_empty_folder(tmp_path):
    """The first start of a job that is always told to resume; a name that only looks like a checkpoint's."""
    (tmp_path / "checkpoint-best").mkdir()
    (tmp_path / "checkpoint-3").mkdir()
    assert get_last_checkpoint(tmp_path) is not None
    assert last_checkpoint(tmp_path) is None
    assert last_checkpoint(tmp_path / "nowhere") is None


def test_sigterm_is_given_back_after_an_error(tiny, tmp_path):
    """A training that failed would leave a process that no SIGTERM ends."""
    data = [{"pixel_values": torch.zeros(3, 32, 32)}] * 3 + [{"pixel_values": torch.zeros(3, 16, 16)}]
    before = signal.getsignal(signal.SIGTERM)
    trainer = distiller(
        tiny("vit"), build("vit", seed=1), tmp_path, {"enable_jit_checkpoint": True}, train_dataset=data
    )
    assert signal.getsignal(signal.SIGTERM) is before
    with pytest.raises(RuntimeError, match="stack"):
        trainer.train()
    assert signal.getsignal(signal.SIGTERM) is before


# --- Full determinism -------------------------------------------------------------------------------------------------

# What raises on CUDA under `torch.use_deterministic_algorithms`, after that function's documentation. Without bilinear
# resampling, which `F.interpolate` then computes otherwise: see the last test.
REFUSED_ON_CUDA = (
    "avg_pool3d_backward",
    "adaptive_avg_pool2d_backward",
    "adaptive_avg_pool3d_backward",
    "adaptive_max_pool2d_backward",
    "fractional_max_pool",
    "max_unpool",
    "upsample_linear1d_backward",
    "upsample_bicubic2d_backward",
    "upsample_bilinear2d_aa_backward",
    "upsample_trilinear3d_backward",
    "reflection_pad",
    "nll_loss2d",
    "ctc_loss",
    "put_.default",
    "histc",
    "bincount",
    "median",
    "grid_sampler_2d_backward",
    "grid_sampler_3d_backward",
    "scatter_reduce",
    "kthvalue",
)


class Operations(TorchDispatchMode):
    """Keeps the names of the operations that run while it is on, those of the backward pass included."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.add(str(function).removeprefix("aten.").lstrip("_"))
        return function(*args, **(kwargs or {}))


@pytest.fixture
def deterministic_mode_ends():
    environment = dict(os.environ)
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.deterministic = False
    os.environ.clear()
    os.environ.update(environment)


def texts(count):
    return token_rows(count)


@pytest.mark.parametrize(
    ("explainer", "family"),
    [
        ("gradcam", "vit"),
        ("attention_gradient", "vit"),
        ("attention_rollout", "vit"),
        ("saliency", "resnet"),
        ("input_x_gradient", "bert"),
        ("integrated_gradients", "bert"),
        ("lrp", "bert"),
        ("bcos", "bcos"),
    ],
)
@pytest.mark.usefixtures("deterministic_mode_ends")
def test_full_determinism(tmp_path, explainer, family):
    """An operation that raises in deterministic mode, or two trainings of one seed that differ."""

    def model(seed):
        if family == "bcos":
            return network("resnet", seed)
        return build_text("bert", seed) if family == "bert" else build(family, seed)

    data = texts(4) if family == "bert" else samples(4)
    settings = {"explainer": explainer, "full_determinism": True, "task_weight": 0.5 * (family != "bert")}
    ends = []
    for _ in range(2):
        trainer = distiller(
            model(0), model(1), tmp_path, {**settings, "max_steps": 1}, train_dataset=data, eval_dataset=data
        )
        with Operations() as operations:
            trainer.train()
        ends.append(trainer.model.state_dict())
    assert torch.are_deterministic_algorithms_enabled()
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())
    assert any("backward" in name for name in operations.names)
    assert not [name for name in operations.names if name.startswith(REFUSED_ON_CUDA)]


@pytest.mark.usefixtures("deterministic_mode_ends")
def test_maps_are_resampled_deterministically():
    """CUDA's kernel of the bilinear gradient raises in deterministic mode; torch must take another way than it."""
    torch.use_deterministic_algorithms(True)
    maps = torch.rand(2, 4, 4, device="meta", requires_grad=True)
    with Operations() as operations:
        resize_maps(maps, (7, 7)).sum().backward()
    assert not [name for name in operations.names if name.startswith("upsample")]
