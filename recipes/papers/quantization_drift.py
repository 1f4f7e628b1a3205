# /// script
# requires-python = ">=3.10"
# dependencies = ["hf-e2kd[quantization]"]
# [tool.uv.sources]
# hf-e2kd = { path = "../..", editable = true }
# ///
"""Measure what quantisation does to a classifier's explanations, beside small changes of its input.

The classifier's float32 ONNX file is compared with its quantised copies, by occlusion maps of the class that it
chooses: on all samples, and on those where both choose that class with nearly the same probabilities. How similar the
maps of one decision are anyway is what the control rows tell: the float32 model again, on inputs that were changed a
little. Each row is kept in --output_dir, and an interrupted command goes on.

    pip install 'hf-e2kd[quantization]'
    python recipes/papers/quantization_drift.py --model MODEL --dataset PHOTOS --split test --output_dir outputs/drift
    python recipes/papers/quantization_drift.py --show outputs/drift/results.json --output_dir outputs/again
    python recipes/papers/quantization_drift.py --smoke
"""

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from _common import smoke_processor
from _drift import REFERENCE, Row, draw_drift, drift_table, row_figures
from _generated import write_imagenet
from _quantized import quantised_copies, quantised_share, require_packages
from torch import Tensor, nn
from transformers import HfArgumentParser, ResNetConfig, ResNetForImageClassification

from hf_e2kd import explain
from hf_e2kd.alignment.inputs import image_view
from hf_e2kd.data.transforms import DistillationTransform
from hf_e2kd.experiments.command_line import command_line, run_recipe
from hf_e2kd.experiments.distillation import use_one_thread
from hf_e2kd.experiments.models import label_settings
from hf_e2kd.experiments.results import describe_machine, write_results
from hf_e2kd.experiments.sources import Classifier, load_classifier, load_split
from hf_e2kd.explainers import Occlusion
from hf_e2kd.export import export_model, load_exported
from hf_e2kd.fidelity import Control
from hf_e2kd.fidelity.describe import data_digest
from hf_e2kd.fidelity.measure import drawn_rows
from hf_e2kd.fidelity.precision import precision_of, runtime_of
from hf_e2kd.store.key import weights_digest


@dataclass
class DriftOptions:
    """Options of the model, the samples and the maps."""

    model: str | None = field(default=None, metadata={"help": "Classifier of images or texts: Hub id or folder."})
    dataset: str | None = field(
        default=None, metadata={"help": "Hub id, folder of images or data files, or the treebank's trees."}
    )
    split: str = field(default="validation", metadata={"help": "Split that is measured."})
    calibration_split: str = field(
        default="train", metadata={"help": "Split that static quantisation is calibrated on."}
    )
    column: str | None = field(default=None, metadata={"help": "Column of images or texts: image or text by default."})
    samples: int = field(default=300, metadata={"help": "Number of samples, drawn by the seed."})
    rows: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Beginnings of names of the quantised rows to measure now: static, dynamic, torchao; else all."
        },
    )
    slow: list[str] = field(
        default_factory=list,
        metadata={"help": "Beginnings of names of quantised rows that are measured on fewer samples: dynamic, ..."},
    )
    slow_samples: int = field(default=40, metadata={"help": "Number of these samples, the first ones."})
    calibration: int = field(default=100, metadata={"help": "Number of calibration samples."})
    grid: int = field(default=7, metadata={"help": "Patches along an image's side, each covered in turn."})
    small_kl: float = field(default=0.05, metadata={"help": "KL in nats up to which two decisions are alike."})
    batch_size: int = field(default=64, metadata={"help": "Inputs in one forward pass."})
    seed: int = field(default=42, metadata={"help": "Draws the samples and the noise."})
    output_dir: str = field(default="outputs/quantization_drift", metadata={"help": "Where the results go."})
    show: str | None = field(
        default=None, metadata={"help": "Make table and picture of an earlier run's results.json, and measure nothing."}
    )
    smoke: bool = field(
        default=False, metadata={"help": "Try everything out in seconds, by a tiny model on images made for it."}
    )

    def __post_init__(self) -> None:
        if not (self.smoke or self.show or (self.model and self.dataset)):
            raise ValueError("Give --model and --dataset, or --smoke to try the recipe out without any data.")
        for name, least in (("samples", 2), ("slow_samples", 2), ("calibration", 1), ("grid", 2), ("batch_size", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"--{name} must be at least {least}, not {getattr(self, name)}.")


@dataclass
class Task:
    """A classifier and the inputs that it is measured on: images (n, channels, H, W), or texts.

    `digests` are those of the weights and of the samples, by which an interrupted run knows its own rows.
    """

    classifier: Classifier
    inputs: Tensor | list[str]
    calibration: Tensor | list[str]
    explainer: Occlusion
    digests: dict[str, Any] = field(default_factory=dict)

    def controls(self, seed: int) -> dict[str, Tensor | list[str]]:
        """Change the inputs a little, in each of the ways that stand beside quantisation."""
        noise, shift = Control("noise"), Control("shift")
        if isinstance(self.inputs, list):
            return {f'"{noise.appended}" appended': [f"{text}{noise.appended}" for text in self.inputs]}
        view, draw = image_view(self.classifier.processing_class), torch.Generator().manual_seed(seed)
        # One after the other, as a fidelity record's, whatever its batches are.
        drawn = torch.stack([torch.randn(image.shape, generator=draw) for image in self.inputs])
        return {
            f"noise, σ = {noise.sigma}/255": noise.with_noise(self.inputs, view, drawn),
            "one pixel's shift": shift.shifted(self.inputs),
        }

    def calibration_batches(self, batch_size: int = 16) -> Iterator[Mapping[str, Tensor]]:
        """Give the calibration samples as the model's inputs."""
        for first in range(0, len(self.calibration), batch_size):
            part = self.calibration[first : first + batch_size]
            if isinstance(part, list):
                yield dict(self.classifier.processing_class(part, padding=True, truncation=True, return_tensors="pt"))
            else:
                yield {"pixel_values": part}


def run_drift(description: str) -> dict[str, Any]:
    """Measure every row, and write `results.json`, `table.md` and `drift.png`.

    Args:
        description: Text of `--help`.

    Returns:
        The content of `results.json`.
    """
    parser = HfArgumentParser(DriftOptions, description=description)
    try:
        (options,) = parser.parse_args_into_dataclasses(command_line(DriftOptions))
        if not options.show:
            require_packages()
        elif not Path(options.show).is_file():
            raise ValueError(f"--show takes the results.json of an earlier run, and there is no file '{options.show}'.")
    except (ValueError, ImportError) as error:
        parser.error(str(error))
    output = Path(options.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    if options.show:
        results = json.loads(Path(options.show).read_text(encoding="utf-8"))
        show(results, output)
        return results
    if options.smoke:
        use_one_thread()
        prepare_smoke(options, output)
    settings = {name: value for name, value in vars(options).items() if name not in ("output_dir", "show", "rows")}
    settings |= {name: Path(settings[name]).name for name in ("model", "dataset")}
    refuse_other_settings(output, settings)
    task = load_task(options)
    settings |= task.digests
    refuse_other_settings(output, settings)
    controls = task.controls(options.seed)
    float_file = output / "float32.onnx"

    def float_model() -> nn.Module:
        return load_exported(float_file)

    copies = quantised_copies(task.classifier.model, float_file, task.calibration_batches)
    for beginning in (*options.rows, *options.slow):
        if not any(name.startswith(beginning) for name in copies):
            raise ValueError(f"There is no quantised row '{beginning}…'. Available: {'; '.join(copies)}.")
    makers: dict[str, Callable[[], nn.Module]] = {**dict.fromkeys([REFERENCE, *controls], float_model), **copies}
    results: dict[str, Any] = {
        "recipe": "quantization_drift",
        "options": settings,
        **describe_machine(torch.device("cpu")),
        "threads": torch.get_num_threads(),
        **{package: version(package) for package in ("onnxruntime", "torchao")},
        "controls": list(controls),
        "rows": {},
    }
    if not (output / "results.json").exists():
        write_results(results, output)  # with the options that a later command is held to
    if not float_file.exists():
        export_model(task.classifier.model, float_file, processing_class=task.classifier.processing_class)
    rows: dict[str, Row] = {}
    for name, make in makers.items():
        file = output / "rows" / f"{re.sub(r'[^a-z0-9]+', '_', name.lower()).strip('_')}.pt"
        if file.exists():
            rows[name] = Row(**torch.load(file, weights_only=True))
        elif options.rows and name not in (REFERENCE, *controls) and not name.startswith(tuple(options.rows)):
            continue
        else:
            print(f"\nMeasuring {name}", flush=True)
            count = options.slow_samples if name.startswith(tuple(options.slow)) else options.samples
            target = rows[REFERENCE].logits.argmax(1)[:count] if rows else None
            rows[name] = measure(task, make(), controls.get(name, task.inputs)[:count], target)
            file.parent.mkdir(exist_ok=True)
            # Whole or not at all: an interrupted command goes on from what is there.
            torch.save(asdict(rows[name]), file.with_suffix(".part"))
            file.with_suffix(".part").replace(file)
        beside = {} if name in (REFERENCE, *controls) else {control: rows[control] for control in controls}
        results["rows"][name] = row_figures(rows[name], rows[REFERENCE], beside, options.small_kl, options.seed)
        write_results(results, output)
    show(results, output)
    return results


def refuse_other_settings(output: Path, settings: Mapping[str, Any]) -> None:
    """Refuse to go on in a folder whose rows were measured with other options, weights or samples."""
    file = output / "results.json"
    known = json.loads(file.read_text(encoding="utf-8"))["options"] if file.exists() else settings
    if other := [name for name in settings if known.get(name) != settings[name]]:
        raise ValueError(
            f"'{output}' holds rows of another run (other {', '.join(other)}). Name another --output_dir, or remove it."
        )


def load_task(options: DriftOptions) -> Task:
    """Load the classifier, draw the samples and make its inputs of them."""
    assert options.model and options.dataset
    classifier = load_classifier(options.model)
    classifier.model.eval()
    column = options.column or ("text" if classifier.is_text else "image")
    found, samples = list[Any](), list[str | None]()
    for split, count in ((options.split, options.samples), (options.calibration_split, options.calibration)):
        data, _ = load_split(options.dataset, classifier.is_text, split, None, [column])
        drawn = data.select(drawn_rows(len(data), count, options.seed))
        samples.append(data_digest(drawn, [column]))
        if classifier.is_text:
            found.append(list(drawn[column]))
        else:
            transform = DistillationTransform(classifier.processing_class)
            found.append(torch.stack([transform({"image": [row[column]]})["pixel_values"][0] for row in drawn]))
    explainer = Occlusion(1 / options.grid, 1 / options.grid, batch_size=options.batch_size)
    digests = {"weights": f"sha256:{weights_digest(classifier.model)}", "fingerprints": samples}
    return Task(classifier, *found, explainer, digests)


@torch.no_grad()
def measure(task: Task, model: nn.Module, inputs: Tensor | list[str], target: Tensor | None) -> Row:
    """Explain a model's logit of a class for each sample.

    Args:
        target: Classes (n,); None for the model's own.
    """
    tokenizer = task.classifier.processing_class if task.classifier.is_text else None
    # Texts of one length are batched, so that little is padded.
    order = sorted(range(len(inputs)), key=lambda row: len(inputs[row]))
    logits: dict[int, Tensor] = {}
    maps: dict[int, Tensor] = {}
    passes, start = 0, time.process_time()
    for first in range(0, len(order), 8):
        chosen = order[first : first + 8]
        part = [inputs[row] for row in chosen] if tokenizer else inputs[torch.tensor(chosen)]
        found = explain(
            model,
            part,
            method=task.explainer,
            target=None if target is None else target[chosen],
            processing_class=tokenizer,
        )
        for place, row in enumerate(chosen):
            logits[row] = found.logits[place]
            if found.words is not None:
                maps[row] = found.maps[place, : len(found.words[place])][None]
            else:
                patch = round(task.explainer.patch * found.maps.shape[-1])
                maps[row] = found.maps[place, patch // 2 :: patch, patch // 2 :: patch].clone()
            passes += 1 + maps[row].numel()
    about = {
        "runtime": runtime_of(model),
        "precision": precision_of(model),
        "quantised_share": quantised_share(model),
        "cpu_ms_per_input": 1000 * (time.process_time() - start) / passes,
    }
    rows = range(len(inputs))
    return Row(torch.stack([logits[row] for row in rows]), [maps[row] for row in rows], about)


def show(results: Mapping[str, Any], output: Path) -> None:
    """Write and print the table, and draw the picture."""
    table = drift_table(results)
    (output / "table.md").write_text(f"{table}\n", encoding="utf-8")
    draw_drift(results, output / "drift.png")
    print(f"\n{table}\n\nIn {output}: drift.png, results.json, table.md")


def prepare_smoke(options: DriftOptions, output: Path) -> None:
    """Write images, and a tiny ResNet."""
    folder = output / "generated"
    options.dataset, options.model = str(write_imagenet(folder / "images")), str(folder / "model")
    options.samples, options.calibration = 6, 6
    options.slow, options.slow_samples, options.grid = ["dynamic"], 4, 4
    torch.manual_seed(options.seed)
    names = ["red", "green", "blue"]
    sizes = {"embedding_size": 8, "hidden_sizes": [16, 32], "depths": [1, 1], "layer_type": "basic"}
    model = ResNetForImageClassification(ResNetConfig(**sizes, **label_settings(names, len(names))))
    model.save_pretrained(options.model)
    smoke_processor(is_bcos=False).save_pretrained(options.model)


if __name__ == "__main__":
    run_recipe(run_drift, __doc__)
