"""Records of students as a card may meet them: of images with everything, of texts, of a guided one, and a bare one."""

from dataclasses import replace

from hf_e2kd.fidelity import (
    ControlRecord,
    Cost,
    DataRecord,
    FaithfulnessRecord,
    FidelityRecord,
    GroupsRecord,
    HeldOutRecord,
    MetricValue,
    ModelRecord,
    TrainingRecord,
)


def figure(value, half=0.02, samples=1000, **settings):
    return MetricValue(value, round(value - half, 4), round(value + half, 4), samples, **settings)


def taught(explainer="gradcam", **changes):
    """A teacher's part in a training."""
    stated = {
        "kind": "TeacherReference",
        "explanation_weight": 1.0,
        "explanation_loss": "cosine",
        "explains": "teacher_top",
        "logits_weight": 1.0,
        "explainer": {"name": explainer, "options": {}},
    }
    return {**stated, **changes}


BOXES = {
    "kind": "AnnotationReference",
    "explanation_weight": 0.064,
    "explanation_loss": "energy",
    "explains": "label",
    "dilation": 0.1,
}


def image_record(**changes):
    """Everything that is measured of images, between models of the Hub, beside a student by plain distillation."""
    pets = "timm/oxford-iiit-pet"
    settings = {
        "modality": "image",
        "problem": "single_label_classification",
        "student": ModelRecord(
            "me/pets-resnet18",
            "ResNetForImageClassification",
            revision="5" * 40,
            license="apache-2.0",
            cost=Cost(11_195_000, 44_820_000, 3_640_000_000, 0.0121, 0.0118, 0.0129, "CPU", "3×224×224"),
        ),
        "teacher": ModelRecord(
            "someone/pets-resnet50",
            "ResNetForImageClassification",
            revision="7" * 40,
            license="cc-by-nc-4.0",
            cost=Cost(23_580_000, 94_540_000, 8_260_000_000, 0.0304, 0.0298, 0.0316, "CPU", "3×224×224"),
        ),
        "data": DataRecord(
            pets,
            pets,
            "test",
            revision="d" * 40,
            rows=3669,
            samples=list(range(1000)),
            seed=42,
            license="cc-by-sa-4.0",
        ),
        "explainer": {"name": "gradcam", "options": {"target_layer": "resnet.encoder.stages.3"}},
        "figures": {
            "agreement": figure(0.931),
            "explanation_similarity": figure(0.884, samples=998),
            "kl": figure(0.131),
            "accuracy": figure(0.905),
            "teacher_accuracy": figure(0.928),
            "negative_flips": figure(0.041, 0.01),
            "agreement_where_teacher_errs": figure(0.486, 0.1, samples=72),
            "worst_class_accuracy": MetricValue(0.571, samples=28, detail="American Pit Bull Terrier"),
            "worst_class_agreement": MetricValue(0.667, samples=27, detail="Ragdoll"),
            "worst_group_accuracy": figure(0.861, 0.04, samples=310, detail="outdoors"),
            "worst_group_negative_flips": figure(0.055, samples=310, detail="outdoors"),
            "deletion": figure(0.281),
            "teacher_deletion": figure(0.264),
            "insertion": figure(0.643),
            "teacher_insertion": figure(0.671),
            "energy_pointing_game": figure(0.742),
            "teacher_energy_pointing_game": figure(0.761),
            "localization_iou": figure(0.418),
            "teacher_localization_iou": figure(0.433),
            "zero_student_maps": figure(0.0, 0.0),
            "zero_teacher_maps": figure(0.002, 0.002),
        },
        "compared": {
            "plain KD": {
                "agreement": figure(0.917),
                "explanation_similarity": figure(0.652, samples=998),
                "accuracy": figure(0.897),
                "energy_pointing_game": figure(0.631),
            },
            "int8": {"agreement": figure(0.928), "accuracy": figure(0.903)},
        },
        "compared_models": {
            "plain KD": ModelRecord(None, "ResNetForImageClassification", runtime="torch", precision="float32"),
            "int8": ModelRecord(None, "FunctionModel", runtime="ONNX Runtime 1.23", precision="int8"),
        },
        "held_out": [
            HeldOutRecord(
                {"name": "integrated_gradients", "options": {"n_steps": 16}},
                {"explanation_similarity": figure(0.412), "deletion": figure(0.226), "insertion": figure(0.533)},
                {"plain KD": {"explanation_similarity": figure(0.385)}},
                {"shuffled": figure(0.087), "untrained": figure(0.021)},
            ),
            HeldOutRecord(
                {"name": "occlusion", "options": {"patch": 0.125}},
                {"explanation_similarity": figure(0.537), "teacher_deletion": figure(0.231)},
                {"int8": {"explanation_similarity": figure(0.529)}},
                {"shuffled": figure(0.329), "untrained": figure(0.033)},
                GroupsRecord(["place"], {"indoors": {"explanation_similarity": figure(0.561, samples=690)}}),
            ),
        ],
        "faithfulness": FaithfulnessRecord(
            {"steps": 16, "filling": 0.0}, {"deletion": figure(0.418), "insertion": figure(0.497)}
        ),
        "chance": {"shuffled": figure(0.478, samples=998), "untrained": figure(0.331, samples=998)},
        "control": ControlRecord(
            {"kind": "noise", "sigma": 4},
            {"agreement": figure(0.984, 0.008), "kl": figure(0.004), "explanation_similarity": figure(0.971)},
        ),
        "groups": GroupsRecord(
            ["place"],
            {
                "indoors": {"accuracy": figure(0.925, samples=690), "negative_flips": figure(0.035, samples=690)},
                "outdoors": {"accuracy": figure(0.861, 0.04, 310), "negative_flips": figure(0.055, samples=310)},
            },
        ),
        "training": TrainingRecord(
            base_model="microsoft/resnet-18",
            base_license="apache-2.0",
            data=DataRecord(pets, pets, "train", revision="d" * 40, rows=3680, license="cc-by-sa-4.0"),
            references={"teacher": taught(explanation_weight=5.0)},
            arguments={
                "task_weight": 0.0,
                "logits_weight": 1.0,
                "explanation_weight": 5.0,
                "temperature": 2.0,
                "explanation_target": "teacher_top",
                "learning_rate": 0.0005,
                "per_device_train_batch_size": 64,
                "lr_scheduler_type": "cosine",
                "bf16": True,
                "seed": 42,
            },
            augmentation="RandomResizedCrop(224), RandomHorizontalFlip",
            hardware="1 × NVIDIA H100",
            seconds=2640.0,
            steps=1725,
            epochs=30.0,
            co2_kg=0.21,
        ),
        "environment": {"hf_e2kd": "0.1.0", "torch": "2.15.0", "transformers": "5.23.0"},
        "seed": 42,
        "created": "2026-01-31",
    }
    return FidelityRecord(**{**settings, **changes})


def text_record(**changes):
    """Texts, between models of different tokenizers, the teacher a local one."""
    settings = {
        "modality": "text",
        "problem": "single_label_classification",
        "student": ModelRecord(
            None,
            "BertForSequenceClassification",
            cost=Cost(17_390_000, 69_570_000, 1_370_000_000, 0.0042, 0.0038, 0.0083, "CPU", "64 tokens"),
        ),
        "teacher": ModelRecord(
            None,
            "BertForSequenceClassification",
            path="../teacher",
            cost=Cost(22_710_000, 90_860_000, 2_730_000_000, 0.0081, 0.0079, 0.0086, "CPU", "64 tokens"),
        ),
        "data": DataRecord(None, "Stanford Sentiment Treebank", "test", rows=1821, samples=list(range(1821))),
        "explainer": {"name": "integrated_gradients", "options": {"n_steps": 16, "baselines": "zero"}},
        "figures": {
            "accuracy": figure(0.577, samples=1821),
            "teacher_accuracy": figure(0.623, samples=1821),
            "agreement": figure(0.712, samples=1821),
            "explanation_similarity": figure(0.79, samples=1821),
            "comprehensiveness": figure(0.214, samples=1821),
            "teacher_comprehensiveness": figure(0.239, samples=1821),
            "sufficiency": figure(0.083, samples=1821),
            "teacher_sufficiency": figure(0.071, samples=1821),
            "word_accuracy": figure(0.71, samples=1050),
            "teacher_word_accuracy": figure(0.722, samples=1134),
            "word_auroc": MetricValue(0.74, samples=1050),
            "teacher_word_auroc": MetricValue(0.75, samples=1134),
        },
        "chance": {"shuffled": figure(0.13, samples=1821), "untrained": figure(0.09, samples=1821)},
        "faithfulness": FaithfulnessRecord(
            {"fractions": [0.01, 0.05, 0.1, 0.2, 0.5]},
            {"comprehensiveness": figure(0.061, samples=1821), "sufficiency": figure(0.177, samples=1821)},
        ),
        "training": TrainingRecord(
            base_model="nreimers/MiniLM-L6-H384-uncased",
            base_license="mit",
            data=DataRecord(None, "Stanford Sentiment Treebank", "train", rows=8544),
            references={"teacher": taught("integrated_gradients", logits_weight=0.5)},
            arguments={
                "task_weight": 0.5,
                "logits_weight": 0.5,
                "explanation_weight": 1.0,
                "temperature": 4.0,
                "explanation_fraction": 0.4,
            },
            hardware="CPU",
            seconds=9120.0,
            steps=5340,
            epochs=20.0,
        ),
        "environment": {"hf_e2kd": "0.1.0"},
        "created": "2026-01-31",
    }
    return FidelityRecord(**{**settings, **changes})


def guided_record(**changes):
    """A student of several labels that boxes guided, without a teacher, after a random start."""
    settings = {
        "modality": "image",
        "problem": "multi_label_classification",
        "student": ModelRecord(None, "BcosResNetForImageClassification"),
        "data": DataRecord("digits_on_textures", "digits_on_textures", "test", arguments={"seed": 0}, rows=200),
        "explainer": {"name": "bcos", "options": {}},
        "target": "label",
        "figures": {
            "f1": figure(0.725, samples=200),
            "map": figure(0.802, samples=200),
            "energy_pointing_game": figure(0.757, samples=200),
        },
        "training": TrainingRecord(
            references={"boxes": BOXES},
            arguments={"task_weight": 1.0, "logits_weight": 0.0, "explanation_weight": 0.064},
        ),
    }
    return FidelityRecord(**{**settings, **changes})


def bare_record(**changes):
    """Nothing but the student, as a push before any evaluation has it."""
    settings = {
        "modality": "image",
        "problem": "single_label_classification",
        "student": ModelRecord(None, "ViTForImageClassification"),
        "data": DataRecord(None, "unnamed data"),
        "explainer": {"name": "gradcam", "options": {}},
        "figures": {},
    }
    return FidelityRecord(**{**settings, **changes})


def checkpoint_record(**changes):
    """From the middle of a training, with its last evaluation's figures."""
    training = text_record().training
    figures = {
        "agreement": MetricValue(0.81),
        "explanation_similarity": MetricValue(0.55),
        "loss_explanation": MetricValue(0.45),
    }
    return bare_record(**{"figures": figures, "step": 500, "training": replace(training, seconds=None), **changes})
