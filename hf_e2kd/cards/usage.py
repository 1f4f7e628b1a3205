"""The part of a card that says how a student is loaded and explained, as code that runs."""

from .. import models
from ..fidelity.record import FidelityRecord

_IMAGE = """{header}import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification

processor = AutoImageProcessor.from_pretrained("{source}")
model = AutoModelForImageClassification.from_pretrained("{source}").eval()
inputs = processor(Image.open("picture.jpg").convert("RGB"), return_tensors="pt")
with torch.no_grad():
    logits = model(**inputs).logits
{decision}"""

_BARE_IMAGE = """{header}import torch
from transformers import AutoModelForImageClassification

model = AutoModelForImageClassification.from_pretrained("{source}").eval()
inputs = {{"pixel_values": torch.rand(1, {shape})}}  # your image, prepared as for training: no processor was published
with torch.no_grad():
    logits = model(**inputs).logits
{decision}"""

_TEXT = """import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{source}")
model = AutoModelForSequenceClassification.from_pretrained("{source}").eval()
inputs = tokenizer(["not a bad film"], return_tensors="pt")
with torch.no_grad():
    logits = model(**inputs).logits
{decision}"""

_BARE_TEXT = """import torch
from transformers import AutoModelForSequenceClassification

model = AutoModelForSequenceClassification.from_pretrained("{source}").eval()
inputs = {{"input_ids": torch.tensor([[1, 2, 3]])}}  # your text's tokens: no tokenizer was published
with torch.no_grad():
    logits = model(**inputs).logits
{decision}"""

_DECISION = "print(model.config.id2label[logits.argmax(-1).item()])"
_DECISIONS = "print([model.config.id2label[number] for number in (logits[0] >= 0).nonzero().flatten().tolist()])"

_EXPLANATION = """import hf_e2kd

student = hf_e2kd.load_student("{source}"){parts}
explanation = hf_e2kd.explain({arguments})
{shown}"""


def usage(record: FidelityRecord, source: str, *, has_processor: bool = True, has_record: bool = True) -> str:
    """How to load and to explain a student, in Markdown.

    Args:
        record: Says which modality, explainer and options.
        source: Hub id or folder.
        has_processor: Whether there is an image processor or tokenizer.
        has_record: Whether its options can be read from `fidelity.json`.
    """
    is_text = record.modality == "text"
    template = {(False, True): _IMAGE, (False, False): _BARE_IMAGE, (True, True): _TEXT, (True, False): _BARE_TEXT}
    own = record.student.architecture in models.__all__
    loading = template[is_text, has_processor].format(
        source=source,
        header="import hf_e2kd.models  # makes the Auto classes know this architecture\n" if own else "",
        shape=_shape(record),
        decision=_DECISIONS if record.problem == "multi_label_classification" else _DECISION,
    )
    return (
        f"## How to use it\n\n```python\n{loading}\n```\n\nTo see what a decision rests on:\n\n```python\n"
        f"{_explanation(record, source, has_processor, has_record)}\n```"
    )


def _explanation(record: FidelityRecord, source: str, has_processor: bool, has_record: bool) -> str:
    name = str(record.explainer.get("name", ""))
    method = f'"{name}"' if name.isidentifier() else repr(name)
    words = record.modality == "text" and has_processor
    arguments = ["student.model", '["not a bad film"]' if words else "inputs", method]
    arguments += ["processing_class=tokenizer"] if words else []
    arguments += ['**student.fidelity.explainer["options"]'] if has_record and record.explainer.get("options") else []
    joined = ", ".join(arguments)
    return _EXPLANATION.format(
        source=source,
        parts="  # .model, .processing_class, .fidelity, .teacher" if has_record else "",
        arguments=joined if len(joined) < 64 else "\n    " + ",\n    ".join(arguments) + ",\n",
        shown="print(list(zip(explanation.words[0], explanation.maps[0].tolist())))"
        if words
        else "print(explanation.maps.shape)  # one map a sample, for the class that the student decides for",
    )


def _shape(record: FidelityRecord) -> str:
    """Channels, height and width of an image, as `"3, 224, 224"`."""
    sides = (record.student.cost.input or "" if record.student.cost else "").split("×")
    return ", ".join(sides) if len(sides) == 3 and all(side.isdecimal() for side in sides) else "3, 224, 224"
