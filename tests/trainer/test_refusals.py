"""Bad input gets a clear error that names the remedy, before anything is spent or changed."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import DistributedType
from torch import nn
from torch.utils.data import IterableDataset
from transformers import PreTrainedConfig

from hf_e2kd import ExplanationDistillTrainer, TeacherReference
from hf_e2kd.explainers import build_explainer
from hf_e2kd.trainer.checks import refuse_uneven_batches
from hf_e2kd.trainer.compatibility import refuse_unsupported
from tests.models import CLASSES, build
from tests.training import CHECKPOINTING, Unregistered, arguments, distiller, logged, samples


@pytest.mark.parametrize(
    "settings", [{}, {"logits_weight": 0.0}, {"explanation_weight": 0.0}, {"task_weight": 1.0}], ids=str
)
def test_nothing_to_distil_from(tiny, tmp_path, settings):
    """A forgotten teacher would train on the labels alone, or on nothing."""
    with pytest.raises(ValueError, match="give a `teacher_model` or `references`"):
        distiller(tiny("vit"), None, tmp_path, settings)


@pytest.mark.parametrize("settings", [{"explanation_interval": 2}, {"explanation_warmup_ratio": 0.1}], ids=str)
def test_steps_without_a_loss(tiny, tmp_path, settings):
    """Prevents: a training that ends at its first or second step, with missing labels named as the cause."""
    with pytest.raises(ValueError, match="explanations alone.*leaves steps without.*give logits_weight, task_weight"):
        distiller(tiny("vit"), build("vit", seed=1), tmp_path, {"logits_weight": 0.0, **settings})
    distiller(tiny("vit"), build("vit", seed=1), tmp_path, settings)


@pytest.mark.parametrize("by_model_init", [False, True])
def test_teacher_is_the_student(tiny, tmp_path, by_model_init):
    """One object as both would agree with itself; and a refused student must not stay frozen as a teacher is."""
    model = tiny("vit")
    keywords = {"model_init": lambda: model} if by_model_init else {}
    with pytest.raises(ValueError, match="same object.*own copy"):
        distiller(None if by_model_init else model, model, tmp_path, **keywords)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert "forward" not in vars(model)


def test_teacher_twice(tiny, tmp_path):
    """Of two teachers under one name, one would silently be dropped."""
    references = {"teacher": TeacherReference(build("vit", seed=1))}
    with pytest.raises(ValueError, match="not both"):
        distiller(tiny("vit"), build("vit", seed=2), tmp_path, references=references)


@pytest.mark.parametrize("keyword", ["teacher_explainer", "teacher_processing_class"])
def test_teachers_settings_without_a_teacher(tiny, tmp_path, keyword):
    """A setting that nothing reads hides a mistake."""
    references = {"guide": TeacherReference(build("vit", seed=1))}
    with pytest.raises(ValueError, match="belong to a `teacher_model`"):
        distiller(tiny("vit"), None, tmp_path, references=references, **{keyword: "gradcam"})


@pytest.mark.parametrize("which", ["train_dataset", "eval_dataset"])
def test_empty_data_set(tiny, tmp_path, which):
    """An empty split (a filter gone wrong) fails deep inside a sampler, or evaluates to nothing."""
    trainer = distiller(tiny("vit"), build("vit", seed=1), tmp_path, **{which: []})
    with pytest.raises(ValueError, match="data set .*is empty"):
        trainer.train() if which == "train_dataset" else trainer.evaluate()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_not_a_number_names_its_samples(tiny, tmp_path, value):
    """One bad image makes every weight NaN at the next step: it must be named before that."""
    data = samples(4)
    data[2]["pixel_values"] = data[2]["pixel_values"].clone()
    data[2]["pixel_values"][0, 3, 4] = value
    student = tiny("vit")
    trainer = distiller(student, build("vit", seed=1), tmp_path, train_dataset=data, eval_dataset=data)
    with pytest.raises(ValueError, match=r"'pixel_values' holds NaN or infinite values in the samples \[2\]"):
        trainer.evaluate()
    with pytest.raises(ValueError, match="'pixel_values' holds NaN or infinite values in the samples"):
        trainer.train()
    assert all(parameter.isfinite().all() for parameter in student.parameters())


def test_unknown_explainer_lists_the_valid_ones(tiny, tmp_path):
    """A typing error must be answered with the names that exist, when the trainer is built."""
    for keywords in ({"explainer": "gradcan"}, {"teacher_explainer": "gradcan"}):
        with pytest.raises(ValueError, match="Unknown explainer 'gradcan'. Available: .*gradcam"):
            distiller(tiny("vit"), build("vit", seed=1), tmp_path, **keywords)


def test_no_shared_label(tiny, tmp_path):
    """Agreement over no class at all is meaningless, and an empty softmax NaN."""
    teacher = build("vit", seed=1)
    teacher.config.id2label = {index: f"bird {index}" for index in range(CLASSES)}
    with pytest.raises(ValueError, match="share no label.*bird 0.*class 0.*id2label"):
        distiller(tiny("vit"), teacher, tmp_path)


class Flat(nn.Module):
    """A classifier without any layer laid out in space."""

    def __init__(self):
        super().__init__()
        self.config = PreTrainedConfig(num_labels=CLASSES)
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 8), nn.ReLU(), nn.Linear(8, CLASSES))

    def forward(self, pixel_values, labels=None):
        return {"logits": self.layers(pixel_values)}


@pytest.mark.filterwarnings("ignore:No label names")
@pytest.mark.parametrize("side", ["student", "teacher"])
def test_no_spatial_features(tiny, tmp_path, side):
    """There is no map to match: the error must say so, not fail in an index."""
    models = {"student": tiny("vit"), "teacher": build("vit", seed=1)} | {side: Flat()}
    trainer = distiller(models["student"], models["teacher"], tmp_path)
    with pytest.raises(ValueError, match="Flat has no layer with a spatial grid.*target_layer"):
        trainer.train()


@pytest.mark.filterwarnings("ignore:No label names")
def test_plain_distillation_needs_no_map(tiny, tmp_path):
    """A student without feature maps must not be refused where nothing is explained."""
    quiet = {"explanation_weight": 0.0, "evaluate_explanations": False}
    trainer = distiller(Flat(), tiny("vit"), tmp_path, quiet)
    trainer.train()
    metrics = trainer.evaluate(samples(4))
    assert "eval_agreement" in metrics
    assert "eval_explanation_similarity" not in metrics


def test_data_parallel(tiny, tmp_path, monkeypatch):
    """DataParallel replicates the student: the replicas' explanations lose their gradients without an error."""
    settings = arguments(tmp_path)
    settings._setup_devices  # noqa: B018  (the count is set with the devices)
    settings._n_gpu = 2
    with pytest.raises(ValueError, match=r"2 GPUs in one process.*accelerate launch.*CUDA_VISIBLE_DEVICES"):
        ExplanationDistillTrainer(tiny("vit"), settings, train_dataset=samples(4), teacher_model=build("vit", seed=1))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ddp_static_graph": True}, "ddp_static_graph=True silently skips.*Leave it unset"),
        (
            {CHECKPOINTING: True, f"{CHECKPOINTING}_kwargs": {"use_reentrant": True}},
            f'Reentrant.*{CHECKPOINTING}_kwargs={{"use_reentrant": False}}',
        ),
        (
            {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}},
            'Reentrant.*"use_reentrant": False',
        ),
    ],
)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_arguments_that_break_the_gradient(tiny, tmp_path, settings, message):
    """Each of these trains on with wrong gradients or fails after the model was loaded and moved."""
    with pytest.raises(ValueError, match=message):
        distiller(tiny("vit"), build("vit", seed=1), tmp_path, settings)


def accelerator_of(kind, **state):
    return SimpleNamespace(distributed_type=kind, state=SimpleNamespace(**state))


def test_fsdp1_and_zero3(tmp_path):
    """Sharded wrappers that can't be differentiated twice end in a segmentation fault or an error at the first step."""
    settings = arguments(tmp_path)
    fsdp = accelerator_of(DistributedType.FSDP, fsdp_plugin=SimpleNamespace(fsdp_version=1))
    with pytest.raises(ValueError, match="FSDP1.*fsdp_version: 2"):
        refuse_unsupported(fsdp, settings)
    zero = accelerator_of(DistributedType.DEEPSPEED, deepspeed_plugin=SimpleNamespace(zero_stage=3))
    with pytest.raises(ValueError, match="ZeRO-3.*ZeRO-2 or FSDP2"):
        refuse_unsupported(zero, settings)
    zero.state.deepspeed_plugin.zero_stage = 2
    fsdp.state.fsdp_plugin = SimpleNamespace(
        fsdp_version=2, cpu_ram_efficient_loading=False, activation_checkpointing=False
    )
    refuse_unsupported(zero, settings)
    refuse_unsupported(fsdp, settings)


@pytest.mark.parametrize(
    ("plugin", "settings", "message"),
    [
        ({"cpu_ram_efficient_loading": True}, {}, "without weights on all ranks but the first.*false"),
        ({"activation_checkpointing": True}, {}, "fsdp_activation_checkpointing.*activation_checkpointing=True"),
        ({}, {"torch_compile": True}, "without torch_compile, or with DDP"),
    ],
)
def test_fsdp2_with_what_breaks_an_explanation(tmp_path, plugin, settings, message):
    """A teacher of uninitialised weights on the second rank, a layer that isn't found, a segmentation fault."""
    defaults = {"fsdp_version": 2, "cpu_ram_efficient_loading": False, "activation_checkpointing": False}
    fsdp = accelerator_of(DistributedType.FSDP, fsdp_plugin=SimpleNamespace(**{**defaults, **plugin}))
    settings = {**settings, "torch_compile_backend": "aot_eager"} if settings else {}
    with pytest.raises(ValueError, match=message):
        refuse_unsupported(fsdp, arguments(tmp_path, **settings), [build_explainer("gradcam")])


def test_sharding_a_teacher_without_fsdp2(tiny, tmp_path):
    """Torch's own error speaks of a process group, or of a mesh that the caller never made."""
    reference = TeacherReference(build("vit", seed=1), shard=True)
    with pytest.raises(ValueError, match="shard=True.*by FSDP2.*type is NO.*shard=False"):
        ExplanationDistillTrainer(tiny("vit"), arguments(tmp_path), references={"teacher": reference})


def test_compiling_an_unregistered_student(tiny, tmp_path):
    """A hook under `torch.compile` captures nothing: the loss would lack its explanation without a word."""
    settings = {"torch_compile": True, "torch_compile_backend": "aot_eager"}
    with pytest.raises(ValueError, match="torch_compile can't see into Unregistered.*register"):
        distiller(Unregistered(tiny("resnet")), build("vit", seed=1), tmp_path, settings)
    with pytest.raises(ValueError, match="torch_compile can't see"):
        distiller(
            tiny("vit"), build("vit", seed=1), tmp_path, {**settings, "explainer_options": {"target_layer": "vit"}}
        )


@pytest.mark.parametrize("kernel", ["flash_attention_2", "flex_attention"])
def test_attention_without_a_double_backward(tiny, tmp_path, kernel):
    """Fused kernels fail in the first backward pass, far from their cause."""
    student = tiny("vit")
    student.config._attn_implementation_internal = kernel
    with pytest.raises(ValueError, match=f"'{kernel}' has no double backward.*sdpa"):
        distiller(student, build("vit", seed=1), tmp_path)


@pytest.mark.parametrize("explainer", ["gradcam", "saliency", "attention_gradient"])
def test_a_teacher_is_differentiated_once(tiny, tmp_path, explainer):
    """A frozen teacher's fused kernel must not be refused for what a student's maps need."""
    teacher = build("vit", seed=1)
    teacher.config._attn_implementation_internal = "flash_attention_2"
    trainer = distiller(tiny("vit"), teacher, tmp_path, {"explainer": explainer})
    assert trainer.references["teacher"].model is teacher


def test_several_labels_for_a_student_of_one(tiny, tmp_path):
    """transformers turns float labels into a multi-label loss silently, which the student's decisions don't follow."""
    data = samples(4)
    for sample in data:
        sample["labels"] = torch.ones(CLASSES)
    trainer = distiller(tiny("vit"), build("vit", seed=1), tmp_path, {"task_weight": 1.0}, train_dataset=data)
    with pytest.raises(ValueError, match=r"one class a sample.*these sum to \[.*task_weight to 0"):
        trainer.train()
    # Without a weight on them they are no hindrance, and are not scored.
    trainer = distiller(tiny("vit"), build("vit", seed=1), tmp_path, train_dataset=data, eval_dataset=data)
    trainer.train()
    assert logged(trainer, "loss_explanation")
    assert "eval_accuracy" not in trainer.evaluate()


def test_misspelt_layer_names_the_layers(tiny, tmp_path):
    """A layer that doesn't exist must be answered with those that do."""
    settings = {"explainer_options": {"target_layer": "resnet.stages"}}
    trainer = distiller(tiny("resnet"), build("resnet", seed=1), tmp_path, settings)
    with pytest.raises(ValueError, match=r"no layer 'resnet.stages'.*resnet.encoder.stages.1"):
        trainer.train()


class Nothing(IterableDataset):
    def __iter__(self):
        return iter(())


def test_empty_stream_keeps_the_student(tiny, tmp_path):
    """A stream without samples has no length to check: it must be refused without touching the student."""
    student = tiny("vit")
    before = [parameter.clone() for parameter in student.parameters()]
    with pytest.raises(ValueError, match="does not contain any data"):
        distiller(student, build("vit", seed=1), tmp_path, train_dataset=Nothing()).train()
    assert all(torch.equal(a, b) for a, b in zip(before, student.parameters(), strict=True))


class Columns(IterableDataset):
    """A stream of some columns of `samples`."""

    def __init__(self, *columns: str):
        self.columns = columns

    def __iter__(self):
        return ({name: sample[name] for name in self.columns} for sample in samples(4))


@pytest.mark.parametrize(
    ("column", "message"),
    [("pixel_values", "has no labels.*It holds .'pixel_values'.*'labels'"), ("labels", "no inputs for the model")],
)
def test_streams_that_lack_a_column(tiny, tmp_path, column, message):
    """Prevents: "object of type 'Stream' has no len()" in the place of what is missing and how to give it."""
    settings = {"task_weight": 1.0}
    trainer = distiller(tiny("vit"), build("vit", seed=1), tmp_path, settings, train_dataset=Columns(column))
    with pytest.raises(ValueError, match=message):
        trainer.train()


def test_one_of_several_evaluation_sets_lacks_inputs(tiny, tmp_path):
    """Prevents: "KeyError: 0", of the dictionary of data sets, in the place of the columns that the batch has."""
    sets = {"whole": samples(4), "raw": [{"image": "a file", "labels": 0}] * 4}
    settings = {"remove_unused_columns": False}
    trainer = distiller(tiny("vit"), build("vit", seed=1), tmp_path, settings, eval_dataset=sets)
    with pytest.raises(
        ValueError, match=r"no inputs for the model: it holds \['labels'\], and \['image'\] was dropped"
    ):
        trainer.evaluate()


@pytest.mark.parametrize(
    ("count", "drop_last", "changed", "refused"),
    [
        (12, False, {}, True),
        (16, False, {}, False),
        (12, True, {}, False),
        (12, False, {"even_batches": True}, False),
        (12, False, {"split_batches": True}, False),
        (12, False, {"num_processes": 1}, False),
    ],
)
def test_processes_of_differently_many_samples(count, drop_last, changed, refused):
    """Prevents: a process that waits for ever, or gloo's abort, where another one has had its last batch."""
    accelerator = SimpleNamespace(**{"num_processes": 2, "even_batches": False, "split_batches": False, **changed})
    with pytest.raises(ValueError, match="12 samples don't fill 2 processes'") if refused else nullcontext():
        refuse_uneven_batches(accelerator, range(count), 4, drop_last)
