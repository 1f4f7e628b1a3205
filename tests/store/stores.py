"""Teachers' stores in tests, their data, and trainings from them."""

import random

import datasets
import numpy as np
from PIL import Image
from torch.utils.data import IterableDataset
from transformers import ViTImageProcessor

from hf_e2kd.store import StoredReference
from tests.models import CLASSES, build
from tests.text_models import build_text
from tests.tokenizers import SENTENCES, tokenizer
from tests.training import Gradients, distiller, logged, samples

TERMS = ("loss", "loss_task", "loss_logits", "loss_explanation")
PROCESSOR = ViTImageProcessor(size={"height": 32, "width": 32}, image_mean=[0.5] * 3, image_std=[0.5] * 3)
STUDENT, TEACHER = tokenizer("wordpiece", model_max_length=24), tokenizer("byte_bpe", model_max_length=24)


def rows(count=16, start=0, **settings):
    """Samples with an id each; number 3 is "image-3", whatever the number of samples."""
    return [
        {**sample, "image_id": f"image-{start + number}"} for number, sample in enumerate(samples(count, **settings))
    ]


def store(teacher, data, folder, **options):
    return StoredReference.build(teacher, data, folder, **{"batch_size": 4, "progress": False, **options})


class Calls:
    """Counts the teacher's forward passes and the samples in them."""

    def __init__(self, module):
        self.batches = []
        module.register_forward_hook(lambda _, inputs, output: self.batches.append(len(output)))


def train(folder, reference, data, student=None, settings=None, **keywords):
    """Logged terms and gradients of a training from one reference."""
    gradients = Gradients()
    trainer = distiller(
        build("vit") if student is None else student,
        None,
        folder,
        {"max_steps": 4, "task_weight": 0.5, **(settings or {})},
        train_dataset=data,
        references={"teacher": reference},
        callbacks=[gradients],
        **keywords,
    )
    trainer.train()
    return {name: logged(trainer, name) for name in TERMS}, gradients.steps, trainer


def photographs(count=6):
    noise = np.random.default_rng(0).integers(0, 255, (count, 40, 32, 3), dtype=np.uint8)
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.Value("int64"), "key": datasets.Value("int64")}
    )
    return datasets.Dataset.from_dict(
        {
            "image": [Image.fromarray(one) for one in noise],
            "label": [n % CLASSES for n in range(count)],
            "key": [7 * n for n in range(count)],
        },
        features=features,
    )


class Stream(IterableDataset):
    def __init__(self, samples):
        self.samples = samples

    def __iter__(self):
        return iter(self.samples)


def text_model(name, own, seed=0):
    return build_text(name, seed, vocab_size=len(own), pad_token_id=own.pad_token_id)


def texts(count=12, pair=False):
    words, draw = " ".join(SENTENCES).split(), random.Random(0)
    columns = ("text", "second") if pair else ("text",)
    return datasets.Dataset.from_list(
        [
            {
                **{column: " ".join(draw.choices(words, k=draw.randint(2, 12))) for column in columns},
                "label": n % CLASSES,
            }
            for n in range(count)
        ]
    )
